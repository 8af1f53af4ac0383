//! Entries of a layer of Windows, as go-winio's `backuptar` writes them.

use std::io::Write;

use layer_model::{
    Content, Device, Entry, EntryKind, LayerPath, Result, Timestamp, Warning, WarningKind, Xattrs,
    change::WHITEOUT_PREFIX, windows,
};

use super::{TarSink, unrepresentable};
use crate::{
    encode::{EntryHeader, GO_ZERO, is_pax_key},
    header::typeflag,
};

/// The types in a mode. `backuptar` writes them, and no permissions.
mod mode {
    pub(super) const DIRECTORY: u32 = 0o040_000;
    pub(super) const REGULAR: u32 = 0o100_000;
    pub(super) const SYMLINK: u32 = 0o120_000;
    /// What hcsshim gives to hard links.
    pub(super) const HARD_LINK: u32 = 0o644;
}

/// `FILE_ATTRIBUTE_DIRECTORY`.
const DIRECTORY_ATTRIBUTE: u32 = 0x10;

impl<W: Write> TarSink<'_, W> {
    pub(super) fn windows_entry(&mut self, path: LayerPath<'_>, entry: Entry<'_>) -> Result<()> {
        let Some(name) = path.file_name() else {
            return match entry.kind {
                EntryKind::Directory => Ok(()),
                _ => Err(unrepresentable("the root is something other than a directory")),
            };
        };
        check_name(path)?;
        let ctime = self.choose_records(path, entry.xattrs)?;
        self.name.clear();
        self.name.extend_from_slice(path.as_bytes());
        for time in [Some(entry.metadata.mtime), entry.metadata.atime, ctime].into_iter().flatten() {
            if time == GO_ZERO {
                return Err(unrepresentable("a time at 0001-01-01, which Go's archive/tar takes for none"));
            }
        }
        let linked;
        let mut header = EntryHeader {
            name: &self.name,
            link_name: b"",
            typeflag: typeflag::REGULAR,
            mode: mode::REGULAR,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: self.clamped(entry.metadata.mtime),
            device: Device::default(),
            atime: entry.metadata.atime.map(|atime| self.clamped(atime)),
            ctime: ctime.map(|ctime| self.clamped(ctime)),
            xattrs: Xattrs::EMPTY,
            records: &self.kept,
        };
        let mut content = Content::empty();
        match entry.kind {
            EntryKind::Directory => {
                header.typeflag = typeflag::DIRECTORY;
                header.mode = mode::DIRECTORY;
            }
            EntryKind::File(data) => {
                header.size = data.len();
                content = data;
            }
            EntryKind::Symlink { target } => {
                header.typeflag = typeflag::SYMLINK;
                header.link_name = target;
                let to_directory = attributes(entry.xattrs) & DIRECTORY_ATTRIBUTE != 0;
                header.mode = mode::SYMLINK | if to_directory { mode::DIRECTORY } else { 0 };
            }
            EntryKind::HardLink { target } => {
                check_name(target)?;
                linked = target;
                header.typeflag = typeflag::HARD_LINK;
                header.mode = mode::HARD_LINK;
                header.link_name = linked.as_bytes();
            }
            kind @ (EntryKind::CharDevice(_) | EntryKind::BlockDevice(_) | EntryKind::Fifo) => {
                let message = format!("an entry of type {} in a layer of Windows", kind.name());
                return Err(unrepresentable(&message));
            }
        }
        if header.link_name.is_empty() && matches!(header.typeflag, typeflag::SYMLINK | typeflag::HARD_LINK) {
            return Err(unrepresentable("a link without a target"));
        }
        if name.contains(&b':') {
            // A stream has the mode of its file.
            header.mode = self.stream_mode.unwrap_or(mode::REGULAR);
        } else {
            self.stream_mode = Some(header.mode);
        }
        self.header.clear();
        header.encode(&mut self.header)?;
        self.write_header()?;
        self.content(content)
    }

    /// The time of change among `xattrs`. All others that are records of Windows are in `kept` then.
    fn choose_records(&mut self, path: LayerPath<'_>, xattrs: &Xattrs) -> Result<Option<Timestamp>> {
        self.kept.clear();
        let mut ctime = None;
        for (name, value) in xattrs.iter() {
            if value.is_empty() && !self.options.empty_xattrs {
                self.monitor.warn(&Warning::new(WarningKind::EmptyXattrDropped, path).detail(name));
            } else if name == windows::CHANGE_TIME {
                ctime = Some(time(value)?);
            } else if name == windows::CREATION_TIME && self.options.source_date_epoch.is_some() {
                // Written as it is, unless it is too late.
                let (made, bounded) = (time(value)?, self.clamped(time(value)?));
                let text = if made == bounded { value.into() } else { bounded.to_string().into_bytes() };
                self.kept.insert(name, text);
            } else if windows::is_windows_record(name) && is_pax_key(name) {
                self.kept.insert(name, value);
            } else if self.options.lossy {
                self.monitor.warn(&Warning::new(WarningKind::XattrDropped, path).detail(name));
            } else {
                let name = layer_model::path::Printable(name);
                return Err(unrepresentable(&format!("attribute {name:?} is none of a layer of Windows")));
            }
        }
        Ok(ctime)
    }

    fn clamped(&self, time: Timestamp) -> Timestamp {
        self.options.source_date_epoch.map_or(time, |epoch| time.min(Timestamp::from_secs(epoch)))
    }
}

/// Whether a reader finds the name again that is written.
pub(super) fn check_name(path: LayerPath<'_>) -> Result<()> {
    if path.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return Err(unrepresentable("a name that begins with `.wh.` would be read as a deletion"));
    }
    check_separators(path)
}

/// Whether the name has the components for a reader that it has here.
pub(super) fn check_separators(path: LayerPath<'_>) -> Result<()> {
    if path.as_bytes().contains(&b'\\') {
        return Err(unrepresentable("a backslash in a name separates components in a layer of Windows"));
    }
    if let Some([letter, b':']) = path.components().next()
        && letter.is_ascii_alphabetic()
    {
        return Err(unrepresentable("a name that would be read as a drive letter"));
    }
    Ok(())
}

fn time(text: &[u8]) -> Result<Timestamp> {
    Timestamp::parse(text).ok_or_else(|| unrepresentable("a time that is not decimal text"))
}

/// The attributes among the records; none where they are no number.
fn attributes(xattrs: &Xattrs) -> u32 {
    let text = xattrs.get(windows::FILE_ATTRIBUTES).and_then(|value| str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
