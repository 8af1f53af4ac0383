//! The image in a snapshot's directory: put in place, read, merged with those below it.

use std::{
    fs::File,
    io::{BufWriter, Write},
};

use erofs_format::{FileSource, Image, MergeOptions, Summary, WriteOptions, merge_layers};
use layer_apply::{ErofsImage, ErofsOptions, ErofsSink, erofs_error};
use layer_model::{
    Applied, Base, Error, ErrorKind, IoContext, LayerSource, LayerTree, Monitor, Result, Stack, road,
};
use rustix::{fs::FileType, io::Errno};

use super::{FSMETA, IMAGE, SnapshotDir};
use crate::sys::{self, failed, named};

/// How layers are written for a snapshotter: everything that the layer says, in overlay form, and no data inside
/// of inodes, so that layers can be merged.
pub fn layer_image_options() -> ErofsOptions {
    ErofsOptions::new().write(WriteOptions::new().epoch_from_files(true).inline_data(false))
}

/// An image is as long as it says: whoever writes one in its place, and is killed, leaves a shorter one.
fn check_size(image: &Image) -> Result<()> {
    let blocks = image.superblock().blocks.saturating_mul(image.superblock().block_size());
    match image.size() < blocks {
        true => Err(Error::new(ErrorKind::InvalidArchive, "the image is shorter than it says: it was cut")),
        false => Ok(()),
    }
}

impl SnapshotDir {
    /// Puts the image there that `fill` writes. It appears whole, checked to be an image and on disk, or not at
    /// all.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] where the image is a link: what it leads to belongs to others;
    /// [`ErrorKind::Exists`] where there is an image, which others may have mounted; [`ErrorKind::InvalidArchive`]
    /// when what was written is no image; those of `fill` and of the file system.
    pub fn put_image<T>(&self, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        self.check_no_image()?;
        self.put_file(IMAGE, |file| {
            let filled = fill(file)?;
            let source = file.try_clone().and_then(FileSource::new).during("read the image again")?;
            check_size(&Image::open(source).map_err(erofs_error)?)?;
            Ok(filled)
        })
    }

