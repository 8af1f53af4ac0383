//! Images that are written from start to end: into a pipe, a digest, a store.
//!
//! Metadata comes first in such an image, and says where all content lies. So content is read after all changes are known,
//! from the tree that they lead to.

use std::{
    fmt,
    io::{self, Write},
    thread,
};

use erofs_format::{ImagePlan, Piece};
use layer_model::{
    Action, Base, Change, EntryKind, Error, ErrorKind, IoContext, LayerSink, LayerTree, Monitor, ReadAt,
    Result,
};

use super::{
    ErofsOptions, ErofsWritten,
    ahead::{Ahead, Reader},
    erofs_error,
    files::{FileList, ListedFile, Opener},
    output::{Output, Planned},
    tree::Builder,
};
use crate::lowers::{Lowers, Parents};

/// Takes the changes of a layer, but not their content, and makes the [`ErofsPlan`] of an image.
pub struct ErofsPlanner<'m> {
    builder: Builder<'m, io::Empty>,
    files: FileList,
}

/// An image of which everything is known but the content of its files.
pub struct ErofsPlan {
    plan: ImagePlan,
    /// The files with content, in the order of the changes: their numbers are the tokens of the plan.
    files: FileList,
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
        Ok(Self { builder, files: FileList::default() })
    }
}

impl LayerSink for ErofsPlanner<'_> {
    type Output = ErofsPlan;

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        if let Action::Upsert(entry) = &change.action
            && let EntryKind::File(content) = &entry.kind
            && !content.is_empty()
        {
            if let Output::Planned(planned) = &mut self.builder.writer {
                planned.token = self.files.len();
            }
            self.files.push(change.path, content.len());
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

impl ErofsPlan {
    /// How large the image will be, in bytes.
    pub fn size(&self) -> u64 {
        self.plan.size()
    }

    /// Writes the image, with the content of the files of `tree`: what the planned changes make of the layers below.
    ///
    /// A thread of this call has the kernel read files ahead when they are not in its cache.
    ///
    /// # Errors
    /// [`ErrorKind::FileChanged`] if a file is not what it was when it was planned; those of the tree and of the output.
    pub fn write<W: ImageWrite>(
        &self,
        tree: &dyn LayerTree,
        out: W,
        monitor: &dyn Monitor,
    ) -> Result<(W, ErofsWritten)> {
        let ahead = Ahead::default();
        thread::scope(|scope| {
            // Where the system has no more threads, files are read when their turn comes.
            let ask = || drop(ahead.ask(tree, &self.files));
            let _ = thread::Builder::new().name("read-ahead".into()).spawn_scoped(scope, ask);
            self.write_read_by(ahead.reader(), tree, out, monitor)
        })
    }

    fn write_read_by<W: ImageWrite>(
        &self,
        reader: Reader<'_>,
        tree: &dyn LayerTree,
        out: W,
        monitor: &dyn Monitor,
    ) -> Result<(W, ErofsWritten)> {
        let (mut out, image) = self.plan.write_before_data(out).map_err(erofs_error)?;
        let mut at = self.plan.metadata_size();
        let mut pieces = self.plan.pieces().peekable();
        let (mut opener, mut files) = (Opener::new(tree), self.files.reader());
        let mut token = 0;
        while let Some(ListedFile { path, size }) = files.next_file()? {
            // What was replaced has no place in the image.
            if pieces.peek().is_some_and(|piece| piece.token == token) {
                if monitor.should_stop() {
                    return Err(Error::cancelled());
                }
                let file = PlannedFile { file: opener.open(path)?, size, reader: &reader };
                while let Some(piece) = pieces.next_if(|piece| piece.token == token) {
                    zeros(&mut out, piece.position - at)?;
                    file.write(piece, &mut out).map_err(|error| error.at(path))?;
                    monitor.bytes(piece.len);
                    at = piece.position + piece.len;
                }
                file.check().map_err(|error| error.at(path))?;
            }
            reader.through(size);
            token += 1;
        }
        zeros(&mut out, self.plan.size() - at)?;
        let (entries, bytes) = (self.entries, self.bytes);
        Ok((out, ErofsWritten { image, entries, bytes, implied_dirs: Vec::new() }))
    }
}

fn zeros(out: &mut impl Write, mut len: u64) -> Result<()> {
    while len > 0 {
        let n = len.min(4096);
        out.write_all(&[0; 4096][..n as usize]).during("write image")?;
        len -= n;
    }
    Ok(())
}

/// A file that has to have the size that it was planned with.
struct PlannedFile<'a> {
    file: Box<dyn ReadAt>,
    size: u64,
    reader: &'a Reader<'a>,
}

impl PlannedFile<'_> {
    fn write(&self, piece: Piece, out: &mut impl ImageWrite) -> Result<()> {
        let mut done = 0;
        while done < piece.len {
            let n = out.fill_with(piece.len - done, &mut |memory| {
                let read = || self.file.read_some_at(memory, piece.offset + done);
                self.reader.timed(read).during("read file")
            })?;
            if n == 0 {
                return Err(Error::changed_size(self.size));
            }
            done += n as u64;
        }
        Ok(())
    }

    /// Sees whether the file has grown.
    fn check(&self) -> Result<()> {
        if self.file.len().during("stat file")? == self.size {
            Ok(())
        } else {
            Err(Error::changed_size(self.size))
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
