//! Layers of Windows: imported into recorded CIMs, shown, and made into images and tars.
//!
//! | I want to ... | use |
//! |---|---|
//! | import a layer blob, on top of recorded parents | [`import`] |
//! | see what recorded layers show together | [`open_view`] |
//! | write a layer tar of recorded layers | [`write_tar`] |
//! | make standard CIMs of recorded layers | [`replay_to_cims`] |
//! | read a standard CIM | [`cim_format::stdcim::Image`](crate::cim_format::stdcim::Image) |

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cim_writer_abstraction::{
    here,
    model::{self, ImageTree, View},
    plan::Planned,
    recorded::{AnyStack, RecordedLayer},
    self_test,
    stdcim::{self, Major, StdCimSink},
    table::TableSink,
    typed::{BlockCim, CimLayer, ForkedCim, Integrity, SingleFile, Unverified, Verified},
    wcow::WcowChanges,
};
use layer_apply::{
    cim::{CimImport, import_block, import_forked},
    write_file,
};
use layer_model::{Error, ErrorKind, Form, Monitor, Result, Stack};
use layer_tar::ReadOptions;

use crate::{DiffOptions, LayerDescriptor, LayerInput, changes::LayerChanges, diff::write_layer};

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
            Self::Forked => Form::FORKED_CIM.0,
            Self::Block => Form::BLOCK_CIM.0,
            Self::VerifiedBlock => Form::VERIFIED_BLOCK_CIM.0,
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

fn merged<I: Integrity>(stack: &Stack<BlockCim<SingleFile, I>>) -> Result<Option<View>> {
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
        let mut sink = StdCimSink::new(major, stdcim::WriteOptions::default().directory(dir));
        RecordedLayer::open(path)?.replay(&mut sink, None)?;
        names.push(layer.name().as_str().to_owned());
    }
    Ok(names)
}

/// Writes a layer tar of recorded layers, nearest first, to the new file `path`: of what the nearest says by itself, or,
/// with `flat`, a base layer that shows what all of them do.
///
/// # Errors
/// [`ErrorKind::Unrepresentable`] for what no archive can say, those of the records and of the file; no file is left
/// then.
pub fn write_tar(
    paths: &[PathBuf],
    flat: bool,
    path: &Path,
    monitor: &dyn Monitor,
) -> Result<LayerDescriptor> {
    let (view, parent) = match flat {
        true => (open_view(paths)?, None),
        false => nearest(paths)?,
    };
    let events = if flat { view.base_layer() } else { view.layer(parent.as_deref())? };
    let mut changes = WcowChanges::new(events);
    let mut options = DiffOptions::default();
    options.tar = options.tar.windows(true);
    write_file(path, |file| Ok(write_layer(&mut changes, file, &options, monitor)?.1))
}

/// The nearest layer by itself, and what it is forked from.
fn nearest(paths: &[PathBuf]) -> Result<(View, Option<Arc<ImageTree>>)> {
    let none = || Error::new(ErrorKind::InvalidArgument, "there is no layer to look at");
    let tree = |tree: Option<&Arc<ImageTree>>| tree.map(|tree| View::of(tree)).ok_or_else(none);
    match AnyStack::open(paths)?.ok_or_else(none)? {
        AnyStack::Forked(stack) => {
            let parent = stack.iter().nth(1).and_then(|parent| parent.tree().cloned());
            Ok((tree(stack.nearest().tree())?, parent))
        }
        AnyStack::Block(stack) => Ok((tree(stack.nearest().tree())?, None)),
        AnyStack::Verified(stack) => Ok((tree(stack.nearest().tree())?, None)),
        _ => Err(none()),
    }
}

/// Makes the images of the recorded layers at `paths`, nearest first, with the CimFS of this machine, bottom first.
/// Hives that were only recorded are merged.
///
/// # Errors
/// [`ErrorKind::NotSupported`] anywhere but on a Windows that can; those of the records and of Windows.
pub fn replay_on_windows(paths: &[PathBuf], monitor: &dyn Monitor) -> Result<()> {
    let (cimfs, merger) = (here::cimfs()?, here::offline_registry()?);
    for path in paths.iter().rev() {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        let mut sink = TableSink::new(cimfs.clone());
        RecordedLayer::open(path)?.replay(&mut sink, Some(&merger))?;
    }
    Ok(())
}

/// Makes CIMs with the CimFS of this machine, mounts them, and compares what is there with what should be.
///
/// # Errors
/// [`ErrorKind::NotSupported`] anywhere but on a Windows that can; [`ErrorKind::FailedPrecondition`] for a difference.
pub fn self_test(dir: &Path) -> Result<Vec<String>> {
    self_test::self_test_here(dir)
}
