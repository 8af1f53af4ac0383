//! Layers as EROFS images: the sink and the applier.

use std::{
    fmt,
    io::{Read, Seek, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
};

use erofs_format::Summary;
use layer_model::{
    Applied, Applier, Base, Change, Digest, IoContext, LayerPathBuf, LayerSink, LayerSource, LayerTree,
    Monitor, Result, road,
};

use super::{
    ErofsImage, ErofsOptions,
    output::{BlobOutput, Output},
    tree::Builder,
};
use crate::{
    fs::new_file::write_file,
    lowers::{Lowers, Parents},
};

/// Makes an EROFS image of one layer, in one pass: content goes to its place in the image as it comes.
///
/// The target is a file, which appears whole or not at all and replaces one that is there.
///
/// `P` is the form of the parents, nearest first: any layer that can be looked into. As for an
/// [`OverlayApplier`](crate::OverlayApplier) they say what directories look like that the layer does not describe,
/// where links of lower layers lead, and what a hard link to a name of another layer means.
pub struct ErofsApplier<P> {
    options: ErofsOptions,
    parents: PhantomData<fn() -> P>,
}

impl<P> ErofsApplier<P> {
    /// An applier with these options.
    pub fn new(options: ErofsOptions) -> Self {
        Self { options, parents: PhantomData }
    }
}

impl<P> Clone for ErofsApplier<P> {
    fn clone(&self) -> Self {
        Self::new(self.options.clone())
    }
}

impl<P> Default for ErofsApplier<P> {
    fn default() -> Self {
        Self::new(ErofsOptions::default())
    }
}

impl<P> fmt::Debug for ErofsApplier<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsApplier").field("options", &self.options).finish()
    }
}

impl<P: LayerTree + Clone + 'static> Applier for ErofsApplier<P> {
    type Parent = P;
    type Layer = ErofsImage;
    type Target = PathBuf;

    fn apply(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, P>,
        target: PathBuf,
        monitor: &dyn Monitor,
    ) -> Result<Applied<ErofsImage>> {
        let written = write_file(&target, |file| {
            let sink = ErofsSink::new(&mut *file, parents, self.options.clone(), monitor)?;
            let (_, written) = road::pump(source, sink, monitor)?;
            if self.options.sync {
                file.sync_all().during("write the image to disk")?;
            }
            Ok(written)
        })?;
        let image = ErofsImage::open::<&Path>(&target, &[])?.namespace(self.options.marker_namespace());
        let mut applied = Applied::new(image);
        (applied.entries, applied.bytes) = (written.entries, written.bytes);
        applied.implied_dirs = written.implied_dirs;
        Ok(applied)
    }
}

/// Writes changes as an EROFS image to any output that can be written, read and positioned.
pub struct ErofsSink<'m, W> {
    builder: Builder<'m, W>,
    archive: Option<(u64, Digest)>,
}

/// What an [`ErofsSink`] wrote.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ErofsWritten {
    /// Size, blocks, inodes.
    pub image: Summary,
    /// How many changes it took.
    pub entries: u64,
    /// How many bytes of content they had.
    pub bytes: u64,
    /// Directories that no entry describes, and no parent could, in layer order.
    pub implied_dirs: Vec<LayerPathBuf>,
}

