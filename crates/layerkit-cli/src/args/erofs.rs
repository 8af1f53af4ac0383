//! The arguments of `layerkit erofs`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Erofs {
    #[command(subcommand)]
    pub(crate) action: ErofsAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ErofsAction {
    /// Build an image from a layer tar or a directory
    Build(Box<Build>),
    /// List the files of an image
    Ls {
        #[command(flatten)]
        image: Image,
        /// Only this file, or what is in this directory and below
        #[arg(default_value = "")]
        path: String,
    },
    /// Write the content of a file to standard output
    Cat {
        #[command(flatten)]
        image: Image,
        path: String,
    },
    /// Make a directory of what is in an image
    Extract {
        #[command(flatten)]
        image: Image,
        /// A directory that does not exist yet, or is empty
        dir: PathBuf,
    },
    /// Turn an image into the layer tar that it stands for
    ToTar {
        #[command(flatten)]
        image: Image,
        /// The tar to write, - for standard output
        output: PathBuf,
    },
    /// Read all of an image and say all that is wrong
    Check {
        #[command(flatten)]
        image: Image,
        /// Say where space is used by nothing, too
        #[arg(long)]
        unused_space: bool,
    },
    /// Show the superblock and the devices
    Info {
        #[command(flatten)]
        image: Image,
    },
    /// Merge the images of layers, bottom first, into one image over them as devices
    Merge(Merge),
    /// Append the dm-verity tree, and write root hash and offset to IMG.dmverity
    Verity {
        image: PathBuf,
        /// Append nothing, but check the image against this root hash
        #[arg(long, value_name = "ROOT_HASH", requires = "hash_offset")]
        verify: Option<String>,
        /// Where the verity superblock of the image is, for --verify
        #[arg(long, value_name = "BYTES")]
        hash_offset: Option<u64>,
    },
}

/// An image to read.
#[derive(Debug, Args)]
pub(crate) struct Image {
    /// The image
    #[arg(value_name = "IMG")]
    pub(crate) file: PathBuf,
    /// An extra device of the image, in slot order
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
    /// Go on where the kernel does: a wrong checksum, directories out of order, wrong link counts
    #[arg(long)]
    pub(crate) lenient: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// The image to write
    pub(crate) output: PathBuf,
    /// The layers, bottom first
    #[arg(required = true, value_name = "IMG")]
    pub(crate) images: Vec<PathBuf>,
    /// Copy the content of files, so that the layers are not needed any more
    #[arg(long)]
    pub(crate) flat: bool,
    /// Leave out whiteouts and opaque marks: nothing will be below the image
    #[arg(long)]
    pub(crate) strip: bool,
    /// Copy redirect and metacopy markers instead of refusing them
    #[arg(long)]
    pub(crate) pass_redirects: bool,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("from").required(true).args(["tar", "dir"]))]
pub(crate) struct Build {
    /// A layer: a blob file, - for standard input, or IMAGE#N. Whiteouts get overlay form
    #[arg(long, value_name = "LAYER")]
    pub(crate) tar: Option<String>,
    /// A directory, as it is
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The directory is an overlay layer: take its markers for what they are
    #[arg(long, requires = "dir")]
    pub(crate) layer: bool,
    /// The image to write
    pub(crate) output: PathBuf,
    /// The media type of the layer [default: the image's, or found by looking]
    #[arg(long, value_name = "TYPE")]
    pub(crate) media_type: Option<String>,
    /// Write the content of files to this file, which becomes the image's device
    #[arg(long, value_name = "FILE")]
    pub(crate) blob_dev: Option<PathBuf>,
    /// Write an index: content stays in the uncompressed tar, which is the device, or is appended
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "device",
          conflicts_with_all = ["blob_dev", "dir"])]
    pub(crate) tar_index: Option<TarIndex>,
    /// Leave out this path and all below; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(crate) exclude_path: Vec<String>,
    /// Leave out paths that match, and all below them; may be repeated
    #[arg(long, value_name = "REGEX")]
    pub(crate) exclude_regex: Vec<String>,
    /// Leave out all extended attributes
    #[arg(long)]
    pub(crate) no_xattrs: bool,
    /// Leave out extended attributes that begin so; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub(crate) exclude_xattr: Vec<String>,
    /// Keep attributes of overlayfs in the layer as data, escaped, instead of leaving them out
    #[arg(long)]
    pub(crate) escape_overlay_xattrs: bool,
    /// The owner of all files
    #[arg(long, value_name = "UID")]
    pub(crate) force_uid: Option<u32>,
    /// The group of all files
    #[arg(long, value_name = "GID")]
    pub(crate) force_gid: Option<u32>,
    /// All files belong to root
    #[arg(long, conflicts_with_all = ["force_uid", "force_gid"])]
    pub(crate) all_root: bool,
    /// Leave out whiteouts and opaque marks: the image is to be mounted by itself
    #[arg(long)]
    pub(crate) strip: bool,
    #[command(flatten)]
    pub(crate) write: Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TarIndex {
    /// The tar is the image's device
    Device,
    /// The tar follows the index in the same file
    Append,
}

/// How an image is written.
#[derive(Debug, Args)]
pub(crate) struct Write {
    /// The block size in bytes, a power of two from 512 to 65536
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub(crate) block_size: u32,
    /// Do not put the ends of files beside their inodes
    #[arg(long)]
    pub(crate) no_inline: bool,
    /// Store files in chunks of so many bytes, equal ones once
    #[arg(long, value_name = "BYTES")]
    pub(crate) chunk_size: Option<u32>,
    /// The UUID: 32 hexadecimal digits, hyphens allowed
    #[arg(long)]
    pub(crate) uuid: Option<String>,
    /// The label of the volume, up to 15 bytes
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Cut times later than this off
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) source_date_epoch: Option<i64>,
    /// Give all files this time
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, conflicts_with = "source_date_epoch")]
    pub(crate) all_time: Option<i64>,
    /// Drop nanoseconds, which makes more inodes compact
    #[arg(long)]
    pub(crate) whole_seconds: bool,
    /// Store attributes that so many files have once [default: 2; 0: never]
    #[arg(long, value_name = "N")]
    pub(crate) share_xattrs: Option<u32>,
    /// A prefix of extended attributes to store once, as trusted.overlay.; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub(crate) xattr_prefix: Vec<String>,
    /// Make a 48-bit image, for Linux 6.15 and later
    #[arg(long)]
    pub(crate) large: bool,
    /// No checksum in the superblock
    #[arg(long)]
    pub(crate) no_checksum: bool,
}
