//! Operations into a tree.

use layer_model::{Error, ErrorKind, Result};

use super::{
    ImageTree,
    tree::{Source, StreamSlot},
};
use crate::{CimOp, CimSink, content::BlobSink, op::CimKind};

/// How many bytes that were announced and not written are made up as zeros.
///
/// CimFS reads ranges that were never written as zeros; no layer has any, so that this bounds what a size from
/// outside can make a sink do.
const PADDING_MAX: u64 = 1 << 30;

/// Builds an [`ImageTree`], and gives the bytes to a [`BlobSink`].
///
/// Takes operations as the API of CimFS does, beyond what the laws of [`CimSink`] ask for: what is announced and not
/// written of a stream reads as zeros, up to a gigabyte; another operation while a stream is open is
/// [`ErrorKind::Busy`].
#[derive(Debug)]
pub struct ModelSink<B> {
    tree: ImageTree,
    blobs: B,
    state: State,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Writing,
    Committed,
    Discarded,
}

#[derive(Debug)]
struct Open {
    slot: StreamSlot,
    size: u64,
    written: u64,
}

/// A stream that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) size: u64,
    pub(crate) sha256: [u8; 32],
}

impl<B: BlobSink> ModelSink<B> {
    /// Builds a new image.
    pub fn new(kind: CimKind, blobs: B) -> Self {
        Self::on(ImageTree::new(kind), blobs)
    }

    /// Changes `tree`: an empty image, or the fork of another.
    pub fn on(tree: ImageTree, blobs: B) -> Self {
        Self { tree, blobs, state: State::New, open: None }
    }

    /// The tree as it is now.
    pub fn tree(&self) -> &ImageTree {
        &self.tree
    }

    /// The image, and where its bytes are, once it is committed.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] when it is not.
    pub fn finish(self) -> Result<(ImageTree, B)> {
        match self.state {
            State::Committed => Ok((self.tree, self.blobs)),
            _ => Err(Error::new(ErrorKind::FailedPrecondition, "the image is not committed")),
        }
    }

    /// Takes an operation, and says what the stream was that it has ended.
    pub(crate) fn take(&mut self, op: &CimOp<'_>) -> Result<Option<Ended>> {
        match op {
            CimOp::Discard => {
                if self.state == State::Committed {
                    return self.refuse("the image is committed");
                }
                if self.open.take().is_some() {
                    self.blobs.cancel()?;
                }
                self.state = State::Discarded;
                return Ok(None);
            }
            CimOp::EndStream => return self.end_stream().map(Some),
            _ if self.open.is_some() => {
                return Err(Error::new(ErrorKind::Busy, "another stream of the image is open"));
            }
            CimOp::Close | CimOp::Seal { .. } | CimOp::VhdFooter { .. } | CimOp::Sidecar { .. } => {
                return match self.state {
                    State::Committed => Ok(None),
                    _ => self.refuse("the image is not committed"),
                };
            }
            CimOp::CreateImage { kind, .. } => {
                if self.state != State::New {
                    return self.refuse("the image is created already");
                }
                if *kind != self.tree.kind() {
                    return Err(Error::new(
                        ErrorKind::WrongForm { expected: self.tree.kind().name(), got: kind.name() },
                        "an image of another kind",
                    ));
                }
                self.state = State::Writing;
                return Ok(None);
            }
            _ => {}
        }
        match self.state {
            State::Writing => {}
            State::New => return self.refuse("the image is not created yet"),
            State::Committed => return self.refuse("the image is committed"),
            State::Discarded => return self.refuse("the image is discarded"),
        }
        match op {
            CimOp::CreateFile { path, meta, size } => {
                let slot = self.tree.create_file(path, meta, *size)?;
                self.begin(slot, if meta.is_dir() { 0 } else { *size })?;
            }
            CimOp::CreateStream { of, name, size } => {
                let slot = self.tree.create_stream(of, name, *size)?;
                self.begin(slot, *size)?;
            }
            CimOp::HardLink { path, target } => self.tree.hard_link(path, target)?,
            CimOp::MergeLink { path, target } => self.tree.merge_link(path, target)?,
            CimOp::Delete { path } => self.tree.delete(path)?,
            CimOp::Tombstone { path } => self.tree.tombstone(path)?,
            // Its bytes come when somebody merges it: until then the file is there, and has no digest.
            CimOp::AddMergedHive { path, meta } => drop(self.tree.create_file(path, meta, 0)?),
            CimOp::AddSource { container, name, flags } => {
                let source = Source { container: (*container).into(), name: (*name).clone(), flags: *flags };
                self.tree.add_source(source)?;
            }
            CimOp::Commit => self.state = State::Committed,
            // What was dealt with above, and what is done beside the image: spooled files, merged hives.
            _ => {}
        }
        Ok(None)
    }

    /// The open stream has bytes of this digest, which are kept somewhere already.
    pub(crate) fn end_with(&mut self, sha256: [u8; 32]) -> Result<()> {
        let Some(Open { slot, .. }) = self.open.take() else { return self.refuse("no stream is open") };
        self.tree.finish_stream(slot, sha256);
        self.blobs.cancel()
    }

    fn begin(&mut self, slot: StreamSlot, size: u64) -> Result<()> {
        self.open = Some(Open { slot, size, written: 0 });
        self.blobs.begin(size)
    }

    fn end_stream(&mut self) -> Result<Ended> {
        let Some(Open { slot, size, written }) = self.open.take() else {
            return self.refuse("no stream is open");
        };
        let mut owed = size - written;
        if owed > PADDING_MAX {
            let kind = ErrorKind::SizeMismatch { expected: size, got: written };
            return Err(Error::new(kind, "most of the stream was not written"));
        }
        const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
        while owed > 0 {
            let now = ZEROS.len().min(usize::try_from(owed).unwrap_or(ZEROS.len()));
            self.blobs.write(&ZEROS[..now])?;
            owed -= now as u64;
        }
        let sha256 = self.blobs.end()?;
        self.tree.finish_stream(slot, sha256);
        Ok(Ended { size, sha256 })
    }

    fn refuse<T>(&self, why: &str) -> Result<T> {
        Err(Error::new(ErrorKind::FailedPrecondition, why))
    }
}

impl<B: BlobSink> CimSink for ModelSink<B> {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.take(op).map(drop)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return self.refuse("no stream is open") };
        let written = open.written + bytes.len() as u64;
        if written > open.size {
            let kind = ErrorKind::SizeMismatch { expected: open.size, got: written };
            return Err(Error::new(kind, "more bytes than the stream was announced with"));
        }
        open.written = written;
        self.blobs.write(bytes)
    }
}
