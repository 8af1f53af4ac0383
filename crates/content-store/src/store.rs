//! The trait of a store, and what goes in and comes out of it.

use std::{fmt, sync::Arc, time::SystemTime};

use layer_model::{Digest, ReadAt, Result, digest::Algorithm};

use crate::{
    LabelUpdate, Labels, Writer,
    filter::{self, Fields, Filters},
};

/// Blobs by digest.
///
/// All methods may be called from several threads. What they return owns what it needs, so a reader or a
/// writer may outlive the borrow of the store. Sugar is in [`ContentStoreExt`](crate::ContentStoreExt) and
/// [`Documents`](crate::Documents).
///
/// # Laws
/// - A blob that can be seen is whole: its bytes have the digest that names it. Nothing else can be seen
///   under a digest at any time, whatever is interrupted.
/// - A blob never changes; only its labels do.
/// - A reference has one writer at a time. A second [`writer`](Self::writer) fails with
///   [`ErrorKind::Unavailable`](layer_model::ErrorKind::Unavailable).
/// - What a writer wrote stays under its reference until it is committed or aborted: dropping the writer
///   keeps it, and the next writer of the reference goes on where it ended.
/// - What cannot be gone on with (another total, a foreign reference) is started over, from nothing.
/// - A commit is refused with [`ErrorKind::FailedPrecondition`](layer_model::ErrorKind::FailedPrecondition)
///   when size or digest are not those expected; the cause says which. The reference then keeps its bytes.
/// - A blob that is there already makes [`writer`](Self::writer) (with an expected digest) and
///   [`Writer::commit`] fail with [`ErrorKind::AlreadyExists`](layer_model::ErrorKind::AlreadyExists), and
///   the reference is free again.
/// - Labels given at commit are there as soon as the blob is.
/// - Walks come in the order of digests, lists in the order of references.
///
/// With the feature `testing`, `testing::store_conformance` checks them.
pub trait ContentStore: Send + Sync {
    /// What is known about a blob.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](layer_model::ErrorKind::NotFound).
    fn info(&self, digest: &Digest) -> Result<Info>;

    /// Opens a blob for reading. Its bytes are not checked again: whoever has to be sure computes the digest
    /// on the way.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](layer_model::ErrorKind::NotFound).
    fn reader(&self, digest: &Digest) -> Result<Box<dyn ReadAt>>;

    /// Begins or resumes the ingest under `reference`: any text that names this transfer, `layer-sha256:…`
    /// say.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidArgument`](layer_model::ErrorKind::InvalidArgument): the reference is empty or
    ///   too long.
    /// - [`ErrorKind::Unavailable`](layer_model::ErrorKind::Unavailable): it has a writer;
    ///   [`open_writer`](crate::ContentStoreExt::open_writer) waits.
    /// - [`ErrorKind::AlreadyExists`](layer_model::ErrorKind::AlreadyExists): the blob expected is there.
    /// - [`ErrorKind::NotSupported`](layer_model::ErrorKind::NotSupported): the digest expected is of an
    ///   algorithm that is not computed here.
    fn writer(&self, reference: &str, options: &WriterOptions) -> Result<Box<dyn Writer>>;

    /// Changes the labels of a blob, atomically, and gives its information after that.
    ///
    /// # Errors
    /// - [`ErrorKind::NotFound`](layer_model::ErrorKind::NotFound).
    /// - [`ErrorKind::InvalidArgument`](layer_model::ErrorKind::InvalidArgument): beyond the limits of labels.
    /// - [`ErrorKind::FailedPrecondition`](layer_model::ErrorKind::FailedPrecondition): a store without labels.
    fn update(&self, digest: &Digest, update: &LabelUpdate) -> Result<Info>;

    /// Removes a blob and its labels. Readers that are open keep reading.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](layer_model::ErrorKind::NotFound).
    fn delete(&self, digest: &Digest) -> Result<()>;

    /// Visits the blobs that pass the filters: fields `digest` and `labels.<key>`; `size` is there, as
    /// decimal digits. Ends at the first error of `visit`, with that error.
    ///
    /// # Errors
    /// Those of `visit`, and those of the operating system.
    fn walk(&self, filters: &Filters, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()>;

    /// How far the ingest under a reference is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](layer_model::ErrorKind::NotFound).
    fn status(&self, reference: &str) -> Result<Status>;

    /// All ingests that pass the filters: field `ref`.
    ///
    /// # Errors
    /// Those of the operating system.
    fn list_statuses(&self, filters: &Filters) -> Result<Vec<Status>>;

    /// Drops the ingest under a reference. A writer at work on it fails at its next call, and the reference
    /// is free again when that writer is gone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](layer_model::ErrorKind::NotFound).
    fn abort(&self, reference: &str) -> Result<()>;
}

macro_rules! forward_content_store {
    ($($pointer:ty),*) => {$(
        impl<T: ContentStore + ?Sized> ContentStore for $pointer {
            fn info(&self, digest: &Digest) -> Result<Info> {
                (**self).info(digest)
            }

            fn reader(&self, digest: &Digest) -> Result<Box<dyn ReadAt>> {
                (**self).reader(digest)
            }

            fn writer(&self, reference: &str, options: &WriterOptions) -> Result<Box<dyn Writer>> {
                (**self).writer(reference, options)
            }

            fn update(&self, digest: &Digest, update: &LabelUpdate) -> Result<Info> {
                (**self).update(digest, update)
            }

            fn delete(&self, digest: &Digest) -> Result<()> {
                (**self).delete(digest)
            }

            fn walk(&self, filters: &Filters, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
                (**self).walk(filters, visit)
            }

            fn status(&self, reference: &str) -> Result<Status> {
                (**self).status(reference)
            }

            fn list_statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
                (**self).list_statuses(filters)
            }

            fn abort(&self, reference: &str) -> Result<()> {
                (**self).abort(reference)
            }
        }
    )*};
}

