//! Writing a blob: bytes in, then a commit that makes them a blob, or nothing.

use std::{fmt, io};

use layer_model::{Digest, Error, ErrorKind, Result, digest::Algorithm};

use crate::{Labels, Status, WriterOptions, labels, store::computable};

/// Writes the bytes of one ingest. Dropping it keeps what was written, for the next writer of the reference.
///
/// # Laws
/// - [`write`](io::Write::write) appends. What does not fit into the total announced fails with
///   [`ErrorKind::SizeMismatch`], before any byte of it is taken.
/// - [`commit`](Self::commit) and [`close`](Self::close) end the writer and free the reference, whatever
///   they return.
/// - After [`abort`](crate::ContentStore::abort) of the reference every call fails with
///   [`ErrorKind::FailedPrecondition`], at the latest when bytes reach the store.
///
/// An error that comes through `io::Write` is taken out again by [`Error::io`].
pub trait Writer: io::Write + Send {
    /// How far the ingest is, with the bytes that this writer still holds back.
    fn status(&self) -> Status;

    /// The digest of all bytes so far.
    ///
    /// # Errors
    /// Those of the operating system.
    fn digest(&mut self) -> Result<Digest>;

    /// Cuts the ingest to its first `size` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it has fewer.
    fn truncate(&mut self, size: u64) -> Result<()>;

    /// Makes what was written so far survive a power failure.
    ///
    /// # Errors
    /// Those of the operating system.
    fn sync(&mut self) -> Result<()>;

    /// Makes the bytes a blob: whole, durable, with its labels, under its digest.
    ///
    /// # Errors
    /// - [`ErrorKind::FailedPrecondition`]: size or digest are not those expected (then the cause is
    ///   [`ErrorKind::SizeMismatch`] or [`ErrorKind::DigestMismatch`] and the bytes are kept), or the ingest
    ///   was aborted.
    /// - [`ErrorKind::AlreadyExists`]: the blob is there; its digest is the entry of the error, its labels
    ///   are as they were. [`publish`](crate::ContentStoreExt::publish) takes that for success.
    /// - [`ErrorKind::InvalidArgument`]: labels beyond their limits.
    fn commit(self: Box<Self>, options: &CommitOptions) -> Result<Committed>;

    /// Ends the writer and keeps the bytes, as dropping it does, but says what went wrong.
    ///
    /// # Errors
    /// Those of the operating system.
    fn close(self: Box<Self>) -> Result<Status>;
}

impl<W: Writer + ?Sized> Writer for Box<W> {
    fn status(&self) -> Status {
        (**self).status()
    }

    fn digest(&mut self) -> Result<Digest> {
        (**self).digest()
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        (**self).truncate(size)
    }

    fn sync(&mut self) -> Result<()> {
        (**self).sync()
    }

    fn commit(self: Box<Self>, options: &CommitOptions) -> Result<Committed> {
        (*self).commit(options)
    }

    fn close(self: Box<Self>) -> Result<Status> {
        (*self).close()
    }
}

impl fmt::Debug for dyn Writer + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("dyn Writer").field(&self.status()).finish()
    }
}

/// What a commit checks and sets.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CommitOptions {
    /// Expect this digest. It may be of another algorithm than the writer's.
    pub digest: Option<Digest>,
    /// Expect this many bytes.
    pub size: Option<u64>,
    /// Set these labels.
    pub labels: Labels,
    /// A digest that the caller has computed over the bytes.
    pub trusted: Option<TrustedDigest>,
}

impl CommitOptions {
    /// Expects nothing, sets nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects this digest.
    #[must_use]
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Expects this many bytes.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Sets a label; one with an empty value is not set.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Sets these labels besides those given before.
    #[must_use]
    pub fn labels(mut self, labels: Labels) -> Self {
        self.labels.extend(labels);
        self
    }

    /// Takes this digest as computed; see [`TrustedDigest`].
    #[must_use]
    pub fn trusted(mut self, trusted: TrustedDigest) -> Self {
        self.trusted = Some(trusted);
        self
    }

    /// The labels to store: checked, and without those of empty value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] beyond the limits.
    pub fn stored_labels(&self) -> Result<Labels> {
        let mut kept = self.labels.clone();
        kept.retain(|_, value| !value.is_empty());
        labels::validate(&kept)?;
        Ok(kept)
    }
}

