//! Image documents: what is refused, what is kept, what comes back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::fs;

use common::{descriptor, digest, image, put, store};
use content_store::{
    ContentStore, Document, Documents, LocalStore, MemoryStore,
    document::{CONFIG, INDEX, MANIFEST, MAX_DOCUMENT},
    oci::{
        Arch, Descriptor, DescriptorBuilder, ImageConfiguration, ImageIndexBuilder, ImageManifestBuilder,
        MediaType, Os, PlatformBuilder, RootFsBuilder,
    },
};
use layer_model::{Digest, ErrorKind, Result};
use serde_json::{Value, json};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("must fail, and did not"),
        Err(error) => error.kind().clone(),
    }
}

/// Stores bytes as they are, and a descriptor that calls them so.
fn stored(store: &dyn ContentStore, media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest = put(store, bytes);
    content_store::document::descriptor_from(&descriptor(media_type, &digest, bytes.len() as u64)).unwrap()
}

fn config_json() -> Value {
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
}

#[test]
fn typed_documents_come_back_and_are_written_the_same_every_time() {
    let mut first = None;
    for _ in 0..4 {
        let store = MemoryStore::new();
        let layer = put(&store, b"layer");
        let rootfs =
            RootFsBuilder::default().typ("layers").diff_ids(vec![layer.to_string()]).build().unwrap();
        let mut config = ImageConfiguration::default();
        config.set_architecture(Arch::Amd64).set_os(Os::Linux).set_rootfs(rootfs);
        config.set_os_features(Some(vec!["erofs".to_owned()]));
        let config_descriptor = store.put_config(&config).unwrap();
        let layer = content_store::document::descriptor_from(&descriptor(LAYER, &layer, 5)).unwrap();
        // A hash map inside: its order must not show.
        let annotations = (0..20).map(|n| (format!("key-{n}"), n.to_string())).collect();
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .config(config_descriptor.clone())
            .layers(vec![layer])
            .annotations::<std::collections::HashMap<_, _>>(annotations)
            .build()
            .unwrap();
        let manifest_descriptor = store.put_manifest(&manifest).unwrap();
        assert_eq!(store.read_manifest(&manifest_descriptor).unwrap(), manifest);
        assert_eq!(store.read_config(&config_descriptor).unwrap(), config);
        assert_eq!(first.get_or_insert(manifest_descriptor.clone()), &manifest_descriptor);
        // The labels that lead containerd's collector, too.
        let labels = store.info(&digest(&manifest_descriptor)).unwrap().labels;
        assert_eq!(labels["containerd.io/gc.ref.content.config"], config_descriptor.digest().to_string());
        assert_eq!(labels["containerd.io/gc.ref.content.l.0"], manifest.layers()[0].digest().to_string());
        assert_eq!(labels.len(), 2, "no label comes from the inside of an image");
    }
}

