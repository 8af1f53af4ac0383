//! Ingests: a directory each, locked while it has a writer, whose `data` becomes the blob by a rename.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::FileExt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use layer_model::{Digest, Digester, Error, ErrorKind, IoContext, ReadAt, Result, digest::Algorithm};
use rustix::fs::{self, Mode, Timespec, Timestamps};

use super::{
    INGEST, Inner, clock,
    dir::{self, Dir},
    lease,
    lock::{Edit, Turn, try_lock},
    size,
};
use crate::{CommitOptions, Committed, Hashing, Status, Writer, WriterOptions, filter::Filters, writer};

const DATA: &str = "data";
const REF: &str = "ref";
const STARTED: &str = "startedat";
const UPDATED: &str = "updatedat";
const TOTAL: &str = "total";

/// What is held back before it is written: large enough that the calls do not count, and that the bytes are
/// still in the cache when they are hashed.
const BUFFER: usize = 1024 * 1024;
/// How much is read at once where bytes are hashed again.
const PIECE: usize = 256 * 1024;
/// How often an ingest directory may vanish between being made and being locked. Each time somebody else
/// finished with it, so this is far more than ever happens.
const ATTEMPTS: usize = 1000;
/// More than any of the small files of an ingest has: the longest reference.
const SMALL: u64 = 4096;

/// The writer of one ingest.
pub(super) struct LocalWriter {
    store: Arc<Inner>,
    /// The lease that holds what is committed.
    lease: Option<String>,
    key: String,
    /// The directory of the ingest; its lock is ours as long as it is open.
    dir: Dir,
    data: File,
    opened: WriterOptions,
    /// As of the bytes in `data`.
    status: Status,
    /// Bytes that are not in `data` yet.
    held: Vec<u8>,
    /// Has taken all bytes in `data`, where they are hashed on the way.
    hasher: Option<Digester>,
    /// Whether the ingest is gone, as a blob or aborted.
    done: bool,
}

/// The name of the directory of an ingest: references are any text.
fn key(reference: &str) -> String {
    Digest::sha256(reference).encoded().to_owned()
}

impl LocalWriter {
    pub(super) fn open(
        store: &Arc<Inner>,
        reference: &str,
        options: &WriterOptions,
        lease: Option<String>,
    ) -> Result<Self> {
        writer::validate_reference(reference)?;
        let algorithm = options.hash_with()?;
        let key = key(reference);
        let ingests = store.root.make_dir(INGEST)?;
        let dir = lock_ingest(store, &ingests, &key, reference)?;
        // From here on dropping the guard gives the reference free.
        let guard = Registered::new(store, &key);
        if let Some(digest) = &options.digest
            && found(store, digest, lease.as_deref())?
        {
            // Whatever was begun under the reference is not needed any more.
            ingests.remove_dir(&key)?;
            return Err(writer::already_exists(digest));
        }
        let (data, status) = begin(&dir, reference, options.total)?;
        let opened = WriterOptions { total: status.total, ..options.clone() };
        let hasher = match options.hashing {
            // Reading it again is what a resumed ingest costs. A saved state of the hash would be cheaper,
            // and vouch for bytes that a power failure may have taken back.
            Hashing::OnWrite => Some(hash(&data, status.offset, algorithm)?),
            Hashing::AtCommit => None,
        };
        guard.keep();
        Ok(Self {
            store: Arc::clone(store),
            lease,
            key,
            dir,
            data,
            opened,
            status,
            held: Vec::new(),
            hasher,
            done: false,
        })
    }

    fn reference(&self) -> &str {
        &self.status.reference
    }

    fn error(&self, doing: &str, error: impl Into<io::Error>) -> Error {
        Error::io(doing, error).entry(self.reference())
    }