/// Decides what an ingest of `size` bytes is committed as, or that it is not; for stores.
///
/// `opened` is what the writer was opened with, its total completed from what was stored; `running` is the
/// digest of all bytes, where the writer hashed them; `hash` reads them back and hashes them.
///
/// # Errors
/// As [`Writer::commit`], where size or digest are not those expected; those of `hash`.
pub fn settle(
    options: &CommitOptions,
    opened: &WriterOptions,
    size: u64,
    running: Option<Digest>,
    hash: &mut dyn FnMut(Algorithm) -> Result<Digest>,
) -> Result<Digest> {
    let vouched = options.trusted.as_ref();
    for expected in [options.size, opened.total, vouched.map(TrustedDigest::size)].into_iter().flatten() {
        if expected != size {
            let kind = ErrorKind::SizeMismatch { expected, got: size };
            return Err(refused(Error::new(kind, "not the size expected")));
        }
    }
    let check = |expected: &Digest, got: Digest| {
        if *expected == got {
            return Ok(got);
        }
        let kind = ErrorKind::DigestMismatch { expected: expected.clone(), got };
        Err(refused(Error::new(kind, "not the digest expected")))
    };
    let mut name = match (running, vouched.map(TrustedDigest::digest)) {
        (Some(running), Some(vouched)) if vouched.algorithm_name() == running.algorithm_name() => {
            check(vouched, running)?
        }
        (Some(running), _) => running,
        (None, Some(vouched)) => vouched.clone(),
        (None, None) => hash(opened.hash_with()?)?,
    };
    // The one expected at commit is looked at last: where two algorithms are asked for, it names the blob.
    for expected in [&opened.digest, &options.digest].into_iter().flatten() {
        let same = expected.algorithm_name() == name.algorithm_name();
        let got = if same { name } else { hash(computable(expected)?)? };
        name = check(expected, got)?;
    }
    Ok(name)
}

/// A commit that does not get what it expects: the state forbids it, and the cause says why.
fn refused(cause: Error) -> Error {
    Error::new(ErrorKind::FailedPrecondition, "commit refused").cause(cause)
}

/// A digest that the caller has computed over exactly the bytes of an ingest, first to last.
///
/// A pipeline that compresses a layer into a store hashes the compressed bytes anyway, in a thread of its
/// own. So that they are not hashed twice, it opens the writer with
/// [`Hashing::AtCommit`](crate::Hashing::AtCommit) and gives the digest here. The store believes it: whoever
/// makes one vouches that `digest` is that of the bytes written, and not that of some descriptor. A store
/// checks the size, and, when the writer did hash, the digest too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedDigest {
    digest: Digest,
    size: u64,
}

impl TrustedDigest {
    /// `digest` was computed over all `size` bytes of the ingest, those of earlier writers included.
    pub fn computed_over(size: u64, digest: Digest) -> Self {
        Self { digest, size }
    }

    /// The digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes it was computed over.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// A blob that is there.
#[derive(Debug)]
#[non_exhaustive]
pub struct Committed {
    /// Its name.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Whether it was there before. [`Writer::commit`] itself fails then; the helpers take it for success.
    pub existed: bool,
    /// What could not be done beside the blob: it is whole and durable all the same.
    pub warnings: Vec<Error>,
}

impl Committed {
    /// A new blob, without warnings; for stores.
    pub fn new(digest: Digest, size: u64) -> Self {
        Self { digest, size, existed: false, warnings: Vec::new() }
    }
}

/// The error that a blob is there; for stores.
pub fn already_exists(digest: &Digest) -> Error {
    Error::new(ErrorKind::AlreadyExists, "the blob is there already").entry(digest.as_str())
}

/// The error that no blob has this digest; for stores.
pub fn no_such_blob(digest: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, "no such blob").entry(digest.as_str())
}

/// The error that nothing is ingested under this reference; for stores.
pub fn no_such_ingest(reference: &str) -> Error {
    Error::new(ErrorKind::NotFound, "no ingest under this reference").entry(reference)
}

/// The error that a writer's ingest was aborted; for stores.
pub fn aborted(reference: &str) -> Error {
    Error::new(ErrorKind::FailedPrecondition, "the ingest was aborted").entry(reference)
}

/// Checks a reference; for stores.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] when it is empty or has more than 4096 bytes.
pub fn validate_reference(reference: &str) -> Result<()> {
    // References are stored and listed, never used as a path; the bound keeps reading them back bounded.
    match reference.len() {
        0 => Err(Error::new(ErrorKind::InvalidArgument, "a reference must not be empty")),
        1..=4096 => Ok(()),
        n => Err(Error::new(ErrorKind::InvalidArgument, format!("a reference of {n} bytes is too long"))),
    }
}

/// The error that more is written than was announced; for stores.
pub fn beyond_total(reference: &str, total: u64, got: u64) -> Error {
    Error::new(ErrorKind::SizeMismatch { expected: total, got }, "more bytes than announced").entry(reference)
}

/// The error that an ingest is to be cut beyond its end; for stores.
pub fn truncate_beyond_end(reference: &str, size: u64) -> Error {
    let message = format!("the ingest has no {size} bytes to keep");
    Error::new(ErrorKind::InvalidArgument, message).entry(reference)
}
