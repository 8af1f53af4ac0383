//! Directory trees to make images from.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufReader, Read, Seek, Write},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
};

use super::{Listing, Seen};
use erofs_format::{
    DeviceNumber, FileData, Metadata, NewFile, NodeId, StreamWriter, Timestamp, Tree, WriteOptions,
};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Bytes that do not compress or repeat, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

/// A tree with something of everything: types, names, sizes around blocks, links, xattrs, holes, times.
pub fn make_varied_tree(root: &Path) {
    for dir in ["empty", "sub", "sub/deeper", "many", "xattrs", "sizes"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for len in
        [0, 1, 31, 511, 512, 513, 1000, 2048, 4031, 4032, 4033, 4064, 4095, 4096, 4097, 8192, 70_000, 200_001]
    {
        fs::write(root.join(format!("sizes/{len}")), noise(len as u64, len)).unwrap();
    }
    for number in 0..700 {
        fs::write(root.join(format!("many/{number:04}-{}", "n".repeat(number % 60))), b"").unwrap();
    }
    for name in ["-dash", "#hash", "+plus", "~tilde", "!bang", ".hidden", "with space"] {
        fs::write(root.join("sub").join(name), name).unwrap();
    }
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"sub/\xff\xfe not text \x01")), b"bytes").unwrap();
    fs::write(root.join("sub").join("l".repeat(255)), b"long").unwrap();
    fs::hard_link(root.join("sizes/4097"), root.join("sub/deeper/linked")).unwrap();
    fs::hard_link(root.join("sizes/4097"), root.join("linked too")).unwrap();
    std::os::unix::fs::symlink("sub/deeper", root.join("short-link")).unwrap();
    std::os::unix::fs::symlink("x".repeat(4000), root.join("long-link")).unwrap();
    let special =
        [(FileType::CharacterDevice, 1, 3), (FileType::BlockDevice, 259, 70_000), (FileType::Fifo, 0, 0)];
    for (kind, major, minor) in special {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, root.join(format!("{kind:?}")), kind, Mode::from(0o640), device).unwrap();
    }
    rustix::fs::mknodat(CWD, root.join("Socket"), FileType::Socket, Mode::from(0o600), 0).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&noise(7, 9000), 64 << 10).unwrap();
    sparse.write_all_at(&noise(8, 100), (3 << 20) - 100).unwrap();
    for number in 0..40 {
        let path = root.join(format!("xattrs/{number}"));
        fs::write(&path, noise(number, 90 * number as usize)).unwrap();
        set(&path, "user.common", b"the same for all");
        set(&path, "security.selinux", b"system_u:object_r:etc_t:s0\0");
        if number % 3 == 0 {
            set(&path, "trusted.overlay.redirect", format!("/elsewhere/{number}").as_bytes());
            set(&path, &format!("user.own.{number}"), &noise(number, 30 * number as usize));
        }
    }
    set(root, "user.root", b"1");
    set(&root.join("sub"), "user.empty", b"");
    let acl = [&2u32.to_le_bytes()[..], &acl_entry(1, 7), &acl_entry(4, 5), &acl_entry(0x20, 5)].concat();
    set(&root.join("empty"), "system.posix_acl_default", &acl);
    rustix::fs::chownat(
        CWD,
        root.join("sizes/1"),
        Some(rustix::fs::Uid::from_raw(70_000)),
        Some(rustix::fs::Gid::from_raw(123_456)),
        AtFlags::empty(),
    )
    .unwrap();
    touch(&root.join("sizes/31"), -5_000_000_000, 250_000_000);
    touch(&root.join("sizes/511"), 5_000_000_000, 1);
    touch(&root.join("short-link"), 1_234_567_890, 999_999_999);
}

fn acl_entry(tag: u16, permissions: u16) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The content of a directory tree, by token.
pub struct Files(pub Vec<File>);

impl erofs_format::Contents for Files {
    fn read_exact_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        FileExt::read_exact_at(&self.0[token as usize], buf, offset)
    }
}

/// A tree with the content of a directory.
pub fn tree_of(root: &Path) -> (Tree, Files) {
    let mut files = Files(Vec::new());
    let tree = tree_of_listing(&super::listing_of_directory(root), &mut |path, _| {
        files.0.push(File::open(root.join(std::ffi::OsStr::from_bytes(path))).unwrap());
        let token = files.0.len() as u64 - 1;
        match path.ends_with(b"sparse") {
            true => FileData::SparseSource { token, ranges: SPARSE.to_vec() },
            false => FileData::Source { token },
        }
    });
    (tree, files)
}

