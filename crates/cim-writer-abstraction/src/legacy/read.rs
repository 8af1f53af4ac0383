//! Layer directories as events.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use layer_model::{Content, Error, ErrorKind, IoContext, ReadAt, Result, content::Extent, tree::InodeId};

use super::{Places, SIDE_SUFFIX, TOMBSTONES, tombstones};
use crate::{
    Attributes, CimPath, FileMeta, FileTime, LayerEvent, SecurityDescriptor,
    backup::{Layout, Main, Pieces, Run},
    ea,
    path::PathKey,
    reparse::{self, Link},
    wcow::WcowEvents,
};

/// The largest `tombstones.txt` that is read, in bytes: a million paths, and far more than Windows has files.
const TOMBSTONES_MAX: u64 = 1 << 28;
/// The attributes in front of a backup stream.
const ATTRIBUTES_LEN: u64 = 4;

/// How a layer directory is read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LegacyOptions {
    /// How many bytes of holes a file may have. A few bytes of a backup stream can stand for any number of zeros.
    pub max_sparse_expansion: u64,
}

impl Default for LegacyOptions {
    fn default() -> Self {
        // As for archives: 256 GiB.
        Self { max_sparse_expansion: 1 << 38 }
    }
}

impl LegacyOptions {
    /// Sets [`Self::max_sparse_expansion`].
    #[must_use]
    pub fn max_sparse_expansion(mut self, bytes: u64) -> Self {
        self.max_sparse_expansion = bytes;
        self
    }
}

/// Reads a layer directory.
///
/// Symbolic links and special files of the host are refused: layers have their own kind, inside backup streams. Names of
/// one file of the host are links of the layer, where the host tells.
#[derive(Debug)]
pub struct LegacySource {
    options: LegacyOptions,
    places: Places,
    /// Directories that are being read, the innermost last.
    open: Vec<Frame>,
    /// What is removed, by the directory that it is in.
    removed: HashMap<PathKey, Vec<CimPath>>,
    /// What is removed in no directory of the layer, in the order of the list; filled when all else has been given.
    left: Option<vec::IntoIter<CimPath>>,
    /// What is removed in the order of the list.
    removed_order: Vec<PathKey>,
    /// What is removed in the directory that came last.
    removals: vec::IntoIter<CimPath>,
    /// Files with several names, and the first of them.
    links: HashMap<InodeId, CimPath>,
    /// The times of the directories that a conversion makes anew: those of a hive, which it keeps.
    stable_times: Option<Times>,
    current: Option<Current>,
    failed: bool,
}

/// A directory that is being read.
#[derive(Debug)]
struct Frame {
    path: CimPath,
    host: PathBuf,
    names: vec::IntoIter<Box<[u8]>>,
    /// Whether the files in it begin with their attributes.
    is_framed: bool,
}

/// The file that events borrow from.
#[derive(Debug)]
struct Current {
    path: CimPath,
    meta: FileMeta,
    file: Option<Arc<File>>,
    layout: Layout,
    extents: Vec<Extent>,
    packed: Option<BufReader<Pieces<Arc<File>, vec::IntoIter<Run>>>>,
    /// The alternate stream that comes next.
    next_stream: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    creation: FileTime,
    write: FileTime,
    access: FileTime,
}

/// What comes next, before it is borrowed.
enum Next {
    Add,
    Stream(usize),
    Link(CimPath, CimPath),
    Remove(CimPath),
    Nothing,
}

impl LegacySource {
    /// Opens the layer in `dir`.
    ///
    /// # Errors
    /// Those of reading the directory, and of [`tombstones::parse`].
    pub fn open(dir: &Path, options: LegacyOptions) -> Result<Self> {
        let root =
            Frame { path: CimPath::root(), host: dir.to_owned(), names: names(dir)?, is_framed: false };
        let places = Places::new()?;
        let mut source = Self {
            options,
            places,
            open: Vec::new(),
            removed: HashMap::new(),
            left: None,
            removed_order: Vec::new(),
            removals: Vec::new().into_iter(),
            links: HashMap::new(),
            stable_times: None,
            current: None,
            failed: false,
        };
        for name in root.names.as_slice() {
            if **name == *TOMBSTONES.as_bytes() {
                source.read_tombstones(&dir.join(TOMBSTONES))?;
            } else if name.eq_ignore_ascii_case(b"Hives") {
                source.stable_times = system_delta(&host_join(dir, name)?)?;
            }
        }
        source.open.push(root);
        Ok(source)
    }

