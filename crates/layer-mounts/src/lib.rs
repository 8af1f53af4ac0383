//! The mount lists that containerd hands out, parsed once and written back byte for byte.
