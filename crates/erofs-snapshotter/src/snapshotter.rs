//! Snapshots under their keys.

mod commit;
mod create;
mod parent;
mod sweep;

use std::{
    collections::HashSet,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use content_store::Filters;
use layer_apply::ErofsImage;
use layer_model::{AnyLayer, Error, ErrorKind, Result, Stack};
use layer_mounts::Mount;
use overlay_dir::OverlayDirOptions;
use rustix::{
    fs::{Mode, mkdirat},
    io::Errno,
};

pub use sweep::Cleaned;

use crate::{
    SnapshotDir, SnapshotterOptions, Usage,
    db::{Db, Records, error},
    info::{Info, Kind, LABEL_GID_MAPPING, LABEL_UID_MAPPING, Record, Stamp, updated_labels},
    lists::{LayerForm, ListOptions, Lower, mount_list, premounts},
    options::Overlay,
    sys::{self, failed},
    verity,
};

/// The folder of the snapshots' directories.
const SNAPSHOTS: &str = "snapshots";

/// Snapshots whose layers are EROFS images: prepared, changed by somebody else, committed, shown, removed.
///
/// Keys of snapshots that are prepared and names of those that are committed are of one space. All methods can be
/// called from several threads. A directory is used by one snapshotter at a time, whatever the process.
///
/// After a crash at any moment every snapshot is there whole, or is not there; what is left besides is removed by
/// the next [`Snapshotter::open`].
#[derive(Debug)]
pub struct Snapshotter {
    /// The folder of the snapshots' directories.
    path: PathBuf,
    folder: OwnedFd,
    db: Db,
    options: SnapshotterOptions,
    overlay: Overlay,
    /// The ids of the snapshots that are being committed or removed.
    busy: Mutex<HashSet<u64>>,
}

/// Keeps others from committing or removing a snapshot.
#[derive(Debug)]
struct Claim<'a> {
    busy: &'a Mutex<HashSet<u64>>,
    id: u64,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(self.busy).remove(&self.id);
    }
}

