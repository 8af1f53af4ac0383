//! Which extended attributes an entry carries, and in what form.
//!
//! A tree has taken overlay's own attributes out already and unescaped the container's, so what is left here
//! is data. The same filter runs over both sides of a comparison: a difference that would not be written
//! is none.

use layer_model::{Error, ErrorKind, Profile, Result, WarningKind, Xattrs};

use crate::options::{Common, XattrPolicy};

/// The attribute that holds file capabilities (`linux/capability.h`).
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Something that has to be said about an entry if it is emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) kind: WarningKind,
    pub(crate) detail: Box<[u8]>,
}

/// What the options make of attributes.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    policy: XattrPolicy,
    profile: Profile,
    keep_selinux: bool,
    keep_trusted: bool,
    lossy_ok: bool,
    container_root: Option<u32>,
}

impl Filter {
    pub(crate) fn new(options: &Common) -> Self {
        Self {
            policy: options.policy(),
            profile: options.profile,
            keep_selinux: options.keep_selinux,
            keep_trusted: options.keep_trusted,
            lossy_ok: options.lossy_ok,
            container_root: options.container_root,
        }
    }

    /// Leaves in `xattrs` what an entry would carry, and says in `notes` what it lost.
    pub(crate) fn apply(&self, xattrs: &mut Xattrs, notes: &mut Vec<Note>) {
        if xattrs.is_empty() {
            return;
        }
        xattrs.retain(|name, value| {
            let kind = if !self.carries(name) {
                WarningKind::XattrDropped
            } else if value.is_empty() && !self.carries_empty() {
                WarningKind::EmptyXattrDropped
            } else {
                return true;
            };
            notes.push(Note { kind, detail: name.into() });
            false
        });
        if let Some(capability) = xattrs.get(CAPABILITY)
            && let Some(root) = self.container_root
        {
            match narrowed(capability, root) {
                Narrowed::To(bytes) => drop(xattrs.insert(CAPABILITY, bytes)),
                Narrowed::Foreign => {
                    notes.push(Note { kind: WarningKind::ForeignCapability, detail: CAPABILITY.into() })
                }
                Narrowed::Unchanged => {}
            }
        }
    }

    /// What [`Filter::apply`] does, for the side that is only compared with.
    pub(crate) fn apply_silently(&self, xattrs: &mut Xattrs) {
        self.apply(xattrs, &mut Vec::new());
    }

    /// Looks at what is to be emitted: no archive can hold a name with `=` in it.
    pub(crate) fn check_names(&self, xattrs: &mut Xattrs, notes: &mut Vec<Note>) -> Result<()> {
        let odd = |name: &[u8]| name.contains(&b'=');
        let Some(name) = xattrs.iter().map(|(name, _)| name).find(|name| odd(name)) else { return Ok(()) };
        if !self.lossy_ok {
            let name = layer_model::path::Printable(name);
            let message = format!("no archive holds an extended attribute named {name}");
            return Err(Error::new(ErrorKind::Unrepresentable, message));
        }
        xattrs.retain(|name, _| {
            if odd(name) {
                notes.push(Note { kind: WarningKind::XattrDropped, detail: name.into() });
            }
            !odd(name)
        });
        Ok(())
    }

    fn carries(&self, name: &[u8]) -> bool {
        let is = |prefix: &[u8]| name.starts_with(prefix);
        if name == CAPABILITY {
            return true;
        }
        let never = is(b"user.fuseoverlayfs.")
            || name == b"user.containers.override_stat"
            || name == b"system.nfs4_acl";
        match self.policy {
            _ if never => false,
            XattrPolicy::CapabilityOnly => false,
            XattrPolicy::Portable => is(b"user.") && !is(b"user.overlay."),
            XattrPolicy::All if name == b"security.selinux" => self.keep_selinux,
            XattrPolicy::All if is(b"trusted.") => self.keep_trusted,
            XattrPolicy::All => true,
        }
    }

    /// Readers take an empty value for a record that is taken back, so it would vanish silently.
    fn carries_empty(&self) -> bool {
        self.profile == Profile::Containerd && self.policy != XattrPolicy::CapabilityOnly
    }
}

enum Narrowed {
    To([u8; 20]),
    Foreign,
    Unchanged,
}

