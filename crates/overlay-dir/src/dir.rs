//! One open directory of a tree on disk.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use layer_model::{
    Device, Error, ErrorKind, IoContext, LayerDir, LayerPathBuf, Metadata, Node, NodeKind, ReadAt, Result,
    Timestamp,
    change::{OPAQUE_WHITEOUT, WHITEOUT_PREFIX},
    metadata::MODE_MASK,
    tree::InodeId,
};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, makedev, openat, readlinkat, statx,
    },
    io::{self, Errno},
};

use crate::{
    Owners, proc,
    read::{RawXattrs, View, decode},
    xattr::{self, Attributes},
};

/// How an open tree is looked at; shared by its directories.
#[derive(Debug)]
struct Tree {
    view: View,
    owners: Owners,
    /// Whether `/proc` can be used to reach what has no descriptor.
    has_proc: bool,
}

/// An open directory: a descriptor that nothing but look-ups by single names goes through.
#[derive(Debug)]
pub(crate) struct Dir {
    tree: Arc<Tree>,
    fd: OwnedFd,
    /// The path from the layer's root, for messages.
    path: LayerPathBuf,
}

/// `O_PATH` needs no permission to read, and has no effect on what is opened.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Nothing of this makes a file that is no regular file do something when it is opened.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Room for some thousand names a call, and still below where allocators start to map memory for it.
const LISTING: usize = 64 * 1024;

/// Opens the directory at `path`, as the caller gave it: links in it are followed.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open layer directory")
        .map_err(|e| e.entry(path.as_os_str().as_encoded_bytes()))
}

impl Dir {
    /// The root of a tree.
    pub(crate) fn root(fd: OwnedFd, view: View, owners: Owners) -> Self {
        let tree = Tree { view, owners, has_proc: proc::is_mounted() };
        Self { tree: Arc::new(tree), fd, path: LayerPathBuf::root() }
    }

