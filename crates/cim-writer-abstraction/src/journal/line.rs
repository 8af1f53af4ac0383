//! One line of a journal, as a value.

use crate::{
    CimKind, CimName, CimOp, CimPath, FileMeta, StreamName,
    op::{CreateFlags, MergeFlags},
};

/// One line of a journal: an operation that owns what it says, or the bytes of a stream.
///
/// The fields are those of [`CimOp`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "every field is that of the operation of the same name")]
pub enum Line {
    /// [`CimOp::CreateImage`].
    CreateImage {
        kind: CimKind,
        container: String,
        name: CimName,
        parent: Option<CimName>,
        flags: CreateFlags,
    },
    /// [`CimOp::CreateFile`].
    CreateFile { path: CimPath, meta: FileMeta, size: u64 },
    /// [`CimOp::CreateStream`].
    CreateStream { of: CimPath, name: StreamName, size: u64 },
    /// The bytes of the stream created in the line before.
    Data { len: u64, sha256: [u8; 32] },
    /// [`CimOp::HardLink`].
    HardLink { path: CimPath, target: CimPath },
    /// [`CimOp::MergeLink`].
    MergeLink { path: CimPath, target: CimPath },
    /// [`CimOp::Delete`].
    Delete { path: CimPath },
    /// [`CimOp::Tombstone`].
    Tombstone { path: CimPath },
    /// [`CimOp::Spool`].
    Spool { path: CimPath, len: u64, sha256: [u8; 32] },
    /// [`CimOp::MergeHive`].
    MergeHive { base: String, delta: CimPath, out: CimPath },
    /// [`CimOp::AddMergedHive`].
    AddMergedHive { path: CimPath, meta: FileMeta },
    /// [`CimOp::AddSource`].
    AddSource { container: String, name: CimName, flags: MergeFlags },
    /// [`CimOp::Commit`].
    Commit,
    /// [`CimOp::Close`].
    Close,
    /// [`CimOp::Discard`].
    Discard,
    /// [`CimOp::Seal`].
    Seal { container: String },
    /// [`CimOp::VhdFooter`]. A journal does not have the footer's identifier.
    VhdFooter { size: u64 },
    /// [`CimOp::Sidecar`]. A journal does not have the file's text.
    Sidecar { name: String },
}

impl Line {
    /// The operation; [`None`] for [`Line::Data`]. What a journal does not have is zero or empty.
    pub fn op(&self) -> Option<CimOp<'_>> {
        Some(match self {
            Self::CreateImage { kind, container, name, parent, flags } => {
                let (kind, flags, parent) = (*kind, *flags, parent.as_ref());
                CimOp::CreateImage { kind, container, name, parent, flags }
            }
            Self::CreateFile { path, meta, size } => CimOp::CreateFile { path, meta, size: *size },
            Self::CreateStream { of, name, size } => CimOp::CreateStream { of, name, size: *size },
            Self::Data { .. } => return None,
            Self::HardLink { path, target } => CimOp::HardLink { path, target },
            Self::MergeLink { path, target } => CimOp::MergeLink { path, target },
            Self::Delete { path } => CimOp::Delete { path },
            Self::Tombstone { path } => CimOp::Tombstone { path },
            Self::Spool { path, len, sha256 } => CimOp::Spool { path, len: *len, sha256: *sha256 },
            Self::MergeHive { base, delta, out } => CimOp::MergeHive { base, delta, out },
            Self::AddMergedHive { path, meta } => CimOp::AddMergedHive { path, meta },
            Self::AddSource { container, name, flags } => CimOp::AddSource { container, name, flags: *flags },
            Self::Commit => CimOp::Commit,
            Self::Close => CimOp::Close,
            Self::Discard => CimOp::Discard,
            Self::Seal { container } => CimOp::Seal { container },
            Self::VhdFooter { size } => CimOp::VhdFooter { size: *size, unique_id: [0; 16] },
            Self::Sidecar { name } => CimOp::Sidecar { name, text: "" },
        })
    }
}
