//! Blobs: media types, compressions, digests, processors, and everything that can be wrong with them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{self, Cursor, Read, Write},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use layer_model::{
    Digest, Error, ErrorKind, LayerSource, MediaType, Monitor, Result, Silent, Warning, digest::Algorithm,
};
use layer_tar::{
    BlobOptions, BlobSummary, BlobWriter, BlobWriterOptions, LayerBlob, LayerProcessor, ProcessorRead,
    ReadOptions,
    compress::{Codec, Gzip},
};
use support::{END, drain, file};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// A compressed frame with a checksum, of `hello hello hello hello hello\n`, as `zstd -19` makes it.
const ZSTD_FRAME: &[u8] =
    b"\x28\xb5\x2f\xfd\x04\x68\x6d\x00\x00\x38\x68\x65\x6c\x6c\x6f\x20\x0a\x01\x00\xa9\x4b\x11\x1a\x48\x72\xab";

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn layer() -> Vec<u8> {
    [file("a", b"first"), file("noise", &noise(200_000)), file("zeros", &[0; 700_000]), END.to_vec()].concat()
}

fn pack(content: &[u8], codec: impl Codec) -> Vec<u8> {
    let mut writer = BlobWriter::new(Vec::new(), codec, BlobWriterOptions::default().jobs(2)).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap().0
}

fn gzip(content: &[u8]) -> Vec<u8> {
    pack(content, Gzip::default())
}

/// zstd without compression: raw blocks, in frames of the size that `single_segment` says.
fn raw_zstd(content: &[u8]) -> Vec<u8> {
    // No checksum, a window of 1 MiB.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    let mut blocks = content.chunks(100_000).peekable();
    while let Some(block) = blocks.next() {
        let header = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}

fn skippable(payload: &[u8]) -> Vec<u8> {
    [&[0x5a, 0x2a, 0x4d, 0x18][..], &(payload.len() as u32).to_le_bytes(), payload].concat()
}

fn open<'m>(
    blob: &[u8],
    media_type: &str,
    options: BlobOptions,
    monitor: &'m dyn Monitor,
) -> Result<LayerBlob<'m>> {
    LayerBlob::open(Cursor::new(blob.to_vec()), &media_type.parse().unwrap(), options, monitor)
}

fn content(blob: &[u8], media_type: &str, options: BlobOptions) -> Result<(Vec<u8>, BlobSummary)> {
    let mut blob = open(blob, media_type, options, &Silent)?;
    let mut out = Vec::new();
    while let Some(chunk) = blob.next_chunk()? {
        out.extend_from_slice(&chunk);
    }
    Ok((out, blob.summary().unwrap().clone()))
}

fn kind(blob: &[u8], media_type: &str, options: BlobOptions) -> ErrorKind {
    content(blob, media_type, options).unwrap_err().kind().clone()
}

fn each_jobs() -> impl Iterator<Item = BlobOptions> {
    (1..=4).map(|jobs| BlobOptions::default().jobs(jobs))
}

#[test]
fn a_blob_gives_its_content_and_both_digests() {
    let tar = layer();
    for (media_type, blob) in
        [(TAR, tar.clone()), (GZIP, gzip(&tar)), (ZSTD, raw_zstd(&tar)), (DOCKER, gzip(&tar))]
    {
        for options in each_jobs() {
            let options = options
                .expect_digest(Some(Digest::sha256(&blob)))
                .expect_size(Some(blob.len() as u64))
                .expect_diff_id(Some(Digest::sha256(&tar)));
            let (out, summary) = content(&blob, media_type, options).unwrap();
            assert!(out == tar, "{media_type}");
            assert_eq!((summary.digest, summary.size), (Digest::sha256(&blob), blob.len() as u64));
            assert_eq!((summary.diff_id, summary.diff_size), (Digest::sha256(&tar), tar.len() as u64));
            assert_eq!(summary.media_type.as_str(), media_type);
        }
    }
}

