//! The road level: what the entries of a layer tar mean.

mod windows;

use std::{
    collections::HashSet,
    fmt,
    hash::{DefaultHasher, Hasher},
    io::BufRead,
};

use layer_model::{
    Action, Change, Content, Device, Entry, EntryKind, Error, ErrorKind, LayerPath, LayerPathBuf,
    LayerSource, Metadata, Monitor, Origin, Profile, Result, Timestamp, Warning, WarningKind, Xattrs,
    change::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX},
    metadata::MODE_MASK,
};

use crate::{
    AufsStore, RawEntry, ReadOptions, TarReader,
    header::typeflag,
    pax,
    spool::{Spool, StoredKind},
};

/// The beginning of AUFS's own names, in a layer's root.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// The directory where AUFS keeps the data of files with several names.
const AUFS_STORE: &[u8] = b".wh..wh.plnk";

/// The changes of a layer tar.
///
/// Entries come in the order of the archive. What an entry means is decided by these rules:
///
/// - Names are cleaned as if the root were `/`: they cannot climb.
/// - `.wh.NAME` is a removal and `.wh..wh..opq` an opaque mark, by name alone: type and content do not matter.
/// - A directory that names the root is a change at [`LayerPath::ROOT`]. A hard link that does is left out, and
///   so is everything else under [`Profile::Containerd`]; else it is an invalid archive.
/// - AUFS's bookkeeping (`.wh..wh.*` in the root) is left out with a warning; see [`AufsStore`].
/// - Attributes are the PAX records `SCHILY.xattr.*`. `LIBARCHIVE.xattr.*` is ignored, as containerd does.
/// - Owners that do not fit, hard links to themselves or to the root, unknown types and names that mean
///   nothing (`.wh.`, `.wh...`) are an invalid archive.
/// - Times before 1970, and those past signed 64-bit nanoseconds, are the epoch; as in containerd. The access
///   time is never before the modification time.
/// - Global extended headers have no effect (containerd removes files of their name).
///
/// With [`ReadOptions::windows`] the layer is one of Windows, and comes as [`layer_model::windows`] says. Then these
/// rules hold instead:
///
/// - Backslashes separate components, in names and in the targets of hard links; those of symbolic links stay as they
///   are. Names that are absolute, have a drive letter or climb are a
///   [`PathEscape`](ErrorKind::PathEscape), empty ones an invalid archive.
/// - A directory that names the root is left out; whatever else does is an invalid archive.
/// - Entries whose names begin with `.wh..wh.`, other than opaque marks, and those below such, are left out with a
///   warning, at any depth.
/// - Attributes are the records of Windows alone, under their own names. `SCHILY.xattr.*` is left out with a warning.
/// - Times are as the archive has them. Owners that do not fit are root: Windows has others.
///
/// `Ok(None)` comes when the reader below is at its end: what follows the archive has been read, too.
pub struct TarSource<'m, R> {
    reader: TarReader<R>,
    monitor: &'m dyn Monitor,
    seen: Option<HashSet<u64>>,
    spool: Option<Spool>,
    path: LayerPathBuf,
    link: LayerPathBuf,
    xattrs: Xattrs,
    finished: bool,
}

impl<R> fmt::Debug for TarSource<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarSource")
            .field("path", &self.path)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// What an entry turned out to be. Paths and attributes are in the source.
#[derive(Debug)]
enum Meaning {
    Remove,
    Opaque,
    Upsert(Kind),
    /// The first name of a file whose data is in the spool, under the name in `link`.
    FromStore,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Directory,
    File,
    Symlink,
    HardLink,
    Char(Device),
    Block(Device),
    Fifo,
}

impl<'m, R: BufRead> TarSource<'m, R> {
    /// Reads the uncompressed layer tar that `reader` gives.
    pub fn new(reader: R, options: ReadOptions, monitor: &'m dyn Monitor) -> Self {
        let report_duplicates = options.report_duplicates && options.profile == Profile::Spec;
        Self {
            seen: report_duplicates.then(HashSet::new),
            reader: TarReader::new(reader, options),
            monitor,
            spool: None,
            path: LayerPathBuf::root(),
            link: LayerPathBuf::root(),
            xattrs: Xattrs::new(),
            finished: false,
        }
    }

    /// How many bytes of the archive were read.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The reader below.
    pub fn get_ref(&self) -> &R {
        self.reader.get_ref()
    }

    /// The reader below.
    pub fn into_inner(self) -> R {
        self.reader.into_inner()
    }

