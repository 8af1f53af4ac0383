//! From an overlay upper directory, or from two trees, to the changes of a layer.
