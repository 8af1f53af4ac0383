//! A sink that writes through a table.

use layer_model::{Error, ErrorKind, Result};

use super::{
    CimApi,
    api::{Image, OpenStream},
};
use crate::{CimKind, CimName, CimOp, CimSink, op::CreateFlags};

/// Writes one image through a [`CimApi`].
///
/// Keeps the laws of [`CimSink`] by itself, whatever the functions would let through: one stream at a time, which gets
/// exactly its bytes; nothing is committed after a failure; dropped, it closes what is open and commits nothing. An
/// image that CimFS made is asked for its root digest only once it is sealed.
///
/// Operations beside the image are carried out where they concern the container (footer, sidecar); what is put into
/// the layer directory is none of its business.
///
/// Deleting what is not there fails with [`ErrorKind::NotFound`], as Windows has it, and is the one failure after which
/// it goes on.
#[derive(Debug)]
pub struct TableSink {
    api: CimApi,
    // The stream is closed before its image: fields are dropped in order.
    stream: Option<OpenStream>,
    image: Option<Image>,
    container: String,
    flags: CreateFlags,
    /// Sources were added.
    merges: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Writing,
    /// An operation failed: only discarding is left.
    Failed,
    Committed,
    Closed,
    Sealed,
    Discarded,
}

impl TableSink {
    /// A sink for one image, which its first operation creates.
    pub fn new(api: CimApi) -> Self {
        let (container, flags) = (String::new(), CreateFlags::empty());
        Self { api, stream: None, image: None, container, flags, merges: false, state: State::New }
    }

    /// The functions that it calls.
    pub fn api(&self) -> &CimApi {
        &self.api
    }

    fn take(&mut self, op: &CimOp<'_>) -> Result<()> {
        if let CimOp::Discard = op {
            return self.discard();
        }
        if self.state == State::Failed {
            return refuse("an operation before this one failed, the image can only be discarded");
        }
        match op {
            CimOp::EndStream => {
                let Some(stream) = self.stream.take() else { return refuse("no stream is open") };
                return stream.finish();
            }
            _ if self.stream.is_some() => {
                return Err(Error::new(ErrorKind::Busy, "another stream of the image is open"));
            }
            // Told for the record; the plan does them in the layer directory.
            CimOp::Spool { .. } | CimOp::MergeHive { .. } => return Ok(()),
            CimOp::AddMergedHive { .. } => {
                let what = "a hive that is not merged yet cannot be added to an image of CimFS";
                return Err(Error::new(ErrorKind::NotSupported, what));
            }
            _ => {}
        }
        match (self.state, op) {
            (State::New, CimOp::CreateImage { kind, container, name, parent, flags }) => {
                self.create(*kind, container, name, *parent, *flags)
            }
            (State::Writing, CimOp::CreateImage { .. }) => refuse("the image is created already"),
            (State::New, _) => refuse("the image is not created yet"),
            (State::Writing, CimOp::Commit) => {
                self.image()?.commit().map_err(|error| match error.kind() {
                    // There is nothing else that merging looks for.
                    ErrorKind::NotFound if self.merges => {
                        let what = "a merged link leads to no file";
                        Error::new(ErrorKind::DanglingMergedLink, what).cause(error)
                    }
                    _ => error,
                })?;
                self.state = State::Committed;
                Ok(())
            }
            (
                State::Writing,
                CimOp::Close | CimOp::Seal { .. } | CimOp::VhdFooter { .. } | CimOp::Sidecar { .. },
            ) => refuse("the image is not committed"),
            (State::Writing, op) => self.change(op),
            (State::Committed, CimOp::Close) => {
                self.image = None;
                self.state = State::Closed;
                Ok(())
            }
            (State::Closed, CimOp::Seal { container }) => self.seal(container),
            (State::Closed | State::Sealed, CimOp::VhdFooter { size, unique_id }) => {
                self.footer(*size, *unique_id)
            }
            (State::Closed | State::Sealed, CimOp::Sidecar { name, text }) => {
                self.api.containers().write_beside(&self.container, name, text)
            }
            (State::Committed, _) => refuse("the image is committed, and has to be closed"),
            (State::Sealed, CimOp::Seal { .. }) => refuse("the image is sealed already"),
            (State::Closed | State::Sealed, _) => refuse("the image is closed"),
            (State::Discarded, _) => refuse("the image is discarded"),
            (State::Failed, _) => refuse("an operation failed before"),
        }
    }

    fn create(
        &mut self,
        kind: CimKind,
        container: &str,
        name: &CimName,
        parent: Option<&CimName>,
        flags: CreateFlags,
    ) -> Result<()> {
        check_create(kind, parent, flags)?;
        let made = match kind {
            // The older function does for what older systems can.
            CimKind::Forked if flags.is_empty() => self.api.create_image(container, parent, Some(name)),
            _ => self.api.create_image2(container, flags, parent, Some(name)),
        };
        self.image = Some(made.map_err(|error| error.entry(name.as_str()))?);
        self.container = container.to_owned();
        self.flags = flags;
        self.state = State::Writing;
        Ok(())
    }

