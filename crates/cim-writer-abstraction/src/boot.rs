//! The CIM that a utility VM boots from, made of the base layer of an image.
//!
//! A base layer has the files of the VM below `UtilityVM\Files`, many of them as links to what the container has below
//! `Files`. The boot CIM has those alone, and such links as copies: what they lead to is not in it. The copies are the
//! reason for reading the layer twice, as only links tell which files are wanted, and they come behind them.
//!
//! [`BootPlanner`] takes the first reading, [`BootCopies`] the second; [`build`] is both for a layer that is at hand.
//! What a base layer never has (whiteouts, alternate streams, symbolic links) is refused wherever it is in the layer:
//! the VM could not tell what it boots from what was left out.

use std::collections::HashMap;

use layer_model::{Content, Error, ErrorKind, Monitor, Result};

use crate::{
    Attributes, CimKind, CimName, CimOp, CimPath, CimSink, FileMeta, LayerEvent, op::CreateFlags,
    path::PathKey, vhd::UniqueId, wcow::WcowEvents,
};

/// The file name of the container.
pub const CONTAINER: &str = "boot.bcim";
/// The name of the CIM in it.
pub const CIM: &str = "boot.cim";

/// Where a layer has the files of the utility VM.
const VM_FILES: &str = r"UtilityVM\Files";
/// Where a layer has the files of the container.
const FILES: &str = "Files";

/// What a boot CIM came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Booted {
    /// How many files and links it has.
    pub files: u64,
    /// The sizes of all files.
    pub bytes: u64,
    /// What it was sealed with, where the sink makes such a thing.
    pub root_digest: Option<[u8; 32]>,
}

/// Makes a boot CIM of the layer that `open` gives, the same each time: it is called twice, unless no file has to be
/// copied. On an error the image is discarded.
///
/// # Errors
/// Those of [`BootPlanner`] and [`BootCopies`], [`ErrorKind::Cancelled`] when `monitor` says stop, and those of the
/// layer.
pub fn build<K: CimSink, E: WcowEvents>(
    sink: K,
    container: &str,
    footer: UniqueId,
    monitor: &dyn Monitor,
    mut open: impl FnMut() -> Result<E>,
) -> Result<(Booted, K)> {
    let mut plan = BootPlanner::new(sink, container)?;
    if let Err(error) = open().and_then(|layer| read(layer, monitor, |event| plan.event(event))) {
        // The first error is what went wrong.
        let _ = plan.discard();
        return Err(error);
    }
    let mut copies = plan.copies();
    if copies.are_wanted()
        && let Err(error) = open().and_then(|layer| read(layer, monitor, |event| copies.event(event)))
    {
        let _ = copies.discard();
        return Err(error);
    }
    copies.finish(footer)
}

