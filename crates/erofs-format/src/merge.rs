//! Several layers as one image.
//!
//! Layers are images whose whiteouts (character devices 0:0) and opaque directories (`trusted.overlay.opaque`)
//! hide what is below, as overlayfs has it. A merge resolves them once, into an image that shows what an overlay
//! mount of the layers would show:
//!
//! - [`merge_layers`] writes metadata only and takes the layers as devices, in milliseconds;
//! - [`flatten_layers`] copies the data, into an image that needs nothing else.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Mutex, PoisonError},
};

use crate::{
    error::{Error, ErrorKind, Result},
    raw::xattr::split_name,
    read::{Image, Inode, Layout, Location},
    tree::{BlockAddress, FileData, Metadata, NewDevice, NewFile, NodeId, Tree},
    types::{FileType, Nid},
    write::{Contents, ImagePlan, WriteOptions},
};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
const ORIGIN: &[u8] = b"trusted.overlay.origin";
const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const METACOPY: &[u8] = b"trusted.overlay.metacopy";

/// How to merge.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct MergeOptions {
    strip_markers: bool,
    pass_redirects: bool,
}

impl MergeOptions {
    /// Markers are kept, redirects refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out whiteouts, and the xattrs that mark opaque directories and origins: the result is to be mounted
    /// by itself, with nothing below.
    #[must_use]
    pub fn strip_markers(self, strip_markers: bool) -> Self {
        Self { strip_markers, ..self }
    }

    /// Copies `redirect` and `metacopy` xattrs without following them, instead of refusing the layers.
    #[must_use]
    pub fn pass_redirects(self, pass_redirects: bool) -> Self {
        Self { pass_redirects, ..self }
    }
}

/// Plans an image of metadata over the layers, lowest first. Device k is layer k; of a layer that is itself an
/// index over one device (a tar), it is that device.
///
/// The block size is that of the layers; the other options count. The layers need not have their devices open.
///
/// # Errors
/// `InvalidArgument` for no layers, or layers of different block sizes or kinds; `Unsupported` for layers with
/// inline or compressed file data; `UnsupportedMarker`; whatever is wrong with a layer.
pub fn merge_layers(layers: &[Image], merge: &MergeOptions, options: &WriteOptions) -> Result<ImagePlan> {
    let mut options = options.clone();
    options.block_bits = common_block_bits(layers)?;
    let indexes = layers.iter().filter(|layer| !layer.devices().is_empty()).count();
    if indexes != 0 && indexes != layers.len() {
        return Err(Error::invalid("some layers have a device of their own, others have none"));
    }
    let mut merger = Merger::new(layers, merge)?;
    for layer in layers {
        let device = device_of(layer)?;
        merger.tree.add_device(device)?;
    }
    let tree = merger.run(&mut |layer, inode| device_data(&layers[layer], inode, layer as u16 + 1))?;
    ImagePlan::new(tree, &options, &())
}

/// Plans an image with everything that the layers show, lowest first, to be written with the contents returned.
///
/// # Errors
/// As [`merge_layers`], but for block sizes and inline data.
pub fn flatten_layers(
    layers: &[Image],
    merge: &MergeOptions,
    options: &WriteOptions,
) -> Result<(ImagePlan, LayerContents)> {
    common_block_bits(&layers[..layers.len().min(1)])?;
    let mut files = Vec::new();
    let tree = Merger::new(layers, merge)?.run(&mut |layer, inode| {
        let token = files.len() as u64;
        files.push((layer as u32, inode.nid()));
        copied_data(&layers[layer], inode, token)
    })?;
    let contents = LayerContents { layers: layers.to_vec(), files, last: Mutex::new(None) };
    let plan = ImagePlan::new(tree, options, &contents)?;
    Ok((plan, contents))
}

fn common_block_bits(layers: &[Image]) -> Result<u8> {
    let bits = layers.first().ok_or_else(|| Error::invalid("there are no layers"))?.superblock().block_bits;
    match layers.iter().all(|layer| layer.superblock().block_bits == bits) {
        true => Ok(bits),
        false => Err(Error::invalid("the layers have different block sizes")),
    }
}

/// The device that a layer becomes.
fn device_of(layer: &Image) -> Result<NewDevice> {
    let sb = layer.superblock();
    let uuid = || sb.uuid.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    match layer.devices() {
        [] => {
            let whole = layer.size().div_ceil(sb.block_size());
            Ok(NewDevice { tag: uuid(), blocks: if sb.blocks == 0 { whole } else { sb.blocks } })
        }
        [device] if device.tag.is_empty() => Ok(NewDevice { tag: uuid(), blocks: device.blocks }),
        [device] => Ok(NewDevice { tag: device.tag.clone(), blocks: device.blocks }),
        _ => Err(Error::invalid("a layer has several devices of its own")),
    }
}

