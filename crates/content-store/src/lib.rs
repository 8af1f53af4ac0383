//! Blobs by digest: ingest, commit, labels, leases, garbage collection, in an OCI image layout.
//!
//! Container images are blobs that name each other by digest. [`LocalStore`] keeps them in a directory that is
//! at the same time a valid [OCI image layout], so that skopeo, umoci or buildah read what it wrote and it
//! reads what they wrote. Threads and processes may use one store at once. A blob is there whole or not at
//! all, whatever is killed or pulled out: bytes go into an *ingest*, which can be resumed, and become a blob
//! by one rename after everything that was expected of them has been checked.
//!
//! | module or type | holds |
//! |---|---|
//! | [`ContentStore`], [`Writer`] | the traits that a store implements, with their laws |
//! | [`ContentStoreExt`], [`Documents`] | what can be done with any store: copy in, read and write image documents |
//! | [`LocalStore`] | the store in a directory: [tags](LocalStore::resolve), [leases](LocalStore::lease), [collection](LocalStore::gc), [check](LocalStore::check) |
//! | [`MemoryStore`] | a store for tests and for small things |
//! | [`labels`], [`filter`] | labels with containerd's keys, filters in its syntax |
//!
//! It refuses to fetch anything (URLs in descriptors are never followed), to know what a layer is, and to
//! hand out documents that it has not checked. With the feature `testing` it ships the conformance suite that
//! every store is expected to pass.
//!
//! ```
//! # fn main() -> layer_model::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("store");
//! use content_store::{CommitOptions, ContentStore, ContentStoreExt, LocalStore, Source};
//! use layer_model::{Digest, Silent};
//!
//! let store = LocalStore::open_or_create(path)?;
//! let bytes = b"a layer".to_vec();
//! let expected = CommitOptions::new().digest(Digest::sha256(&bytes)).size(7).label("example.org/from", "a doc");
//!
//! // Under its reference an interrupted transfer goes on where it ended.
//! let blob = store.write_blob("layer-1", Source::At(&bytes), &expected, &Silent)?;
//! assert_eq!(store.info(&blob.digest)?.labels["example.org/from"], "a doc");
//! # Ok(())
//! # }
//! ```
//!
//! [OCI image layout]: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
#![forbid(unsafe_code)]

pub mod document;
mod ext;
pub mod filter;
mod json;
pub mod labels;
#[cfg(unix)]
pub mod local;
mod memory;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod writer;

pub use document::{Document, Documents, Image};
pub use ext::{ContentStoreExt, ReadSeek, Source};
pub use filter::Filters;
pub use labels::{LabelUpdate, Labels};
#[cfg(unix)]
pub use local::{
    CheckOptions, CheckReport, GcOptions, GcReport, Lease, LeaseInfo, LeaseOptions, LocalOptions, LocalStore,
    Problem, Tagged,
};
pub use memory::MemoryStore;
/// The image documents as types. They keep no unknown fields; [`Document`] does.
pub use oci_spec::image as oci;
pub use store::{ContentStore, Hashing, Info, Status, WriterOptions};
pub use writer::{CommitOptions, Committed, TrustedDigest, Writer};
