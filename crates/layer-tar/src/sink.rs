//! The road level, writing: changes as the entries of a layer tar.

mod windows;

use std::{fmt, io::Write};

use layer_model::{
    Action, Change, Content, Device, Entry, EntryKind, Error, ErrorKind, IoContext, LayerPath, LayerSink,
    Metadata, Monitor, Result, Timestamp, Warning, WarningKind, Xattrs,
    change::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX, whiteout_path},
    content::{Body, ReadAt},
    metadata::MODE_MASK,
};

use crate::{
    BlobWriter, WriteOptions,
    encode::{END, EntryHeader, is_pax_key},
    header::{padding, typeflag},
};

/// How much of a file is read at once.
const PIECE: usize = 256 * 1024;

/// Writes changes as an uncompressed layer tar.
///
/// Entries are written in the order of the changes, with the bytes that containerd's `ChangeWriter` has for
/// them. Directories that an entry needs above it are not made up: a differ gives them as changes of their
/// own. The root is not written, as in containerd, but by [`WriteOptions::root`].
///
/// Entries that a layer cannot hold (a name that reads as a whiteout, a device number too large) are
/// [`Unrepresentable`](ErrorKind::Unrepresentable). A file that turns out shorter than announced is
/// [`FileChanged`](ErrorKind::FileChanged) when it is read from a file, else
/// [`Truncated`](ErrorKind::Truncated).
///
/// With [`WriteOptions::windows`] the layer is one of Windows, whose metadata the changes have as
/// [`layer_model::windows`] says. Entries then have the bytes that hcsshim's exporter and go-winio's `backuptar` have
/// for them: records under their own names, times to the nanosecond, modes that say the type only, no owners, no
/// slash behind directories, targets of symbolic links as they are. Attributes that are no records of Windows are
/// refused, or left out where that is allowed ([`WriteOptions::lossy`]). A file without bytes is written as one that
/// has a data stream; Windows says that or the contrary depending on its version. Two things are not as there, as they
/// lose data: streams of directories and of links are written, and times that 64 bits of nanoseconds cannot hold are
/// what they are.
pub struct TarSink<'m, W> {
    out: W,
    options: WriteOptions,
    monitor: &'m dyn Monitor,
    name: Vec<u8>,
    header: Vec<u8>,
    kept: Xattrs,
    /// The mode of the last entry of Windows that is no stream.
    stream_mode: Option<u32>,
    piece: Vec<u8>,
    copy: CopyPiece<W>,
    summary: TarSummary,
}

/// Copies some bytes of a file, at an offset and at most as many as given, to the writer; the buffer is for what
/// has none of its own. Returns how many those were, 0 at the end of the file.
type CopyPiece<W> = fn(&mut W, &mut Vec<u8>, &dyn ReadAt, u64, u64) -> Result<usize>;

/// What a [`TarSink`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TarSummary {
    /// How many entries.
    pub entries: u64,
    /// How many bytes, the end of the archive included.
    pub size: u64,
}

impl<'m, W: Write> TarSink<'m, W> {
    /// Writes to `out`, which should have a buffer of its own. For a [`BlobWriter`] there is
    /// [`TarSink::to_blob`].
    pub fn new(out: W, options: WriteOptions, monitor: &'m dyn Monitor) -> Self {
        Self {
            out,
            options,
            monitor,
            name: Vec::new(),
            header: Vec::new(),
            kept: Xattrs::new(),
            stream_mode: None,
            piece: Vec::new(),
            copy: |out, piece, file, offset, most| {
                piece.resize(PIECE, 0);
                let want = PIECE.min(usize::try_from(most).unwrap_or(PIECE));
                let n = read_at(file, &mut piece[..want], offset)?;
                out.write_all(&piece[..n]).during("write layer tar")?;
                Ok(n)
            },
            summary: TarSummary::default(),
        }
    }
}

impl<'m, W: Write> TarSink<'m, BlobWriter<W>> {
    /// Writes into `blob`: as [`TarSink::new`], and files are read right into the memory that is compressed and
    /// hashed.
    pub fn to_blob(blob: BlobWriter<W>, options: WriteOptions, monitor: &'m dyn Monitor) -> Self {
        let copy: CopyPiece<_> = |blob: &mut BlobWriter<W>, _, file, offset, most| {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            blob.fill_with(most, |memory| read_at(file, memory, offset))
        };
        Self { copy, ..Self::new(blob, options, monitor) }
    }
}

