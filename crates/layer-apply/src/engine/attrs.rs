//! Owner, attributes, mode and times, in the order in which the kernel leaves all of them alone.
//!
//! A change of owner takes set-id bits and capabilities away, so it comes first; an access control list changes
//! the mode, so attributes come before the mode; everything changes a time, so times come last.

use std::{borrow::Cow, os::fd::AsFd};

use layer_model::{
    Error, ErrorKind, LayerPath, Metadata, Result, Timestamp, WarningKind, Xattrs, metadata::MODE_MASK,
    path::Printable,
};
use overlay_dir::Namespace;
use rustix::{
    fs::{
        AtFlags, Gid, Mode, Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, flistxattr, fremovexattr,
        fsetxattr, fstat, futimens, utimensat,
    },
    io::Errno,
};

use super::{Engine, Form};
use crate::{
    fs::dirs::{DirId, ROOT, timestamps},
    options::{OverlayXattrs, XattrPolicy},
};

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// What an object of the target shall have, in the target's terms.
#[derive(Debug)]
pub(crate) struct Attrs<'a> {
    pub(crate) mode: u32,
    /// The owner on disk; [`None`] leaves it with the caller.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    xattrs: Vec<(Cow<'a, [u8]>, &'a [u8])>,
    /// Whether an access control list is among the attributes.
    acl: bool,
    default_acl: bool,
}

impl Attrs<'_> {
    pub(crate) fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }
}

/// What the kernel will have made of a new object in some directory.
struct Fresh {
    umask_applied: u32,
    inherits_acl: bool,
}

/// The times that containerd sets, and so everyone: nothing before 1970 and nothing that 64 bits of nanoseconds
/// do not hold; such a time becomes 0.
fn bounded(time: Timestamp, keep_early: bool) -> Timestamp {
    const LAST: Timestamp =
        Timestamp { secs: i64::MAX / 1_000_000_000, nanos: (i64::MAX % 1_000_000_000) as u32 };
    if (time < Timestamp::EPOCH && !keep_early) || time > LAST { Timestamp::EPOCH } else { time }
}

