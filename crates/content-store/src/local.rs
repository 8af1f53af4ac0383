//! A store in a directory that is a valid OCI image layout.
//!
//! ```text
//! <root>/oci-layout, index.json           the image layout: tags are entries of the index
//! <root>/blobs/<algorithm>/<encoded>      the blobs, without write permission
//! <root>/ingest/<sha256 of ref>/          one directory an ingest, as containerd lays it out:
//!        ref, data, startedat, updatedat, total
//! <root>/content-store/                   what an image layout has no place for:
//!        labels/<algorithm>/<encoded>     the labels of one blob, a JSON object
//!        leases/<id>/                     lease.json, and an empty file named by each digest held
//!        lock, edit.lock                  locks between processes
//!        staging/                         files on their way to their place
//! ```
//!
//! Other tools that read and write image layouts (skopeo, umoci, buildah) see a layout, and ignore the rest;
//! a layout that they made is opened as it is, and gets the rest when it is first needed.
//!
//! # Several processes, and crashes
//!
//! Labels, leases and the index sit in plain files that are written aside, synced and renamed into place.
//! The alternative, an embedded database, was weighed and left: those in pure Rust give the whole store to
//! one process at a time, where here a build and a snapshotter are at work at once; and the blobs live in
//! files anyway, so a database would be a second truth that a crash between the two could part from the
//! first. A rename is atomic by itself, readers need no lock, a damaged file harms one blob, and the whole
//! of it can be read, copied and mended with a shell. The price is a small file (two syncs) for each blob
//! that has labels, and a walk that filters on labels opens each.
//! Extended attributes on the blobs would be as atomic, but not every file system has them, nor room in them.
//!
//! - A blob becomes visible by one rename, after its bytes are synced, its mode and times set, and its
//!   labels in place. It is durable when the commit returns.
//! - A killed process leaves its ingest, which can be resumed or aborted, and at most files in `staging/`
//!   and labels of a blob that never came: nobody looks at them, and the collector sweeps them.
//! - Locks are `flock`s, which end with their process.
//!
//! Nothing outside the root is touched, whatever lies in a layout that came from elsewhere: symbolic links
//! in the place of its directories and files are refused, not followed.

mod check;
mod clock;
mod dir;
mod gc;
mod index;
mod ingest;
mod lease;
mod lock;
mod sidecar;

use std::{
    collections::HashMap,
    fmt,
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use layer_model::{Digest, Error, ErrorKind, IoContext, ReadAt, Result, digest::Algorithm};
use rustix::fs::Stat;
use serde_json::json;

use crate::{
    ContentStore, Info, LabelUpdate, Labels, Status, Writer, WriterOptions, document::MAX_DOCUMENT,
    filter::Filters, writer,
};
use dir::Dir;
use lock::{Edit, Turn};

pub use check::{CheckOptions, CheckReport, Problem};
pub use clock::rfc3339;
pub use gc::{GcOptions, GcReport};
pub use index::Tagged;
pub use lease::{Lease, LeaseInfo, LeaseOptions};

const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs";
const INGEST: &str = "ingest";

/// A store in a directory. Clones share it; other processes may use the same directory at the same time.
#[derive(Clone)]
pub struct LocalStore(Arc<Inner>);

/// How a store is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LocalOptions {
    /// Whether labels are kept. Without, setting labels is refused, and a commit that has some warns.
    pub labels: bool,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { labels: true }
    }
}

impl LocalOptions {
    /// Keeps labels, or not.
    #[must_use]
    pub fn labels(mut self, keep: bool) -> Self {
        self.labels = keep;
        self
    }
}

struct Inner {
    root: Dir,
    blobs: Dir,
    sidecar: OnceLock<Dir>,
    options: LocalOptions,
    /// Since when which references have a writer made by this store, by directory name: only so that a
    /// refusal can say how old it is. The lock on the directory is what counts.
    writers: Mutex<HashMap<String, Instant>>,
}

impl LocalStore {
    /// Opens the image layout at `path`. Nothing is written until something is stored.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none: `oci-layout`, `index.json` and `blobs/` have to be there.
    /// [`ErrorKind::NotSupported`] for a layout of another major version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), LocalOptions::default())
    }

    /// Opens the image layout at `path`, made if it is not there. A directory made is for its owner alone
    /// (mode 0700), since what is in a layer must not be reachable by others. A directory that has only
    /// `blobs/`, as containerd's store, becomes a layout.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] when something else is in the directory; as [`LocalStore::open`].
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_or_create_with(path.as_ref(), LocalOptions::default())
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: LocalOptions) -> Result<Self> {
        let path = path.as_ref();
        let root = Dir::open(path)?;
        let none = |what: &str| {
            Error::new(ErrorKind::NotFound, format!("{} is no image layout: no {what}", path.display()))
        };
        let header = root.read(LAYOUT, MAX_DOCUMENT)?.ok_or_else(|| none(LAYOUT))?;
        let version = serde_json::from_slice::<serde_json::Value>(&header)
            .ok()
            .and_then(|header| Some(header.get("imageLayoutVersion")?.as_str()?.to_owned()));
        if !version.as_deref().is_some_and(|version| version.starts_with("1.")) {
            let message = format!("{} is an image layout of version {version:?}", path.display());
            return Err(Error::new(ErrorKind::NotSupported, message));
        }
        root.stat(INDEX)?.ok_or_else(|| none(INDEX))?;
        let blobs = root.find_dir(BLOBS)?.ok_or_else(|| none(BLOBS))?;
        let sidecar = OnceLock::new();
        Ok(Self(Arc::new(Inner { root, blobs, sidecar, options, writers: Mutex::default() })))
    }

    /// [`open_or_create`](Self::open_or_create) with options.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open_or_create_with(path: impl AsRef<Path>, options: LocalOptions) -> Result<Self> {
        let path = path.as_ref();
        create(path)?;
        Self::open_with(path, options)
    }

    /// The directory of the store, as it was opened.
    pub fn path(&self) -> &Path {
        self.0.root.path()
    }

    /// Opens a blob as the file that it is: for copies inside the kernel.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let dir = self.0.blobs.find_dir(digest.algorithm_name())?;
        let file = dir.map(|dir| dir.find_file(digest.encoded())).transpose()?.flatten();
        file.ok_or_else(|| writer::no_such_blob(digest))
    }

    /// Where a blob is, whether or not it is there.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join(BLOBS).join(digest.algorithm_name()).join(digest.encoded())
    }
}