    /// Puts the image of a layer there: the changes of `source`, made over `parents`. Use
    /// [`layer_image_options`].
    ///
    /// # Errors
    /// As [`SnapshotDir::put_image`]; those of the source; what EROFS cannot hold.
    pub fn apply<P: LayerTree + Clone + 'static>(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &dyn Monitor,
    ) -> Result<Applied<ErofsImage>> {
        let written = self.put_image(|file| {
            let sink = ErofsSink::new(file, parents, options, monitor)?;
            Ok(road::pump(source, sink, monitor)?.1)
        })?;
        let mut applied = Applied::new(self.require_image()?);
        (applied.entries, applied.bytes) = (written.entries, written.bytes);
        applied.implied_dirs = written.implied_dirs;
        Ok(applied)
    }

    fn check_no_image(&self) -> Result<()> {
        let refuse = |kind, message| Err(named(Error::new(kind, message), &self.image_path()));
        match self.type_of(IMAGE)? {
            None => Ok(()),
            Some(FileType::Symlink) => {
                refuse(ErrorKind::FailedPrecondition, "the image is a link to one of somebody else's")
            }
            Some(_) => refuse(ErrorKind::Exists, "there is an image already"),
        }
    }

    /// The image, if there is one. Where it is a link, it is that in the cache.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for what is no image, or a damaged one; [`ErrorKind::NotSupported`] for features
    /// that are not known; those of the file system.
    pub fn image(&self) -> Result<Option<ErofsImage>> {
        let path = self.image_path();
        let Some(file) = self.image_file()? else { return Ok(None) };
        let source = FileSource::new(file).map_err(|error| failed("open image", &path, error))?;
        let image = Image::open(source).map_err(|error| named(erofs_error(error), &path))?;
        check_size(&image).map_err(|error| named(error, &path))?;
        Ok(Some(ErofsImage::new(image, path)))
    }

    /// The image, which has to be there.
    pub(crate) fn require_image(&self) -> Result<ErofsImage> {
        let missing = || Error::new(ErrorKind::NotFound, "the image of the layer is missing");
        self.image()?.ok_or_else(|| named(missing(), &self.image_path()))
    }

    /// The file that the image is in, opened for reading, if it is there.
    pub(crate) fn image_file(&self) -> Result<Option<File>> {
        let path = self.image_path();
        let file = match sys::open_file(self.fd(), IMAGE, true) {
            Ok(file) => file,
            // A link whose target is gone is no missing image.
            Err(Errno::NOENT) if self.type_of(IMAGE)?.is_none() => return Ok(None),
            Err(error) => return Err(failed("open image", &path, error)),
        };
        let metadata = file.metadata().map_err(|error| failed("stat image", &path, error))?;
        if !metadata.is_file() {
            return Err(named(
                Error::new(ErrorKind::InvalidArchive, "the image is not a regular file"),
                &path,
            ));
        }
        Ok(Some(file))
    }

    /// Whether the image is a link.
    pub(crate) fn image_is_link(&self) -> Result<bool> {
        Ok(self.type_of(IMAGE)? == Some(FileType::Symlink))
    }

    /// Takes the image away, if it is there.
    pub(crate) fn remove_image(&self) -> Result<()> {
        self.remove_file(IMAGE)
    }

    /// Takes merged metadata away, if it is there.
    pub(crate) fn remove_fsmeta(&self) -> Result<()> {
        self.remove_file(FSMETA)
    }

    fn remove_file(&self, name: &str) -> Result<()> {
        sys::unlink(self.fd(), name)
            .and_then(|()| sys::sync(self.fd()))
            .map_err(|error| failed("remove", &self.path().join(name), error))
    }

    /// Writes the merged metadata of this layer and all its `parents`, nearest first: an image that shows what an
    /// overlay mount of them would show, with the layers' images as its devices, bottom first. It stands for the
    /// whole stack, so whiteouts and opaque marks are left out.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without an image; [`ErrorKind::NotSupported`] for layers whose data cannot be referred
    /// to (inside of inodes, compressed, on a device of their own); what else is wrong with a layer; those of the
    /// file system. Metadata that was there is still there then.
    pub fn merge_fsmeta(&self, parents: &Stack<ErofsImage>) -> Result<Summary> {
        let own = self.require_image()?;
        let mut images: Vec<Image> = Vec::with_capacity(parents.len() + 1);
        for layer in [&own].into_iter().chain(parents) {
            if !layer.image().devices().is_empty() {
                // The kernel would look for the layer's data on its image, and the index is in front of it there.
                let message = "a layer with a device of its own cannot be merged with others";
                return Err(named(Error::new(ErrorKind::NotSupported, message), layer.name()));
            }
            images.push(layer.image().clone());
        }
        images.reverse();
        let options = MergeOptions::new().strip_markers(true);
        let write = WriteOptions::new().epoch_from_files(true);
        let plan = merge_layers(&images, &options, &write)
            .map_err(|error| named(erofs_error(error), &self.fsmeta_path()))?;
        self.put_file(FSMETA, |file| {
            let (mut file, summary) = plan.write(BufWriter::new(file), &()).map_err(erofs_error)?;
            file.flush().during("write merged metadata")?;
            Ok(summary)
        })
    }

    /// Makes a file beside its place, and gives it its name when it is on disk.
    fn put_file<T>(&self, name: &str, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        let path = self.path_of(name);
        let prefix = format!("{name}.tmp-");
        let at = |operation: &'static str| {
            let path = &path;
            move |error: Errno| failed(operation, path, error)
        };
        sys::remove_unlocked(self.fd(), &prefix).map_err(at("remove what was left"))?;
        let (temporary, mut file) =
            sys::create_unique(self.fd(), &prefix).map_err(at("make a file beside"))?;
        let put = fill(&mut file).map_err(|error| named(error, &path)).and_then(|filled| {
            file.sync_all().map_err(|error| failed("write to disk", &path, error))?;
            // Only merged metadata may be there: it says the same as before.
            let renamed = match name {
                FSMETA => rustix::fs::renameat(self.fd(), &*temporary, self.fd(), name),
                _ => sys::rename_new(self.fd(), &temporary, name),
            };
            renamed.and_then(|()| sys::sync(self.fd())).map_err(at("give the file its name"))?;
            Ok(filled)
        });
        if put.is_err() {
            // What cannot be removed now is removed by the next one, or with the directory.
            let _ = sys::unlink(self.fd(), &temporary);
        }
        put
    }
}