forward_content_store!(&T, Box<T>, Arc<T>);

/// What is known about a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Its name.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// When it was committed.
    pub created: SystemTime,
    /// When its labels last changed, or it was last found to be there already. A local store keeps this in
    /// the access time of the file, so on some mounts reading moves it too.
    pub updated: SystemTime,
    /// Its labels.
    pub labels: Labels,
}

impl Info {
    /// Information with these times; for stores.
    pub fn new(digest: Digest, size: u64, created: SystemTime, updated: SystemTime, labels: Labels) -> Self {
        Self { digest, size, created, updated, labels }
    }

    /// Whether this passes the filters.
    pub fn passes(&self, filters: &Filters) -> bool {
        let size = self.size.to_string();
        filters.matches(&InfoFields { info: self, size: &size })
    }
}

struct InfoFields<'a> {
    info: &'a Info,
    size: &'a str,
}

impl Fields for InfoFields<'_> {
    fn field(&self, path: &[String]) -> Option<&str> {
        match path.split_first() {
            Some((first, [])) if first == "digest" => Some(self.info.digest.as_str()),
            Some((first, [])) if first == "size" => Some(self.size),
            Some((first, key)) if first == "labels" => filter::label(&self.info.labels, key),
            _ => None,
        }
    }
}

/// How far an ingest is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The reference of the ingest.
    pub reference: String,
    /// How many bytes it holds.
    pub offset: u64,
    /// How many bytes it will have, when that is known.
    pub total: Option<u64>,
    /// When it began.
    pub started: SystemTime,
    /// When it last got bytes.
    pub updated: SystemTime,
}

impl Status {
    /// The status of an ingest that holds nothing yet; for stores.
    pub fn new(reference: impl Into<String>, total: Option<u64>, now: SystemTime) -> Self {
        Self { reference: reference.into(), offset: 0, total, started: now, updated: now }
    }

    /// Whether this passes the filters.
    pub fn passes(&self, filters: &Filters) -> bool {
        filters.matches(self)
    }
}

impl Fields for Status {
    fn field(&self, path: &[String]) -> Option<&str> {
        (path.len() == 1 && path[0] == "ref").then_some(&self.reference)
    }
}

/// How an ingest is written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The digest that the bytes will have, when that is known.
    pub digest: Option<Digest>,
    /// How many bytes there will be, when that is known. Writing more fails at once.
    pub total: Option<u64>,
    /// What to name the blob by, when no digest is expected.
    pub algorithm: Algorithm,
    /// When bytes are hashed.
    pub hashing: Hashing,
}

/// When a writer hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hashing {
    /// As the bytes pass through the writer.
    #[default]
    OnWrite,
    /// At commit, and then not at all when the commit carries a
    /// [`TrustedDigest`](crate::TrustedDigest): for pipelines that compute the digest on the way, in a thread
    /// of their own. Without one, the bytes are read back and hashed.
    AtCommit,
}

impl WriterOptions {
    /// Nothing expected.
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
    pub fn total(mut self, bytes: u64) -> Self {
        self.total = Some(bytes);
        self
    }

    /// Names the blob by this algorithm, when no digest is expected.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Hashes at this time.
    #[must_use]
    pub fn hashing(mut self, hashing: Hashing) -> Self {
        self.hashing = hashing;
        self
    }

    /// The algorithm to hash with.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`](layer_model::ErrorKind::NotSupported): the digest expected is of an
    /// algorithm that is not computed here.
    pub fn hash_with(&self) -> Result<Algorithm> {
        self.digest.as_ref().map_or(Ok(self.algorithm), computable)
    }
}

/// The algorithm of a digest that is to be checked.
pub(crate) fn computable(digest: &Digest) -> Result<Algorithm> {
    digest.algorithm().ok_or_else(|| {
        let message = format!("digests of algorithm {:?} are not computed here", digest.algorithm_name());
        layer_model::Error::new(layer_model::ErrorKind::NotSupported, message)
    })
}

impl fmt::Debug for dyn ContentStore + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dyn ContentStore")
    }
}
