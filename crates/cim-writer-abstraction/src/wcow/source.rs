//! Changes to events.

use std::{collections::HashSet, fmt};

use layer_model::{
    Action, Change, Content, Entry, EntryKind, Error, ErrorKind, LayerPath, LayerPathBuf, LayerSource,
    Monitor, Result, Warning, WarningKind,
};

use super::{
    WcowEvents, WcowOptions, about,
    records::{self, Kind},
};
use crate::{CimPath, CimProfile, LayerEvent, StreamName, path::PathKey};

/// What a path of a Windows layer begins with, in any case.
const TOP_LEVEL: [&[u8]; 3] = [b"Files", b"UtilityVM", b"Hives"];

/// The events of a layer whose changes are as [`layer_model::windows`] says.
///
/// - Names are those that [`CimPath`] takes; others make the layer invalid. Top-level names other than `Files`,
///   `UtilityVM` and `Hives`, names that end in a space or a dot, and links and removals outside of `Files` and
///   `UtilityVM\Files` are warned of.
/// - The type of an entry decides what it is, and its attributes follow: a directory is one, a file is none, and only
///   links are reparse points.
/// - A time that is missing is that of the last write, see [`WcowOptions::profile`]. No security descriptor and no
///   extended attributes are empty buffers.
/// - A file named `NAME:STREAM` or `NAME:STREAM:$DATA` that stands behind `NAME`, or behind another stream of it, is a
///   stream. Anywhere else it makes the layer invalid, and so does a second stream of a name that differs in case at
///   most ([`ErrorKind::ConflictingEntries`]).
/// - Devices and FIFOs make the layer invalid, and so does an entry for the root.
///
/// After an error every further call fails.
pub struct WcowSource<'m, S> {
    changes: S,
    reader: Reader<'m>,
}

/// What is known of the entry before.
enum Before {
    Nothing,
    /// It was added, and has these streams.
    Added {
        path: LayerPathBuf,
        of: CimPath,
        streams: HashSet<PathKey>,
    },
    /// It was linked or removed.
    Other(LayerPathBuf),
}

struct Reader<'m> {
    options: WcowOptions,
    monitor: &'m dyn Monitor,
    before: Before,
    /// The top-level name that was warned of last: an archive has all of a directory in one place.
    unusual: Vec<u8>,
    total_size: u64,
    failed: bool,
}

impl<S> fmt::Debug for WcowSource<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WcowSource")
            .field("options", &self.reader.options)
            .field("total_size", &self.reader.total_size)
            .finish_non_exhaustive()
    }
}

impl<'m, S: LayerSource> WcowSource<'m, S> {
    /// Reads the layer that `changes` gives.
    pub fn new(changes: S, options: WcowOptions, monitor: &'m dyn Monitor) -> Self {
        let (before, unusual) = (Before::Nothing, Vec::new());
        let reader = Reader { options, monitor, before, unusual, total_size: 0, failed: false };
        Self { changes, reader }
    }

    /// The next event, [`None`] after the last.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`], [`ErrorKind::PathEscape`], [`ErrorKind::LimitExceeded`],
    /// [`ErrorKind::ConflictingEntries`], [`ErrorKind::UnsupportedMarker`] for an opaque mark, and
    /// [`ErrorKind::NotSupported`] for security descriptors in SDDL that need a domain; errors of the changes. All
    /// name the entry.
    pub fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        if self.reader.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "reading the layer has failed before"));
        }
        self.reader.failed = true;
        let event = match self.changes.next_change()? {
            Some(change) => Some(self.reader.event(change)?),
            None => None,
        };
        self.reader.failed = false;
        Ok(event)
    }

    /// How large the files are that were added so far, without links and alternate streams.
    pub fn total_size(&self) -> u64 {
        self.reader.total_size
    }

    /// The changes, wherever they stand.
    pub fn into_inner(self) -> S {
        self.changes
    }
}

impl<S: LayerSource> WcowEvents for WcowSource<'_, S> {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        WcowSource::next_event(self)
    }
}

