//! What can be done with any store: wait for a writer, copy into it, take "is there already" for success.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io::{self, Read, Seek, SeekFrom},
    thread,
    time::Duration,
};

use layer_model::{Digest, Error, ErrorKind, IoContext, Monitor, ReadAt, Result};

use crate::{
    CommitOptions, Committed, ContentStore, LabelUpdate, TrustedDigest, Writer, WriterOptions, store::Hashing,
};

/// How much [`ContentStoreExt::copy`] moves at once: large enough that the system calls do not count.
const PIECE: usize = 1024 * 1024;
/// The first wait for a reference that has a writer, and where doubling ends; containerd's figures.
const FIRST_WAIT: Duration = Duration::from_millis(16);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long a wait may go on without asking the monitor.
const ATTENTION: Duration = Duration::from_millis(50);

/// Helpers on every [`ContentStore`].
pub trait ContentStoreExt: ContentStore {
    /// As [`ContentStore::writer`], but waits while the reference has another writer, until the monitor
    /// wants to stop. Waits double from 16 ms to 2 s, with jitter.
    ///
    /// # Errors
    /// As [`ContentStore::writer`]; [`ErrorKind::Cancelled`].
    fn open_writer(
        &self,
        reference: &str,
        options: &WriterOptions,
        monitor: &dyn Monitor,
    ) -> Result<Box<dyn Writer>> {
        let mut wait = FIRST_WAIT;
        loop {
            match self.writer(reference, options) {
                Err(error) if *error.kind() == ErrorKind::Unavailable => pause(jittered(wait), monitor)?,
                done => return done,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Copies the rest of `source` into `writer` and commits. Bytes that the ingest holds already are taken
    /// from it, not from the source: it is read from there on.
    ///
    /// A blob that is there already is success; labels that it lacks are added to it.
    ///
    /// # Errors
    /// - [`ErrorKind::Truncated`]: the source ends before the size expected; the bytes are kept.
    /// - [`ErrorKind::SizeMismatch`]: it goes on after the total announced to the writer.
    /// - As [`Writer::commit`]; [`ErrorKind::Cancelled`]: the bytes are kept.
    fn copy(
        &self,
        mut writer: Box<dyn Writer>,
        source: Source<'_>,
        options: &CommitOptions,
        monitor: &dyn Monitor,
    ) -> Result<Committed> {
        let start = writer.status();
        if let Err(error) = fill(&mut *writer, source, options.size.or(start.total), monitor) {
            // Dropping would do, but an ingest that cannot be kept is worth more than a cancelled copy.
            let _ = writer.close();
            return Err(error.entry(&start.reference));
        }
        self.publish(writer, options)
    }

    /// Commits, taking a blob that is there already for success; labels that it lacks are added to it.
    ///
    /// # Errors
    /// As [`Writer::commit`], without [`ErrorKind::AlreadyExists`].
    fn publish(&self, mut writer: Box<dyn Writer>, options: &CommitOptions) -> Result<Committed> {
        let mut options = options.clone();
        let size = writer.status().offset;
        // To find the blob that is there, its name has to be known; this hashes only what the commit then
        // need not hash.
        let digest = match (&options.digest, &options.trusted) {
            (Some(expected), _) => expected.clone(),
            (None, Some(trusted)) => trusted.digest().clone(),
            (None, None) => {
                let digest = writer.digest()?;
                options.trusted = Some(TrustedDigest::computed_over(size, digest.clone()));
                digest
            }
        };
        match writer.commit(&options) {
            Err(error) if *error.kind() == ErrorKind::AlreadyExists => self.found(&digest, &options),
            done => done,
        }
    }

    /// Writes a whole blob under a reference, going on where an earlier attempt ended. Digest, size and
    /// labels are those of `options`.
    ///
    /// A blob that is there already is success, without reading the source when the digest is expected.
    ///
    /// # Errors
    /// As [`open_writer`](Self::open_writer) and [`copy`](Self::copy).
    fn write_blob(
        &self,
        reference: &str,
        source: Source<'_>,
        options: &CommitOptions,
        monitor: &dyn Monitor,
    ) -> Result<Committed> {
        let mut opening =
            WriterOptions { digest: options.digest.clone(), total: options.size, ..Default::default() };
        if options.trusted.is_some() {
            opening.hashing = Hashing::AtCommit;
        }
        loop {
            let error = match self.open_writer(reference, &opening, monitor) {
                Ok(writer) => return self.copy(writer, source, options, monitor),
                Err(error) => error,
            };
            match &options.digest {
                Some(digest) if *error.kind() == ErrorKind::AlreadyExists => {
                    match self.found(digest, options) {
                        // Deleted between the two calls: then it is written after all.
                        Err(error) if *error.kind() == ErrorKind::NotFound => {}
                        done => return done,
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// The whole of a small blob, its digest and, when given, its size checked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::SizeMismatch`], [`ErrorKind::DigestMismatch`];
    /// [`ErrorKind::LimitExceeded`] above `limit` bytes, before they are read.
    fn read_blob(&self, digest: &Digest, size: Option<u64>, limit: u64) -> Result<Vec<u8>> {
        let reader = self.reader(digest)?;
        let len = reader.len().during("size of a blob")?;
        let fail = |kind, message: &str| Err(Error::new(kind, message).entry(digest.as_str()));
        if let Some(expected) = size.filter(|size| *size != len) {
            return fail(
                ErrorKind::SizeMismatch { expected, got: len },
                "not the size that the descriptor says",
            );
        }
        if len > limit {
            return fail(
                ErrorKind::LimitExceeded { limit: "max_document" },
                "blob too large to be read whole",
            );
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        reader
            .read_exact_at(&mut bytes, 0)
            .during("read a blob")
            .map_err(|error| error.entry(digest.as_str()))?;
        let mut digester = layer_model::Digester::new(crate::store::computable(digest)?);
        digester.update(&bytes);
        let got = digester.finish();
        if got != *digest {
            return fail(ErrorKind::DigestMismatch { expected: digest.clone(), got }, "the blob is damaged");
        }
        Ok(bytes)
    }

    #[doc(hidden)]
    fn found(&self, digest: &Digest, options: &CommitOptions) -> Result<Committed> {
        let mut info = self.info(digest)?;
        let mut committed = Committed::new(digest.clone(), info.size);
        committed.existed = true;
        if let Some(expected) = options.size.filter(|size| *size != info.size) {
            let kind = ErrorKind::SizeMismatch { expected, got: info.size };
            return Err(Error::new(kind, "the blob that is there has another size").entry(digest.as_str()));
        }
        let missing = options.stored_labels()?;
        if missing.keys().any(|key| !info.labels.contains_key(key)) {
            match self.update(digest, &LabelUpdate::AddMissing(missing)) {
                Ok(after) => info = after,
                // A store without labels did not keep those of a new blob either.
                Err(error) if *error.kind() == ErrorKind::FailedPrecondition => {
                    committed.warnings.push(error)
                }
                Err(error) => return Err(error),
            }
        }
        committed.size = info.size;
        Ok(committed)
    }
}

impl<S: ContentStore + ?Sized> ContentStoreExt for S {}

/// Where the bytes of a copy come from, as far as it can be entered in the middle.
pub enum Source<'a> {
    /// Only from front to back: what the ingest holds already is read and thrown away.
    Stream(&'a mut dyn Read),
    /// With a position that can be set; byte 0 is the first of the blob.
    Seek(&'a mut dyn ReadSeek),
    /// At any place.
    At(&'a dyn ReadAt),
}

/// [`Read`] and [`Seek`] in one.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek + ?Sized> ReadSeek for T {}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream(_) => "Source::Stream",
            Self::Seek(_) => "Source::Seek",
            Self::At(_) => "Source::At",
        })
    }
}

/// Appends what the ingest lacks.
fn fill(writer: &mut dyn Writer, source: Source<'_>, size: Option<u64>, monitor: &dyn Monitor) -> Result<()> {
    let mut offset = writer.status().offset;
    let read = |error| Error::io("read the source of a blob", error);
    let mut at_reader;
    let stream: &mut dyn Read = match source {
        Source::Stream(stream) => {
            let skipped = io::copy(&mut (&mut *stream).take(offset), &mut io::sink()).map_err(read)?;
            if skipped < offset {
                return Err(ends_early(skipped, size));
            }
            stream
        }
        Source::Seek(stream) => {
            stream.seek(SeekFrom::Start(offset)).map_err(read)?;
            stream
        }
        Source::At(source) => {
            at_reader = AtReader { source, at: offset };
            &mut at_reader
        }
    };
    let mut buffer =
        vec![0; size.map_or(PIECE, |size| PIECE.min(usize::try_from(size).unwrap_or(PIECE).max(1)))];
    loop {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let n = match stream.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        if n == 0 {
            break;
        }
        writer.write_all(&buffer[..n]).during("write to the store")?;
        offset += n as u64;
        monitor.bytes(n as u64);
    }
    match size {
        Some(size) if offset < size => Err(ends_early(offset, Some(size))),
        _ => Ok(()),
    }
}

fn ends_early(at: u64, size: Option<u64>) -> Error {
    let of = size.map_or(String::new(), |size| format!(" of {size}"));
    Error::new(ErrorKind::Truncated, format!("the source ends after {at}{of} bytes")).offset(at)
}

struct AtReader<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

impl Read for AtReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Between half of `wait` and all of it, so that writers that met once do not meet forever.
fn jittered(wait: Duration) -> Duration {
    // The hasher's keys are random for each call; this needs no better randomness.
    let random = RandomState::new().hash_one(0_u8);
    wait / 2 + wait.mul_f64((random >> 40) as f64 / (1_u64 << 25) as f64)
}

fn pause(mut wait: Duration, monitor: &dyn Monitor) -> Result<()> {
    while !wait.is_zero() {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let nap = wait.min(ATTENTION);
        thread::sleep(nap);
        wait -= nap;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_half_and_all() {
        for _ in 0..1000 {
            let wait = jittered(LONGEST_WAIT);
            assert!(wait >= LONGEST_WAIT / 2 && wait <= LONGEST_WAIT, "{wait:?}");
        }
    }

    #[test]
    fn a_pause_ends_when_the_monitor_wants_to_stop() {
        struct Stop;
        impl Monitor for Stop {
            fn should_stop(&self) -> bool {
                true
            }
        }
        assert_eq!(pause(Duration::from_secs(60), &Stop).unwrap_err().kind(), &ErrorKind::Cancelled);
    }
}
