//! Images that are written from start to end: into a pipe, a digest, a store.
//!
//! Metadata comes first in such an image, and says where all content lies. So the changes are read twice: once for what
//! they say, once for their content.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, Read, Write},
};

use erofs_format::{ImagePlan, Piece};
use layer_model::{
    Action, Base, Change, Content, EntryKind, Error, ErrorKind, IoContext, LayerSink, LayerSource, LayerTree,
    Monitor, Result, content::Body,
};

use super::{
    ErofsOptions, ErofsWritten, erofs_error,
    output::{Output, Planned},
    tree::Builder,
};
use crate::lowers::{Lowers, Parents};

/// Takes the changes of a layer, but not their content, and makes the [`ErofsPlan`] of an image.
pub struct ErofsPlanner<'m> {
    builder: Builder<'m, io::Empty>,
    files: Vec<u64>,
}

/// An image of which everything is known but the content of its files.
pub struct ErofsPlan {
    plan: ImagePlan,
    /// What the files with content were, in the order of the changes.
    files: Vec<u64>,
    entries: u64,
    bytes: u64,
}

/// An output with memory that content can be read into.
pub trait ImageWrite: Write {
    /// Has `read` put up to `most` bytes into the writer's memory, and writes as many as it says. Gives their number.
    ///
    /// # Errors
    /// Those of `read` and of the output.
    fn fill_with(&mut self, most: u64, read: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<usize>;
}

impl<'m> ErofsPlanner<'m> {
    /// Starts with no changes. Inline data and equal chunks, if `options` ask for them, are left out: they take content.
    ///
    /// # Errors
    /// Those of the parents.
    pub fn new<P: LayerTree + Clone + 'static>(
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let out = Output::planned(&options.write);
        let builder = Builder::begin(out, Lowers::new(Parents::of(parents)), options, monitor)?;
        Ok(Self { builder, files: Vec::new() })
    }
}

impl LayerSink for ErofsPlanner<'_> {
    type Output = ErofsPlan;

    fn change(&mut self, mut change: Change<'_>) -> Result<()> {
        if let Some(file) = fingerprint(&mut change) {
            if let Output::Planned(planned) = &mut self.builder.writer {
                planned.token = self.files.len() as u64;
            }
            self.files.push(file);
        }
        self.builder.change(change)
    }

    fn finish(mut self) -> Result<ErofsPlan> {
        self.builder.complete()?;
        let (entries, bytes) = (self.builder.budget.entries, self.builder.budget.bytes);
        let Output::Planned(planned) = self.builder.writer else {
            return Err(Error::new(ErrorKind::FailedPrecondition, "this is no plan"));
        };
        let Planned { tree, options, .. } = *planned;
        let plan = ImagePlan::new(tree, &options, &()).map_err(erofs_error)?;
        Ok(ErofsPlan { plan, files: self.files, entries, bytes })
    }
}

/// Tells a file with content from others; [`None`] for what has none.
fn fingerprint(change: &mut Change<'_>) -> Option<u64> {
    let Action::Upsert(entry) = &mut change.action else { return None };
    let EntryKind::File(content) = &mut entry.kind else { return None };
    let mut hasher = DefaultHasher::new();
    (change.path.as_bytes(), content.len()).hash(&mut hasher);
    if let Body::Sparse { extents, .. } = content.body() {
        extents.iter().for_each(|extent| (extent.offset, extent.len).hash(&mut hasher));
    }
    (!content.is_empty()).then(|| hasher.finish())
}

impl ErofsPlan {
    /// How large the image will be, in bytes.
    pub fn size(&self) -> u64 {
        self.plan.size()
    }

