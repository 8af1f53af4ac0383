//! Checking a store: does every blob have the bytes that its name says, and is everything there that is
//! referred to?

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use layer_model::{Digest, Digester, Error, ErrorKind, Monitor, ReadAt, Result, digest::Algorithm};

use super::{
    INDEX, INGEST, Inner, LocalStore,
    dir::{self, Dir},
    ingest,
    sidecar::LABELS,
};
use crate::{
    ContentStoreExt,
    document::{Document, Kind, MAX_DOCUMENT},
    store::computable,
};

/// How much of a blob is read at once.
const PIECE: usize = 1024 * 1024;

/// How a store is checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckOptions {
    /// How many threads hash. As many as the machine has by default.
    pub jobs: usize,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { jobs: thread::available_parallelism().map_or(1, usize::from) }
    }
}

impl CheckOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes in this many threads.
    #[must_use]
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = jobs;
        self
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// How many blobs were hashed.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// What is wrong, blobs first, in the order of digests.
    pub problems: Vec<Problem>,
}

impl CheckReport {
    /// Whether everything that is there can be trusted. Stray files and missing blobs do not change that: an
    /// image layout may have both.
    pub fn is_sound(&self) -> bool {
        !self.problems.iter().any(Problem::is_damage)
    }
}

/// Something that a check found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A blob has other bytes than its name says.
    Damaged {
        /// Its name.
        digest: Digest,
        /// The digest of its bytes.
        got: Digest,
    },
    /// A blob cannot be read.
    Unreadable {
        /// Its name.
        digest: Digest,
        /// Why.
        why: String,
    },
    /// A document is not what its descriptor says, or can be read in two ways.
    BadDocument {
        /// Its digest, or `index.json`.
        document: String,
        /// Why.
        why: String,
    },
    /// The labels of a blob cannot be read.
    BadLabels {
        /// The blob.
        digest: Digest,
        /// Why.
        why: String,
    },
    /// A document refers to a blob that is not there.
    Dangling {
        /// Its digest, or `index.json`.
        from: String,
        /// The blob.
        to: Digest,
    },
    /// A document refers to a blob by another size.
    WrongSize {
        /// Its digest, or `index.json`.
        from: String,
        /// The blob.
        to: Digest,
        /// The size that the document says, in bytes.
        says: u64,
    },
    /// A file that is in the place of a blob, an ingest or labels and is none.
    Stray {
        /// Its path below the root.
        path: String,
    },
}

impl Problem {
    /// Whether bytes or documents cannot be trusted; else something is merely missing or left over.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Dangling { .. } | Self::Stray { .. })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { digest, got } => write!(f, "{digest}: damaged, its bytes have digest {got}"),
            Self::Unreadable { digest, why } => write!(f, "{digest}: cannot be read: {why}"),
            Self::BadDocument { document, why } => write!(f, "{document}: {why}"),
            Self::BadLabels { digest, why } => write!(f, "{digest}: labels: {why}"),
            Self::Dangling { from, to } => write!(f, "{from}: refers to {to}, which is not there"),
            Self::WrongSize { from, to, says } => write!(f, "{from}: refers to {to} by a wrong size, {says}"),
            Self::Stray { path } => write!(f, "{path}: stray file"),
        }
    }
}

impl LocalStore {
    /// Hashes every blob, and looks for what is missing or does not belong. Nothing is changed, and a store
    /// that is in use may be checked.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`], and those of listing directories. What is wrong with the content of the store is in
    /// the report.
    pub fn check(&self, options: &CheckOptions, monitor: &dyn Monitor) -> Result<CheckReport> {
        let store = &*self.0;
        let blobs = store.blobs()?;
        let mut report = CheckReport::default();
        for (digest, outcome) in hash_all(store, &blobs, options.jobs, monitor)? {
            match outcome {
                Ok((got, size)) => {
                    report.blobs += 1;
                    report.bytes += size;
                    if got != digest {
                        report.problems.push(Problem::Damaged { digest, got });
                    }
                }
                // Deleted meanwhile.
                Err(error) if *error.kind() == ErrorKind::NotFound => {}
                Err(error) => report.problems.push(Problem::Unreadable { digest, why: error.chain() }),
            }
        }
        for digest in &blobs {
            if let Err(error) = store.labels(digest) {
                report.problems.push(Problem::BadLabels { digest: digest.clone(), why: error.chain() });
            }
        }
        self.check_documents(&mut report, monitor)?;
        stray_files(store, &mut report)?;
        Ok(report)
    }

