//! Applies the changes of a layer to directories, in overlay form or flattened.
