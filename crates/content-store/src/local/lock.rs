//! Locks between processes: `flock` on files that are never removed.
//!
//! `flock` ends with its file description, so a process that dies holds nothing. Each lock taken opens its
//! file anew, which makes it count between threads as well. Order, where two are held: [`Turn`] first, then
//! [`Edit`].

use std::fs::File;

use layer_model::Result;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::dir::Dir;

/// The store-wide lock: shared by everything that adds blobs, labels, tags or leases, exclusive for the
/// collector. What is done under it is seen by the collector wholly or not at all.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

/// The lock of read-modify-write: labels and `index.json`.
#[derive(Debug)]
pub(super) struct Edit(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    pub(super) fn shared(sidecar: &Dir) -> Result<Self> {
        lock(sidecar, "lock", FlockOperation::LockShared).map(Self)
    }

    pub(super) fn exclusive(sidecar: &Dir) -> Result<Self> {
        lock(sidecar, "lock", FlockOperation::LockExclusive).map(Self)
    }
}

impl Edit {
    pub(super) fn take(sidecar: &Dir) -> Result<Self> {
        lock(sidecar, "edit.lock", FlockOperation::LockExclusive).map(Self)
    }
}

fn lock(dir: &Dir, name: &str, operation: FlockOperation) -> Result<File> {
    let file = dir.make_file(name)?;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(error) => return Err(dir.error("lock", name, error)),
        }
    }
}

/// Locks a directory if nobody else has; the lock lasts as long as the descriptor.
pub(super) fn try_lock(dir: &Dir) -> Result<bool> {
    loop {
        match flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(dir.error("lock", "", error)),
        }
    }
}
