//! What `docker save` writes: an archive with a `manifest.json`, a config and layer tars in it.
//!
//! The archive is never unpacked: its members are found once and then read in place, so that no name in it
//! ever becomes a path on this machine.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
    sync::Arc,
};

use layer_model::{Error, ErrorKind, IoContext, LayerPathBuf, ReadAt, Result};
use layer_tar::{ReadOptions, TarReader};
use serde::Deserialize;

/// The largest document that is read into memory.
const MAX_DOCUMENT: u64 = 8 << 20;

/// How many members an archive may have: an image has two for each layer and a handful more.
const MAX_MEMBERS: usize = 10_000;

/// How many links in a row are followed; old archives link a repeated layer to its first copy.
const MAX_LINKS: usize = 8;

pub(crate) struct DockerArchive {
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
    /// The config, as it is in the archive.
    pub(crate) config: Vec<u8>,
    /// Where each layer is, bottom first.
    pub(crate) layers: Vec<Extent>,
    /// The names of the image.
    pub(crate) tags: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

enum Member {
    File(Extent),
    Link(Vec<u8>),
}

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl DockerArchive {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.as_os_str().as_encoded_bytes();
        let file = File::open(path).during("open the archive").map_err(|e| e.entry(name))?;
        let file = Arc::new(file);
        let mut archive = Self {
            members: index(&file).map_err(|e| e.entry(name))?,
            file,
            config: Vec::new(),
            layers: Vec::new(),
            tags: Vec::new(),
        };
        let saved: Vec<Saved> = serde_json::from_slice(&archive.document("manifest.json")?)
            .map_err(|e| invalid("manifest.json does not parse").cause(e))?;
        let [saved] = <[Saved; 1]>::try_from(saved)
            .map_err(|all| invalid(&format!("the archive holds {} images, one is wanted", all.len())))?;
        archive.config = archive.document(&saved.config)?;
        archive.layers = saved.layers.iter().map(|layer| archive.find(layer)).collect::<Result<_>>()?;
        archive.tags = saved.repo_tags.unwrap_or_default();
        Ok(archive)
    }

    /// Reads a part of the archive.
    pub(crate) fn read(&self, extent: Extent) -> impl Read + Send + use<> {
        Range { file: self.file.clone(), at: extent.offset, end: extent.offset + extent.size }
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let extent = self.find(name)?;
        if extent.size > MAX_DOCUMENT {
            let kind = ErrorKind::LimitExceeded { limit: "document size" };
            return Err(
                Error::new(kind, format!("{} bytes are too many for a document", extent.size)).entry(name)
            );
        }
        let mut bytes = Vec::new();
        self.read(extent).read_to_end(&mut bytes).during("read a document").map_err(|e| e.entry(name))?;
        Ok(bytes)
    }

    fn find(&self, name: &str) -> Result<Extent> {
        let mut path = LayerPathBuf::clean(name.as_bytes())?.into_bytes();
        for _ in 0..MAX_LINKS {
            match self.members.get(&path) {
                Some(Member::File(extent)) => return Ok(*extent),
                Some(Member::Link(target)) => path = target.clone(),
                None => {
                    return Err(Error::new(ErrorKind::NotFound, "the archive has no such member").entry(name));
                }
            }
        }
        Err(Error::new(ErrorKind::TooManyLinks, "too many links in the archive").entry(name))
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}

/// Finds the members. Every one is read by a reader of its own that starts at its header, so that no payload is
/// read to get to the next.
fn index(file: &Arc<File>) -> Result<HashMap<Vec<u8>, Member>> {
    let end = ReadAt::len(file).during("measure the archive")?;
    let mut members = HashMap::new();
    let mut count = 0;
    let mut at = 0;
    while at < end {
        let range = Range { file: file.clone(), at, end };
        let mut reader = TarReader::new(BufReader::with_capacity(4096, range), ReadOptions::default());
        let Some(entry) = reader.next_entry().map_err(|e| e.index(members.len() as u64))? else { break };
        let raw = entry.raw;
        let data = at + raw.data_offset;
        at =
            raw.stored_size.checked_next_multiple_of(512).and_then(|n| data.checked_add(n)).ok_or_else(
                || invalid("a member is larger than any archive").entry(&raw.name).offset(data),
            )?;
        let path = LayerPathBuf::clean(&raw.name)?;
        let member = match raw.typeflag {
            b'0' | 0 | b'7' if raw.is_sparse => return Err(invalid("a sparse member").entry(&raw.name)),
            b'0' | 0 | b'7' => Member::File(Extent { offset: data, size: raw.size }),
            b'1' => Member::Link(LayerPathBuf::clean(&raw.link_name)?.into_bytes()),
            b'2' => {
                // Relative to the directory of the link.
                let parent = path.as_path().parent().map_or(&b""[..], |parent| parent.as_bytes());
                Member::Link(LayerPathBuf::clean(&[parent, b"/", &raw.link_name[..]].concat())?.into_bytes())
            }
            _ => continue,
        };
        count += 1;
        members.insert(path.into_bytes(), member);
        if count > MAX_MEMBERS {
            return Err(Error::new(ErrorKind::LimitExceeded { limit: "members" }, "too many members"));
        }
    }
    Ok(members)
}

/// A range of a file, read from front to back without moving the file's own position.
struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
