//! Operations checked before they are done.
//!
//! [`Validate`] stands in front of any sink and refuses what no image takes, with the kind of error that Windows would
//! give: a sink that is a journal, say, which takes everything, then has nothing in it that would fail later. It knows
//! names only, so that it costs little; bytes pass through.

mod names;

use layer_model::{Error, ErrorKind, Result};

pub use names::Names;

use crate::{
    CimKind, CimOp, CimSink,
    op::{CreateFlags, MergeFlags},
    table::check_create,
};

/// A sink that lets through what an image takes, in an order that it takes.
///
/// Beyond the laws of [`CimSink`] it checks names: that parents are there and directories, that what is linked is a
/// file, that tombstones and entries do not meet. For an image that is forked from another it has to be told what that
/// one has ([`Validate::over`]); else whatever the fork has not written itself may be there or not, and passes.
///
/// After an error it takes nothing but [`CimOp::Discard`]. A deletion that finds nothing is the exception, as nothing
/// has happened then.
#[derive(Debug)]
pub struct Validate<S> {
    sink: S,
    names: Names,
    state: State,
    kind: CimKind,
    flags: CreateFlags,
    container: String,
    /// Announced and written bytes of the open stream.
    stream: Option<(u64, u64)>,
    sources: usize,
    /// Something else than sources was put into the image.
    written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Writing,
    Failed,
    Committed,
    Closed,
    Sealed,
    Discarded,
}

impl<S: CimSink> Validate<S> {
    /// Checks what `sink` gets.
    pub fn new(sink: S) -> Self {
        Self::over(sink, Names::unknown())
    }

    /// Checks what `sink` gets for an image that is forked from one with these names.
    pub fn over(sink: S, inherited: Names) -> Self {
        Self {
            sink,
            names: inherited,
            state: State::New,
            kind: CimKind::Block,
            flags: CreateFlags::empty(),
            container: String::new(),
            stream: None,
            sources: 0,
            written: false,
        }
    }

    /// What the image has, for another one that is forked from it.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The sink.
    pub fn into_inner(self) -> S {
        self.sink
    }

    fn check(&mut self, op: &CimOp<'_>) -> Result<()> {
        if let CimOp::Discard = op {
            return match self.state {
                State::Committed | State::Closed | State::Sealed => refuse("the image is committed"),
                _ => Ok(()),
            };
        }
        if self.state == State::Failed {
            return refuse("an operation before this one failed, the image can only be discarded");
        }
        if let CimOp::EndStream = op {
            return match self.stream {
                None => refuse("no stream is open"),
                Some((size, written)) if written < size => {
                    let kind = ErrorKind::SizeMismatch { expected: size, got: written };
                    Err(Error::new(kind, "fewer bytes than the stream was announced with"))
                }
                Some(_) => Ok(()),
            };
        }
        if self.stream.is_some() {
            return Err(Error::new(ErrorKind::Busy, "another stream of the image is open"));
        }
        match op {
            CimOp::Spool { .. } | CimOp::MergeHive { .. } => return Ok(()), // beside the image, at any time
            CimOp::CreateImage { kind, container, parent, flags, .. } => {
                return match self.state {
                    State::New if container.is_empty() => {
                        Err(Error::new(ErrorKind::InvalidArgument, "the path of the container is empty"))
                    }
                    State::New => check_create(*kind, *parent, *flags),
                    _ => refuse("the image is created already"),
                };
            }
            _ => {}
        }
        match (self.state, op) {
            (State::New, _) => refuse("the image is not created yet"),
            (State::Discarded, _) => refuse("the image is discarded"),
            (State::Writing, CimOp::Commit) if self.sources == 1 => {
                Err(Error::new(ErrorKind::InvalidArgument, "a merged image has two sources or more"))
            }
            (State::Writing, CimOp::Commit) | (State::Committed, CimOp::Close) => Ok(()),
            (
                State::Writing,
                CimOp::Close | CimOp::Seal { .. } | CimOp::VhdFooter { .. } | CimOp::Sidecar { .. },
            ) => refuse("the image is not committed"),
            (State::Writing, CimOp::AddSource { flags, .. }) => self.check_source(*flags),
            (State::Writing, _) if self.sources > 0 => {
                Err(Error::new(ErrorKind::InvalidArgument, "a merged image has what its sources have"))
            }
            (State::Writing, op) => self.names.check(self.kind, op),
            (State::Closed, CimOp::Seal { container }) => {
                if !self.flags.contains(CreateFlags::VERIFIED) {
                    return refuse("the image is not verified");
                }
                if **container != *self.container {
                    let what = "another container is sealed than was written";
                    return Err(Error::new(ErrorKind::InvalidArgument, what).entry(container));
                }
                Ok(())
            }
            (State::Closed, CimOp::VhdFooter { .. }) if self.flags.contains(CreateFlags::VERIFIED) => {
                refuse("a verified image is sealed before a footer is appended")
            }
            (State::Closed | State::Sealed, CimOp::VhdFooter { .. } | CimOp::Sidecar { .. }) => Ok(()),
            (State::Sealed, CimOp::Seal { .. }) => refuse("the image is sealed already"),
            (State::Committed, _) => refuse("the image is committed, and has to be closed"),
            (State::Closed | State::Sealed, _) => refuse("the image is closed"),
            (State::Failed, _) => refuse("an operation failed before"),
        }
    }