    fn read_tombstones(&mut self, path: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(path).during("look at tombstones.txt")?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidArchive, "tombstones.txt is no file"));
        }
        if metadata.len() > TOMBSTONES_MAX {
            let kind = ErrorKind::LimitExceeded { limit: "tombstones_size" };
            return Err(Error::new(kind, "tombstones.txt is too large"));
        }
        for path in tombstones::parse(&fs::read(path).during("read tombstones.txt")?)? {
            let dir = path.parent().unwrap_or_default().key();
            let in_dir = self.removed.entry(dir.clone()).or_default();
            if in_dir.is_empty() {
                self.removed_order.push(dir);
            }
            in_dir.push(path);
        }
        Ok(())
    }

    /// The next event, [`None`] after the last.
    ///
    /// What is removed in a directory that the layer does not have comes at the end.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for what is no layer directory, [`ErrorKind::ConflictingEntries`] for names that
    /// differ in case only, [`ErrorKind::LimitExceeded`] for too many holes, those of
    /// [`Layout::scan`](crate::backup::Layout::scan), of names that Windows does not take, and of the host. Each names
    /// the entry. After an error there is no further event.
    pub fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "reading the layer has failed before"));
        }
        self.failed = true;
        let next = self.advance()?;
        self.failed = false;
        Ok(match (next, &mut self.current) {
            (Next::Add, Some(current)) => {
                let (path, meta) = (current.path.clone(), current.meta.clone());
                Some(LayerEvent::Add { path, meta, content: current.content()? })
            }
            (Next::Stream(number), Some(current)) => {
                let (name, run) = &current.layout.streams[number];
                let content = match &current.file {
                    Some(file) => Content::from_range(&**file, run.at, run.len),
                    None => Content::empty(),
                };
                Some(LayerEvent::Stream { of: current.path.clone(), name: name.clone(), content })
            }
            (Next::Link(path, target), _) => Some(LayerEvent::Link { path, target }),
            (Next::Remove(path), _) => Some(LayerEvent::Remove { path }),
            (Next::Add | Next::Stream(_) | Next::Nothing, _) => None,
        })
    }

    fn advance(&mut self) -> Result<Next> {
        if let Some(current) = &mut self.current {
            if current.next_stream < current.layout.streams.len() {
                current.next_stream += 1;
                return Ok(Next::Stream(current.next_stream - 1));
            }
            self.current = None;
        }
        if let Some(path) = self.removals.next() {
            return Ok(Next::Remove(path));
        }
        while let Some(frame) = self.open.last_mut() {
            let Some(name) = frame.names.next() else {
                self.open.pop();
                continue;
            };
            let is_root = frame.path.is_root();
            if name.ends_with(SIDE_SUFFIX.as_bytes()) || is_root && *name == *TOMBSTONES.as_bytes() {
                continue;
            }
            let path = frame.path.join(&name)?;
            let (host, is_framed) = (host_join(&frame.host, &name)?, frame.is_framed);
            return self.enter(&path, host, is_framed).map_err(|error| error.entry(path.as_bytes()));
        }
        let left = self.left.get_or_insert_with(|| {
            let in_dir = |dir| self.removed.remove(dir).unwrap_or_default();
            self.removed_order.iter().flat_map(in_dir).collect::<Vec<_>>().into_iter()
        });
        Ok(left.next().map_or(Next::Nothing, Next::Remove))
    }

    /// Opens what is at `path`.
    fn enter(&mut self, path: &CimPath, host: PathBuf, in_framed: bool) -> Result<Next> {
        let metadata = fs::symlink_metadata(&host).during("look at a file of the layer")?;
        let key = path.key();
        if metadata.is_dir() {
            return self.enter_dir(path, key, host, in_framed, &metadata);
        }
        if !metadata.is_file() {
            let what = "neither a file nor a directory of the host";
            return Err(Error::new(ErrorKind::InvalidArchive, what));
        }
        if let Some(inode) = inode(&metadata) {
            if let Some(first) = self.links.get(&inode) {
                return Ok(Next::Link(path.clone(), first.clone()));
            }
            self.links.insert(inode, path.clone());
        }
        let file = Arc::new(File::open(&host).during("open a file of the layer")?);
        let current = if in_framed {
            self.framed(path, file, Times::of(&metadata), false)?
        } else {
            let len = ReadAt::len(&*file).during("measure a file of the layer")?;
            let layout = Layout { main: Main::Whole(Run { at: 0, len }), ..Layout::default() };
            let meta = Times::of(&metadata).on(FileMeta::new(plain_attributes(&metadata)));
            Current::new(path, meta, Some(file), layout)
        };
        self.current = Some(current);
        Ok(Next::Add)
    }

    fn enter_dir(
        &mut self,
        path: &CimPath,
        key: PathKey,
        host: PathBuf,
        in_framed: bool,
        metadata: &Metadata,
    ) -> Result<Next> {
        let mut side = host.clone().into_os_string();
        side.push(SIDE_SUFFIX);
        let side = match fs::symlink_metadata(&side) {
            Ok(found) if found.is_file() => {
                Some((File::open(&side).during("open the side file of a directory")?, Times::of(&found)))
            }
            Ok(_) => return Err(Error::new(ErrorKind::InvalidArchive, "the side file is no file")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("look at the side file of a directory", error)),
        };
        if in_framed && side.is_none() {
            return Err(Error::new(ErrorKind::InvalidArchive, "the directory has no side file"));
        }
        let has_side = side.is_some();
        let current = match side {
            Some((file, times)) => self.framed(path, Arc::new(file), times, true)?,
            None => {
                let is_made_anew = key == self.places.files || key == self.places.hives;
                let stable = self.stable_times.filter(|_| is_made_anew);
                let times = stable.unwrap_or_else(|| Times::of(metadata));
                let meta = times.on(FileMeta::new(plain_attributes(metadata)));
                Current::new(path, meta, None, Layout::default())
            }
        };
        let names = names(&host)?;
        if current.meta.is_reparse_point() && names.len() > 0 {
            let what = "the directory is a link, and has something in it";
            return Err(Error::new(ErrorKind::InvalidArchive, what));
        }
        self.current = Some(current);
        self.removals = self.removed.remove(&key).unwrap_or_default().into_iter();
        let is_framed = match key {
            key if key == self.places.files => true,
            key if key.starts_with(&self.places.hives) => false,
            _ => in_framed || has_side,
        };
        self.open.push(Frame { path: path.clone(), host, names, is_framed });
        Ok(Next::Add)
    }

    /// Reads a file that begins with its attributes.
    fn framed(&self, path: &CimPath, file: Arc<File>, times: Times, is_dir: bool) -> Result<Current> {
        let mut attributes = [0; ATTRIBUTES_LEN as usize];
        file.read_exact_at(&mut attributes, 0).during("read the attributes of a file")?;
        let layout = Layout::scan(&*file, ATTRIBUTES_LEN)?;
        let mut meta = FileMeta::new(Attributes::from_bits_retain(u32::from_le_bytes(attributes)));
        // What the host has decides.
        meta.attributes.set(Attributes::DIRECTORY, is_dir);
        meta.attributes.set(Attributes::REPARSE_POINT, !layout.reparse.is_empty());
        if !layout.security.is_empty() {
            meta.security = SecurityDescriptor::from_bytes(&*layout.security)?.into_bytes();
        }
        // Sorted, as from an archive: the same layer is the same image.
        let attributes = ea::entries(&layout.ea).collect::<Result<Vec<_>>>()?;
        meta.ea = ea::encode(&attributes)?.into();
        if matches!(reparse::tag(&layout.reparse), Some(reparse::TAG_SYMLINK | reparse::TAG_JUNCTION)) {
            Link::parse(&layout.reparse)?;
        }
        meta.reparse = layout.reparse.as_slice().into();
        let size = layout.main.size();
        if size > 0 && (is_dir || meta.is_reparse_point()) {
            let what = "a directory or reparse point with content";
            return Err(Error::new(ErrorKind::InvalidArchive, what));
        }
        if let Main::Sparse { extents, .. } = &layout.main {
            let held: u64 = extents.iter().map(|extent| extent.len).sum(); // they lie in the file
            if size.saturating_sub(held) > self.options.max_sparse_expansion {
                let kind = ErrorKind::LimitExceeded { limit: "max_sparse_expansion" };
                return Err(Error::new(kind, "the file has too many holes"));
            }
        }
        Ok(Current::new(path, times.on(meta), Some(file), layout))
    }
}

