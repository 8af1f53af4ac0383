//! The EROFS file system format: read, write, check, merge, verify.