    /// The device and inode of the directory.
    pub(crate) fn id(&self) -> Result<InodeId> {
        let stat = statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::INO).during("stat");
        Ok(inode_id(&stat.map_err(|e| self.at(e, b"."))?))
    }

    /// All names as they are on disk, in no order, without `.` and `..`.
    fn raw_names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = Vec::new();
        self.list(|name, _| {
            names.push(name.into());
            Ok(())
        })?;
        Ok(names)
    }

    /// The names of the directories in this one, in no order.
    pub(crate) fn subdirectories(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = Vec::new();
        self.list(|name, mut kind| {
            // Not every file system keeps the type beside the name.
            if kind == FileType::Unknown {
                let stat = self.stat(name)?;
                kind = stat.map_or(kind, |stat| FileType::from_raw_mode(stat.stx_mode.into()));
            }
            if kind == FileType::Directory {
                names.push(name.into());
            }
            Ok(())
        })?;
        Ok(names)
    }

    fn list(&self, mut each: impl FnMut(&[u8], FileType) -> Result<()>) -> Result<()> {
        // A descriptor of its own: the position in a directory belongs to the open file, and this directory
        // may be listed by several threads.
        let listing =
            openat(&self.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .during("open directory")
                .map_err(|e| self.at(e, b"."))?;
        let mut buf = Vec::with_capacity(LISTING);
        let mut entries = RawDir::new(listing, buf.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.during("read directory").map_err(|e| self.at(e, b"."))?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => each(name, entry.file_type())?,
            }
        }
        Ok(())
    }

    /// The names of the attributes of the directory as they are on disk, each with a NUL after it.
    pub(crate) fn attribute_names(&self) -> Result<Vec<u8>> {
        let names = self
            .attributes(b".", &NodeKind::Directory)
            .and_then(|found| found.map_or(Ok(Vec::new()), |attributes| attributes.names()));
        names.during("read extended attributes").map_err(|e| self.at(e, b"."))
    }

    /// Opens the directory `name`.
    pub(crate) fn open_below(&self, name: &[u8]) -> Result<Self> {
        let path = self.path.as_path().join(name)?;
        let fd = openat(&self.fd, name, HANDLE | OFlags::DIRECTORY, Mode::empty());
        let fd = fd.during("open directory").map_err(|e| e.at(path.as_path()))?;
        Ok(Self { tree: self.tree.clone(), fd, path })
    }

    /// What `name` is, `.` being the directory itself.
    fn read(&self, name: &[u8]) -> Result<Option<Node>> {
        let Some(stat) = self.stat(name)? else { return Ok(None) };
        let Some(kind) = self.kind(name, &stat)? else { return Ok(None) };
        self.node_of(name, kind, &stat).map_err(|e| self.at(e, name))
    }

    fn node_of(&self, name: &[u8], kind: NodeKind, stat: &Statx) -> Result<Option<Node>> {
        let overlay = matches!(self.tree.view, View::Overlay { .. });
        if overlay && kind == NodeKind::CharDevice(Device::default()) {
            return Ok(Some(whiteout(stat)));
        }
        let Some(attributes) = self.attributes(name, &kind).during("open for extended attributes")? else {
            return Ok(None);
        };
        let decoded = match decode(self.tree.view, &kind, &attributes) {
            Ok(decoded) => decoded,
            // Gone since it was seen.
            Err(error) if error.kind() == &ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if decoded.whiteout {
            return Ok(Some(whiteout(stat)));
        }
        let (uid, gid) = self.tree.owners.inside(stat.stx_uid, stat.stx_gid)?;
        let mtime = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
        let mode = u32::from(stat.stx_mode) & MODE_MASK;
        let mut node = Node::new(kind, Metadata { mode, uid, gid, mtime, atime: None });
        node.xattrs = decoded.xattrs;
        node.markers = decoded.markers;
        node.inode = Some(inode_id(stat));
        node.nlink = stat.stx_nlink;
        Ok(Some(node))
    }

    /// [`None`] where there is nothing, also because no file system has a name that long.
    fn stat(&self, name: &[u8]) -> Result<Option<Statx>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match statx(&self.fd, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(self.at(Error::io("stat", error), name)),
        }
    }

    /// The type of what `stat` was taken of; [`None`] when it is gone since.
    fn kind(&self, name: &[u8], stat: &Statx) -> Result<Option<NodeKind>> {
        let device = Device::new(stat.stx_rdev_major, stat.stx_rdev_minor);
        Ok(Some(match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => NodeKind::Directory,
            FileType::RegularFile => NodeKind::File { size: stat.stx_size },
            FileType::CharacterDevice => NodeKind::CharDevice(device),
            FileType::BlockDevice => NodeKind::BlockDevice(device),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Symlink => match readlinkat(&self.fd, name, Vec::new()) {
                Ok(target) => NodeKind::Symlink { target: target.into_bytes().into() },
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(self.at(Error::io("read symbolic link", error), name)),
            },
            FileType::Unknown => {
                let kind = ErrorKind::NotSupported;
                return Err(self.at(Error::new(kind, "file of an unknown type"), name));
            }
        }))
    }

    /// The way to the attributes of `name`, a file of that type; [`None`] when it is gone.
    fn attributes<'a>(&'a self, name: &'a [u8], kind: &NodeKind) -> io::Result<Option<Attributes<'a>>> {
        if self.tree.has_proc {
            return Ok(Some(Attributes::Entry { dir: self.fd.as_fd(), name }));
        }
        match kind {
            NodeKind::Directory | NodeKind::File { .. } => {
                match openat(&self.fd, name, READ, Mode::empty()) {
                    Ok(file) => Ok(Some(Attributes::File(file))),
                    Err(Errno::NOENT | Errno::LOOP) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            _ => Ok(Some(Attributes::None)),
        }
    }

    fn fuse(&self) -> bool {
        matches!(self.tree.view, View::Overlay { fuse: true, .. })
    }

    /// Whether `name` is no name of this layer, as it is a marker of fuse-overlayfs.
    fn is_fuse_marker(&self, name: &[u8]) -> bool {
        self.fuse() && name.starts_with(WHITEOUT_PREFIX)
    }

    /// [`LayerDir::lookup`] where names with [`WHITEOUT_PREFIX`] are markers too.
    fn lookup_fuse(&self, name: &[u8]) -> Result<Option<Node>> {
        if name.starts_with(WHITEOUT_PREFIX) {
            return Ok(None);
        }
        let marker = self.stat(&[WHITEOUT_PREFIX, name].concat())?;
        let Some(mut node) = self.read(name)? else { return Ok(marker.as_ref().map(whiteout)) };
        // A directory beside a whiteout of its name is a new one: it hides what was deleted before it.
        if node.is_dir() && !node.markers.opaque {
            node.markers.opaque = marker.is_some() || self.open_below(name)?.stat(OPAQUE_WHITEOUT)?.is_some();
        }
        Ok(Some(node))
    }

    /// Opens `name` if it is a regular file, and nothing else: what is found is looked at before it is opened.
    ///
    /// Without `/proc` somebody who may make devices can put one there in between.
    fn open_regular(&self, name: &[u8]) -> Result<File> {
        let not_regular = || Err(Error::new(ErrorKind::InvalidArgument, "not a regular file"));
        let regular = |stat: &Statx| FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        let stat_of =
            |fd: &OwnedFd| statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).during("stat");
        if self.tree.has_proc {
            let handle = openat(&self.fd, name, HANDLE, Mode::empty()).during("open file")?;
            if !regular(&stat_of(&handle)?) {
                return not_regular();
            }
            return Ok(proc::reopen(&handle, OFlags::RDONLY).during("open file")?.into());
        }
        let Some(seen) = self.stat(name)? else { return Err(Error::io("open file", Errno::NOENT)) };
        if !regular(&seen) {
            return not_regular();
        }
        let file = openat(&self.fd, name, READ, Mode::empty()).during("open file")?;
        if inode_id(&stat_of(&file)?) != inode_id(&seen) {
            return Err(Error::new(ErrorKind::FileChanged, "replaced while it was opened"));
        }
        Ok(file.into())
    }

    /// Opens the data of `name`, which has some in this layer.
    fn open_data(&self, name: &[u8]) -> Result<File> {
        let file = self.open_regular(name)?;
        let View::Overlay { namespace, .. } = self.tree.view else { return Ok(file) };
        let has = |suffix| {
            xattr::get(AsFd::as_fd(&file), &namespace.name(suffix)).during("read extended attribute")
        };
        if has(b"metacopy")?.is_some() {
            let kind = ErrorKind::UnsupportedMarker { marker: "metacopy" };
            return Err(Error::new(kind, "the data is in a lower layer"));
        }
        if ReadAt::is_empty(&file).during("stat")? && has(b"whiteout")?.is_some() {
            return Err(Error::new(ErrorKind::NotFound, "a whiteout"));
        }
        Ok(file)
    }

    /// Names the entry `name` of this directory in `error`.
    fn at(&self, error: Error, name: &[u8]) -> Error {
        match self.path.as_path().join(name) {
            Ok(path) => error.at(path.as_path()),
            Err(_) => error.at(self.path.as_path()),
        }
    }
}

