//! Killed at every single system call of a commit: strace says when.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;
#[path = "common/require.rs"]
mod require;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::image;
use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Filters, GcOptions, LeaseOptions, LocalStore, Source,
};
use layer_model::{Digest, Silent};

const STORE: &str = "STRACE_STORE";
/// The calls by which a store changes what is on the disk: before each of them, it is in another state.
const CALLS: [&str; 10] = [
    "mkdirat",
    "write",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "fchmod",
    "renameat",
    "renameat2",
    "unlinkat",
];

/// The whole of it: a lease, a blob with labels, an image, a tag, an update, a tag removed.
fn scenario(path: &Path) -> layer_model::Result<()> {
    let store = LocalStore::open_or_create(path)?;
    let _ = store.release_lease("l");
    let lease = store.lease("l", &LeaseOptions::new())?;
    let bytes = vec![7; 100_000];
    let options = CommitOptions::new().digest(Digest::sha256(&bytes)).size(100_000).label("k", "v");
    lease.write_blob("r", Source::At(&bytes), &options, &Silent)?;
    let (manifest, _) = image(&lease, "layer");
    store.put_tag("v1", &manifest)?;
    store.put_tag("v2", &manifest)?;
    store.remove_tag("v2")?;
    store.update(&Digest::sha256(&bytes), &content_store::LabelUpdate::set("second", "2"))?;
    lease.release()
}

/// Not a test by itself: what is killed.
#[test]
fn as_a_child() {
    if let Ok(path) = std::env::var(STORE) {
        scenario(Path::new(&path)).unwrap();
    }
}

/// Runs the scenario with a kill at the `n`th of such calls. Gives whether it got to its end.
fn run(path: &Path, call: &str, n: usize) -> bool {
    let status = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={n}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_child", "--test-threads=1"])
        .env(STORE, path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    status.success()
}

#[test]
fn a_kill_at_any_system_call_leaves_a_sound_store_that_goes_on() {
    const NAME: &str = "a_kill_at_any_system_call_leaves_a_sound_store_that_goes_on";
    let works = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        return require::skip(NAME, "strace does not run here");
    }
    let root = tempfile::tempdir().unwrap();
    let blob = Digest::sha256(vec![7; 100_000]);
    let (mut kills, mut with_store, mut with_blob, mut with_tag) = (0, 0, 0, 0);
    for (call, n) in CALLS.iter().flat_map(|call| {
        (1..).map(move |n| (call, n)).take_while(|(call, n)| {
            assert!(*n < 500, "the scenario never ends");
            !run(&root.path().join(format!("{call}-{n}")), call, *n)
        })
    }) {
        kills += 1;
        let path = root.path().join(format!("{call}-{n}"));
        if let Ok(store) = LocalStore::open(&path) {
            with_store += 1;
            let report = store.check(&Default::default(), &Silent).unwrap();
            assert!(report.is_sound(), "kill at {call} {n}: {report:#?}");
            for status in store.list_statuses(&Filters::all()).unwrap() {
                assert!(status.offset <= 100_000, "kill at {call} {n}");
            }
            if let Ok(info) = store.info(&blob) {
                with_blob += 1;
                assert_eq!(info.size, 100_000);
                assert_eq!(info.labels["k"], "v", "kill at {call} {n}: a blob is visible without its labels");
            }
            if !store.tags().unwrap().is_empty() {
                with_tag += 1;
                store
                    .image("v1", None)
                    .unwrap_or_else(|error| panic!("kill at {call} {n}: half an image is tagged: {error:?}"));
            }
        }
        // It goes on from whatever was left.
        scenario(&path).unwrap_or_else(|error| panic!("kill at {call} {n}: cannot go on: {error:?}"));
        let store = LocalStore::open(&path).unwrap();
        assert_eq!(store.info(&blob).unwrap().labels.len(), 2, "kill at {call} {n}");
        assert_eq!(store.list_statuses(&Filters::all()).unwrap(), [], "kill at {call} {n}");
        let report = store.gc(&GcOptions::new().grace(Duration::ZERO), &Silent).unwrap();
        assert_eq!(
            report.removed,
            [(blob.clone(), 100_000)],
            "kill at {call} {n}: the image stays, the rest goes"
        );
        let report = store.check(&Default::default(), &Silent).unwrap();
        assert!(report.problems.is_empty(), "kill at {call} {n}: {report:#?}");
        std::fs::remove_dir_all(&path).unwrap();
    }
    assert!(
        with_store > 50 && with_blob > 20 && with_tag > 10,
        "{kills} {with_store} {with_blob} {with_tag}"
    );
    eprintln!("{kills} kills: {with_store} left a store, {with_blob} the blob, {with_tag} the tag");
}
