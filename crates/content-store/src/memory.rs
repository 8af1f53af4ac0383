//! A store in memory: for tests of what embeds a store, and for blobs that never need a disk.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard},
    time::SystemTime,
};

use layer_model::{Digest, Digester, Error, ErrorKind, ReadAt, Result, digest::Algorithm};

use crate::{
    CommitOptions, Committed, ContentStore, Hashing, Info, LabelUpdate, Labels, Status, Writer,
    WriterOptions, filter::Filters, writer,
};

/// Blobs in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    blobs: BTreeMap<Digest, Blob>,
    ingests: BTreeMap<String, Ingest>,
    /// How many writers there have been, to tell them apart.
    writers: u64,
}

struct Blob {
    bytes: Arc<Vec<u8>>,
    labels: Labels,
    created: SystemTime,
    updated: SystemTime,
}

struct Ingest {
    bytes: Vec<u8>,
    status: Status,
    /// The number of the writer at work.
    writer: Option<u64>,
    aborted: bool,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between two changes that belong together, so what a poisoned lock guards is sound.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        let digests: Vec<_> = inner.blobs.keys().collect();
        let references: Vec<_> = inner.ingests.keys().collect();
        f.debug_struct("MemoryStore").field("blobs", &digests).field("ingests", &references).finish()
    }
}

impl Blob {
    fn info(&self, digest: &Digest) -> Info {
        Info::new(
            digest.clone(),
            self.bytes.as_slice().len() as u64,
            self.created,
            self.updated,
            self.labels.clone(),
        )
    }
}

impl ContentStore for MemoryStore {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let inner = self.lock();
        inner.blobs.get(digest).map(|blob| blob.info(digest)).ok_or_else(|| writer::no_such_blob(digest))
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn ReadAt>> {
        let inner = self.lock();
        let blob = inner.blobs.get(digest).ok_or_else(|| writer::no_such_blob(digest))?;
        Ok(Box::new(Arc::clone(&blob.bytes)))
    }

    fn writer(&self, reference: &str, options: &WriterOptions) -> Result<Box<dyn Writer>> {
        writer::validate_reference(reference)?;
        let algorithm = options.hash_with()?;
        let mut inner = self.lock();
        let now = SystemTime::now();
        if inner.ingests.get(reference).is_some_and(|ingest| ingest.writer.is_some()) {
            return Err(
                Error::new(ErrorKind::Unavailable, "the reference has another writer").entry(reference)
            );
        }
        if let Some(digest) = options.digest.as_ref().filter(|digest| inner.blobs.contains_key(digest)) {
            inner.ingests.remove(reference);
            return Err(writer::already_exists(digest));
        }
        let fresh = || Ingest {
            bytes: Vec::new(),
            status: Status::new(reference, options.total, now),
            writer: None,
            aborted: false,
        };
        inner.writers += 1;
        let number = inner.writers;
        let ingest = inner.ingests.entry(reference.to_owned()).or_insert_with(fresh);
        let total = options.total.or(ingest.status.total);
        if ingest.status.total.is_some_and(|stored| Some(stored) != total)
            || total.is_some_and(|total| ingest.bytes.len() as u64 > total)
        {
            *ingest = fresh();
        }
        ingest.status.total = total;
        ingest.writer = Some(number);
        let mut hasher = (options.hashing == Hashing::OnWrite).then(|| Digester::new(algorithm));
        if let Some(hasher) = &mut hasher {
            hasher.update(&ingest.bytes);
        }
        let opened = WriterOptions { total, ..options.clone() };
        Ok(Box::new(MemoryWriter {
            store: self.clone(),
            number,
            reference: reference.to_owned(),
            opened,
            hasher,
        }))
    }

    fn update(&self, digest: &Digest, update: &LabelUpdate) -> Result<Info> {
        let mut inner = self.lock();
        let blob = inner.blobs.get_mut(digest).ok_or_else(|| writer::no_such_blob(digest))?;
        blob.labels = update.apply(&blob.labels)?;
        blob.updated = SystemTime::now();
        Ok(blob.info(digest))
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        self.lock().blobs.remove(digest).map(drop).ok_or_else(|| writer::no_such_blob(digest))
    }

    fn walk(&self, filters: &Filters, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        // The visitor may call the store, so it is not called under the lock.
        let all: Vec<_> = self.lock().blobs.iter().map(|(digest, blob)| blob.info(digest)).collect();
        all.into_iter().filter(|info| info.passes(filters)).try_for_each(visit)
    }

    fn status(&self, reference: &str) -> Result<Status> {
        let inner = self.lock();
        let ingest = inner.ingests.get(reference).filter(|ingest| !ingest.aborted);
        ingest.map(Ingest::status).ok_or_else(|| writer::no_such_ingest(reference))
    }

