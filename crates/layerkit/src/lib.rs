//! Container-image layers as one library.
