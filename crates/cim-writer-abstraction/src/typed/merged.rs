//! Block CIMs merged into one that has their metadata.

use std::fmt;

use layer_model::{Error, ErrorKind, Monitor, Result, Stack};

use super::{
    BlockCim, BlockStorage, Integrity, RootDigest, Target, Verified, WritableStorage, import::create_block,
    layers::Beside, writer::close_container,
};
use crate::{
    CimName, CimOp, CimSink,
    caps::CanMerge,
    descriptor::{DescribedKind, Descriptor, Source},
    op::MountFlags,
    vhd::UniqueId,
};

/// A stack of two layers or more: fewer cannot be merged.
///
/// ```
/// use cim_writer_abstraction::typed::AtLeastTwo;
/// use layer_model::Stack;
///
/// assert!(AtLeastTwo::new(&Stack::of(1)).is_none());
/// assert!(AtLeastTwo::new(&Stack::of(1).with_nearest(2)).is_some());
/// ```
#[derive(Debug)]
pub struct AtLeastTwo<'a, L>(&'a Stack<L>);

impl<'a, L> AtLeastTwo<'a, L> {
    /// The stack, when it has two layers or more.
    pub fn new(stack: &'a Stack<L>) -> Option<Self> {
        (stack.len() >= 2).then_some(Self(stack))
    }

    /// The stack.
    pub fn stack(&self) -> &'a Stack<L> {
        self.0
    }
}

/// Block CIMs merged into one. The merged image has metadata only; data stays in the sources.
pub struct Merged<S, I: Integrity> {
    layer: BlockCim<S, I>,
    sources: Stack<BlockCim<S, I>>,
}

impl<S, I: Integrity> Clone for Merged<S, I> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), sources: self.sources.clone() }
    }
}

impl<S, I: Integrity> fmt::Debug for Merged<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merged").field("layer", &self.layer).field("sources", &self.sources).finish()
    }
}

/// Merges `sources` into an image of its own at `into`, and gives back what took the operations.
///
/// # Errors
/// [`Cancelled`](layer_model::ErrorKind::Cancelled) between sources, and errors of the sink; the image was discarded
/// then.
pub fn merge<S: BlockStorage + WritableStorage, I: Integrity, K: CimSink>(
    into: Target<S>,
    sources: AtLeastTwo<'_, BlockCim<S, I>>,
    mut sink: K,
    _: (CanMerge, I::Token),
    footer: Option<UniqueId>,
    monitor: &dyn Monitor,
) -> Result<(Merged<S, I>, K)> {
    let sources = sources.stack();
    let Target { container, name, files } = into;
    let merging = (|| {
        create_block::<S, I, _>(&mut sink, container.path(), &name)?;
        for source in sources {
            if monitor.should_stop() {
                return Err(Error::cancelled());
            }
            let (container, name) = (source.container.path(), &source.name);
            sink.op(&CimOp::AddSource { container, name, flags: S::MERGE | I::MERGE })?;
        }
        sink.op(&CimOp::Commit)?;
        sink.op(&CimOp::Close)
    })();
    if let Err(error) = merging {
        // The error that counts is the first one.
        let _ = sink.op(&CimOp::Discard);
        return Err(error);
    }
    let digest = close_container::<I, _>(&mut sink, container.path(), footer, "merged_integrity_checksum")?;
    let layer = BlockCim { container, name, evidence: I::evidence(digest), beside: Beside::new(files) };
    Ok((Merged { layer, sources: sources.clone() }, sink))
}

/// What mounting a merged image takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountArguments<'a> {
    /// The merged image, then its sources, topmost first: containers and names.
    pub images: Vec<(&'a str, &'a CimName)>,
    /// How.
    pub flags: MountFlags,
    /// What the merged image has to have, for the call that verifies.
    pub root_digest: Option<RootDigest>,
}

impl<S: BlockStorage, I: Integrity> Merged<S, I> {
    /// The merged image `layer` of `sources`, as `described` says that it was made.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`] when something else is described, [`ErrorKind::InvalidArgument`] when it was made of
    /// other images, or in another order.
    pub fn reopen(
        layer: BlockCim<S, I>,
        sources: Stack<BlockCim<S, I>>,
        described: &Descriptor,
    ) -> Result<Self> {
        described.expect(DescribedKind::Merged)?;
        let wanted = described.sources.iter().map(|source| {
            (
                source.container.as_str(),
                source.name.as_str(),
                source.root_digest.as_deref().map(RootDigest::parse),
            )
        });
        let given = sources.iter().map(|source| {
            let digest = I::digest(&source.evidence);
            (source.container.path(), source.name.as_str(), digest.map(Some))
        });
        if !wanted.eq(given) {
            let what = "the image was merged of other images than those given, or in another order";
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        Ok(Self { layer, sources })
    }

    /// What is to be written down about it.
    ///
    /// # Errors
    /// Those of looking at the containers of sources without a digest.
    pub fn describe(&self) -> Result<Descriptor> {
        let layer = &self.layer;
        let mut described = Descriptor::new(DescribedKind::Merged, layer.container.path(), &layer.name);
        let text = |digest: Option<RootDigest>| digest.map(|digest| digest.to_string());
        described.verified = I::SEALED;
        described.root_digest = text(I::digest(&layer.evidence));
        for source in &self.sources {
            let digest = text(I::digest(&source.evidence));
            described.sources.push(Source::of(source.container.path(), &source.name, digest)?);
        }
        Ok(described)
    }

    /// The merged image.
    pub fn layer(&self) -> &BlockCim<S, I> {
        &self.layer
    }

    /// What was merged.
    pub fn sources(&self) -> &Stack<BlockCim<S, I>> {
        &self.sources
    }

    /// What mounting takes, in the order in which the sources were merged. The calls that take a digest must not get
    /// the flag for verified images, so it is not among the flags.
    pub fn mount_arguments(&self) -> MountArguments<'_> {
        let images = std::iter::once(&self.layer).chain(&self.sources);
        MountArguments {
            images: images.map(|image| (image.container.path(), &image.name)).collect(),
            flags: S::MOUNT,
            root_digest: I::digest(&self.layer.evidence),
        }
    }
}

impl<S: BlockStorage> Merged<S, Verified> {
    /// The root digest of the merged image. [`None`] for one that was only recorded.
    pub fn root_digest(&self) -> Option<RootDigest> {
        self.layer.root_digest()
    }
}
