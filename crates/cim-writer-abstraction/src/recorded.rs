//! Layers that are recorded: a directory with all that an import did, on any platform.
//!
//! | in the directory | is |
//! |---|---|
//! | `layerkit-cim.json` | what the layer is ([`Descriptor`]) |
//! | `journal.jsonl` | what was done to its image ([`journal`]) |
//! | `content/` | the bytes of its streams ([`content`](crate::content)) |
//! | `files/` | what is kept outside of the image: hives, a layout |
//!
//! A recorded layer is a parent for others, can be looked into, and becomes a real image where its journal is replayed
//! on Windows. [`RecordStage`] makes one, whole or not at all; [`RecordedLayer`] opens one; [`AnyStack`] is where a list of
//! directories becomes typed parents.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use layer_model::{Digest, Error, ErrorKind, IoContext, Result, Stack};

use crate::{
    CimKind, CimName, CimPath, CimSink, Recorder,
    content::{Blob, ContentPack, PackWriter},
    descriptor::{DescribedKind, Descriptor},
    hive::HiveMerger,
    journal::{self, MergedHives},
    model::{ImageTree, Rules},
    plan::LayerDir,
    record::Recorded,
    typed::{
        BlockCim, Container, ForkedCim, ImageDir, Integrity, RootDigest, SingleFile, Unverified, Verified,
    },
};

const JOURNAL: &str = "journal.jsonl";
const CONTENT: &str = "content";
const FILES: &str = "files";

/// What takes the operations of a layer that is recorded.
pub type RecordSink = Recorder<File, PackWriter>;

/// A recorded layer while it is made: in a directory beside its place.
#[derive(Debug)]
pub struct RecordStage {
    dir: PathBuf,
    dest: PathBuf,
    /// Whether it is in its place.
    published: bool,
}

impl RecordStage {
    /// Begins a layer that is to be at `dest`, where nothing is yet but an empty directory at most.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when something is there, and those of the file system.
    pub fn begin(dest: &Path) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let at = |error: Error| error.entry(dest.as_os_str().as_encoded_bytes());
        match fs::read_dir(dest) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(at(Error::new(ErrorKind::AlreadyExists, "the directory is not empty")));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(Error::io("look at the place of the layer", error))),
        }
        let Some(name) = dest.file_name() else {
            return Err(at(Error::new(ErrorKind::InvalidArgument, "the place of the layer has no name")));
        };
        let mut staged = OsString::from(".");
        staged.push(name);
        staged.push(format!(".{}-{}.new", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        let dir = dest.with_file_name(staged);
        fs::create_dir(&dir).during("make a directory beside the place of the layer").map_err(at)?;
        let stage = Self { dir, dest: dest.to_owned(), published: false };
        fs::create_dir(stage.dir.join(FILES)).during("make the layer directory")?;
        Ok(stage)
    }

    /// What takes the operations, of an image that begins as `tree`: an empty one, or the fork of another.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sink(&self, tree: ImageTree) -> Result<RecordSink> {
        let journal = File::create_new(self.dir.join(JOURNAL)).during("create the journal")?;
        Ok(Recorder::on(tree, journal, PackWriter::create(self.dir.join(CONTENT))?))
    }

    /// The directory for what is kept outside of the image.
    pub fn files(&self) -> LayerDir {
        LayerDir::new(self.dir.join(FILES))
    }

    /// Completes the layer, and puts it into its place. Gives the tree of its image, which knows where its bytes are.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(
        mut self,
        sink: RecordSink,
        descriptor: &Descriptor,
    ) -> Result<(RecordedLayer, ImageTree)> {
        // As with directories and images, syncing is left to whoever needs it.
        let Recorded { blobs, mut tree, .. } = sink.finish()?;
        let content = blobs.finish(false)?;
        descriptor.save(&self.dir)?;
        // An empty directory in its place is replaced where the system can do that.
        let renamed = fs::rename(&self.dir, &self.dest).or_else(|_| {
            let _ = fs::remove_dir(&self.dest);
            fs::rename(&self.dir, &self.dest)
        });
        renamed.during("put the layer into its place")?;
        self.published = true;
        tree.set_contents(Arc::new(content));
        let layer = RecordedLayer { dir: self.dest.clone(), descriptor: descriptor.clone() };
        Ok((layer, tree))
    }
}

