//! Events that own what they say.

use std::io::Cursor;

use layer_model::{Content, Result, content::Extent};

use crate::{CimPath, FileMeta, LayerEvent, StreamName, wcow::WcowEvents};

/// An event that owns what it says. Two are equal that mean the same, wherever the holes of their content are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are those of LayerEvent")]
pub enum OwnedEvent {
    Add { path: CimPath, meta: FileMeta, content: OwnedContent },
    Stream { of: CimPath, name: StreamName, content: OwnedContent },
    Link { path: CimPath, target: CimPath },
    Remove { path: CimPath },
    Opaque { path: CimPath },
}

/// The bytes of a stream.
#[derive(Clone, Debug, Default)]
pub struct OwnedContent {
    /// All of them, holes as zeros.
    pub bytes: Vec<u8>,
    /// Where data is, when there are holes.
    pub runs: Option<Vec<Extent>>,
}

impl PartialEq for OwnedContent {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for OwnedContent {}

impl<T: Into<Vec<u8>>> From<T> for OwnedContent {
    fn from(bytes: T) -> Self {
        Self { bytes: bytes.into(), runs: None }
    }
}

impl OwnedContent {
    /// `len` bytes, zero but for `data` at its offsets, which ascend.
    ///
    /// # Panics
    /// When data lies outside.
    pub fn sparse(len: usize, data: &[(usize, &[u8])]) -> Self {
        let mut bytes = vec![0; len];
        let mut runs = Vec::new();
        for (offset, data) in data {
            bytes[*offset..offset + data.len()].copy_from_slice(data);
            runs.push(Extent { offset: *offset as u64, len: data.len() as u64 });
        }
        Self { bytes, runs: Some(runs) }
    }

    fn take(content: Content<'_>) -> Result<Self> {
        let mut bytes = Vec::new();
        content.write_to(&mut bytes)?;
        Ok(bytes.into())
    }

    fn lend<'a>(&'a self, packed: &'a mut Cursor<Vec<u8>>) -> Result<Content<'a>> {
        let Some(runs) = &self.runs else { return Ok(Content::from_bytes(&self.bytes)) };
        let data = runs.iter().flat_map(|run| &self.bytes[run.offset as usize..run.end() as usize]);
        *packed = Cursor::new(data.copied().collect());
        Content::sparse(runs, packed, self.bytes.len() as u64)
    }
}

impl OwnedEvent {
    /// Takes an event with its content.
    ///
    /// # Errors
    /// Those of reading the content.
    pub fn take(event: LayerEvent<'_>) -> Result<Self> {
        Ok(match event {
            LayerEvent::Add { path, meta, content } => {
                Self::Add { path, meta, content: OwnedContent::take(content)? }
            }
            LayerEvent::Stream { of, name, content } => {
                Self::Stream { of, name, content: OwnedContent::take(content)? }
            }
            LayerEvent::Link { path, target } => Self::Link { path, target },
            LayerEvent::Remove { path } => Self::Remove { path },
            LayerEvent::Opaque { path } => Self::Opaque { path },
        })
    }

    /// The path that the event is about.
    pub fn path(&self) -> &CimPath {
        match self {
            Self::Add { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path }
            | Self::Opaque { path } => path,
            Self::Stream { of, .. } => of,
        }
    }

    /// The event as a short line: `d Files`, `f Files\a 3`, `l Files\s`, `s Files\a:x 7`, `h Files\l=Files\a`,
    /// `- Files\gone`, `o Files\d`.
    pub fn line(&self) -> String {
        match self {
            Self::Add { path, meta, .. } if !meta.reparse.is_empty() => format!("l {path}"),
            Self::Add { path, meta, .. } if meta.is_dir() => format!("d {path}"),
            Self::Add { path, content, .. } => format!("f {path} {}", content.bytes.len()),
            Self::Stream { of, name, content } => format!("s {of}:{name} {}", content.bytes.len()),
            Self::Link { path, target } => format!("h {path}={target}"),
            Self::Remove { path } => format!("- {path}"),
            Self::Opaque { path } => format!("o {path}"),
        }
    }
}

/// [`WcowEvents`] over a list.
#[derive(Clone, Debug, Default)]
pub struct EventList {
    list: Vec<OwnedEvent>,
    at: usize,
    packed: Cursor<Vec<u8>>,
}

impl EventList {
    /// The events of `list`, in its order.
    pub fn new(list: Vec<OwnedEvent>) -> Self {
        Self { list, at: 0, packed: Cursor::default() }
    }

    /// Reads events to their end, and keeps them.
    ///
    /// # Errors
    /// Those of the events.
    pub fn collect(events: &mut dyn WcowEvents) -> Result<Self> {
        let mut list = Vec::new();
        while let Some(event) = events.next_event()? {
            list.push(OwnedEvent::take(event)?);
        }
        Ok(Self::new(list))
    }

    /// The events.
    pub fn as_slice(&self) -> &[OwnedEvent] {
        &self.list
    }

    /// The events, each as [`OwnedEvent::line`].
    pub fn lines(&self) -> Vec<String> {
        self.list.iter().map(OwnedEvent::line).collect()
    }
}

impl WcowEvents for EventList {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        let Some(event) = self.list.get(self.at) else { return Ok(None) };
        self.at += 1;
        Ok(Some(match event {
            OwnedEvent::Add { path, meta, content } => {
                let content = content.lend(&mut self.packed)?;
                LayerEvent::Add { path: path.clone(), meta: meta.clone(), content }
            }
            OwnedEvent::Stream { of, name, content } => {
                let content = content.lend(&mut self.packed)?;
                LayerEvent::Stream { of: of.clone(), name: name.clone(), content }
            }
            OwnedEvent::Link { path, target } => {
                LayerEvent::Link { path: path.clone(), target: target.clone() }
            }
            OwnedEvent::Remove { path } => LayerEvent::Remove { path: path.clone() },
            OwnedEvent::Opaque { path } => LayerEvent::Opaque { path: path.clone() },
        }))
    }
}