    fn list_statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        let inner = self.lock();
        let all = inner.ingests.values().filter(|ingest| !ingest.aborted).map(Ingest::status);
        Ok(all.filter(|status| status.passes(filters)).collect())
    }

    fn abort(&self, reference: &str) -> Result<()> {
        let mut inner = self.lock();
        let ingest = inner.ingests.get_mut(reference).filter(|ingest| !ingest.aborted);
        let ingest = ingest.ok_or_else(|| writer::no_such_ingest(reference))?;
        if ingest.writer.is_some() {
            ingest.aborted = true;
        } else {
            inner.ingests.remove(reference);
        }
        Ok(())
    }
}

impl Ingest {
    fn status(&self) -> Status {
        Status { offset: self.bytes.len() as u64, ..self.status.clone() }
    }
}

struct MemoryWriter {
    store: MemoryStore,
    number: u64,
    reference: String,
    opened: WriterOptions,
    /// Has taken all bytes of the ingest, where they are hashed on the way.
    hasher: Option<Digester>,
}

impl MemoryWriter {
    /// Calls `work` with the ingest of this writer, unless it was aborted.
    fn with<T>(&self, work: impl FnOnce(&mut Ingest) -> Result<T>) -> Result<T> {
        match self.store.lock().ingests.get_mut(&self.reference) {
            Some(ingest) if !ingest.aborted => work(ingest),
            _ => Err(writer::aborted(&self.reference)),
        }
    }

    fn hash(&self, algorithm: Algorithm) -> Result<Digester> {
        self.with(|ingest| {
            let mut hasher = Digester::new(algorithm);
            hasher.update(&ingest.bytes);
            Ok(hasher)
        })
    }
}

impl io::Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|ingest| {
            let size = ingest.bytes.len() as u64 + bytes.len() as u64;
            if let Some(total) = ingest.status.total.filter(|total| size > *total) {
                return Err(writer::beyond_total(&self.reference, total, size));
            }
            ingest.bytes.extend_from_slice(bytes);
            ingest.status.updated = SystemTime::now();
            Ok(())
        })?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.sync()?)
    }
}

impl Writer for MemoryWriter {
    fn status(&self) -> Status {
        let inner = self.store.lock();
        let ingest = inner.ingests.get(&self.reference);
        ingest.map_or_else(|| Status::new(&self.reference, None, SystemTime::now()), Ingest::status)
    }

    fn digest(&mut self) -> Result<Digest> {
        self.sync()?;
        match &self.hasher {
            Some(hasher) => Ok(hasher.clone().finish()),
            None => Ok(self.hash(self.opened.hash_with()?)?.finish()),
        }
    }

    fn truncate(&mut self, size: u64) -> Result<()> {
        self.with(|ingest| match usize::try_from(size) {
            Ok(size) if size <= ingest.bytes.len() => {
                ingest.bytes.truncate(size);
                Ok(())
            }
            _ => Err(writer::truncate_beyond_end(&self.reference, size)),
        })?;
        if self.hasher.is_some() {
            self.hasher = Some(self.hash(self.opened.hash_with()?)?);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.with(|_| Ok(()))
    }

    fn commit(self: Box<Self>, options: &CommitOptions) -> Result<Committed> {
        let labels = options.stored_labels()?;
        let size = self.with(|ingest| Ok(ingest.bytes.len() as u64))?;
        let running = self.hasher.clone().map(Digester::finish);
        let hash = &mut |algorithm| Ok(self.hash(algorithm)?.finish());
        let digest = writer::settle(options, &self.opened, size, running, hash)
            .map_err(|error| error.entry(&self.reference))?;
        let mut inner = self.store.lock();
        let ingest = inner.ingests.remove(&self.reference).filter(|ingest| !ingest.aborted);
        let ingest = ingest.ok_or_else(|| writer::aborted(&self.reference))?;
        if inner.blobs.contains_key(&digest) {
            return Err(writer::already_exists(&digest));
        }
        let now = SystemTime::now();
        let blob = Blob { bytes: Arc::new(ingest.bytes), labels, created: now, updated: now };
        inner.blobs.insert(digest.clone(), blob);
        Ok(Committed::new(digest, size))
    }

    fn close(self: Box<Self>) -> Result<Status> {
        self.with(|ingest| Ok(ingest.status()))
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        let mut inner = self.store.lock();
        if let Some(ingest) = inner.ingests.get_mut(&self.reference)
            && ingest.writer == Some(self.number)
        {
            ingest.writer = None;
            if ingest.aborted {
                inner.ingests.remove(&self.reference);
            }
        }
    }
}
