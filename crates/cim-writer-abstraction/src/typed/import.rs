//! How a writer comes about: from a target, the parents, a sink, and a token.

use std::{marker::PhantomData, sync::Arc};

use layer_model::{Monitor, Result, Stack};

use super::{
    BaseRole, BlockCim, BlockStorage, ChildRole, Forked, ForkedCim, ImageDir, Integrity, SingleFile, Target,
    Writer, layers::Beside,
};
use crate::{
    CimKind, CimName, CimOp, CimSink,
    caps::CanFork,
    model::{self, View},
    op::CreateFlags,
    plan::{self, LayerDir, ParentView, Parents, PlanOptions, Planner},
    vhd::UniqueId,
};

/// How a layer is imported.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions<'a> {
    pub(super) plan: PlanOptions<'a>,
    pub(super) footer: Option<UniqueId>,
}

impl<'a> ImportOptions<'a> {
    /// How events become operations.
    #[must_use]
    pub fn plan(mut self, plan: PlanOptions<'a>) -> Self {
        self.plan = plan;
        self
    }

    /// Appends a VHD footer with this identifier to the container, so that it can be attached as a disk. Block CIMs
    /// only.
    #[must_use]
    pub fn footer(mut self, id: UniqueId) -> Self {
        self.footer = Some(id);
        self
    }
}

/// The ways to begin a layer of one storage.
#[derive(Debug)]
pub struct Import<S>(PhantomData<S>);

impl Import<Forked> {
    /// Begins a layer without parents, as the image `name` in `dir`, with the layer directory `files`.
    ///
    /// # Errors
    /// [`Busy`](layer_model::ErrorKind::Busy) while another image is written in `dir`, and errors of the sink.
    pub fn base<'a, K: CimSink>(
        dir: &ImageDir,
        name: CimName,
        files: LayerDir,
        sink: K,
        _: CanFork,
        options: ImportOptions<'a>,
        monitor: &'a dyn Monitor,
    ) -> Result<Writer<'a, ForkedCim, BaseRole, K>> {
        let layer = ForkedCim::new(dir.clone(), name, files, 0);
        forked(layer, None, plan::Role::Base, sink, options, monitor)
    }

    /// Begins a layer on top of `parents`, as the image `name`, forked from and next to the nearest one's.
    ///
    /// # Errors
    /// [`Busy`](layer_model::ErrorKind::Busy) while another image is written in that directory, and errors of the sink.
    pub fn child<'a, K: CimSink>(
        parents: &Stack<ForkedCim>,
        name: CimName,
        files: LayerDir,
        sink: K,
        _: CanFork,
        options: ImportOptions<'a>,
        monitor: &'a dyn Monitor,
    ) -> Result<Writer<'a, ForkedCim, ChildRole, K>> {
        let parent = parents.nearest();
        let layer = ForkedCim::new(parent.dir.clone(), name, files, parent.depth.saturating_add(1));
        // A forked image shows all that is below it, so the nearest one is enough.
        let view = parent.beside.tree.as_deref().map(|tree| Arc::new(View::of(tree)) as Arc<dyn ParentView>);
        let hives = parents.iter().map(|parent| parent.beside.hives()).collect();
        let role = plan::Role::Child(Parents { view, hives });
        forked(layer, Some(&parent.name), role, sink, options, monitor)
    }
}

fn forked<'a, R: super::Role, K: CimSink>(
    layer: ForkedCim,
    parent: Option<&CimName>,
    role: plan::Role<'a>,
    mut sink: K,
    options: ImportOptions<'a>,
    monitor: &'a dyn Monitor,
) -> Result<Writer<'a, ForkedCim, R, K>> {
    let lock = layer.dir.lock()?;
    sink.op(&CimOp::CreateImage {
        kind: CimKind::Forked,
        container: layer.dir.path(),
        name: &layer.name,
        parent,
        flags: CreateFlags::empty(),
    })?;
    let files = layer.beside.files.clone();
    let planner = Planner::new(sink, CimKind::Forked, role, files, options.plan, monitor);
    Ok(Writer { planner: Some(planner), layer, options, lock: Some(lock), role: PhantomData })
}

impl Import<SingleFile> {
    /// Begins a layer without parents in a container of its own.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn base<'a, I: Integrity, K: CimSink>(
        target: Target<SingleFile>,
        sink: K,
        _: I::Token,
        options: ImportOptions<'a>,
        monitor: &'a dyn Monitor,
    ) -> Result<Writer<'a, BlockCim<SingleFile, I>, BaseRole, K>> {
        block(target, plan::Role::Base, sink, options, monitor)
    }

    /// Begins a layer on top of `parents` in a container of its own.
    ///
    /// # Errors
    /// Those of merging what the parents have, and of the sink.
    pub fn child<'a, I: Integrity, K: CimSink>(
        target: Target<SingleFile>,
        parents: &Stack<BlockCim<SingleFile, I>>,
        sink: K,
        _: I::Token,
        options: ImportOptions<'a>,
        monitor: &'a dyn Monitor,
    ) -> Result<Writer<'a, BlockCim<SingleFile, I>, ChildRole, K>> {
        let trees: Option<Vec<_>> = parents.iter().map(|parent| parent.beside.tree.as_deref()).collect();
        let view = match trees {
            Some(trees) => Some(Arc::new(model::merge(trees)?) as Arc<dyn ParentView>),
            None => None,
        };
        let hives = parents.iter().map(|parent| parent.beside.hives()).collect();
        block(target, plan::Role::Child(Parents { view, hives }), sink, options, monitor)
    }
}

fn block<'a, S: BlockStorage, I: Integrity, R: super::Role, K: CimSink>(
    target: Target<S>,
    role: plan::Role<'a>,
    mut sink: K,
    options: ImportOptions<'a>,
    monitor: &'a dyn Monitor,
) -> Result<Writer<'a, BlockCim<S, I>, R, K>> {
    let Target { container, name, files } = target;
    create_block::<S, I, _>(&mut sink, container.path(), &name)?;
    let planner = Planner::new(sink, CimKind::Block, role, files.clone(), options.plan, monitor);
    let layer = BlockCim { container, name, evidence: I::evidence(None), beside: Beside::new(files) };
    Ok(Writer { planner: Some(planner), layer, options, lock: None, role: PhantomData })
}

/// Creates a block CIM. The same source always gives the same bytes.
pub(super) fn create_block<S: BlockStorage, I: Integrity, K: CimSink>(
    sink: &mut K,
    container: &str,
    name: &CimName,
) -> Result<()> {
    let flags = S::CREATE | I::CREATE | CreateFlags::CONSISTENT;
    sink.op(&CimOp::CreateImage { kind: CimKind::Block, container, name, parent: None, flags })
}
