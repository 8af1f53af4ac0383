//! Directory trees to make images from.

use std::{
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::Path,
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
pub fn tree_of(root: &Path) -> (erofs_format::Tree, Files) {
    let listing = super::listing_of_directory(root);
    let mut files = Files(Vec::new());
    let tree = tree_of_listing(&listing, &mut |path, size| {
        files.0.push(File::open(root.join(std::ffi::OsStr::from_bytes(path))).unwrap());
        let token = files.0.len() as u64 - 1;
        if path.ends_with(b"sparse") {
            let ranges = vec![(64 << 10, 9000), ((3 << 20) - 100, 100)];
            return erofs_format::FileData::SparseSource { token, ranges };
        }
        let _ = size;
        erofs_format::FileData::Source { token }
    });
    (tree, files)
}

/// A tree as a listing describes it; `data` says where the content of a regular file is.
pub fn tree_of_listing(
    listing: &super::Listing,
    data: &mut dyn FnMut(&[u8], u64) -> erofs_format::FileData,
) -> erofs_format::Tree {
    use erofs_format::{DeviceNumber, FileType, Metadata, NewFile, Timestamp, Tree};
    let metadata = |seen: &super::Seen| Metadata {
        mode: seen.mode,
        uid: seen.owner.0,
        gid: seen.owner.1,
        mtime: Timestamp { seconds: seen.mtime.0, nanoseconds: seen.mtime.1 },
    };
    let mut tree = Tree::new(metadata(&listing[&b""[..]]));
    let mut ids = std::collections::HashMap::from([(Vec::new(), tree.root())]);
    for (path, seen) in listing {
        let xattrs = seen.xattrs.iter().map(|(name, value)| (&name[..], &value[..]));
        if path.is_empty() {
            tree.set_xattrs(tree.root(), xattrs).unwrap();
            continue;
        }
        let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        let dir = ids[dir];
        if let Some(first) = &seen.link_to {
            tree.link(dir, name, ids[first]).unwrap();
            continue;
        }
        let device = seen.device.map(|(major, minor)| DeviceNumber { major, minor }).unwrap_or_default();
        let file = match FileType::from_mode(seen.mode).unwrap() {
            FileType::Directory => NewFile::Directory,
            FileType::Regular => NewFile::Regular { size: seen.size, data: data(path, seen.size) },
            FileType::Symlink => NewFile::Symlink(seen.target.as_deref().unwrap()),
            FileType::CharDevice => NewFile::CharDevice(device),
            FileType::BlockDevice => NewFile::BlockDevice(device),
            FileType::Fifo => NewFile::Fifo,
            FileType::Socket => NewFile::Socket,
        };
        let id = tree.add(dir, name, metadata(seen), file).unwrap();
        tree.set_xattrs(id, xattrs).unwrap();
        ids.insert(path.clone(), id);
    }
    tree
}