impl<W: Write> TarSink<'_, W> {
    /// Writes a deletion or an opaque mark: an empty file that root owns, without any permission, at the epoch.
    fn marker(&mut self) -> Result<()> {
        let header = EntryHeader {
            name: &self.name,
            link_name: b"",
            typeflag: typeflag::REGULAR,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::EPOCH,
            device: Device::default(),
            atime: None,
            ctime: None,
            xattrs: Xattrs::EMPTY,
            records: Xattrs::EMPTY,
        };
        self.header.clear();
        header.encode(&mut self.header)?;
        self.write_header()
    }

    fn write_header(&mut self) -> Result<()> {
        self.out.write_all(&self.header).during("write layer tar")?;
        self.summary.entries += 1;
        self.summary.size += self.header.len() as u64;
        Ok(())
    }

    fn entry(&mut self, path: LayerPath<'_>, entry: Entry<'_>) -> Result<()> {
        if self.options.windows {
            return self.windows_entry(path, entry);
        }
        match entry.kind {
            EntryKind::Directory if path.is_root() && !self.options.root => return Ok(()),
            EntryKind::Directory => {}
            _ if path.is_root() => {
                return Err(unrepresentable("the root is something other than a directory"));
            }
            _ => {}
        }
        if path.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return Err(unrepresentable("a name that begins with `.wh.` would be read as a deletion"));
        }
        self.name.clear();
        self.name.extend_from_slice(if path.is_root() { b"." } else { path.as_bytes() });
        if matches!(entry.kind, EntryKind::Directory) {
            self.name.push(b'/');
        }
        let dropped = self.choose_xattrs(path, entry.xattrs)?;
        let mut header = EntryHeader {
            name: &self.name,
            link_name: b"",
            typeflag: typeflag::REGULAR,
            mode: entry.metadata.mode & MODE_MASK,
            uid: entry.metadata.uid,
            gid: entry.metadata.gid,
            size: 0,
            mtime: mtime(&self.options, entry.metadata),
            device: Device::default(),
            atime: None,
            ctime: None,
            xattrs: if dropped { &self.kept } else { entry.xattrs },
            records: Xattrs::EMPTY,
        };
        let mut content = Content::empty();
        match entry.kind {
            EntryKind::Directory => header.typeflag = typeflag::DIRECTORY,
            EntryKind::File(data) => {
                header.size = data.len();
                content = data;
            }
            EntryKind::Symlink { target } => {
                header.typeflag = typeflag::SYMLINK;
                header.link_name = target;
            }
            EntryKind::HardLink { target } => {
                header.typeflag = typeflag::HARD_LINK;
                header.link_name = target.as_bytes();
            }
            EntryKind::CharDevice(device) => {
                header.typeflag = typeflag::CHAR;
                header.device = device;
            }
            EntryKind::BlockDevice(device) => {
                header.typeflag = typeflag::BLOCK;
                header.device = device;
            }
            EntryKind::Fifo => header.typeflag = typeflag::FIFO,
        }
        if header.link_name.is_empty() && matches!(header.typeflag, typeflag::SYMLINK | typeflag::HARD_LINK) {
            return Err(unrepresentable("a link without a target"));
        }
        self.header.clear();
        header.encode(&mut self.header)?;
        self.write_header()?;
        self.content(content)
    }

    /// Whether attributes have to be left out; those that stay are then in `kept`.
    fn choose_xattrs(&mut self, path: LayerPath<'_>, xattrs: &Xattrs) -> Result<bool> {
        let empty = |value: &[u8]| value.is_empty() && !self.options.empty_xattrs;
        let carried = |name: &[u8]| is_pax_key(name) || !self.options.lossy;
        if xattrs.iter().all(|(name, value)| !empty(value) && carried(name)) {
            return Ok(false);
        }
        self.kept.clear();
        for (name, value) in xattrs.iter() {
            if empty(value) {
                self.monitor.warn(&Warning::new(WarningKind::EmptyXattrDropped, path).detail(name));
            } else if carried(name) {
                self.kept.insert(name, value);
            } else {
                self.monitor.warn(&Warning::new(WarningKind::XattrDropped, path).detail(name));
            }
        }
        Ok(true)
    }

    fn content(&mut self, content: Content<'_>) -> Result<()> {
        let len = content.len();
        let out = &mut self.out;
        match content.into_parts() {
            (len, Body::Range { file, offset }) => {
                let mut done = 0;
                while done < len {
                    let n = (self.copy)(out, &mut self.piece, file, offset + done, len - done)?;
                    if n == 0 {
                        let message =
                            format!("file became shorter while it was read: {} bytes missing", len - done);
                        return Err(Error::new(ErrorKind::FileChanged, message));
                    }
                    done += n as u64;
                }
            }
            (len, Body::Sparse { extents, packed }) => {
                // A layer has no business with sparse encodings: holes are written out.
                Content::sparse(extents, packed, len)?.write_to(out)?;
            }
            (len, Body::Stream(stream)) => Content::from_stream(stream, len).write_to(out)?,
            (_, Body::Bytes(bytes)) => out.write_all(bytes).during("write layer tar")?,
            (..) => {
                return Err(Error::new(ErrorKind::NotSupported, "content of a form that is not known here"));
            }
        }
        let padding = padding(len) as usize;
        out.write_all(&END[..padding]).during("write layer tar")?;
        self.summary.size += len + padding as u64;
        Ok(())
    }
}