#[test]
fn digests_of_other_algorithms_are_checked_too() {
    let tar = layer();
    let digest = |bytes: &[u8]| layer_tar::blob::digest(bytes, Algorithm::Sha512, &Silent).unwrap().0;
    for (media_type, blob) in [(TAR, tar.clone()), (GZIP, gzip(&tar))] {
        let options = BlobOptions::default().expect_digest(Some(digest(&blob)));
        let (_, summary) = content(&blob, media_type, options).unwrap();
        assert_eq!((summary.digest, summary.diff_id), (digest(&blob), Digest::sha256(&tar)));
    }
    let unknown = BlobOptions::default().expect_digest(Some("blake2b:00".parse().unwrap()));
    assert_eq!(kind(&tar, TAR, unknown), ErrorKind::NotSupported);
}

#[test]
fn a_wrong_digest_or_size_is_found_by_the_end() {
    let tar = layer();
    let blob = gzip(&tar);
    let other = Digest::sha256(b"other");
    for options in each_jobs() {
        let wrong = kind(&blob, GZIP, options.clone().expect_digest(Some(other.clone())));
        assert_eq!(wrong, ErrorKind::DigestMismatch { expected: other.clone(), got: Digest::sha256(&blob) });
        let wrong = kind(&blob, GZIP, options.clone().expect_diff_id(Some(other.clone())));
        assert_eq!(wrong, ErrorKind::DigestMismatch { expected: other.clone(), got: Digest::sha256(&tar) });
        for size in [0, blob.len() as u64 - 1, blob.len() as u64 + 1] {
            let wrong = kind(&blob, GZIP, options.clone().expect_size(Some(size)));
            assert_eq!(wrong, ErrorKind::SizeMismatch { expected: size, got: blob.len() as u64 });
        }
        let source = open(&blob, GZIP, options.expect_digest(Some(other.clone())), &Silent).unwrap();
        let mut source = source.into_source(ReadOptions::default()).unwrap();
        assert!(matches!(drain(&mut source).unwrap_err().kind(), ErrorKind::DigestMismatch { .. }));
        assert!(source.next_change().is_err() && source.summary().is_none());
    }
}

#[test]
fn a_source_has_checked_everything_when_it_ends() {
    let tar = [layer(), b"more bytes behind the end".to_vec()].concat();
    let blob = gzip(&tar);
    let mut source = open(&blob, GZIP, BlobOptions::default(), &Silent)
        .unwrap()
        .into_source(ReadOptions::default())
        .unwrap();
    assert!(source.summary().is_none());
    assert_eq!(drain(&mut source).unwrap(), 3);
    let summary = source.summary().unwrap();
    assert_eq!((&summary.diff_id, summary.diff_size), (&Digest::sha256(&tar), tar.len() as u64));
    assert_eq!(source.position(), tar.len() as u64);
}

#[derive(Default)]
struct Log {
    warnings: Mutex<Vec<String>>,
    bytes: AtomicU64,
    stop_at: Option<u64>,
}

impl Monitor for Log {
    fn warn(&self, warning: &Warning<'_>) {
        self.warnings.lock().unwrap().push(warning.to_string());
    }

    fn bytes(&self, n: u64) {
        self.bytes.fetch_add(n, Ordering::Relaxed);
    }

    fn should_stop(&self) -> bool {
        self.stop_at.is_some_and(|at| self.bytes.load(Ordering::Relaxed) >= at)
    }
}

