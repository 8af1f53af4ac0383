//! A journal into a sink, and into a tree.

use std::{collections::HashMap, fmt, io::BufRead};

use layer_model::{Error, ErrorKind, Result};

use super::{Line, Parser};
use crate::{
    CimOp, CimPath, CimSink,
    content::{Blob, Blobs, HashOnly},
    model::{ImageTree, ModelSink, Rules},
    path::PathKey,
};

/// Gives the merged hives that a journal only says have to be merged.
pub trait MergedHives {
    /// The hive `out`: `base`, a path of the host where the journal was written, merged with `delta`, which is in the
    /// layer directory. [`None`] when nobody here can merge it, so that it is passed on as it is.
    ///
    /// # Errors
    /// Those of merging.
    fn merged_hive(&mut self, base: &str, delta: &CimPath, out: &CimPath) -> Result<Option<Blob>>;
}

/// Does what a journal says to any sink.
///
/// ```
/// use cim_writer_abstraction::{content::MemoryBlobs, journal::{JournalSink, Replay}};
///
/// # fn main() -> layer_model::Result<()> {
/// let journal = concat!(
///     r#"{"op":"create_image","kind":"block","container":"C:\\1.vhd","name":"1.cim","parent":"","flags":24}"#, "\n",
///     r#"{"op":"tombstone","path":"Files"}"#, "\n",
///     r#"{"op":"commit"}"#, "\n",
///     r#"{"op":"close"}"#, "\n",
/// );
/// let mut again = JournalSink::new(Vec::new());
/// let replayed = Replay::new(&MemoryBlobs::default()).run(journal.as_bytes(), &mut again)?;
/// assert!(replayed.committed);
/// assert_eq!(again.finish()?, journal.as_bytes());
/// # Ok(())
/// # }
/// ```
pub struct Replay<'a> {
    content: &'a dyn Blobs,
    hives: Option<&'a mut dyn MergedHives>,
    verify: bool,
    beside: bool,
}

/// What a journal held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// How many lines.
    pub lines: u64,
    /// How many bytes of content.
    pub bytes: u64,
    /// Whether the image was committed. If not, and it was not discarded either, the journal is that of an import that
    /// was cut off.
    pub committed: bool,
    /// Whether the image was discarded.
    pub discarded: bool,
}

impl<'a> Replay<'a> {
    /// Takes the bytes of streams from `content`.
    pub fn new(content: &'a dyn Blobs) -> Self {
        Self { content, hives: None, verify: true, beside: false }
    }

    /// Merged hives come from `hives`, and are added as files. Without, they are passed on as they are.
    #[must_use]
    pub fn hives(mut self, hives: &'a mut dyn MergedHives) -> Self {
        self.hives = Some(hives);
        self
    }

    /// Whether bytes are checked against the digests in the journal, which is so unless said otherwise. A sink that
    /// hashes them itself may do without.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Whether footers and sidecars are passed on, with a zero identifier and no text: a journal does not have those.
    /// They are left out unless said otherwise.
    #[must_use]
    pub fn beside(mut self, beside: bool) -> Self {
        self.beside = beside;
        self
    }

    /// Does what `journal` says to `sink`, to its end.
    ///
    /// # Errors
    /// As [`Parser`] for what is no journal; [`ErrorKind::CorruptImage`] for data that does not belong to a stream, and
    /// a stream without its data; [`ErrorKind::NotFound`], [`ErrorKind::SizeMismatch`] and
    /// [`ErrorKind::DigestMismatch`] for content that is missing or not what the journal says; those of the sink. All
    /// name the line.
    pub fn run(self, journal: impl BufRead, sink: &mut dyn CimSink) -> Result<Replayed> {
        let mut driver = Driver { replay: self, sink, merges: HashMap::new() };
        walk(journal, &mut |step| driver.step(step))
    }
}

impl fmt::Debug for Replay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("content", &self.content).finish_non_exhaustive()
    }
}

/// The tree that a journal describes, without its content: a tree that is built where the journal was written is
/// like this one.
///
/// `parent` is the tree of the image that this one is forked from. Where the bytes are is for the caller to say
/// ([`ImageTree::set_contents`]).
///
/// # Errors
/// As [`Replay::run`]; [`ErrorKind::InvalidArgument`] when the image is forked and there is no parent, and the reverse;
/// [`ErrorKind::FailedPrecondition`] when the image was not committed.
pub fn read_tree(journal: impl BufRead, parent: Option<&ImageTree>, rules: Rules) -> Result<ImageTree> {
    let mut sink = None;
    walk(journal, &mut |step| {
        let sink = match (&mut sink, &step) {
            (Some(sink), _) => sink,
            (none, Step::Op(CimOp::CreateImage { kind, parent: name, .. })) => {
                let tree = match (name, parent) {
                    (Some(_), Some(parent)) => parent.fork().under(rules.clone()),
                    (None, None) => ImageTree::with_rules(*kind, rules.clone()),
                    (Some(name), None) => {
                        let what = format!("the image is forked from {name}, which is not given");
                        return Err(Error::new(ErrorKind::InvalidArgument, what));
                    }
                    (None, Some(_)) => {
                        let what = "a parent is given, and the image is not forked from any";
                        return Err(Error::new(ErrorKind::InvalidArgument, what));
                    }
                };
                none.insert(ModelSink::on(tree, HashOnly::default()))
            }
            _ => return Err(Error::new(ErrorKind::CorruptImage, "the journal does not begin with an image")),
        };
        match step {
            Step::Op(op) => sink.op(&op),
            Step::Data { sha256, .. } => sink.end_with(sha256),
        }
    })?;
    let uncommitted = || Error::new(ErrorKind::FailedPrecondition, "the journal is empty");
    Ok(sink.ok_or_else(uncommitted)?.finish()?.0)
}