/// A tree as a listing describes it; `data` says where the content of a regular file is.
pub fn tree_of_listing(listing: &Listing, data: &mut dyn FnMut(&[u8], u64) -> FileData) -> Tree {
    let mut tree = Tree::new(metadata(&listing[&b""[..]]));
    let mut ids = Ids::new();
    for (path, seen) in listing {
        let file = (seen.mode & 0o170_000 == 0o100_000 && seen.link_to.is_none())
            .then(|| NewFile::Regular { size: seen.size, data: data(path, seen.size) });
        add(&mut tree, &mut ids, path, seen, file);
    }
    tree
}

/// The same through a stream writer.
pub fn stream_of<W: Read + Write + Seek>(
    root: &Path,
    options: &WriteOptions,
    out: W,
) -> (W, erofs_format::Summary) {
    let listing = super::listing_of_directory(root);
    let mut writer = StreamWriter::new(out, options, metadata(&listing[&b""[..]]), Vec::new()).unwrap();
    let mut ids = Ids::new();
    for (path, seen) in &listing {
        if seen.mode & 0o170_000 != 0o100_000 || seen.link_to.is_some() {
            add(writer.tree_mut(), &mut ids, path, seen, None);
            continue;
        }
        let (dir, name) = split(path);
        let dir = if dir.is_empty() { writer.tree().root() } else { ids[dir] };
        let xattrs = xattrs_of(seen);
        let full = root.join(std::ffi::OsStr::from_bytes(path));
        let id = if path.ends_with(b"sparse") {
            let all = fs::read(full).unwrap();
            let data: Vec<u8> =
                SPARSE.iter().flat_map(|&(at, len)| all[at as usize..][..len as usize].to_vec()).collect();
            writer.add_sparse_file(dir, name, metadata(seen), xattrs, seen.size, &SPARSE, &mut &data[..])
        } else {
            writer.add_file(
                dir,
                name,
                metadata(seen),
                xattrs,
                seen.size,
                &mut BufReader::new(File::open(full).unwrap()),
            )
        };
        ids.insert(path.clone(), id.unwrap());
    }
    writer.finish(&()).unwrap()
}

/// The ranges with data of the sparse file.
const SPARSE: [(u64, u64); 2] = [(64 << 10, 9000), ((3 << 20) - 100, 100)];

type Ids = HashMap<Vec<u8>, NodeId>;

fn metadata(seen: &Seen) -> Metadata {
    Metadata {
        mode: seen.mode,
        uid: seen.owner.0,
        gid: seen.owner.1,
        mtime: Timestamp { seconds: seen.mtime.0, nanoseconds: seen.mtime.1 },
    }
}

fn xattrs_of(seen: &Seen) -> impl Iterator<Item = (&[u8], &[u8])> {
    seen.xattrs.iter().map(|(name, value)| (&name[..], &value[..]))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    }
}

fn add(tree: &mut Tree, ids: &mut Ids, path: &[u8], seen: &Seen, regular: Option<NewFile<'_>>) {
    if path.is_empty() {
        tree.set_xattrs(tree.root(), xattrs_of(seen)).unwrap();
        return;
    }
    let (dir, name) = split(path);
    let dir = if dir.is_empty() { tree.root() } else { ids[dir] };
    if let Some(first) = &seen.link_to {
        tree.link(dir, name, ids[first]).unwrap();
        return;
    }
    let device = seen.device.map(|(major, minor)| DeviceNumber { major, minor }).unwrap_or_default();
    let file = match erofs_format::FileType::from_mode(seen.mode).unwrap() {
        erofs_format::FileType::Directory => NewFile::Directory,
        erofs_format::FileType::Regular => regular.unwrap(),
        erofs_format::FileType::Symlink => NewFile::Symlink(seen.target.as_deref().unwrap()),
        erofs_format::FileType::CharDevice => NewFile::CharDevice(device),
        erofs_format::FileType::BlockDevice => NewFile::BlockDevice(device),
        erofs_format::FileType::Fifo => NewFile::Fifo,
        erofs_format::FileType::Socket => NewFile::Socket,
    };
    let id = tree.add(dir, name, metadata(seen), file).unwrap();
    tree.set_xattrs(id, xattrs_of(seen)).unwrap();
    ids.insert(path.to_vec(), id);
}