fn read_at(file: &dyn ReadAt, buf: &mut [u8], offset: u64) -> Result<usize> {
    file.read_some_at(buf, offset).during("read content")
}

fn mtime(options: &WriteOptions, metadata: Metadata) -> Timestamp {
    let mtime = if options.nanoseconds { metadata.mtime } else { metadata.mtime.truncated() };
    match options.source_date_epoch {
        Some(epoch) => mtime.min(Timestamp::from_secs(epoch)),
        None => mtime,
    }
}

fn unrepresentable(message: &str) -> Error {
    Error::new(ErrorKind::Unrepresentable, message)
}

impl<W: Write> LayerSink for TarSink<'_, W> {
    /// The writer, and what was written to it.
    type Output = (W, TarSummary);

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        let path = change.path;
        let written = match change.action {
            Action::Upsert(entry) => self.entry(path, entry),
            Action::Remove => self.removal(path),
            Action::Opaque => self.opaque(path),
        };
        written.map_err(|error| error.at(path))
    }

    fn finish(mut self) -> Result<Self::Output> {
        self.out.write_all(&END).during("write layer tar")?;
        self.out.flush().during("write layer tar")?;
        self.summary.size += END.len() as u64;
        Ok((self.out, self.summary))
    }
}

impl<W: Write> TarSink<'_, W> {
    fn removal(&mut self, path: LayerPath<'_>) -> Result<()> {
        let Some(whiteout) = whiteout_path(path) else {
            return Err(unrepresentable("the root cannot be deleted"));
        };
        // `.wh.` in front of these names gives names that mean something else.
        let (in_root, name) = (path.depth() == 1, path.file_name().unwrap_or_default());
        let reserved = name == &OPAQUE_WHITEOUT[WHITEOUT_PREFIX.len()..];
        let windows = self.options.windows;
        if windows {
            path.parent().map_or(Ok(()), windows::check_name)?;
            windows::check_separators(path)?;
        }
        if reserved || ((in_root || windows) && name.starts_with(WHITEOUT_PREFIX)) {
            return Err(unrepresentable("the deletion of this name has another meaning in a layer"));
        }
        self.name.clear();
        self.name.extend_from_slice(whiteout.as_path().as_bytes());
        self.marker()
    }

    fn opaque(&mut self, path: LayerPath<'_>) -> Result<()> {
        if self.options.windows {
            windows::check_name(path)?;
        }
        self.name.clear();
        self.name.extend_from_slice(path.as_bytes());
        if !path.is_root() {
            self.name.push(b'/');
        }
        self.name.extend_from_slice(OPAQUE_WHITEOUT);
        self.marker()
    }
}

impl<W> fmt::Debug for TarSink<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarSink")
            .field("options", &self.options)
            .field("summary", &self.summary)
            .finish_non_exhaustive()
    }
}
