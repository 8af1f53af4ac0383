//! How layers of Windows travel on the road.
//!
//! Their archives are made on Windows, where files have attributes, security descriptors and alternate data streams,
//! and what a tar cannot say about them is in extension records. Sources that are asked to keep them give them as
//! [`Xattrs`](crate::Xattrs) of the entry, under the records' own names and with their values as text; sinks that
//! write such layers take them from there. An alternate stream is a file of its own, named `file:stream`, directly
//! behind the entry that it belongs to.
//!
//! The root is not given, and times are as the archive has them: also before 1970, and any of the four before any other.
//!
//! The records are those of hcsshim and go-winio (`backuptar`).

/// What all names begin with that only Windows has.
pub const PREFIX: &[u8] = b"MSWINDOWS.";
/// `FILE_ATTRIBUTE_*` as a decimal number.
pub const FILE_ATTRIBUTES: &[u8] = b"MSWINDOWS.fileattr";
/// A self-relative security descriptor in base64.
pub const SECURITY_DESCRIPTOR: &[u8] = b"MSWINDOWS.rawsd";
/// A security descriptor in SDDL, as older archives have it.
pub const SECURITY_DESCRIPTOR_SDDL: &[u8] = b"MSWINDOWS.sd";
/// Goes before the name of an extended attribute, whose value is in base64.
pub const EXTENDED_ATTRIBUTE_PREFIX: &[u8] = b"MSWINDOWS.xattr.";
/// There for a symbolic link that is a junction.
pub const MOUNT_POINT: &[u8] = b"MSWINDOWS.mountpoint";
/// When the file was made, in seconds with a fraction.
pub const CREATION_TIME: &[u8] = b"LIBARCHIVE.creationtime";
/// When anything of the file last changed, in seconds with a fraction.
pub const CHANGE_TIME: &[u8] = b"ctime";

/// Whether a record of this name is one of those, or could be one of a later version.
pub fn is_windows_record(name: &[u8]) -> bool {
    [CREATION_TIME, CHANGE_TIME].contains(&name) || name.starts_with(PREFIX)
}
