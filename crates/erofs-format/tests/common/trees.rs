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
