//! Layer directories made of events.

use std::{
    collections::HashMap,
    fs::{self, File, FileTimes, OpenOptions},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use layer_model::{Content, Error, ErrorKind, IoContext, Result};

use super::{Places, SIDE_SUFFIX, TOMBSTONES, time_for_host, tombstones};
use crate::{CimPath, FileMeta, FileTime, LayerEvent, StreamName, backup::Writer, path::PathKey};

/// How many links a link may lead through, as for symbolic links of Linux.
const LINKS_MAX: usize = 40;

/// Writes a layer directory.
///
/// It is complete when it has its `tombstones.txt`, which [`LegacyWriter::finish`] writes last; a writer that is dropped
/// before takes away what it made.
#[derive(Debug)]
pub struct LegacyWriter {
    dir: PathBuf,
    places: Places,
    /// What was made, and where on the host it is.
    made: HashMap<PathKey, Made>,
    removed: Vec<CimPath>,
    /// Links whose target has not come yet.
    waiting: Vec<(CimPath, CimPath)>,
    current: Option<Current>,
    is_finished: bool,
}

#[derive(Debug)]
struct Made {
    host: PathBuf,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Dir,
    /// A directory that is a link: nothing goes in there.
    LinkDir,
    /// A file that begins with its attributes.
    Framed,
    /// A file of nothing but content.
    Plain,
}

/// The file that alternate streams may follow.
#[derive(Debug)]
struct Current {
    key: PathKey,
    write_time: FileTime,
    access_time: FileTime,
    /// [`None`] for a file of nothing but content.
    backup: Option<Writer<BufWriter<File>>>,
}

impl LegacyWriter {
    /// Makes the directory `dir`, which must not be there yet.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when it is there, and errors of the host.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir(dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::AlreadyExists, "the layer directory is there already").cause(error)
            }
            _ => Error::io("create the layer directory", error),
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            places: Places::new()?,
            made: HashMap::new(),
            removed: Vec::new(),
            waiting: Vec::new(),
            current: None,
            is_finished: false,
        })
    }

    /// Takes the next event of the layer.
    ///
    /// # Errors
    /// [`ErrorKind::MissingParentEntry`] for what is in no directory of the layer, [`ErrorKind::ConflictingEntries`] for
    /// a path that comes twice, [`ErrorKind::InvalidArchive`] for links and removals outside of `Files` and
    /// `UtilityVM\Files` and for alternate streams of hives, [`ErrorKind::UnsupportedMarker`] for opaque directories,
    /// [`ErrorKind::Unrepresentable`] for names that the form reserves or the host cannot have, and for removals from
    /// the utility VM, which need the parent's files; errors of the content and of the host. Each names the entry.
    pub fn event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        let path = event.path().clone();
        self.try_event(event).map_err(|error| error.entry(path.as_bytes()))
    }

    fn try_event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        match event {
            LayerEvent::Add { path, meta, content } => {
                self.close_current()?;
                self.add(&path, &meta, content)
            }
            LayerEvent::Stream { of, name, content } => self.stream(&of, &name, content),
            LayerEvent::Link { path, target } => {
                self.close_current()?;
                self.check_place(&path, "a link")?;
                self.check_place(&target, "the target of a link")?;
                match self.made.get(&target.key()).map(|made| made.what) {
                    Some(_) => self.link(&path, &target.key()),
                    None => {
                        self.waiting.push((path, target));
                        Ok(())
                    }
                }
            }
            LayerEvent::Remove { path } => {
                self.check_place(&path, "a removal")?;
                if Places::is_below(&path.key(), &self.places.vm_files) {
                    let what =
                        "only with the files of its parent can a layer directory lose some of the utility VM";
                    return Err(Error::new(ErrorKind::Unrepresentable, what));
                }
                self.removed.push(path);
                Ok(())
            }
            LayerEvent::Opaque { .. } => {
                let kind = ErrorKind::UnsupportedMarker { marker: "opaque" };
                Err(Error::new(kind, "layer directories have no opaque directories"))
            }
        }
    }

    fn check_place(&self, path: &CimPath, what: &str) -> Result<()> {
        let key = path.key();
        if Places::is_below(&key, &self.places.files) || Places::is_below(&key, &self.places.vm_files) {
            return Ok(());
        }
        let what = format!("{what} outside of Files and UtilityVM\\Files");
        Err(Error::new(ErrorKind::InvalidArchive, what).entry(path.as_bytes()))
    }

    fn add(&mut self, path: &CimPath, meta: &FileMeta, content: Content<'_>) -> Result<()> {
        let key = path.key();
        let host = self.new_host_path(path, &key)?;
        let is_plain =
            !meta.is_dir() && (Places::is_below(&key, &self.places.hives) || path.components().count() == 1);
        let what = match (meta.is_dir(), is_plain) {
            (true, _) if meta.reparse.is_empty() => What::Dir,
            (true, _) => What::LinkDir,
            (false, true) => What::Plain,
            (false, false) => What::Framed,
        };
        let backup = if is_plain {
            if !meta.reparse.is_empty() {
                return Err(Error::new(ErrorKind::InvalidArchive, "a hive that is a link"));
            }
            let mut file = BufWriter::new(create(&host)?);
            content.write_to(&mut file)?;
            let file = file
                .into_inner()
                .map_err(|error| Error::io("write a file of the layer", error.into_error()))?;
            set_times(&file, meta.write, meta.access)?;
            None
        } else {
            let mut framed = host.clone();
            if meta.is_dir() {
                fs::create_dir(&host).during("create a directory of the layer")?;
                framed.as_mut_os_string().push(SIDE_SUFFIX);
            }
            let mut file = BufWriter::new(create(&framed)?);
            let attributes = meta.attributes.bits().to_le_bytes();
            file.write_all(&attributes).during("write a file of the layer")?;
            let mut backup = Writer::new(file);
            backup.file(meta, content)?;
            Some(backup)
        };
        self.made.insert(key.clone(), Made { host, what });
        self.current = Some(Current { key, write_time: meta.write, access_time: meta.access, backup });
        Ok(())
    }

    fn stream(&mut self, of: &CimPath, name: &StreamName, content: Content<'_>) -> Result<()> {
        let Some(current) = self.current.as_mut().filter(|current| current.key == of.key()) else {
            let what = "an alternate stream that is not behind its file";
            return Err(Error::new(ErrorKind::InvalidArchive, what));
        };
        match &mut current.backup {
            Some(backup) => backup.stream(name, content),
            None => Err(Error::new(ErrorKind::InvalidArchive, "an alternate stream of a hive")),
        }
    }

    /// Where on the host something new goes.
    fn new_host_path(&self, path: &CimPath, key: &PathKey) -> Result<PathBuf> {
        let refuse = |kind, what: &str| Err(Error::new(kind, what));
        let Some((parent, name)) = path.split_last() else {
            return refuse(ErrorKind::InvalidArgument, "the root of a layer is there already");
        };
        if name.ends_with(SIDE_SUFFIX.as_bytes())
            || parent.is_root() && name.eq_ignore_ascii_case(TOMBSTONES.as_bytes())
        {
            return refuse(
                ErrorKind::Unrepresentable,
                "layer directories have names like that for themselves",
            );
        }
        if self.made.contains_key(key) {
            return refuse(ErrorKind::ConflictingEntries, "the layer has the path twice");
        }
        let dir = match self.made.get(&parent.key()) {
            _ if parent.is_root() => &self.dir,
            Some(Made { what: What::Dir, host }) => host,
            Some(_) => return refuse(ErrorKind::NotDirectory, "it is below a file or a link"),
            None => {
                return refuse(
                    ErrorKind::MissingParentEntry,
                    "the directory does not come before what is in it",
                );
            }
        };
        match str::from_utf8(name) {
            Ok(name) => Ok(dir.join(name)),
            Err(_) => refuse(ErrorKind::Unrepresentable, "the name is no Unicode text"),
        }
    }

    /// Gives a file another name.
    fn link(&mut self, path: &CimPath, target: &PathKey) -> Result<()> {
        let key = path.key();
        let host = self.new_host_path(path, &key)?;
        match self.made.get(target) {
            Some(Made { host: existing, what: What::Framed }) => {
                fs::hard_link(existing, &host).during("link a file of the layer")?;
            }
            Some(Made { what: What::Dir | What::LinkDir, .. }) => {
                return Err(Error::new(ErrorKind::IsDirectory, "a link to a directory"));
            }
            Some(Made { what: What::Plain, .. }) | None => {
                let what = "the target of the link is not in this layer; its directory cannot say more";
                return Err(Error::new(ErrorKind::Unrepresentable, what));
            }
        }
        self.made.insert(key, Made { host, what: What::Framed });
        Ok(())
    }

    fn close_current(&mut self) -> Result<()> {
        let Some(Current { backup: Some(backup), write_time, access_time, .. }) = self.current.take() else {
            return Ok(());
        };
        let file = backup.into_inner().into_inner();
        let file = file.map_err(|error| Error::io("write a file of the layer", error.into_error()))?;
        set_times(&file, write_time, access_time)
    }

    /// Makes the links that waited, and the list of what is removed.
    ///
    /// # Errors
    /// [`ErrorKind::Unrepresentable`] for a link whose target is not in the layer, [`ErrorKind::TooManyLinks`] for one
    /// that leads through many others or to itself; errors of the host.
    pub fn finish(mut self) -> Result<()> {
        self.close_current()?;
        let waiting = std::mem::take(&mut self.waiting);
        let targets: HashMap<PathKey, PathKey> =
            waiting.iter().map(|(path, target)| (path.key(), target.key())).collect();
        for (path, target) in &waiting {
            let mut end = target.key();
            let mut steps = 0;
            while let Some(next) = targets.get(&end).filter(|_| !self.made.contains_key(&end)) {
                end = next.clone();
                steps += 1;
                if steps > LINKS_MAX {
                    let what = "a link leads through too many others, or to itself";
                    return Err(Error::new(ErrorKind::TooManyLinks, what).entry(path.as_bytes()));
                }
            }
            self.link(path, &end).map_err(|error| error.entry(path.as_bytes()))?;
        }
        let mut list = create(&self.dir.join(TOMBSTONES))?;
        list.write_all(&tombstones::to_bytes(&self.removed)?).during("write tombstones.txt")?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for LegacyWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            self.current = None;
            // Nobody is left to tell.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Makes a file that is not there.
fn create(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path).during("create a file of the layer")
}

fn set_times(file: &File, write: FileTime, access: FileTime) -> Result<()> {
    let mut times = FileTimes::new();
    if let Some(time) = time_for_host(write) {
        times = times.set_modified(time);
    }
    if let Some(time) = time_for_host(access) {
        times = times.set_accessed(time);
    }
    file.set_times(times).during("set the times of a file of the layer")
}
