//! The store in a directory: what lies where, and what it does with directories of other makes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use common::{has, image, listing, put, put_labelled, store};
use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Documents, Filters, LabelUpdate, LocalOptions, LocalStore,
    Source, WriterOptions,
};
use layer_model::{Digest, ErrorKind, Silent};
use serde_json::{Value, json};

/// A layout as another tool makes it, with one blob.
fn foreign_layout(root: &Path) -> Digest {
    let digest = Digest::sha256(b"foreign");
    fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    fs::write(root.join("blobs/sha256").join(digest.encoded()), "foreign").unwrap();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0", "extra": 1}"#).unwrap();
    fs::write(root.join("index.json"), r#"{"schemaVersion": 2, "manifests": []}"#).unwrap();
    fs::write(root.join("manifest.json"), "[]").unwrap();
    digest
}

#[test]
fn a_new_store_is_an_image_layout_for_its_owner_alone() {
    let (_root, store) = store();
    let path = store.path();
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o700);
    let json = |name| serde_json::from_slice::<Value>(&fs::read(path.join(name)).unwrap()).unwrap();
    assert_eq!(json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    assert_eq!(json("index.json")["manifests"], json!([]));
    assert!(path.join("blobs").is_dir());
    // Opened again it is the same.
    let before = listing(path);
    LocalStore::open_or_create(path).unwrap();
    LocalStore::open(path).unwrap();
    assert_eq!(listing(path), before);
}

#[test]
fn a_committed_blob_cannot_be_written_and_leaves_no_ingest() {
    let (_root, store) = store();
    let digest = put(&store, b"bytes");
    let meta = fs::metadata(store.blob_path(&digest)).unwrap();
    assert_eq!(meta.permissions().mode() & 0o333, 0, "{:o}", meta.mode());
    assert_eq!(fs::read_dir(store.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.path().join("content-store/staging")).unwrap().count(), 0);
    assert_eq!(fs::read(store.blob_path(&digest)).unwrap(), b"bytes");
}

#[test]
fn an_ingest_lies_as_containerd_has_it() {
    let (_root, store) = store();
    let mut writer = store.writer("layer-1", &WriterOptions::new().total(10)).unwrap();
    writer.write_all(b"12345").unwrap();
    drop(writer);
    let dir = store.path().join("ingest").join(Digest::sha256("layer-1").encoded());
    let text = |name| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!((text("ref"), text("data"), text("total")), ("layer-1".into(), "12345".into(), "10".into()));
    assert!(text("startedat").ends_with('Z') && text("updatedat").contains('T'));
}

#[test]
fn a_store_of_containerd_is_taken_over_with_its_ingests() {
    let root = tempfile::tempdir().unwrap();
    let blob = Digest::sha256(b"old");
    fs::create_dir_all(root.path().join("blobs/sha256")).unwrap();
    fs::write(root.path().join("blobs/sha256").join(blob.encoded()), "old").unwrap();
    let ingest = root.path().join("ingest").join(Digest::sha256("layer-sha256:x").encoded());
    fs::create_dir_all(&ingest).unwrap();
    for (name, text) in [
        ("ref", "layer-sha256:x"),
        ("data", "hel"),
        ("startedat", "2026-01-02T03:04:05.678901234+01:00"),
        ("updatedat", "2026-01-02T03:04:05.678901234+01:00"),
        ("total", "5"),
    ] {
        fs::write(ingest.join(name), text).unwrap();
    }
    assert!(LocalStore::open(root.path()).is_err(), "it is no layout yet");
    let store = LocalStore::open_or_create(root.path()).unwrap();
    assert!(has(&store, &blob));
    let status = store.status("layer-sha256:x").unwrap();
    assert_eq!((status.offset, status.total), (3, Some(5)));
    let mut writer = store.writer("layer-sha256:x", &WriterOptions::new()).unwrap();
    writer.write_all(b"lo").unwrap();
    writer.commit(&CommitOptions::new().digest(Digest::sha256(b"hello"))).unwrap();
}

#[test]
fn a_layout_of_another_tool_is_read_without_a_trace_and_written_into() {
    let root = tempfile::tempdir().unwrap();
    let digest = foreign_layout(root.path());
    let before = listing(root.path());
    let store = LocalStore::open(root.path()).unwrap();
    assert_eq!(store.read_blob(&digest, Some(7), 100).unwrap(), b"foreign");
    assert_eq!(store.info(&digest).unwrap().size, 7);
    store.walk(&Filters::all(), &mut |_| Ok(())).unwrap();
    assert!(store.tags().unwrap().is_empty() && store.leases().unwrap().is_empty());
    assert!(store.check(&Default::default(), &Silent).unwrap().is_sound());
    assert_eq!(kind(store.status("x")), ErrorKind::NotFound);
    assert_eq!(listing(root.path()), before, "reading leaves no trace");
    let mine = put_labelled(&store, b"mine", &[("k", "v")]);
    store.update(&digest, &LabelUpdate::set("k", "v")).unwrap();
    assert!(has(&store, &mine));
    assert_eq!(fs::read(root.path().join("manifest.json")).unwrap(), b"[]", "what is unknown stays");
}

#[test]
fn what_is_no_layout_is_not_opened() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(kind(LocalStore::open(root.path().join("missing"))), ErrorKind::NotFound);
    for missing in ["oci-layout", "index.json", "blobs"] {
        let root = tempfile::tempdir().unwrap();
        foreign_layout(root.path());
        fs::rename(root.path().join(missing), root.path().join("elsewhere")).unwrap();
        let error = LocalStore::open(root.path()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotFound);
        assert!(error.to_string().contains(missing), "{error}");
    }
    // What may be somebody's home is left alone.
    fs::write(root.path().join("thesis.txt"), "precious").unwrap();
    assert_eq!(kind(LocalStore::open_or_create(root.path())), ErrorKind::FailedPrecondition);
    assert_eq!(listing(root.path()).len(), 1);
    let future = tempfile::tempdir().unwrap();
    foreign_layout(future.path());
    fs::write(future.path().join("oci-layout"), r#"{"imageLayoutVersion": "2.0.0"}"#).unwrap();
    assert_eq!(kind(LocalStore::open(future.path())), ErrorKind::NotSupported);
}

#[test]
fn nothing_planted_in_a_layout_leads_out_of_it() {
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let secret = Digest::sha256(b"secret");
    let before = listing(outside.path());
    for planted in
        ["blobs", "blobs/sha256", "blobs/sha256/blob", "ingest", "content-store", "index.json", "oci-layout"]
    {
        let root = tempfile::tempdir().unwrap();
        foreign_layout(root.path());
        let blob = root.path().join("blobs/sha256").join(secret.encoded());
        match planted {
            "blobs/sha256/blob" => symlink(outside.path().join("secret"), &blob).unwrap(),
            "index.json" | "oci-layout" => {
                fs::remove_file(root.path().join(planted)).unwrap();
                symlink(outside.path().join("secret"), root.path().join(planted)).unwrap();
            }
            dir => {
                let _ = fs::remove_dir_all(root.path().join(dir));
                symlink(outside.path().join("dir"), root.path().join(dir)).unwrap();
            }
        }
        let Ok(store) = LocalStore::open(root.path()) else { continue };
        let read = store.read_blob(&secret, None, 100);
        assert!(read.is_err(), "{planted}: read from outside");
        let write = store.write_blob(
            "r",
            Source::At(&b"new".to_vec()),
            &CommitOptions::new().label("a", "b"),
            &Silent,
        );
        assert!(write.is_err() || ["blobs/sha256/blob", "index.json"].contains(&planted), "{planted}");
        if planted == "index.json" {
            assert!(store.tags().is_err(), "read through a link");
        }
        let _ = store.gc(&content_store::GcOptions::new().grace(Default::default()), &Silent);
        let _ = store.check(&Default::default(), &Silent);
        let _ = store.delete(&secret);
        assert_eq!(listing(outside.path()), before, "{planted}: outside has changed");
    }
}

#[test]
fn a_pipe_in_the_place_of_a_blob_does_not_hang() {
    let root = tempfile::tempdir().unwrap();
    foreign_layout(root.path());
    let digest = Digest::sha256(b"pipe");
    let pipe = root.path().join("blobs/sha256").join(digest.encoded());
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let store = LocalStore::open(root.path()).unwrap();
    assert_eq!(kind(store.reader(&digest)), ErrorKind::FailedPrecondition);
    assert_eq!(kind(store.info(&digest)), ErrorKind::FailedPrecondition);
    let report = store.check(&Default::default(), &Silent).unwrap();
    assert!(report.problems.iter().any(|p| p.to_string().contains(digest.encoded())), "{report:?}");
}

#[test]
fn text_that_is_no_digest_never_becomes_a_path() {
    let root = tempfile::tempdir().unwrap();
    foreign_layout(root.path());
    for bad in ["sha256:../../etc/passwd", "../../etc:passwd", "sha256:", "sha256:ABC", "x"] {
        assert_eq!(kind(bad.parse::<Digest>()), ErrorKind::InvalidArgument, "{bad}");
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1, "digest": bad,
            "annotations": {"org.opencontainers.image.ref.name": "v1"},
        }]});
        fs::write(root.path().join("index.json"), index.to_string()).unwrap();
        let store = LocalStore::open(root.path()).unwrap();
        assert_eq!(kind(store.resolve("v1")), ErrorKind::InvalidArgument, "{bad}");
        assert_eq!(kind(store.tags()), ErrorKind::InvalidArgument);
        assert_eq!(kind(store.index()), ErrorKind::InvalidArgument);
        assert_eq!(kind(store.remove_tag("v1")), ErrorKind::InvalidArgument);
        assert_eq!(
            kind(store.gc(&Default::default(), &Silent)),
            ErrorKind::InvalidArgument,
            "nothing is collected"
        );
    }
}

