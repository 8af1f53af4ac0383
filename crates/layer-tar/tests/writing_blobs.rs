//! Blobs as they are written: the same bytes whatever the threads, both digests right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{self, Cursor, Write};

use layer_model::{Digest, ErrorKind, MediaType, Result, Silent, digest::Algorithm};
use layer_tar::{
    BlobOptions, BlobSummary, BlobWriter, BlobWriterOptions, LayerBlob,
    compress::{BlockEncoder, Codec, Gzip, Plain},
};

fn content(len: usize) -> Vec<u8> {
    let words = ["layer", "change", "whiteout", "opaque", "upper", "lower", "\0\0\0\0", "\n"];
    let mut state = 1_u32;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(words[(state >> 29) as usize].as_bytes());
    }
    out.truncate(len);
    out
}

fn pack(content: &[u8], codec: impl Codec, jobs: usize, piece: usize) -> (Vec<u8>, BlobSummary) {
    let mut writer = BlobWriter::new(Vec::new(), codec, BlobWriterOptions::default().jobs(jobs)).unwrap();
    for piece in content.chunks(piece) {
        writer.write_all(piece).unwrap();
        writer.flush().unwrap();
    }
    writer.finish().unwrap()
}

fn unpack(blob: &[u8], media_type: &MediaType) -> Result<BlobSummary> {
    LayerBlob::open(
        Cursor::new(blob.to_vec()),
        media_type,
        BlobOptions::default().strict_media_type(true),
        &Silent,
    )?
    .finish()
}

fn codecs() -> Vec<Box<dyn Codec>> {
    vec![
        Box::new(Plain),
        Box::new(Gzip::default()),
        Box::new(Gzip::new(1)),
        #[cfg(feature = "libdeflate")]
        Box::new(Gzip::default().with_libdeflate()),
        #[cfg(feature = "zstd")]
        Box::new(layer_tar::compress::Zstd::default()),
    ]
}

#[test]
fn the_bytes_depend_on_the_content_and_the_codec_alone() {
    let content = content(5 << 20);
    for index in 0..codecs().len() {
        let codec = || codecs().swap_remove(index);
        let (blob, summary) = pack(&content, codec(), 1, 1 << 30);
        for (jobs, piece) in [(2, 1 << 30), (3, 100_003), (8, 5 << 20)] {
            let (other, again) = pack(&content, codec(), jobs, piece);
            assert!(other == blob, "{:?} with {jobs} threads", codec());
            assert_eq!(again, summary);
        }
        assert_eq!((&summary.digest, summary.size), (&Digest::sha256(&blob), blob.len() as u64));
        assert_eq!((&summary.diff_id, summary.diff_size), (&Digest::sha256(&content), content.len() as u64));
        assert_eq!(unpack(&blob, &summary.media_type).unwrap(), summary);
    }
}

#[test]
fn one_content_has_one_diff_id_and_a_digest_for_each_compression() {
    let content = content(100_000);
    let summaries: Vec<_> = codecs().into_iter().map(|codec| pack(&content, codec, 2, 1000).1).collect();
    for (at, summary) in summaries.iter().enumerate() {
        assert_eq!(summary.diff_id, Digest::sha256(&content));
        assert!(summaries[..at].iter().all(|other| other.digest != summary.digest));
    }
}

#[test]
fn sizes_at_the_edges_of_blocks_are_whole() {
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        for codec in codecs() {
            let content = content(len);
            let (blob, summary) = pack(&content, codec, 2, 1 << 19);
            assert_eq!(unpack(&blob, &summary.media_type).unwrap(), summary);
            assert!(summary.media_type.is_plain_layer_tar() || !blob.is_empty());
        }
    }
}

#[test]
fn other_digests_and_types_can_be_had() {
    let options = BlobWriterOptions::default()
        .algorithm(Algorithm::Sha512)
        .media_type(Some("application/vnd.docker.image.rootfs.diff.tar.gzip".parse().unwrap()));
    let (blob, summary) = BlobWriter::new(Vec::new(), Gzip::default(), options).unwrap().finish().unwrap();
    assert_eq!(summary.digest, layer_tar::blob::digest(&blob[..], Algorithm::Sha512, &Silent).unwrap().0);
    assert!(summary.media_type.as_str().ends_with("diff.tar.gzip"));
}

#[test]
fn levels_that_do_not_exist_are_refused_at_once() {
    for jobs in [1, 2] {
        let options = BlobWriterOptions::default().jobs(jobs);
        let refused = BlobWriter::new(Vec::new(), Gzip::new(13), options).unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::InvalidArgument);
    }
}

/// A target without room.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let n = bytes.len().min(self.0);
        self.0 -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_target_is_an_error_and_stays_one() {
    let content = content(6 << 20);
    for jobs in [1, 2, 4] {
        for codec in codecs() {
            let mut writer =
                BlobWriter::new(Full(100_000), codec, BlobWriterOptions::default().jobs(jobs)).unwrap();
            let error = match writer.write_all(&content) {
                Ok(()) => writer.finish().map(|_| ()).unwrap_err(),
                Err(error) => {
                    assert!(writer.write_all(b"more").is_err());
                    assert!(writer.finish().is_err());
                    layer_model::Error::io("write", error)
                }
            };
            assert!(error.chain().contains("no storage space"), "{}", error.chain());
        }
    }
}

/// A codec that fails, or panics, in its second block.
#[derive(Debug)]
struct Broken {
    panics: bool,
}

struct BrokenEncoder {
    panics: bool,
    blocks: u32,
}

impl Codec for Broken {
    fn media_type(&self) -> MediaType {
        MediaType::layer_tar()
    }

    fn block_len(&self) -> usize {
        10
    }

    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>> {
        Ok(Some(Box::new(BrokenEncoder { panics: self.panics, blocks: 0 })))
    }
}

impl BlockEncoder for BrokenEncoder {
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        self.blocks += 1;
        assert!(!self.panics || self.blocks < 2, "this codec is made to panic");
        if self.blocks == 2 {
            return Err(layer_model::Error::new(ErrorKind::NotSupported, "this codec is made to fail"));
        }
        out.clear();
        out.extend_from_slice(block);
        Ok(block.len())
    }
}

#[test]
fn a_codec_that_breaks_is_an_error_and_no_deadlock() {
    for (panics, jobs) in [(false, 1), (false, 2), (false, 5), (true, 2), (true, 5)] {
        let mut writer =
            BlobWriter::new(Vec::new(), Broken { panics }, BlobWriterOptions::default().jobs(jobs)).unwrap();
        let written = writer.write_all(&[7; 10_000]);
        assert!(written.is_err() || writer.finish().is_err());
    }
}
