//! The command line, as scripts rely on it.

pub(crate) mod cim;
pub(crate) mod erofs;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use layerkit::model::digest::Algorithm;

/// Container-image layers: unpack, mount, apply, diff, commit, keep.
#[derive(Debug, Parser)]
#[command(name = "layerkit", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every subcommand.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How many threads to work with [default: one a processor]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// No progress bar and no warnings
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Unpack an image into a new directory
    Unpack(Unpack),
    /// Mount what unpack made
    Mount(Mount),
    /// Unmount what mount mounted
    Umount {
        /// Where it is mounted
        mountpoint: PathBuf,
    },
    /// Apply one layer to a directory
    Apply(Apply),
    /// Compute a layer from what changed
    Diff(Diff),
    /// Append a layer to an image, and tag the result
    Commit(Commit),
    /// Make the same image with its layers in another form
    Convert(Convert),
    /// Show what an image is made of
    Inspect {
        /// `oci:DIR[:TAG]`, `docker-archive:FILE`, or the directory of an OCI layout
        image: String,
    },
    /// Import, show and read layers of Windows in CIMs
    Cim(cim::Cim),
    /// Build, read, check, merge and protect EROFS images
    Erofs(erofs::Erofs),
    /// Look after a content store
    Store(Store),
}

#[derive(Debug, Args)]
pub(crate) struct Unpack {
    /// `oci:DIR[:TAG]`, `docker-archive:FILE`, or the directory of an OCI layout
    pub(crate) image: String,
    /// A directory that does not exist yet, or is empty
    pub(crate) dest: PathBuf,
    /// One directory or EROFS image a layer, or one merged tree
    #[arg(long, value_enum, default_value = "overlay")]
    pub(crate) format: TreeFormat,
    #[command(flatten)]
    pub(crate) erofs: ErofsLayer,
    /// With --format erofs: write the merged metadata of all layers, too, so that one mount shows them
    #[arg(long)]
    pub(crate) merge: bool,
}

/// How a layer becomes an EROFS image.
#[derive(Debug, Args)]
pub(crate) struct ErofsLayer {
    /// With --format erofs: keep the layer tar in the image, and write an index of it
    #[arg(long)]
    pub(crate) tar_index: bool,
    /// With --format erofs: append a dm-verity hash tree
    #[arg(long)]
    pub(crate) verity: bool,
}

impl ErofsLayer {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.tar_index || self.verity
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TreeFormat {
    /// A directory a layer, with overlayfs's whiteouts
    Overlay,
    /// An EROFS image a layer
    Erofs,
    /// One merged tree
    Flat,
}

#[derive(Debug, Args)]
pub(crate) struct Mount {
    /// What unpack made
    pub(crate) dest: PathBuf,
    /// Where to mount it
    pub(crate) mountpoint: PathBuf,
    /// Mount it writable; changes go into this directory (and its work files into UPPER.work)
    #[arg(long, value_name = "UPPER")]
    pub(crate) rw: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A blob file, - for standard input, or IMAGE#N
    pub(crate) layer: String,
    /// overlay: a new or empty directory; flat: the tree to change, made if missing
    pub(crate) dest: PathBuf,
    #[arg(long, value_enum, default_value = "flat")]
    pub(crate) format: TreeFormat,
    #[command(flatten)]
    pub(crate) erofs: ErofsLayer,
    /// An applied parent layer, a directory or an EROFS image, nearest (topmost) first
    #[arg(long = "parent", value_name = "DIR-OR-IMAGE")]
    pub(crate) parents: Vec<PathBuf>,
    /// The media type of the layer [default: the image's, or found by looking]
    #[arg(long, value_name = "TYPE")]
    pub(crate) media_type: Option<String>,
}

/// What changed, and over what.
#[derive(Debug, Args)]
pub(crate) struct Changed {
    /// The directory that holds the changes
    #[arg(long, value_name = "DIR")]
    pub(crate) upper: PathBuf,
    /// A lower layer, nearest (topmost) first; without any, the base is unknown
    #[arg(long = "lower", value_name = "DIR", conflicts_with = "no_lower")]
    pub(crate) lowers: Vec<PathBuf>,
    /// There is nothing below
    #[arg(long)]
    pub(crate) no_lower: bool,
    /// Compare two merged trees instead of reading overlayfs's markers
    #[arg(long)]
    pub(crate) walk: bool,
    /// Cut times later than this off
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(crate) source_date_epoch: Option<i64>,
    /// Follow containerd's differ to the byte, with its harmless quirks
    #[arg(long)]
    pub(crate) containerd: bool,
    /// The compression level [default: the codec's own]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) level: Option<i32>,
    /// The type of EROFS layers; containerd before 2.3 takes application/vnd.oci.image.layer.v1.erofs
    #[arg(long, value_name = "TYPE")]
    pub(crate) erofs_type: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("to").required(true).args(["output", "store"]))]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) changed: Changed,
    #[arg(long, value_enum, default_value = "tar")]
    pub(crate) format: BlobFormat,
    /// What the blob is known by: sha256, sha384, sha512, or blake3, which containerd does not know
    #[arg(long, value_name = "ALGORITHM", default_value = "sha256", value_parser = algorithm)]
    pub(crate) digest_algorithm: Algorithm,
    /// Write the blob to this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Commit the blob to this content store
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(name)
        .ok_or_else(|| format!("one of {}", Algorithm::ALL.map(Algorithm::name).join(", ")))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BlobFormat {
    Tar,
    #[value(name = "tar+gzip")]
    TarGzip,
    #[value(name = "tar+zstd")]
    TarZstd,
    /// An EROFS image
    Erofs,
    #[value(name = "erofs+zstd")]
    ErofsZstd,
}

