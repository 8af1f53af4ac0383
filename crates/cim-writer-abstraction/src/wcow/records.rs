//! Metadata as records, and back.

use layer_model::{
    Error, ErrorKind, LayerPath, Metadata, Monitor, Result, Timestamp, Warning, WarningKind, Xattrs, windows,
};

use super::{HCSSHIM_MISSING_TIME, WcowOptions, about};
use crate::{
    Attributes, CimProfile, FileMeta, FileTime, SecurityDescriptor, base64,
    ea::{self, Ea},
    reparse::Link,
    security::sddl,
};

/// What an entry is in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    File,
    Directory,
    /// A symbolic link or a junction, with its raw target.
    Link(&'a [u8]),
}

/// The metadata of an entry.
pub(super) fn read(
    kind: Kind<'_>,
    metadata: Metadata,
    records: &Xattrs,
    options: WcowOptions,
    heard: (&dyn Monitor, LayerPath<'_>),
) -> Result<FileMeta> {
    let (monitor, path) = heard;
    let reference = options.profile == CimProfile::Hcsshim;
    let mut attributes = match record(records, windows::FILE_ATTRIBUTES) {
        Some(text) => attributes(text)?,
        None if kind == Kind::Directory => Attributes::DIRECTORY,
        None => Attributes::empty(),
    };
    attributes.set(Attributes::REPARSE_POINT, matches!(kind, Kind::Link(_)));
    match kind {
        Kind::File if !reference => attributes.remove(Attributes::DIRECTORY),
        Kind::Directory if !reference => attributes.insert(Attributes::DIRECTORY),
        // A link to a directory is a directory, one to a file is none.
        _ => {}
    }
    let reparse = match kind {
        Kind::Link(target) => Link::new(target, record(records, windows::MOUNT_POINT).is_some())
            .encode()
            .map_err(|error| about("link", &error))?,
        _ => Box::default(),
    };
    let mut chained: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for (name, value) in records.iter() {
        if let Some(ea) = name.strip_prefix(windows::EXTENDED_ATTRIBUTE_PREFIX) {
            if !value.is_empty() {
                chained.push((ea, decoded(name, value)?));
            }
        } else if !KNOWN.contains(&name) {
            monitor.warn(&Warning::new(WarningKind::UnknownRecord, path).detail(name));
        }
    }
    let chained: Vec<Ea<'_>> = chained.iter().map(|(name, value)| Ea::new(name, value)).collect();

    let write = FileTime::from_timestamp(metadata.mtime);
    let missing = if reference { HCSSHIM_MISSING_TIME } else { write };
    Ok(FileMeta {
        attributes,
        creation: time(records, windows::CREATION_TIME)?.unwrap_or(write),
        write,
        change: time(records, windows::CHANGE_TIME)?.unwrap_or(missing),
        access: metadata.atime.map_or(missing, FileTime::from_timestamp),
        security: security(records, reference)?,
        ea: ea::encode(&chained).map_err(|error| about("extended attributes", &error))?.into(),
        reparse,
    })
}

/// All records that mean something, but for extended attributes.
const KNOWN: [&[u8]; 6] = [
    windows::FILE_ATTRIBUTES,
    windows::SECURITY_DESCRIPTOR,
    windows::SECURITY_DESCRIPTOR_SDDL,
    windows::MOUNT_POINT,
    windows::CREATION_TIME,
    windows::CHANGE_TIME,
];

/// The record of that name; one without a value is none.
fn record<'a>(records: &'a Xattrs, name: &[u8]) -> Option<&'a [u8]> {
    records.get(name).filter(|value| !value.is_empty())
}

fn invalid(name: &[u8], what: &str) -> Error {
    let name = layer_model::path::Printable(name);
    Error::new(ErrorKind::InvalidArchive, format!("record {name} is {what}"))
}

fn decoded(name: &[u8], text: &[u8]) -> Result<Vec<u8>> {
    base64::decode(text).ok_or_else(|| invalid(name, "no base64"))
}

/// Digits and nothing else, as Go's `ParseUint` wants them.
fn attributes(text: &[u8]) -> Result<Attributes> {
    let digits = str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(bits) => Ok(Attributes::from_bits_retain(bits)),
        None => Err(invalid(windows::FILE_ATTRIBUTES, "no number of 32 bits")),
    }
}

fn time(records: &Xattrs, name: &[u8]) -> Result<Option<FileTime>> {
    let Some(text) = record(records, name) else { return Ok(None) };
    match Timestamp::parse(text) {
        Some(time) => Ok(Some(FileTime::from_timestamp(time))),
        None => Err(invalid(name, "no time")),
    }
}

fn security(records: &Xattrs, as_it_is: bool) -> Result<Box<[u8]>> {
    if let Some(text) = record(records, windows::SECURITY_DESCRIPTOR) {
        let bytes = decoded(windows::SECURITY_DESCRIPTOR, text)?;
        if as_it_is {
            return Ok(bytes.into());
        }
        let descriptor = SecurityDescriptor::from_bytes(bytes);
        return descriptor
            .map(SecurityDescriptor::into_bytes)
            .map_err(|error| about("record MSWINDOWS.rawsd", &error));
    }
    let Some(text) = record(records, windows::SECURITY_DESCRIPTOR_SDDL) else { return Ok(Box::default()) };
    let text = str::from_utf8(text).map_err(|_| invalid(windows::SECURITY_DESCRIPTOR_SDDL, "no text"))?;
    let descriptor = sddl::parse(text).map(SecurityDescriptor::into_bytes);
    descriptor.map_err(|error| about("record MSWINDOWS.sd", &error))
}

/// The records of `meta`, into `records`.
///
/// # Errors
/// [`ErrorKind::Unrepresentable`] for flags of extended attributes, and errors of their chain.
pub(super) fn write(meta: &FileMeta, records: &mut Xattrs) -> Result<()> {
    let encoded = |bytes: &[u8]| {
        let mut text = Vec::new();
        base64::encode_into(bytes, &mut text);
        text
    };
    records.clear();
    records.insert(windows::FILE_ATTRIBUTES, meta.attributes.bits().to_string().into_bytes());
    for (name, time) in [(windows::CREATION_TIME, meta.creation), (windows::CHANGE_TIME, meta.change)] {
        records.insert(name, time.to_timestamp().to_string().into_bytes());
    }
    if !meta.security.is_empty() {
        records.insert(windows::SECURITY_DESCRIPTOR, encoded(&meta.security));
    }
    for ea in ea::entries(&meta.ea) {
        let Ea { flags, name, value } = ea.map_err(|error| about("extended attributes", &error))?;
        if flags != 0 || value.is_empty() {
            let what = "an extended attribute with flags or without a value, of which layers have none";
            return Err(Error::new(ErrorKind::Unrepresentable, what));
        }
        records.insert([windows::EXTENDED_ATTRIBUTE_PREFIX, name].concat(), encoded(value));
    }
    Ok(())
}
