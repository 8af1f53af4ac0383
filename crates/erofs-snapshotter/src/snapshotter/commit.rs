//! From an active snapshot to a layer.

use content_store::Labels;
use layer_apply::{ErofsImage, ErofsSink, OverlayXattrs};
use layer_model::{
    AnyLayer, Base, Change, Entry, ErrorKind, LayerPath, LayerPathBuf, LayerSink, LayerTree, Monitor, Result,
    Stack, Warning, WarningKind, change::EntryKind, road,
};
use overlay_diff::{OpaqueStyle, UpperDiffer, UpperOptions, XattrPolicy};
use overlay_dir::{OverlayUpper, OverlayUpperOptions};

use super::{Snapshotter, check_key, parent::Parent, sweep};
use crate::{
    SnapshotDir,
    db::{Records, error},
    dir::IMAGE,
    immutable,
    info::{Kind, Record, Stamp, checked_labels},
    layer_image_options,
    lists::LayerForm,
    sys, verity,
};

impl Snapshotter {
    /// Makes a layer of an active snapshot, under the name `name`: its key is free from then on. Nothing should be
    /// changing it meanwhile.
    ///
    /// Unless somebody has put an image there, one is made of the upper directory, over the layers below it. The
    /// layer's labels are `labels`; those of the active snapshot do not stay.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for the key; [`ErrorKind::AlreadyExists`] for the name;
    /// [`ErrorKind::FailedPrecondition`] for a snapshot that is not active, and for an upper directory that was mounted
    /// volatile; [`ErrorKind::NotSupported`] for an upper directory in a file system in a file, and without fs-verity
    /// where it is asked for; [`ErrorKind::Unavailable`] while another commit is at it; those of the conversion, the
    /// records and the file system. The snapshot is active as before then.
    pub fn commit(&self, name: &str, key: &str, labels: Labels, monitor: &dyn Monitor) -> Result<()> {
        check_key(name)?;
        let labels = checked_labels(labels).map_err(|error| error.entry(name.as_bytes()))?;
        let reader = self.db.read()?;
        let record = reader.get(key)?;
        Self::check_free(&reader, name)?;
        if record.kind != Kind::Active {
            return Err(error(ErrorKind::FailedPrecondition, key, "the snapshot is not active"));
        }
        drop(reader);
        let _claim = self.claim(key, &record)?;
        let dir = self.dir(&record)?;
        let ready = dir.image()?.is_some();
        let form = match ready || self.options.convert_on_commit {
            true => LayerForm::Image,
            false => LayerForm::Directory,
        };
        let converts = form == LayerForm::Image && !ready;
        if !ready && dir.has_block_image()? {
            let message = "the upper directory is in a file system in a file, which has to be mounted";
            return Err(error(ErrorKind::NotSupported, key, message));
        }
        if converts {
            self.set_converting(key, record.id)?;
        }
        let committed = self.commit_as(name, key, &record, &dir, (form, converts), labels, monitor);
        if committed.is_err() {
            // Active as before. Where this fails too, the next open does it.
            let undone = match converts {
                true => self.undo_conversion(key, &record),
                false => sweep::clear_immutable(&dir),
            };
            let _ = undone;
        }
        committed.map_err(|error| error.entry(key.as_bytes()))?;
        if let Err(error) = self.after_commit(&dir, Some(form)) {
            self.warn(monitor, &record, crate::dir::UPPER, &error.chain());
        }
        Ok(())
    }

    /// Says in the records that an image is being made, before there is anything of it.
    fn set_converting(&self, key: &str, id: u64) -> Result<()> {
        let changes = self.db.write()?;
        let mut record = Self::get_same(&changes, key, id)?;
        record.converting = true;
        changes.put(key, &record)?;
        changes.commit()
    }

    #[expect(clippy::too_many_arguments, reason = "one step of commit, which has them at hand")]
    fn commit_as(
        &self,
        name: &str,
        key: &str,
        record: &Record,
        dir: &SnapshotDir,
        (form, converts): (LayerForm, bool),
        labels: Labels,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let parents = self.layers(key)?;
        if converts {
            self.convert(dir, parents.as_ref(), monitor)?;
        }
        let mut digest = None;
        let usage = match form {
            LayerForm::Image => {
                digest = self.protect(dir, record, monitor)?;
                self.merge(dir, record, parents, monitor)?;
                dir.image_usage()?.unwrap_or_default()
            }
            LayerForm::Directory => dir.usage()?,
        };
        let changes = self.db.write()?;
        let mut record = Self::get_same(&changes, key, record.id)?;
        Self::check_free(&changes, name)?;
        changes.remove(key, &record)?;
        record.kind = Kind::Committed;
        record.labels = labels;
        record.created = Stamp::now();
        record.updated = record.created;
        record.usage = Some((usage.size, usage.inodes));
        record.form = Some(form);
        record.verity = digest;
        record.converting = false;
        changes.put(name, &record)?;
        changes.commit()
    }

