//! Where the content of files goes: into the image, into a blob beside it, or nowhere, as it lies in an archive.

use std::io::{BufRead, Read, Seek, Write};

use erofs_format::{
    BlobWriter, FileData, ImagePlan, Metadata, NewDevice, NewFile, NodeId, StreamWriter, Summary, Tree,
    WriteOptions,
};
use layer_model::{Digest, Error, ErrorKind, Result, Xattrs, content::Extent};

use super::{
    archive::{Archive, TAR_BLOCK},
    erofs_error,
};

/// The number of the only extra device.
const DEVICE: u16 = 1;

/// A writer that content of any length goes to.
pub type BlobOutput = Box<dyn Write + Send>;

pub(super) enum Output<W> {
    /// Content is in the image.
    Image(Box<StreamWriter<W>>),
    /// Content is in an archive that somebody else writes to the image, behind its first blocks.
    Around(Box<StreamWriter<W>>, Archive),
    /// Content comes once more, when the image is written.
    Planned(Box<Planned>),
    /// Content is on a device, and the image is written at the end.
    Apart(Box<Apart<W>>),
}

pub(super) struct Planned {
    pub(super) tree: Tree,
    pub(super) options: WriteOptions,
    /// What the content of the next file is known by.
    pub(super) token: u64,
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
    /// The archive that the layer is read from.
    Archive(Archive),
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
        Self::apart(out, options, Data::Archive(Archive::new(DEVICE, 0)))
    }

    pub(super) fn around_archive(out: W, options: &WriteOptions) -> Result<Self> {
        let options = options.clone().block_size(TAR_BLOCK as u32).map_err(erofs_error)?;
        let writer =
            StreamWriter::new(out, &options, Metadata::default(), Vec::new()).map_err(erofs_error)?;
        let archive = Archive::new(0, writer.position() / TAR_BLOCK);
        Ok(Self::Around(Box::new(writer), archive))
    }

    pub(super) fn planned(options: &WriteOptions) -> Self {
        let options = options.clone().inline_data(false).data_by_token(true);
        Self::Planned(Box::new(Planned { tree: Tree::new(Metadata::default()), options, token: 0 }))
    }

    /// Where in the image the archive belongs.
    pub(super) fn archive_start(&self) -> Option<u64> {
        match self {
            Self::Around(writer, _) => Some(writer.position()),
            _ => None,
        }
    }

    fn apart(image: W, options: WriteOptions, data: Data) -> Result<Self> {
        let mut tree = Tree::new(Metadata::default());
        tree.add_device(NewDevice::default()).map_err(erofs_error)?;
        Ok(Self::Apart(Box::new(Apart { image, tree, options, data })))
    }

    pub(super) fn set_uuid(&mut self, uuid: [u8; 16]) {
        match self {
            Self::Image(writer) | Self::Around(writer, _) => writer.set_uuid(uuid),
            Self::Planned(planned) => planned.options = planned.options.clone().uuid(uuid),
            Self::Apart(apart) => apart.options = apart.options.clone().uuid(uuid),
        }
    }

    /// Whether content can be taken now that is not of the layer. While an archive is written to the image it cannot, nor
    /// when it would have to come once more.
    pub(super) fn takes_content(&self) -> bool {
        !matches!(self, Self::Around(..) | Self::Planned(_))
    }

    /// Says that the archive has ended, after `len` bytes: more content may follow it in the image.
    pub(super) fn end_archive(self, len: Option<u64>) -> Self {
        match self {
            Self::Around(mut writer, found) => {
                writer.leave(len.unwrap_or_default().max(found.end()));
                Self::Image(writer)
            }
            other => other,
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        match self {
            Self::Image(writer) | Self::Around(writer, _) => writer.tree(),
            Self::Planned(planned) => &planned.tree,
            Self::Apart(apart) => &apart.tree,
        }
    }

    pub(super) fn tree_mut(&mut self) -> &mut Tree {
        match self {
            Self::Image(writer) | Self::Around(writer, _) => writer.tree_mut(),
            Self::Planned(planned) => &mut planned.tree,
            Self::Apart(apart) => &mut apart.tree,
        }
    }

    pub(super) fn describe(&mut self, node: NodeId, metadata: Metadata, xattrs: &Xattrs) -> Result<()> {
        match self {
            Self::Image(writer) | Self::Around(writer, _) => writer.describe(node, metadata, xattrs.iter()),
            Self::Planned(_) | Self::Apart(_) => {
                let tree = self.tree_mut();
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
        let (tree, data) = match self {
            Self::Image(writer) => {
                let added = match &ranges {
                    None => writer.add_file(dir, name, metadata, xattrs.iter(), size, data),
                    Some(ranges) => {
                        writer.add_sparse_file(dir, name, metadata, xattrs.iter(), size, ranges, data)
                    }
                };
                return added.map_err(erofs_error);
            }
            Self::Around(writer, archive) => {
                (writer.tree_mut(), archive.find(size, extents, archive_offset)?)
            }
            Self::Planned(planned) => {
                let token = planned.token;
                let data = match ranges {
                    None => FileData::Source { token },
                    Some(ranges) => FileData::SparseSource { token, ranges },
                };
                (&mut planned.tree, data)
            }
            Self::Apart(apart) => {
                let data = match (&mut apart.data, &ranges) {
                    (Data::Blob(blob), None) => blob.append(size, data).map_err(erofs_error)?,
                    (Data::Blob(blob), Some(ranges)) => {
                        blob.append_sparse(size, ranges, data).map_err(erofs_error)?
                    }
                    (Data::Archive(archive), _) => archive.find(size, extents, archive_offset)?,
                };
                (&mut apart.tree, data)
            }
        };
        let file = NewFile::Regular { size, data };
        let made = tree.add(dir, name, metadata, file).map_err(erofs_error)?;
        tree.set_xattrs(made, xattrs.iter()).map_err(erofs_error)?;
        Ok(made)
    }

    /// Completes the image. `archive` says how long the archive is and what it is called.
    pub(super) fn finish(self, archive: Option<(u64, &Digest)>) -> Result<(W, Summary)> {
        let length = |found: &Archive| archive.map_or(found.end(), |(len, _)| len.max(found.end()));
        let Apart { image, mut tree, options, data } = match self {
            Self::Image(writer) => return writer.finish(&()).map_err(erofs_error),
            Self::Around(writer, _) => return writer.finish(&()).map_err(erofs_error),
            Self::Planned(_) => {
                return Err(Error::new(ErrorKind::FailedPrecondition, "only a plan was made"));
            }
            Self::Apart(apart) => *apart,
        };
        match data {
            Data::Blob(blob) => {
                let (_, blocks) = blob.finish().map_err(erofs_error)?;
                tree.set_device_blocks(DEVICE, blocks);
            }
            Data::Archive(found) => {
                tree.set_device_blocks(DEVICE, length(&found).div_ceil(TAR_BLOCK));
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