/// A whiteout; times and owner of the marker mean nothing.
fn whiteout(stat: &Statx) -> Node {
    let mut node = Node::new(NodeKind::Whiteout, Metadata::file(0));
    node.inode = Some(inode_id(stat));
    node.nlink = stat.stx_nlink;
    node
}

fn inode_id(stat: &Statx) -> InodeId {
    InodeId { dev: makedev(stat.stx_dev_major, stat.stx_dev_minor), ino: stat.stx_ino }
}

/// Whether `name` can be the name of an entry: nothing else may reach the kernel as one.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl LayerDir for Dir {
    fn node(&self) -> Result<Node> {
        let gone = || self.at(Error::new(ErrorKind::NotFound, "the directory is gone"), b".");
        let mut node = self.read(b".")?.ok_or_else(gone)?;
        if self.fuse() && self.stat(OPAQUE_WHITEOUT)?.is_some() {
            node.markers.opaque = true;
        }
        Ok(node)
    }

    fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        if !is_name(name) {
            return Ok(None);
        }
        if self.fuse() { self.lookup_fuse(name) } else { self.read(name) }
    }

    fn names(&self) -> Result<Vec<Box<[u8]>>> {
        let mut names = self.raw_names()?;
        if self.fuse() {
            for name in &mut names {
                if let Some(gone) = name.strip_prefix(WHITEOUT_PREFIX) {
                    *name = gone.into();
                }
            }
            // What is left of `.wh..wh.*`: the opaque marker, and what AUFS keeps for itself.
            names.retain(|name| is_name(name) && !name.starts_with(WHITEOUT_PREFIX));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
        if self.is_fuse_marker(name) {
            return Err(self.at(Error::new(ErrorKind::NotFound, "no such directory"), name));
        }
        Ok(Arc::new(self.open_below(name)?))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
        if !is_name(name) || self.is_fuse_marker(name) {
            return Err(self.at(Error::new(ErrorKind::NotFound, "no such file"), name));
        }
        Ok(Box::new(self.open_data(name).map_err(|e| self.at(e, name))?))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{XattrFlags, mknodat, setxattr};

    use super::*;
    use crate::Namespace;

    /// The directory as a process without `/proc` sees it.
    fn without_proc(path: &Path) -> Dir {
        let view = View::Overlay { namespace: Namespace::User, fuse: false };
        let tree = Tree { view, owners: Owners::default(), has_proc: false };
        Dir { tree: Arc::new(tree), fd: open_root(path).unwrap(), path: LayerPathBuf::root() }
    }

    #[test]
    fn markers_and_data_can_be_read_without_proc() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        setxattr(at("dir"), "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        fs::write(at("file"), "hello").unwrap();
        setxattr(at("file"), "user.x", b"1", XattrFlags::empty()).unwrap();
        fs::write(at("gone"), "").unwrap();
        setxattr(at("gone"), "user.overlay.whiteout", b"", XattrFlags::empty()).unwrap();
        symlink("file", at("link")).unwrap();
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();

        let dir = without_proc(temp.path());
        let found = |name: &str| dir.lookup(name.as_bytes()).unwrap().unwrap();
        assert!(found("dir").markers.opaque && found("gone").is_whiteout());
        assert_eq!(found("file").xattrs.get(b"user.x"), Some(&b"1"[..]));
        assert_eq!(found("link").kind, NodeKind::Symlink { target: (*b"file").into() });
        assert_eq!(found("fifo").kind, NodeKind::Fifo, "it is not opened, that would wait for a writer");
        let mut data = [0; 5];
        dir.open_file(b"file").unwrap().read_exact_at(&mut data, 0).unwrap();
        assert_eq!(&data, b"hello");
        for other in [&b"dir"[..], b"link", b"fifo"] {
            assert_eq!(dir.open_file(other).err().unwrap().kind(), &ErrorKind::InvalidArgument);
        }
        assert_eq!(dir.open_file(b"gone").err().unwrap().kind(), &ErrorKind::NotFound);
        assert_eq!(dir.open_file(b"none").err().unwrap().kind(), &ErrorKind::NotFound);
    }
}
