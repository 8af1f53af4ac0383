//! Writing blobs: compressed in parallel, hashed on the way.
//!
//! Input is cut into blocks of a fixed size, and every block is compressed for itself: into a gzip member or a
//! zstd frame of its own. Both formats say that such pieces in a row are one stream, and every reader of
//! layers takes them (eStargz and zstd:chunked blobs are made that way). Where blocks end depends on nothing
//! but the count of bytes, so that the output is the same for every number of threads and every way of
//! calling [`Write::write`].
//!
//! The alternative, one member whose blocks are primed with the data before them (as `pigz` does it), is
//! smaller by a few thousandths at these block sizes, but rules out the fastest encoder: libdeflate knows
//! neither primed nor unfinished streams.

mod codec;
mod gzip;
mod noise;
mod workers;
mod writer;
#[cfg(feature = "zstd")]
mod zstd;

#[cfg(feature = "zstd")]
pub use self::zstd::Zstd;
pub use self::{
    codec::{BlockEncoder, Codec, Plain},
    gzip::Gzip,
    writer::{BlobWriter, BlobWriterOptions},
};

#[cfg(doc)]
use std::io::Write;
