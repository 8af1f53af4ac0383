//! Programs as layer processors.

#![cfg(all(unix, feature = "command"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Cursor;

use layer_model::{ErrorKind, MediaType, Result, Silent};
use layer_tar::{BlobOptions, BlobSummary, LayerBlob, blob::CommandProcessor};
use support::{END, file};

const WRAPPED: &str = "application/vnd.oci.image.layer.v1.tar+test";

fn shell(script: &str) -> CommandProcessor {
    let program = CommandProcessor::new(WRAPPED.parse().unwrap(), MediaType::layer_tar(), "/bin/sh").unwrap();
    program.args(["-c", script])
}

fn read(blob: &[u8], processor: CommandProcessor) -> Result<(Vec<u8>, BlobSummary)> {
    let options = BlobOptions::default().processor(processor);
    let mut blob = LayerBlob::open(Cursor::new(blob.to_vec()), &WRAPPED.parse().unwrap(), options, &Silent)?;
    let mut out = Vec::new();
    while let Some(chunk) = blob.next_chunk()? {
        out.extend_from_slice(&chunk);
    }
    Ok((out, blob.summary().unwrap().clone()))
}

#[test]
fn a_program_is_given_the_blob_the_type_and_a_payload() {
    let tar = [file("a", &[b'x'; 900_000]), END.to_vec()].concat();
    let (out, summary) = read(&tar, shell("exec cat")).unwrap();
    assert!(out == tar && summary.diff_size == tar.len() as u64);
    assert_eq!(
        read(&tar, shell("printf '%s' \"$STREAM_PROCESSOR_MEDIATYPE\"")).unwrap().0,
        WRAPPED.as_bytes()
    );
    let dir = tempfile::tempdir().unwrap();
    let payload = shell("cat <&3").payload(&b"the key"[..], dir.path());
    let (out, summary) = read(&tar, payload).unwrap();
    assert_eq!((&out[..], summary.size), (&b"the key"[..], tar.len() as u64));
}

#[test]
fn a_program_that_fails_or_complains_fails_the_layer() {
    let tar = [file("a", b"x"), END.to_vec()].concat();
    for script in ["cat; exit 3", "cat; echo bad key >&2", "exit 1"] {
        let error = read(&tar, shell(script)).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{script}");
        assert!(error.to_string().contains("/bin/sh"), "{error}");
    }
}

#[test]
fn a_program_is_not_looked_up() {
    let relative = CommandProcessor::new(WRAPPED.parse().unwrap(), MediaType::layer_tar(), "sh");
    assert_eq!(relative.unwrap_err().kind(), &ErrorKind::InvalidArgument);
    let missing =
        CommandProcessor::new(WRAPPED.parse().unwrap(), MediaType::layer_tar(), "/nowhere/sh").unwrap();
    assert_eq!(read(b"", missing).unwrap_err().kind(), &ErrorKind::NotFound);
}

#[test]
fn a_blob_given_up_ends_its_program() {
    let options = BlobOptions::default().processor(shell("exec cat /dev/zero"));
    let mut blob =
        LayerBlob::open(Cursor::new(vec![0; 100]), &WRAPPED.parse().unwrap(), options, &Silent).unwrap();
    assert!(blob.next_chunk().unwrap().is_some());
    let start = std::time::Instant::now();
    drop(blob);
    assert!(start.elapsed().as_secs() < 5);
}
