//! Other programs read what is written here, and the reader here what they write: GNU tar and gzip, Python,
//! zstd, Go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    io::Write,
    os::unix::fs::{FileExt, symlink},
    process::Command,
};

use layer_model::{Digest, Silent, Timestamp, road, testing::MemoryLayer};
use layer_tar::{
    BlobWriter, BlobWriterOptions, ReadOptions, TarReader, TarSink, WriteOptions,
    compress::{Codec, Gzip},
};
use support::{go_peer, list, run, skip};

fn has(test: &str, program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        skip(test, &format!("no {program} here"));
    }
    found
}

fn layer() -> Vec<u8> {
    let layer = MemoryLayer::new()
        .dir("d", 0o1777)
        .owner("d", 3_000_000, 7)
        .file("d/f", "content")
        .mtime("d/f", 1_700_000_000, 123_456_789)
        .xattr("d/f", "user.binary", b"\0=\n\xff")
        .file(&format!("d/{}/{}", "dir".repeat(30), "name".repeat(20)), "split")
        .file(&format!("d/{}", "long".repeat(40)), "long")
        .file("gr\u{fc}\u{df}e", "umlaut")
        .link("h", "d/f")
        .symlink("l", &"t/".repeat(90))
        .whiteout("gone");
    let sink = TarSink::new(Vec::new(), WriteOptions::default().nanoseconds(true), &Silent);
    road::pump(&mut layer.changes(), sink, &Silent).unwrap().0
}

#[test]
fn gnu_tar_lists_what_the_sink_writes() {
    if !has("gnu_tar_lists_what_the_sink_writes", "tar") {
        return;
    }
    let tar = layer();
    let theirs = run(Command::new("tar").args(["--quoting-style=literal", "-tf", "-"]), &tar).unwrap();
    let mut ours = Vec::new();
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    while let Some(entry) = reader.next_entry().unwrap() {
        ours.extend_from_slice(&entry.raw.name);
        ours.push(b'\n');
    }
    assert_eq!(theirs.escape_ascii().to_string(), ours.escape_ascii().to_string());
}

#[test]
fn python_reads_names_times_and_attributes_of_what_the_sink_writes() {
    let test = "python_reads_names_times_and_attributes_of_what_the_sink_writes";
    if !has(test, "python3") {
        return;
    }
    let script = "import sys, tarfile, io\n\
        t = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))\n\
        for m in t:\n\
        \x20   c = t.extractfile(m).read().decode() if m.isfile() else ''\n\
        \x20   x = m.pax_headers.get('SCHILY.xattr.user.binary', '').encode('utf-8', 'surrogateescape').hex()\n\
        \x20   print(m.name, oct(m.mode), m.uid, m.mtime, m.linkname[:9], c, x, sep='|')\n";
    let out = run(Command::new("python3").args(["-c", script]).env("PYTHONUTF8", "1"), &layer()).unwrap();
    let out = String::from_utf8(out).unwrap();
    for line in [
        "d|0o1777|3000000|0||".to_owned(),
        "d/f|0o644|0|1700000000.1234567||content|003d0aff".to_owned(),
        format!("d/{}/{}|0o644|0|0||split|", "dir".repeat(30), "name".repeat(20)),
        format!("d/{}|0o644|0|0||long|", "long".repeat(40)),
        "gr\u{fc}\u{df}e|0o644|0|0||umlaut|".to_owned(),
        "l|0o777|0|0|t/t/t/t/t||".to_owned(),
        ".wh.gone|0o0|0|0|||".to_owned(),
    ] {
        assert!(out.lines().any(|have| have.starts_with(&line)), "{line}\n{out}");
    }
}

