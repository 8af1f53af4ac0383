//! What the collector removes, and what it never does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::{collections::HashSet, fs, io::Write as _, thread, time::Duration};

use common::{descriptor, digest, has, image, put, put_labelled, store};
use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Documents, GcOptions, GcReport, LeaseOptions, LocalStore,
    Source, WriterOptions,
    document::{INDEX, MANIFEST},
    labels::{GC_BACK_REF_CONTENT, GC_FLAT, GC_ROOT},
};
use layer_model::{Digest, ErrorKind, Silent};
use serde_json::json;

fn everything() -> GcOptions {
    GcOptions::new().grace(Duration::ZERO)
}

fn collect(store: &LocalStore) -> GcReport {
    store.gc(&everything(), &Silent).unwrap()
}

#[test]
fn what_a_tag_reaches_stays_and_the_rest_goes() {
    let (_root, store) = store();
    let (tagged, kept) = image(&store, "kept");
    let (_, gone) = image(&store, "gone, and longer");
    store.put_tag("v1", &tagged).unwrap();
    let dry = store.gc(&everything().dry_run(true), &Silent).unwrap();
    assert!(gone.iter().all(|digest| has(&store, digest)), "a dry run removes nothing");
    let report = collect(&store);
    assert_eq!(report, dry, "and says what would be");
    assert!(kept.iter().all(|digest| has(&store, digest)));
    assert!(!gone.iter().any(|digest| has(&store, digest)));
    let removed: HashSet<_> = report.removed.iter().map(|(digest, _)| digest.clone()).collect();
    assert_eq!(removed, gone.into_iter().collect());
    assert_eq!(report.bytes, report.removed.iter().map(|(_, size)| size).sum::<u64>());
    assert_eq!(report.kept, 3);
    store.remove_tag("v1").unwrap();
    assert_eq!(collect(&store).removed.len(), 3);
    assert_eq!(fs::read_dir(store.path().join("content-store/labels/sha256")).unwrap().count(), 0);
}

#[test]
fn documents_are_followed_also_without_labels() {
    let (_root, store) = store();
    // As another tool writes them: no labels, nested, with a subject, and an entry without a tag.
    let raw = |value: serde_json::Value| put(&store, value.to_string().as_bytes());
    let size = |digest: &Digest| store.info(digest).unwrap().size;
    let link = |media_type, digest: &Digest| descriptor(media_type, digest, size(digest));
    let layer = put(&store, b"layer");
    let config = raw(json!({"os": "linux"}));
    let subject = raw(json!({"schemaVersion": 2, "manifests": []}));
    let manifest = raw(json!({
        "schemaVersion": 2, "config": link("application/x", &config), "layers": [link("application/x", &layer)],
        "subject": link(INDEX, &subject),
    }));
    let artifact_blob = put(&store, b"artifact");
    let artifact = raw(json!({"mediaType": "x", "blobs": [link("application/x", &artifact_blob)]}));
    let inner = raw(json!({"schemaVersion": 2, "manifests": [link(MANIFEST, &manifest)]}));
    let missing = descriptor(MANIFEST, &Digest::sha256(b"never there"), 10);
    let entries = json!([
        link(INDEX, &inner),
        link("application/vnd.oci.artifact.manifest.v1+json", &artifact),
        missing
    ]);
    let index = json!({"schemaVersion": 2, "manifests": entries});
    fs::write(store.path().join("index.json"), index.to_string()).unwrap();
    let garbage = put(&store, b"garbage");
    let report = collect(&store);
    assert_eq!(report.removed, [(garbage, 7)]);
    for kept in [layer, config, subject, manifest, artifact, artifact_blob, inner] {
        assert!(has(&store, &kept));
    }
}

#[test]
fn labels_lead_forward_and_back() {
    let (_root, store) = store();
    let leaf = put(&store, b"leaf");
    let middle = put_labelled(&store, b"middle", &[("containerd.io/gc.ref.content.l.0", leaf.as_str())]);
    let _root_blob = put_labelled(
        &store,
        b"root",
        &[(GC_ROOT, "yes"), ("containerd.io/gc.ref.content.referrer.sha256.abc", middle.as_str())],
    );
    let attached = put_labelled(&store, b"attached", &[(&format!("{GC_BACK_REF_CONTENT}.x"), leaf.as_str())]);
    let unattached =
        put_labelled(&store, b"unattached", &[("containerd.io/gc.bref.contents", leaf.as_str())]);
    assert_eq!(collect(&store).removed, [(unattached, 10)]);
    assert!(has(&store, &leaf) && has(&store, &attached));
    // Cycles end.
    let a = Digest::sha256(b"a");
    let b = put_labelled(&store, b"b", &[("containerd.io/gc.ref.content.0", a.as_str()), (GC_ROOT, "1")]);
    put_labelled(&store, b"a", &[("containerd.io/gc.ref.content.0", b.as_str())]);
    assert!(collect(&store).removed.is_empty());
}