#[test]
fn platforms_keep_their_dotted_fields() {
    let (_root, store) = store();
    let (manifest, _) = image(&store, "x");
    let platform = PlatformBuilder::default()
        .architecture(Arch::ARM64)
        .os(Os::Linux)
        .os_version("6.6")
        .os_features(vec!["erofs".to_owned()])
        .build()
        .unwrap();
    let mut entry = manifest.clone();
    entry.set_platform(Some(platform.clone()));
    let index =
        ImageIndexBuilder::default().schema_version(2_u32).manifests(vec![entry.clone()]).build().unwrap();
    let stored = store.put_index(&index).unwrap();
    let document = store.read_document(&stored).unwrap();
    assert_eq!(document.value["manifests"][0]["platform"]["os.features"], json!(["erofs"]));
    assert_eq!(document.value["manifests"][0]["platform"]["os.version"], "6.6");
    assert_eq!(store.read_index(&stored).unwrap(), index);
    store.put_tag("v1", &entry).unwrap();
    let text = fs::read_to_string(store.path().join("index.json")).unwrap();
    assert!(text.contains(r#""os.features":["erofs"]"#) && !text.contains("os_features"), "{text}");
    assert_eq!(store.resolve("v1").unwrap().platform().as_ref(), Some(&platform));
}

#[test]
fn documents_that_can_be_read_in_two_ways_are_refused() {
    let store = MemoryStore::new();
    let layer = put(&store, b"layer");
    let config = store.put_document(CONFIG, &config_json()).unwrap();
    let manifest = || json!({"schemaVersion": 2, "config": config, "layers": [descriptor(LAYER, &layer, 5)]});
    let index = || json!({"schemaVersion": 2, "manifests": []});
    let with = |mut value: Value, field: &str, content: Value| {
        value[field] = content;
        value
    };
    for (media_type, value) in [
        (MANIFEST, with(manifest(), "manifests", json!([]))),
        (MANIFEST, with(manifest(), "Manifests", json!([]))),
        (INDEX, with(index(), "layers", json!([]))),
        (INDEX, with(index(), "config", json!({}))),
        (INDEX, with(index(), "fsLayers", json!([]))),
        (MANIFEST, with(manifest(), "mediaType", json!(INDEX))),
        (INDEX, with(index(), "mediaType", json!(MANIFEST))),
        (MANIFEST, with(manifest(), "mediaType", json!(7))),
        (MANIFEST, with(manifest(), "schemaVersion", json!(1))),
        (MANIFEST, json!({"schemaVersion": 2, "config": config, "Layers": []})),
        (MANIFEST, json!([])),
        (MANIFEST, index()),
        (INDEX, manifest()),
    ] {
        let stored = stored(&store, media_type, value.to_string().as_bytes());
        assert_eq!(kind(store.read_document(&stored)), ErrorKind::InvalidArchive, "{value}");
    }
    // A field that comes twice.
    let twice = format!(r#"{{"schemaVersion":2,"config":{},"layers":[],"layers":[]}}"#, json!(config));
    assert_eq!(
        kind(store.read_manifest(&stored(&store, MANIFEST, twice.as_bytes()))),
        ErrorKind::InvalidArchive
    );
    // Not the document asked for.
    let right = stored(&store, MANIFEST, manifest().to_string().as_bytes());
    assert_eq!(kind(store.read_index(&right)), ErrorKind::InvalidArchive);
    assert_eq!(store.read_manifest(&right).unwrap().layers().len(), 1);
    // What cannot be read cannot be stored either.
    assert_eq!(
        kind(store.put_document(MANIFEST, &with(manifest(), "manifests", json!([])))),
        ErrorKind::InvalidArchive
    );
}

#[test]
fn descriptors_that_lie_are_refused() {
    let store = MemoryStore::new();
    let good = descriptor(LAYER, &Digest::sha256(b"layer"), 5);
    let with = |field: &str, content: Value| {
        let mut value = good.clone();
        value[field] = content;
        value
    };
    for (layer, expected) in [
        (with("digest", json!("sha256:../../etc/passwd")), ErrorKind::InvalidArgument),
        (with("digest", json!("sha256:abc")), ErrorKind::InvalidArgument),
        (with("digest", json!(7)), ErrorKind::InvalidArchive),
        (with("size", json!(-1)), ErrorKind::InvalidArchive),
        (with("size", json!(1.5)), ErrorKind::InvalidArchive),
        (with("size", Value::Null), ErrorKind::InvalidArchive),
        (with("data", json!("bGF5ZXI")), ErrorKind::InvalidArchive),
        (with("data", json!("b*F5ZXI=")), ErrorKind::InvalidArchive),
        (with("data", json!("bGF5ZXJz")), ErrorKind::SizeMismatch { expected: 5, got: 6 }),
        (
            with("data", json!("TEFZRVI=")),
            ErrorKind::DigestMismatch { expected: Digest::sha256(b"layer"), got: Digest::sha256(b"LAYER") },
        ),
        (json!("layer"), ErrorKind::InvalidArchive),
    ] {
        let manifest = json!({"schemaVersion": 2, "config": good, "layers": [layer]});
        assert_eq!(kind(Document::parse(MANIFEST, manifest.to_string().into_bytes())), expected, "{layer}");
    }
    // Data that is right stands for the blob, which need not be there.
    let config = config_json().to_string();
    let encoded = String::from_utf8(base64(config.as_bytes())).unwrap();
    let with_data = DescriptorBuilder::default()
        .media_type(MediaType::ImageConfig)
        .digest(Digest::sha256(&config).as_str().parse::<content_store::oci::Digest>().unwrap())
        .size(config.len() as u64)
        .data(encoded)
        .build()
        .unwrap();
    assert_eq!(store.read_config(&with_data).unwrap().os(), &Os::Linux);
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, n| (bits << 8) | u32::from(*group.get(n).unwrap_or(&0)));
        for n in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= group.len() { digit } else { b'=' });
        }
    }
    text
}