impl<F: Form> Engine<'_, F> {
    /// Translates metadata and attributes of the layer.
    pub(crate) fn attrs<'a>(
        &mut self,
        path: LayerPath<'_>,
        metadata: &Metadata,
        xattrs: &'a Xattrs,
    ) -> Result<Attrs<'a>> {
        let keep_owner = self.options.no_same_owner.unwrap_or(!self.kernel.may_chown);
        let uid = self.options.uid_map.to_outside(metadata.uid)?;
        let gid = self.options.gid_map.to_outside(metadata.gid)?;
        if keep_owner && !self.owner_warned && (uid, gid) != (self.kernel.uid, self.kernel.gid) {
            self.owner_warned = true;
            self.warn(WarningKind::OwnerSkipped, path, format!("{uid}:{gid}").as_bytes());
        }
        let keep_early = self.options.keep_early_times;
        let mtime = bounded(metadata.mtime, keep_early);
        if mtime != metadata.mtime {
            self.warn(WarningKind::TimeClamped, path, metadata.mtime.secs.to_string().as_bytes());
        }
        let atime = metadata.atime.map_or(metadata.mtime, |atime| atime.max(metadata.mtime));
        let atime = bounded(atime, keep_early);
        let mut attrs = Attrs {
            mode: metadata.mode & MODE_MASK,
            owner: (!keep_owner).then_some((uid, gid)),
            atime,
            mtime,
            xattrs: Vec::new(),
            acl: false,
            default_acl: false,
        };
        for (name, value) in xattrs.iter() {
            if let Some(stored) = self.stored_name(path, name) {
                attrs.acl |= name == ACL_ACCESS;
                attrs.default_acl |= name == ACL_DEFAULT;
                attrs.xattrs.push((stored, value));
            }
        }
        Ok(attrs)
    }

    /// The name under which an attribute is stored, [`None`] when it is left out.
    fn stored_name<'a>(&self, path: LayerPath<'_>, name: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let policy = &self.options.xattr_policy;
        if let XattrPolicy::Drop(prefixes) = policy
            && prefixes.iter().any(|prefix| name.starts_with(prefix))
        {
            return None;
        }
        let verbatim = *policy == XattrPolicy::Verbatim;
        let trusted = !name.starts_with(b"trusted.") || self.options.keep_trusted_xattrs || verbatim;
        let reserved =
            [Namespace::Trusted, Namespace::User].into_iter().find(|ns| name.starts_with(ns.prefix()));
        let stored = match (reserved, self.form.marker_namespace()) {
            (Some(_), _) if self.options.overlay_xattrs == OverlayXattrs::Keep => {
                trusted.then_some(Cow::Borrowed(name))
            }
            (None, _) => trusted.then_some(Cow::Borrowed(name)),
            (Some(in_name), Some(active)) if in_name == active => {
                let escape = verbatim || self.options.overlay_xattrs == OverlayXattrs::Escape;
                let escaped =
                    if escape && trusted { overlay_dir::marker::escape(active, name) } else { None };
                escaped.map(Cow::Owned)
            }
            // Data to the mount that this layer is made for, and markers to one of the other kind.
            (Some(_), Some(_)) => verbatim.then_some(Cow::Borrowed(name)),
            (Some(in_name), None) => {
                let keep = verbatim || (!self.options.is_spec() && in_name == Namespace::User);
                (keep && trusted).then_some(Cow::Borrowed(name))
            }
        };
        if stored.is_none() {
            self.warn(WarningKind::XattrDropped, path, name);
        }
        stored
    }

    /// What is known of a new object in `dir` that was made with `mode`.
    fn fresh(&self, dir: DirId, mode: u32) -> Fresh {
        let inherits_acl = self.dirs.get(dir).default_acl;
        Fresh { umask_applied: mode & !self.kernel.umask, inherits_acl }
    }

    /// Whether a new object in `dir` has to be given its owner.
    ///
    /// The group of a new file is the caller's, or that of a set-group-id directory; on file systems mounted with
    /// `grpid` it is always the directory's. Only where all of that is the same the call can be saved.
    fn needs_owner(&self, dir: DirId, attrs: &Attrs<'_>) -> Option<(u32, u32)> {
        let owner = attrs.owner?;
        let dir = self.dirs.get(dir);
        let gid = (dir.mode & 0o2000 != 0 || dir.gid == self.kernel.gid).then_some(dir.gid);
        let as_made =
            self.owners_as_expected == Some(true) && gid.is_some_and(|gid| owner == (self.kernel.uid, gid));
        (!as_made).then_some(owner)
    }

    /// Completes the new regular file `file` in `dir`, which was made with `made_mode`.
    pub(crate) fn describe_file(
        &mut self,
        file: impl AsFd,
        dir: DirId,
        path: LayerPath<'_>,
        attrs: &Attrs<'_>,
        made_mode: u32,
    ) -> Result<()> {
        if self.owners_as_expected.is_none() {
            // A server that maps root to nobody, say, shows in the first file.
            let stat = fstat(&file).map_err(|e| Error::io("stat file", e))?;
            let group_of_dir = self.dirs.get(dir).gid;
            let known = stat.st_gid == self.kernel.gid || stat.st_gid == group_of_dir;
            self.owners_as_expected = Some(stat.st_uid == self.kernel.uid && known);
        }
        if let Some((uid, gid)) = self.needs_owner(dir, attrs) {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| self.owner_failed(e, uid, gid))?;
        }
        let fresh = self.fresh(dir, made_mode);
        if fresh.inherits_acl && self.options.is_spec() && !attrs.acl {
            drop_xattr(&file, ACL_ACCESS)?;
        }
        for (name, value) in &attrs.xattrs {
            if let Err(error) = fsetxattr(&file, &**name, value, XattrFlags::empty()) {
                self.xattr_failed(path, name, error, true)?;
            }
        }
        if fresh.umask_applied != attrs.mode || fresh.inherits_acl || attrs.acl {
            fchmod(&file, Mode::from_raw_mode(attrs.mode)).map_err(|e| Error::io("set mode of file", e))?;
        }
        futimens(&file, &timestamps(Some(attrs.atime), attrs.mtime))
            .map_err(|e| Error::io("set times of file", e))
    }

    /// Completes the new object `name` in `dir` that cannot be opened. `made_mode` is what it was made with,
    /// [`None`] for a link, which has no mode.
    pub(crate) fn describe_special(
        &mut self,
        dir: DirId,
        name: &[u8],
        path: LayerPath<'_>,
        attrs: &Attrs<'_>,
        made_mode: Option<u32>,
    ) -> Result<()> {
        let owner = self.needs_owner(dir, attrs);
        let chmod = made_mode.is_some_and(|made| {
            let fresh = self.fresh(dir, made);
            fresh.umask_applied != attrs.mode || fresh.inherits_acl || attrs.acl
        });
        if made_mode.is_some() && self.dirs.get(dir).default_acl && self.options.is_spec() && !attrs.acl {
            let removed = self.kernel.remove_xattr(self.dirs.fd(dir), name, ACL_ACCESS);
            ignore_missing(removed)?;
        }
        self.describe_name(dir, name, path, attrs, owner, chmod)?;
        self.set_times_of(dir, name, attrs)
    }

    /// Changes what differs at `name` in `dir`, not followed: owner, attributes, mode.
    fn describe_name(
        &mut self,
        dir: DirId,
        name: &[u8],
        path: LayerPath<'_>,
        attrs: &Attrs<'_>,
        owner: Option<(u32, u32)>,
        chmod: bool,
    ) -> Result<()> {
        if let Some((uid, gid)) = owner {
            let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(self.dirs.fd(dir), name, user, group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| self.owner_failed(e, uid, gid))?;
        }
        for (attribute, value) in &attrs.xattrs {
            if let Err(error) = self.kernel.set_xattr(self.dirs.fd(dir), name, attribute, value) {
                self.xattr_failed(path, attribute, error, false)?;
            }
        }
        if chmod {
            self.kernel.chmod(self.dirs.fd(dir), name, attrs.mode).map_err(|e| Error::io("set mode", e))?;
        }
        Ok(())
    }

    fn set_times_of(&self, dir: DirId, name: &[u8], attrs: &Attrs<'_>) -> Result<()> {
        let times = timestamps(Some(attrs.atime), attrs.mtime);
        utimensat(self.dirs.fd(dir), name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Error::io("set times", e))
    }

    /// Gives the inode that `name` in `dir` shares with other names the metadata of the last entry for it.
    pub(crate) fn describe_shared(
        &mut self,
        dir: DirId,
        name: &[u8],
        path: LayerPath<'_>,
        attrs: &Attrs<'_>,
        was: &rustix::fs::Stat,
    ) -> Result<()> {
        let is_link = rustix::fs::FileType::from_raw_mode(was.st_mode) == rustix::fs::FileType::Symlink;
        let owner = attrs.owner.filter(|owner| *owner != (was.st_uid, was.st_gid));
        let set_id_lost = owner.is_some() && attrs.mode & 0o6000 != 0;
        let chmod = !is_link && (was.st_mode & MODE_MASK != attrs.mode || set_id_lost || attrs.acl);
        self.describe_name(dir, name, path, attrs, owner, chmod)?;
        self.set_times_of(dir, name, attrs)
    }

    /// Gives the open directory `id` its metadata; `new` if it was just made.
    pub(crate) fn describe_dir(&mut self, id: DirId, attrs: &Attrs<'_>, new: bool) -> Result<()> {
        let path = self.dirs.get(id).path.clone();
        let path = path.as_path();
        let fd = self.dirs.fd(id);
        let dir = self.dirs.get(id);
        if new && dir.default_acl && self.options.is_spec() {
            drop_xattr(fd, ACL_ACCESS)?;
            drop_xattr(fd, ACL_DEFAULT)?;
            self.dirs.get_mut(id).default_acl = false;
        }
        if !new && self.options.exact_xattrs {
            self.drop_other_xattrs(id, attrs)?;
        }
        let dir = self.dirs.get(id);
        if let Some((uid, gid)) = attrs.owner
            && (dir.uid, dir.gid) != (uid, gid)
        {
            fchown(&dir.fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| self.owner_failed(e, uid, gid))?;
            let dir = self.dirs.get_mut(id);
            (dir.uid, dir.gid) = (uid, gid);
        }
        if attrs.has_xattrs() && !self.kernel.ignores_modes {
            self.dirs.get_mut(id).unlock(self.kernel.uid);
        }
        for (name, value) in &attrs.xattrs {
            if let Err(error) = fsetxattr(self.dirs.fd(id), &**name, value, XattrFlags::empty()) {
                self.xattr_failed(path, name, error, true)?;
            }
        }
        if attrs.default_acl {
            self.acls = true;
            self.dirs.get_mut(id).default_acl = true;
        }
        let (mode, mode_after) = if self.staged && id == ROOT {
            (0o700, Some(attrs.mode))
        } else if !self.kernel.ignores_modes && attrs.mode & 0o700 != 0o700 {
            // Who is bound by modes needs to get in until the work is done.
            (attrs.mode | 0o700, Some(attrs.mode))
        } else {
            (attrs.mode, None)
        };
        let dir = self.dirs.get_mut(id);
        if dir.mode != mode || attrs.acl {
            fchmod(&dir.fd, Mode::from_raw_mode(mode))
                .map_err(|e| Error::io("set mode of directory", e).at(path))?;
            dir.mode = mode;
        }
        dir.mode_after = mode_after;
        self.set_times(id, attrs);
        Ok(())
    }

    /// Takes away the attributes of a directory that its new entry does not have, and that are not kept from
    /// the layer anyway.
    fn drop_other_xattrs(&mut self, id: DirId, attrs: &Attrs<'_>) -> Result<()> {
        let fd = self.dirs.fd(id);
        let mut names = vec![0; 64 * 1024];
        let len = match flistxattr(fd, &mut names[..]) {
            Ok(len) => len,
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(Error::io("list extended attributes", error)),
        };
        for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let wanted = attrs.xattrs.iter().any(|(have, _)| **have == *name);
            let reserved = name.starts_with(b"trusted.") && !self.options.keep_trusted_xattrs;
            // A label belongs to the system that the tree is on; no layer carries one that fits.
            if !wanted && !reserved && name != b"security.selinux" {
                drop_xattr(fd, name)?;
            }
        }
        Ok(())
    }

    /// Whether new objects in `id` inherit an access control list.
    pub(crate) fn has_default_acl(&mut self, id: DirId) -> bool {
        if !self.acls {
            return false;
        }
        let mut nothing: [u8; 0] = [];
        match fgetxattr(self.dirs.fd(id), ACL_DEFAULT, &mut nothing[..]) {
            Ok(_) | Err(Errno::RANGE) => true,
            Err(Errno::OPNOTSUPP) => {
                self.acls = false;
                false
            }
            Err(_) => false,
        }
    }

    /// Whether an attribute may be missing, with a warning, or is an error.
    fn xattr_failed(&self, path: LayerPath<'_>, name: &[u8], error: Errno, takes_user: bool) -> Result<()> {
        let tolerated = match error {
            Errno::OPNOTSUPP => true,
            Errno::PERM if name.starts_with(b"user.") => !takes_user,
            Errno::PERM if name.starts_with(b"security.") => !self.kernel.may_set_security,
            Errno::PERM if name.starts_with(b"trusted.") => !self.kernel.may_set_trusted,
            _ => false,
        };
        if tolerated && self.options.xattr_policy != XattrPolicy::Strict {
            self.warn(WarningKind::XattrDropped, path, name);
            return Ok(());
        }
        Err(Error::io(format!("set extended attribute {}", Printable(name)), error))
    }

    fn owner_failed(&self, error: Errno, uid: u32, gid: u32) -> Error {
        if error == Errno::INVAL && self.kernel.in_user_namespace {
            let message =
                format!("owner {uid}:{gid} is not mapped here: the user has too few subordinate ids");
            return Error::new(ErrorKind::UnmappedId { id: uid }, message).cause(std::io::Error::from(error));
        }
        Error::io(format!("set owner {uid}:{gid}"), error)
    }
}

fn drop_xattr(fd: impl AsFd, name: &[u8]) -> Result<()> {
    ignore_missing(fremovexattr(fd, name))
}

fn ignore_missing(removed: Result<(), Errno>) -> Result<()> {
    match removed {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(Error::io("remove extended attribute", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_out_of_range_become_the_epoch() {
        for bad in [
            Timestamp::from_secs(-5),
            Timestamp::from_secs(9_999_999_999_999),
            Timestamp::new(9_223_372_036, 854_775_808),
        ] {
            assert_eq!(bounded(bad, false), Timestamp::EPOCH, "{bad:?}");
        }
        for good in
            [Timestamp::EPOCH, Timestamp::new(400, 250_000_000), Timestamp::new(9_223_372_036, 854_775_807)]
        {
            assert_eq!(bounded(good, false), good);
        }
    }
}