    /// Writes the image, with the content of `source`, which has to give the same changes once more.
    ///
    /// # Errors
    /// [`ErrorKind::FileChanged`] if it does not; those of the source and of the output.
    pub fn write<W: ImageWrite>(
        &self,
        source: &mut dyn LayerSource,
        out: W,
        monitor: &dyn Monitor,
    ) -> Result<(W, ErofsWritten)> {
        let (mut out, image) = self.plan.write_before_data(out).map_err(erofs_error)?;
        let mut at = self.plan.metadata_size();
        let mut pieces = self.plan.pieces().peekable();
        let mut files = self.files.iter().zip(0u64..);
        while let Some(mut change) = source.next_change()? {
            if monitor.should_stop() {
                return Err(Error::cancelled());
            }
            let Some(file) = fingerprint(&mut change) else { continue };
            let path = change.path;
            let token = match files.next() {
                Some((known, token)) if *known == file => token,
                _ => return Err(changed().at(path)),
            };
            let Action::Upsert(entry) = change.action else { continue };
            let EntryKind::File(content) = entry.kind else { continue };
            let mut content = Opened::new(content)?;
            while let Some(piece) = pieces.next_if(|piece| piece.token == token) {
                zeros(&mut out, piece.position - at)?;
                content.write(piece, &mut out).map_err(|error| error.at(path))?;
                at = piece.position + piece.len;
            }
        }
        if files.next().is_some() || pieces.next().is_some() {
            return Err(changed());
        }
        zeros(&mut out, self.plan.size() - at)?;
        let (entries, bytes) = (self.entries, self.bytes);
        Ok((out, ErofsWritten { image, entries, bytes, implied_dirs: Vec::new() }))
    }
}

fn changed() -> Error {
    Error::new(ErrorKind::FileChanged, "the layer is another one when it is read again")
}

fn zeros(out: &mut impl Write, mut len: u64) -> Result<()> {
    while len > 0 {
        let n = len.min(4096);
        out.write_all(&[0; 4096][..n as usize]).during("write image")?;
        len -= n;
    }
    Ok(())
}

/// The content of a file, to be read once.
enum Opened<'a> {
    Bytes(&'a [u8]),
    Range {
        file: &'a dyn layer_model::ReadAt,
        offset: u64,
    },
    /// What is left of a stream; holes are not in it.
    Stream(&'a mut dyn BufRead),
}

impl<'a> Opened<'a> {
    fn new(content: Content<'a>) -> Result<Self> {
        Ok(match content.into_parts().1 {
            Body::Bytes(bytes) => Self::Bytes(bytes),
            Body::Range { file, offset } => Self::Range { file, offset },
            Body::Stream(stream) => Self::Stream(stream),
            Body::Sparse { packed, .. } => Self::Stream(packed),
            _ => return Err(Error::new(ErrorKind::NotSupported, "content of a form that is not known here")),
        })
    }

    /// Writes one piece. Of a stream pieces are taken in their order, and leave nothing out.
    fn write(&mut self, piece: Piece, out: &mut impl ImageWrite) -> Result<()> {
        let mut done = 0;
        while done < piece.len {
            let at = piece.offset + done;
            let n = out.fill_with(piece.len - done, &mut |memory| match self {
                Self::Bytes(bytes) => {
                    let from = bytes.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
                    let n = from.len().min(memory.len());
                    memory[..n].copy_from_slice(&from[..n]);
                    Ok(n)
                }
                Self::Range { file, offset } => again(|| file.read_at(memory, offset.saturating_add(at))),
                Self::Stream(stream) => again(|| stream.read(memory)),
            })?;
            if n == 0 {
                let message = format!("content ends {} bytes early", piece.len - done);
                return Err(Error::new(ErrorKind::Truncated, message));
            }
            done += n as u64;
        }
        Ok(())
    }
}

/// Reads, once more if a signal came between.
fn again(mut read: impl FnMut() -> io::Result<usize>) -> Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.during("read content"),
        }
    }
}

impl fmt::Debug for ErofsPlanner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsPlanner").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ErofsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsPlan").field("size", &self.size()).finish_non_exhaustive()
    }
}