    fn change(&mut self, op: &CimOp<'_>) -> Result<()> {
        self.merges |= matches!(op, CimOp::AddSource { .. });
        let image = self.image()?;
        match op {
            CimOp::CreateFile { path, meta, size } => {
                self.stream =
                    Some(image.create_file(path, meta, *size).map_err(|error| error.entry(path.as_bytes()))?);
                Ok(())
            }
            CimOp::CreateStream { of, name, size } => {
                let made = image.create_stream(of, name, *size);
                self.stream = Some(made.map_err(|error| error.entry(format!("{of}:{name}")))?);
                Ok(())
            }
            CimOp::HardLink { path, target } => {
                image.hard_link(path, target).map_err(|error| error.entry(path.as_bytes()))
            }
            CimOp::MergeLink { path, target } => {
                image.merge_link(path, target).map_err(|error| error.entry(path.as_bytes()))
            }
            CimOp::Delete { path } => image.delete(path).map_err(|error| error.entry(path.as_bytes())),
            CimOp::Tombstone { path } => image.tombstone(path).map_err(|error| error.entry(path.as_bytes())),
            CimOp::AddSource { container, name, flags } => image.add_source(container, name, *flags),
            _ => refuse("an operation that CimFS does not know"),
        }
    }

    fn image(&self) -> Result<&Image> {
        self.image.as_ref().ok_or_else(|| Error::new(ErrorKind::FailedPrecondition, "no image is open"))
    }

    fn seal(&mut self, container: &str) -> Result<()> {
        if !self.flags.contains(CreateFlags::VERIFIED) {
            return refuse("the image is not verified");
        }
        if container != self.container {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "another container is sealed than was written",
            )
            .entry(container));
        }
        self.api.seal(container)?;
        self.state = State::Sealed;
        Ok(())
    }

    fn footer(&mut self, size: u64, unique_id: [u8; 16]) -> Result<()> {
        if self.flags.contains(CreateFlags::VERIFIED) && self.state != State::Sealed {
            return refuse("a verified image is sealed before a footer is appended");
        }
        self.api.containers().append_footer(&self.container, size, unique_id)
    }

    fn discard(&mut self) -> Result<()> {
        if matches!(self.state, State::Committed | State::Closed | State::Sealed) {
            return refuse("the image is committed");
        }
        // Closed without a commit, an image is forgotten.
        self.stream = None;
        self.image = None;
        self.state = State::Discarded;
        Ok(())
    }
}

/// What kinds of images there are.
pub(crate) fn check_create(kind: CimKind, parent: Option<&CimName>, flags: CreateFlags) -> Result<()> {
    let block = CreateFlags::SINGLE_FILE | CreateFlags::BLOCK_DEVICE;
    let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidArgument, what));
    match kind {
        CimKind::Forked if flags.intersects(block | CreateFlags::CONSISTENT | CreateFlags::VERIFIED) => {
            refuse("standard CIMs are neither in containers nor consistent nor verified")
        }
        CimKind::Block if parent.is_some() => refuse("block CIMs cannot be forked"),
        CimKind::Block if flags.contains(block) => refuse("a container is a file or a device, not both"),
        CimKind::Block if !flags.intersects(block) => refuse("a container is a file or a device"),
        CimKind::Forked | CimKind::Block => Ok(()),
    }
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::new(ErrorKind::FailedPrecondition, why))
}

impl CimSink for TableSink {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        let done = self.take(op);
        if let Err(error) = &done {
            let goes_on = matches!(op, CimOp::Delete { .. }) && *error.kind() == ErrorKind::NotFound;
            if !goes_on && matches!(self.state, State::New | State::Writing) {
                self.stream = None;
                self.state = State::Failed;
            }
        }
        done
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.state == State::Failed {
            return refuse("an operation before this one failed, the image can only be discarded");
        }
        let Some(stream) = &mut self.stream else { return refuse("no stream is open") };
        let done = stream.write(bytes);
        if done.is_err() {
            self.stream = None;
            self.state = State::Failed;
        }
        done
    }

    fn root_digest(&mut self) -> Result<Option<[u8; 32]>> {
        if self.state != State::Sealed {
            return Ok(None);
        }
        let found = self.api.verification(&self.container)?;
        match found.root {
            Some(root) => Ok(Some(root)),
            None => {
                let what = "the container says that it is not sealed";
                Err(Error::new(ErrorKind::CorruptImage, what).entry(&self.container))
            }
        }
    }

    fn container_len(&mut self) -> Result<Option<u64>> {
        match self.state {
            State::Closed | State::Sealed => self.api.containers().size(&self.container),
            _ => Ok(None),
        }
    }
}