/// What a journal says, in order: an operation, or the bytes of the open stream with its end.
enum Step<'a> {
    Op(CimOp<'a>),
    Data { len: u64, sha256: [u8; 32] },
}

/// Gives `take` all that a journal says.
fn walk(journal: impl BufRead, take: &mut dyn FnMut(Step<'_>) -> Result<()>) -> Result<Replayed> {
    let mut parser = Parser::new(journal);
    let mut replayed = Replayed::default();
    // The size of the stream whose data is to come.
    let mut owed = None;
    while let Some(line) = parser.next_line()? {
        replayed.lines += 1;
        let mut one = || match (&line, owed.take()) {
            (Line::Data { len, sha256 }, Some(size)) if *len == size => {
                replayed.bytes = replayed.bytes.saturating_add(size);
                take(Step::Data { len: size, sha256: *sha256 })
            }
            (Line::Data { len, .. }, Some(size)) => {
                let kind = ErrorKind::SizeMismatch { expected: size, got: *len };
                Err(Error::new(kind, "other data than the stream was announced with"))
            }
            (Line::Data { .. }, None) => {
                Err(Error::new(ErrorKind::CorruptImage, "data that does not belong to a stream"))
            }
            (Line::Discard, _) => {
                replayed.discarded = true;
                take(Step::Op(CimOp::Discard))
            }
            (_, Some(_)) => Err(Error::new(ErrorKind::CorruptImage, "a stream without its data")),
            (line, None) => {
                replayed.committed |= matches!(line, Line::Commit);
                let Some(op) = line.op() else { return Ok(()) };
                let size = match &op {
                    CimOp::CreateFile { size, .. } | CimOp::CreateStream { size, .. } => Some(*size),
                    _ => None,
                };
                take(Step::Op(op))?;
                match size {
                    Some(0) => take(Step::Op(CimOp::EndStream))?,
                    other => owed = other,
                }
                Ok(())
            }
        };
        one().map_err(|error| error.context(format_args!("line {} of the journal", parser.line_number())))?;
    }
    Ok(replayed)
}

struct Driver<'a, 's> {
    replay: Replay<'a>,
    sink: &'s mut dyn CimSink,
    /// By what they give: base and delta of the merges that the journal says have to be done.
    merges: HashMap<PathKey, (String, CimPath)>,
}

impl Driver<'_, '_> {
    fn step(&mut self, step: Step<'_>) -> Result<()> {
        match step {
            Step::Data { len, sha256 } => self.data(len, &sha256),
            Step::Op(CimOp::VhdFooter { .. } | CimOp::Sidecar { .. }) if !self.replay.beside => Ok(()),
            Step::Op(op @ CimOp::MergeHive { base, delta, out }) => {
                if self.replay.hives.is_some() {
                    self.merges.insert(out.key(), (base.to_owned(), delta.clone()));
                }
                self.sink.op(&op)
            }
            Step::Op(CimOp::AddMergedHive { path, meta }) => {
                let Some(hive) = self.merged(path)? else {
                    return self.sink.op(&CimOp::AddMergedHive { path, meta });
                };
                self.sink.op(&CimOp::CreateFile { path, meta, size: hive.size() })?;
                hive.content().read_into(&mut |bytes| self.sink.write(bytes))?;
                self.sink.op(&CimOp::EndStream)
            }
            Step::Op(op) => self.sink.op(&op),
        }
    }

    fn merged(&mut self, path: &CimPath) -> Result<Option<Blob>> {
        let Some(hives) = &mut self.replay.hives else { return Ok(None) };
        let Some((base, delta)) = self.merges.get(&path.key()) else {
            let what = "a merged hive of which nobody says what it is merged from";
            return Err(Error::new(ErrorKind::CorruptImage, what).entry(path));
        };
        hives.merged_hive(base, delta, path)
    }

    fn data(&mut self, len: u64, sha256: &[u8; 32]) -> Result<()> {
        let blob = self.replay.content.open(sha256)?;
        if blob.size() != len {
            let kind = ErrorKind::SizeMismatch { expected: len, got: blob.size() };
            return Err(Error::new(kind, "the content has another size than the journal says"));
        }
        let mut write = |bytes: &[u8]| self.sink.write(bytes);
        if self.replay.verify {
            blob.read_verified(sha256, &mut write)?;
        } else {
            blob.content().read_into(&mut write)?;
        }
        self.sink.op(&CimOp::EndStream)
    }
}