    fn check_source(&self, flags: MergeFlags) -> Result<()> {
        let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidArgument, what));
        if self.written {
            return refuse("a merged image has what its sources have");
        }
        let verified = self.flags.contains(CreateFlags::VERIFIED);
        let file = self.flags.contains(CreateFlags::SINGLE_FILE);
        let device = self.flags.contains(CreateFlags::BLOCK_DEVICE);
        if !(file || device) {
            return refuse("standard CIMs are not merged");
        }
        if flags.contains(MergeFlags::SINGLE_FILE) != file
            || flags.contains(MergeFlags::BLOCK_DEVICE) != device
        {
            return refuse("a source is in another kind of container than the merged image");
        }
        if flags.contains(MergeFlags::VERIFIED) != verified {
            return refuse("verified and unverified images cannot be merged");
        }
        Ok(())
    }

    /// What changes once the sink has taken the operation.
    fn done(&mut self, op: &CimOp<'_>) {
        match op {
            CimOp::CreateImage { kind, container, parent, flags, .. } => {
                self.state = State::Writing;
                (self.kind, self.flags, self.container) = (*kind, *flags, (*container).to_owned());
                let inherited = std::mem::take(&mut self.names);
                self.names = if parent.is_some() { inherited.inherited() } else { Names::new() };
            }
            CimOp::CreateFile { meta, size, .. } => {
                self.stream = Some((if meta.is_dir() { 0 } else { *size }, 0));
                self.written = true;
            }
            CimOp::CreateStream { size, .. } => {
                self.stream = Some((*size, 0));
                self.written = true;
            }
            CimOp::EndStream => self.stream = None,
            CimOp::AddSource { .. } => self.sources += 1,
            CimOp::Commit => self.state = State::Committed,
            CimOp::Close => self.state = State::Closed,
            CimOp::Seal { .. } => self.state = State::Sealed,
            CimOp::Discard => {
                self.stream = None;
                self.state = State::Discarded;
            }
            CimOp::HardLink { .. }
            | CimOp::MergeLink { .. }
            | CimOp::Delete { .. }
            | CimOp::Tombstone { .. }
            | CimOp::AddMergedHive { .. } => self.written = true,
            _ => {}
        }
        self.names.apply(op);
    }

    fn fail(&mut self, op: Option<&CimOp<'_>>, error: &Error) {
        let goes_on = matches!(op, Some(CimOp::Delete { .. })) && *error.kind() == ErrorKind::NotFound;
        if !goes_on && matches!(self.state, State::New | State::Writing) {
            self.stream = None;
            self.state = State::Failed;
        }
    }
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::new(ErrorKind::FailedPrecondition, why))
}

impl<S: CimSink> CimSink for Validate<S> {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.check(op).and_then(|()| self.sink.op(op)).inspect_err(|error| self.fail(Some(op), error))?;
        self.done(op);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let checked = match &mut self.stream {
            _ if self.state == State::Failed => {
                refuse("an operation before this one failed, the image can only be discarded")
            }
            None => return refuse("no stream is open"),
            Some((size, written)) => {
                let got = written.saturating_add(bytes.len() as u64);
                if got > *size {
                    let kind = ErrorKind::SizeMismatch { expected: *size, got };
                    Err(Error::new(kind, "more bytes than the stream was announced with"))
                } else {
                    *written = got;
                    Ok(())
                }
            }
        };
        checked.and_then(|()| self.sink.write(bytes)).inspect_err(|error| self.fail(None, error))
    }

    fn root_digest(&mut self) -> Result<Option<[u8; 32]>> {
        if self.state == State::Sealed { self.sink.root_digest() } else { Ok(None) }
    }

    fn container_len(&mut self) -> Result<Option<u64>> {
        self.sink.container_len()
    }
}
