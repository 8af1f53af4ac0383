//! Which differ fits two lists of mounts.
//!
//! A snapshotter describes a container's parent and the container as mounts. If the container is an overlay
//! whose lower layers are the parent's, its upper directory is the answer already; else both have to be
//! walked. Layers are compared as opened directories, by device and inode, as one directory has many names.
//! Nothing is mounted for either: what a mount would show is put together in process.

use std::{fmt, sync::Arc};

use layer_model::{Base, Error, ErrorKind, LayerTree, Monitor, Result, Stack, merged::Merged, tree::InodeId};
use layer_mounts::{Mount, MountShape, OverlayMount, from_mounts, overlay::Redirect};
use overlay_dir::{
    Namespace, OverlayDir, OverlayDirOptions, OverlayFeatures, OverlayUpper, OverlayUpperOptions, Owners,
    PlainDir, PlainDirOptions, RedirectDir,
};

use crate::{DiffMethod, DiffSource, TreeDiffer, TreeOptions, UpperDiffer, UpperOptions};

/// A differ with its inputs, opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Choice {
    /// The upper directory says what changed.
    Upper(UpperChoice),
    /// Both trees are walked.
    Trees(TreeChoice),
}

/// An upper directory and the layers below it.
#[derive(Clone)]
#[non_exhaustive]
pub struct UpperChoice {
    /// The upper directory.
    pub upper: OverlayUpper,
    /// The layers below it.
    pub base: Stack<OverlayDir>,
    /// Data-only layers below them.
    pub data_only: Vec<OverlayDir>,
    /// The id that the container's root has on disk, where ids are mapped.
    pub container_root: Option<u32>,
}

/// Two trees.
#[derive(Clone)]
#[non_exhaustive]
pub struct TreeChoice {
    /// What the container shows.
    pub new: Arc<dyn LayerTree>,
    /// What its parent shows, where it has one.
    pub old: Option<Arc<dyn LayerTree>>,
    /// Why no upper directory can be used, where the container has one.
    pub fallback_reason: Option<String>,
    volatile: bool,
}

/// Chooses the differ for what `upper` changed over `lower`, and opens the layers. An empty `lower` means that
/// there is no parent.
///
/// # Errors
/// [`ErrorKind::NotSupported`] for mounts whose layers are not directories, that are not activated, or that
/// have options nobody knows here: nothing was done, and another differ may try. Else those of malformed
/// lists, and of opening the layers.
pub fn choose(lower: &[Mount], upper: &[Mount]) -> Result<Choice> {
    let below = if lower.is_empty() { Below::Nothing } else { Below::of(&from_mounts(lower)?)? };
    let overlay = match from_mounts(upper)? {
        MountShape::Overlay(overlay) => overlay,
        MountShape::Bind(bind) => {
            return Ok(Choice::Trees(TreeChoice::new(plain(bind.source())?, below.tree()?)));
        }
        other => return Err(not_supported(&other)),
    };
    check_options(&overlay)?;
    let Some(path) = overlay.upper() else {
        let new = Arc::new(merged(&overlay, layers(&overlay)?)?);
        return Ok(Choice::Trees(TreeChoice::new(new, below.tree()?)));
    };
    let upper = open_upper(&overlay, path)?;
    let lowers = layers(&overlay)?;
    match below.mismatch(&lowers)? {
        None => {
            let nothing = || Error::new(ErrorKind::InvalidArgument, "overlay mount without lower layers");
            Ok(Choice::Upper(UpperChoice {
                upper,
                base: Stack::from_nearest(lowers).ok_or_else(nothing)?,
                data_only: data_only(&overlay)?,
                container_root: container_root(&overlay)?,
            }))
        }
        Some(_) if overlay.index()? == Some(true) => {
            let message = "an overlay with an index shows more than its layers do, and has to be mounted";
            Err(Error::new(ErrorKind::NotSupported, message))
        }
        Some(reason) => {
            let volatile = upper.is_volatile();
            let all = std::iter::once(upper.dir().clone()).chain(lowers).collect();
            let new = Arc::new(merged(&overlay, all)?);
            let mut choice = TreeChoice::new(new, below.tree()?);
            choice.fallback_reason = Some(reason);
            choice.volatile = volatile;
            Ok(Choice::Trees(choice))
        }
    }
}

