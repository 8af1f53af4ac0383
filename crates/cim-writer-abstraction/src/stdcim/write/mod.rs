//! Writing standard CIMs, as an experiment.

mod layout;
mod sink;
mod stage;
mod tree;

use std::path::PathBuf;

pub use self::sink::StdCimSink;
use super::raw::{FileRecord, UPCASE_LENGTH};
use crate::{Guid, path::upcase};

/// The version of the format to write. Windows takes images of the release that made them, so this is the caller's
/// choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// That of Windows 10.
    V1,
    /// File records know their directory.
    V2,
    /// With 8 bytes more in each file record, which are written as zero.
    V3,
}

impl Major {
    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    fn record_size(self) -> u16 {
        match self {
            Self::V1 => FileRecord::V1_SIZE,
            Self::V2 => FileRecord::V2_SIZE,
            Self::V3 => FileRecord::V3_SIZE,
        }
    }
}

/// By which table an image compares names. A fork keeps that of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UpcaseTable {
    /// The simple upper-case forms of Unicode, as everywhere else in this crate.
    #[default]
    Unicode,
    /// The letters of ASCII only.
    Ascii,
}

impl UpcaseTable {
    fn units(self) -> Vec<u16> {
        let upper = |unit: usize| match (u16::try_from(unit).unwrap_or_default(), self) {
            (unit @ 0x61..=0x7a, Self::Ascii) => unit - 0x20,
            (unit, Self::Ascii) => unit,
            (unit, Self::Unicode) => upcase(unit),
        };
        (0..UPCASE_LENGTH).map(upper).collect()
    }
}

/// How images are written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// What the region files are named by; without one, it is derived from what is written and under which name.
    pub guid: Option<Guid>,
    /// By which table names are compared.
    pub upcase: UpcaseTable,
    /// Where the image directory is; without one, at the path that the operations name.
    pub directory: Option<PathBuf>,
}

impl WriteOptions {
    /// The region files are named by this GUID.
    #[must_use]
    pub fn guid(mut self, guid: Guid) -> Self {
        self.guid = Some(guid);
        self
    }

    /// Names are compared by this table.
    #[must_use]
    pub fn upcase(mut self, upcase: UpcaseTable) -> Self {
        self.upcase = upcase;
        self
    }

    /// The image directory is here, wherever the operations say.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }
}
