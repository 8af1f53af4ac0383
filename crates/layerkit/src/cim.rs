//! Layers of Windows: imported into recorded CIMs, shown, and made into images and tars.
//!
//! | I want to ... | use |
//! |---|---|
//! | import a layer blob, on top of recorded parents | [`import`] |
//! | see what recorded layers show together | [`open_view`] |
//! | make standard CIMs of recorded layers | [`replay_to_cims`] |
//! | read a standard CIM | [`cim_format::stdcim::Image`](crate::cim_format::stdcim::Image) |

use std::path::{Path, PathBuf};

use cim_writer_abstraction::{
    CimSink,
    journal::Replay,
    model::{self, View},
    plan::Planned,
    recorded::{AnyStack, RecordedLayer},
    stdcim::{Major, StdCimSink, WriteOptions},
    typed::{BlockCim, CimLayer, ForkedCim, SingleFile, Unverified, Verified},
};
use layer_apply::cim::{CimImport, import_block, import_forked};
use layer_model::{Error, ErrorKind, Monitor, Result};
use layer_tar::ReadOptions;

use crate::{LayerDescriptor, LayerInput, changes::LayerChanges};

pub use layer_apply::cim::{CimOptions, ImageMaker};

/// The kinds of layers, when they are chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CimForm {
    /// In a standard CIM, forked from that of its parent.
    Forked,
    /// In a block CIM.
    Block,
    /// In a block CIM with a root digest.
    VerifiedBlock,
}

impl CimForm {
    fn name(self) -> &'static str {
        match self {
            Self::Forked => "forked CIM",
            Self::Block => "block CIM",
            Self::VerifiedBlock => "verified block CIM",
        }
    }

    fn of(stack: &AnyStack) -> Self {
        match stack {
            AnyStack::Block(_) => Self::Block,
            AnyStack::Verified(_) => Self::VerifiedBlock,
            _ => Self::Forked,
        }
    }
}

/// What importing a layer did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CimImported {
    /// The blob.
    pub layer: LayerDescriptor,
    /// What was done.
    pub planned: Planned,
    /// The layer, recorded.
    pub record: RecordedLayer,
}

/// Imports the layer that `input` holds into a CIM, on top of the recorded layers `parents`, nearest first, and records
/// it in `dest`, where nothing is yet: whole, or not at all.
///
/// # Errors
/// [`ErrorKind::WrongForm`] for parents of another form; those of the blob, of the layer, and of the target.
pub fn import(
    input: LayerInput,
    form: CimForm,
    parents: &[PathBuf],
    dest: &Path,
    options: &CimOptions<'_>,
    read: ReadOptions,
    monitor: &dyn Monitor,
) -> Result<CimImported> {
    let parents = AnyStack::open(parents)?;
    let mut changes = input.changes(read.windows(true), monitor)?;
    match (form, parents) {
        (CimForm::Forked, None) => {
            import_forked(&mut changes, None, dest, options, monitor).and_then(|done| publish(done, &changes))
        }
        (CimForm::Forked, Some(AnyStack::Forked(stack))) => {
            import_forked(&mut changes, Some(&stack), dest, options, monitor)
                .and_then(|done| publish(done, &changes))
        }
        (CimForm::Block, None) => import_block::<Unverified>(&mut changes, None, dest, options, monitor)
            .and_then(|done: CimImport<BlockCim<SingleFile, _>>| publish(done, &changes)),
        (CimForm::Block, Some(AnyStack::Block(stack))) => {
            import_block(&mut changes, Some(&stack), dest, options, monitor)
                .and_then(|done| publish(done, &changes))
        }
        (CimForm::VerifiedBlock, None) => {
            import_block::<Verified>(&mut changes, None, dest, options, monitor)
                .and_then(|done| publish(done, &changes))
        }
        (CimForm::VerifiedBlock, Some(AnyStack::Verified(stack))) => {
            import_block(&mut changes, Some(&stack), dest, options, monitor)
                .and_then(|done| publish(done, &changes))
        }
        (form, Some(stack)) => {
            let kind = ErrorKind::WrongForm { expected: form.name(), got: CimForm::of(&stack).name() };
            Err(Error::new(kind, "parents of another form are no parents"))
        }
    }
}

/// The record is put into its place once the whole blob was read, and is what it was announced as.
fn publish<L: CimLayer>(done: CimImport<L>, changes: &LayerChanges<'_>) -> Result<CimImported> {
    let summary = changes.summary()?;
    let planned = done.planned().clone();
    let (_, record) = done.publish(Some(summary.diff_id.clone()))?;
    Ok(CimImported { layer: summary.into(), planned, record })
}

/// What the recorded layers at `paths`, nearest first, show together.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for no layers; as [`AnyStack::open`], and what cannot be merged.
pub fn open_view(paths: &[PathBuf]) -> Result<View> {
    match AnyStack::open(paths)? {
        Some(AnyStack::Forked(stack)) => stack.nearest().tree().map(|tree| View::of(tree)),
        Some(AnyStack::Block(stack)) => merged(&stack)?,
        Some(AnyStack::Verified(stack)) => merged(&stack)?,
        _ => None,
    }
    .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "there is no layer to look at"))
}

fn merged<I: cim_writer_abstraction::typed::Integrity>(
    stack: &layer_model::Stack<BlockCim<SingleFile, I>>,
) -> Result<Option<View>> {
    let trees: Option<Vec<_>> = stack.iter().map(|layer| layer.tree().map(|tree| &**tree)).collect();
    trees.map(model::merge).transpose()
}

/// Makes standard CIMs in the directory `dir` of the recorded forked layers at `paths`, nearest first: one an image, each
/// forked from that below it.
///
/// The writer is an experiment: no Windows has been seen to mount what it makes.
///
/// # Errors
/// [`ErrorKind::WrongForm`] for block CIMs, which only Windows can write; those of the records and of the target. Images
/// that were complete before stay.
pub fn replay_to_cims(
    paths: &[PathBuf],
    dir: &Path,
    major: Major,
    monitor: &dyn Monitor,
) -> Result<Vec<String>> {
    let Some(AnyStack::Forked(stack)) = AnyStack::open(paths)? else {
        let kind = ErrorKind::WrongForm { expected: CimForm::Forked.name(), got: CimForm::Block.name() };
        return Err(Error::new(kind, "how block CIMs look inside is not public"));
    };
    let mut names = Vec::with_capacity(stack.len());
    let layers: Vec<&ForkedCim> = stack.iter().collect();
    for (path, layer) in paths.iter().zip(layers).rev() {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let sink = StdCimSink::new(major, WriteOptions::default().directory(dir));
        replay(&RecordedLayer::open(path)?, &mut { sink })?;
        names.push(layer.name().as_str().to_owned());
    }
    Ok(names)
}

/// Does to `sink` what was done when the layer was imported.
///
/// # Errors
/// As [`Replay::run`].
pub fn replay(layer: &RecordedLayer, sink: &mut dyn CimSink) -> Result<()> {
    let content = layer.content()?;
    Replay::new(&content).run(layer.journal()?, sink)?;
    Ok(())
}