    /// Reads what follows the archive, once.
    fn finish(&mut self) -> Result<()> {
        if !self.finished {
            if self.reader.has_dangling_extension() {
                self.monitor.warn(&Warning::new(WarningKind::DanglingExtension, LayerPath::ROOT));
            }
            self.reader.drain()?;
            self.finished = true;
        }
        Ok(())
    }

    /// Goes to the next entry that means something, with the metadata that it has.
    fn next_meaning(&mut self) -> Result<Option<(Meaning, Metadata)>> {
        while self.reader.advance()? {
            match self.meaning_and_metadata() {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => {
                    self.reader.fail();
                    let raw = self.reader.entry();
                    return Err(error.entry(&raw.name).index(raw.index).offset(raw.header_offset));
                }
            }
        }
        self.finish()?;
        Ok(None)
    }

    fn meaning_and_metadata(&mut self) -> Result<Option<(Meaning, Metadata)>> {
        Ok(match self.interpret()? {
            Some(meaning @ Meaning::Upsert(_)) => Some((meaning, self.metadata()?)),
            // Removals have none, and the store has that of its entries.
            other => other.map(|meaning| (meaning, Metadata::default())),
        })
    }

    /// What the current entry means; [`None`] for one that is left out.
    fn interpret(&mut self) -> Result<Option<Meaning>> {
        let raw = self.reader.entry();
        let options = self.reader.options();
        if raw.typeflag == typeflag::PAX_GLOBAL {
            return Ok(None);
        }
        if options.windows {
            windows::set_path(&mut self.path, &raw.name)?;
        } else {
            self.path.set_clean(&raw.name)?;
        }
        let path = self.path.as_path();
        check_path(path, options)?;
        let Some((parent, name)) = path.split_last() else {
            return match (raw.typeflag, options.profile) {
                (typeflag::DIRECTORY, _) if options.windows => Ok(None),
                _ if options.windows => Err(invalid("the root is something other than a directory")),
                (typeflag::DIRECTORY, _) => self.interpret_type(),
                (typeflag::HARD_LINK, _) | (_, Profile::Containerd) => Ok(None),
                _ => Err(invalid("the root is something other than a directory")),
            };
        };
        if let Some(seen) = &mut self.seen
            && !seen.insert(hash(path))
        {
            self.monitor.warn(&Warning::new(WarningKind::DuplicateEntry, path));
        }
        if options.windows && windows::is_ignored(&self.path) {
            self.monitor.warn(&Warning::new(WarningKind::AufsMetadata, path));
            return Ok(None);
        }
        if !options.windows && is_aufs(path) {
            self.monitor.warn(&Warning::new(WarningKind::AufsMetadata, path));
            return self.keep_stored();
        }
        if name == OPAQUE_WHITEOUT {
            self.path = parent.to_owned();
            return Ok(Some(Meaning::Opaque));
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            None => self.interpret_type(),
            Some(b"" | b"." | b"..") => Err(invalid("whiteout of nothing")),
            Some(hidden) => {
                self.path = parent.join(hidden)?;
                Ok(Some(Meaning::Remove))
            }
        }
    }

    fn interpret_type(&mut self) -> Result<Option<Meaning>> {
        let raw = self.reader.entry();
        let options = self.reader.options();
        let spec = options.profile == Profile::Spec || options.windows;
        let kind = match raw.typeflag {
            typeflag::DIRECTORY => Kind::Directory,
            typeflag::REGULAR | typeflag::GNU_SPARSE => Kind::File,
            typeflag::CONTIGUOUS if spec => Kind::File,
            typeflag::SYMLINK if raw.link_name.is_empty() => {
                return Err(invalid("symbolic link without a target"));
            }
            typeflag::SYMLINK => {
                check_target(&raw.link_name, options)?;
                Kind::Symlink
            }
            typeflag::HARD_LINK => {
                check_target(&raw.link_name, options)?;
                if options.windows {
                    windows::set_path(&mut self.link, &raw.link_name)
                        .map_err(|error| error.context("the target of a hard link"))?;
                } else {
                    self.link.set_clean(&raw.link_name)?;
                }
                match self.link.as_path() {
                    target if raw.link_name.is_empty() || target.is_root() => {
                        return Err(invalid("hard link without a target that can be linked"));
                    }
                    target if target == self.path.as_path() => return Err(invalid("hard link to itself")),
                    target if !options.windows && target.components().next() == Some(AUFS_STORE) => {
                        return self.link_from_store();
                    }
                    _ => Kind::HardLink,
                }
            }
            typeflag::CHAR => Kind::Char(device(raw)?),
            typeflag::BLOCK => Kind::Block(device(raw)?),
            typeflag::FIFO => Kind::Fifo,
            other => {
                return Err(invalid(&format!(
                    "type {} is none of a layer",
                    char::from(other).escape_default()
                )));
            }
        };
        if options.windows {
            windows::records(raw, &self.path, &mut self.xattrs, self.monitor)?;
        } else {
            xattrs(raw, &mut self.xattrs)?;
        }
        Ok(Some(Meaning::Upsert(kind)))
    }

