//! Operations into lines.

use std::io::Write;

use layer_model::{Error, ErrorKind, IoContext, Result};

use super::text::{signed_into, string_into, unsigned_into};
use crate::{
    CimOp, CimPath, CimSink, FileMeta,
    base64::encode_into,
    content::{BlobSink, HashOnly, hex_into},
};

/// How much is gathered before it is written out.
const BUFFER: usize = 128 * 1024;

/// Writes lines, without knowing what they are about: who uses it hashes the content.
#[derive(Debug)]
pub(crate) struct Lines<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER + BUFFER / 4) }
    }

    /// The line of an operation; [`CimOp::EndStream`] has none, its data has ([`Lines::data`]).
    pub(crate) fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        let line = &mut self.buffer;
        match op {
            CimOp::CreateImage { kind, container, name, parent, flags } => {
                text(b"{\"op\":\"create_image\",\"kind\":", kind.name().as_bytes(), line);
                text(b",\"container\":", container.as_bytes(), line);
                text(b",\"name\":", name.as_str().as_bytes(), line);
                text(b",\"parent\":", parent.map_or("", |p| p.as_str()).as_bytes(), line);
                number(b",\"flags\":", flags.bits().into(), line);
            }
            CimOp::CreateFile { path, meta, size } => {
                text(b"{\"op\":\"create_file\",\"path\":", path.as_bytes(), line);
                number(b",\"attrs\":", meta.attributes.bits().into(), line);
                number(b",\"size\":", *size, line);
                for (key, time) in [
                    (&b",\"creation\":"[..], meta.creation),
                    (b",\"write\":", meta.write),
                    (b",\"change\":", meta.change),
                    (b",\"access\":", meta.access),
                ] {
                    line.extend_from_slice(key);
                    signed_into(time.0, line);
                }
                for (key, buffer) in [
                    (&b",\"sd\":\""[..], meta.security_or_default()),
                    (b"\",\"ea\":\"", &meta.ea),
                    (b"\",\"reparse\":\"", &meta.reparse),
                ] {
                    line.extend_from_slice(key);
                    encode_into(buffer, line);
                }
                line.push(b'"');
            }
            CimOp::CreateStream { of, name, size } => {
                text(b"{\"op\":\"create_stream\",\"path\":", of.as_bytes(), line);
                // The string goes on behind the path's closing quote.
                line.pop();
                line.push(b':');
                let quote = line.len();
                string_into(name.as_bytes(), line);
                line.remove(quote);
                number(b",\"size\":", *size, line);
            }
            CimOp::EndStream => return Ok(()),
            CimOp::HardLink { path, target } => link(b"{\"op\":\"hard_link\",\"path\":", path, target, line),
            CimOp::MergeLink { path, target } => {
                link(b"{\"op\":\"merge_link\",\"path\":", path, target, line)
            }
            CimOp::Delete { path } => text(b"{\"op\":\"delete\",\"path\":", path.as_bytes(), line),
            CimOp::Tombstone { path } => text(b"{\"op\":\"tombstone\",\"path\":", path.as_bytes(), line),
            CimOp::Spool { path, len, sha256 } => {
                text(b"{\"op\":\"spool\",\"path\":", path.as_bytes(), line);
                number(b",\"len\":", *len, line);
                line.extend_from_slice(b",\"sha256\":\"");
                hex_into(sha256, line);
                line.push(b'"');
            }
            CimOp::MergeHive { base, delta, out } => {
                text(b"{\"op\":\"merge_hive\",\"base\":", base.as_bytes(), line);
                text(b",\"delta\":", delta.as_bytes(), line);
                text(b",\"out\":", out.as_bytes(), line);
            }
            CimOp::AddMergedHive { path, meta } => {
                let plain = FileMeta { security: meta.security_or_default().into(), ..(*meta).clone() };
                let security = FileMeta::NULL_DACL.into();
                if plain != (FileMeta { security, ..FileMeta::new(meta.attributes) }) {
                    return Err(Error::new(
                        ErrorKind::Unrepresentable,
                        "a merged hive has no metadata but attributes in a journal",
                    )
                    .entry(path));
                }
                text(b"{\"op\":\"add_merged_hive\",\"path\":", path.as_bytes(), line);
                number(b",\"attrs\":", meta.attributes.bits().into(), line);
            }
            CimOp::AddSource { container, name, flags } => {
                text(b"{\"op\":\"add_source\",\"path\":", container.as_bytes(), line);
                line.pop();
                line.extend_from_slice(b"\\\\");
                let quote = line.len();
                string_into(name.as_str().as_bytes(), line);
                line.remove(quote);
                number(b",\"flags\":", flags.bits().into(), line);
            }
            CimOp::Commit => line.extend_from_slice(b"{\"op\":\"commit\""),
            CimOp::Close => line.extend_from_slice(b"{\"op\":\"close\""),
            CimOp::Discard => line.extend_from_slice(b"{\"op\":\"discard\""),
            CimOp::Seal { container } => text(b"{\"op\":\"seal\",\"container\":", container.as_bytes(), line),
            CimOp::VhdFooter { size, .. } => number(b"{\"op\":\"vhd_footer\",\"size\":", *size, line),
            CimOp::Sidecar { name, .. } => text(b"{\"op\":\"sidecar\",\"name\":", name.as_bytes(), line),
        }
        self.end_line()
    }

    /// The line of a stream's bytes; an empty stream has none.
    pub(crate) fn data(&mut self, len: u64, sha256: &[u8; 32]) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        number(b"{\"op\":\"data\",\"len\":", len, &mut self.buffer);
        self.buffer.extend_from_slice(b",\"sha256\":\"");
        hex_into(sha256, &mut self.buffer);
        self.buffer.push(b'"');
        self.end_line()
    }

    fn end_line(&mut self) -> Result<()> {
        self.buffer.extend_from_slice(b"}\n");
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        self.out.write_all(&self.buffer).during("write the journal")?;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<W> {
        self.out.write_all(&self.buffer).during("write the journal")?;
        self.out.flush().during("write the journal")?;
        Ok(self.out)
    }
}

