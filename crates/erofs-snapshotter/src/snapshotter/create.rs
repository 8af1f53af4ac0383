//! Snapshots come and go.

use content_store::Labels;
use layer_model::{Error, ErrorKind, Result};
use layer_mounts::Mount;

use super::{Snapshotter, check_key, sweep};
use crate::{
    SnapshotDir,
    db::{Changes, Records, error},
    info::{Kind, Record, checked_labels, mapped_root},
    sys::{self, failed},
};

impl Snapshotter {
    /// Makes a snapshot to change, under a new key, of a committed parent or of nothing, and says how to mount it.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] for a key that is there; [`ErrorKind::NotFound`] for a parent that is not;
    /// [`ErrorKind::InvalidArgument`] for one that is not committed, an empty key, labels above containerd's limits;
    /// those of the records and of the file system. There is no new snapshot then.
    pub fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::Active, key, parent, labels)
    }

    /// Makes a snapshot that only shows its parent.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    pub fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(Kind::View, key, parent, labels)
    }

    fn create(&self, kind: Kind, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        check_key(key)?;
        let labels = checked_labels(labels).map_err(|error| error.entry(key.as_bytes()))?;
        // There is one change at a time, so a directory in the making is never taken for one that was left.
        let changes = self.db.write()?;
        if let Some(parent) = parent {
            let found = changes.find(parent)?;
            let record =
                found.ok_or_else(|| error(ErrorKind::NotFound, parent, "there is no such parent"))?;
            if record.kind != Kind::Committed {
                return Err(error(ErrorKind::InvalidArgument, parent, "the parent is not committed"));
            }
        }
        if changes.find(key)?.is_some() {
            return Err(error(ErrorKind::AlreadyExists, key, "there is such a snapshot already"));
        }
        let record = Record::new(changes.new_id()?, kind, parent, labels);
        changes.put(key, &record)?;
        let parents = changes.parents(&record)?;
        let temporary = format!("{}{}", sweep::NEW, sys::unique());
        let made = self.make_dir(&record, &parents, &temporary).and_then(|()| {
            let mounts = self.list(&record, &parents)?;
            changes.commit()?;
            Ok(mounts)
        });
        made.map_err(|error| {
            // Under one name or the other; what cannot be removed now is swept later.
            for name in [temporary, record.id.to_string()] {
                let _ = sweep::remove(&self.folder, &name, &self.path);
            }
            error.entry(key.as_bytes())
        })
    }

    /// Makes the directory of a snapshot, durable, under its name.
    fn make_dir(&self, record: &Record, parents: &[(String, Record)], temporary: &str) -> Result<()> {
        let dir = SnapshotDir::make(&self.folder, &self.path, temporary, record.kind == Kind::Active)?;
        let owner = match (mapped_root(&record.labels)?, parents.first()) {
            (Some(owner), _) => Some(owner),
            (None, Some((_, parent))) => Some(self.dir(parent)?.upper_owner()?),
            (None, None) => None,
        };
        if let Some(owner) = owner {
            dir.set_upper_owner(owner)?;
        }
        let name = record.id.to_string();
        // No snapshot has this number: what is there was left by a change that has not been.
        sweep::remove(&self.folder, &name, &self.path)?;
        sys::rename_new(&self.folder, temporary, &name)
            .and_then(|()| sys::sync(&self.folder))
            .map_err(|error| failed("give the snapshot its directory", &self.path.join(name), error))
    }

    /// Removes a snapshot. Should its directory not be removable (something is mounted in it), it is left for
    /// [`Snapshotter::cleanup`]: the snapshot is gone all the same.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::FailedPrecondition`] for a snapshot that others are made over;
    /// [`ErrorKind::Unavailable`] for one that is being committed or removed; those of the records.
    pub fn remove(&self, key: &str) -> Result<()> {
        let changes = self.db.write()?;
        let record = changes.get(key)?;
        if let Some(child) = changes.child(&record)? {
            let message = format!("the snapshot {child:?} is made over it");
            return Err(error(ErrorKind::FailedPrecondition, key, message));
        }
        let _claim = self.claim(key, &record)?;
        changes.remove(key, &record)?;
        changes.commit()?;
        let _ = sweep::remove(&self.folder, &record.id.to_string(), &self.path);
        Ok(())
    }

    /// The name of a snapshot to be is free.
    pub(super) fn check_free(changes: &impl Records, name: &str) -> Result<(), Error> {
        match changes.find(name)? {
            Some(_) => Err(error(ErrorKind::AlreadyExists, name, "there is such a snapshot already")),
            None => Ok(()),
        }
    }

    /// A record again, unless another snapshot has come to have its key.
    pub(super) fn get_same(changes: &Changes, key: &str, id: u64) -> Result<Record> {
        let record = changes.get(key)?;
        match record.id == id {
            true => Ok(record),
            false => Err(error(ErrorKind::NotFound, key, "the snapshot is gone")),
        }
    }
}
