//! Events to changes.

use std::fmt;

use layer_model::{
    Change, Content, Entry, EntryKind, Error, ErrorKind, LayerPathBuf, LayerSource, Metadata, Result, Xattrs,
    windows,
};

use super::{WcowEvents, about, records};
use crate::{CimPath, FileMeta, LayerEvent, reparse::Link};

/// The changes of a layer whose events are given, in the form that [`layer_model::windows`] describes.
///
/// Together with a sink that writes layers of Windows this makes an archive; it has no owners, and modes are those
/// that every file of Windows seems to have on other systems. Streams get the times of their file.
///
/// What no archive carries is [`ErrorKind::Unrepresentable`]: reparse points that are neither symbolic links nor
/// junctions, files with reparse data and content, flags of extended attributes, streams that do not stand behind their
/// file.
pub struct WcowChanges<E> {
    events: E,
    path: LayerPathBuf,
    target: LayerPathBuf,
    link: Vec<u8>,
    records: Xattrs,
    /// What streams are checked against, and have their times of.
    added: Option<(CimPath, Metadata)>,
    failed: bool,
}

impl<E> fmt::Debug for WcowChanges<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WcowChanges").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<E: WcowEvents> WcowChanges<E> {
    /// The changes of the layer that `events` gives.
    pub fn new(events: E) -> Self {
        Self {
            events,
            path: LayerPathBuf::root(),
            target: LayerPathBuf::root(),
            link: Vec::new(),
            records: Xattrs::new(),
            added: None,
            failed: false,
        }
    }

    /// The events, wherever they stand.
    pub fn into_inner(self) -> E {
        self.events
    }
}

impl<E: WcowEvents> LayerSource for WcowChanges<E> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "reading the layer has failed before"));
        }
        self.failed = true;
        let Self { events, path, target, link, records, added, failed } = self;
        let Some(event) = events.next_event()? else {
            *failed = false;
            return Ok(None);
        };
        *path = event.path().to_layer();
        let at = event.path().clone();
        if !matches!(event, LayerEvent::Stream { .. }) {
            *added = None;
        }
        let change = match event {
            LayerEvent::Add { path: name, meta, content } => {
                let described = describe(&meta, records, link);
                let metadata = described.map_err(|error| error.entry(at.as_bytes()))?;
                let kind = kind(&meta, content, link).map_err(|error| error.entry(at.as_bytes()))?;
                *added = Some((name, metadata));
                Change::upsert(path.as_path(), Entry::new(kind, metadata).with_xattrs(records))
            }
            LayerEvent::Stream { of, name, content } => {
                let metadata = match added {
                    Some((file, metadata)) if file.same(&of) => *metadata,
                    _ => {
                        let what = "an alternate stream that does not stand behind its file";
                        return Err(unrepresentable(what).entry(of.as_bytes()));
                    }
                };
                let file = path.as_path().file_name().unwrap_or_default();
                let full = [file, b":", name.as_bytes()].concat();
                path.pop();
                path.push(&full)?;
                keep_for_stream(records);
                let entry = Entry::new(EntryKind::File(content), metadata).with_xattrs(records);
                Change::upsert(path.as_path(), entry)
            }
            LayerEvent::Link { target: name, .. } => {
                *target = name.to_layer();
                let kind = EntryKind::HardLink { target: target.as_path() };
                Change::upsert(path.as_path(), Entry::new(kind, Metadata::file(0o644)))
            }
            LayerEvent::Remove { .. } => Change::remove(path.as_path()),
            LayerEvent::Opaque { .. } => Change::opaque(path.as_path()),
        };
        *failed = false;
        Ok(Some(change))
    }
}

/// What there is to say about an entry besides its content: its records, and where it leads, if it is a link.
///
/// # Errors
/// [`ErrorKind::Unrepresentable`] for what no archive carries.
pub(crate) fn describe(meta: &FileMeta, records: &mut Xattrs, link: &mut Vec<u8>) -> Result<Metadata> {
    records::write(meta, records)?;
    link.clear();
    if let Some(reparse) = link_of(meta)? {
        *link = reparse.target.into();
        if reparse.is_junction {
            records.insert(windows::MOUNT_POINT, &b"1"[..]);
        }
    }
    let is_dir = meta.is_dir() && link.is_empty();
    let mut metadata = Metadata::file(if is_dir { 0o755 } else { 0o644 });
    metadata.mtime = meta.write.to_timestamp();
    metadata.atime = Some(meta.access.to_timestamp());
    Ok(metadata)
}

/// Of the records of a file, those that its alternate streams have.
pub(crate) fn keep_for_stream(records: &mut Xattrs) {
    records.retain(|name, _| name == windows::CHANGE_TIME);
}

fn unrepresentable(what: &str) -> Error {
    Error::new(ErrorKind::Unrepresentable, what)
}

/// The link that a reparse point is.
fn link_of(meta: &FileMeta) -> Result<Option<Link>> {
    if meta.reparse.is_empty() {
        return Ok(None);
    }
    match Link::parse(&meta.reparse) {
        Err(error) if error.kind() == &ErrorKind::NotSupported => {
            Err(unrepresentable("a reparse point that is neither a symbolic link nor a junction"))
        }
        link => link.map(Some).map_err(|error| about("link", &error)),
    }
}

/// What an entry is that has this metadata and content, and leads to `target` where it is a link.
fn kind<'a>(meta: &FileMeta, content: Content<'a>, target: &'a [u8]) -> Result<EntryKind<'a>> {
    match (target.is_empty(), meta.is_dir()) {
        (true, false) => Ok(EntryKind::File(content)),
        _ if !content.is_empty() => Err(unrepresentable("a directory or a reparse point with content")),
        (true, true) => Ok(EntryKind::Directory),
        (false, _) => Ok(EntryKind::Symlink { target }),
    }
}
