//! One import, kept: its journal, its content, and what is in the image.

use std::io::Write;

use layer_model::{Error, ErrorKind, Result};

use crate::{
    CimOp, CimSink,
    content::BlobSink,
    journal::Lines,
    model::{ImageTree, ModelSink},
    op::CimKind,
};

/// Writes the journal of the operations that it gets, keeps their content, and builds the tree.
///
/// The three agree: an operation is written down when the tree has taken it, and the bytes of a stream are hashed once
/// for all of them. What the tree refuses is therefore not in the journal, and a tree that is read from the journal is
/// the one that is built here.
#[derive(Debug)]
pub struct Recorder<W, B> {
    lines: Lines<W>,
    model: ModelSink<B>,
}

/// What a [`Recorder`] has made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recorded<W, B> {
    /// Where the journal was written.
    pub journal: W,
    /// Where the bytes are.
    pub blobs: B,
    /// The image. It does not know yet where its bytes are: [`ImageTree::set_contents`].
    pub tree: ImageTree,
}

impl<W: Write, B: BlobSink> Recorder<W, B> {
    /// Records a new image.
    pub fn new(kind: CimKind, journal: W, blobs: B) -> Self {
        Self::on(ImageTree::new(kind), journal, blobs)
    }

    /// Records what is done to `tree`: an empty image, or the fork of another.
    pub fn on(tree: ImageTree, journal: W, blobs: B) -> Self {
        Self { lines: Lines::new(journal), model: ModelSink::on(tree, blobs) }
    }

    /// The tree as it is now.
    pub fn tree(&self) -> &ImageTree {
        self.model.tree()
    }

    /// Writes out what is left, and gives everything back, once the image is committed.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] when it is not; those of writing the journal.
    pub fn finish(self) -> Result<Recorded<W, B>> {
        let (tree, blobs) = self.model.finish()?;
        Ok(Recorded { journal: self.lines.finish()?, blobs, tree })
    }

    /// Writes out what is left of the journal, and gives it back, whatever became of the image. For the journal of an
    /// import that failed.
    ///
    /// # Errors
    /// Those of writing the journal.
    pub fn into_journal(self) -> Result<W> {
        self.lines.finish()
    }
}

impl<W: Write, B: BlobSink> CimSink for Recorder<W, B> {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        if let CimOp::CreateFile { path, meta, size } = op
            && meta.is_dir()
            && *size != 0
        {
            // The API ignores it; a journal that had it would announce bytes that never come.
            return Err(Error::new(ErrorKind::InvalidArgument, "a directory has no size").entry(path));
        }
        match self.model.take(op)? {
            Some(ended) => self.lines.data(ended.size, &ended.sha256),
            None => self.lines.op(op),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.model.write(bytes)
    }
}