impl Reader<'_> {
    fn event<'a>(&mut self, change: Change<'a>) -> Result<LayerEvent<'a>> {
        let (path, origin) = (change.path, change.origin);
        self.monitor.entry(path);
        let event = match change.action {
            Action::Upsert(entry) => self.entry(path, entry),
            Action::Remove => self.remove(path),
            Action::Opaque => self.opaque(path),
        };
        event.map_err(|error| {
            let error = error.at(path).index(origin.index);
            match origin.offset {
                Some(offset) => error.offset(offset),
                None => error,
            }
        })
    }

    fn entry<'a>(&mut self, path: LayerPath<'a>, entry: Entry<'a>) -> Result<LayerEvent<'a>> {
        let (metadata, records) = (entry.metadata, entry.xattrs);
        let (kind, content) = match entry.kind {
            EntryKind::HardLink { target } => return self.link(path, target),
            EntryKind::File(content) if path.file_name().is_some_and(|name| name.contains(&b':')) => {
                return self.stream(path, content);
            }
            EntryKind::File(content) => (Kind::File, content),
            EntryKind::Directory => (Kind::Directory, Content::empty()),
            EntryKind::Symlink { target } => (Kind::Link(target), Content::empty()),
            kind @ (EntryKind::CharDevice(_) | EntryKind::BlockDevice(_) | EntryKind::Fifo) => {
                return Err(invalid(&format!("an entry of type {} in a layer of Windows", kind.name())));
            }
        };
        let of = self.name(path)?;
        self.warn_of_top_level(path);
        let heard = (self.monitor, path);
        let meta = records::read(kind, metadata, records, self.options, heard)?;
        // What an archive announces has been bounded by its reader; the sum need not be.
        self.total_size = self.total_size.saturating_add(content.len());
        self.before = Before::Added { path: path.to_owned(), of: of.clone(), streams: HashSet::new() };
        Ok(LayerEvent::Add { path: of, meta, content })
    }

    fn stream<'a>(&mut self, path: LayerPath<'a>, content: Content<'a>) -> Result<LayerEvent<'a>> {
        let (owner, name) = split_stream(path);
        match &mut self.before {
            Before::Added { path, of, streams } if path.as_path().as_bytes() == owner => {
                let name = StreamName::new(name).map_err(|error| about("alternate stream", &error))?;
                if !streams.insert(name.key()) {
                    let what = "the file has two alternate streams of one name";
                    return Err(Error::new(ErrorKind::ConflictingEntries, what));
                }
                Ok(LayerEvent::Stream { of: of.clone(), name, content })
            }
            Before::Other(path) if path.as_path().as_bytes() == owner => {
                Err(invalid("an alternate stream behind a link or a removal"))
            }
            _ => Err(invalid("an alternate stream that does not stand behind its file")),
        }
    }

    fn link<'a>(&mut self, path: LayerPath<'a>, target: LayerPath<'a>) -> Result<LayerEvent<'a>> {
        let link = self.name(path)?;
        let target = CimPath::from_layer(target).map_err(|error| about("target of a hard link", &error))?;
        if target.is_root() {
            return Err(invalid("a hard link to the root"));
        }
        if link.same(&target) {
            return Err(invalid("a hard link to itself"));
        }
        self.warn_of_outside(path);
        self.before = Before::Other(path.to_owned());
        Ok(LayerEvent::Link { path: link, target })
    }

    fn remove<'a>(&mut self, path: LayerPath<'a>) -> Result<LayerEvent<'a>> {
        let removed = self.name(path)?;
        self.warn_of_outside(path);
        self.before = Before::Other(path.to_owned());
        Ok(LayerEvent::Remove { path: removed })
    }

    fn opaque<'a>(&mut self, path: LayerPath<'a>) -> Result<LayerEvent<'a>> {
        let dir = CimPath::from_layer(path).map_err(|error| about("name", &error))?;
        self.before = Before::Other(path.to_owned());
        match self.options {
            WcowOptions { expand_opaque: true, .. } => Ok(LayerEvent::Opaque { path: dir }),
            WcowOptions { profile: CimProfile::Hcsshim, .. } => {
                Ok(LayerEvent::Remove { path: dir.join(".wh..opq")? })
            }
            _ => {
                let kind = ErrorKind::UnsupportedMarker { marker: "opaque" };
                Err(Error::new(kind, "a directory that hides what is below it, which Windows does not know"))
            }
        }
    }

    /// The path of an entry; the root has none.
    fn name(&self, path: LayerPath<'_>) -> Result<CimPath> {
        let name = CimPath::from_layer(path).map_err(|error| about("name", &error))?;
        if name.is_root() {
            return Err(invalid("an entry for the root"));
        }
        if path.file_name().is_some_and(|name| matches!(name.last(), Some(b' ' | b'.'))) {
            self.monitor.warn(&Warning::new(WarningKind::UntidyName, path));
        }
        Ok(name)
    }

    fn warn_of_top_level(&mut self, path: LayerPath<'_>) {
        let Some(top) = path.components().next() else { return };
        if !TOP_LEVEL.iter().any(|usual| top.eq_ignore_ascii_case(usual)) && top != self.unusual {
            self.unusual = top.to_vec();
            self.monitor.warn(&Warning::new(WarningKind::UnusualTopLevel, path));
        }
    }

    fn warn_of_outside(&self, path: LayerPath<'_>) {
        let mut components = path.components();
        let top = components.next().unwrap_or_default();
        let inside = top.eq_ignore_ascii_case(b"Files")
            || (top.eq_ignore_ascii_case(b"UtilityVM")
                && components.next().is_some_and(|name| name.eq_ignore_ascii_case(b"Files")));
        // Those two directories themselves are not inside.
        if !inside || components.next().is_none() {
            self.monitor.warn(&Warning::new(WarningKind::OutsideFiles, path));
        }
    }
}

/// The path of a stream as its file's path, and what follows the first colon. Where a directory's own name ends in a
/// slash, its streams are `directory/:stream`.
fn split_stream(path: LayerPath<'_>) -> (&[u8], &[u8]) {
    let bytes = path.as_bytes();
    let name_at = bytes.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let colon = bytes[name_at..].iter().position(|b| *b == b':').map_or(bytes.len(), |at| name_at + at);
    let owner = bytes[..colon].strip_suffix(b"/").unwrap_or(&bytes[..colon]);
    (owner, bytes.get(colon + 1..).unwrap_or_default())
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}
