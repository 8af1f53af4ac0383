//! Processors that are programs.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread::{self, JoinHandle},
};

use command_fds::{CommandFdExt, FdMapping};
use layer_model::{Error, ErrorKind, IoContext, MediaType, Result};

use super::{LayerProcessor, ProcessorRead};

/// The variable that tells a program what it is given, as containerd has it.
const MEDIA_TYPE_VARIABLE: &str = "STREAM_PROCESSOR_MEDIATYPE";

/// The descriptor on which a program finds its payload, as containerd has it.
const PAYLOAD_FD: i32 = 3;

/// How much of a program's complaints is kept.
const MAX_COMPLAINT: u64 = 16 * 1024;

/// Runs a program for each blob of one media type: the blob on its standard input, the result on its standard
/// output; the protocol of containerd's stream processors.
///
/// The program is named by an absolute path: nothing is looked up, least of all in a layer (CVE-2014-9357). It gets
/// an empty environment but for the media type, and fails the layer when it exits with a status other than zero
/// or writes anything to standard error.
#[derive(Clone, Debug)]
pub struct CommandProcessor {
    accepts: MediaType,
    returns: MediaType,
    program: PathBuf,
    args: Vec<String>,
    payload: Option<Vec<u8>>,
    spool: Option<PathBuf>,
}

impl CommandProcessor {
    /// Runs `program` for blobs of the type `accepts`; it gives blobs of the type `returns`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the path of the program is not absolute.
    pub fn new(accepts: MediaType, returns: MediaType, program: impl Into<PathBuf>) -> Result<Self> {
        let program = program.into();
        if !program.is_absolute() {
            let message = format!("the path of the processor {} is not absolute", program.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { accepts, returns, program, args: Vec::new(), payload: None, spool: None })
    }

    /// With these arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// With bytes that the program reads from descriptor 3, by way of an unnamed file in the directory `spool`.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>, spool: impl Into<PathBuf>) -> Self {
        self.payload = Some(payload.into());
        self.spool = Some(spool.into());
        self
    }

    fn payload_file(&self) -> Result<Option<File>> {
        let (Some(payload), Some(spool)) = (&self.payload, &self.spool) else { return Ok(None) };
        let mut file = tempfile::tempfile_in(spool).during("make the payload of the processor")?;
        file.write_all(payload).during("make the payload of the processor")?;
        file.rewind().during("make the payload of the processor")?;
        Ok(Some(file))
    }
}

impl LayerProcessor for CommandProcessor {
    fn accepts(&self, media_type: &MediaType) -> Option<MediaType> {
        (*media_type == self.accepts).then(|| self.returns.clone())
    }

    fn wrap(&self, mut input: Box<dyn Read + Send>) -> Result<Box<dyn ProcessorRead>> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().env(MEDIA_TYPE_VARIABLE, self.accepts.as_str());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(file) = self.payload_file()? {
            let mapping = FdMapping { parent_fd: OwnedFd::from(file), child_fd: PAYLOAD_FD };
            command.fd_mappings(vec![mapping]).map_err(|error| {
                Error::new(ErrorKind::InvalidArgument, "hand the payload to the processor").cause(error)
            })?;
        }
        let mut child = command.spawn().during("start the layer processor")?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feeder = thread::spawn(move || match stdin {
            // A program may stop reading when it has all it needs; what is wrong then, its status says.
            Some(mut stdin) => match io::copy(&mut input, &mut stdin) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        });
        let complaints = thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stderr) = stderr {
                let kept = stderr.by_ref().take(MAX_COMPLAINT).read_to_end(&mut text);
                // The rest is read too, so that the program does not wait for room.
                let _ = kept.and_then(|_| io::copy(&mut stderr, &mut io::sink()));
            }
            text
        });
        let program = self.program.clone();
        Ok(Box::new(Running { program, child, stdout, feeder: Some(feeder), complaints: Some(complaints) }))
    }
}

/// A program at work.
struct Running {
    program: PathBuf,
    child: Child,
    stdout: Option<ChildStdout>,
    feeder: Option<JoinHandle<io::Result<()>>>,
    complaints: Option<JoinHandle<Vec<u8>>>,
}

impl Read for Running {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read(buf))
    }
}

impl ProcessorRead for Running {
    fn finish(mut self: Box<Self>) -> Result<()> {
        self.stdout = None;
        let status = self.child.wait().during("wait for the layer processor")?;
        let panicked = |_| Error::new(ErrorKind::Io(None), "a thread of the layer processor has panicked");
        let fed = self.feeder.take().map_or(Ok(Ok(())), JoinHandle::join).map_err(panicked)?;
        let complaints = self.complaints.take().map_or(Ok(Vec::new()), JoinHandle::join).map_err(panicked)?;
        // An error of the blob is the cause of whatever the program made of it.
        fed.during("feed the layer processor")?;
        let text = String::from_utf8_lossy(&complaints);
        if status.success() && text.trim().is_empty() {
            return Ok(());
        }
        let message = format!("processor {} failed with {status}: {:?}", self.program.display(), text.trim());
        Err(Error::new(ErrorKind::InvalidArchive, message))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.feeder.is_some() {
            // The blob was given up: nobody will read the rest. The threads end with their pipes.
            self.stdout = None;
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
