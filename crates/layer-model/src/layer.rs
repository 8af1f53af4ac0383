//! Handles to layers, stacks of them, and the run-time form.
//!
//! A handle is a value that owns what its layer needs (descriptors, devices, a verity root), opened and
//! checked once. Parents are handles, never strings: an applier that takes `Stack<ErofsImage>` cannot be
//! given a stack of directories. Where the form is known only at run time (a C caller, a list of mounts),
//! [`AnyLayer`] holds any handle, and [`AnyLayer::downcast`] is the one place back to the typed one.

use std::{any::Any, fmt, slice, sync::Arc, vec};

use crate::{Error, ErrorKind, Result, tree::LayerTree};

/// The form of a layer: what its handle is called in messages, and compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form(pub &'static str);

impl Form {
    /// A directory that holds a layer in overlayfs's form.
    pub const OVERLAY_DIR: Form = Form("overlay directory");
    /// An overlay upper directory with the stack that it was mounted over.
    pub const OVERLAY_UPPER: Form = Form("overlay upper");
    /// A directory that holds a merged tree.
    pub const PLAIN_DIR: Form = Form("plain directory");
    /// An EROFS image.
    pub const EROFS_IMAGE: Form = Form("EROFS image");
    /// A forked CIM.
    pub const FORKED_CIM: Form = Form("forked CIM");
    /// A block CIM.
    pub const BLOCK_CIM: Form = Form("block CIM");
    /// A block CIM with a root digest.
    pub const VERIFIED_BLOCK_CIM: Form = Form("verified block CIM");
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// A typed handle to one layer. Cheap to clone: what it owns is shared.
pub trait Layer: Any + Clone + fmt::Debug + Send + Sync {
    /// The form, one for the type.
    const FORM: Form;

    /// The layer as something to look into, when the form allows it.
    fn as_tree(&self) -> Option<&dyn LayerTree> {
        None
    }
}

/// Layers of one form, nearest (topmost) first, at least one.
///
/// That is the order of overlay's `lowerdir=` and of `parentCimPaths`. Manifests and EROFS `device=` lists
/// have the bottom first; they convert at the edge with [`Stack::from_bottom`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack<L> {
    layers: Vec<L>,
}

impl<L> Stack<L> {
    /// A stack of one layer.
    pub fn of(layer: L) -> Self {
        Self { layers: vec![layer] }
    }

    /// A stack of `layers`, nearest first; [`None`] when there are none.
    pub fn from_nearest(layers: impl IntoIterator<Item = L>) -> Option<Self> {
        let layers: Vec<L> = layers.into_iter().collect();
        (!layers.is_empty()).then_some(Self { layers })
    }

    /// A stack of `layers`, bottom first as a manifest lists them; [`None`] when there are none.
    pub fn from_bottom(layers: impl IntoIterator<Item = L>) -> Option<Self> {
        let mut stack = Self::from_nearest(layers)?;
        stack.layers.reverse();
        Some(stack)
    }

    /// The stack with `layer` on top.
    #[must_use]
    pub fn with_nearest(mut self, layer: L) -> Self {
        self.layers.insert(0, layer);
        self
    }

    /// The topmost layer.
    pub fn nearest(&self) -> &L {
        &self.layers[0]
    }

    /// The lowest layer.
    pub fn bottom(&self) -> &L {
        &self.layers[self.layers.len() - 1]
    }

    /// How many layers; never 0.
    #[expect(clippy::len_without_is_empty, reason = "a stack is never empty")]
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// The layers, nearest first.
    pub fn iter(&self) -> slice::Iter<'_, L> {
        self.layers.iter()
    }

    /// A stack of what `convert` makes of each layer.
    ///
    /// # Errors
    /// The first error of `convert`.
    pub fn try_map<M>(self, convert: impl FnMut(L) -> Result<M>) -> Result<Stack<M>> {
        Ok(Stack { layers: self.layers.into_iter().map(convert).collect::<Result<_>>()? })
    }
}

impl<L> IntoIterator for Stack<L> {
    type Item = L;
    type IntoIter = vec::IntoIter<L>;

    fn into_iter(self) -> Self::IntoIter {
        self.layers.into_iter()
    }
}

