//! Layers of Windows into CIMs: recorded on any platform, and made real where Windows is.

use std::{
    fmt,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use cim_writer_abstraction::{
    Capabilities, CimKind, CimName, CimSink,
    model::ImageTree,
    plan::{PlanOptions, Planned},
    recorded::{RecordSink, RecordStage, RecordedLayer},
    typed::{
        BlockCim, CimLayer, Committed, Container, Forked, ForkedCim, ImageDir, Import, ImportOptions,
        Integrity, Role, SingleFile, Target, Writer,
    },
    vhd::UniqueId,
    wcow::{WcowOptions, WcowSource},
};
use layer_model::{Applied, Applier, Base, Digest, Error, ErrorKind, LayerSource, Monitor, Result, Stack};

/// Makes the sink of a real image, which gets what the record gets.
pub type ImageMaker<'a> = &'a dyn Fn() -> Result<Box<dyn CimSink>>;

/// How layers are put into CIMs.
#[derive(Clone)]
#[non_exhaustive]
pub struct CimOptions<'a> {
    /// How the layer becomes operations: the profile, and what is done about hives.
    pub plan: PlanOptions<'a>,
    /// How the layer is understood.
    pub wcow: WcowOptions,
    /// The VHD footer that is appended to the container of a block CIM. Default: none.
    pub footer: Option<UniqueId>,
    /// The container of a block CIM, or the directory of a forked one without parents. Default: `layer.vhd`, and `.`.
    pub container: Option<String>,
    /// The name of the image. Default: `layer.cim` for block CIMs; for forked ones the number of the layer, `1.cim`
    /// being the bottom one.
    pub name: Option<CimName>,
    /// What can be done where the image is made. Default: everything, which is right for a record.
    pub capabilities: Capabilities,
    /// Makes a real image beside the record. Default: no.
    pub image: Option<ImageMaker<'a>>,
}

impl Default for CimOptions<'_> {
    fn default() -> Self {
        Self {
            plan: PlanOptions::default(),
            wcow: WcowOptions::default(),
            footer: None,
            container: None,
            name: None,
            capabilities: Capabilities::emulated(),
            image: None,
        }
    }
}

impl fmt::Debug for CimOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CimOptions")
            .field("plan", &self.plan)
            .field("wcow", &self.wcow)
            .field("footer", &self.footer)
            .field("container", &self.container)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What operations go to.
type Sink = (RecordSink, Option<Box<dyn CimSink>>);

/// A layer that was imported, and whose record is not in its place yet.
pub struct CimImport<L> {
    stage: RecordStage,
    record: RecordSink,
    layer: L,
    planned: Planned,
    options: RecordedOptions,
}

/// What of the options and the parents is written down.
struct RecordedOptions {
    profile: cim_writer_abstraction::CimProfile,
    parents: Vec<Option<String>>,
}

impl<L: fmt::Debug> fmt::Debug for CimImport<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CimImport")
            .field("layer", &self.layer)
            .field("planned", &self.planned)
            .finish_non_exhaustive()
    }
}

impl<L: CimLayer> CimImport<L> {
    fn new(
        stage: RecordStage,
        committed: Committed<L, Sink>,
        parents: Option<&Stack<L>>,
        options: &CimOptions<'_>,
    ) -> Self {
        let parents = parents.into_iter().flatten().map(|parent| parent.diff_id().map(Digest::to_string));
        let options = RecordedOptions { profile: options.wcow.profile, parents: parents.collect() };
        let Committed { layer, planned, sink: (record, _), .. } = committed;
        Self { stage, record, layer, planned, options }
    }

    /// What was done.
    pub fn planned(&self) -> &Planned {
        &self.planned
    }

    /// Puts the record of the layer, which was made of the tar of the digest `diff_id`, into its place.
    ///
    /// # Errors
    /// Those of the file system; nothing is left then.
    pub fn publish(self, diff_id: Option<Digest>) -> Result<(L, RecordedLayer)> {
        let mut descriptor = self.layer.describe();
        descriptor.diff_id = diff_id.as_ref().map(Digest::to_string);
        descriptor.parents = self.options.parents;
        descriptor.profile = self.options.profile.into();
        let (record, tree) = self.stage.publish(self.record, &descriptor)?;
        Ok((self.layer.settled(record.files(), tree, diff_id), record))
    }

    fn applied(self) -> Result<Applied<L>> {
        let planned = self.planned.clone();
        let (layer, _) = self.publish(None)?;
        let mut applied = Applied::new(layer);
        applied.entries = planned.entries;
        applied.bytes = planned.bytes;
        applied.implied_dirs = planned.implied.iter().map(|dir| dir.to_layer()).collect();
        Ok(applied)
    }
}

/// Imports a layer into a forked CIM, recorded in `dest`, where nothing is yet.
///
/// The changes of `source` follow [`layer_model::windows`]: a layer tar has to be read with what Windows has.
///
/// # Errors
/// Those of the layer, its parents, and the target; nothing is left then.
pub fn import_forked(
    source: &mut dyn LayerSource,
    parents: Option<&Stack<ForkedCim>>,
    dest: &Path,
    options: &CimOptions<'_>,
    monitor: &dyn Monitor,
) -> Result<CimImport<ForkedCim>> {
    let can = options.capabilities.fork()?;
    let stage = RecordStage::begin(dest)?;
    let tree = match parents.map(Stack::nearest) {
        None => ImageTree::new(CimKind::Forked),
        Some(parent) => match parent.tree() {
            Some(tree) => tree.fork(),
            None => {
                let what = "a fork of an image that cannot be looked into cannot be recorded";
                return Err(Error::new(ErrorKind::NotSupported, what));
            }
        },
    };
    let sink = open_sink(&stage, tree, options)?;
    let name = |depth: u32| options.name.clone().map_or_else(|| CimName::new(format!("{depth}.cim")), Ok);
    let (files, import) = (stage.files(), import_options(options));
    let committed = match parents {
        None => {
            let dir = ImageDir::new(options.container.as_deref().unwrap_or("."))?;
            let mut writer = Import::<Forked>::base(&dir, name(1)?, files, sink, can, import, monitor)?;
            feed(&mut writer, source, options, monitor)?;
            writer.commit()?
        }
        Some(parents) => {
            // 1 is the bottom one's, whose depth is 0.
            let name = name(parents.nearest().depth().saturating_add(2))?;
            let mut writer = Import::<Forked>::child(parents, name, files, sink, can, import, monitor)?;
            feed(&mut writer, source, options, monitor)?;
            writer.commit()?
        }
    };
    Ok(CimImport::new(stage, committed, parents, options))
}

