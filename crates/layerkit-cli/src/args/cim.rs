//! The arguments of `layerkit cim`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Cim {
    #[command(subcommand)]
    pub(crate) action: CimAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CimAction {
    /// Import a layer of Windows into a CIM, recorded in a directory
    Import(Box<Import>),
    /// List what recorded layers show together, one JSON object a line
    View {
        /// Directories of recorded layers or their journals, nearest first
        #[arg(required = true, value_name = "JOURNAL")]
        journals: Vec<PathBuf>,
    },
    /// Make something of recorded layers: an image, a layer tar, a plain listing of operations
    Replay(Replay),
    /// List a standard CIM, or read a file of it
    Read {
        /// The CIM; its region files are beside it
        cim: PathBuf,
        /// Write the content of this file to standard output; FILE:STREAM for an alternate stream
        path: Option<String>,
    },
    /// Create, mount and compare CIMs on this machine, which has to be a Windows
    SelfTest {
        /// A directory that does not exist yet, or is empty
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A blob file, - for standard input, or IMAGE#N
    pub(crate) layer: String,
    /// A directory that does not exist yet, or is empty
    pub(crate) out: PathBuf,
    /// Forked from the parent's image, or in a container of its own
    #[arg(long, value_enum)]
    pub(crate) kind: Kind,
    /// A recorded layer that this one is on top of, nearest first
    #[arg(long = "parent", value_name = "JOURNAL")]
    pub(crate) parents: Vec<PathBuf>,
    /// With --kind block: the image has a root digest, and is sealed
    #[arg(long)]
    pub(crate) verified: bool,
    /// The container of a block CIM, or the directory of a forked one without parents
    #[arg(long, value_name = "PATH")]
    pub(crate) container: Option<String>,
    /// The name of the image [default: layer.cim, or the number of the layer]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// With --kind block: append a VHD footer with this identifier, 32 hexadecimal digits
    #[arg(long, value_name = "ID")]
    pub(crate) footer: Option<String>,
    /// Which behaviour to follow
    #[arg(long, value_enum, default_value = "spec")]
    pub(crate) profile: Profile,
    /// Write opaque marks as one removal for each child that the parents have, instead of refusing them
    #[arg(long)]
    pub(crate) expand_opaque: bool,
    /// The media type of the layer [default: the image's, or found by looking]
    #[arg(long, value_name = "MT")]
    pub(crate) media_type: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Forked,
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Refuse and put right what is a mistake
    Spec,
    /// Do as hcsshim does
    Hcsshim,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Directories of recorded layers or their journals, nearest first
    #[arg(required = true, value_name = "JOURNAL")]
    pub(crate) journals: Vec<PathBuf>,
    /// What to make
    #[arg(long, value_enum)]
    pub(crate) to: ReplayTo,
    /// What to write: a tar, or a standard CIM in its directory (DIR/NAME.cim)
    #[arg(long, short)]
    pub(crate) output: PathBuf,
    /// With --to cim: the major version of the format, which has to suit the Windows that will mount it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3))]
    pub(crate) major: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReplayTo {
    /// A standard CIM that shows all of the layers, written by an experimental writer
    Cim,
    /// The layer tar of the nearest layer
    Layer,
    /// A layer tar of all that the layers show
    Tar,
    /// The images themselves, through the CimFS of this machine
    Windows,
}
