#![forbid(unsafe_code)]
//! The EROFS file system format: read, write, check, merge, verify.
//!
//! EROFS is the read-only file system of Linux: small images, fast random access, data that can be mapped. This
//! crate does with its images, in a library, what `mkfs.erofs`, `fsck.erofs` and `dump.erofs` do as programs, and
//! what takes a mount otherwise. It knows nothing of archives or containers.
//!
//! ```
//! use erofs_format::{FileData, Image, ImagePlan, Memory, Metadata, NewFile, Tree, WriteOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut tree = Tree::new(Metadata { mode: 0o755, ..Metadata::default() });
//! let etc = tree.add(tree.root(), b"etc", Metadata { mode: 0o755, ..Metadata::default() }, NewFile::Directory)?;
//! let motd = NewFile::Regular { size: 6, data: FileData::Bytes(b"hello\n".to_vec()) };
//! tree.add(etc, b"motd", Metadata { mode: 0o644, ..Metadata::default() }, motd)?;
//! let (bytes, _) = ImagePlan::new(tree, &WriteOptions::new(), &())?.write(Vec::new(), &())?;
//!
//! let image = Image::open(Memory(bytes))?;
//! let motd = image.lookup("etc/motd")?;
//! assert_eq!(std::io::read_to_string(image.file(motd))?, "hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! | I want to … | use … |
//! |---|---|
//! | read an image from a file, memory or a map | [`Image`], [`OpenOptions`], [`ReadAt`] |
//! | convert an image into something else | [`Image::walk`] |
//! | know whether an image is sound | [`Image::check`] |
//! | write an image of what I know beforehand, to a pipe too | [`Tree`], [`ImagePlan`] |
//! | write an image while an archive is read | [`StreamWriter`] |
//! | keep data apart from metadata | [`BlobWriter`] |
//! | refer to data that lies in an archive | [`FileData::Blocks`] with [`Tree::add_device`] |
//! | merge layers | [`merge_layers`], [`flatten_layers`] |
//! | protect an image with dm-verity, and read it verified | [`VerityBuilder`], [`VerityReader`] |
//! | identify content as fs-verity does | [`FsVerityDigest`] |
//! | see the bytes | [`raw`] |
//!
//! # What it refuses
//!
//! Images are hostile: no image makes this crate panic, run without end, or take more memory than is said where
//! memory is taken. Whatever contradicts the format is an [`Error`] that names the structure and its offset; opened
//! leniently, an image is read as far as the kernel would.
//!
//! Compressed files are recognised and listed, their content is refused: [`ErrorKind::Unsupported`].
//!
//! # Determinism
//!
//! The same tree, content and options give the same bytes. Nothing comes from the clock, the environment, the
//! process or the order of a hash map. [`LAYOUT_VERSION`] changes when bytes do.

mod check;
mod error;
mod fsverity;
mod hash;
mod merge;
pub mod raw;
mod read;
mod source;
mod tree;
mod types;
mod uuid;
mod verity;
mod write;

pub use check::{CheckOptions, CheckReport, Finding, Severity};
pub use error::{Error, ErrorKind, Result};
pub use fsverity::{FsVerityDigest, FsVerityHash, fsverity_digest};
pub use merge::{LayerContents, MergeOptions, flatten_layers, merge_layers};
pub use read::{
    Bytes, Device, DirEntry, DirEntryRef, Extent, Extents, FileReader, Image, Inode, Layout, Limits,
    Location, OpenOptions, ReadDir, Superblock, Walk, WalkEntry, Xattr,
};
pub use source::{FileSource, Memory, ReadAt, Section};
pub use tree::{BlockAddress, FileData, Metadata, NewDevice, NewFile, NodeId, Tree};
pub use types::{DeviceNumber, FileType, Nid, Timestamp};
pub use uuid::uuid_from_url;
pub use verity::{
    Hash, VerityBlocks, VerityBuilder, VerityOptions, VerityReader, VeritySuperblock, VerityTree, verity_tree,
};
pub use write::{
    BlobWriter, Contents, ImagePlan, InodeForm, LAYOUT_VERSION, Piece, StreamWriter, Summary, Target, Times,
    WriteOptions,
};