#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// The image to append to: `oci:DIR[:TAG]`, or the directory of an OCI layout
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) changed: Changed,
    /// The name of the new image in the same layout
    #[arg(long)]
    pub(crate) tag: String,
    #[arg(long, value_enum, default_value = "tar+gzip")]
    pub(crate) format: BlobFormat,
}

#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// `oci:DIR[:TAG]`, `docker-archive:FILE`, or the directory of an OCI layout
    pub(crate) image: String,
    /// `oci:DIR[:TAG]`; the layout is made if missing, and the tag is that of IMAGE if left out
    #[arg(value_name = "IMAGE")]
    pub(crate) converted: String,
    /// What the layers become
    #[arg(long, value_enum)]
    pub(crate) to: LayerTarget,
    /// The compression level [default: the codec's own]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) level: Option<i32>,
    /// The type of EROFS layers; containerd before 2.3 takes application/vnd.oci.image.layer.v1.erofs
    #[arg(long, value_name = "TYPE")]
    pub(crate) erofs_type: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LayerTarget {
    /// Layer tars
    Uncompressed,
    /// Layer tars in gzip
    Gzip,
    /// Layer tars in zstd
    Zstd,
    /// EROFS images
    Erofs,
    /// EROFS images in zstd
    #[value(name = "erofs+zstd")]
    ErofsZstd,
}

#[derive(Debug, Args)]
pub(crate) struct Store {
    /// The directory of the store
    #[arg(long = "store", global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) action: StoreAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreAction {
    /// List all blobs
    Ls,
    /// Show one blob's size, times and labels
    Info { digest: String },
    /// Write one blob to a file or standard output
    Get {
        digest: String,
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Add a blob from a file, or - for standard input
    Put {
        file: PathBuf,
        /// The digest that the blob has to have
        #[arg(long)]
        digest: Option<String>,
        /// The size that the blob has to have
        #[arg(long)]
        size: Option<u64>,
        /// The name of the ingest, to resume one that was cut off
        #[arg(long = "ref", value_name = "R")]
        reference: Option<String>,
        /// A label for the blob
        #[arg(long = "label", value_name = "K=V")]
        labels: Vec<String>,
    },
    /// Set labels of a blob; K= takes one away
    Label {
        digest: String,
        #[arg(required = true, value_name = "K=V")]
        labels: Vec<String>,
    },
    /// Remove one blob
    Rm { digest: String },
    /// Remove every blob that no tag, label or lease reaches
    Gc {
        /// Spare what was committed less than this many seconds ago
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u64,
    },
    /// Read every blob and say all that is wrong
    Check,
}