/// Gives all events of a layer to `take`.
fn read(
    mut layer: impl WcowEvents,
    monitor: &dyn Monitor,
    mut take: impl FnMut(LayerEvent<'_>) -> Result<()>,
) -> Result<()> {
    while let Some(event) = layer.next_event()? {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        take(event)?;
    }
    Ok(())
}

/// The first reading: directories and files of the VM go into the image, links are taken note of.
#[derive(Debug)]
pub struct BootPlanner<K> {
    image: Image<K>,
    vm_files: PathKey,
    files: PathKey,
    /// What the layer has, by its path in the layer.
    seen: HashMap<PathKey, Seen>,
    /// Files to copy, by their path in the layer, and the names that they get in the image.
    wanted: HashMap<PathKey, Vec<CimPath>>,
    /// Links inside the image: name and target.
    links: Vec<(CimPath, CimPath)>,
}

/// What the layer has at a path.
#[derive(Clone, Debug)]
enum Seen {
    Dir,
    File,
    /// A link, and what it is another name for in the end: that was there before it.
    Link(PathKey),
}

/// The second reading: files of the container are copied to where links of the VM lead to them.
#[derive(Debug)]
pub struct BootCopies<K> {
    image: Image<K>,
    wanted: HashMap<PathKey, Vec<CimPath>>,
    links: Vec<(CimPath, CimPath)>,
}

impl<K: CimSink> BootPlanner<K> {
    /// Creates the image in `container`, a path of the host. It is verified, and not built to be reproducible: that is
    /// how the reference makes it, and machines are configured with its digest.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an empty container, and errors of the sink.
    pub fn new(mut sink: K, container: &str) -> Result<Self> {
        if container.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the path of the container is empty"));
        }
        let flags = CreateFlags::SINGLE_FILE | CreateFlags::VERIFIED;
        let name = &CimName::new(CIM)?;
        sink.op(&CimOp::CreateImage { kind: CimKind::Block, container, name, parent: None, flags })?;
        let booted = Booted { files: 0, bytes: 0, root_digest: None };
        let image = Image { sink, container: container.into(), made: HashMap::new(), booted };
        Ok(Self {
            image,
            vm_files: CimPath::new(VM_FILES)?.key(),
            files: CimPath::new(FILES)?.key(),
            seen: HashMap::new(),
            wanted: HashMap::new(),
            links: Vec::new(),
        })
    }

    /// Takes the next event of the layer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for whiteouts, alternate streams, symbolic links, and links of the VM that lead
    /// elsewhere than to its own files or those of the container, [`ErrorKind::NotFound`] for a link whose target did
    /// not come before it, [`ErrorKind::IsDirectory`] for one to a directory, [`ErrorKind::ConflictingEntries`] for a
    /// path that comes twice, [`ErrorKind::MissingParentEntry`] for what is in no directory of the layer; errors of the
    /// content and of the sink. Each names the entry.
    pub fn event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        let path = event.path().clone();
        self.try_event(event).map_err(|error| error.entry(path.as_bytes()))
    }

    fn try_event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        match event {
            LayerEvent::Add { path, meta, content } => {
                if !meta.reparse.is_empty() {
                    return Err(invalid("a boot image has no symbolic links"));
                }
                let what = if meta.is_dir() { Seen::Dir } else { Seen::File };
                self.see(&path, what)?;
                match self.in_vm(&path)? {
                    Some(inside) => self.image.create(&inside, &meta, content),
                    None => Ok(()),
                }
            }
            LayerEvent::Link { path, target } => self.link(&path, &target),
            LayerEvent::Stream { .. } => Err(invalid("a boot image has no alternate streams")),
            LayerEvent::Remove { .. } | LayerEvent::Opaque { .. } => {
                Err(invalid("a boot image is made of a base layer, which removes nothing"))
            }
        }
    }

    fn link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        let target_key = target.key();
        let end = match self.seen.get(&target_key) {
            Some(Seen::File) => target_key,
            Some(Seen::Link(end)) => end.clone(),
            Some(Seen::Dir) => {
                return Err(Error::new(ErrorKind::IsDirectory, "a link to a directory"));
            }
            None => {
                let what = format!("the target of the link, {target}, does not come before it");
                return Err(Error::new(ErrorKind::NotFound, what));
            }
        };
        self.see(path, Seen::Link(end.clone()))?;
        let Some(inside) = self.in_vm(path)? else { return Ok(()) };
        if let Some(target) = self.in_vm(target)? {
            self.image.claim(&inside)?;
            self.links.push((inside, target));
            return Ok(());
        }
        if !end.starts_with(&self.files) {
            let what = format!("the link leads to {target}, which is no file of the container");
            return Err(invalid(&what));
        }
        self.image.claim(&inside)?;
        self.wanted.entry(end).or_default().push(inside);
        Ok(())
    }

    /// Takes note of a path. A directory may come again where nothing is made of it.
    fn see(&mut self, path: &CimPath, what: Seen) -> Result<()> {
        let is_dir = matches!(what, Seen::Dir);
        let before = self.seen.insert(path.key(), what);
        match before {
            None => Ok(()),
            Some(Seen::Dir) if is_dir && self.in_vm(path)?.is_none() => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::ConflictingEntries, "the layer has the path twice")),
        }
    }

    /// Where in the image a path of the layer is: nowhere, unless it is below the VM's files.
    fn in_vm(&self, path: &CimPath) -> Result<Option<CimPath>> {
        let key = path.key();
        if !key.starts_with(&self.vm_files) || key == self.vm_files {
            return Ok(None);
        }
        let inside: Vec<&[u8]> = path.components().skip(2).collect();
        CimPath::new(inside.join(&b'\\')).map(Some)
    }

    /// The layer has been read once.
    pub fn copies(self) -> BootCopies<K> {
        BootCopies { image: self.image, wanted: self.wanted, links: self.links }
    }

    /// Forgets the image.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn discard(self) -> Result<K> {
        self.image.discard()
    }
}