impl WcowEvents for LegacySource {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        LegacySource::next_event(self)
    }
}

impl Current {
    fn new(path: &CimPath, meta: FileMeta, file: Option<Arc<File>>, mut layout: Layout) -> Self {
        let (mut extents, mut packed) = (Vec::new(), None);
        if let (Main::Sparse { extents: all, runs, .. }, Some(file)) = (&mut layout.main, &file) {
            extents = std::mem::take(all);
            packed = Some(Pieces::new(Arc::clone(file), std::mem::take(runs)));
        }
        Self { path: path.clone(), meta, file, layout, extents, packed, next_stream: 0 }
    }

    fn content(&mut self) -> Result<Content<'_>> {
        let size = self.layout.main.size();
        match (&self.layout.main, &self.file, &mut self.packed) {
            (Main::Sparse { .. }, _, Some(packed)) => Content::sparse(&self.extents, packed, size),
            (Main::Whole(run), Some(file), _) => Ok(Content::from_range(&**file, run.at, run.len)),
            _ => Ok(Content::empty()),
        }
    }
}

impl Times {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(windows)]
        {
            use std::os::windows::fs::MetadataExt;
            let time = |ticks: u64| FileTime(i64::try_from(ticks).unwrap_or(i64::MAX));
            Self {
                creation: time(metadata.creation_time()),
                write: time(metadata.last_write_time()),
                access: time(metadata.last_access_time()),
            }
        }
        #[cfg(not(windows))]
        {
            // Reading changes when a file was read, and when it was made cannot be set: neither would be the same twice.
            let write = metadata.modified().map_or(FileTime::default(), super::time_of_host);
            Self { creation: write, write, access: write }
        }
    }

    fn on(self, mut meta: FileMeta) -> FileMeta {
        (meta.creation, meta.write, meta.access) = (self.creation, self.write, self.access);
        meta.change = self.write;
        meta
    }
}