#[test]
fn two_stores_on_one_directory_share_references() {
    let (_root, first) = store();
    let second = LocalStore::open(first.path()).unwrap();
    let mut writer = first.writer("r", &WriterOptions::new()).unwrap();
    writer.write_all(b"12345").unwrap();
    writer.flush().unwrap();
    let error = second.writer("r", &WriterOptions::new()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unavailable);
    let error = first.writer("r", &WriterOptions::new()).unwrap_err();
    assert!(error.to_string().contains("for 0."), "it says since when: {error}");
    assert_eq!(second.status("r").unwrap().offset, 5);
    // Aborting from the other side reaches the writer.
    second.abort("r").unwrap();
    assert_eq!(kind(writer.sync()), ErrorKind::FailedPrecondition);
    drop(writer);
    assert_eq!(second.writer("r", &WriterOptions::new()).unwrap().status().offset, 0);
}

#[test]
fn what_an_interruption_left_of_an_ingest_is_started_over() {
    let (_root, store) = store();
    let dir = store.path().join("ingest").join(Digest::sha256("r").encoded());
    let ref_of_another = |dir: &Path| {
        fs::write(dir.join("ref"), "another").unwrap();
        fs::write(dir.join("data"), "junk").unwrap();
    };
    let no_ref = |dir: &Path| fs::write(dir.join("data"), "junk").unwrap();
    let no_data = |dir: &Path| fs::write(dir.join("ref"), "r").unwrap();
    let cases: [&dyn Fn(&Path); 4] = [&ref_of_another, &no_ref, &no_data, &|_| ()];
    for case in cases {
        fs::create_dir_all(&dir).unwrap();
        case(&dir);
        assert_eq!(kind(store.status("r")), ErrorKind::NotFound);
        let mut writer = store.writer("r", &WriterOptions::new()).unwrap();
        assert_eq!(writer.status().offset, 0);
        writer.write_all(b"x").unwrap();
        writer.commit(&CommitOptions::new().digest(Digest::sha256(b"x"))).unwrap();
        store.delete(&Digest::sha256(b"x")).unwrap();
    }
}