#[test]
fn every_format_of_gnu_tar_is_read() {
    if !has("every_format_of_gnu_tar_is_read", "tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/f"), "content").unwrap();
    fs::write(root.join("n".repeat(150)), "long").unwrap();
    symlink("t/".repeat(70), root.join("l")).unwrap();
    fs::hard_link(root.join("d/f"), root.join("h")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for n in 0..40_u64 {
        sparse.write_all_at(b"data", n << 20).unwrap();
    }
    sparse.set_len(50 << 20).unwrap();
    let whole = Digest::sha256(fs::read(root.join("sparse")).unwrap());
    for format in [
        "--format=gnu",
        "--format=oldgnu",
        "--format=posix",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ] {
        let archive = dir.path().join("archive.tar");
        let mut tar = Command::new("tar");
        tar.arg("-cSf").arg(&archive).args(format.split(' ')).args(["--sort=name", "-C"]).arg(&root).arg(".");
        run(&mut tar, b"").unwrap();
        let bytes = fs::read(&archive).unwrap();
        assert!(bytes.len() < 1 << 20, "{format} kept the holes");
        let (lines, error) = list(&bytes);
        assert_eq!((error, lines.len()), (None, 7), "{format}: {lines:?}");
        let mut reader = TarReader::new(&bytes[..], ReadOptions::default());
        let mut found = false;
        while let Some(entry) = reader.next_entry().unwrap() {
            if entry.raw.name.ends_with(b"/sparse") {
                assert!(entry.raw.is_sparse && entry.raw.mtime > Timestamp::EPOCH);
                let mut digest = layer_model::Digester::default();
                entry.into_content().unwrap().write_to(&mut digest).unwrap();
                assert_eq!(digest.finish(), whole, "{format}");
                found = true;
            }
        }
        assert!(found, "{format}");
    }
}

fn pack(content: &[u8], codec: impl Codec) -> Vec<u8> {
    let mut writer = BlobWriter::new(Vec::new(), codec, BlobWriterOptions::default()).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap().0
}

fn text() -> Vec<u8> {
    (0..400_000_u32).flat_map(|n| format!("{:x} ", n.wrapping_mul(n) % 9973).into_bytes()).collect()
}

#[test]
fn gzip_of_several_members_is_read_by_everyone() {
    let content = text();
    let codecs = [
        Gzip::default(),
        Gzip::new(1),
        Gzip::new(9),
        #[cfg(feature = "libdeflate")]
        Gzip::default().with_libdeflate(),
    ];
    for codec in codecs {
        let blob = pack(&content, codec);
        if has("gzip", "gzip") {
            assert!(run(Command::new("gzip").arg("-dc"), &blob).unwrap() == content);
            run(Command::new("gzip").arg("-t"), &blob).unwrap();
        }
        if has("python", "python3") {
            let script =
                "import sys, gzip; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
            assert!(run(Command::new("python3").args(["-c", script]), &blob).unwrap() == content);
        }
        match go_peer() {
            Ok(mut peer) => assert!(run(peer.arg("gunzip"), &blob).unwrap() == content),
            Err(reason) => skip("gzip_of_several_members_is_read_by_everyone", &reason),
        }
    }
}

#[test]
fn gzip_is_no_larger_than_that_of_go() {
    let Ok(mut peer) = go_peer() else {
        return skip("gzip_is_no_larger_than_that_of_go", "no go here");
    };
    // Programs are what layers are made of, and this test is one.
    let mut content = fs::read(std::env::current_exe().unwrap()).unwrap();
    content.truncate(12 << 20);
    let theirs = run(peer.arg("gzip"), &content).unwrap().len();
    let mut codecs = vec![Gzip::default()];
    #[cfg(feature = "libdeflate")]
    // Not its default: level 2 is smaller than Go on some layers, and larger on programs with debug symbols.
    codecs.push(Gzip::new(5).with_libdeflate());
    for codec in codecs.drain(..) {
        let ours = pack(&content, codec).len();
        assert!(ours <= theirs, "{codec:?}: {ours} > {theirs}");
    }
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_frames_are_read_by_the_zstd_program() {
    if !has("zstd_frames_are_read_by_the_zstd_program", "zstd") {
        return;
    }
    let content = text().repeat(3);
    let blob = pack(&content, layer_tar::compress::Zstd::default());
    assert!(run(Command::new("zstd").arg("-dc"), &blob).unwrap() == content);
}
