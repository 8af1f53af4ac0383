//! The two places where overlayfs keeps its extended attributes.

use layer_model::{Error, ErrorKind, Result};
use rustix::thread::{CapabilitySet, capabilities};

use crate::{dir::Dir, proc, xattr};

/// Where a layer's overlay attributes are: exactly one of the two counts, names in the other are data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `trusted.overlay.*`, which only a process with `CAP_SYS_ADMIN` in the initial user namespace sees.
    Trusted,
    /// `user.overlay.*`, of mounts with the option `userxattr`.
    User,
}

impl Namespace {
    /// What the names start with.
    pub const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    /// The namespace for markers that this process makes: [`Namespace::Trusted`] where it may.
    pub fn of_this_process() -> Self {
        if Self::Trusted.check_readable().is_ok() { Self::Trusted } else { Self::User }
    }

    /// The full name of the attribute `suffix`.
    pub fn name(self, suffix: &[u8]) -> Vec<u8> {
        [self.prefix(), suffix].concat()
    }

    /// Makes sure that this process sees attributes of the namespace.
    ///
    /// To others the kernel says that there are no `trusted.*` attributes, so that a layer would look as if
    /// it had no markers.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] when it does not, or when that cannot be told without `/proc`.
    pub fn check_readable(self) -> Result<()> {
        if self == Self::User {
            return Ok(());
        }
        let denied = |why: &str| {
            Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("trusted.overlay attributes cannot be read: {why}"),
            ))
        };
        let capable = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        match (capable, proc::in_initial_user_namespace()) {
            (true, Some(true)) => Ok(()),
            (false, _) => denied("CAP_SYS_ADMIN is missing"),
            (_, Some(false)) => denied("not in the initial user namespace"),
            (_, None) => denied("no /proc to see the user namespace in"),
        }
    }

    /// Finds out which namespace the layer below `root` uses.
    ///
    /// Overlayfs leaves `uuid`, `impure` or `origin` on the root of an upper directory as soon as something
    /// was copied up to it. Where the root has none of them, the directories below are searched until one has: a
    /// file with an `origin` is in a directory that is `impure` (`ovl_set_impure` in the kernel's
    /// `fs/overlayfs`), so that files need no look. A tree without any is [`Namespace::Trusted`], or
    /// [`Namespace::User`] to a process that cannot see the other.
    pub(crate) fn detect(root: Dir) -> Result<Self> {
        if Self::Trusted.check_readable().is_err() {
            return Ok(Self::User);
        }
        let mut open = vec![root];
        while let Some(dir) = open.pop() {
            if let Some(found) = Self::of_directory(&dir)? {
                return Ok(found);
            }
            for name in dir.subdirectories()? {
                open.push(dir.open_below(&name)?);
            }
        }
        Ok(Self::Trusted)
    }

    fn of_directory(dir: &Dir) -> Result<Option<Self>> {
        let names = dir.attribute_names()?;
        let evidence = [&b"uuid"[..], b"impure", b"origin"];
        Ok([Self::Trusted, Self::User].into_iter().find(|namespace| {
            xattr::split(&names)
                .filter_map(|name| name.strip_prefix(namespace.prefix()))
                .any(|suffix| evidence.contains(&suffix))
        }))
    }
}