impl Choice {
    /// How the changes will be found.
    pub fn method(&self) -> DiffMethod {
        match self {
            Self::Upper(_) => DiffMethod::UpperWalk,
            Self::Trees(TreeChoice { old: Some(_), .. }) => DiffMethod::DoubleWalk,
            Self::Trees(_) => DiffMethod::SingleWalk,
        }
    }

    /// Why no upper directory is used, where there is one.
    pub fn fallback_reason(&self) -> Option<&str> {
        match self {
            Self::Upper(_) => None,
            Self::Trees(trees) => trees.fallback_reason.as_deref(),
        }
    }

    /// The changes, found by the differ that was chosen.
    ///
    /// # Errors
    /// As [`UpperDiffer::changes`] and [`TreeDiffer::between`].
    pub fn changes<'a>(
        &self,
        upper: UpperOptions,
        trees: TreeOptions,
        monitor: &'a dyn Monitor,
    ) -> Result<DiffSource<'a>> {
        match self {
            Self::Upper(choice) => {
                let shared = |layer: &OverlayDir| Arc::new(layer.clone()) as Arc<dyn LayerTree>;
                let mut options = upper;
                options.data_only.extend(choice.data_only.iter().map(shared));
                options.common.container_root = options.common.container_root.or(choice.container_root);
                UpperDiffer::new(options).changes(&choice.upper, Base::Layers(&choice.base), monitor)
            }
            Self::Trees(choice) => {
                if choice.volatile && !upper.allow_volatile {
                    return Err(crate::upper::volatile());
                }
                let source = TreeDiffer::new(trees).between(choice.old.as_deref(), &choice.new, monitor)?;
                Ok(source.with_fallback_reason(choice.fallback_reason.clone()))
            }
        }
    }
}

impl TreeChoice {
    fn new(new: Arc<dyn LayerTree>, old: Option<Arc<dyn LayerTree>>) -> Self {
        Self { new, old, fallback_reason: None, volatile: false }
    }
}

/// The parent.
enum Below {
    Nothing,
    Bind(String),
    Overlay(OverlayMount),
}

impl Below {
    fn of(shape: &MountShape) -> Result<Self> {
        match shape {
            MountShape::Bind(bind) => Ok(Self::Bind(bind.source().to_owned())),
            MountShape::Overlay(overlay) => {
                check_options(overlay)?;
                Ok(Self::Overlay(overlay.clone()))
            }
            other => Err(not_supported(other)),
        }
    }

    /// What the parent's mounts would show.
    fn tree(&self) -> Result<Option<Arc<dyn LayerTree>>> {
        Ok(match self {
            Self::Nothing => None,
            Self::Bind(path) => Some(plain(path)?),
            Self::Overlay(overlay) => {
                let mut all = layers(overlay)?;
                if let Some(upper) = overlay.upper() {
                    all.insert(0, open_upper(overlay, upper)?.dir().clone());
                }
                Some(Arc::new(merged(overlay, all)?))
            }
        })
    }

    /// The parent's layers, nearest first, by identity.
    fn identities(&self) -> Result<Vec<InodeId>> {
        let id = |path: &str| PlainDir::open(path, PlainDirOptions::default())?.id();
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Bind(path) => Ok(vec![id(path)?]),
            Self::Overlay(overlay) => {
                let paths = overlay.upper().into_iter().chain(overlay.lowers().iter().map(String::as_str));
                paths.map(id).collect()
            }
        }
    }

    /// Why the layers `lowers` are not those of the parent; [`None`] when they are.
    fn mismatch(&self, lowers: &[OverlayDir]) -> Result<Option<String>> {
        let parent = self.identities()?;
        if parent.len() != lowers.len() {
            let (have, want) = (lowers.len(), parent.len());
            return Ok(Some(format!("the upper is mounted over {have} layers, its parent has {want}")));
        }
        for (layer, want) in lowers.iter().zip(parent) {
            if layer.id()? != want {
                let name = layer.name().display();
                return Ok(Some(format!(
                    "the upper is mounted over {name}, which is no layer of its parent in that place"
                )));
            }
        }
        Ok(None)
    }
}