/// Turns a capability of revision 3, which names the root user that it counts for, into one of revision 2
/// when that is the container's own root (`struct vfs_ns_cap_data`, little-endian).
fn narrowed(value: &[u8], container_root: u32) -> Narrowed {
    const REVISION_MASK: u32 = 0xff00_0000;
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let Ok(value) = <&[u8; 24]>::try_from(value) else { return Narrowed::Unchanged };
    let word = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
    let magic = word(0);
    if magic & REVISION_MASK != REVISION_3 {
        return Narrowed::Unchanged;
    }
    if word(20) != container_root {
        return Narrowed::Foreign;
    }
    let mut short = [0; 20];
    short.copy_from_slice(&value[..20]);
    short[..4].copy_from_slice(&(magic & !REVISION_MASK | REVISION_2).to_le_bytes());
    Narrowed::To(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 14] = [
        "security.capability",
        "security.ima",
        "security.selinux",
        "system.nfs4_acl",
        "system.posix_acl_access",
        "trusted.md5",
        "trusted.overlay.opaque",
        "user.containers.override_stat",
        "user.empty",
        "user.foo",
        "user.fuseoverlayfs.opaque",
        "user.overlay.opaque",
        "user.overlayed",
        "user.z",
    ];

    fn kept(options: Common) -> Vec<String> {
        let value = |name: &&str| if *name == "user.empty" { vec![] } else { b"v".to_vec() };
        let mut xattrs: Xattrs = ALL.iter().map(|n| (n.as_bytes().to_vec(), value(n))).collect();
        Filter::new(&options).apply_silently(&mut xattrs);
        xattrs.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn each_policy_carries_its_set_and_nothing_else() {
        let with = |policy| Common { xattrs: Some(policy), ..Common::default() };
        assert_eq!(kept(with(XattrPolicy::CapabilityOnly)), ["security.capability"]);
        let portable = ["security.capability", "user.foo", "user.overlayed", "user.z"];
        assert_eq!(kept(with(XattrPolicy::Portable)), portable);
        let all = [
            "security.capability",
            "security.ima",
            "system.posix_acl_access",
            "user.foo",
            "user.overlay.opaque",
            "user.overlayed",
            "user.z",
        ];
        assert_eq!(kept(with(XattrPolicy::All)), all);
        let every = kept(Common { keep_selinux: true, keep_trusted: true, ..with(XattrPolicy::All) });
        for name in ["security.selinux", "trusted.md5", "trusted.overlay.opaque"] {
            assert!(every.iter().any(|kept| kept == name), "{name}");
        }
    }

    #[test]
    fn the_profile_sets_the_default_policy() {
        assert_eq!(Common::default().policy(), XattrPolicy::Portable);
        let containerd = Common { profile: Profile::Containerd, ..Common::default() };
        assert_eq!(kept(containerd), ["security.capability"]);
    }

    #[test]
    fn an_empty_value_is_left_out_with_a_word() {
        let filter = Filter::new(&Common::default());
        let mut xattrs: Xattrs = [(&b"user.e"[..], &b""[..])].into_iter().collect();
        let mut notes = Vec::new();
        filter.apply(&mut xattrs, &mut notes);
        assert!(xattrs.is_empty());
        assert_eq!(notes, [Note { kind: WarningKind::EmptyXattrDropped, detail: b"user.e"[..].into() }]);
    }

    #[test]
    fn a_capability_of_the_containers_root_loses_its_root_id() {
        let mut v3 = [0u8; 24];
        v3[..4].copy_from_slice(&0x0300_0001u32.to_le_bytes());
        v3[4] = 0x20;
        v3[20..].copy_from_slice(&524_288u32.to_le_bytes());
        let apply = |root| {
            let filter = Filter::new(&Common { container_root: root, ..Common::default() });
            let mut xattrs: Xattrs = [(CAPABILITY, &v3[..])].into_iter().collect();
            let mut notes = Vec::new();
            filter.apply(&mut xattrs, &mut notes);
            (xattrs.get(CAPABILITY).unwrap().to_vec(), notes.len())
        };
        let (v2, notes) = apply(Some(524_288));
        assert_eq!((v2.len(), &v2[..5], notes), (20, &[1, 0, 0, 2, 0x20][..], 0));
        assert_eq!(apply(Some(7)), (v3.to_vec(), 1), "another root's capability stays, with a word");
        assert_eq!(apply(None), (v3.to_vec(), 0));
    }

    #[test]
    fn a_name_with_an_equals_sign_fails_or_is_dropped() {
        let xattrs =
            || -> Xattrs { [(&b"user.a=b"[..], &b"1"[..]), (b"user.c", b"2")].into_iter().collect() };
        let strict = Filter::new(&Common::default());
        let error = strict.check_names(&mut xattrs(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Unrepresentable);
        let lossy = Filter::new(&Common { lossy_ok: true, ..Common::default() });
        let (mut left, mut notes) = (xattrs(), Vec::new());
        lossy.check_names(&mut left, &mut notes).unwrap();
        assert_eq!((left.len(), notes.len()), (1, 1));
    }
}
