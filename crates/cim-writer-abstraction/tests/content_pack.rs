//! Packs: blobs in one file, found by digest, and what happens to damaged ones.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{fs, path::Path};

use cim_writer_abstraction::content::{BlobSink, Blobs, ContentPack, EMPTY_SHA256, HashOnly, PackWriter};
use layer_model::{Error, ErrorKind};
use proptest::prelude::*;

fn put(sink: &mut dyn BlobSink, bytes: &[u8]) -> [u8; 32] {
    put_in_pieces(sink, bytes, bytes.len().max(1))
}

fn put_in_pieces(sink: &mut dyn BlobSink, bytes: &[u8], piece: usize) -> [u8; 32] {
    sink.begin(bytes.len() as u64).expect("begin");
    for piece in bytes.chunks(piece) {
        sink.write(piece).expect("write");
    }
    sink.end().expect("end")
}

fn get(pack: &ContentPack, sha256: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::new();
    let blob = pack.open(sha256).expect("a blob");
    blob.read_verified(sha256, &mut |bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    })
    .expect("undamaged");
    out
}

fn kind<T>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.kind().clone(),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn equal_bytes_are_kept_once() {
    let at = tempfile::tempdir().unwrap();
    let dir = at.path().join("p");
    let mut pack = PackWriter::create(&dir).unwrap();
    let large: Vec<u8> = (0..1_500_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let first = put(&mut pack, &large);
    let size = pack.size();
    assert_eq!(put_in_pieces(&mut pack, &large, 70_000), first);
    assert_eq!(pack.size(), size);
    let small = put(&mut pack, b"small");
    assert_eq!(put(&mut pack, b"small"), small);
    assert_eq!(put(&mut pack, b""), EMPTY_SHA256);
    assert_eq!((pack.blobs(), pack.size()), (2, size + 5));
    let pack = pack.finish(true).unwrap();
    assert_eq!(fs::metadata(dir.join("content.pack")).unwrap().len(), size + 5);
    assert_eq!(pack.len(), 2);
    assert_eq!(get(&pack, &first), large);
    assert_eq!(get(&pack, &small), b"small");
    assert_eq!(get(&pack, &EMPTY_SHA256), b"");
    assert_eq!(kind(pack.open(&[1; 32])), ErrorKind::NotFound);
    pack.verify().unwrap();
    assert_eq!(names(&dir), ["content.index", "content.pack"]);
}

#[test]
fn a_stream_that_is_given_up_leaves_nothing() {
    let at = tempfile::tempdir().unwrap();
    let mut pack = PackWriter::create(at.path().join("p")).unwrap();
    let before = put(&mut pack, b"before");
    for size in [3, 2_000_000] {
        pack.begin(0).unwrap();
        pack.write(&vec![7; size]).unwrap();
        pack.cancel().unwrap();
    }
    // Neither cancelled nor ended.
    pack.begin(0).unwrap();
    pack.write(&[8; 100]).unwrap();
    let after = put(&mut pack, b"after");
    pack.begin(0).unwrap();
    pack.write(&[9; 700_000]).unwrap();
    let pack = pack.finish(false).unwrap();
    assert_eq!(get(&pack, &before), b"before");
    assert_eq!(get(&pack, &after), b"after");
    assert_eq!(fs::metadata(at.path().join("p/content.pack")).unwrap().len(), 16 + 6 + 5);
}

#[test]
fn a_pack_that_is_not_finished_is_not_there() {
    let at = tempfile::tempdir().unwrap();
    let dir = at.path().join("p");
    let mut pack = PackWriter::create(&dir).unwrap();
    put(&mut pack, b"x");
    assert_eq!(kind(PackWriter::create(&dir)), ErrorKind::Exists);
    assert_eq!(kind(ContentPack::open(&dir)), ErrorKind::NotFound);
    drop(pack);
    assert!(!dir.exists());
}

#[test]
fn the_same_streams_give_the_same_files() {
    let at = tempfile::tempdir().unwrap();
    let files = |name: &str, piece| {
        let dir = at.path().join(name);
        let mut pack = PackWriter::create(&dir).unwrap();
        for n in 0..50_u8 {
            put_in_pieces(&mut pack, &vec![n; usize::from(n) * 5000], piece);
        }
        pack.finish(false).unwrap();
        ["content.pack", "content.index"].map(|name| fs::read(dir.join(name)).unwrap())
    };
    assert_eq!(files("a", 1_000_000), files("b", 999));
}

/// A pack with two blobs, and one of their digests.
fn two(at: &Path) -> [u8; 32] {
    let mut pack = PackWriter::create(at).unwrap();
    put(&mut pack, b"first");
    let sha256 = put(&mut pack, b"second");
    pack.finish(false).unwrap();
    sha256
}

#[test]
fn damaged_packs_say_what_is_wrong() {
    let at = tempfile::tempdir().unwrap();
    let dir = at.path().join("p");
    let sha256 = two(&dir);
    let (pack, index) = (dir.join("content.pack"), dir.join("content.index"));
    let (pack_bytes, index_bytes) = (fs::read(&pack).unwrap(), fs::read(&index).unwrap());

    // A bit in a blob is seen when it is read to be checked.
    let mut bytes = pack_bytes.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&pack, &bytes).unwrap();
    let opened = ContentPack::open(&dir).unwrap();
    assert!(matches!(kind(opened.verify()), ErrorKind::DigestMismatch { .. }));
    let blob = opened.open(&sha256).unwrap();
    assert!(matches!(kind(blob.read_verified(&sha256, &mut |_| Ok(()))), ErrorKind::DigestMismatch { .. }));

    fs::write(&pack, &pack_bytes[..pack_bytes.len() - 1]).unwrap();
    assert_eq!(kind(ContentPack::open(&dir)), ErrorKind::Truncated);
    fs::write(&pack, [&pack_bytes[..], b"more"].concat()).unwrap();
    assert!(matches!(kind(ContentPack::open(&dir)), ErrorKind::SizeMismatch { .. }));
    let mut bytes = pack_bytes.clone();
    bytes[0] ^= 1;
    fs::write(&pack, &bytes).unwrap();
    assert_eq!(kind(ContentPack::open(&dir)), ErrorKind::CorruptImage);
    fs::remove_file(&pack).unwrap();
    assert_eq!(kind(ContentPack::open(&dir)), ErrorKind::NotFound);
    fs::write(&pack, &pack_bytes).unwrap();

    for len in 0..index_bytes.len() {
        fs::write(&index, &index_bytes[..len]).unwrap();
        let error = ContentPack::open(&dir).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Truncated, "{len}");
        assert!(error.to_string().contains("content.index"), "{error}");
    }
    for at in 0..index_bytes.len() {
        let mut bytes = index_bytes.clone();
        bytes[at] ^= 0x10;
        fs::write(&index, &bytes).unwrap();
        assert!(ContentPack::open(&dir).is_err(), "bit in byte {at}");
    }
    fs::write(&index, &index_bytes).unwrap();
    ContentPack::open(&dir).unwrap().verify().unwrap();
}