/// Imports a layer into a block CIM, recorded in `dest`, where nothing is yet.
///
/// The changes of `source` follow [`layer_model::windows`]: a layer tar has to be read with what Windows has.
///
/// # Errors
/// Those of the layer, its parents, and the target; nothing is left then.
pub fn import_block<I: Integrity>(
    source: &mut dyn LayerSource,
    parents: Option<&Stack<BlockCim<SingleFile, I>>>,
    dest: &Path,
    options: &CimOptions<'_>,
    monitor: &dyn Monitor,
) -> Result<CimImport<BlockCim<SingleFile, I>>> {
    let can = I::token(&options.capabilities)?;
    let stage = RecordStage::begin(dest)?;
    let sink = open_sink(&stage, ImageTree::new(CimKind::Block), options)?;
    let container = Container::new(options.container.as_deref().unwrap_or("layer.vhd"))?;
    let name = options.name.clone().map_or_else(|| CimName::new("layer.cim"), Ok)?;
    let target = Target::new(container, name, stage.files());
    let import = import_options(options);
    let committed = match parents {
        None => {
            let mut writer = Import::<SingleFile>::base::<I, _>(target, sink, can, import, monitor)?;
            feed(&mut writer, source, options, monitor)?;
            writer.commit()?
        }
        Some(parents) => {
            let mut writer = Import::<SingleFile>::child(target, parents, sink, can, import, monitor)?;
            feed(&mut writer, source, options, monitor)?;
            writer.commit()?
        }
    };
    Ok(CimImport::new(stage, committed, parents, options))
}

fn import_options<'a>(options: &CimOptions<'a>) -> ImportOptions<'a> {
    let import = ImportOptions::default().plan(options.plan.profile(options.wcow.profile));
    match options.footer {
        Some(id) => import.footer(id),
        None => import,
    }
}

fn open_sink(stage: &RecordStage, tree: ImageTree, options: &CimOptions<'_>) -> Result<Sink> {
    Ok((stage.sink(tree)?, options.image.map(|make| make()).transpose()?))
}

/// Gives the writer all that the layer says.
fn feed<L, R: Role>(
    writer: &mut Writer<'_, L, R, Sink>,
    source: &mut dyn LayerSource,
    options: &CimOptions<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut events = WcowSource::new(source, options.wcow, monitor);
    while let Some(event) = events.next_event()? {
        if monitor.should_stop() {
            return Err(Error::cancelled());
        }
        monitor.entry(event.path().to_layer().as_path());
        writer.event(event)?;
    }
    Ok(())
}

/// Applies layers to CIMs of one kind, on top of parents of the same: [`ForkedCim`]s, or [`BlockCim`]s of one integrity.
///
/// The target is the directory of the record. The parents have to be known: a layer without any is another thing to
/// Windows than one with some.
pub struct CimApplier<'a, L> {
    options: CimOptions<'a>,
    layer: PhantomData<fn() -> L>,
}

impl<L> Default for CimApplier<'_, L> {
    fn default() -> Self {
        Self::new(CimOptions::default())
    }
}

impl<L> fmt::Debug for CimApplier<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CimApplier").field("options", &self.options).finish()
    }
}

impl<'a, L> CimApplier<'a, L> {
    /// An applier with these options.
    pub fn new(options: CimOptions<'a>) -> Self {
        Self { options, layer: PhantomData }
    }
}

impl Applier for CimApplier<'_, ForkedCim> {
    type Parent = ForkedCim;
    type Layer = ForkedCim;
    type Target = PathBuf;

    fn apply(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, ForkedCim>,
        target: PathBuf,
        monitor: &dyn Monitor,
    ) -> Result<Applied<ForkedCim>> {
        import_forked(source, known(parents)?, &target, &self.options, monitor)?.applied()
    }
}

impl<I: Integrity> Applier for CimApplier<'_, BlockCim<SingleFile, I>> {
    type Parent = BlockCim<SingleFile, I>;
    type Layer = BlockCim<SingleFile, I>;
    type Target = PathBuf;

    fn apply(
        &self,
        source: &mut dyn LayerSource,
        parents: Base<'_, Self::Parent>,
        target: PathBuf,
        monitor: &dyn Monitor,
    ) -> Result<Applied<Self::Layer>> {
        import_block(source, known(parents)?, &target, &self.options, monitor)?.applied()
    }
}

fn known<L>(parents: Base<'_, L>) -> Result<Option<&Stack<L>>> {
    match parents {
        Base::Empty => Ok(None),
        Base::Layers(stack) => Ok(Some(stack)),
        Base::Unknown => {
            let what = "a layer of Windows cannot be imported without knowing its parents";
            Err(Error::new(ErrorKind::NotSupported, what))
        }
    }
}