    /// Follows the documents from the index on.
    fn check_documents(&self, report: &mut CheckReport, monitor: &dyn Monitor) -> Result<()> {
        let bad = |document: String, error: Error| Problem::BadDocument { document, why: error.chain() };
        let index = match self.0.index() {
            Ok(index) => index,
            Err(error) => {
                report.problems.push(bad(INDEX.to_owned(), error));
                return Ok(());
            }
        };
        let mut todo = vec![(INDEX.to_owned(), index)];
        let mut seen = std::collections::HashSet::new();
        while let Some((from, document)) = todo.pop() {
            if monitor.should_stop() {
                return Err(Error::cancelled());
            }
            for (to, media_type, says) in references(&document) {
                match self.0.stat(&to) {
                    Ok(stat) if super::size(&stat) != says => {
                        report.problems.push(Problem::WrongSize { from: from.clone(), to: to.clone(), says });
                        continue;
                    }
                    Ok(_) => {}
                    Err(_) => {
                        report.problems.push(Problem::Dangling { from: from.clone(), to });
                        continue;
                    }
                }
                if Kind::of(&media_type) == Kind::Other || !seen.insert((to.clone(), media_type.clone())) {
                    continue;
                }
                let parsed = self.read_blob(&to, Some(says), MAX_DOCUMENT);
                match parsed.and_then(|bytes| Document::parse(&media_type, bytes)) {
                    Ok(document) => todo.push((to.to_string(), document)),
                    // Damage has been reported already.
                    Err(error) if matches!(error.kind(), ErrorKind::DigestMismatch { .. }) => {}
                    Err(error) => report.problems.push(bad(to.to_string(), error)),
                }
            }
        }
        Ok(())
    }
}

/// Digest, media type and size of what a checked document refers to.
fn references(document: &Document) -> Vec<(Digest, String, u64)> {
    let mut found = Vec::new();
    for name in ["config", "layers", "manifests", "subject"] {
        let Some(field) = document.value.get(name) else { continue };
        for descriptor in field.as_array().map_or(std::slice::from_ref(field), Vec::as_slice) {
            let text = |name: &str| descriptor.get(name).and_then(serde_json::Value::as_str);
            let size = descriptor.get("size").and_then(serde_json::Value::as_u64);
            if let (Some(Ok(digest)), Some(size)) = (text("digest").map(str::parse), size) {
                found.push((digest, text("mediaType").unwrap_or_default().to_owned(), size));
            }
        }
    }
    found
}

type Outcome = Result<(Digest, u64)>;

