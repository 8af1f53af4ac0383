//! Leases: what keeps blobs from the collector while nothing else refers to them yet.
//!
//! A lease is a directory: `lease.json`, and an empty file for each digest that it holds. Holding one more is
//! then one file made, which needs no lock against others that do the same, and a lease without its
//! `lease.json` is one that was never finished or is already given up.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use layer_model::{Digest, Error, ErrorKind, ReadAt, Result};
use serde_json::{Value, json};

use super::{Inner, LocalStore, clock, dir::Dir, ingest::LocalWriter, lock::Turn, sidecar::LEASES};
use crate::{
    ContentStore, Info, LabelUpdate, Labels, Status, Writer, WriterOptions,
    document::MAX_DOCUMENT,
    filter::Filters,
    labels::{self, GC_EXPIRE, GC_FLAT},
};

const LEASE: &str = "lease.json";
/// containerd's limit for identifiers.
const MAX_ID: usize = 76;

/// How a lease is made.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LeaseOptions {
    /// How long it lasts; without, until it is released.
    pub ttl: Option<Duration>,
    /// Its labels. [`GC_EXPIRE`] is set from `ttl`; [`GC_FLAT`] makes it hold its blobs, but not what they
    /// refer to.
    pub labels: Labels,
}

impl LeaseOptions {
    /// Lasts until it is released.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lasts this long.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}

/// What is known about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseInfo {
    /// Its name.
    pub id: String,
    /// When it was made, as far as that can be read.
    pub created: Option<SystemTime>,
    /// When it ends by itself.
    pub expires: Option<SystemTime>,
    /// Its labels.
    pub labels: Labels,
    /// What it holds, in the order of digests.
    pub holds: Vec<Digest>,
}

impl LeaseInfo {
    /// Whether it has ended by itself.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(super) fn is_flat(&self) -> bool {
        self.labels.contains_key(GC_FLAT)
    }
}

/// A lease, and the store through it: whatever its writers commit, or find to be there already, it holds.
///
/// The collector removes nothing that a lease holds, nor what that refers to. Dropping the handle releases
/// the lease; [`keep`](Self::keep) does not.
///
/// ```
/// # fn main() -> layer_model::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// use content_store::{CommitOptions, ContentStoreExt, GcOptions, LeaseOptions, LocalStore, Source};
/// use std::time::Duration;
///
/// let store = LocalStore::open_or_create(dir.path().join("store"))?;
/// let lease = store.lease("pull-1", &LeaseOptions::new().ttl(Duration::from_secs(3600)))?;
/// lease.write_blob("layer-1", Source::At(&b"bytes".to_vec()), &CommitOptions::new(), &layer_model::Silent)?;
///
/// let everything = GcOptions::new().grace(Duration::ZERO);
/// assert_eq!(store.gc(&everything, &layer_model::Silent)?.removed.len(), 0);
/// drop(lease);
/// assert_eq!(store.gc(&everything, &layer_model::Silent)?.removed.len(), 1);
/// # Ok(())
/// # }
/// ```
pub struct Lease {
    store: LocalStore,
    id: String,
    release: bool,
}

impl LocalStore {
    /// Makes a lease.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when there is one of this name; [`ErrorKind::InvalidArgument`] for a name
    /// that is not made of letters and digits, with single `.`, `_` or `-` between them, 76 at most.
    pub fn lease(&self, id: &str, options: &LeaseOptions) -> Result<Lease> {
        validate(id)?;
        let now = SystemTime::now();
        let mut labels = options.labels.clone();
        if let Some(ttl) = options.ttl {
            let expires = now.checked_add(ttl).ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "a lease cannot last that long").entry(id)
            })?;
            labels.insert(GC_EXPIRE.to_owned(), clock::format(expires));
        }
        labels::validate(&labels)?;
        let sidecar = self.0.sidecar()?;
        let _turn = Turn::shared(sidecar)?;
        let dir = sidecar.make_dir(LEASES)?.make_dir(id)?;
        let bytes = json!({"id": id, "createdAt": clock::format(now), "labels": labels}).to_string();
        // Two that make the same lease: one of them places its file.
        if !dir.place(&self.0.staging()?, LEASE, bytes.as_bytes())? {
            return Err(Error::new(ErrorKind::AlreadyExists, "there is a lease of this name").entry(id));
        }
        Ok(Lease { store: self.clone(), id: id.to_owned(), release: true })
    }

    /// Takes up a lease that was kept, by this process or another. Dropping the handle does not release it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn open_lease(&self, id: &str) -> Result<Lease> {
        find(&self.0, id)?;
        Ok(Lease { store: self.clone(), id: id.to_owned(), release: false })
    }

    /// Gives up a lease.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn release_lease(&self, id: &str) -> Result<()> {
        find(&self.0, id)?;
        let sidecar = self.0.sidecar()?;
        let _turn = Turn::shared(sidecar)?;
        release(&self.0, id)
    }

    /// All leases, by name, expired ones among them.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn leases(&self) -> Result<Vec<LeaseInfo>> {
        let mut all = Vec::new();
        for entry in list(&self.0)? {
            all.extend(entry.info);
        }
        Ok(all)
    }
}