#[test]
fn embedded_data_of_any_length_is_read() {
    for len in 0..40_u8 {
        let bytes: Vec<u8> = (0..len).map(|n| n.wrapping_mul(197) ^ len).collect();
        let mut layer = descriptor(LAYER, &Digest::sha256(&bytes), bytes.len() as u64);
        layer["data"] = String::from_utf8(base64(&bytes)).unwrap().into();
        content_store::document::descriptor_from(&layer).unwrap();
    }
}

#[test]
fn sizes_digests_and_limits_are_checked_before_anything_is_believed() {
    let (_root, store) = store();
    let (manifest, [_, config, _]) = image(&store, "layer");
    let mut wrong = manifest.clone();
    wrong.set_size(manifest.size() + 1);
    assert!(matches!(kind(store.read_manifest(&wrong)), ErrorKind::SizeMismatch { .. }));
    let missing =
        content_store::document::descriptor_from(&descriptor(MANIFEST, &Digest::sha256(b"?"), 1)).unwrap();
    assert_eq!(kind(store.read_manifest(&missing)), ErrorKind::NotFound);

    let mut damaged = fs::read(store.blob_path(&config)).unwrap();
    damaged[10] ^= 1;
    fs::remove_file(store.blob_path(&config)).unwrap();
    fs::write(store.blob_path(&config), damaged).unwrap();
    let error = store.read_image(&manifest, None).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::DigestMismatch { .. }), "{error:?}");
    assert_eq!(error.entry_path(), Some(config.as_str().as_bytes()), "it names the blob");

    // Too large, and refused before it is read: the file has no bytes on the disk.
    let huge = Digest::sha256(b"huge");
    fs::File::create(store.blob_path(&huge)).unwrap().set_len(1 << 40).unwrap();
    let huge = content_store::document::descriptor_from(&descriptor(MANIFEST, &huge, 1 << 40)).unwrap();
    assert!(matches!(kind(store.read_manifest(&huge)), ErrorKind::LimitExceeded { .. }));
    let large = json!({"schemaVersion": 2, "manifests": [], "x": "x".repeat(MAX_DOCUMENT as usize)});
    assert!(matches!(kind(store.put_document(INDEX, &large)), ErrorKind::LimitExceeded { .. }));
    fs::write(store.path().join("index.json"), large.to_string()).unwrap();
    assert!(matches!(kind(store.tags()), ErrorKind::LimitExceeded { .. }));
    // Nesting that would end a recursive reader.
    let deep = format!(r#"{{"schemaVersion":2,"manifests":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    fs::write(store.path().join("index.json"), deep).unwrap();
    assert_eq!(kind(store.tags()), ErrorKind::InvalidArchive);
}

#[test]
fn an_image_is_found_through_indexes() {
    let (_root, store) = store();
    let platform =
        |arch: &str| json!({"architecture": arch, "os": if arch == "unknown" { arch } else { "linux" }});
    let entry = |text: &str, arch: &str| {
        let mut entry = json!(image(&store, text).0);
        entry["platform"] = platform(arch);
        entry
    };
    let index = |manifests: Value| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let all = json!([entry("attestation", "unknown"), entry("intel", "amd64"), entry("arm", "arm64")]);
    let inner = store.put_document(INDEX, &index(all)).unwrap();
    let outer = store.put_document(INDEX, &index(json!([inner]))).unwrap();
    store.put_tag("v1", &outer).unwrap();
    let text = |platform: Option<&Value>| {
        let platform = platform.map(|value| serde_json::from_value(value.clone()).unwrap());
        let image = store.image("v1", platform.as_ref())?;
        Ok(store.info(&digest(&image.manifest.layers()[0])).unwrap().size)
    };
    assert_eq!(text(None).unwrap(), "intel".len() as u64, "the first that is for a platform");
    // An index without platforms around one with: looked into only when none is asked for.
    assert_eq!(kind(text(Some(&platform("arm64")))), ErrorKind::NotFound);
    store.put_tag("v1", &inner).unwrap();
    assert_eq!(text(Some(&platform("arm64"))).unwrap(), "arm".len() as u64);
    assert_eq!(kind(text(Some(&platform("s390x")))), ErrorKind::NotFound);

    let mut deep = inner;
    for _ in 0..10 {
        deep = store.put_document(INDEX, &index(json!([deep]))).unwrap();
    }
    assert!(matches!(kind(store.read_image(&deep, None)), ErrorKind::LimitExceeded { .. }));
}

