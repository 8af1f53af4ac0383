//! Handles of complete layers.

use std::{fmt, sync::Arc};

use layer_model::{Digest, Error, ErrorKind, Form, Layer, LayerDir as TreeDir, LayerTree, Result};

use super::{BlockStorage, Container, Device, ImageDir, Integrity, RootDigest, SingleFile, Verified};
use crate::{
    CimName,
    descriptor::{DescribedKind, Descriptor},
    model::{ImageTree, View},
    mount::BlockCimType,
    plan::{HiveSource, LayerDir},
};

/// What both kinds of layers have beside their image.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    /// Files kept outside of the image.
    pub(super) files: LayerDir,
    /// Hives that are still to be merged.
    pub(super) recorded: Vec<String>,
    /// The digest of the layer's uncompressed tar.
    pub(super) diff_id: Option<Digest>,
    /// What is in the image, where that is known.
    pub(super) tree: Option<Arc<ImageTree>>,
}

impl Beside {
    pub(super) fn new(files: LayerDir) -> Self {
        Self { files, recorded: Vec::new(), diff_id: None, tree: None }
    }

    fn root(&self) -> Result<Arc<dyn TreeDir>> {
        match &self.tree {
            Some(tree) => LayerTree::root(&View::of(tree)),
            None => {
                Err(Error::new(ErrorKind::NotSupported, "the image cannot be looked into without its record"))
            }
        }
    }

    fn describe(&self, mut described: Descriptor) -> Descriptor {
        described.recorded_hives.clone_from(&self.recorded);
        described.diff_id = self.diff_id.as_ref().map(Digest::to_string);
        described
    }

    pub(super) fn hives(&self) -> HiveSource {
        HiveSource { dir: self.files.path().into(), recorded: self.recorded.clone() }
    }
}

macro_rules! beside {
    () => {
        /// The same layer, of which some hives are still to be merged.
        #[must_use]
        pub fn with_recorded_hives(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
            self.beside.recorded = names.into_iter().map(Into::into).collect();
            self
        }

        /// The same layer, made of the tar of this digest.
        #[must_use]
        pub fn with_diff_id(mut self, diff_id: Option<Digest>) -> Self {
            self.beside.diff_id = diff_id;
            self
        }

        /// The digest of the uncompressed tar that the layer was made of, where that is known.
        pub fn diff_id(&self) -> Option<&Digest> {
            self.beside.diff_id.as_ref()
        }

        /// The same layer, whose layer directory is now here.
        #[must_use]
        pub fn with_files(mut self, files: LayerDir) -> Self {
            self.beside.files = files;
            self
        }

        /// The same layer, of which it is known what is in its image.
        #[must_use]
        pub fn with_tree(mut self, tree: Arc<ImageTree>) -> Self {
            self.beside.tree = Some(tree);
            self
        }

        /// What is in the image, where that is known.
        pub fn tree(&self) -> Option<&Arc<ImageTree>> {
            self.beside.tree.as_ref()
        }

        /// The directory of the files that are kept outside of the image.
        pub fn files(&self) -> &LayerDir {
            &self.beside.files
        }

        /// The hives that are still to be merged, by their names below `Hives`.
        pub fn recorded_hives(&self) -> &[String] {
            &self.beside.recorded
        }

        /// The name of the image.
        pub fn name(&self) -> &CimName {
            &self.name
        }
    };
}

/// A layer in a standard CIM. Its image shows the layer and all below it.
#[derive(Clone, Debug)]
pub struct ForkedCim {
    pub(super) dir: ImageDir,
    pub(super) name: CimName,
    pub(super) depth: u32,
    pub(super) beside: Beside,
}

impl ForkedCim {
    /// The image `name` in `dir`, with the layer directory `files` and `depth` layers below it.
    ///
    /// Nothing is looked at: who has the handle says that the image is there.
    pub fn new(dir: ImageDir, name: CimName, files: LayerDir, depth: u32) -> Self {
        Self { dir, name, depth, beside: Beside::new(files) }
    }

    beside!();

    /// The directory of the image, and of those that it was forked from.
    pub fn dir(&self) -> &ImageDir {
        &self.dir
    }

    /// How many layers are below it.
    pub fn depth(&self) -> u32 {
        self.depth
    }
}

/// A layer in a block CIM. Its image has that layer alone.
pub struct BlockCim<S, I: Integrity> {
    pub(super) container: Container<S>,
    pub(super) name: CimName,
    pub(super) evidence: I::Evidence,
    pub(super) beside: Beside,
}