impl Drop for RecordStage {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is left to tell; the name says that it is not complete.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A recorded layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedLayer {
    dir: PathBuf,
    descriptor: Descriptor,
}

impl RecordedLayer {
    /// Opens the layer in the directory `path`, or that of the journal `path`.
    ///
    /// # Errors
    /// As [`Descriptor::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let dir = match path.file_name() {
            Some(name) if name == JOURNAL && path.is_file() => path.parent().unwrap_or(Path::new("")),
            _ => path,
        };
        // "" is the directory that one is in, but not to everybody
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Ok(Self { dir: dir.to_owned(), descriptor: Descriptor::open(dir)? })
    }

    /// What the layer is.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was done to its image.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn journal(&self) -> Result<BufReader<File>> {
        let journal =
            File::open(self.dir.join(JOURNAL)).during("open the journal").map_err(|e| self.named(e))?;
        Ok(BufReader::with_capacity(1 << 20, journal))
    }

    /// The bytes of its streams.
    ///
    /// # Errors
    /// As [`ContentPack::open`].
    pub fn content(&self) -> Result<ContentPack> {
        ContentPack::open(self.dir.join(CONTENT))
    }

    /// What is kept outside of its image.
    pub fn files(&self) -> LayerDir {
        LayerDir::new(self.dir.join(FILES))
    }

    /// What is in its image, from the journal. `parent` is the image that it is forked from.
    ///
    /// # Errors
    /// As [`journal::read_tree`], and those of opening the content.
    pub fn tree(&self, parent: Option<&ImageTree>) -> Result<ImageTree> {
        let mut tree = journal::read_tree(self.journal()?, parent, Rules::default())
            .map_err(|error| self.named(error))?;
        tree.set_contents(Arc::new(self.content()?));
        Ok(tree)
    }

    /// Does to `sink` what was done when the layer was imported. Hives that were only recorded are merged by `merger`, and
    /// put where they belong among the files of the layer.
    ///
    /// # Errors
    /// As [`journal::Replay::run`], and those of merging.
    pub fn replay(&self, sink: &mut dyn CimSink, merger: Option<&dyn HiveMerger>) -> Result<()> {
        let content = self.content()?;
        let mut hives = Hives { files: self.files(), merger };
        let replay = journal::Replay::new(&content).hives(&mut hives).beside(true);
        replay.run(self.journal()?, sink).map_err(|error| self.named(error))?;
        Ok(())
    }

    fn named(&self, error: Error) -> Error {
        error.context(self.dir.join(JOURNAL).display())
    }

    fn diff_id(&self) -> Result<Option<Digest>> {
        self.descriptor.diff_id.as_deref().map(str::parse).transpose()
    }

    fn name(&self) -> Result<CimName> {
        CimName::new(self.descriptor.name.as_str())
    }
}

/// The hives of a layer that is replayed.
struct Hives<'m> {
    files: LayerDir,
    merger: Option<&'m dyn HiveMerger>,
}

impl MergedHives for Hives<'_> {
    fn merged_hive(&mut self, base: &str, delta: &CimPath, out: &CimPath) -> Result<Option<Blob>> {
        let Some(merger) = self.merger else { return Ok(None) };
        let made = self.files.host_path(out)?;
        if !made.exists() {
            // The directory is the host's, with its separators; what is in it is named as in an image.
            let Some((dir, name)) = base.rsplit_once(r"\Hives\") else {
                return Err(Error::new(ErrorKind::CorruptImage, format!("{base} is no hive of a layer")));
            };
            merger.merge(&Path::new(dir).join("Hives").join(name), &self.files.host_path(delta)?, &made)?;
        }
        let file = File::open(&made).during("open a merged hive")?;
        let size = file.metadata().during("look at a merged hive")?.len();
        Ok(Some(Blob::new(Arc::new(file), 0, size)))
    }
}