    /// Takes an entry of AUFS's store aside, if that is wanted.
    fn keep_stored(&mut self) -> Result<Option<Meaning>> {
        let path = self.path.as_path();
        let in_store = path.components().next() == Some(AUFS_STORE) && path.depth() == 2;
        let (true, AufsStore::Resolve { spool }) = (in_store, &self.reader.options().aufs_store) else {
            return Ok(None);
        };
        if self.spool.is_none() {
            self.spool = Some(Spool::new(spool)?);
        }
        let Some(Meaning::Upsert(kind)) = self.interpret_type()? else { return Ok(None) };
        let metadata = self.metadata()?;
        let spool = self.spool.as_mut().ok_or_else(|| invalid("no spool"))?;
        let (raw, content) = self.reader.entry_and_content()?;
        let kind = match kind {
            Kind::Directory | Kind::HardLink => return Ok(None),
            Kind::File => spool.append(content)?,
            Kind::Symlink => StoredKind::Symlink(raw.link_name.clone()),
            Kind::Char(device) => StoredKind::Char(device),
            Kind::Block(device) => StoredKind::Block(device),
            Kind::Fifo => StoredKind::Fifo,
        };
        spool.insert(self.path.clone(), kind, metadata, self.xattrs.clone());
        Ok(None)
    }

    /// A hard link into AUFS's store, whose path is in `link`.
    fn link_from_store(&mut self) -> Result<Option<Meaning>> {
        let stored = self.spool.as_mut().and_then(|spool| spool.get_mut(&self.link));
        let Some(stored) = stored else {
            return Err(invalid("hard link into the store of AUFS, which is not there"));
        };
        match &stored.first_name {
            Some(name) => {
                self.link.clone_from(name);
                xattrs(self.reader.entry(), &mut self.xattrs)?;
                Ok(Some(Meaning::Upsert(Kind::HardLink)))
            }
            None => {
                stored.first_name = Some(self.path.clone());
                Ok(Some(Meaning::FromStore))
            }
        }
    }

    fn metadata(&self) -> Result<Metadata> {
        let raw = self.reader.entry();
        if self.reader.options().windows {
            return Ok(Metadata {
                mode: u32::try_from(raw.mode & i64::from(MODE_MASK)).unwrap_or_default(),
                uid: id(raw.uid).unwrap_or_default(),
                gid: id(raw.gid).unwrap_or_default(),
                mtime: raw.mtime,
                atime: raw.atime,
            });
        }
        let mut clamped = false;
        let mut bounded = |time: Timestamp| {
            let fits = (Timestamp::EPOCH..=LAST_TIME).contains(&time);
            clamped |= !fits;
            if fits { time } else { Timestamp::EPOCH }
        };
        let metadata = Metadata {
            mode: u32::try_from(raw.mode & i64::from(MODE_MASK)).unwrap_or_default(),
            uid: id(raw.uid)?,
            gid: id(raw.gid)?,
            mtime: bounded(raw.mtime),
            atime: raw.atime.map(|atime| bounded(atime.max(raw.mtime))),
        };
        if clamped {
            self.monitor.warn(&Warning::new(WarningKind::TimeClamped, self.path.as_path()));
        }
        Ok(metadata)
    }
}