impl<'a, L> IntoIterator for &'a Stack<L> {
    type Item = &'a L;
    type IntoIter = slice::Iter<'a, L>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What lies below a layer, as far as it is known.
///
/// [`Base::Empty`] and [`Base::Unknown`] are different things. Who takes the second for the first loses
/// deletions.
#[derive(Debug)]
pub enum Base<'a, L> {
    /// Nothing: the layer is the bottom one.
    Empty,
    /// These layers.
    Layers(&'a Stack<L>),
    /// Something, but it is not at hand.
    Unknown,
}

impl<L> Clone for Base<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Base<'_, L> {}

impl<'a, L> Base<'a, L> {
    /// [`Base::Layers`], or [`Base::Empty`] for no stack.
    pub fn from_stack(stack: Option<&'a Stack<L>>) -> Self {
        stack.map_or(Base::Empty, Base::Layers)
    }

    /// The layers, where they are known and there are some.
    pub fn layers(self) -> Option<&'a Stack<L>> {
        match self {
            Base::Layers(stack) => Some(stack),
            Base::Empty | Base::Unknown => None,
        }
    }
}

/// A handle of a form that is known only at run time.
///
/// This is an open sum: formats of other crates join it by implementing [`Layer`], which a closed enum here
/// could not allow without knowing them.
#[derive(Clone)]
pub struct AnyLayer {
    handle: Arc<dyn Erased>,
}

trait Erased: fmt::Debug + Send + Sync {
    fn form(&self) -> Form;
    fn as_any(&self) -> &(dyn Any + Send + Sync);
    fn as_tree(&self) -> Option<&dyn LayerTree>;
}

impl<L: Layer> Erased for L {
    fn form(&self) -> Form {
        L::FORM
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_tree(&self) -> Option<&dyn LayerTree> {
        Layer::as_tree(self)
    }
}

impl AnyLayer {
    /// Forgets the form of `layer`.
    pub fn new<L: Layer>(layer: L) -> Self {
        Self { handle: Arc::new(layer) }
    }

    /// The form of the handle.
    pub fn form(&self) -> Form {
        self.handle.form()
    }

    /// The layer as something to look into, when its form allows it.
    pub fn as_tree(&self) -> Option<&dyn LayerTree> {
        self.handle.as_tree()
    }

    /// The typed handle.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`], which names the form wanted and the form given.
    pub fn downcast<L: Layer>(&self) -> Result<L> {
        self.handle.as_any().downcast_ref::<L>().cloned().ok_or_else(|| {
            let kind = ErrorKind::WrongForm { expected: L::FORM.0, got: self.form().0 };
            Error::new(kind, "a layer of another form is needed")
        })
    }
}

impl fmt::Debug for AnyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

impl Stack<AnyLayer> {
    /// The stack of typed handles.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`] for the first layer, nearest first, that is of another form.
    pub fn downcast<L: Layer>(&self) -> Result<Stack<L>> {
        self.clone().try_map(|layer| layer.downcast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Tape(u32);

    impl Layer for Tape {
        const FORM: Form = Form("tape");
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Card;

    impl Layer for Card {
        const FORM: Form = Form("punched card");
    }

    #[test]
    fn a_stack_has_one_order() {
        let stack = Stack::from_bottom([1, 2, 3]).unwrap();
        assert_eq!((stack.nearest(), stack.bottom()), (&3, &1));
        assert_eq!(stack, Stack::from_nearest([3, 2, 1]).unwrap());
        assert_eq!(stack.with_nearest(4).iter().copied().collect::<Vec<_>>(), [4, 3, 2, 1]);
        assert!(Stack::<u8>::from_nearest([]).is_none());
    }

    #[test]
    fn run_time_handles_go_back_to_their_type_or_name_both_forms() {
        let any = Stack::from_nearest([AnyLayer::new(Tape(1)), AnyLayer::new(Tape(2))]).unwrap();
        assert_eq!(any.downcast::<Tape>().unwrap().nearest(), &Tape(1));
        let mixed = any.with_nearest(AnyLayer::new(Card));
        let error = mixed.downcast::<Tape>().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::WrongForm { expected: "tape", got: "punched card" });
        assert!(error.to_string().contains("expected tape, got punched card"));
    }
}
