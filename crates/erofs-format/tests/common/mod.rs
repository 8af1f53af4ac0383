//! What the tests share: listings that can be compared, peers, mounts.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use erofs_format::{FileType, Image};
use rustix::mount::{MountFlags, UnmountFlags};
use sha2::{Digest, Sha256};

pub mod trees;

/// Everything that a user sees of a file, comparable and printable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mode: u16,
    pub owner: (u32, u32),
    pub size: u64,
    pub mtime: (i64, u32),
    pub device: Option<(u32, u32)>,
    pub target: Option<Vec<u8>>,
    pub content: Option<String>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub nlink: u32,
    /// The path under which the same file came first.
    pub link_to: Option<Vec<u8>>,
}

/// A whole tree, by path.
pub type Listing = BTreeMap<Vec<u8>, Seen>;

fn digest(mut reader: impl Read) -> String {
    let mut hash = Sha256::new();
    std::io::copy(&mut reader, &mut Writer(&mut hash)).unwrap();
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Writer<'a>(&'a mut Sha256);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an image contains, by our own reader.
pub fn listing(image: &Image) -> Listing {
    image
        .walk()
        .map(|entry| {
            let entry = entry.unwrap();
            let inode = &entry.inode;
            let file_type = inode.file_type();
            let seen = Seen {
                mode: inode.mode(),
                owner: (inode.uid(), inode.gid()),
                size: if file_type == FileType::Directory { 0 } else { inode.size() },
                mtime: (inode.mtime().seconds, inode.mtime().nanoseconds),
                device: inode.device_number().map(|number| (number.major, number.minor)),
                target: (file_type == FileType::Symlink).then(|| image.read_link(inode).unwrap()),
                content: (file_type == FileType::Regular).then(|| digest(image.file(inode.clone()))),
                xattrs: image
                    .xattrs(inode)
                    .unwrap()
                    .into_iter()
                    .map(|x| (x.name, x.value.to_vec()))
                    .collect(),
                nlink: inode.nlink(),
                link_to: entry.link_to,
            };
            (entry.path, seen)
        })
        .collect()
}

/// What a directory contains, by the kernel.
pub fn listing_of_directory(root: &Path) -> Listing {
    let mut list = Listing::new();
    let mut first = BTreeMap::new();
    visit(root, Vec::new(), &mut first, &mut list);
    list
}

fn visit(root: &Path, path: Vec<u8>, first: &mut BTreeMap<u64, Vec<u8>>, list: &mut Listing) {
    let full = root.join(std::ffi::OsStr::from_bytes(&path));
    let full = if path.is_empty() { root.to_owned() } else { full };
    let meta = fs::symlink_metadata(&full).unwrap();
    let kind = meta.file_type();
    let mut link_to = None;
    if !kind.is_dir() && meta.nlink() > 1 {
        match first.get(&meta.ino()) {
            Some(name) => link_to = Some(name.clone()),
            None => _ = first.insert(meta.ino(), path.clone()),
        }
    }
    let device = kind.is_block_device() || kind.is_char_device();
    let rdev = meta.rdev();
    let seen = Seen {
        mode: meta.mode() as u16,
        owner: (meta.uid(), meta.gid()),
        size: if kind.is_dir() { 0 } else { meta.size() },
        mtime: (meta.mtime(), meta.mtime_nsec() as u32),
        device: device.then(|| (rustix::fs::major(rdev), rustix::fs::minor(rdev))),
        target: kind.is_symlink().then(|| fs::read_link(&full).unwrap().into_os_string().into_vec()),
        content: kind.is_file().then(|| digest(fs::File::open(&full).unwrap())),
        xattrs: xattrs_of(&full),
        nlink: meta.nlink() as u32,
        link_to,
    };
    list.insert(path.clone(), seen);
    if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&full).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect();
        names.sort();
        for name in names {
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(&name);
            visit(root, below, first, list);
        }
    }
}

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names) else { return BTreeMap::new() };
    names[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// Fails with the first differences of two listings.
pub fn assert_same(ours: &Listing, theirs: &Listing) {
    let mut wrong = Vec::new();
    for path in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (ours.get(path), theirs.get(path));
        if a != b {
            wrong.push(format!("{}:\n  ours   {a:.300?}\n  theirs {b:.300?}", path.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

/// Says that a test cannot run here, or fails if everything must run.
pub fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none_or(|v| v != "1"), "{test} must run: {reason}");
    eprintln!("SKIP {test}: {reason}");
}

/// The root of the file system with the peer programs.
pub struct Peers {
    root: PathBuf,
}

impl Peers {
    /// Finds them, or says why not.
    pub fn find(test: &str) -> Option<Self> {
        let Some(root) = std::env::var_os("LAYERKIT_PEERS").map(PathBuf::from) else {
            skip(test, "LAYERKIT_PEERS does not name a directory with peer programs");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            skip(test, "changing the root takes root");
            return None;
        }
        if !root.join("usr/bin/mkfs.erofs").exists() {
            skip(test, "there is no mkfs.erofs");
            return None;
        }
        Some(Self { root })
    }

    /// A directory that both sides see.
    pub fn folder(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(self.root.join("tmp")).unwrap()
    }

    /// A path as the peers see it.
    pub fn inside(&self, path: &Path) -> String {
        format!("/{}", path.strip_prefix(&self.root).unwrap().to_str().unwrap())
    }

    /// A path that need not be below the root of the peers, as they see it: bound to where they can.
    pub fn visible(&self, path: &Path) -> String {
        if path.starts_with(&self.root) {
            return self.inside(path);
        }
        // The folder shared with the peers is mounted at /mnt there.
        let shared = self.root.with_file_name("share");
        format!("/mnt/{}", path.strip_prefix(shared).unwrap().to_str().unwrap())
    }

    /// Runs a peer, which must succeed, and returns what it printed.
    pub fn run(&self, command: &[&str]) -> String {
        let (success, output) = self.try_run(command);
        assert!(success, "{command:?} failed:\n{output}");
        output
    }

    pub fn try_run(&self, command: &[&str]) -> (bool, String) {
        let done = Command::new("chroot").arg(&self.root).args(command).output().unwrap();
        let text =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), text)
    }
}

/// A mounted image, unmounted when dropped.
pub struct Mount(tempfile::TempDir);

impl Mount {
    /// Mounts an image from a file, with the devices given.
    pub fn new(image: &Path, devices: &[&Path]) -> Self {
        Self::try_new(image, devices).unwrap_or_else(|error| panic!("mount of {image:?} failed: {error}"))
    }

    pub fn try_new(image: &Path, devices: &[&Path]) -> Result<Self, String> {
        let target = tempfile::tempdir().unwrap();
        // The system call, not the command: that would make a loop device, and then the extra devices had to
        // be loop devices too.
        let options: Vec<String> =
            devices.iter().map(|d| format!("device={}", d.to_str().unwrap())).collect();
        let options = CString::new(options.join(",")).unwrap();
        rustix::mount::mount(image, target.path(), c"erofs", MountFlags::RDONLY, &*options)
            .map_err(|error| error.to_string())?;
        Ok(Self(target))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = rustix::mount::unmount(self.0.path(), UnmountFlags::empty());
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

/// Whether images can be mounted here.
pub fn can_mount(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        skip(test, "mounting takes root");
        return false;
    }
    let kernel = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !kernel.lines().any(|line| line.ends_with("\terofs")) {
        skip(test, "the kernel has no EROFS");
        return false;
    }
    true
}
