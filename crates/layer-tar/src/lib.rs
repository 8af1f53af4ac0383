//! OCI layer tars as a source and as a sink of changes, and the compression around them.
//!
//! A layer blob is a tar in a wrapping (gzip, zstd, none), named by a media type and two digests: one of the
//! bytes as stored, one (the *diff id*) of the tar inside. This crate turns such a blob into a
//! [`LayerSource`](layer_model::LayerSource) and a [`LayerSink`](layer_model::LayerSink) into such a blob:
//!
//! | level | reading | writing |
//! |---|---|---|
//! | bytes | [`header`], [`pax`], [`sparse`]: parsers without input or output | [`encode`]: headers as Go's `archive/tar` writes them |
//! | archive | [`TarReader`]: entries with offsets, records and payload | |
//! | road | [`TarSource`]: whiteouts, hard links, attributes as changes | [`TarSink`] |
//! | blob | [`LayerBlob`], [`BlobSource`]: decompressed, verified on the way | [`BlobWriter`]: compressed in parallel, hashed on the way |
//!
//! The reader takes every tar that Go's `archive/tar` takes (V7, USTAR, PAX, GNU, base-256 numbers, every
//! sparse encoding), reads it the same way, and has a limit for everything that an archive can ask for. The
//! writer makes, byte for byte, what containerd makes of the same changes.
//!
//! Layers of Windows have names and metadata of their own; see [`ReadOptions::windows`] and
//! [`WriteOptions::windows`].
//!
//! It refuses to touch a file system: paths are cleaned but not resolved, and nothing is unpacked. What a
//! change means on disk is the business of sinks.
//!
//! ```
//! use layer_model::{Change, Entry, EntryKind, LayerPath, LayerSink, LayerSource, Metadata, Silent, road::Content};
//! use layer_tar::{ReadOptions, TarSink, TarSource, WriteOptions};
//!
//! let mut sink = TarSink::new(Vec::new(), WriteOptions::default(), &Silent);
//! let motd = EntryKind::File(Content::from_bytes(b"hello\n"));
//! sink.change(Change::upsert(LayerPath::new(b"motd")?, Entry::new(motd, Metadata::file(0o644))))?;
//! sink.change(Change::remove(LayerPath::new(b"issue")?))?;
//! let (tar, summary) = sink.finish()?;
//! assert_eq!(summary.size, tar.len() as u64);
//!
//! let mut source = TarSource::new(&tar[..], ReadOptions::default(), &Silent);
//! assert_eq!(source.next_change()?.unwrap().path.as_bytes(), b"motd");
//! assert_eq!(source.next_change()?.unwrap().path.as_bytes(), b"issue");
//! assert!(source.next_change()?.is_none());
//! # Ok::<(), layer_model::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod blob;
mod chunk;
pub mod compress;
pub mod encode;
mod hash;
pub mod header;
mod options;
pub mod pax;
mod reader;
mod sink;
mod source;
pub mod sparse;
mod spool;
#[cfg(feature = "testing")]
pub mod testing;

pub use blob::{BlobOptions, BlobSource, LayerBlob, LayerProcessor, ProcessorRead};
pub use chunk::Chunk;
pub use compress::{BlobWriter, BlobWriterOptions};
pub use hash::BlobSummary;
pub use options::{AufsStore, ReadOptions, WriteOptions};
pub use reader::{RawEntry, TarEntry, TarReader};
pub use sink::{TarSink, TarSummary};
pub use source::TarSource;
