//! What several tests need.
#![allow(dead_code, reason = "each test uses some of it")]

use content_store::{
    CommitOptions, ContentStore, ContentStoreExt, Documents, LocalStore, Source,
    document::{CONFIG, MANIFEST},
    oci::Descriptor,
};
use layer_model::{Digest, Silent};
use serde_json::{Value, json};

/// A store in a directory that vanishes with the first of the two.
pub(crate) fn store() -> (tempfile::TempDir, LocalStore) {
    let root = tempfile::tempdir().unwrap();
    let store = LocalStore::open_or_create(root.path().join("store")).unwrap();
    (root, store)
}

pub(crate) fn put(store: &dyn ContentStore, content: &[u8]) -> Digest {
    put_labelled(store, content, &[])
}

pub(crate) fn put_labelled(store: &dyn ContentStore, content: &[u8], labels: &[(&str, &str)]) -> Digest {
    let mut options = CommitOptions::new();
    for (key, value) in labels {
        options = options.label(*key, *value);
    }
    let digest = Digest::sha256(content);
    let source = content.to_vec();
    store.write_blob(&format!("put-{digest}"), Source::At(&source), &options, &Silent).unwrap().digest
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest.as_str(), "size": size})
}

/// An image of one layer, which is the text given: its manifest, then manifest, config and layer by digest.
pub(crate) fn image(store: &dyn ContentStore, text: &str) -> (Descriptor, [Digest; 3]) {
    let layer = put(store, text.as_bytes());
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.as_str()]},
    });
    let config = store.put_document(CONFIG, &config).unwrap();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer, text.len() as u64)],
    });
    let manifest = store.put_document(MANIFEST, &manifest).unwrap();
    let digests = [digest(&manifest), digest(&config), layer];
    (manifest, digests)
}

pub(crate) fn digest(descriptor: &Descriptor) -> Digest {
    content_store::document::digest_of(descriptor).unwrap()
}

pub(crate) fn has(store: &dyn ContentStore, digest: &Digest) -> bool {
    store.info(digest).is_ok()
}

/// Everything below a directory, sorted, with sizes: to see that nothing changed.
pub(crate) fn listing(root: &std::path::Path) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                todo.push(entry.path());
            }
            let size = if meta.is_file() { meta.len() } else { 0 };
            all.push((entry.path().strip_prefix(root).unwrap().display().to_string(), size));
        }
    }
    all.sort();
    all
}
