//! OCI layer tars as a source and as a sink of changes, and the compression around them.
