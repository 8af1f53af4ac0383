//! What a diff did, for logs and decisions.

use std::{collections::BTreeMap, time::Duration};

/// How a diff was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DiffMethod {
    /// The upper directory was walked, and looked up in the base.
    #[default]
    UpperWalk,
    /// Both trees were walked.
    DoubleWalk,
    /// There was no base: everything is an addition.
    SingleWalk,
}

impl DiffMethod {
    /// The stable name of the method, as the command prints it in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::UpperWalk => "UpperWalk",
            Self::DoubleWalk => "DoubleWalk",
            Self::SingleWalk => "SingleWalk",
        }
    }
}

/// What a diff did. Complete once the source has given its last change.
///
/// The digest and the size of the layer are the sink's to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffReport {
    /// How the changes were found.
    pub method: DiffMethod,
    /// Why a better method was not taken, where that is so.
    pub fallback_reason: Option<String>,
    /// Directories emitted.
    pub directories: u64,
    /// Regular files emitted with their content.
    pub files: u64,
    /// Bytes of content in them.
    pub bytes: u64,
    /// Symbolic links emitted.
    pub symlinks: u64,
    /// Hard links emitted.
    pub hard_links: u64,
    /// Files that were emitted with more than one name.
    pub hard_link_groups: u64,
    /// Character and block devices emitted.
    pub devices: u64,
    /// FIFOs emitted.
    pub fifos: u64,
    /// Removals emitted.
    pub removals: u64,
    /// Opaque marks emitted.
    pub opaques: u64,
    /// Entries of the upper that turned out to be as the base has them.
    pub unchanged: u64,
    /// Sockets left out.
    pub dropped_sockets: u64,
    /// Extended attributes left out of emitted entries, by name.
    pub dropped_xattrs: BTreeMap<Vec<u8>, u64>,
    /// Warnings given.
    pub warnings: u64,
    /// From the first change asked for to the end, the sink's time included.
    pub elapsed: Duration,
    /// The part of it in which the source's own thread looked, compared and waited for its helpers.
    pub walking: Duration,
}

impl DiffReport {
    /// How many changes were emitted.
    pub fn changes(&self) -> u64 {
        self.directories
            + self.files
            + self.symlinks
            + self.hard_links
            + self.devices
            + self.fifos
            + self.removals
            + self.opaques
    }
}