/// Hashes blobs in several threads; the outcomes come in the order of the blobs.
fn hash_all(
    store: &Inner,
    blobs: &[Digest],
    jobs: usize,
    monitor: &dyn Monitor,
) -> Result<Vec<(Digest, Outcome)>> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::with_capacity(blobs.len()));
    let work = || {
        let mut buffer = vec![0; PIECE];
        while let Some((n, digest)) = {
            let n = next.fetch_add(1, Ordering::Relaxed);
            blobs.get(n).map(|digest| (n, digest))
        } {
            let outcome = hash(store, digest, &mut buffer, monitor);
            let cancelled = matches!(&outcome, Err(error) if *error.kind() == ErrorKind::Cancelled);
            outcomes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((
                n,
                digest.clone(),
                outcome,
            ));
            if cancelled {
                return;
            }
        }
    };
    thread::scope(|scope| {
        // The caller's thread works too.
        for _ in 1..jobs.min(blobs.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if monitor.should_stop() || outcomes.len() < blobs.len() {
        return Err(Error::cancelled());
    }
    outcomes.sort_unstable_by_key(|(n, ..)| *n);
    Ok(outcomes.into_iter().map(|(_, digest, outcome)| (digest, outcome)).collect())
}

fn hash(store: &Inner, digest: &Digest, buffer: &mut [u8], monitor: &dyn Monitor) -> Outcome {
    store.stat(digest)?;
    let dir = store.blobs.find_dir(digest.algorithm_name())?;
    let file = dir.map(|dir| dir.find_file(digest.encoded())).transpose()?.flatten();
    let file = file.ok_or_else(|| crate::writer::no_such_blob(digest))?;
    let mut hasher = Digester::new(computable(digest)?);
    loop {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let n = match ReadAt::read_at(&file, buffer, hasher.count()) {
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read a blob", error)),
        };
        if n == 0 {
            let size = hasher.count();
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..n]);
        monitor.bytes(n as u64);
    }
}

/// Files in the places of blobs, ingests and labels that are none. What else is in the root is not ours.
fn stray_files(store: &Inner, report: &mut CheckReport) -> Result<()> {
    let mut stray = |path: String| report.problems.push(Problem::Stray { path });
    for algorithm in store.blobs.names()? {
        let below = format!("{}/{algorithm}", super::BLOBS);
        let known = Algorithm::from_name(&algorithm).is_some();
        if !store.blobs.stat(&algorithm)?.is_some_and(|stat| dir::is_dir(&stat)) {
            stray(below);
            continue;
        }
        if let Some(dir) = store.blobs.find_dir(&algorithm)? {
            for name in strays(&dir, |name| known && format!("{algorithm}:{name}").parse::<Digest>().is_ok())?
            {
                stray(format!("{below}/{name}"));
            }
        }
    }
    if let Some(ingests) = store.root.find_dir(INGEST)? {
        for name in ingest::debris(&ingests)? {
            stray(format!("{INGEST}/{name}"));
        }
    }
    let labels = store.find_sidecar()?.map(|sidecar| sidecar.find_dir(LABELS)).transpose()?.flatten();
    if let Some(labels) = labels {
        for algorithm in labels.names()? {
            let Some(dir) = labels.find_dir(&algorithm)? else { continue };
            let is_of_blob = |name: &str| {
                let digest = format!("{algorithm}:{name}").parse::<Digest>();
                digest.is_ok_and(|digest| store.stat(&digest).is_ok())
            };
            for name in strays(&dir, is_of_blob)? {
                stray(format!("{}/{LABELS}/{algorithm}/{name}", super::sidecar::DIR));
            }
        }
    }
    Ok(())
}

/// The names in a directory that are not regular files of a wanted name.
fn strays(dir: &Dir, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in dir.names()? {
        let regular = dir.stat(&name)?.is_none_or(|stat| dir::is_regular(&stat));
        if !regular || !wanted(&name) {
            found.push(name);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use layer_model::Silent;

    use super::*;

    #[test]
    fn only_damage_makes_a_store_unsound() {
        let digest = Digest::sha256(b"x");
        let stray = Problem::Stray { path: "blobs/x".to_owned() };
        let damaged = Problem::Damaged { got: digest.clone(), digest };
        let mut report = CheckReport { problems: vec![stray], ..Default::default() };
        assert!(report.is_sound());
        report.problems.push(damaged);
        assert!(!report.is_sound());
    }

    #[test]
    fn any_number_of_jobs_gives_the_same_report() {
        let root = tempfile::tempdir().unwrap();
        let store = LocalStore::open_or_create(root.path().join("store")).unwrap();
        for n in 0..20_u8 {
            let bytes = vec![n; 1000];
            let options = crate::CommitOptions::new();
            store.write_blob("r", crate::Source::At(&bytes), &options, &Silent).unwrap();
        }
        let digests = store.0.blobs().unwrap();
        for digest in digests.iter().take(3) {
            let path = store.blob_path(digest);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(path, "damaged").unwrap();
        }
        let reports: Vec<_> = [0, 1, 2, 7]
            .iter()
            .map(|jobs| store.check(&CheckOptions::new().jobs(*jobs), &Silent).unwrap())
            .collect();
        assert_eq!(reports[0].problems.len(), 3);
        assert!(reports.iter().all(|report| *report == reports[0]));
    }
}