fn lock(busy: &Mutex<HashSet<u64>>) -> MutexGuard<'_, HashSet<u64>> {
    // Nobody panics while he holds it, and a set of numbers is never half changed.
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshotter {
    /// Opens the snapshots in the directory `root`, which is made if it is missing. What a crash left is put right.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] while another snapshotter has it open; [`ErrorKind::FailedPrecondition`] for a
    /// directory of containerd's, and for snapshots without records; [`ErrorKind::InvalidArgument`] for options that
    /// cannot be, and a path that no mount list can hold; [`ErrorKind::NotSupported`] for records of another version;
    /// those of the file system.
    pub fn open(root: impl AsRef<Path>, options: SnapshotterOptions) -> Result<Self> {
        let overlay = options.overlay()?;
        let given = root.as_ref();
        let at = |operation: &'static str| move |error: std::io::Error| failed(operation, given, error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(given).map_err(at("make directory"))?;
        let root = given.canonicalize().map_err(at("find directory"))?;
        let dir = sys::open_dir(&root)?;
        let db = Db::open(&dir, &root)?;
        let path = root.join(SNAPSHOTS);
        match mkdirat(&dir, SNAPSHOTS, Mode::RWXU) {
            Ok(()) => sys::sync(&dir).map_err(|error| failed("make directory", &path, error))?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("make directory", &path, error)),
        }
        let folder = sys::open_dir(&path)?;
        let opened = Self { path, folder, db, options, overlay, busy: Mutex::default() };
        // A list is made for nothing, so that an unusable path is told now.
        let none = SnapshotDir::open_any(&opened.path)?;
        mount_list(&none, &[], true, &ListOptions::default())?;
        opened.recover()?;
        Ok(opened)
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of the records.
    pub fn stat(&self, key: &str) -> Result<Info> {
        Ok(self.db.read()?.get(key)?.info(key))
    }

    /// Changes what can be changed of the snapshot `info.name`: its labels. `paths` say which: `labels` all of them,
    /// `labels.<key>` one, no path all. A label without a value goes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidArgument`] for other paths and for labels above containerd's
    /// limits; those of the records.
    pub fn update(&self, info: &Info, paths: &[&str]) -> Result<Info> {
        let changes = self.db.write()?;
        let mut record = changes.get(&info.name)?;
        let labels = updated_labels(&record.labels, &info.labels, paths);
        record.labels = labels.map_err(|error| error.entry(info.name.as_bytes()))?;
        record.updated = Stamp::now();
        changes.put(&info.name, &record)?;
        changes.commit()?;
        Ok(record.info(&info.name))
    }

    /// Shows each snapshot that `filters` let pass to `visit`, by key, as they were when it began. `visit` may call
    /// the snapshotter.
    ///
    /// # Errors
    /// The first one of `visit`; those of the records.
    pub fn walk(&self, filters: &Filters, mut visit: impl FnMut(Info) -> Result<()>) -> Result<()> {
        for (key, record) in self.db.read()?.all()? {
            let info = record.info(&key);
            if filters.matches(&info) {
                visit(info)?;
            }
        }
        Ok(())
    }

    /// What a snapshot takes on disk, without its parents. That of an active one is counted anew.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::FileChanged`] when a directory is moved while it is counted; those of the
    /// records and of the file system.
    pub fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.db.read()?.get(key)?;
        match record.kind {
            Kind::Active => self.dir(&record)?.usage(),
            _ => Ok(record.usage()),
        }
    }

    /// The mounts that show a snapshot that is prepared or viewed, as when that was done.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::FailedPrecondition`] for a committed one, and for an image that does not
    /// have the fs-verity digest recorded; those of the records and of the file system.
    pub fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let records = self.db.read()?;
        let record = records.get(key)?;
        if record.kind == Kind::Committed {
            return Err(error(ErrorKind::FailedPrecondition, key, "a committed snapshot has no mounts"));
        }
        let parents = records.parents(&record)?;
        self.list(&record, &parents).map_err(|error| error.entry(key.as_bytes()))
    }

    /// What has to be mounted, and where, before the mounts of a snapshot can be, with
    /// [`MountForm::Premounted`](crate::lists::MountForm): the images of its layers on their `fs/`. Whoever mounts them
    /// unmounts them before the layer is removed.
    ///
    /// # Errors
    /// As [`Snapshotter::mounts`].
    pub fn premounts(&self, key: &str) -> Result<Vec<(Mount, PathBuf)>> {
        let records = self.db.read()?;
        let record = records.get(key)?;
        let lowers = self.lowers(&records.parents(&record)?)?;
        premounts(&lowers, record.kind == Kind::Active)
    }

    /// The directory of a snapshot: where an applier puts the image of an active one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; those of the records and of opening it.
    pub fn snapshot_dir(&self, key: &str) -> Result<SnapshotDir> {
        self.dir(&self.db.read()?.get(key)?)
    }

    /// The layers of a snapshot, nearest first: of a committed one itself and its parents, of others the parents.
    /// [`None`] where there are none.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`], naming both forms, for a layer that is kept as a directory: see
    /// [`Snapshotter::layers`]; those of [`Snapshotter::mounts`], but for committed snapshots.
    pub fn layer_stack(&self, key: &str) -> Result<Option<Stack<ErofsImage>>> {
        let Some(layers) = self.layers(key)? else { return Ok(None) };
        layers.downcast().map(Some).map_err(|error| error.entry(key.as_bytes()))
    }

    /// The same, of any form: [`ErofsImage`] or [`OverlayDir`](overlay_dir::OverlayDir).
    ///
    /// # Errors
    /// As [`Snapshotter::layer_stack`], but for the forms.
    pub fn layers(&self, key: &str) -> Result<Option<Stack<AnyLayer>>> {
        let records = self.db.read()?;
        let record = records.get(key)?;
        let mut chain = records.parents(&record)?;
        if record.kind == Kind::Committed {
            chain.insert(0, (key.to_owned(), record));
        }
        let layers = chain.iter().map(|(name, record)| {
            let dir = self.dir(record)?;
            match self.checked_form(name, record, &dir)? {
                LayerForm::Image => Ok(AnyLayer::new(dir.require_image()?.namespace(self.overlay.namespace))),
                LayerForm::Directory => Ok(AnyLayer::new(dir.upper(self.upper_options())?)),
            }
        });
        Ok(Stack::from_nearest(layers.collect::<Result<Vec<_>>>()?))
    }

    fn upper_options(&self) -> OverlayDirOptions {
        OverlayDirOptions::default().namespace(self.overlay.namespace)
    }

    fn dir(&self, record: &Record) -> Result<SnapshotDir> {
        SnapshotDir::open_any(&self.path.join(record.id.to_string()))
    }

    /// How a committed layer is kept, once its image was compared with what is recorded of it.
    fn checked_form(&self, name: &str, record: &Record, dir: &SnapshotDir) -> Result<LayerForm> {
        let form = record.form.unwrap_or(LayerForm::Image);
        if form == LayerForm::Image {
            let missing = || error(ErrorKind::NotFound, name, "the image of the layer is missing");
            let file = dir.image_file()?.ok_or_else(missing)?;
            if self.options.enable_fsverity {
                let unprotected = || {
                    let message = "the layer was committed without fs-verity";
                    error(ErrorKind::FailedPrecondition, name, message)
                };
                let expected = record.verity.as_deref().ok_or_else(unprotected)?;
                verity::check(&file, expected, &dir.image_path())?;
            }
        }
        Ok(form)
    }

    fn lowers(&self, parents: &[(String, Record)]) -> Result<Vec<Lower>> {
        let lower = |(name, record): &(String, Record)| {
            let dir = self.dir(record)?;
            let form = self.checked_form(name, record, &dir)?;
            Ok(Lower::new(dir, form))
        };
        parents.iter().map(lower).collect()
    }

    fn list(&self, record: &Record, parents: &[(String, Record)]) -> Result<Vec<Mount>> {
        let mut options = ListOptions {
            form: self.options.mount_form,
            overlay: self.options.ovl_mount_options.clone(),
            ..ListOptions::default()
        };
        if self.options.remap_ids {
            let maps = [("uidmap", LABEL_UID_MAPPING), ("gidmap", LABEL_GID_MAPPING)];
            let maps = maps.iter().filter_map(|(option, label)| Some((option, record.labels.get(*label)?)));
            options.id_maps = maps.map(|(option, map)| format!("{option}={map}")).collect();
        }
        let lowers = self.lowers(parents)?;
        mount_list(&self.dir(record)?, &lowers, record.kind == Kind::Active, &options)
    }

    /// Keeps a snapshot for oneself.
    fn claim(&self, key: &str, record: &Record) -> Result<Claim<'_>> {
        if !lock(&self.busy).insert(record.id) {
            let message = "the snapshot is being committed or removed by somebody else";
            return Err(error(ErrorKind::Unavailable, key, message));
        }
        Ok(Claim { busy: &self.busy, id: record.id })
    }
}

fn check_key(key: &str) -> Result<()> {
    match key.is_empty() {
        true => Err(Error::new(ErrorKind::InvalidArgument, "a snapshot without a key")),
        false => Ok(()),
    }
}