/// The attributes of a file whose host may know none.
fn plain_attributes(metadata: &Metadata) -> Attributes {
    #[cfg(windows)]
    {
        Attributes::from_bits_retain(std::os::windows::fs::MetadataExt::file_attributes(metadata))
    }
    #[cfg(not(windows))]
    {
        if metadata.is_dir() { Attributes::DIRECTORY } else { Attributes::ARCHIVE }
    }
}

/// What tells the names of one file from those of others, where it has several and the host says so.
fn inode(metadata: &Metadata) -> Option<InodeId> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (metadata.nlink() > 1).then(|| InodeId { dev: metadata.dev(), ino: metadata.ino() })
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        None
    }
}

/// The times of the hive from which conversions take those of the directories that they make anew.
fn system_delta(hives: &Path) -> Result<Option<Times>> {
    if !fs::symlink_metadata(hives).during("look at the hives")?.is_dir() {
        return Ok(None);
    }
    for name in names(hives)? {
        if name.eq_ignore_ascii_case(b"System_Delta") {
            let metadata = fs::symlink_metadata(host_join(hives, &name)?).during("look at a hive")?;
            return Ok(Some(Times::of(&metadata)));
        }
    }
    Ok(None)
}

/// The names in a directory of the host, in bytewise order.
fn names(dir: &Path) -> Result<vec::IntoIter<Box<[u8]>>> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    for entry in fs::read_dir(dir).during("read a directory of the layer")? {
        let name = entry.during("read a directory of the layer")?.file_name();
        names.push(name.as_encoded_bytes().into());
    }
    names.sort_unstable();
    let mut keys: Vec<Vec<u16>> = names.iter().map(|name| upper(name)).collect();
    keys.sort_unstable();
    if let Some([same, _]) = keys.array_windows().find(|[a, b]| a == b) {
        let what = "two names that differ in case only";
        return Err(Error::new(ErrorKind::ConflictingEntries, what).entry(crate::path::wtf8(same)));
    }
    Ok(names.into_iter())
}

fn upper(name: &[u8]) -> Vec<u16> {
    crate::path::utf16(name).into_iter().map(crate::path::upcase).collect()
}

/// A name in a directory of the host, which came from there.
fn host_join(dir: &Path, name: &[u8]) -> Result<PathBuf> {
    #[cfg(unix)]
    {
        Ok(dir.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name)))
    }
    #[cfg(not(unix))]
    {
        let unrepresentable =
            |_| Error::new(ErrorKind::Unrepresentable, "the name is no Unicode text").entry(name);
        Ok(dir.join(str::from_utf8(name).map_err(unrepresentable)?))
    }
}
