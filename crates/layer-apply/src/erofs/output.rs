//! Where the content of files goes: into the image, into a blob beside it, or nowhere, as it lies in an archive.

use std::io::{BufRead, Read, Seek, Write};

use erofs_format::{
    BlobWriter, BlockAddress, FileData, ImagePlan, Metadata, NewDevice, NewFile, NodeId, StreamWriter,
    Summary, Tree, WriteOptions,
};
use layer_model::{Digest, Error, ErrorKind, Result, Xattrs, content::Extent};

use super::erofs_error;

/// The number of the only extra device.
const DEVICE: u16 = 1;

/// The block of an archive.
const TAR_BLOCK: u64 = 512;

/// The most chunks of a file in an archive: a gigabyte of map would be for a petabyte.
const MAX_CHUNKS: u64 = 1 << 24;

/// A writer that content of any length goes to.
pub type BlobOutput = Box<dyn Write + Send>;

pub(super) enum Output<W> {
    /// Content is in the image.
    Image(Box<StreamWriter<W>>),
    /// Content is on a device, and the image is written at the end.
    Apart(Box<Apart<W>>),
}

pub(super) struct Apart<W> {
    image: W,
    tree: Tree,
    options: WriteOptions,
    data: Data,
}

enum Data {
    /// A blob that is written meanwhile.
    Blob(Box<BlobWriter<BlobOutput>>),
    /// The archive that the layer is read from; so far it is this long.
    Archive { end: u64 },
}

/// The content of a file on its way.
pub(super) struct NewContent<'a> {
    pub(super) size: u64,
    /// Where data is, if there are holes.
    pub(super) extents: Option<&'a [Extent]>,
    /// Where it begins in the archive.
    pub(super) archive_offset: Option<u64>,
    /// The data, without holes.
    pub(super) data: &'a mut dyn BufRead,
}

impl<W: Read + Write + Seek> Output<W> {
    pub(super) fn image(out: W, options: &WriteOptions) -> Result<Self> {
        let writer = StreamWriter::new(out, options, Metadata::default(), Vec::new());
        writer.map(|writer| Self::Image(Box::new(writer))).map_err(erofs_error)
    }

    pub(super) fn beside_blob(out: W, blob: BlobOutput, options: &WriteOptions) -> Result<Self> {
        let data = Data::Blob(Box::new(BlobWriter::new(blob, options, DEVICE)));
        Self::apart(out, options.clone(), data)
    }

    pub(super) fn beside_archive(out: W, options: &WriteOptions) -> Result<Self> {
        let options = options.clone().block_size(TAR_BLOCK as u32).map_err(erofs_error)?;
        Self::apart(out, options, Data::Archive { end: 0 })
    }

    fn apart(image: W, options: WriteOptions, data: Data) -> Result<Self> {
        let mut tree = Tree::new(Metadata::default());
        tree.add_device(NewDevice::default()).map_err(erofs_error)?;
        Ok(Self::Apart(Box::new(Apart { image, tree, options, data })))
    }

    pub(super) fn tree(&self) -> &Tree {
        match self {
            Self::Image(writer) => writer.tree(),
            Self::Apart(apart) => &apart.tree,
        }
    }

    pub(super) fn tree_mut(&mut self) -> &mut Tree {
        match self {
            Self::Image(writer) => writer.tree_mut(),
            Self::Apart(apart) => &mut apart.tree,
        }
    }

    pub(super) fn describe(&mut self, node: NodeId, metadata: Metadata, xattrs: &Xattrs) -> Result<()> {
        match self {
            Self::Image(writer) => writer.describe(node, metadata, xattrs.iter()),
            Self::Apart(apart) => {
                let tree = &mut apart.tree;
                tree.set_metadata(node, metadata).and_then(|()| tree.set_xattrs(node, xattrs.iter()))
            }
        }
        .map_err(erofs_error)
    }