/// Where a layer's file is, once the layer is a device.
fn device_data(layer: &Image, inode: &Inode, device: u16) -> Result<FileData> {
    let refuse = |what| Err(Error::unsupported("inode", inode.position(), what));
    let full_blocks = inode.size().is_multiple_of(layer.superblock().block_size());
    Ok(match inode.layout() {
        _ if inode.size() == 0 => FileData::Hole,
        Layout::Plain { start: None } => FileData::Hole,
        Layout::Plain { start: Some(block) } => {
            FileData::Blocks(moved(layer, BlockAddress { device: 0, block }, device)?)
        }
        Layout::Inline { start } if full_blocks => {
            FileData::Blocks(moved(layer, BlockAddress { device: 0, block: start }, device)?)
        }
        Layout::Inline { .. } => return refuse("inline data cannot be part of a merge"),
        Layout::Chunked { chunk_bits, .. } => {
            let mut chunks = Vec::new();
            loop {
                let more = layer.chunk_targets(inode, chunks.len() as u64)?;
                if more.is_empty() {
                    break;
                }
                for chunk in more {
                    chunks.push(chunk.map(|address| moved(layer, address, device)).transpose()?);
                }
            }
            FileData::Chunks { bits: chunk_bits - layer.superblock().block_bits, chunks }
        }
        Layout::Compressed { .. } => return refuse("compressed data cannot be part of a merge"),
    })
}

/// An address in a layer, as an address on the device that the layer becomes.
fn moved(layer: &Image, address: BlockAddress, device: u16) -> Result<BlockAddress> {
    let block = match (layer.devices(), address.device) {
        ([], 0) => address.block,
        // The device is the layer's own: its unified addresses lead there too.
        ([own], 0)
            if own.uniaddr != 0 && (own.uniaddr..own.uniaddr + own.blocks).contains(&address.block) =>
        {
            address.block - own.uniaddr
        }
        // Only as many bits count as number the devices.
        ([_], number) if number & 1 == 1 => address.block,
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "inode",
                "the data is not on the device of the layer",
            ));
        }
    };
    Ok(BlockAddress { device, block })
}

/// What is to be copied from a layer's file.
fn copied_data(layer: &Image, inode: &Inode, token: u64) -> Result<FileData> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut has_holes = false;
    for extent in layer.extents(inode) {
        let extent = extent?;
        match (extent.location, ranges.last_mut()) {
            (Location::Hole, _) => has_holes = true,
            (_, Some((offset, length))) if *offset + *length == extent.offset => *length += extent.length,
            _ => ranges.push((extent.offset, extent.length)),
        }
    }
    Ok(match has_holes {
        false => FileData::Source { token },
        true if ranges.is_empty() => FileData::Hole,
        true => FileData::SparseSource { token, ranges },
    })
}

/// The content of files in layers, for [`flatten_layers`].
#[derive(Debug)]
pub struct LayerContents {
    layers: Vec<Image>,
    files: Vec<(u32, Nid)>,
    /// The file that was read last: large ones are read in pieces.
    last: Mutex<Option<(u64, Inode)>>,
}

impl Contents for LayerContents {
    fn read_exact_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let &(layer, nid) = self.files.get(token as usize).ok_or(io::ErrorKind::NotFound)?;
        let layer = &self.layers[layer as usize];
        // A poisoned lock holds a whole inode or none.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let inode = match &mut *last {
            Some((known, inode)) if *known == token => inode,
            other => &mut other.insert((token, layer.inode(nid)?)).1,
        };
        match layer.read_at(inode, buf, offset)? == buf.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A merge under way: layers are taken from the top, and what is there already wins.
struct Merger<'a> {
    layers: &'a [Image],
    options: &'a MergeOptions,
    tree: Tree,
    /// Directories that nothing further below adds to.
    closed: HashSet<NodeId>,
    whiteouts: Vec<(NodeId, Vec<u8>)>,
}

/// Says where the content of a layer's file is.
type DataOf<'f> = dyn FnMut(usize, &Inode) -> Result<FileData> + 'f;

impl<'a> Merger<'a> {
    fn new(layers: &'a [Image], options: &'a MergeOptions) -> Result<Self> {
        let top = layers.last().ok_or_else(|| Error::invalid("there are no layers"))?;
        let tree = Tree::new(metadata(&top.root()?));
        Ok(Self { layers, options, tree, closed: HashSet::new(), whiteouts: Vec::new() })
    }

