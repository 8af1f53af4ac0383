//! Standard CIMs as layers.

use std::{collections::HashMap, fmt, io};

use layer_model::{Content, Error, ErrorKind, Result};

use super::{File, FileId, Image, Stream, StreamEntry, Walk};
use crate::{CimPath, FileMeta, LayerEvent, StreamName, wcow::WcowEvents};

/// What a standard CIM holds, as the events of a layer: everything but the root itself. Of a file of several names, the
/// first has the content and the streams, the others are links.
///
/// A fork shows all that it inherits: what it has removed or changed is not told apart.
///
/// [`WcowChanges`](crate::wcow::WcowChanges) makes a source on the road of it.
///
/// # Memory
/// That of [`Walk`], and a path for each file of several names.
pub struct ImageEvents {
    image: Image,
    walk: Walk,
    firsts: HashMap<FileId, CimPath>,
    /// Whose streams are next, and those of them that are still to come.
    streams: Option<(CimPath, File, std::vec::IntoIter<StreamEntry>)>,
    /// What was given last, which borrows from here.
    content: Option<Stream>,
    nothing: io::Empty,
    failed: bool,
}

impl ImageEvents {
    /// The events of `image`.
    pub fn new(image: &Image) -> Self {
        Self {
            image: image.clone(),
            walk: image.walk(),
            firsts: HashMap::new(),
            streams: None,
            content: None,
            nothing: io::empty(),
            failed: false,
        }
    }

    /// Goes to the next event, and opens its content.
    fn advance(&mut self) -> Result<Next> {
        self.content = None;
        if let Some((of, file, streams)) = &mut self.streams {
            if let Some(stream) = streams.next() {
                let opened = file.open_entry(&stream);
                self.content = Some(opened.map_err(|error| error.context(format!("{of}:{}", stream.name)))?);
                return Ok(Next::Stream(of.clone(), stream.name));
            }
            self.streams = None;
        }
        let entry = loop {
            match self.walk.next().transpose()? {
                Some(entry) if entry.path.is_root() => {}
                Some(entry) => break entry,
                None => return Ok(Next::End),
            }
        };
        let (path, file) = (entry.path, entry.file);
        if !file.is_dir() && self.image.link_counts()?.contains_key(&file.id()) {
            if let Some(target) = self.firsts.get(&file.id()) {
                return Ok(Next::Link(path, target.clone()));
            }
            self.firsts.insert(file.id(), path.clone());
        }
        let about = |error: Error| error.context(&path);
        let meta = file.meta().map_err(about)?;
        self.content = if file.is_dir() { None } else { Some(file.open().map_err(about)?) };
        let streams = file.streams().map_err(about)?;
        self.streams = Some((path.clone(), file, streams.into_iter()));
        Ok(Next::Add(path, meta))
    }

    /// The content of the event. What is all zero is a hole.
    fn content(&mut self) -> Result<Content<'_>> {
        match &self.content {
            None => Ok(Content::empty()),
            Some(stream) if stream.size() == 0 => Ok(Content::empty()),
            Some(stream) if stream.is_hole() => Content::sparse(&[], &mut self.nothing, stream.size()),
            Some(stream) => Ok(Content::from_range(stream, 0, stream.size())),
        }
    }
}

/// An event without its content.
enum Next {
    Add(CimPath, FileMeta),
    Stream(CimPath, StreamName),
    Link(CimPath, CimPath),
    End,
}

impl WcowEvents for ImageEvents {
    fn next_event(&mut self) -> Result<Option<LayerEvent<'_>>> {
        if self.failed {
            return Err(Error::new(ErrorKind::FailedPrecondition, "reading the image has failed before"));
        }
        self.failed = true;
        let next = self.advance()?;
        self.failed = false;
        Ok(Some(match next {
            Next::Add(path, meta) => LayerEvent::Add { path, meta, content: self.content()? },
            Next::Stream(of, name) => LayerEvent::Stream { of, name, content: self.content()? },
            Next::Link(path, target) => LayerEvent::Link { path, target },
            Next::End => return Ok(None),
        }))
    }
}

impl fmt::Debug for ImageEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageEvents").field("image", &self.image).finish_non_exhaustive()
    }
}
