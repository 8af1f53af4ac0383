//! The sink that writes a standard CIM.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use layer_model::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::{
    super::{
        Image,
        raw::{RegionOffset, RegionSet, file_flags},
    },
    Major, WriteOptions, layout,
    layout::Metadata,
    stage::{OpenStream, Stage},
    tree::{NodeId, Tree},
};
use crate::{CimKind, CimName, CimOp, CimPath, CimSink, Guid, StreamName, op::CreateFlags};

/// Writes a standard CIM, as an experiment.
///
/// What is written follows what is known of the format, and is read back by [`Image`] and by the reader that hcsshim
/// once had. Whether the driver of Windows mounts it has not been tried: object id files are left out (the digests in
/// them are not public), and so are fields of versions 2 and 3 that nobody has described.
///
/// A fork lists the regions of its parent before its own, so that data stays where it is and only metadata is written
/// anew. Data that occurs twice in the operations is stored once. Until [`CimOp::Commit`] everything is in a directory
/// `.stdcim-staging` beside the images; one image at a time can be made in a directory.
///
/// Attributes that the format has no bits for are dropped, as Windows does.
///
/// # Memory
/// The tree with its metadata, and 40 bytes for each different content.
pub struct StdCimSink {
    major: Major,
    options: WriteOptions,
    state: State,
}

enum State {
    /// Nothing yet.
    New,
    /// Between [`CimOp::CreateImage`] and [`CimOp::Commit`].
    Open(Box<Work>),
    /// The image is there, or nothing is.
    Done,
}

struct Work {
    stage: Stage,
    tree: Tree,
    stream: Option<(OpenStream, Owner)>,
    name: CimName,
    parents: Vec<RegionSet>,
    /// The index of the first own region.
    first: u16,
    /// The table that a fork shares with its parent.
    upcase: Option<RegionOffset>,
}

/// Whose stream is written.
enum Owner {
    Main(NodeId),
    /// A directory has none: no bytes, and nothing to keep.
    Directory,
    Alternate(NodeId, StreamName),
}

/// The namespace of GUIDs that are derived from what is in an image.
const NAMESPACE: Guid = Guid::from_rfc([
    0x8a, 0x3d, 0x1e, 0x52, 0x6c, 0x0b, 0x4f, 0x97, 0xb5, 0x2e, 0x71, 0xd4, 0x90, 0x36, 0xc8, 0xef,
]);

/// Metadata, page-aligned data, data of small files.
const REGIONS: u16 = 3;

impl StdCimSink {
    /// A sink for one image, in this version of the format.
    pub fn new(major: Major, options: WriteOptions) -> Self {
        Self { major, options, state: State::New }
    }

    fn create(&self, container: &str, name: &CimName, parent: Option<&CimName>) -> Result<Work> {
        let dir = self.options.directory.clone().unwrap_or_else(|| PathBuf::from(container));
        if fs::symlink_metadata(dir.join(name.as_str())).is_ok() {
            let what =
                if parent == Some(name) { "an image is not extended in place" } else { "the image exists" };
            return Err(Error::new(ErrorKind::AlreadyExists, what).entry(name.as_str()));
        }
        let (mut parents, mut upcase) = (Vec::new(), None);
        let tree = match parent {
            Some(parent) => {
                let image = Image::open(&dir, parent).map_err(|error| error.context("the parent"))?;
                parents = [image.parent_sets(), &[image.own_set()]].concat();
                upcase = Some(image.upcase_at());
                Tree::inherit(&image).map_err(|error| error.context("the parent"))?
            }
            None => Tree::new(self.options.upcase.units())?,
        };
        let inherited: u32 = parents.iter().map(|set| u32::from(set.count.get())).sum();
        let first = u16::try_from(inherited).ok().filter(|first| first.checked_add(REGIONS - 1).is_some());
        let Some(first) = first else {
            let kind = ErrorKind::LimitExceeded { limit: "regions" };
            return Err(Error::new(kind, "the parents have all regions that an image can have"));
        };
        let stage = Stage::new(Path::new(&dir), self.major, first)?;
        Ok(Work { stage, tree, stream: None, name: name.clone(), parents, first, upcase })
    }

    fn work(&mut self) -> Result<&mut Work> {
        match &mut self.state {
            State::Open(work) => Ok(work),
            State::New => Err(Error::new(ErrorKind::FailedPrecondition, "no image has been created yet")),
            State::Done => Err(Error::new(ErrorKind::FailedPrecondition, "the image is closed already")),
        }
    }

    fn commit(&mut self) -> Result<()> {
        let (major, guid) = (self.major, self.options.guid);
        self.work()?.idle()?;
        match std::mem::replace(&mut self.state, State::Done) {
            State::Open(work) => work.commit(major, guid),
            State::New | State::Done => Ok(()), // refused just before
        }
    }
}