impl Lease {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The store.
    pub fn store(&self) -> &LocalStore {
        &self.store
    }

    /// Holds a blob, whether or not it is there yet.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the lease is gone: released, or expired and collected.
    pub fn hold(&self, digest: &Digest) -> Result<()> {
        let _turn = Turn::shared(self.store.0.sidecar()?)?;
        hold(&self.store.0, &self.id, digest)
    }

    /// What is known about it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the lease is gone.
    pub fn info(&self) -> Result<LeaseInfo> {
        read(&find(&self.store.0, &self.id)?, &self.id)
    }

    /// Lets the lease outlive the handle, until it expires or is [released](LocalStore::release_lease).
    pub fn keep(mut self) -> String {
        self.release = false;
        std::mem::take(&mut self.id)
    }

    /// Gives it up, saying what goes wrong.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the lease is gone already.
    pub fn release(mut self) -> Result<()> {
        self.release = false;
        self.store.release_lease(&self.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.release {
            // What cannot be released expires, or can be released by name.
            let _ = self.store.release_lease(&self.id);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("store", &self.store).field("id", &self.id).finish()
    }
}

impl ContentStore for Lease {
    fn info(&self, digest: &Digest) -> Result<Info> {
        self.store.info(digest)
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn ReadAt>> {
        self.store.reader(digest)
    }

    fn writer(&self, reference: &str, options: &WriterOptions) -> Result<Box<dyn Writer>> {
        Ok(Box::new(LocalWriter::open(&self.store.0, reference, options, Some(self.id.clone()))?))
    }

    fn update(&self, digest: &Digest, update: &LabelUpdate) -> Result<Info> {
        self.store.update(digest, update)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.delete(digest)
    }

    fn walk(&self, filters: &Filters, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.store.walk(filters, visit)
    }

    fn status(&self, reference: &str) -> Result<Status> {
        self.store.status(reference)
    }

    fn list_statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        self.store.list_statuses(filters)
    }

    fn abort(&self, reference: &str) -> Result<()> {
        self.store.abort(reference)
    }
}

fn validate(id: &str) -> Result<()> {
    let parts = || id.split(['.', '_', '-']);
    let ok = parts().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    if ok && id.len() <= MAX_ID {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, format!("{id:?} is no name of a lease")))
}

fn gone(id: &str) -> Error {
    Error::new(ErrorKind::NotFound, "no such lease").entry(id)
}

/// The directory of a lease.
fn find(store: &Inner, id: &str) -> Result<Dir> {
    validate(id)?;
    let sidecar = store.find_sidecar()?.ok_or_else(|| gone(id))?;
    let leases = sidecar.find_dir(LEASES)?.ok_or_else(|| gone(id))?;
    let dir = leases.find_dir(id)?.ok_or_else(|| gone(id))?;
    if dir.stat(LEASE)?.is_none() {
        return Err(gone(id));
    }
    Ok(dir)
}

/// Makes a lease hold a blob, durably. The caller holds its turn.
pub(super) fn hold(store: &Inner, id: &str, digest: &Digest) -> Result<()> {
    let dir = find(store, id)?;
    if dir.stat(digest.as_str())?.is_none() {
        dir.make_file(digest.as_str())?;
        dir.sync()?;
    }
    Ok(())
}

/// Removes a lease; `lease.json` first, so that what an interruption leaves is no lease. The caller holds its
/// turn.
pub(super) fn release(store: &Inner, id: &str) -> Result<()> {
    let leases = store.sidecar()?.find_dir(LEASES)?.ok_or_else(|| gone(id))?;
    if let Some(dir) = leases.find_dir(id)? {
        dir.remove(LEASE)?;
    }
    leases.remove_dir(id)
}

/// A directory among the leases.
pub(super) struct Entry {
    pub(super) id: String,
    /// `None`: not a lease, but what an interruption has left of one.
    pub(super) info: Option<LeaseInfo>,
}

/// All leases by name, and what is left of others.
pub(super) fn list(store: &Inner) -> Result<Vec<Entry>> {
    let mut all = Vec::new();
    let Some(sidecar) = store.find_sidecar()? else { return Ok(all) };
    let Some(leases) = sidecar.find_dir(LEASES)? else { return Ok(all) };
    for id in leases.names()?.into_iter().filter(|id| validate(id).is_ok()) {
        let Some(dir) = leases.find_dir(&id)? else { continue };
        let info = if dir.stat(LEASE)?.is_some() { Some(read(&dir, &id)?) } else { None };
        all.push(Entry { id, info });
    }
    Ok(all)
}

fn read(dir: &Dir, id: &str) -> Result<LeaseInfo> {
    let bytes = dir.read(LEASE, MAX_DOCUMENT)?.ok_or_else(|| gone(id))?;
    // A damaged lease still holds, and does not expire: to err is to keep.
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let created = value["createdAt"].as_str().and_then(clock::parse);
    let labels: Labels = serde_json::from_value(value["labels"].clone()).unwrap_or_default();
    let expires = labels.get(GC_EXPIRE).and_then(|text| clock::parse(text));
    let holds = dir.names()?.iter().filter_map(|name| name.parse().ok()).collect();
    Ok(LeaseInfo { id: id.to_owned(), created, expires, labels, holds })
}
