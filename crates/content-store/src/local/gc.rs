//! Collecting what nothing refers to.
//!
//! Mark and sweep under the exclusive store-wide lock, so that nothing is added in between: no blob, lease,
//! tag or label. What is kept is decided from a superset of every view: labels *and* documents are followed,
//! and any small blob that looks like a document is read as one, whatever its descriptor calls it. Where a
//! document that has to be followed cannot be read, nothing at all is removed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, SystemTime},
};

use layer_model::{Digest, Error, ErrorKind, Monitor, Result};
use serde_json::Value;

use super::{
    Inner, LocalStore,
    dir::{self, Dir},
    ingest, lease,
    lock::Turn,
    sidecar::{LABELS, STAGING},
    size,
};
use crate::{
    ContentStoreExt,
    document::{Kind, MAX_DOCUMENT},
    labels::{self, GC_BACK_REF_CONTENT, GC_REF_CONTENT, GC_ROOT},
};

/// How long an ingest waits for somebody to go on with it, by default: containerd's figure.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// How young a blob is spared by default: a writer without a lease commits its blobs, and then what refers
/// to them.
const GRACE: Duration = Duration::from_secs(3600);

/// What is collected.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcOptions {
    /// Blobs that were committed, or found to be there by a commit, less than this ago are kept, with what
    /// they refer to. An hour by default; zero where every writer holds a lease.
    pub grace: Duration,
    /// Ingests that got no bytes for this long are removed. A day by default; `None` keeps them all. One
    /// that has a writer is never removed.
    pub abandoned_ingests: Option<Duration>,
    /// Kept, with what they refer to, besides everything else that is.
    pub roots: Vec<Digest>,
    /// Only report.
    pub dry_run: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { grace: GRACE, abandoned_ingests: Some(ABANDONED), roots: Vec::new(), dry_run: false }
    }
}

impl GcOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spares blobs younger than this.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Removes ingests that have waited this long, or none.
    #[must_use]
    pub fn abandoned_ingests(mut self, age: Option<Duration>) -> Self {
        self.abandoned_ingests = age;
        self
    }

    /// Keeps this one too.
    #[must_use]
    pub fn root(mut self, digest: Digest) -> Self {
        self.roots.push(digest);
        self
    }

    /// Only reports, or removes.
    #[must_use]
    pub fn dry_run(mut self, dry: bool) -> Self {
        self.dry_run = dry;
        self
    }
}

/// What was collected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcReport {
    /// The blobs removed, with their sizes in bytes, in the order of digests.
    pub removed: Vec<(Digest, u64)>,
    /// The sizes of the blobs removed together, in bytes.
    pub bytes: u64,
    /// How many blobs were kept.
    pub kept: u64,
    /// The leases that had expired, and are gone.
    pub leases: Vec<String>,
    /// The references of the abandoned ingests removed.
    pub ingests: Vec<String>,
}