#[test]
fn the_bytes_decide_about_compression_and_the_type_about_the_rest() {
    let tar = layer();
    for (media_type, blob, warned) in [
        (GZIP, raw_zstd(&tar), true),
        (GZIP, tar.clone(), true),
        (ZSTD, gzip(&tar), true),
        (GZIP, gzip(&tar), false),
        (DOCKER, gzip(&tar), false),
        (DOCKER, raw_zstd(&tar), false),
        (DOCKER, tar.clone(), false),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", tar.clone(), false),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", gzip(&tar), false),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gzip(&tar), false),
    ] {
        let log = Log::default();
        let summary = open(&blob, media_type, BlobOptions::default(), &log).unwrap().finish().unwrap();
        assert_eq!(summary.diff_id, Digest::sha256(&tar), "{media_type}");
        assert_eq!(log.warnings.lock().unwrap().len(), usize::from(warned), "{media_type}");
        let strict = content(&blob, media_type, BlobOptions::default().strict_media_type(true));
        assert_eq!(strict.is_err(), warned, "{media_type}");
        assert_eq!(log.bytes.load(Ordering::Relaxed), blob.len() as u64);
    }
    // The plain type promises a tar, and gzip is none.
    let source =
        open(&gzip(&tar), TAR, BlobOptions::default(), &Silent).unwrap().into_source(ReadOptions::default());
    assert_eq!(drain(&mut source.unwrap()).unwrap_err().kind(), &ErrorKind::InvalidArchive);
    // Four bytes of a skippable frame are not enough to be one.
    let source = open(b"\x50\x2a\x4d\x18", ZSTD, BlobOptions::default(), &Silent)
        .unwrap()
        .into_source(ReadOptions::default());
    assert_eq!(drain(&mut source.unwrap()).unwrap_err().kind(), &ErrorKind::Truncated);
}

#[test]
fn types_that_lead_nowhere_are_named() {
    for (media_type, named) in [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.oci.image.layer.v1.tar+foo", "foo"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", "encrypted"),
        ("application/vnd.oci.image.config.v1+json", "config"),
        ("application/vnd.erofs.layer.v1+gzip", "EROFS"),
    ] {
        let error = content(b"", media_type, BlobOptions::default()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::UnsupportedMediaType, "{media_type}");
        assert!(error.to_string().contains(named), "{error}");
    }
    // Compression outside encryption comes off, then there is no way on.
    let error =
        content(&gzip(b"x"), "application/vnd.oci.image.layer.v1.tar+encrypted+gzip", BlobOptions::default());
    assert!(error.unwrap_err().to_string().contains("encrypted"));
}

#[test]
fn erofs_images_come_out_as_bytes_and_are_no_tar() {
    let image = vec![0xe0; 5000];
    for (media_type, blob) in [
        ("application/vnd.erofs.layer.v1", image.clone()),
        ("application/vnd.erofs.layer.v1+zstd", raw_zstd(&image)),
        ("application/vnd.erofs.layer.v1+gzip", gzip(&image)),
        ("application/vnd.example.layer.erofs", image.clone()),
    ] {
        let options = BlobOptions::default().erofs_gzip(true);
        let (out, summary) = content(&blob, media_type, options.clone()).unwrap();
        assert!(out == image, "{media_type}");
        assert_eq!(summary.diff_id, Digest::sha256(&image));
        let refused = open(&blob, media_type, options, &Silent).unwrap().into_source(ReadOptions::default());
        assert_eq!(refused.unwrap_err().kind(), &ErrorKind::UnsupportedMediaType);
    }
}

#[test]
fn gzip_members_are_one_stream_and_headers_are_skipped() {
    let tar = layer();
    let (left, right) = tar.split_at(700);
    let both = [gzip(left), gzip(right)].concat();
    assert!(content(&both, GZIP, BlobOptions::default()).unwrap().0 == tar);
    // Extra field, name, comment, header checksum.
    let plain = gzip(b"content");
    let named = [
        &[0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 1, 2, 3, 4, 0, 3][..],
        &[3, 0, 1, 2, 3],
        b"name\0comment\0",
        &[0xaa, 0xbb],
        &plain[10..],
    ];
    let named = [named.concat(), gzip(b""), named.concat()].concat();
    for options in each_jobs() {
        assert_eq!(content(&named, GZIP, options).unwrap().0, b"contentcontent");
    }
}