/// Layers of a kind that is known only at run time, nearest first, as typed stacks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyStack {
    /// In forked CIMs.
    Forked(Stack<ForkedCim>),
    /// In block CIMs.
    Block(Stack<BlockCim<SingleFile, Unverified>>),
    /// In verified block CIMs.
    Verified(Stack<BlockCim<SingleFile, Verified>>),
}

impl AnyStack {
    /// Opens the recorded layers at `paths`, nearest first; [`None`] when there are none. Each has to have been made on
    /// top of those that follow it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`] when they are not all of one kind, [`ErrorKind::InvalidArgument`] when they do not belong
    /// together, and those of reading them.
    pub fn open(paths: &[PathBuf]) -> Result<Option<Self>> {
        let layers: Vec<_> = paths.iter().map(|path| RecordedLayer::open(path)).collect::<Result<_>>()?;
        let Some(nearest) = layers.first() else { return Ok(None) };
        for layer in &layers {
            let Descriptor { kind, verified, .. } = layer.descriptor;
            nearest.descriptor.expect_same(kind, verified)?;
        }
        for (at, layer) in layers.iter().enumerate() {
            let below = layers[at + 1..].iter().map(RecordedLayer::descriptor);
            let named = |error: Error| error.context(layer.dir.display());
            layer.descriptor.check_parents(below).map_err(named)?;
        }
        Ok(match (nearest.descriptor.kind, nearest.descriptor.verified) {
            (DescribedKind::Forked, _) => Stack::from_bottom(forked(&layers)?).map(Self::Forked),
            (DescribedKind::Block, false) => Stack::from_nearest(block(&layers)?).map(Self::Block),
            (DescribedKind::Block, true) => Stack::from_nearest(block(&layers)?).map(Self::Verified),
            (DescribedKind::Merged, _) => nearest.descriptor.expect(DescribedKind::Block).map(|()| None)?,
        })
    }

    /// What their descriptions are of.
    pub fn kind(&self) -> CimKind {
        match self {
            Self::Forked(_) => CimKind::Forked,
            Self::Block(_) | Self::Verified(_) => CimKind::Block,
        }
    }
}

/// Handles of forked layers, bottom first: each image begins as the one below it.
fn forked(layers: &[RecordedLayer]) -> Result<Vec<ForkedCim>> {
    let mut handles: Vec<ForkedCim> = Vec::with_capacity(layers.len());
    let mut dir: Option<ImageDir> = None;
    for (depth, layer) in layers.iter().rev().enumerate() {
        let described = &layer.descriptor;
        let dir = match &dir {
            Some(dir) if dir.path() != described.container => {
                let what = format!(
                    "the image directory is {}, that of its parent {}",
                    described.container,
                    dir.path()
                );
                return Err(Error::new(ErrorKind::InvalidArgument, what).context(layer.dir.display()));
            }
            Some(dir) => dir,
            None => dir.insert(ImageDir::new(described.container.as_str())?),
        };
        let tree = layer.tree(handles.last().and_then(|below| below.tree().map(|tree| &**tree)))?;
        let handle = ForkedCim::new(dir.clone(), layer.name()?, layer.files(), depth as u32);
        let handle = handle.with_tree(Arc::new(tree)).with_recorded_hives(&described.recorded_hives);
        handles.push(handle.with_diff_id(layer.diff_id()?));
    }
    Ok(handles)
}

/// Handles of block layers, nearest first.
fn block<I: Integrity>(layers: &[RecordedLayer]) -> Result<Vec<BlockCim<SingleFile, I>>> {
    let handle = |layer: &RecordedLayer| {
        let described = &layer.descriptor;
        let digest = described.root_digest.as_deref().and_then(RootDigest::parse);
        let container = Container::new(described.container.as_str())?;
        let handle = BlockCim::new(container, layer.name()?, layer.files(), I::evidence(digest));
        let handle =
            handle.with_tree(Arc::new(layer.tree(None)?)).with_recorded_hives(&described.recorded_hives);
        Ok(handle.with_diff_id(layer.diff_id()?))
    };
    layers.iter().map(handle).collect()
}