impl<K: CimSink> BootCopies<K> {
    /// Whether the layer has to be read once more.
    pub fn are_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Takes the next event of the second reading.
    ///
    /// # Errors
    /// Errors of the content and of the sink.
    pub fn event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        let LayerEvent::Add { path, meta, content } = event else { return Ok(()) };
        if meta.is_dir() || !meta.reparse.is_empty() {
            return Ok(());
        }
        let Some(names) = self.wanted.remove(&path.key()) else { return Ok(()) };
        self.copy(&names, &meta, content).map_err(|error| error.entry(path.as_bytes()))
    }

    fn copy(&mut self, names: &[CimPath], meta: &FileMeta, content: Content<'_>) -> Result<()> {
        let Some((first, others)) = names.split_first() else { return Ok(()) };
        self.image.make_parents(first)?;
        self.image.create_claimed(first, meta, content)?;
        for other in others {
            self.image.make_parents(other)?;
            self.image.link(other, first)?;
        }
        Ok(())
    }

    /// Makes the links inside the image, and the image: committed, closed, sealed, with its footer.
    ///
    /// # Errors
    /// [`ErrorKind::FileChanged`] when the second reading lacked a file of the first,
    /// [`ErrorKind::InvalidArgument`] for a footer with the digest's identifier where the sink has no digest, and errors
    /// of the sink. The image is discarded then, as far as it was not committed.
    pub fn finish(mut self, footer: UniqueId) -> Result<(Booted, K)> {
        if let Err(error) = self.links() {
            // The first error is what went wrong.
            let _ = self.image.discard();
            return Err(error);
        }
        let Image { mut sink, container, mut booted, .. } = self.image;
        sink.op(&CimOp::Commit)?;
        sink.op(&CimOp::Close)?;
        sink.op(&CimOp::Seal { container: &container })?;
        booted.root_digest = sink.root_digest()?;
        let unique_id = footer.resolve(booted.root_digest.as_ref())?;
        let size = sink.container_len()?.unwrap_or(0);
        sink.op(&CimOp::VhdFooter { size, unique_id })?;
        Ok((booted, sink))
    }

    fn links(&mut self) -> Result<()> {
        if let Some(names) = self.wanted.values().min() {
            let what = "what the link leads to was gone when the layer was read again";
            return Err(Error::new(ErrorKind::FileChanged, what).entry(names[0].as_bytes()));
        }
        for (path, target) in std::mem::take(&mut self.links) {
            let linked = self.image.make_parents(&path).and_then(|()| self.image.link(&path, &target));
            linked.map_err(|error| error.entry(path.as_bytes()))?;
        }
        Ok(())
    }

    /// Forgets the image.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn discard(self) -> Result<K> {
        self.image.discard()
    }
}

/// The image that is being made.
#[derive(Debug)]
struct Image<K> {
    sink: K,
    container: Box<str>,
    /// What is in the image, or will be.
    made: HashMap<PathKey, Made>,
    booted: Booted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Dir,
    File,
}

impl<K: CimSink> Image<K> {
    /// Makes a file or directory that the layer has, in a directory that the layer has.
    fn create(&mut self, path: &CimPath, meta: &FileMeta, content: Content<'_>) -> Result<()> {
        let parent = path.parent().unwrap_or_default();
        match self.made.get(&parent.key()) {
            Some(Made::File) => return Err(Error::new(ErrorKind::NotDirectory, "below a file")),
            None if !parent.is_root() => {
                let what = "the directory does not come before what is in it";
                return Err(Error::new(ErrorKind::MissingParentEntry, what));
            }
            _ => {}
        }
        self.claim(path)?;
        self.create_claimed(path, meta, content)
    }

    /// Makes sure that nothing else is made at `path`.
    fn claim(&mut self, path: &CimPath) -> Result<()> {
        match self.made.insert(path.key(), Made::File) {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::ConflictingEntries, "the image has the path twice")),
        }
    }

    fn create_claimed(&mut self, path: &CimPath, meta: &FileMeta, content: Content<'_>) -> Result<()> {
        let size = content.len();
        if meta.is_dir() {
            if size > 0 {
                return Err(Error::new(ErrorKind::InvalidArgument, "a directory has no content"));
            }
            self.made.insert(path.key(), Made::Dir);
        } else {
            self.booted.files += 1;
            self.booted.bytes += size;
        }
        self.sink.op(&CimOp::CreateFile { path, meta, size })?;
        content.read_into(&mut |bytes| self.sink.write(bytes))?;
        self.sink.op(&CimOp::EndStream)
    }

    /// Makes the directories above `path` that are not there.
    fn make_parents(&mut self, path: &CimPath) -> Result<()> {
        let mut missing = Vec::new();
        let mut parent = path.parent();
        while let Some(dir) = parent.filter(|dir| !dir.is_root()) {
            match self.made.get(&dir.key()) {
                Some(Made::Dir) => break,
                Some(Made::File) => return Err(Error::new(ErrorKind::NotDirectory, "below a file")),
                None => {}
            }
            parent = dir.parent();
            missing.push(dir);
        }
        for dir in missing.into_iter().rev() {
            self.create_claimed(&dir, &FileMeta::new(Attributes::DIRECTORY), Content::empty())?;
        }
        Ok(())
    }

    fn link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        self.sink.op(&CimOp::HardLink { path, target })?;
        self.booted.files += 1;
        Ok(())
    }

    fn discard(mut self) -> Result<K> {
        self.sink.op(&CimOp::Discard)?;
        Ok(self.sink)
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, what)
}
