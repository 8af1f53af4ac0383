//! What the tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses its own part")]

use layer_model::{ErrorKind, Result};

#[track_caller]
pub fn kind_of<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("this must fail"),
        Err(error) => error.kind().clone(),
    }
}

/// Whether a test that needs `what` can run; if not it says so, or fails where tests must not be skipped.
pub fn can(test: &str, what: &str, possible: bool) -> bool {
    if !possible {
        assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none(), "{test} needs {what}");
        eprintln!("SKIP {test}: {what} is missing");
    }
    possible
}

/// Options that need no privilege: markers in `user.*`.
pub fn options() -> erofs_snapshotter::SnapshotterOptions {
    erofs_snapshotter::SnapshotterOptions::new().ovl_mount_options(["userxattr"])
}

pub fn open(
    root: &std::path::Path,
    options: erofs_snapshotter::SnapshotterOptions,
) -> erofs_snapshotter::Snapshotter {
    erofs_snapshotter::Snapshotter::open(root, options).unwrap()
}

pub fn labels(pairs: &[(&str, &str)]) -> erofs_snapshotter::Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// What is in a directory, sorted.
pub fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
