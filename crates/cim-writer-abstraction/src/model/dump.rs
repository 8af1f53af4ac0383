//! A view as text, one line a path.

use std::io::Write;

use layer_model::{Error, ErrorKind, IoContext, Result};

use super::{EntryRef, Stream, View};
use crate::{
    FileMeta,
    content::hex_into,
    journal::text::{string_into, unsigned_into},
};

/// How much is gathered before it is written out.
const BUFFER: usize = 128 * 1024;

impl View {
    /// Writes the view dump: a line of JSON for each path, in the order of the upper-cased paths' units, with type,
    /// attributes, size, SHA-256, number of visible names, and the image that it comes from; alternate streams in lines
    /// of their own behind their file.
    ///
    /// Views that are alike in this have equal dumps. The root, tombstones, security descriptors, extended attributes
    /// and times are not in it.
    ///
    /// # Errors
    /// [`ErrorKind::DanglingMergedLink`] for an image with merged links that is shown by itself: only merging says what
    /// they are. Those of the output.
    pub fn dump(&self, out: &mut dyn Write) -> Result<()> {
        let counts = self.link_counts();
        let mut lines = Vec::with_capacity(BUFFER + BUFFER / 4);
        for found in self.entries() {
            let path = found.path.as_bytes();
            let source = self.source_of(found.entry);
            match found.entry {
                EntryRef::Dir(dir) => line(path, "dir", &dir.meta, None, 1, source, &mut lines),
                EntryRef::File(file, id) => {
                    let kind = leaf_type(&file.meta);
                    let main = (kind == "file").then_some(&file.main);
                    line(path, kind, &file.meta, main, counts[&id], source, &mut lines);
                }
                EntryRef::Tombstone => continue,
                EntryRef::MergeLink(target) => {
                    let what = format!("a merged link to {target}, which only merging resolves");
                    return Err(Error::new(ErrorKind::DanglingMergedLink, what).entry(path));
                }
            }
            for (name, stream) in found.entry.streams() {
                let whole = [path, name.as_bytes()].join(&b':');
                let source = self.stream_source(found.entry, stream);
                line(&whole, "stream", &FileMeta::default(), Some(stream), 1, source, &mut lines);
            }
            if lines.len() >= BUFFER {
                out.write_all(&lines).during("write the dump")?;
                lines.clear();
            }
        }
        out.write_all(&lines).during("write the dump")
    }
}

/// The type of what has no entries.
fn leaf_type(meta: &FileMeta) -> &'static str {
    match meta.reparse.first_chunk().map(|tag| u32::from_le_bytes(*tag)) {
        Some(0xa000_000c) => "symlink",
        Some(0xa000_0003) => "junction",
        _ if meta.is_dir() => "dir",
        _ => "file",
    }
}

/// `{"path":..,"type":..,"attrs":..,"size":..,"sha256":..,"nlink":..,"source":..}`
fn line(
    path: &[u8],
    kind: &str,
    meta: &FileMeta,
    stream: Option<&Stream>,
    nlink: u32,
    source: u32,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"path\":");
    string_into(path, out);
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"attrs\":");
    unsigned_into(meta.attributes.bits().into(), out);
    out.extend_from_slice(b",\"size\":");
    unsigned_into(stream.map_or(0, |stream| stream.size), out);
    out.extend_from_slice(b",\"sha256\":\"");
    if let Some(sha256) = stream.and_then(|stream| stream.sha256) {
        hex_into(&sha256, out);
    }
    out.extend_from_slice(b"\",\"nlink\":");
    unsigned_into(nlink.into(), out);
    out.extend_from_slice(b",\"source\":");
    unsigned_into(source.into(), out);
    out.extend_from_slice(b"}\n");
}