    fn run(mut self, data: &mut DataOf<'_>) -> Result<Tree> {
        let root = self.tree.root();
        for number in (0..self.layers.len()).rev() {
            let inode = self.layers[number].root()?;
            if number + 1 == self.layers.len() {
                self.copy_xattrs(number, &inode, root)?;
            }
            self.add_layer(number, &inode, data).map_err(|error| {
                let layer = format!("layer {number}");
                error.path(layer)
            })?;
            if self.closed.contains(&root) {
                break;
            }
        }
        if self.options.strip_markers {
            for (dir, name) in std::mem::take(&mut self.whiteouts) {
                self.tree.remove(dir, &name);
            }
        }
        Ok(self.tree)
    }

    fn add_layer(&mut self, number: usize, root: &Inode, data: &mut DataOf<'_>) -> Result<()> {
        let layer = &self.layers[number];
        let mut links = HashMap::new();
        let mut entered = HashSet::new();
        let mut entries = 0;
        let mut todo = vec![(root.clone(), self.tree.root())];
        while let Some((dir, into)) = todo.pop() {
            if !entered.insert(dir.nid()) {
                return Err(Error::corrupt("directory", dir.position(), "two paths lead to it"));
            }
            for entry in layer.read_dir(&dir)? {
                let entry = entry?;
                entries += 1;
                if entries > layer.max_entries() {
                    return Err(Error::limit("max_entries", "directory", "the image has too many entries"));
                }
                let inode = layer.inode(entry.nid)?;
                match self.tree.find(into, &entry.name) {
                    None => {
                        let node = self.add(number, &inode, into, &entry.name, &mut links, data)?;
                        if inode.is_dir() {
                            todo.push((inode, node));
                        }
                    }
                    Some(upper) if self.tree.file_type(upper) != FileType::Directory => {}
                    Some(upper) if self.closed.contains(&upper) => {}
                    Some(upper) if inode.is_dir() => todo.push((inode, upper)),
                    // Anything else between two directories hides the lower one.
                    Some(upper) => _ = self.closed.insert(upper),
                }
            }
            if self.is_opaque(layer, &dir)? {
                self.closed.insert(into);
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        number: usize,
        inode: &Inode,
        dir: NodeId,
        name: &[u8],
        links: &mut HashMap<Nid, NodeId>,
        data: &mut DataOf<'_>,
    ) -> Result<NodeId> {
        if inode.is_whiteout() {
            self.whiteouts.push((dir, name.to_vec()));
        }
        if let Some(&first) = links.get(&inode.nid()) {
            self.tree.link(dir, name, first)?;
            return Ok(first);
        }
        let target;
        let device = inode.device_number().unwrap_or_default();
        let file = match inode.file_type() {
            FileType::Directory => NewFile::Directory,
            FileType::Regular => NewFile::Regular { size: inode.size(), data: data(number, inode)? },
            FileType::Symlink => {
                target = self.layers[number].read_link(inode)?;
                NewFile::Symlink(&target)
            }
            FileType::CharDevice => NewFile::CharDevice(device),
            FileType::BlockDevice => NewFile::BlockDevice(device),
            FileType::Fifo => NewFile::Fifo,
            FileType::Socket => NewFile::Socket,
        };
        let node = self.tree.add(dir, name, metadata(inode), file)?;
        self.copy_xattrs(number, inode, node)?;
        if !inode.is_dir() {
            links.insert(inode.nid(), node);
        }
        Ok(node)
    }

    fn copy_xattrs(&mut self, number: usize, inode: &Inode, node: NodeId) -> Result<()> {
        let xattrs = self.layers[number].xattrs(inode)?;
        for (name, marker) in [(REDIRECT, "redirect"), (METACOPY, "metacopy")] {
            if !self.options.pass_redirects && xattrs.iter().any(|xattr| xattr.name == name) {
                let kind = ErrorKind::UnsupportedMarker { marker };
                return Err(Error::new(kind, "xattr", "leads elsewhere").at(inode.position()));
            }
        }
        let wanted = |name: &[u8]| {
            let marker = name == OPAQUE || name == ORIGIN;
            split_name(name).is_some() && !(marker && self.options.strip_markers)
        };
        let wanted = xattrs.iter().filter(|xattr| wanted(&xattr.name));
        self.tree.set_xattrs(node, wanted.map(|xattr| (&xattr.name[..], &xattr.value[..])))
    }

    fn is_opaque(&self, layer: &Image, dir: &Inode) -> Result<bool> {
        Ok(layer.xattr(dir, OPAQUE)?.is_some_and(|value| *value == *b"y"))
    }
}

fn metadata(inode: &Inode) -> Metadata {
    Metadata { mode: inode.mode() & 0o7777, uid: inode.uid(), gid: inode.gid(), mtime: inode.mtime() }
}
