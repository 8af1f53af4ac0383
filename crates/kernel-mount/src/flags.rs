//! What a mount forbids: the options that every file system has.

use rustix::mount::{MountAttrFlags, MountFlags};

/// Restrictions of a mount, for either interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// For fsmount(2).
    pub(crate) attributes: MountAttrFlags,
    /// For mount(2).
    pub(crate) flags: MountFlags,
}

/// The names of each flag: those that set it, and those that clear it.
const NAMES: [(&str, &str, MountAttrFlags, MountFlags); 7] = [
    ("ro", "rw", MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    ("nosuid", "suid", MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    ("nodev", "dev", MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    ("noexec", "exec", MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    ("noatime", "relatime", MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
    ("nodiratime", "diratime", MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
    ("nosymfollow", "symfollow", MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
];

impl Flags {
    pub(crate) const NONE: Self = Self { attributes: MountAttrFlags::empty(), flags: MountFlags::empty() };
    pub(crate) const READ_ONLY: Self =
        Self { attributes: MountAttrFlags::MOUNT_ATTR_RDONLY, flags: MountFlags::RDONLY };

    /// Takes the flags out of a list of options, the last of a pair counts, and gives what is left.
    pub(crate) fn take(options: &[String]) -> (Self, Vec<&str>) {
        let mut taken = Self::NONE;
        let mut left = Vec::new();
        for option in options {
            let found = NAMES.iter().find(|(set, clear, ..)| option == set || option == clear);
            match found {
                Some((set, _, attribute, flag)) => {
                    taken.attributes.set(*attribute, option == set);
                    taken.flags.set(*flag, option == set);
                }
                None => left.push(option.as_str()),
            }
        }
        (taken, left)
    }

    pub(crate) fn is_read_only(self) -> bool {
        self.flags.contains(MountFlags::RDONLY)
    }

    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self { attributes: self.attributes | other.attributes, flags: self.flags | other.flags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_pair_counts_and_the_rest_is_left() {
        let options: Vec<String> =
            ["rw", "nodev", "index=off", "ro", "dev", "volatile"].map(Into::into).into();
        assert_eq!(Flags::take(&options), (Flags::READ_ONLY, vec!["index=off", "volatile"]));
    }
}
