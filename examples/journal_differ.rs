//! A differ of one's own: a journal of edits becomes a layer tar.
//!
//! Some file system keeps a journal of what was done to it; a layer is just that, in another form. This differ
//! reads a small text form of such a journal, and the rest of the road (tar, gzip, digests, store, appliers) is
//! layerkit's.
//!
//! ```sh
//! printf 'mkdir etc\nwrite etc/motd hello\nlink etc/issue ../motd\nrm tmp\n' | journal-differ > layer.tar
//! ```

use std::{io::Read, process::ExitCode};

use layerkit::{
    Base, Change, Differ, Entry, EntryKind, Error, ErrorKind, LayerPathBuf, LayerSource, Metadata, Monitor,
    Result, Silent,
    model::{Content, IoContext, road},
    tar::{TarSink, WriteOptions},
};

/// The text of a journal: the handle of this differ.
struct Journal(String);

/// Turns a journal into the changes of a layer. It needs nothing of the base: every line says all there is.
struct JournalDiffer;

impl<L> Differ<L> for JournalDiffer {
    type Upper = Journal;

    fn diff<'a>(
        &'a self,
        upper: &'a Journal,
        _base: Base<'a, L>,
        monitor: &'a dyn Monitor,
    ) -> Result<Box<dyn LayerSource + 'a>> {
        Ok(Box::new(Edits { lines: upper.0.lines().enumerate(), path: LayerPathBuf::root(), monitor }))
    }
}

struct Edits<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    path: LayerPathBuf,
    monitor: &'a dyn Monitor,
}

impl LayerSource for Edits<'_> {
    fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        if self.monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let Some((number, line)) = self.lines.next() else { return Ok(None) };
        let mut words = line.splitn(3, ' ');
        let (verb, path, rest) =
            (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
        self.path = LayerPathBuf::clean(path.as_bytes())?;
        let kind = match verb {
            Some("rm") => return Ok(Some(Change::remove(self.path.as_path()))),
            Some("mkdir") => EntryKind::Directory,
            Some("write") => EntryKind::File(Content::from_bytes(rest.as_bytes())),
            Some("link") => EntryKind::Symlink { target: rest.as_bytes() },
            _ => {
                let message = format!("line {} is no edit", number + 1);
                return Err(Error::new(ErrorKind::InvalidArgument, message).entry(line));
            }
        };
        let mode = if matches!(kind, EntryKind::Directory) { 0o755 } else { 0o644 };
        Ok(Some(Change::upsert(self.path.as_path(), Entry::new(kind, Metadata::file(mode)))))
    }
}

fn run() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).during("read the journal")?;
    let journal = Journal(text);
    let differ: &dyn Differ<layerkit::OverlayDir, Upper = Journal> = &JournalDiffer;
    let mut changes = differ.diff(&journal, Base::Unknown, &Silent)?;
    let sink = TarSink::new(std::io::stdout().lock(), WriteOptions::default(), &Silent);
    let (_, summary) = road::pump(&mut changes, sink, &Silent)?;
    eprintln!("{} entries, {} bytes", summary.entries, summary.size);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}