impl<'m, W: Read + Write + Seek> ErofsSink<'m, W> {
    /// Writes to `out` from where it stands.
    ///
    /// # Errors
    /// [`ErrorKind::Unrepresentable`](layer_model::ErrorKind::Unrepresentable) for options that contradict each
    /// other; those of the parents and of `out`.
    pub fn new<P: LayerTree + Clone + 'static>(
        out: W,
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let out = Output::image(out, &options.write)?;
        Self::begin(out, parents, options, monitor)
    }

    /// Writes metadata to `out`, at the end, and the content of files to `blob`, as it comes: a device of the image. It
    /// is only appended to.
    ///
    /// # Errors
    /// As [`ErofsSink::new`].
    pub fn beside_blob<P: LayerTree + Clone + 'static>(
        out: W,
        blob: BlobOutput,
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let out = Output::beside_blob(out, blob, &options.write)?;
        Self::begin(out, parents, options, monitor)
    }

    /// Writes an index: metadata in blocks of 512 bytes, to `out`, at the end. The content of files stays in the
    /// uncompressed archive that the changes are read from, which is a device of the image.
    ///
    /// # Errors
    /// As [`ErofsSink::new`].
    pub fn beside_archive<P: LayerTree + Clone + 'static>(
        out: W,
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let out = Output::beside_archive(out, &options.write)?;
        Self::begin(out, parents, options, monitor)
    }

    /// Writes an image with the archive inside: metadata in blocks of 512 bytes goes before and behind it, and the
    /// content of files stays where it lies. The caller writes the uncompressed archive that the changes are read
    /// from to the same output, from [`ErofsSink::archive_start`] on, as it comes, and says how long it is
    /// ([`ErofsSink::set_archive`]).
    ///
    /// One pass, one copy of the data, and nothing else that the image needs.
    ///
    /// # Errors
    /// As [`ErofsSink::new`].
    pub fn around_archive<P: LayerTree + Clone + 'static>(
        out: W,
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let out = Output::around_archive(out, &options.write)?;
        Self::begin(out, parents, options, monitor)
    }

    /// Where the archive begins in the image, in bytes; only [around an archive](ErofsSink::around_archive).
    pub fn archive_start(&self) -> Option<u64> {
        self.builder.writer.archive_start()
    }

    /// Says what lies below the layer, after the last change, where that was [`Base::Unknown`] at the start: the
    /// image becomes what it would be had it been known. So layers can be read side by side, as only the end of each
    /// needs its parents.
    ///
    /// # Errors
    /// [`ErrorKind::NotDirectory`](layer_model::ErrorKind::NotDirectory) where a parent has a file in the place of a
    /// directory; [`ErrorKind::Exists`](layer_model::ErrorKind::Exists) when two names of the layer turn out to be one,
    /// by a link of a parent; those of the parents.
    pub fn adopt<P: LayerTree + Clone + 'static>(&mut self, parents: Base<'_, P>) -> Result<()> {
        match Parents::of(parents) {
            Parents::Unknown => Ok(()),
            parents => self.builder.adopt(parents),
        }
    }

    fn begin<P: LayerTree + Clone + 'static>(
        out: Output<W>,
        parents: Base<'_, P>,
        options: ErofsOptions,
        monitor: &'m dyn Monitor,
    ) -> Result<Self> {
        let builder = Builder::begin(out, Lowers::new(Parents::of(parents)), options, monitor)?;
        Ok(Self { builder, archive: None })
    }

    /// Says how long the archive is, of which this writes the index, and its digest (the layer's diff id), which
    /// becomes the tag of the device.
    pub fn set_archive(&mut self, len: u64, digest: Digest) {
        self.archive = Some((len, digest));
    }

    /// Gives the image another UUID than the options did: one that is derived from the layer is known at its end.
    pub fn set_uuid(&mut self, uuid: [u8; 16]) {
        self.builder.writer.set_uuid(uuid);
    }

    /// Takes a whole tree, as it is: also what no layer can say, like sockets. What is marked in it as a layer's
    /// ([`NodeKind::Whiteout`](layer_model::NodeKind::Whiteout), opaque directories) is marked in the image.
    ///
    /// # Errors
    /// Those of the tree and of the output.
    pub fn add_tree(&mut self, tree: &dyn LayerTree) -> Result<()> {
        self.builder.add_tree(tree)
    }
}

impl<W: Read + Write + Seek> LayerSink for ErofsSink<'_, W> {
    /// The output, and what was written to it.
    type Output = (W, ErofsWritten);

    fn change(&mut self, change: Change<'_>) -> Result<()> {
        self.builder.change(change)
    }

    fn finish(self) -> Result<Self::Output> {
        let mut builder = self.builder;
        builder.writer = builder.writer.end_archive(self.archive.as_ref().map(|(len, _)| *len));
        builder.complete()?;
        let implied = builder.implied.into_iter().filter(|(_, maybe)| *maybe);
        let implied_dirs = implied.map(|(path, _)| path).collect();
        let (entries, bytes) = (builder.budget.entries, builder.budget.bytes);
        let archive = self.archive.as_ref().map(|(len, digest)| (*len, digest));
        let (out, image) = builder.writer.finish(archive)?;
        Ok((out, ErofsWritten { image, entries, bytes, implied_dirs }))
    }
}

impl<W> fmt::Debug for ErofsSink<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErofsSink").finish_non_exhaustive()
    }
}