impl LocalStore {
    /// Removes blobs that nothing leads to.
    ///
    /// Kept is what can be reached from `index.json`, from leases that have not expired, from blobs labelled
    /// [`GC_ROOT`], and from young blobs; over the labels [`GC_REF_CONTENT`] and
    /// [`GC_BACK_REF_CONTENT`], and over what manifests and indexes refer to.
    ///
    /// Commits, leases, tags and labels wait until it is done, in this process and in others; reading goes on.
    ///
    /// # Errors
    /// Those of reading what has to be followed: then nothing was removed. [`ErrorKind::Cancelled`]: some
    /// blobs may have been, and the others are still sound.
    pub fn gc(&self, options: &GcOptions, monitor: &dyn Monitor) -> Result<GcReport> {
        let store = &*self.0;
        let _turn = Turn::exclusive(store.sidecar()?)?;
        let mut report = GcReport::default();

        let mut mark = Mark::new(self, options)?;
        mark.add_roots(options, &mut report)?;
        mark.follow(monitor)?;

        for (digest, blob) in &mark.blobs {
            if mark.seen.contains(digest) {
                report.kept += 1;
                continue;
            }
            if monitor.should_stop() {
                return Err(Error::cancelled());
            }
            if !options.dry_run {
                store.remove_blob(digest)?;
            }
            report.bytes += blob.size;
            report.removed.push((digest.clone(), blob.size));
        }
        for swept in ingest::sweep(store, options.abandoned_ingests, options.dry_run)? {
            if let ingest::Swept::Abandoned(reference) = swept {
                report.ingests.push(reference);
            }
        }
        if !options.dry_run {
            for id in &mark.dead_leases {
                match lease::release(store, id) {
                    Err(error) if *error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            sweep_sidecar(store, &mark.blobs)?;
        }
        Ok(report)
    }
}

struct Blob {
    size: u64,
    /// When it last became or was found committed; not its modification time, which a copy may keep.
    changed: SystemTime,
}

struct Mark<'a> {
    store: &'a LocalStore,
    blobs: BTreeMap<Digest, Blob>,
    /// Labels of the blobs that have some.
    labels: HashMap<Digest, crate::Labels>,
    /// Which blobs stay because another does.
    back_references: HashMap<Digest, Vec<Digest>>,
    seen: HashSet<Digest>,
    /// Seen, and still to be looked into; with whether it has to be a document.
    todo: Vec<(Digest, bool)>,
    dead_leases: Vec<String>,
    now: SystemTime,
}

impl<'a> Mark<'a> {
    fn new(store: &'a LocalStore, options: &GcOptions) -> Result<Self> {
        let inner = &*store.0;
        let mut mark = Self {
            store,
            blobs: BTreeMap::new(),
            labels: HashMap::new(),
            back_references: HashMap::new(),
            seen: HashSet::new(),
            todo: options.roots.iter().map(|digest| (digest.clone(), false)).collect(),
            dead_leases: Vec::new(),
            now: SystemTime::now(),
        };
        for digest in inner.blobs()? {
            let stat = match inner.stat(&digest) {
                Ok(stat) => stat,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let labels = inner.labels(&digest)?;
            for target in labels::references(&labels, GC_BACK_REF_CONTENT) {
                mark.back_references.entry(target).or_default().push(digest.clone());
            }
            if !labels.is_empty() {
                mark.labels.insert(digest.clone(), labels);
            }
            mark.blobs.insert(
                digest,
                Blob { size: size(&stat), changed: dir::changed(&stat).max(dir::modified(&stat)) },
            );
        }
        Ok(mark)
    }

    fn add_roots(&mut self, options: &GcOptions, report: &mut GcReport) -> Result<()> {
        let inner = &*self.store.0;
        self.todo.extend(links(&inner.index()?.value));
        for entry in lease::list(inner)? {
            match entry.info {
                Some(info) if info.is_expired(self.now) => {
                    report.leases.push(info.id.clone());
                    self.dead_leases.push(info.id);
                }
                Some(info) if info.is_flat() => self.seen.extend(info.holds),
                Some(info) => self.todo.extend(info.holds.into_iter().map(|digest| (digest, false))),
                None => self.dead_leases.push(entry.id),
            }
        }
        for (digest, blob) in &self.blobs {
            // A time in the future is young, too.
            let young = self.now.duration_since(blob.changed).map_or(true, |age| age < options.grace);
            if (young && !options.grace.is_zero())
                || self.labels.get(digest).is_some_and(|l| l.contains_key(GC_ROOT))
            {
                self.todo.push((digest.clone(), false));
            }
        }
        Ok(())
    }

    fn follow(&mut self, monitor: &dyn Monitor) -> Result<()> {
        // What a flat lease holds is seen without having been looked into, so that counts by itself.
        let mut followed = HashSet::new();
        while let Some((digest, document)) = self.todo.pop() {
            if monitor.should_stop() {
                return Err(Error::cancelled());
            }
            self.seen.insert(digest.clone());
            // Once without and once with the knowledge that it is a document, at most.
            if !followed.insert((digest.clone(), document)) {
                continue;
            }
            if let Some(labels) = self.labels.get(&digest) {
                self.todo.extend(labels::references(labels, GC_REF_CONTENT).map(|digest| (digest, false)));
            }
            if let Some(sources) = self.back_references.get(&digest) {
                self.todo.extend(sources.iter().map(|digest| (digest.clone(), false)));
            }
            if let Some(blob) = self.blobs.get(&digest) {
                let found = self.look_into(&digest, blob.size, document)?;
                self.todo.extend(found);
            }
        }
        Ok(())
    }

    /// What a blob refers to as a document. One that was announced as a document has to be one.
    fn look_into(&self, digest: &Digest, size: u64, document: bool) -> Result<Vec<(Digest, bool)>> {
        if !document && (size > MAX_DOCUMENT || !self.begins_like_json(digest)?) {
            return Ok(Vec::new());
        }
        let parsed = self.store.read_blob(digest, None, MAX_DOCUMENT).and_then(|bytes| {
            serde_json::from_slice::<Value>(&bytes).map_err(|error| {
                Error::new(ErrorKind::InvalidArchive, "not JSON").entry(digest.as_str()).cause(error)
            })
        });
        match parsed {
            Ok(value) => Ok(links(&value)),
            Err(_) if !document => Ok(Vec::new()),
            Err(error) => {
                let message = "nothing is collected, as a document that may keep blobs cannot be read";
                Err(Error::new(ErrorKind::FailedPrecondition, message).entry(digest.as_str()).cause(error))
            }
        }
    }

    fn begins_like_json(&self, digest: &Digest) -> Result<bool> {
        let mut start = [0; 64];
        let file = self.store.open_blob(digest)?;
        let n = layer_model::ReadAt::read_at(&file, &mut start, 0)
            .map_err(|error| Error::io("read a blob", error).entry(digest.as_str()))?;
        Ok(start[..n].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{'))
    }
}

/// Everything in a document that looks like a reference of a manifest or an index, and whether its
/// descriptor says that it is a document. Generous: a document that is both is followed as both.
fn links(document: &Value) -> Vec<(Digest, bool)> {
    let single = ["config", "subject"].into_iter().filter_map(|name| document.get(name));
    let lists =
        ["manifests", "layers", "blobs"].into_iter().filter_map(|name| document.get(name)?.as_array());
    let link = |descriptor: &Value| {
        let digest = descriptor.get("digest")?.as_str()?.parse().ok()?;
        let media_type = descriptor.get("mediaType").and_then(Value::as_str).unwrap_or_default();
        Some((digest, Kind::of(media_type) != Kind::Other))
    };
    single.chain(lists.flatten()).filter_map(link).collect()
}

/// Removes what interruptions have left beside the layout: staged files, and labels of blobs that never came.
fn sweep_sidecar(store: &Inner, blobs: &BTreeMap<Digest, Blob>) -> Result<()> {
    let sidecar = store.sidecar()?;
    // Everything that stages files holds its turn meanwhile, so nobody needs these.
    let staging = sidecar.make_dir(STAGING)?;
    for name in staging.names()? {
        staging.remove(&name)?;
    }
    let Some(all) = sidecar.find_dir(LABELS)? else { return Ok(()) };
    for algorithm in all.names()? {
        let Some(dir) = all.find_dir(&algorithm)? else { continue };
        remove_orphans(&dir, &algorithm, blobs)?;
    }
    Ok(())
}

fn remove_orphans(dir: &Dir, algorithm: &str, blobs: &BTreeMap<Digest, Blob>) -> Result<()> {
    for name in dir.names()? {
        if let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>()
            && digest.algorithm().is_some()
            && !blobs.contains_key(&digest)
        {
            dir.remove(&name)?;
        }
    }
    Ok(())
}