impl<S, I: Integrity> Clone for BlockCim<S, I> {
    fn clone(&self) -> Self {
        let Self { container, name, evidence, beside } = self;
        let (container, name) = (container.clone(), name.clone());
        Self { container, name, evidence: evidence.clone(), beside: beside.clone() }
    }
}

impl<S, I: Integrity> fmt::Debug for BlockCim<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCim")
            .field("container", &self.container)
            .field("name", &self.name)
            .field("evidence", &self.evidence)
            .field("beside", &self.beside)
            .finish()
    }
}

impl<S: BlockStorage, I: Integrity> BlockCim<S, I> {
    /// The image `name` in `container`, with the layer directory `files`.
    ///
    /// Nothing is looked at: who has the handle says that the image is there.
    pub fn new(container: Container<S>, name: CimName, files: LayerDir, evidence: I::Evidence) -> Self {
        Self { container, name, evidence, beside: Beside::new(files) }
    }

    beside!();

    /// What holds the image.
    pub fn container(&self) -> &Container<S> {
        &self.container
    }
}

impl<S: BlockStorage> BlockCim<S, Verified> {
    /// The root digest. [`None`] for an image that was only recorded: Windows alone makes them.
    pub fn root_digest(&self) -> Option<RootDigest> {
        self.evidence
    }
}

impl<I: Integrity> BlockCim<SingleFile, I> {
    /// The same image, seen from a virtual machine that its container was attached to as the disk `path`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](layer_model::ErrorKind::InvalidArgument) when the path is empty.
    pub fn attached_at(&self, path: impl Into<Box<str>>) -> Result<BlockCim<Device, I>> {
        Ok(BlockCim {
            container: Container::new(path)?,
            name: self.name.clone(),
            evidence: self.evidence.clone(),
            beside: self.beside.clone(),
        })
    }
}

impl LayerTree for ForkedCim {
    fn root(&self) -> Result<Arc<dyn TreeDir>> {
        self.beside.root()
    }
}

impl<S: BlockStorage, I: Integrity> LayerTree for BlockCim<S, I> {
    fn root(&self) -> Result<Arc<dyn TreeDir>> {
        self.beside.root()
    }
}

impl Layer for ForkedCim {
    const FORM: Form = Form::FORKED_CIM;

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        self.beside.tree.is_some().then_some(self)
    }
}

/// The form of block CIMs of this storage and integrity.
pub(super) const fn block_form(storage: BlockCimType, verified: bool) -> Form {
    match (storage, verified) {
        (BlockCimType::File, false) => Form::BLOCK_CIM,
        (BlockCimType::File, true) => Form::VERIFIED_BLOCK_CIM,
        (BlockCimType::Device, false) => Form("block CIM on a device"),
        (BlockCimType::Device, true) => Form("verified block CIM on a device"),
    }
}

impl<S: BlockStorage, I: Integrity> Layer for BlockCim<S, I> {
    const FORM: Form = block_form(S::TYPE, I::SEALED);

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        self.beside.tree.is_some().then_some(self)
    }
}

/// What can be done with a layer of either kind.
pub trait CimLayer: Clone {
    /// What is to be written down about it, but for where it came from.
    fn describe(&self) -> Descriptor;

    /// The digest of the uncompressed tar that it was made of, where that is known.
    fn diff_id(&self) -> Option<&Digest>;

    /// The same layer, with its files in their place, its tree, and its origin.
    #[must_use]
    fn settled(self, files: LayerDir, tree: ImageTree, diff_id: Option<Digest>) -> Self;
}

impl CimLayer for ForkedCim {
    fn describe(&self) -> Descriptor {
        let described = Descriptor::new(DescribedKind::Forked, self.dir.path(), &self.name);
        self.beside.describe(described)
    }

    fn diff_id(&self) -> Option<&Digest> {
        self.diff_id()
    }

    fn settled(self, files: LayerDir, tree: ImageTree, diff_id: Option<Digest>) -> Self {
        self.with_files(files).with_tree(Arc::new(tree)).with_diff_id(diff_id)
    }
}

impl<S: BlockStorage, I: Integrity> CimLayer for BlockCim<S, I> {
    fn describe(&self) -> Descriptor {
        let mut described = Descriptor::new(DescribedKind::Block, self.container.path(), &self.name);
        described.verified = I::SEALED;
        described.root_digest = I::digest(&self.evidence).map(|digest| digest.to_string());
        self.beside.describe(described)
    }

    fn diff_id(&self) -> Option<&Digest> {
        self.diff_id()
    }

    fn settled(self, files: LayerDir, tree: ImageTree, diff_id: Option<Digest>) -> Self {
        self.with_files(files).with_tree(Arc::new(tree)).with_diff_id(diff_id)
    }
}
