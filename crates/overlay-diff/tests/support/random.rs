//! Random operations on a tree.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use super::disk::Dir;

/// A small generator, so that a failure can be had again from its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| ["a", "a-", "b", "c"][self.below(4)]).collect::<Vec<_>>().join("/")
    }
}

/// One random operation; what does not work in the current state is skipped.
pub(crate) fn operate(dir: &Dir, random: &mut Random) {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};
    let (path, other) = (random.path(), random.path());
    let (at, to) = (dir.at(&path), dir.at(&other));
    let kind = fs::symlink_metadata(&at).ok().map(|m| m.file_type());
    let is_file = kind.is_some_and(|k| k.is_file());
    let is_dir = kind.is_some_and(|k| k.is_dir());
    let _ = match random.below(14) {
        0 | 1 if kind.is_none() || is_file => fs::write(&at, format!("content {}", random.below(1000))),
        2 if is_file => fs::OpenOptions::new().append(true).open(&at).map(drop),
        3 if is_file => fs::write(&at, "rewritten"),
        4 | 5 => fs::create_dir(&at),
        6 if is_dir => fs::remove_dir_all(&at),
        6 => fs::remove_file(&at),
        7 | 8 => fs::rename(&at, &to),
        9 => fs::hard_link(&at, &to),
        10 => symlink(["/dev/null", "/dev/zero"][random.below(2)], &at),
        11 if is_file || is_dir => {
            fs::set_permissions(&at, fs::Permissions::from_mode([0o700, 0o755, 0o4755][random.below(3)]))
        }
        12 => lchown(&at, Some(random.below(3) as u32), None),
        13 if is_file || is_dir => {
            let value = [b'0' + random.below(3) as u8];
            rustix::fs::lsetxattr(&at, "user.x", &value, rustix::fs::XattrFlags::empty()).map_err(Into::into)
        }
        _ => {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).map_err(Into::into)
        }
    };
}

/// Gives everything in a tree a time of its own long ago, half of them whole seconds.
pub(crate) fn age(dir: &Dir, random: &mut Random) {
    let mut stack = vec![String::new()];
    while let Some(path) = stack.pop() {
        for entry in fs::read_dir(dir.at(&path)).unwrap() {
            let entry = entry.unwrap();
            let below = format!("{path}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                stack.push(format!("{below}/"));
            }
            let nanos = if random.below(2) == 0 { 0 } else { 1 + random.below(999_999_999) as i64 };
            dir.time(&below, 1_000_000_000 + random.below(1000) as i64, nanos);
        }
    }
}