#[test]
fn tagging_keeps_what_it_does_not_know() {
    let (_root, store) = store();
    let (one, _) = image(&store, "one");
    let (two, _) = image(&store, "two");
    let path = store.path().join("index.json");
    let foreign = json!({
        "schemaVersion": 2, "mediaType": INDEX, "vendor": {"deep": [1, {"b": null}]},
        "annotations": {"org.example": "kept"},
        "manifests": [
            {"mediaType": MANIFEST, "digest": one.digest(), "size": one.size(), "x-vendor": true},
            {"mediaType": MANIFEST, "digest": one.digest(), "size": one.size(),
             "annotations": {"org.opencontainers.image.ref.name": "v1", "other": "dropped with its entry"}},
        ],
    });
    fs::write(&path, foreign.to_string()).unwrap();
    assert_eq!(store.resolve("v1").unwrap().digest(), one.digest());
    store.put_tag("v1", &two).unwrap();
    store.put_tag("v2", &one).unwrap();
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(after["vendor"], foreign["vendor"]);
    assert_eq!(after["annotations"], foreign["annotations"]);
    assert_eq!(after["manifests"][0], foreign["manifests"][0], "an entry without a tag stays as it is");
    let tags: Vec<_> = store.tags().unwrap().into_iter().map(|entry| entry.tag).collect();
    assert_eq!(tags, [None, Some("v1".to_owned()), Some("v2".to_owned())]);
    assert_eq!(store.resolve("v1").unwrap().digest(), two.digest());
    store.remove_tag("v1").unwrap();
    assert_eq!(kind(store.resolve("v1")), ErrorKind::NotFound);
    assert_eq!(kind(store.remove_tag("v1")), ErrorKind::NotFound);
    assert_eq!(kind(store.put_tag("-", &one)), ErrorKind::InvalidArgument);
    let missing =
        content_store::document::descriptor_from(&descriptor(MANIFEST, &Digest::sha256(b"?"), 1)).unwrap();
    assert_eq!(kind(store.put_tag("v3", &missing)), ErrorKind::NotFound, "no tag for what is not there");
}

#[test]
fn one_tag_may_name_an_image_for_each_platform() {
    let (_root, store) = store();
    let platform = |arch: Arch| PlatformBuilder::default().architecture(arch).os(Os::Linux).build().unwrap();
    let tagged = |text: &str, arch: Arch| {
        let (mut manifest, _) = image(&store, text);
        manifest.set_platform(Some(platform(arch)));
        store.put_tag("v1", &manifest).unwrap();
        manifest
    };
    let intel = tagged("intel", Arch::Amd64);
    let arm = tagged("arm", Arch::ARM64);
    let newer = tagged("newer", Arch::Amd64);
    assert_eq!(store.tags().unwrap().len(), 2, "the newer replaces the older of its platform");
    let resolved = |arch| store.resolve_for("v1", Some(&platform(arch))).unwrap();
    assert_eq!(resolved(Arch::ARM64).digest(), arm.digest());
    assert_eq!(resolved(Arch::Amd64).digest(), newer.digest());
    assert_ne!(intel.digest(), newer.digest());
    assert_eq!(kind(store.resolve_for("v1", Some(&platform(Arch::s390x)))), ErrorKind::NotFound);
}

#[test]
fn tags_set_at_the_same_time_are_all_there() {
    let (_root, store) = store();
    let (manifest, _) = image(&store, "x");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, manifest) = (LocalStore::open(store.path()).unwrap(), &manifest);
            scope.spawn(move || store.put_tag(&format!("v{n}"), manifest).unwrap());
        }
    });
    assert_eq!(store.tags().unwrap().len(), 8);
}
