//! Writing images.
//!
//! Three ways, for three situations; the bytes depend on tree, content and options alone.
//!
//! - Everything is known before: put it into a [`Tree`], plan with [`ImagePlan::new`], and write metadata first to
//!   any `Write`, a pipe too. Content is asked for by position, when its turn comes ([`Contents`]), or brought by the
//!   caller ([`ImagePlan::pieces`]).
//! - Files come one after the other, as from an archive: [`StreamWriter`] writes their data as it comes and the
//!   metadata at the end. The output has to be seekable.
//! - Data and metadata apart: [`BlobWriter`] writes a data-only device, append only, and the addresses that it
//!   returns go into a tree that is planned and written as in the first way. Data that exists already (the
//!   layers of a merge, an archive that serves as device) needs its addresses only.
//!
//! Not here yet: compressed data. Its clusters would be placed by the same data area, its maps would follow
//! inodes as chunk maps do, and the reader's extents would gain a location.

mod blob;
mod data;
mod directory;
mod emit;
mod inode;
mod options;
mod packer;
mod pieces;
mod plan;
mod restate;
mod sparse;
mod stream;
mod xattrs;

use std::io;

pub use blob::BlobWriter;
pub use emit::Summary;
pub use options::{InodeForm, Target, Times, WriteOptions};
pub use pieces::Piece;
pub use plan::ImagePlan;
pub use stream::StreamWriter;

/// Changes whenever the same input would give other bytes.
pub const LAYOUT_VERSION: u32 = 1;

/// Where content comes from that is written with an image.
///
/// A tar file that can be read by position, a directory whose files are opened by token, another image.
pub trait Contents {
    /// Fills `buf` with the content known as `token`, from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if there is not so much; whatever reading fails with. The image is then unusable.
    fn read_exact_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// No contents: for trees whose data is elsewhere, or in memory.
impl Contents for () {
    fn read_exact_at(&self, _token: u64, _offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::NotFound, "there are no contents"))
    }
}

/// Content by function.
impl<F: Fn(u64, u64, &mut [u8]) -> io::Result<()>> Contents for F {
    fn read_exact_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self(token, offset, buf)
    }
}