    /// Makes the image of what is in the upper directory.
    fn convert(
        &self,
        dir: &SnapshotDir,
        parents: Option<&Stack<AnyLayer>>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let allow_volatile = self.options.allow_volatile;
        let upper_options = OverlayUpperOptions::default()
            .work(dir.work_path())
            .features(self.overlay.features)
            .allow_volatile(allow_volatile);
        let upper = OverlayUpper::new(dir.upper(self.upper_options())?, upper_options)?;
        let options = UpperOptions::new()
            // The layer stays on this machine: nothing is lost, and nothing is put in other words.
            .xattrs(XattrPolicy::All)
            .keep_selinux(true)
            .keep_trusted(true)
            .opaque_style(OpaqueStyle::Marker)
            .allow_volatile(allow_volatile);
        let parents = parents.cloned().map(|stack| stack.try_map(Parent::new)).transpose()?;
        let root = upper.dir().root()?.node()?;
        dir.put_image(|file| {
            let base = match &parents {
                Some(stack) => Base::Layers(stack),
                None => Base::Empty,
            };
            let options_of_image =
                layer_image_options().namespace(self.overlay.namespace).overlay_xattrs(OverlayXattrs::Escape);
            let mut sink = ErofsSink::new(file, base, options_of_image, monitor)?;
            // No difference has the root in it, but a mount shows that of the upper directory.
            let entry = Entry::new(EntryKind::Directory, root.metadata).with_xattrs(&root.xattrs);
            sink.change(Change::upsert(LayerPath::ROOT, entry))?;
            let differ = UpperDiffer::new(options);
            let mut source = differ.changes(&upper, base, monitor)?;
            road::drive(&mut source, &mut sink, monitor)?;
            sink.finish().map(drop)
        })
    }

    /// Protects the image as the options say. Gives its fs-verity digest.
    fn protect(&self, dir: &SnapshotDir, record: &Record, monitor: &dyn Monitor) -> Result<Option<String>> {
        let path = dir.image_path();
        // What a link leads to belongs to others, and is theirs to protect.
        let link = dir.image_is_link()?;
        let mut digest = None;
        if self.options.enable_fsverity {
            if link {
                let message = "the image is a link to one of somebody else's, which cannot be protected";
                return Err(sys::named(
                    layer_model::Error::new(ErrorKind::FailedPrecondition, message),
                    &path,
                ));
            }
            // An interrupted commit may have come this far; an immutable file takes no protection.
            sweep::clear_immutable(dir)?;
            let file = sys::open_file(dir.fd(), IMAGE, false)
                .map_err(|error| sys::failed("open image", &path, error))?;
            let expected = verity::digest(&file, &path)?;
            verity::enable(&file, &path)?;
            verity::check(&file, &expected, &path)?;
            digest = Some(expected);
        }
        if self.options.set_immutable && !link {
            let set = sys::open_file(dir.fd(), IMAGE, false).and_then(|file| immutable::set(file, true));
            if let Err(error) = set {
                let error = std::io::Error::from(error);
                self.warn(monitor, record, IMAGE, &format!("not made immutable: {error}"));
            }
        }
        Ok(digest)
    }

    /// Writes merged metadata, if the stack is high enough and can be merged.
    fn merge(
        &self,
        dir: &SnapshotDir,
        record: &Record,
        parents: Option<Stack<AnyLayer>>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let Some(threshold) = self.options.merge_threshold else { return Ok(()) };
        let Some(parents) = parents.filter(|parents| parents.len() + 1 >= threshold.get()) else {
            return Ok(());
        };
        let merged = parents.downcast::<ErofsImage>().and_then(|parents| dir.merge_fsmeta(&parents));
        match merged {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                // Of layers that others made, or in another way.
                ErrorKind::NotSupported
                | ErrorKind::UnsupportedMarker { .. }
                | ErrorKind::InvalidArgument
                | ErrorKind::WrongForm { .. } => {
                    self.warn(monitor, record, crate::dir::FSMETA, &error.chain());
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    fn warn(&self, monitor: &dyn Monitor, record: &Record, name: &str, detail: &str) {
        let path = LayerPathBuf::clean(format!("{}/{}/{name}", super::SNAPSHOTS, record.id).as_bytes());
        let path = path.as_ref().map_or(LayerPath::ROOT, LayerPathBuf::as_path);
        let kind = WarningKind::StoreDegraded;
        monitor.warn(&Warning::new(kind, path).detail(detail.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use layer_model::{LayerTree, Silent};

    use super::*;
    use crate::{DirState, SnapshotterOptions};

    #[test]
    fn what_a_commit_made_that_was_cut_off_is_not_the_layer() {
        let temp = tempfile::tempdir().unwrap();
        let open = || {
            let options = SnapshotterOptions::new().ovl_mount_options(["userxattr"]).set_immutable(true);
            Snapshotter::open(temp.path(), options).unwrap()
        };
        let snapshots = open();
        snapshots.prepare("k", None, Labels::new()).unwrap();
        let dir = snapshots.snapshot_dir("k").unwrap();
        fs::write(dir.upper_path().join("first"), "x").unwrap();
        // As far as it goes before the records change.
        let record = snapshots.db.read().unwrap().get("k").unwrap();
        snapshots.set_converting("k", record.id).unwrap();
        snapshots.convert(&dir, None, &Silent).unwrap();
        snapshots.protect(&dir, &record, &Silent).unwrap();
        assert_eq!(dir.state().unwrap(), DirState::Committed);
        drop(snapshots);

        let snapshots = open();
        assert_eq!(dir.state().unwrap(), DirState::Active);
        fs::write(dir.upper_path().join("second"), "x").unwrap();
        snapshots.commit("n", "k", Labels::new(), &Silent).unwrap();
        let layers = snapshots.layer_stack("n").unwrap().unwrap();
        assert_eq!(layers.nearest().root().unwrap().names().unwrap().len(), 2);
        snapshots.remove("n").unwrap();
    }
}