    /// Writes bytes to the file and hashes those that got there. Gives how many did, when it was not all.
    fn write_through(&mut self, bytes: &[u8]) -> Result<(), (usize, Error)> {
        let mut done = 0;
        let failed = loop {
            if done == bytes.len() {
                break None;
            }
            match self.data.write_at(&bytes[done..], self.status.offset + done as u64) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(error),
            }
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..done]);
        }
        self.status.offset += done as u64;
        self.status.updated = SystemTime::now();
        match failed {
            Some(error) => Err((done, self.error("write to an ingest", error))),
            None => self.check_aborted().map_err(|error| (done, error)),
        }
    }

    fn push(&mut self) -> Result<()> {
        let held = std::mem::take(&mut self.held);
        let result = self.write_through(&held);
        self.held = held;
        match result {
            Ok(()) => {
                self.held.clear();
                Ok(())
            }
            Err((done, error)) => {
                self.held.drain(..done);
                Err(error)
            }
        }
    }

    /// Whether somebody has aborted the ingest: its file has no name any more.
    fn is_aborted(&self) -> Result<bool> {
        let stat = fs::fstat(&self.data).map_err(|error| self.error("stat an ingest", error))?;
        Ok(stat.st_nlink == 0)
    }

    fn check_aborted(&self) -> Result<()> {
        if self.is_aborted()? { Err(writer::aborted(self.reference())) } else { Ok(()) }
    }

    /// Keeps what was written for the next writer, durably.
    fn keep(&mut self) -> Result<()> {
        self.push()?;
        self.check_aborted()?;
        self.data.sync_data().map_err(|error| self.error("sync an ingest", error))?;
        self.dir.write(UPDATED, clock::format(self.status.updated).as_bytes())?;
        self.dir.sync()?;
        self.store.root.make_dir(INGEST)?.sync()
    }

    /// What remains to be done when the bytes are known to be the blob `digest`. Gives whether it existed.
    fn publish(&mut self, digest: &Digest, options: &CommitOptions) -> Result<bool> {
        let labels = options.stored_labels()?;
        let stat = fs::fstat(&self.data).map_err(|error| self.error("stat an ingest", error))?;
        let read_only = Mode::from_raw_mode(stat.st_mode & 0o777 & !0o333);
        let now = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
        fs::fchmod(&self.data, read_only)
            .and_then(|()| fs::futimens(&self.data, &Timestamps { last_access: now, last_modification: now }))
            .map_err(|error| self.error("set the mode and times of a blob", error))?;
        self.data.sync_all().map_err(|error| self.error("sync a blob", error))?;

        let sidecar = self.store.sidecar()?;
        let _turn = Turn::shared(sidecar)?;
        let blobs = self.store.blobs.make_dir(digest.algorithm_name())?;
        if let Some(id) = &self.lease {
            lease::hold(&self.store, id, digest)?;
        }
        let existed = {
            // Held over "is it there", "its labels", "now it is": else the labels of a commit that comes
            // second would replace those of the first.
            let _edit = Edit::take(sidecar)?;
            if blobs.stat(digest.encoded())?.is_some() {
                true
            } else {
                if self.store.options.labels {
                    self.store.set_labels(digest, &labels)?;
                }
                match self.dir.rename_new(DATA, &blobs, digest.encoded()) {
                    Ok(moved) => !moved,
                    Err(error) if *error.kind() == ErrorKind::NotFound => {
                        return Err(writer::aborted(self.reference()).cause(error));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if existed {
            // Makes it young for the collector. Where it is not ours to touch, the lease has to do.
            let _ = blobs.touch(digest.encoded());
        }
        // Also when it existed: whoever made it may not have got here yet, and the caller counts on it now.
        blobs.sync()?;
        Ok(existed)
    }

    fn remove_ingest(&mut self) -> Result<()> {
        self.done = true;
        match self.store.root.find_dir(INGEST)? {
            Some(ingests) => ingests.remove_dir(&self.key),
            None => Ok(()),
        }
    }
}

impl io::Write for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(total) = self.opened.total {
            let size = self.status.offset + self.held.len() as u64 + bytes.len() as u64;
            if size > total {
                return Err(writer::beyond_total(self.reference(), total, size).into());
            }
        }
        if self.held.is_empty() && bytes.len() >= BUFFER {
            return match self.write_through(bytes) {
                Ok(()) => Ok(bytes.len()),
                Err((0, error)) => Err(error.into()),
                // The rest is tried again, and fails again.
                Err((done, _)) => Ok(done),
            };
        }
        if self.held.len() == BUFFER {
            self.push()?;
        }
        if self.held.capacity() == 0 {
            self.held.reserve_exact(BUFFER);
        }
        let n = bytes.len().min(BUFFER - self.held.len());
        self.held.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.push()?)
    }
}