#[test]
fn nul_bytes_may_follow_the_last_gzip_member_and_nothing_else() {
    let blob = gzip(b"content");
    for (tail, want) in [
        (&[0; 1024][..], None),
        (b"\0", None),
        (b"junk", Some(ErrorKind::InvalidArchive)),
        (b"\0\0junk", Some(ErrorKind::InvalidArchive)),
        (b"\x1f\x8b\x09aaaaaaaaaaaaaa", Some(ErrorKind::InvalidArchive)),
        (b"\x1f\x8b\x08", Some(ErrorKind::Truncated)),
        (b"\x1f", Some(ErrorKind::Truncated)),
    ] {
        let whole = [&blob, tail].concat();
        let result = content(&whole, GZIP, BlobOptions::default());
        assert_eq!(result.as_ref().err().map(|error| error.kind().clone()), want, "{tail:?}");
        if let Ok((_, summary)) = result {
            assert_eq!((summary.size, summary.digest), (whole.len() as u64, Digest::sha256(&whole)));
        }
    }
}

#[test]
fn tar_in_a_second_member_behind_the_end_is_hashed_but_not_seen() {
    let clean = [file("a", b"x"), END.to_vec()].concat();
    let extra = [file("hidden", b"x"), END.to_vec()].concat();
    let blob = [gzip(&clean), gzip(&extra)].concat();
    let mut source = open(&blob, GZIP, BlobOptions::default(), &Silent)
        .unwrap()
        .into_source(ReadOptions::default())
        .unwrap();
    assert_eq!(drain(&mut source).unwrap(), 1);
    assert_eq!(source.summary().unwrap().diff_id, Digest::sha256([clean, extra].concat()));
}

#[test]
fn zstd_frames_may_be_many_and_skippable_ones_between() {
    let tar = layer();
    let (left, right) = tar.split_at(700);
    let blob =
        [skippable(b"first"), raw_zstd(left), skippable(b""), raw_zstd(right), skippable(&[7; 300_000])]
            .concat();
    for options in each_jobs() {
        let (out, summary) = content(&blob, ZSTD, options).unwrap();
        assert!(out == tar);
        assert_eq!(summary.size, blob.len() as u64);
    }
    for junk in [&b"junk and more"[..], b"\0\0\0\0\0\0\0\0"] {
        assert_eq!(kind(&[&blob, junk].concat(), ZSTD, BlobOptions::default()), ErrorKind::InvalidArchive);
    }
}

#[test]
fn zstd_checksums_are_checked() {
    let mut blob = ZSTD_FRAME.to_vec();
    let (out, _) = content(&blob, ZSTD, BlobOptions::default()).unwrap();
    assert_eq!(out, b"hello hello hello hello hello\n");
    let last = blob.len() - 1;
    blob[last] ^= 1;
    assert_eq!(kind(&blob, ZSTD, BlobOptions::default()), ErrorKind::InvalidArchive);
}

#[test]
fn zstd_windows_have_a_limit() {
    let limit = ErrorKind::LimitExceeded { limit: "max_window" };
    let mut blob = raw_zstd(&[7; 5000]);
    blob[5] = 21 << 3;
    assert_eq!(kind(&blob, ZSTD, BlobOptions::default()), limit, "2 GiB");
    blob[5] = 17 << 3 | 1;
    assert_eq!(kind(&blob, ZSTD, BlobOptions::default()), limit, "144 MiB");
    blob[5] = 17 << 3;
    assert!(content(&blob, ZSTD, BlobOptions::default()).is_ok(), "128 MiB");
    assert_eq!(kind(&blob, ZSTD, BlobOptions::default().max_window(1 << 20)), limit);
}

#[test]
fn a_bomb_meets_the_limit() {
    let bomb = gzip(&vec![0; 10 << 20]);
    assert!(bomb.len() < 64 << 10);
    for options in each_jobs() {
        let error = content(&bomb, GZIP, options.max_total_size(1 << 20)).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::LimitExceeded { limit: "max_total_size" });
        assert_eq!(error.byte_offset(), Some(1 << 20));
    }
}

