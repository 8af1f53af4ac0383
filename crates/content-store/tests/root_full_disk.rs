//! A disk that is full: on a small tmpfs, which needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;
#[path = "common/require.rs"]
mod require;

use std::{fs, io::Write as _, path::Path, process::Command, time::Duration};

use common::{has, image};
use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Filters, GcOptions, LabelUpdate, LocalStore, Source,
    WriterOptions,
};
use layer_model::{Digest, Error, Silent};

const ENOSPC: i32 = 28;

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(test: &str, size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => {
                require::skip(test, "a tmpfs cannot be mounted here");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills all but `free` bytes.
    fn fill(&self, free: usize) {
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let len = file.metadata().unwrap().len();
        file.set_len(len.saturating_sub(free as u64)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn is_full(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<Error>().is_some_and(|error| error.os_error() == Some(ENOSPC)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[test]
fn a_blob_that_does_not_fit_is_kept_and_finished_later() {
    let Some(disk) = SmallDisk::new("a_blob_that_does_not_fit_is_kept_and_finished_later", "8m") else {
        return;
    };
    let store = LocalStore::open_or_create(disk.path().join("store")).unwrap();
    let (first, second) = (vec![1; 3_000_000], vec![2; 6_000_000]);
    let put = |bytes: &Vec<u8>| {
        let options = CommitOptions::new().digest(Digest::sha256(bytes)).size(bytes.len() as u64);
        store.write_blob("r", Source::At(bytes), &options, &Silent)
    };
    let first = put(&first).unwrap().digest;
    let error = put(&second).unwrap_err();
    assert!(is_full(&error), "{error:?}");
    assert_eq!(error.entry_path(), Some(&b"r"[..]), "it names the reference");
    let kept = store.status("r").unwrap().offset;
    assert!(kept > 3_000_000 && kept < 6_000_000, "{kept}");
    assert!(store.check(&Default::default(), &Silent).unwrap().problems.is_empty());
    store.delete(&first).unwrap();
    let second = put(&second).unwrap();
    assert!(!second.existed && has(&store, &second.digest));
}

#[test]
fn with_any_little_space_left_everything_is_done_or_undone() {
    let test = "with_any_little_space_left_everything_is_done_or_undone";
    let Some(disk) = SmallDisk::new(test, "4m") else { return };
    let mut failures = 0;
    // A page is what tmpfs gives out, so each step lets one more file be written.
    for pages in 0..40 {
        let path = disk.path().join(format!("store-{pages}"));
        let store = LocalStore::open_or_create(&path).unwrap();
        let (old, _) = image(&store, "old");
        store.put_tag("v1", &old).unwrap();
        let scenario = || -> layer_model::Result<()> {
            let bytes = vec![pages as u8; 10_000];
            let options = CommitOptions::new().label("k", "v");
            let blob = store.write_blob("r", Source::At(&bytes), &options, &Silent)?;
            store.update(&blob.digest, &LabelUpdate::set("l", "w"))?;
            let mut writer = store.writer("image", &WriterOptions::new())?;
            writer.write_all(b"new").map_err(|error| Error::io("write", error))?;
            let layer = match writer.commit(&CommitOptions::new()) {
                Err(error) if *error.kind() == layer_model::ErrorKind::AlreadyExists => {
                    Digest::sha256(b"new")
                }
                done => done?.digest,
            };
            store.update(&layer, &LabelUpdate::set("l", "w"))?;
            store.put_tag("v2", &old)
        };
        disk.fill(pages * 4096);
        if let Err(error) = scenario() {
            failures += 1;
            assert!(is_full(&error), "{pages}: {error:?}");
        }
        let report = store.check(&Default::default(), &Silent).unwrap();
        assert!(report.is_sound(), "{pages}: {report:#?}");
        store.image("v1", None).unwrap();
        let visit = &mut |info: content_store::Info| {
            let young = info.size == 10_000;
            assert!(!young || info.labels.contains_key("k"), "{pages}: a blob without its labels");
            Ok(())
        };
        store.walk(&Filters::all(), visit).unwrap();
        // A collector is what makes room, so it must not need any.
        store.gc(&GcOptions::new().grace(Duration::ZERO), &Silent).unwrap();
        disk.free();
        scenario().unwrap_or_else(|error| panic!("{pages}: {error:?}"));
        assert_eq!(store.tags().unwrap().len(), 2);
        fs::remove_dir_all(path).unwrap();
    }
    assert!(failures > 5, "{failures} failures");
}
