//! Backup streams made of what is known about a file.

use std::io::Write;

use layer_model::{
    Content, Error, ErrorKind, IoContext, Result,
    content::{Body, Extent},
};

use super::{Header, RecordId, SPARSE};
use crate::{Attributes, FileMeta, StreamName};

/// Writes one file as a backup stream.
///
/// Records come in the order of hcsshim's tools: security descriptor, extended attributes, reparse data, main stream,
/// alternate streams. Directories and reparse points have no main stream.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes everything but alternate streams: the first thing to do.
    ///
    /// Holes of the content stay holes when the file is marked as one that has some.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a directory or reparse point with content; those of the content and of the
    /// output.
    pub fn file(&mut self, meta: &FileMeta, content: Content<'_>) -> Result<()> {
        for (id, bytes) in [
            (RecordId::Security, &meta.security),
            (RecordId::Ea, &meta.ea),
            (RecordId::Reparse, &meta.reparse),
        ] {
            if !bytes.is_empty() {
                self.header(&Header::new(id, bytes.len() as u64))?;
                self.bytes(bytes)?;
            }
        }
        if meta.is_dir() || !meta.reparse.is_empty() {
            if !content.is_empty() {
                let what = "a directory or reparse point with content";
                return Err(Error::new(ErrorKind::InvalidArgument, what));
            }
            return Ok(());
        }
        let mut content = content;
        if meta.attributes.contains(Attributes::SPARSE_FILE)
            && let Body::Sparse { extents, .. } = content.body()
        {
            let extents = extents.to_vec();
            return self.sparse(&extents, content);
        }
        self.header(&Header::new(RecordId::Data, content.len()))?;
        content.read_into(&mut |bytes| self.bytes(bytes))
    }

    /// Writes an alternate stream.
    ///
    /// # Errors
    /// Those of the content and of the output.
    pub fn stream(&mut self, name: &StreamName, content: Content<'_>) -> Result<()> {
        let mut header = Header::new(RecordId::AlternateData, content.len());
        header.name.push(u16::from(b':'));
        header.name.extend(name.to_utf16());
        header.name.extend(":$DATA".encode_utf16());
        self.header(&header)?;
        content.read_into(&mut |bytes| self.bytes(bytes))
    }

    /// What was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// An empty record, the runs, and an empty run at the end of the file.
    fn sparse(&mut self, extents: &[Extent], content: Content<'_>) -> Result<()> {
        let (size, body) = content.into_parts();
        self.header(&Header { attributes: SPARSE, ..Header::new(RecordId::Data, 0) })?;
        if let Body::Sparse { packed, .. } = body {
            for extent in extents {
                self.block(*extent)?;
                Content::from_stream(packed, extent.len).read_into(&mut |bytes| self.bytes(bytes))?;
            }
        }
        self.block(Extent { offset: size, len: 0 })
    }

    fn block(&mut self, extent: Extent) -> Result<()> {
        let header = Header::new(RecordId::SparseBlock, extent.len);
        self.header(&Header { attributes: SPARSE, offset: extent.offset, ..header })
    }

    fn header(&mut self, header: &Header) -> Result<()> {
        let bytes = header.to_bytes()?;
        self.bytes(&bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).during("write a backup stream")
    }
}