impl<R: BufRead> LayerSource for TarSource<'_, R> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        let Some((meaning, metadata)) = self.next_meaning()? else { return Ok(None) };
        let Self { reader, spool, path, link, xattrs, .. } = self;
        let raw = reader.entry();
        let data_offset = matches!(meaning, Meaning::Upsert(Kind::File)).then_some(raw.data_offset);
        let origin = Origin { index: raw.index, offset: Some(raw.header_offset), data_offset };
        let entry = |kind| Entry::new(kind, metadata).with_xattrs(xattrs);
        let action = match meaning {
            Meaning::Remove => Action::Remove,
            Meaning::Opaque => Action::Opaque,
            Meaning::Upsert(kind) => {
                let (raw, content) = reader.entry_and_content()?;
                Action::Upsert(entry(match kind {
                    Kind::Directory => EntryKind::Directory,
                    Kind::File => EntryKind::File(content),
                    Kind::Symlink => EntryKind::Symlink { target: &raw.link_name },
                    Kind::HardLink => EntryKind::HardLink { target: link.as_path() },
                    Kind::Char(device) => EntryKind::CharDevice(device),
                    Kind::Block(device) => EntryKind::BlockDevice(device),
                    Kind::Fifo => EntryKind::Fifo,
                }))
            }
            Meaning::FromStore => {
                let found = spool.as_ref().and_then(|spool| Some((spool, spool.get(link)?)));
                let (spool, stored) = found.ok_or_else(|| invalid("the store of AUFS lost an entry"))?;
                let kind = match &stored.kind {
                    StoredKind::File { offset, len } => {
                        EntryKind::File(Content::from_range(spool.file(), *offset, *len))
                    }
                    StoredKind::Symlink(target) => EntryKind::Symlink { target },
                    StoredKind::Char(device) => EntryKind::CharDevice(*device),
                    StoredKind::Block(device) => EntryKind::BlockDevice(*device),
                    StoredKind::Fifo => EntryKind::Fifo,
                };
                Action::Upsert(Entry::new(kind, stored.metadata).with_xattrs(&stored.xattrs))
            }
        };
        Ok(Some(Change::new(path.as_path(), action).from_origin(origin)))
    }
}

/// The last time that 64 signed bits of nanoseconds hold, in the year 2262.
const LAST_TIME: Timestamp = Timestamp { secs: i64::MAX / 1_000_000_000, nanos: 854_775_807 };

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}

fn hash(path: LayerPath<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(path.as_bytes());
    hasher.finish()
}

fn is_aufs(path: LayerPath<'_>) -> bool {
    let ours = path.as_bytes() == OPAQUE_WHITEOUT;
    path.as_bytes().starts_with(AUFS_PREFIX) && !ours
}

fn check_path(path: LayerPath<'_>, options: &ReadOptions) -> Result<()> {
    let limit = |limit| Err(Error::new(ErrorKind::LimitExceeded { limit }, "path is too long"));
    if path.as_bytes().len() > options.max_path_len {
        return limit("max_path_len");
    }
    if path.as_bytes().len() > options.max_name_len.min(options.max_depth) {
        if path.depth() > options.max_depth {
            return limit("max_depth");
        }
        if path.components().any(|name| name.len() > options.max_name_len) {
            return limit("max_name_len");
        }
    }
    Ok(())
}

fn check_target(target: &[u8], options: &ReadOptions) -> Result<()> {
    if target.len() > options.max_path_len {
        let kind = ErrorKind::LimitExceeded { limit: "max_path_len" };
        return Err(Error::new(kind, "link target is too long"));
    }
    Ok(())
}

/// An owner. containerd cuts larger ones to 32 bits, and takes the largest for "leave it": neither is what the
/// archive says.
fn id(id: i64) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid(&format!("owner {id} is out of range")))
}

fn device(raw: &RawEntry) -> Result<Device> {
    match (u32::try_from(raw.dev_major), u32::try_from(raw.dev_minor)) {
        (Ok(major), Ok(minor)) => Ok(Device::new(major, minor)),
        _ => Err(invalid(&format!("device {}:{} is out of range", raw.dev_major, raw.dev_minor))),
    }
}

/// Collects the attributes of an entry. Empty values count: a file may have an attribute without one.
fn xattrs(raw: &RawEntry, xattrs: &mut Xattrs) -> Result<()> {
    xattrs.clear();
    if raw.pax.is_empty() {
        return Ok(());
    }
    let records =
        raw.pax.iter().filter_map(|(key, value)| Some((key.strip_prefix(pax::XATTR_PREFIX)?, value)));
    let mut records: Vec<(&[u8], &[u8])> = records.collect();
    // Sorted first, so that every insertion goes to the end: an extended header can hold fifty thousand.
    records.sort_by_key(|(name, _)| *name);
    for (name, value) in records {
        if name.is_empty() {
            return Err(invalid("extended attribute without a name"));
        }
        xattrs.insert(name, value);
    }
    Ok(())
}
