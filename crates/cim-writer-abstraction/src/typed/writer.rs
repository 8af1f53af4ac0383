//! A layer while it is written.

use std::{io, marker::PhantomData};

use layer_model::Result;

use super::{
    BlockCim, BlockStorage, ChildRole, ForkedCim, ImportOptions, Integrity, Role, marker::RootDigest,
    place::DirLock,
};
use crate::{
    CimOp, CimPath, CimSink, FileMeta, LayerEvent, StreamName,
    plan::{Planned, Planner},
    vhd::UniqueId,
};

/// Writes one layer of the kind `L`.
///
/// Dropping it discards: [`Writer::commit`] alone makes an image.
#[derive(Debug)]
pub struct Writer<'a, L, R, K: CimSink> {
    /// [`None`] once it was committed.
    pub(super) planner: Option<Planner<'a, K>>,
    pub(super) layer: L,
    pub(super) options: ImportOptions<'a>,
    pub(super) lock: Option<DirLock>,
    pub(super) role: PhantomData<R>,
}

/// A layer that was committed, and what it was written to.
#[derive(Debug)]
#[non_exhaustive]
pub struct Committed<L, K> {
    /// The layer.
    pub layer: L,
    /// What was done.
    pub planned: Planned,
    /// What took the operations.
    pub sink: K,
}

impl<'a, L, R: Role, K: CimSink> Writer<'a, L, R, K> {
    fn planner(&mut self) -> &mut Planner<'a, K> {
        self.planner.as_mut().expect("the plan is there until the writer is committed, which consumes it")
    }

    /// Takes one event of the layer, content and all.
    ///
    /// # Errors
    /// Those of [`Planner::event`].
    pub fn event(&mut self, event: LayerEvent<'_>) -> Result<()> {
        self.planner().event(event)
    }

    /// Adds a file of `size` bytes, which are written to what is returned.
    ///
    /// # Errors
    /// Those of [`Planner::begin_file`].
    pub fn file(&mut self, path: &CimPath, meta: &FileMeta, size: u64) -> Result<StreamWriter<'_, 'a, K>> {
        let planner = self.planner();
        planner.begin_file(path, meta, size)?;
        Ok(StreamWriter { planner, finished: false })
    }

    /// Adds an alternate stream of `size` bytes to a file of this layer.
    ///
    /// # Errors
    /// Those of [`Planner::begin_stream`].
    pub fn stream(&mut self, of: &CimPath, name: &StreamName, size: u64) -> Result<StreamWriter<'_, 'a, K>> {
        let planner = self.planner();
        planner.begin_stream(of, name, size)?;
        Ok(StreamWriter { planner, finished: false })
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// Those of [`Planner::begin_file`].
    pub fn directory(&mut self, path: &CimPath, meta: &FileMeta) -> Result<()> {
        let meta = FileMeta { attributes: meta.attributes | crate::Attributes::DIRECTORY, ..meta.clone() };
        self.file(path, &meta, 0)?.finish()
    }

    /// Gives the file `target` the name `path`, too.
    ///
    /// # Errors
    /// Those of [`Planner::link`].
    pub fn hard_link(&mut self, path: &CimPath, target: &CimPath) -> Result<()> {
        self.planner().link(path, target)
    }

    fn finish(&mut self) -> Result<(K, Planned)> {
        self.planner.take().expect("only committing takes the plan, and consumes the writer").finish()
    }
}

impl<L, K: CimSink> Writer<'_, L, ChildRole, K> {
    /// Takes away what the parents have at `path`.
    ///
    /// # Errors
    /// Those of [`Planner::remove`].
    pub fn remove(&mut self, path: &CimPath) -> Result<()> {
        self.planner().remove(path)
    }
}

impl<R: Role, K: CimSink> Writer<'_, ForkedCim, R, K> {
    /// Makes the image.
    ///
    /// # Errors
    /// What could only be seen at the end, and errors of the sink; there is no image then.
    pub fn commit(mut self) -> Result<Committed<ForkedCim, K>> {
        let (sink, planned) = self.finish()?;
        let layer = self.layer.clone().with_recorded_hives(planned.recorded_hives.iter().copied());
        Ok(Committed { layer, planned, sink })
    }
}

impl<S: BlockStorage, I: Integrity, R: Role, K: CimSink> Writer<'_, BlockCim<S, I>, R, K> {
    /// Makes the image, and seals it when it is verified.
    ///
    /// # Errors
    /// What could only be seen at the end, and errors of the sink; there is no image then that a handle leads to.
    pub fn commit(mut self) -> Result<Committed<BlockCim<S, I>, K>> {
        let (mut sink, planned) = self.finish()?;
        let mut layer = self.layer.clone().with_recorded_hives(planned.recorded_hives.iter().copied());
        let digest = close_container::<I, _>(
            &mut sink,
            layer.container.path(),
            self.options.footer,
            "integrity_checksum",
        )?;
        layer.evidence = I::evidence(digest);
        Ok(Committed { layer, planned, sink })
    }
}

/// What follows when a block CIM is closed: the seal, the footer, the digest beside the container, in this order. The
/// footer is outside of what is sealed.
pub(super) fn close_container<I: Integrity, K: CimSink>(
    sink: &mut K,
    container: &str,
    footer: Option<UniqueId>,
    sidecar: &str,
) -> Result<Option<RootDigest>> {
    let mut digest = None;
    if I::SEALED {
        sink.op(&CimOp::Seal { container })?;
        digest = sink.root_digest()?.map(RootDigest);
    }
    if let Some(id) = footer {
        let size = sink.container_len()?.unwrap_or(0);
        let unique_id = id.resolve(digest.as_ref().map(|digest| &digest.0))?;
        sink.op(&CimOp::VhdFooter { size, unique_id })?;
    }
    if I::SEALED {
        let text = digest.map(|digest| digest.to_string()).unwrap_or_default();
        sink.op(&CimOp::Sidecar { name: sidecar, text: &text })?;
    }
    Ok(digest)
}

impl<L, R, K: CimSink> Drop for Writer<'_, L, R, K> {
    fn drop(&mut self) {
        if let Some(planner) = self.planner.take() {
            // Nobody is left to tell; a sink that is dropped keeps nothing either.
            let _ = planner.discard();
        }
        self.lock = None;
    }
}

/// The stream of a file while it is written. Dropped before [`StreamWriter::finish`], it fails the layer.
#[derive(Debug)]
pub struct StreamWriter<'w, 'a, K: CimSink> {
    planner: &'w mut Planner<'a, K>,
    finished: bool,
}

impl<K: CimSink> StreamWriter<'_, '_, K> {
    /// Gives the next bytes.
    ///
    /// # Errors
    /// Those of [`Planner::write`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.planner.write(bytes)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Those of [`Planner::end`].
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.planner.end()
    }
}

impl<K: CimSink> io::Write for StreamWriter<'_, '_, K> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<K: CimSink> Drop for StreamWriter<'_, '_, K> {
    fn drop(&mut self) {
        if !self.finished {
            self.planner.fail();
        }
    }
}
