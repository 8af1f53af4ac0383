//! The safe directory core: everything that touches the target goes through here.
//!
//! The rules, so that no change can reach out of the target, whatever names, links and orders it comes with:
//!
//! - Everything is relative to the root's descriptor. Nothing is ever opened by a longer name than a single
//!   component, but for paths that the kernel itself keeps inside (`openat2` with `RESOLVE_IN_ROOT`) and that
//!   have no links.
//! - Links are read and expanded in this process ([`crate::walk`]): absolute targets restart at the root, `..`
//!   at the root stays there, at most 255 of them in one resolution.
//! - Descriptors are kept, never resolved names, and only for paths without links ([`dirs`]).
//! - Every call that changes something names its object by the parent's descriptor and the last component, and
//!   does not follow it; or by a descriptor of what was just made with `O_EXCL`.
//! - Devices, FIFOs and links are never opened but with `O_PATH`.
//!
//! | call | since Linux | without it |
//! |---|---|---|
//! | `openat2` | 5.6 | component by component |
//! | `statx` with `STATX_ATTR_MOUNT_ROOT` | 5.8 | device numbers alone (bind mounts inside one file system are not seen) |
//! | `fchmodat2` | 6.6 | `O_PATH` and `/proc/self/fd` |
//! | `setxattrat` | 6.13 | `O_PATH` and `/proc/self/fd` |

pub(crate) mod dirs;
pub(crate) mod kernel;
pub(crate) mod new_file;
mod raw;
pub(crate) mod remove;
pub(crate) mod stage;