#[test]
fn a_store_without_labels_says_so() {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open_or_create_with(root.path().join("s"), LocalOptions::default().labels(false))
        .unwrap();
    let options = CommitOptions::new().label("k", "v");
    let committed = store.write_blob("r", Source::At(&b"x".to_vec()), &options, &Silent).unwrap();
    assert_eq!(committed.warnings.len(), 1);
    assert!(store.info(&committed.digest).unwrap().labels.is_empty());
    assert_eq!(
        kind(store.update(&committed.digest, &LabelUpdate::set("k", "v"))),
        ErrorKind::FailedPrecondition
    );
    assert_eq!(kind(store.update(&Digest::sha256(b"y"), &LabelUpdate::set("k", "v"))), ErrorKind::NotFound);
    let again = store.write_blob("r", Source::At(&b"x".to_vec()), &options, &Silent).unwrap();
    assert!(again.existed && again.warnings.len() == 1);
}

#[test]
fn a_store_that_is_renamed_goes_on() {
    let (root, store) = store();
    let mut writer = store.writer("r", &WriterOptions::new()).unwrap();
    writer.write_all(b"x").unwrap();
    fs::rename(store.path(), root.path().join("moved")).unwrap();
    let digest = writer.commit(&CommitOptions::new().label("k", "v")).unwrap().digest;
    let moved = LocalStore::open(root.path().join("moved")).unwrap();
    assert_eq!(moved.info(&digest).unwrap().labels["k"], "v");
}