#[test]
fn every_cut_and_every_damage_of_a_blob_is_an_error() {
    let tar = [file("a", &[b'x'; 3000]), END.to_vec()].concat();
    for (media_type, blob) in [(GZIP, gzip(&tar)), (ZSTD, raw_zstd(&tar))] {
        for end in 1..blob.len() {
            let kind = content(&blob[..end], media_type, BlobOptions::default().jobs(1))
                .err()
                .map(|e| e.kind().clone());
            // So short a head is no compression at all, which the tar reader will refuse.
            assert!(end < 4 || kind == Some(ErrorKind::Truncated), "{media_type} {end} {kind:?}");
        }
        let expected = BlobOptions::default().jobs(1).expect_digest(Some(Digest::sha256(&blob)));
        for at in 0..blob.len() {
            let mut damaged = blob.clone();
            damaged[at] ^= 0x10;
            let result = content(&damaged, media_type, expected.clone());
            assert!(result.is_err(), "{media_type} {at}");
        }
    }
}

#[test]
fn a_stream_that_breaks_off_ends_the_writer_that_feeds_it() {
    for jobs in 1..=4 {
        let (reader, mut writer) = io::pipe().unwrap();
        let feeder = std::thread::spawn(move || {
            let mut bad = gzip(&layer())[..2000].to_vec();
            bad.extend_from_slice(&[0xff; 300_000]);
            // Ends when the reading side is gone: nobody reads that much.
            while writer.write_all(&bad).is_ok() {}
        });
        let start = Instant::now();
        let media_type: MediaType = GZIP.parse().unwrap();
        let blob = LayerBlob::open(reader, &media_type, BlobOptions::default().jobs(jobs), &Silent).unwrap();
        let error = drain(&mut blob.into_source(ReadOptions::default()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{error:?}");
        assert!(error.byte_offset().is_some());
        feeder.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_blob_dropped_early_ends_its_threads_even_when_the_input_stalls() {
    for jobs in 1..=4 {
        let start = Instant::now();
        let blob = open(&gzip(&vec![0; 20 << 20]), GZIP, BlobOptions::default().jobs(jobs), &Silent).unwrap();
        drop(blob);
        let (reader, mut writer) = io::pipe().unwrap();
        let packed = gzip(&noise(2 << 20));
        let feeder = std::thread::spawn(move || {
            // Fails when the blob is dropped before it has read that much.
            let _ = writer.write_all(&packed[..packed.len() - 10]);
            writer
        });
        let media_type: MediaType = GZIP.parse().unwrap();
        let mut blob =
            LayerBlob::open(Stalling(reader), &media_type, BlobOptions::default().jobs(jobs), &Silent);
        if jobs > 1 {
            assert!(blob.as_mut().unwrap().next_chunk().unwrap().is_some());
        }
        drop(blob);
        drop(feeder.join().unwrap());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

/// A pipe that gives what is there at once, as a slow network does.
struct Stalling(io::PipeReader);

impl Read for Stalling {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

#[test]
fn a_cancelled_blob_is_an_error() {
    let blob = gzip(&layer().repeat(20));
    let log = Log { stop_at: Some(1), ..Log::default() };
    let error = open(&blob, GZIP, BlobOptions::default(), &log).unwrap().finish().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Cancelled);
}

/// A reader that fails after some bytes.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the network is gone"));
        }
        let n = buf.len().min(self.0);
        buf[..n].fill(0);
        self.0 -= n;
        Ok(n)
    }
}

#[test]
fn errors_of_the_reader_arrive() {
    for options in each_jobs() {
        let blob = LayerBlob::open(Failing(5 << 20), &MediaType::layer_tar(), options, &Silent).unwrap();
        let error = blob.finish().unwrap_err();
        assert!(error.chain().contains("the network is gone"), "{error:?}");
    }
}

/// Adds 13 to every byte, and checks at the end that a mark stood there.
#[derive(Debug)]
struct Shift;

struct Shifted {
    input: Box<dyn Read + Send>,
    last: u8,
}

impl LayerProcessor for Shift {
    fn accepts(&self, media_type: &MediaType) -> Option<MediaType> {
        media_type.as_str().strip_suffix("+shift").map(|inner| inner.parse().unwrap())
    }

    fn wrap(&self, input: Box<dyn Read + Send>) -> Result<Box<dyn ProcessorRead>> {
        Ok(Box::new(Shifted { input, last: 0 }))
    }
}

impl Read for Shifted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        for byte in &mut buf[..n] {
            *byte = byte.wrapping_add(13);
            self.last = *byte;
        }
        Ok(n)
    }
}

impl ProcessorRead for Shifted {
    fn finish(self: Box<Self>) -> Result<()> {
        if self.last == 0 {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::InvalidArchive, "the mark is missing"))
        }
    }
}