impl CimSink for StdCimSink {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        match *op {
            CimOp::CreateImage { kind, container, name, parent, flags } => {
                if !matches!(self.state, State::New) {
                    return Err(Error::new(ErrorKind::FailedPrecondition, "a sink takes one image"));
                }
                // Executables are never expanded, and everything is consistent.
                if kind != CimKind::Forked
                    || !(CreateFlags::DO_NOT_EXPAND_PE_IMAGES | CreateFlags::CONSISTENT).contains(flags)
                {
                    return Err(Error::new(ErrorKind::NotSupported, "only standard CIMs are written here"));
                }
                self.state = State::Open(Box::new(self.create(container, name, parent)?));
                Ok(())
            }
            CimOp::EndStream => self.work()?.end_stream(),
            CimOp::Commit => self.commit(),
            CimOp::Discard => {
                self.state = State::Done;
                Ok(())
            }
            CimOp::Close if matches!(self.state, State::Done) => Ok(()),
            CimOp::Close => {
                // Closing without a commit discards.
                self.state = State::Done;
                Ok(())
            }
            // What concerns the layer directory is not about the image.
            CimOp::Spool { .. } | CimOp::MergeHive { .. } => Ok(()),
            CimOp::CreateFile { path, meta, size } => {
                let work = self.work()?;
                work.idle()?;
                let node = work.tree.create(path, meta)?;
                // The API does not look at the size of directories.
                let (owner, size) =
                    if meta.is_dir() { (Owner::Directory, 0) } else { (Owner::Main(node), size) };
                work.begin(size, owner, path)
            }
            CimOp::CreateStream { of, name, size } => {
                let work = self.work()?;
                work.idle()?;
                let node = work.tree.stream_of(of)?;
                work.begin(size, Owner::Alternate(node, name.clone()), of)
            }
            CimOp::HardLink { path, target } => self.idle_work()?.tree.link(path, target),
            CimOp::Delete { path } => self.idle_work()?.tree.delete(path),
            CimOp::AddMergedHive { path, .. } => {
                let what = "a hive that nobody has merged";
                Err(Error::new(ErrorKind::NotSupported, what).entry(path.as_bytes()))
            }
            _ => Err(Error::new(ErrorKind::NotSupported, "a standard CIM has no such operation")),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let work = self.work()?;
        match &mut work.stream {
            Some((stream, _)) => work.stage.write(stream, bytes),
            None => Err(Error::new(ErrorKind::FailedPrecondition, "no stream is open")),
        }
    }
}

impl StdCimSink {
    fn idle_work(&mut self) -> Result<&mut Work> {
        let work = self.work()?;
        work.idle()?;
        Ok(work)
    }
}

impl Work {
    /// Checks that no stream is open.
    fn idle(&self) -> Result<()> {
        match self.stream {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Busy, "a stream is still open")),
        }
    }

    fn begin(&mut self, size: u64, owner: Owner, path: &CimPath) -> Result<()> {
        let stream = self.stage.begin(size).map_err(|error| error.entry(path.as_bytes()))?;
        self.stream = Some((stream, owner));
        Ok(())
    }

    fn end_stream(&mut self) -> Result<()> {
        let Some((stream, owner)) = self.stream.take() else {
            return Err(Error::new(ErrorKind::FailedPrecondition, "no stream is open"));
        };
        match owner {
            Owner::Main(node) => {
                let sparse = self.tree.nodes[node].record.flags.get() & file_flags::SPARSE != 0;
                self.tree.nodes[node].record.stream = self.stage.end(stream, sparse)?;
            }
            Owner::Directory => drop(self.stage.end(stream, false)?),
            Owner::Alternate(node, name) => {
                let record = self.stage.end(stream, false)?;
                self.tree.put_stream(node, &name, record);
            }
        }
        Ok(())
    }

    fn commit(self, major: Major, guid: Option<Guid>) -> Result<()> {
        let metadata = Metadata::new(&self.tree, major, self.first, self.upcase)?;
        let derived = || {
            // The name is in it: two images of one directory must not share files.
            let name = self.name.as_str().as_bytes();
            let digest = Sha256::new()
                .chain_update((name.len() as u64).to_le_bytes())
                .chain_update(name)
                .chain_update(self.parents.as_bytes())
                .chain_update(&metadata.bytes)
                .chain_update(self.stage.content())
                .finalize();
            Guid::v5(NAMESPACE, &digest)
        };
        let own = RegionSet::new(guid.unwrap_or_else(derived), REGIONS);
        let image = layout::image_file(major, &self.parents, own, metadata.file_system)?;
        self.stage.publish(self.name.as_str(), own, &metadata.bytes, &image, guid.is_none())
    }
}

impl fmt::Debug for StdCimSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdCimSink").field("major", &self.major).finish_non_exhaustive()
    }
}
