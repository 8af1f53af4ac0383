//! What the integration tests share: archives made by hand, and peers.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

use layer_model::{ErrorKind, LayerSource, Result, Silent, testing::MemoryChanges};
use layer_tar::{ReadOptions, TarReader, TarSource};

pub(crate) const END: [u8; 1024] = [0; 1024];

/// One header, made field by field, so that archives can be as wrong as a test needs them.
#[derive(Clone)]
pub(crate) struct Raw(pub(crate) [u8; 512]);

impl Raw {
    pub(crate) fn new(typeflag: u8, name: &[u8], size: u64) -> Self {
        let mut raw = Self([0; 512]);
        raw.set(0, &name[..name.len().min(100)]);
        raw.set(100, b"0000644\0");
        raw.set(108, b"0000000\0");
        raw.set(116, b"0000000\0");
        raw.set(124, format!("{size:011o}\0").as_bytes());
        raw.set(136, b"00000000000\0");
        raw.0[156] = typeflag;
        raw.set(257, b"ustar\x0000");
        raw
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.set(at, bytes);
        self
    }

    pub(crate) fn link(self, target: &[u8]) -> Self {
        self.with(157, target)
    }

    pub(crate) fn gnu(self) -> Self {
        self.with(257, b"ustar  \0")
    }

    /// The block, with its checksum.
    pub(crate) fn block(mut self) -> Vec<u8> {
        self.set(148, b"        ");
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }
}

pub(crate) fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    [Raw::new(b'0', name.as_bytes(), content.len() as u64).block(), padded(content)].concat()
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let mut len = bare + bare.to_string().len();
    len = bare + len.to_string().len();
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// An extension header with its payload.
pub(crate) fn extension(typeflag: u8, payload: &[u8]) -> Vec<u8> {
    [Raw::new(typeflag, b"extension", payload.len() as u64).block(), padded(payload)].concat()
}

pub(crate) fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let payload: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect();
    extension(b'x', &payload)
}

/// The listing: `TYPE NAME SIZE` of each entry.
pub(crate) fn list(tar: &[u8]) -> (Vec<String>, Option<ErrorKind>) {
    list_with(tar, ReadOptions::default())
}

pub(crate) fn list_with(tar: &[u8], options: ReadOptions) -> (Vec<String>, Option<ErrorKind>) {
    let mut reader = TarReader::new(tar, options);
    let mut lines = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(None) => return (lines, None),
            Ok(Some(entry)) => {
                let raw = entry.raw;
                lines.push(format!("{} {} {}", char::from(raw.typeflag), raw.name.escape_ascii(), raw.size));
            }
            Err(error) => return (lines, Some(error.kind().clone())),
        }
    }
}

/// The changes as short lines, or the error.
pub(crate) fn changes(tar: &[u8], options: ReadOptions) -> Result<Vec<String>> {
    let mut source = TarSource::new(tar, options, &Silent);
    Ok(MemoryChanges::collect(&mut source)?.lines())
}

/// Reads everything, and gives how many changes there were.
pub(crate) fn drain(source: &mut dyn LayerSource) -> Result<u64> {
    let mut count = 0;
    while source.next_change()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Runs a program with `input`, and gives its output when it succeeds.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into())
    }
}

/// Says that a test cannot run here, or fails it where it must.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none_or(|v| v != "1"), "{test} cannot run: {reason}");
    eprintln!("SKIP {test}: {reason}");
}

/// The Go peer, built once.
pub(crate) fn go_peer() -> std::result::Result<Command, String> {
    static PEER: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    PEER.get_or_init(|| go_build("peer")).clone().map(Command::new)
}

/// The Go peer for layers of Windows, built once.
pub(crate) fn go_windows_peer() -> std::result::Result<Command, String> {
    static PEER: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    PEER.get_or_init(|| go_build("windows_peer")).clone().map(Command::new)
}

fn go_build(name: &str) -> std::result::Result<PathBuf, String> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let out = dir.join(format!("go-tar-{name}-{}", std::process::id()));
    let source = format!("{}/tests/go/{name}.go", env!("CARGO_MANIFEST_DIR"));
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&out).arg(source).env("GOFLAGS", "-mod=mod");
    build.env("GOCACHE", dir.join("go-cache")).env("GO111MODULE", "off");
    run(&mut build, b"").map(|_| out)
}
