//! The end of a layer: hives, what was queued, commit.

use layer_model::{Error, ErrorKind, Result};

use super::{Link, Parents, Planned, Planner, Queued, Role, What, std_files};
use crate::{
    Attributes, CimOp, CimPath, CimProfile, CimSink, FileMeta,
    hive::{HIVES, Hive, HivePolicy},
};

/// What the file `layout` of a base layer says.
const LAYOUT: &[u8] = b"vhd-with-hives\n";

impl<K: CimSink> Planner<'_, K> {
    /// Completes the image: everything that was queued, [`CimOp::Commit`], [`CimOp::Close`]. Gives the sink back, which
    /// may have to seal the container.
    ///
    /// # Errors
    /// Links that lead nowhere, hives that are missing, and errors of the sink. The image was discarded then.
    pub fn finish(mut self) -> Result<(K, Planned)> {
        match self.guard(Self::try_finish) {
            Ok(()) => Ok((self.sink, self.planned)),
            Err(error) => {
                // The error that counts is the first one.
                let _ = self.sink.op(&CimOp::Discard);
                Err(error)
            }
        }
    }

    fn try_finish(&mut self) -> Result<()> {
        self.nothing_open()?;
        match self.role {
            Role::Base => self.finish_base()?,
            Role::Child(_) => self.finish_child()?,
        }
        let order = self.ordered_queue()?;
        let mut queue: Vec<_> = std::mem::take(&mut self.queue).into_iter().map(Some).collect();
        for at in order {
            if self.monitor.should_stop() {
                return Err(Error::cancelled());
            }
            if let Some(queued) = queue[at].take() {
                self.run(&queued).map_err(|error| error.entry(queued.path().as_bytes()))?;
            }
        }
        self.sink.op(&CimOp::Commit)?;
        self.sink.op(&CimOp::Close)
    }

    fn run(&mut self, queued: &Queued) -> Result<()> {
        match queued {
            Queued::Spooled { path, host, meta } => self.add_from_host(path, host, meta),
            Queued::Link(link) => self.make_link(link),
            Queued::Dir { path, meta } => self.create_dir(path, meta),
            Queued::MergedHive { path, meta } => self.sink.op(&CimOp::AddMergedHive { path, meta }),
        }
    }

    /// Adds the file `host` of the layer directory as `path`.
    fn add_from_host(&mut self, path: &CimPath, host: &CimPath, meta: &FileMeta) -> Result<()> {
        let size = self.dir.len(host)?;
        self.sink.op(&CimOp::CreateFile { path, meta, size })?;
        let (sink, mut left) = (&mut self.sink, size);
        self.dir.read(host, &mut |bytes| {
            let mismatch = || Error::new(ErrorKind::FileChanged, "the file of the layer directory grew");
            left = left.checked_sub(bytes.len() as u64).ok_or_else(mismatch)?;
            sink.write(bytes)
        })?;
        if left > 0 {
            return Err(Error::new(ErrorKind::FileChanged, "the file of the layer directory shrank"));
        }
        self.sink.op(&CimOp::EndStream)?;
        self.saw(path, path.key(), What::File);
        Ok(())
    }

    /// A base layer: its hives get their second names, in the layer directory and in the image, and a file says how
    /// the layer is laid out.
    fn finish_base(&mut self) -> Result<()> {
        self.dir.create_dir(&std_files::hives_dir())?;
        self.queue
            .push(Queued::Dir { path: std_files::hives_dir(), meta: FileMeta::new(Attributes::DIRECTORY) });
        for hive in HIVES {
            let (config, base) = (std_files::config(hive.name), std_files::hive(hive.base));
            if !self.has_spooled(&config) {
                let what = "a base layer has to have this hive";
                return Err(Error::new(ErrorKind::NotFound, what).entry(config.as_bytes()));
            }
            self.dir.link(&base, &config)?;
            let target = self.spelled(&config);
            self.saw(&base, base.key(), What::Link(self.queue.len()));
            self.queue.push(Queued::Link(Link { path: base, target }));
        }
        let layout = std_files::known("layout");
        let mut file = self.dir.create(&layout)?;
        file.write(LAYOUT)?;
        file.finish()?;
        let meta = FileMeta::new(Attributes::NORMAL);
        self.queue.push(Queued::Spooled { path: layout.clone(), host: layout, meta });
        Ok(())
    }

    /// A layer above others: what it changes in hives is merged with the nearest whole ones.
    fn finish_child(&mut self) -> Result<()> {
        for hive in HIVES {
            let delta = std_files::hive(hive.delta);
            if self.has_spooled(&delta) {
                let queued = self.merge_hive(&hive, &delta).map_err(|e| e.entry(delta.as_bytes()))?;
                self.queue.push(queued);
            }
        }
        Ok(())
    }

    fn merge_hive(&mut self, hive: &Hive, delta: &CimPath) -> Result<Queued> {
        let Role::Child(Parents { hives, .. }) = &self.role else {
            return Err(Error::new(ErrorKind::InvalidArchive, "a base layer has no deltas"));
        };
        let searched = match self.options.profile {
            CimProfile::Spec => &hives[..],
            // hcsshim looks into the nearest parent only, and layers without deltas have no hives.
            CimProfile::Hcsshim => &hives[..hives.len().min(1)],
        };
        let Some(source) = searched.iter().find(|source| source.has(hive)) else {
            return Err(Error::new(ErrorKind::NotFound, format!("no parent has the hive {}", hive.base)));
        };
        let (base, out) = (source.file(hive), std_files::hive(hive.base));
        let meta = FileMeta::new(Attributes::NORMAL);
        let named = format!("{}\\{}", source.dir.display(), std_files::hive(hive.base));
        self.sink.op(&CimOp::MergeHive { base: &named, delta, out: &out })?;
        match self.options.hives {
            HivePolicy::Record => {
                self.planned.recorded_hives.push(hive.base);
                Ok(Queued::MergedHive { path: out, meta })
            }
            HivePolicy::Merge(_) if !base.is_file() => {
                let what = format!("the hive {named} has only been recorded, and has to be merged first");
                Err(Error::new(ErrorKind::FailedPrecondition, what))
            }
            HivePolicy::Merge(merger) => {
                let to = self.dir.host_path(&out)?;
                if to.exists() {
                    let what = "the layer directory has the merged hive from before";
                    return Err(Error::new(ErrorKind::AlreadyExists, what));
                }
                merger.merge(&base, &self.dir.host_path(delta)?, &to)?;
                Ok(Queued::Spooled { path: out.clone(), host: out, meta })
            }
        }
    }

    /// Whether the layer brought the file `path`, which is kept in the layer directory.
    fn has_spooled(&self, path: &CimPath) -> bool {
        matches!(self.seen.get(&path.key()), Some(seen) if matches!(seen.what, What::StdFile(_)))
    }

    /// The file `path` of the table as the layer spells it.
    fn spelled(&self, path: &CimPath) -> CimPath {
        match self.seen.get(&path.key()).map(|seen| seen.what) {
            Some(What::StdFile(at)) => self.queue[at].path().clone(),
            _ => path.clone(),
        }
    }
}