/// Makes the layout, or what is missing of it. Interrupted at any point, it can be called again.
fn create(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        std::fs::create_dir_all(parent).during(&format!("create {}", parent.display()))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Dir::open(parent.unwrap_or(Path::new(".")))?.sync()?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io(format!("create {}", path.display()), error)),
    }
    let root = Dir::open(path)?;
    if root.stat(LAYOUT)?.is_some() && root.stat(INDEX)?.is_some() && root.stat(BLOBS)?.is_some() {
        return Ok(());
    }
    let ours = [LAYOUT, INDEX, BLOBS, INGEST, sidecar::DIR];
    if root.stat(BLOBS)?.is_none()
        && let Some(other) = root.names()?.iter().find(|name| !ours.contains(&name.as_str()))
    {
        let message = format!("{} is neither empty nor an image layout: it has {other:?}", path.display());
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    root.make_dir(BLOBS)?;
    let staging = sidecar::make(&root)?.make_dir(sidecar::STAGING)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    });
    // Placed, not replaced: another process may make the same store, and have tagged already.
    root.place(&staging, INDEX, index.to_string().as_bytes())?;
    root.place(&staging, LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

impl Inner {
    /// What is at the place of a blob, when it is a blob.
    fn stat(&self, digest: &Digest) -> Result<Stat> {
        let dir = self.blobs.find_dir(digest.algorithm_name())?;
        let stat = dir.map(|dir| dir.stat(digest.encoded())).transpose()?.flatten();
        match stat {
            Some(stat) if dir::is_regular(&stat) => Ok(stat),
            Some(_) => {
                let message = "what is in the place of this blob is not a regular file";
                Err(Error::new(ErrorKind::FailedPrecondition, message).entry(digest.as_str()))
            }
            None => Err(writer::no_such_blob(digest)),
        }
    }

    fn info(&self, digest: &Digest, stat: &Stat, labels: Labels) -> Info {
        Info::new(digest.clone(), size(stat), dir::modified(stat), dir::accessed(stat), labels)
    }

    /// All blobs of algorithms known here, in the order of digests.
    fn blobs(&self) -> Result<Vec<Digest>> {
        let mut all = Vec::new();
        for algorithm in Algorithm::ALL {
            if let Some(dir) = self.blobs.find_dir(algorithm.name())? {
                let named = |name: &String| format!("{}:{name}", algorithm.name()).parse().ok();
                all.extend(dir.names()?.iter().filter_map(named));
            }
        }
        Ok(all)
    }
}

/// The size of a file; the kernel gives no negative one.
fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

impl ContentStore for LocalStore {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let stat = self.0.stat(digest)?;
        Ok(self.0.info(digest, &stat, self.0.labels(digest)?))
    }

    fn reader(&self, digest: &Digest) -> Result<Box<dyn ReadAt>> {
        Ok(Box::new(self.open_blob(digest)?))
    }

    fn writer(&self, reference: &str, options: &WriterOptions) -> Result<Box<dyn Writer>> {
        Ok(Box::new(ingest::LocalWriter::open(&self.0, reference, options, None)?))
    }

    fn update(&self, digest: &Digest, update: &LabelUpdate) -> Result<Info> {
        let store = &*self.0;
        store.stat(digest)?;
        if !store.options.labels {
            return Err(Error::new(ErrorKind::FailedPrecondition, "this store keeps no labels"));
        }
        let sidecar = store.sidecar()?;
        let _turn = Turn::shared(sidecar)?;
        let _edit = Edit::take(sidecar)?;
        // Looked at again: it may have been deleted before the lock was ours.
        store.stat(digest)?;
        let labels = update.apply(&store.labels(digest)?)?;
        store.set_labels(digest, &labels)?;
        if let Some(dir) = store.blobs.find_dir(digest.algorithm_name())? {
            // The time is for people; a blob that belongs to someone else keeps its own.
            let _ = dir.touch(digest.encoded());
        }
        Ok(store.info(digest, &store.stat(digest)?, labels))
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let store = &*self.0;
        store.stat(digest)?;
        let sidecar = store.sidecar()?;
        let _turn = Turn::shared(sidecar)?;
        let _edit = Edit::take(sidecar)?;
        store.remove_blob(digest).and_then(
            |removed| {
                if removed { Ok(()) } else { Err(writer::no_such_blob(digest)) }
            },
        )
    }

    fn walk(&self, filters: &Filters, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        for digest in self.0.blobs()? {
            let info = match self.0.stat(&digest) {
                Ok(stat) => self.0.info(&digest, &stat, self.0.labels(&digest)?),
                // Deleted meanwhile, or never a blob: the check reports the latter.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if info.passes(filters) {
                visit(info)?;
            }
        }
        Ok(())
    }

    fn status(&self, reference: &str) -> Result<Status> {
        ingest::status(&self.0, reference)
    }

    fn list_statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        ingest::list(&self.0, filters)
    }

    fn abort(&self, reference: &str) -> Result<()> {
        ingest::abort(&self.0, reference)
    }
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalStore").field(&self.path()).finish()
    }
}