/// Appends a key, which brings its punctuation, and a string.
fn text(key: &[u8], value: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(key);
    string_into(value, line);
}

fn number(key: &[u8], value: u64, line: &mut Vec<u8>) {
    line.extend_from_slice(key);
    unsigned_into(value, line);
}

fn link(key: &[u8], path: &CimPath, target: &CimPath, line: &mut Vec<u8>) {
    text(key, path.as_bytes(), line);
    text(b",\"target\":", target.as_bytes(), line);
}

/// Writes the journal of the operations that it gets.
///
/// It checks what the journal could not tell: that a stream has as many bytes as were announced. Whether the operations
/// make sense is for others to say.
#[derive(Debug)]
pub struct JournalSink<W> {
    lines: Lines<W>,
    hash: HashOnly,
    /// Announced and written bytes of the open stream.
    open: Option<(u64, u64)>,
}

impl<W: Write> JournalSink<W> {
    /// A journal into `out`, which gets large pieces: it needs no buffer of its own.
    pub fn new(out: W) -> Self {
        Self { lines: Lines::new(out), hash: HashOnly::default(), open: None }
    }

    /// Writes out what is left, and gives the output back.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(self) -> Result<W> {
        self.lines.finish()
    }
}

impl<W: Write> CimSink for JournalSink<W> {
    fn op(&mut self, op: &CimOp<'_>) -> Result<()> {
        match (op, self.open) {
            (CimOp::Discard, _) => self.open = None,
            (CimOp::EndStream, Some((size, written))) => {
                if size != written {
                    let kind = ErrorKind::SizeMismatch { expected: size, got: written };
                    return Err(Error::new(kind, "fewer bytes than the stream was announced with"));
                }
                self.open = None;
                let sha256 = self.hash.end()?;
                return self.lines.data(size, &sha256);
            }
            (CimOp::EndStream, None) => {
                return Err(Error::new(ErrorKind::FailedPrecondition, "no stream is open"));
            }
            (_, Some(_)) => return Err(Error::new(ErrorKind::Busy, "another stream of the image is open")),
            (CimOp::CreateFile { size, .. } | CimOp::CreateStream { size, .. }, None) => {
                self.open = Some((*size, 0));
                self.hash.begin(*size)?;
            }
            (_, None) => {}
        }
        self.lines.op(op)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((size, written)) = &mut self.open else {
            return Err(Error::new(ErrorKind::FailedPrecondition, "no stream is open"));
        };
        *written += bytes.len() as u64;
        if *written > *size {
            let kind = ErrorKind::SizeMismatch { expected: *size, got: *written };
            return Err(Error::new(kind, "more bytes than the stream was announced with"));
        }
        self.hash.write(bytes)
    }
}