fn not_supported(shape: &MountShape) -> Error {
    Error::new(ErrorKind::NotSupported, format!("a {} is nothing that this differ looks into", shape.name()))
}

fn check_options(overlay: &OverlayMount) -> Result<()> {
    match overlay.unknown_options().next() {
        None => Ok(()),
        Some(option) => {
            let message = format!("overlay option {option:?} is not known, nor what it means for the layers");
            Err(Error::new(ErrorKind::NotSupported, message))
        }
    }
}

fn plain(path: &str) -> Result<Arc<dyn LayerTree>> {
    Ok(Arc::new(PlainDir::open(path, PlainDirOptions::default())?))
}

/// Layers on disk have the owners of the container; only the upper is written through the id map.
fn open_layer(overlay: &OverlayMount, path: &str, owners: Owners) -> Result<OverlayDir> {
    let namespace = if overlay.has_user_xattrs() { Namespace::User } else { Namespace::Trusted };
    OverlayDir::open(path, OverlayDirOptions::default().namespace(namespace).owners(owners))
}

fn layers(overlay: &OverlayMount) -> Result<Vec<OverlayDir>> {
    overlay.lowers().iter().map(|path| open_layer(overlay, path, Owners::default())).collect()
}

fn data_only(overlay: &OverlayMount) -> Result<Vec<OverlayDir>> {
    overlay.data_only().iter().map(|path| open_layer(overlay, path, Owners::default())).collect()
}

fn open_upper(overlay: &OverlayMount, path: &str) -> Result<OverlayUpper> {
    let owners = Owners::mapped(overlay.user_map()?, overlay.group_map()?);
    let dir = open_layer(overlay, path, owners)?;
    let features = OverlayFeatures::default()
        .redirect(redirect(overlay)?)
        .metacopy(overlay.metacopy()? == Some(true))
        .index(overlay.index()? == Some(true))
        .volatile(overlay.is_volatile());
    // Whether a volatile upper will do is asked when it is used.
    let options = OverlayUpperOptions::default().features(features).allow_volatile(true);
    let options = match overlay.work() {
        Some(work) => options.work(work),
        None => options,
    };
    OverlayUpper::new(dir, options)
}

fn redirect(overlay: &OverlayMount) -> Result<RedirectDir> {
    Ok(match overlay.redirect()? {
        None | Some(Redirect::Off) => RedirectDir::Off,
        Some(Redirect::NoFollow) => RedirectDir::NoFollow,
        Some(Redirect::Follow) => RedirectDir::Follow,
        Some(Redirect::On) => RedirectDir::On,
    })
}

/// The view that the mount shows of `layers`.
fn merged(overlay: &OverlayMount, layers: Vec<OverlayDir>) -> Result<Merged> {
    let shared = |layer: OverlayDir| Arc::new(layer) as Arc<dyn LayerTree>;
    let view = Merged::new(layers.into_iter().map(shared).collect())?;
    let view = view.with_data_only(data_only(overlay)?.into_iter().map(shared).collect());
    Ok(if redirect(overlay)?.follows() { view } else { view.without_redirects() })
}

fn container_root(overlay: &OverlayMount) -> Result<Option<u32>> {
    let map = overlay.user_map()?;
    Ok(if map.is_identity() { None } else { map.to_outside(0).ok() })
}

impl fmt::Debug for UpperChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpperChoice")
            .field("upper", &self.upper)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TreeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { old, fallback_reason, .. } = self;
        f.debug_struct("TreeChoice")
            .field("has_old", &old.is_some())
            .field("fallback_reason", fallback_reason)
            .finish_non_exhaustive()
    }
}