impl Writer for LocalWriter {
    fn status(&self) -> Status {
        Status { offset: self.status.offset + self.held.len() as u64, ..self.status.clone() }
    }

    fn digest(&mut self) -> Result<Digest> {
        self.push()?;
        match &self.hasher {
            Some(hasher) => Ok(hasher.clone().finish()),
            None => Ok(hash(&self.data, self.status.offset, self.opened.hash_with()?)?.finish()),
        }
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.push()?;
        if size > self.status.offset {
            return Err(writer::truncate_beyond_end(self.reference(), size));
        }
        self.data.set_len(size).map_err(|error| self.error("truncate an ingest", error))?;
        self.status.offset = size;
        if self.hasher.is_some() {
            self.hasher = Some(hash(&self.data, size, self.opened.hash_with()?)?);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.push()?;
        self.check_aborted()?;
        self.data.sync_data().map_err(|error| self.error("sync an ingest", error))
    }

    fn commit(mut self: Box<Self>, options: &CommitOptions) -> Result<Committed> {
        options.stored_labels()?;
        self.push()?;
        self.check_aborted()?;
        let size = self.status.offset;
        let in_file = ReadAt::len(&self.data).during("size of an ingest")?;
        if in_file != size {
            let message = format!("an ingest of {size} bytes has {in_file}: somebody else writes to it");
            return Err(Error::new(ErrorKind::FailedPrecondition, message).entry(self.reference()));
        }
        let running = self.hasher.clone().map(Digester::finish);
        let rehash = &mut |algorithm| Ok(hash(&self.data, size, algorithm)?.finish());
        let digest = writer::settle(options, &self.opened, size, running, rehash)
            .map_err(|error| error.entry(self.reference()))?;

        let existed = self.publish(&digest, options)?;
        let cleaned = self.remove_ingest();
        if existed {
            return Err(writer::already_exists(&digest));
        }
        let mut committed = Committed::new(digest, size);
        committed.warnings.extend(cleaned.err());
        if !self.store.options.labels && !options.labels.is_empty() {
            committed.warnings.push(Error::new(ErrorKind::FailedPrecondition, "this store keeps no labels"));
        }
        Ok(committed)
    }

    fn close(mut self: Box<Self>) -> Result<Status> {
        self.keep()?;
        self.done = true;
        Ok(self.status.clone())
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if !self.done {
            // Nobody is there to be told; `close` tells.
            let _ = match self.is_aborted() {
                Ok(true) => self.remove_ingest(),
                _ => self.keep(),
            };
        }
        // Before the lock goes with `dir`: after that the entry may be that of the next writer.
        forget(&self.store, &self.key);
    }
}

/// The entry in the table of writers, until a writer takes it over.
struct Registered<'a>(Option<(&'a Inner, &'a str)>);

impl<'a> Registered<'a> {
    fn new(store: &'a Inner, key: &'a str) -> Self {
        let mut writers = store.writers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        writers.insert(key.to_owned(), Instant::now());
        Self(Some((store, key)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some((store, key)) = self.0 {
            forget(store, key);
        }
    }
}

fn forget(store: &Inner, key: &str) {
    store.writers.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(key);
}

/// Makes the directory of an ingest, where it is missing, and locks it.
fn lock_ingest(store: &Inner, ingests: &Dir, key: &str, reference: &str) -> Result<Dir> {
    for _ in 0..ATTEMPTS {
        // Not synced: until the bytes are, there is nothing to lose.
        ingests.create_dir(key)?;
        let Some(dir) = ingests.find_dir(key)? else { continue };
        if !try_lock(&dir)? {
            let writers = store.writers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let since = match writers.get(key).map(Instant::elapsed) {
                Some(age) => format!("for {:.1} s", age.as_secs_f64()),
                None => "opened by another process or store".to_owned(),
            };
            let message = format!("the reference has another writer, {since}");
            return Err(Error::new(ErrorKind::Unavailable, message).entry(reference));
        }
        // The one that held the lock may have finished, and removed the directory that we opened.
        if ingests.still_is(key, &dir)? {
            return Ok(dir);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the reference is too busy").entry(reference))
}

/// Goes on with what is in the directory, or starts over.
fn begin(dir: &Dir, reference: &str, total: Option<u64>) -> Result<(File, Status)> {
    let stored = read(dir).ok().flatten().filter(|stored| {
        let total = total.or(stored.total);
        stored.reference == reference
            && stored.total.is_none_or(|stored| Some(stored) == total)
            && total.is_none_or(|total| stored.offset <= total)
    });
    let status = match stored {
        Some(stored) => Status { total: total.or(stored.total), ..stored },
        None => {
            // `data` comes last: without it, there is no ingest.
            dir.remove(DATA)?;
            let status = Status::new(reference, total, SystemTime::now());
            dir.write(REF, reference.as_bytes())?;
            dir.write(STARTED, clock::format(status.started).as_bytes())?;
            dir.write(UPDATED, clock::format(status.started).as_bytes())?;
            dir.remove(TOTAL)?;
            status
        }
    };
    if let Some(total) = status.total.filter(|total| *total > 0) {
        dir.write(TOTAL, total.to_string().as_bytes())?;
    }
    Ok((dir.make_file(DATA)?, status))
}

/// The status of the ingest in a directory, if there is one.
fn read(dir: &Dir) -> Result<Option<Status>> {
    let Some(data) = dir.stat(DATA)?.filter(dir::is_regular) else { return Ok(None) };
    let text = |name| Ok::<_, Error>(dir.read(name, SMALL)?.and_then(|bytes| String::from_utf8(bytes).ok()));
    let Some(reference) = text(REF)?.filter(|reference| !reference.is_empty()) else { return Ok(None) };
    let modified = dir::modified(&data);
    // Times that a power failure has taken are guessed.
    let started = text(STARTED)?.and_then(|text| clock::parse(&text)).unwrap_or(modified);
    let updated = text(UPDATED)?.and_then(|text| clock::parse(&text)).map_or(modified, |at| at.max(modified));
    let total = text(TOTAL)?.and_then(|text| text.parse().ok()).filter(|total| *total > 0);
    Ok(Some(Status { offset: size(&data), updated, ..Status::new(reference, total, started) }))
}

/// Whether a blob is there; then it is held by the lease, and young.
fn found(store: &Inner, digest: &Digest, lease: Option<&str>) -> Result<bool> {
    if store.stat(digest).is_err_and(|error| *error.kind() == ErrorKind::NotFound) {
        return Ok(false);
    }
    let _turn = Turn::shared(store.sidecar()?)?;
    if let Some(id) = lease {
        lease::hold(store, id, digest)?;
    }
    // Looked at again, now that no collector is at work.
    match store.stat(digest) {
        Ok(_) => {}
        Err(error) if *error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    if let Some(dir) = store.blobs.find_dir(digest.algorithm_name())? {
        let _ = dir.touch(digest.encoded());
    }
    Ok(true)
}

pub(super) fn status(store: &Inner, reference: &str) -> Result<Status> {
    let ingests = store.root.find_dir(INGEST)?;
    let dir = ingests.map(|ingests| ingests.find_dir(&key(reference))).transpose()?.flatten();
    let status = dir.map(|dir| read(&dir)).transpose()?.flatten();
    status.filter(|status| status.reference == reference).ok_or_else(|| writer::no_such_ingest(reference))
}

pub(super) fn list(store: &Inner, filters: &Filters) -> Result<Vec<Status>> {
    let mut all = Vec::new();
    if let Some(ingests) = store.root.find_dir(INGEST)? {
        for name in ingests.names()? {
            if ingests.stat(&name)?.is_some_and(|stat| dir::is_dir(&stat))
                && let Some(dir) = ingests.find_dir(&name)?
                && let Some(status) = read(&dir)?
            {
                all.push(status);
            }
        }
    }
    all.retain(|status| status.passes(filters));
    all.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(all)
}

pub(super) fn abort(store: &Inner, reference: &str) -> Result<()> {
    let none = || writer::no_such_ingest(reference);
    let ingests = store.root.find_dir(INGEST)?.ok_or_else(none)?;
    let key = key(reference);
    let dir = ingests.find_dir(&key)?.ok_or_else(none)?;
    // First of all: a writer at work sees it, and its commit cannot happen any more.
    let was_there = dir.remove(DATA)?;
    if try_lock(&dir)? && ingests.still_is(&key, &dir)? {
        ingests.remove_dir(&key)?;
    }
    // Else the writer removes the rest when it goes.
    if was_there { Ok(()) } else { Err(none()) }
}

/// What the collector removed of the ingests.
pub(super) enum Swept {
    /// An ingest that nobody has gone on with.
    Abandoned(String),
    /// A directory that an interrupted commit or abort has left.
    Debris,
}

/// Removes what is left over, and, with `abandoned`, ingests that have waited that long. Never one that has a
/// writer.
pub(super) fn sweep(store: &Inner, abandoned: Option<Duration>, dry_run: bool) -> Result<Vec<Swept>> {
    let mut swept = Vec::new();
    let Some(ingests) = store.root.find_dir(INGEST)? else { return Ok(swept) };
    for name in ingests.names()? {
        if !ingests.stat(&name)?.is_some_and(|stat| dir::is_dir(&stat)) {
            continue;
        }
        let Some(dir) = ingests.find_dir(&name)? else { continue };
        if !try_lock(&dir)? || !ingests.still_is(&name, &dir)? {
            continue;
        }
        let found = match read(&dir)? {
            None => Swept::Debris,
            Some(status) => {
                let age = SystemTime::now().duration_since(status.updated).unwrap_or_default();
                match abandoned {
                    Some(limit) if age >= limit => Swept::Abandoned(status.reference),
                    _ => continue,
                }
            }
        };
        if !dry_run {
            ingests.remove_dir(&name)?;
        }
        swept.push(found);
    }
    Ok(swept)
}

/// The names among the ingests that are none: what interruptions have left, and what others have put there.
pub(super) fn debris(ingests: &Dir) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in ingests.names()? {
        let is_ingest = match ingests.stat(&name)? {
            None => true,
            Some(stat) if dir::is_dir(&stat) => match ingests.find_dir(&name)? {
                // One that is locked is at its beginning or its end.
                Some(dir) => read(&dir)?.is_some() || !try_lock(&dir)?,
                None => true,
            },
            Some(_) => false,
        };
        if !is_ingest {
            found.push(name);
        }
    }
    Ok(found)
}

/// Hashes the first `len` bytes of a file.
fn hash(data: &File, len: u64, algorithm: Algorithm) -> Result<Digester> {
    let mut hasher = Digester::new(algorithm);
    if len == 0 {
        return Ok(hasher);
    }
    let mut buffer = vec![0; PIECE];
    while hasher.count() < len {
        let want = buffer.len().min(usize::try_from(len - hasher.count()).unwrap_or(buffer.len()));
        let at = hasher.count();
        ReadAt::read_exact_at(data, &mut buffer[..want], at).during("read an ingest")?;
        hasher.write_all(&buffer[..want]).during("hash an ingest")?;
    }
    Ok(hasher)
}