#[test]
fn large_and_small_writes_mix() {
    let (_root, store) = store();
    let all: Vec<u8> = (0..5_000_000_u32).map(|n| (n ^ (n >> 9)) as u8).collect();
    let mut writer = store.writer("r", &WriterOptions::new()).unwrap();
    let (mut at, mut size) = (0, 1);
    while at < all.len() {
        let end = (at + size).min(all.len());
        writer.write_all(&all[at..end]).unwrap();
        (at, size) = (end, if size > 3_000_000 { 7 } else { size * 3 });
    }
    let committed = writer.commit(&CommitOptions::new().digest(Digest::sha256(&all))).unwrap();
    assert_eq!(fs::read(store.blob_path(&committed.digest)).unwrap(), all);
}

#[test]
fn a_check_finds_what_is_damaged_missing_or_left_over() {
    let (_root, store) = store();
    let (manifest, [_, config, layer]) = image(&store, "layer");
    store.put_tag("v1", &manifest).unwrap();
    let clean = store.check(&Default::default(), &Silent).unwrap();
    assert_eq!((clean.blobs, clean.problems.len()), (3, 0), "{clean:?}");

    let kept = put_labelled(&store, b"kept", &[("k", "v")]);
    fs::write(store.path().join("blobs/sha256/stray"), "").unwrap();
    fs::create_dir(store.path().join("ingest/debris")).unwrap();
    let orphan = Digest::sha256(b"never came");
    fs::write(store.path().join("content-store/labels/sha256").join(orphan.encoded()), "{}").unwrap();
    fs::remove_file(store.blob_path(&layer)).unwrap();
    let report = store.check(&Default::default(), &Silent).unwrap();
    assert!(report.is_sound());
    let lines: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].contains(&format!("refers to {layer}, which is not there")));
    assert!(lines[1].starts_with("blobs/sha256/stray") && lines[2].starts_with("ingest/debris"));
    assert!(lines[3].contains(orphan.encoded()));

    fs::remove_file(store.blob_path(&config)).unwrap();
    fs::write(store.blob_path(&config), "damaged").unwrap();
    fs::write(store.path().join("content-store/labels/sha256").join(kept.encoded()), "[").unwrap();
    let report = store.check(&Default::default(), &Silent).unwrap();
    assert!(!report.is_sound());
    let all = report.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(all.contains(&format!("{config}: damaged")), "{all}");
    assert!(all.contains(&format!("{kept}: labels")), "{all}");
    assert_eq!(
        kind(store.read_config(store.read_manifest(&manifest).unwrap().config())),
        sizes(&store, &manifest, 7)
    );
}

fn sizes(store: &LocalStore, manifest: &content_store::oci::Descriptor, got: u64) -> ErrorKind {
    ErrorKind::SizeMismatch { expected: store.read_manifest(manifest).unwrap().config().size(), got }
}

fn kind<T>(result: layer_model::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("must fail, and did not"),
        Err(error) => error.kind().clone(),
    }
}