    pub(super) fn add_file(
        &mut self,
        dir: NodeId,
        name: &[u8],
        metadata: Metadata,
        xattrs: &Xattrs,
        content: NewContent<'_>,
    ) -> Result<NodeId> {
        let NewContent { size, extents, archive_offset, data } = content;
        let ranges: Option<Vec<(u64, u64)>> =
            extents.map(|extents| extents.iter().map(|e| (e.offset, e.len)).collect());
        let apart = match self {
            Self::Image(writer) => {
                let added = match &ranges {
                    None => writer.add_file(dir, name, metadata, xattrs.iter(), size, data),
                    Some(ranges) => {
                        writer.add_sparse_file(dir, name, metadata, xattrs.iter(), size, ranges, data)
                    }
                };
                return added.map_err(erofs_error);
            }
            Self::Apart(apart) => apart,
        };
        let data = match &mut apart.data {
            Data::Blob(blob) => match &ranges {
                None => blob.append(size, data),
                Some(ranges) => blob.append_sparse(size, ranges, data),
            }
            .map_err(erofs_error)?,
            Data::Archive { end } => {
                let stored = extents.map_or(size, |extents| extents.iter().map(|e| e.len).sum());
                in_archive(size, extents, archive_offset, stored, end)?
            }
        };
        let file = NewFile::Regular { size, data };
        let made = apart.tree.add(dir, name, metadata, file).map_err(erofs_error)?;
        apart.tree.set_xattrs(made, xattrs.iter()).map_err(erofs_error)?;
        Ok(made)
    }

    /// Completes the image. `archive` says how long the archive is and what it is called.
    pub(super) fn finish(self, archive: Option<(u64, &Digest)>) -> Result<(W, Summary)> {
        let Apart { image, mut tree, options, data } = match self {
            Self::Image(writer) => return writer.finish(&()).map_err(erofs_error),
            Self::Apart(apart) => *apart,
        };
        match data {
            Data::Blob(blob) => {
                let (_, blocks) = blob.finish().map_err(erofs_error)?;
                tree.set_device_blocks(DEVICE, blocks);
            }
            Data::Archive { end } => {
                let len = archive.map_or(end, |(len, _)| len.max(end));
                tree.set_device_blocks(DEVICE, len.div_ceil(TAR_BLOCK));
                if let Some((_, digest)) = archive {
                    // The digits of SHA-256 fill the place of the tag.
                    let digits = digest.as_str().rsplit(':').next().unwrap_or_default();
                    let tag = digits.as_bytes()[..digits.len().min(64)].to_vec();
                    tree.set_device_tag(DEVICE, tag).map_err(erofs_error)?;
                }
            }
        }
        let plan = ImagePlan::new(tree, &options, &()).map_err(erofs_error)?;
        plan.write(image, &()).map_err(erofs_error)
    }
}

/// Where a file is in an archive, whose data begins at `offset` and has `stored` bytes.
fn in_archive(
    size: u64,
    extents: Option<&[Extent]>,
    offset: Option<u64>,
    stored: u64,
    end: &mut u64,
) -> Result<FileData> {
    let unaligned =
        || Error::new(ErrorKind::Unrepresentable, "the data of the file is not where an index can point to");
    if stored == 0 {
        return Ok(FileData::Hole);
    }
    let offset = offset.filter(|offset| offset.is_multiple_of(TAR_BLOCK)).ok_or_else(unaligned)?;
    *end = (*end).max(offset + stored);
    let first = offset / TAR_BLOCK;
    let address = |block| BlockAddress { device: DEVICE, block };
    let Some(extents) = extents else { return Ok(FileData::Blocks(address(first))) };
    // All that begins or ends before the end of the file has to lie on the borders of chunks.
    let borders = extents.iter().flat_map(|e| [e.offset, e.end()]).filter(|&border| border < size);
    let zeros = borders.map(u64::trailing_zeros).min().unwrap_or(0).min(31 + 9);
    let bits = zeros.checked_sub(TAR_BLOCK.trailing_zeros()).ok_or_else(unaligned)?;
    let chunk = TAR_BLOCK << bits;
    let count = size.div_ceil(chunk);
    if count > MAX_CHUNKS {
        let kind = ErrorKind::LimitExceeded { limit: "chunks of a file in an archive" };
        return Err(Error::new(kind, "the sparse file is too large for an index"));
    }
    let mut chunks = vec![None; count as usize];
    let mut block = first;
    for extent in extents {
        for number in extent.offset / chunk..extent.end().div_ceil(chunk) {
            chunks[number as usize] = Some(address(block + (number * chunk - extent.offset) / TAR_BLOCK));
        }
        block += extent.len.div_ceil(TAR_BLOCK);
    }
    Ok(FileData::Chunks { bits: bits as u8, chunks })
}