fn shifted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|b| b.wrapping_sub(13)).collect()
}

#[test]
fn processors_take_off_what_they_know_and_may_fail_late() {
    let tar = layer();
    for (media_type, blob) in [
        (format!("{TAR}+shift"), shifted(&tar)),
        (format!("{GZIP}+shift"), shifted(&[&gzip(&tar)[..], &[0; 600]].concat())),
        (format!("{TAR}+shift+gzip"), gzip(&shifted(&tar))),
    ] {
        for options in each_jobs() {
            let (out, summary) = content(&blob, &media_type, options.processor(Shift)).unwrap();
            assert!(out == tar, "{media_type}");
            assert_eq!(summary.digest, Digest::sha256(&blob));
        }
        assert_eq!(kind(&blob, &media_type, BlobOptions::default()), ErrorKind::UnsupportedMediaType);
    }
    let unmarked = shifted(&[&tar[..], b"x"].concat());
    let source = open(&unmarked, &format!("{TAR}+shift"), BlobOptions::default().processor(Shift), &Silent);
    let error = drain(&mut source.unwrap().into_source(ReadOptions::default()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("the mark is missing"), "{error}");
    let endless = format!("{TAR}{}", "+shift".repeat(9));
    assert_eq!(
        kind(&tar, &endless, BlobOptions::default().processor(Shift)),
        ErrorKind::UnsupportedMediaType
    );
}

#[test]
fn an_empty_blob_is_an_empty_layer() {
    for media_type in [TAR, GZIP, ZSTD, DOCKER] {
        let mut source = open(b"", media_type, BlobOptions::default(), &Silent)
            .unwrap()
            .into_source(ReadOptions::default())
            .unwrap();
        assert_eq!(drain(&mut source).unwrap(), 0);
        assert_eq!(source.summary().unwrap().diff_id, Digest::sha256(b""));
    }
}

#[test]
fn a_tee_gets_all_of_the_content_and_may_end_it() {
    use std::io::Read;
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &content).unwrap();
        encoder.finish().unwrap()
    };
    let open = |blob: Vec<u8>| {
        let media_type = layer_model::MediaType::layer_tar_detected();
        LayerBlob::open(std::io::Cursor::new(blob), &media_type, BlobOptions::default(), &layer_model::Silent)
            .unwrap()
    };
    for blob in [gzip.clone(), content.clone()] {
        let mut seen = Vec::new();
        let mut read = Vec::new();
        {
            let mut blob = open(blob).tee(|piece| {
                seen.extend_from_slice(piece);
                Ok(())
            });
            blob.read_to_end(&mut read).unwrap();
        }
        assert!(seen == content && read == content);
    }
    let full = || layer_model::Error::new(layer_model::ErrorKind::Unavailable, "no more");
    let error = open(gzip).tee(|_| Err(full())).finish().unwrap_err();
    assert_eq!(error.kind(), &layer_model::ErrorKind::Unavailable);
}