#[test]
fn a_lease_keeps_what_is_committed_under_it() {
    let (_root, store) = store();
    let lease = store.lease("pull", &LeaseOptions::new()).unwrap();
    let (_, digests) = image(&lease, "leased");
    // Also what was there before, found by its digest or at commit.
    let [one, two] = [put(&store, b"one"), put(&store, b"two")];
    let expected = CommitOptions::new().digest(one.clone());
    assert!(lease.write_blob("r", Source::At(&b"one".to_vec()), &expected, &Silent).unwrap().existed);
    assert!(
        lease.write_blob("r", Source::At(&b"two".to_vec()), &CommitOptions::new(), &Silent).unwrap().existed
    );
    let other = put(&store, b"other");
    assert_eq!(collect(&store).removed, [(other, 5)]);
    assert_eq!(lease.info().unwrap().holds.len(), 5);
    // Another process sees it; giving it up from there leaves writers without protection, and they say so.
    let elsewhere = LocalStore::open(store.path()).unwrap();
    assert_eq!(elsewhere.leases().unwrap()[0].id, "pull");
    drop(elsewhere.open_lease("pull").unwrap());
    assert_eq!(elsewhere.leases().unwrap().len(), 1, "a handle that was taken up does not release");
    elsewhere.release_lease("pull").unwrap();
    let late =
        lease.write_blob("late", Source::At(&b"late".to_vec()), &CommitOptions::new(), &Silent).unwrap_err();
    assert_eq!(late.kind(), &ErrorKind::NotFound);
    assert_eq!(store.status("late").unwrap().offset, 4, "its bytes are kept");
    assert_eq!(collect(&store).removed.len(), 5);
    assert!(!digests.iter().chain([&one, &two]).any(|digest| has(&store, digest)));
    assert_eq!(lease.release().unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn leases_expire_and_can_be_flat() {
    let (_root, store) = store();
    let leaf = put(&store, b"leaf");
    let top = put_labelled(&store, b"top", &[("containerd.io/gc.ref.content.0", leaf.as_str())]);
    let flat = store.lease("flat", &LeaseOptions::new().label(GC_FLAT, "1")).unwrap();
    flat.hold(&top).unwrap();
    assert_eq!(collect(&store).removed, [(leaf, 4)], "held, but not followed");
    let short = store.lease("short", &LeaseOptions::new().ttl(Duration::from_millis(1))).unwrap();
    let held = put(&short, b"held");
    short.keep();
    thread::sleep(Duration::from_millis(20));
    let report = collect(&store);
    assert_eq!((report.leases, report.removed), (vec!["short".to_owned()], vec![(held, 4)]));
    assert_eq!(store.open_lease("short").unwrap_err().kind(), &ErrorKind::NotFound);
    let long = store.lease("long", &LeaseOptions::new().ttl(Duration::from_secs(3600))).unwrap();
    put(&long, b"held");
    assert!(collect(&store).removed.is_empty());
    assert_eq!(store.lease("long", &LeaseOptions::new()).unwrap_err().kind(), &ErrorKind::AlreadyExists);
    for bad in ["", "../x", "a/b", "a..b", "-a", &"x".repeat(77)] {
        assert_eq!(
            store.lease(bad, &LeaseOptions::new()).unwrap_err().kind(),
            &ErrorKind::InvalidArgument,
            "{bad}"
        );
        assert_eq!(store.open_lease(bad).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad}");
    }
}

#[test]
fn a_damaged_lease_keeps_and_half_a_lease_goes() {
    let (_root, store) = store();
    let held = put(&store, b"held");
    let lease = store.lease("damaged", &LeaseOptions::new().ttl(Duration::ZERO)).unwrap();
    lease.hold(&held).unwrap();
    let leases = store.path().join("content-store/leases");
    fs::write(leases.join("damaged/lease.json"), "{").unwrap();
    fs::create_dir(leases.join("half")).unwrap();
    assert!(collect(&store).removed.is_empty());
    assert!(!leases.join("half").exists() && leases.join("damaged").exists());
}

#[test]
fn young_blobs_stay_with_what_they_refer_to() {
    let (_root, store) = store();
    let (_, digests) = image(&store, "young");
    assert!(store.gc(&GcOptions::new(), &Silent).unwrap().removed.is_empty());
    // Their modification time is whatever a copy kept; that does not make them old.
    for digest in &digests {
        let file = fs::File::open(store.blob_path(digest)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    assert!(store.gc(&GcOptions::new(), &Silent).unwrap().removed.is_empty());
    let only_manifest = everything().root(digests[0].clone());
    assert!(store.gc(&only_manifest, &Silent).unwrap().removed.is_empty());
    assert_eq!(collect(&store).removed.len(), 3);
}

#[test]
fn nothing_is_collected_when_a_document_cannot_be_followed() {
    let (_root, store) = store();
    let (manifest, digests) = image(&store, "x");
    store.put_tag("v1", &manifest).unwrap();
    let garbage = put(&store, b"garbage");
    let path = store.blob_path(&digests[0]);
    let good = fs::read(&path).unwrap();
    let bad =
        [b"{".to_vec(), good[..good.len() - 1].to_vec(), vec![b' '; 9 << 20], [&good[..], b" "].concat()];
    for bytes in bad {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = store.gc(&everything(), &Silent).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::FailedPrecondition, "{error:?}");
        assert_eq!(error.entry_path(), Some(digests[0].as_str().as_bytes()));
        assert!(has(&store, &garbage) && has(&store, &digests[2]));
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, good).unwrap();
    assert_eq!(collect(&store).removed, [(garbage, 7)]);
    // A blob that happens to begin like a document and is none.
    put(&store, b"{ not json");
    assert_eq!(collect(&store).removed.len(), 1);
}

#[test]
fn ingests_with_a_writer_stay_and_abandoned_ones_go() {
    let (_root, store) = store();
    let write = |reference: &str| {
        let mut writer = store.writer(reference, &WriterOptions::new()).unwrap();
        writer.write_all(b"bytes").unwrap();
        writer.sync().unwrap();
        writer
    };
    let running = write("running");
    drop(write("abandoned"));
    let debris = store.path().join("ingest").join(Digest::sha256("debris").encoded());
    fs::create_dir(&debris).unwrap();
    let staged = store.path().join("content-store/staging/0123");
    fs::write(&staged, "").unwrap();
    assert!(collect(&store).ingests.is_empty(), "a day has not passed");
    assert!(!debris.exists() && !staged.exists(), "what interruptions leave goes at once");
    let none_waits = everything().abandoned_ingests(Some(Duration::ZERO));
    assert_eq!(store.gc(&none_waits, &Silent).unwrap().ingests, ["abandoned"]);
    assert_eq!(store.status("abandoned").unwrap_err().kind(), &ErrorKind::NotFound);
    let committed = running.commit(&CommitOptions::new()).unwrap();
    assert!(has(&store, &committed.digest));
}

#[test]
fn collecting_at_the_same_time_loses_nothing_that_is_leased_or_tagged() {
    let (_root, store) = store();
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collected = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                collected +=
                    LocalStore::open(store.path()).unwrap().gc(&everything(), &Silent).unwrap().removed.len();
            }
            collected
        });
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let store = LocalStore::open(store.path()).unwrap();
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for n in 0..15 {
                        let lease = store.lease(&format!("l{writer}-{n}"), &LeaseOptions::new()).unwrap();
                        // Half of the layers are the same for all: committed by one, found by others.
                        let (manifest, digests) = image(&lease, &format!("layer {}", n / 2));
                        assert!(digests.iter().all(|digest| has(&store, digest)), "{n}: lost under a lease");
                        if n % 3 == 0 {
                            store.put_tag(&format!("t{writer}-{n}"), &manifest).unwrap();
                            kept.push(manifest);
                        }
                        drop(lease);
                        // Without a lease it may be gone at any time, and comes back.
                        put(&store, format!("garbage {writer} {n}").as_bytes());
                    }
                    kept
                })
            })
            .collect();
        for writer in writers {
            for manifest in writer.join().unwrap() {
                store.read_image(&manifest, None).unwrap();
                assert!(has(&store, &digest(&store.read_manifest(&manifest).unwrap().layers()[0])));
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0, "the collector had something to do");
    });
    assert!(store.check(&Default::default(), &Silent).unwrap().problems.is_empty());
}