#[test]
fn an_index_that_lies_with_a_good_digest_is_refused() {
    use sha2::{Digest as _, Sha256};
    let at = tempfile::tempdir().unwrap();
    let dir = at.path().join("p");
    two(&dir);
    let index = dir.join("content.index");
    let good = fs::read(&index).unwrap();
    let lie = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good[..good.len() - 32].to_vec();
        change(&mut bytes);
        let check: [u8; 32] = Sha256::digest(&bytes).into();
        bytes.extend_from_slice(&check);
        fs::write(&index, &bytes).unwrap();
        kind(ContentPack::open(&dir))
    };
    // Offset of the first blob: in the header, past the end, past everything.
    assert_eq!(lie(&|b| b[64..72].copy_from_slice(&0_u64.to_le_bytes())), ErrorKind::CorruptImage);
    assert_eq!(lie(&|b| b[64..72].copy_from_slice(&26_u64.to_le_bytes())), ErrorKind::CorruptImage);
    assert_eq!(lie(&|b| b[64..72].copy_from_slice(&u64::MAX.to_le_bytes())), ErrorKind::CorruptImage);
    assert_eq!(lie(&|b| b[72..80].copy_from_slice(&u64::MAX.to_le_bytes())), ErrorKind::CorruptImage);
    // Entries in descending order, the number of entries.
    assert_eq!(lie(&|b| b[32..128].rotate_left(48)), ErrorKind::CorruptImage);
    assert_eq!(lie(&|b| b[24..32].copy_from_slice(&1_u64.to_le_bytes())), ErrorKind::CorruptImage);
    assert_eq!(lie(&|b| b[24..32].copy_from_slice(&u64::MAX.to_le_bytes())), ErrorKind::Truncated);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_put_in_comes_out(
        blobs in prop::collection::vec((any::<u8>(), 0_usize..600_000, 1_usize..400_000, any::<bool>()), 1..12),
    ) {
        let at = tempfile::tempdir().unwrap();
        let mut pack = PackWriter::create(at.path().join("p")).unwrap();
        let mut expected = Vec::new();
        for (seed, size, piece, keep) in blobs {
            let bytes: Vec<u8> = (0..size).map(|n| (n / 1000) as u8 ^ (seed % 4)).collect();
            if keep {
                let sha256 = put_in_pieces(&mut pack, &bytes, piece);
                prop_assert_eq!(sha256, put(&mut HashOnly::default(), &bytes));
                expected.push((sha256, bytes));
            } else {
                pack.begin(0).unwrap();
                for piece in bytes.chunks(piece) {
                    pack.write(piece).unwrap();
                }
                pack.cancel().unwrap();
            }
        }
        let pack = pack.finish(false).unwrap();
        for (sha256, bytes) in expected {
            prop_assert_eq!(get(&pack, &sha256), bytes);
        }
        pack.verify().unwrap();
    }
}
