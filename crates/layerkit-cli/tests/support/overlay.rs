//! A real overlay mount, and all that can be done in one.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use super::Mounted;

/// Mounts `lowers` (nearest first) with `upper` on top, and with the features that make an upper directory hard
/// to read.
pub(crate) fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, mountpoint: &Path) -> Mounted {
    for dir in [upper, work, mountpoint] {
        fs::create_dir_all(dir).unwrap();
    }
    let lowers: Vec<_> = lowers.iter().map(|l| l.display().to_string()).collect();
    let options = format!(
        "redirect_dir=on,metacopy=on,index=off,lowerdir={},upperdir={},workdir={}",
        lowers.join(":"),
        upper.display(),
        work.display()
    );
    let status =
        Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(mountpoint).status();
    assert!(status.unwrap().success(), "overlay mount with {options}");
    Mounted(mountpoint.to_owned())
}

/// Every kind of change, made as a container would make it.
pub(crate) fn change(root: &Path) {
    let at = |path: &str| root.join(path);
    // add, modify, change the mode only (a metacopy), delete
    fs::write(at("srv/case/added"), "new file").unwrap();
    fs::create_dir(at("srv/new")).unwrap();
    fs::write(at("srv/new/inner"), "in a new directory").unwrap();
    fs::write(at("etc/hostname"), "changed").unwrap();
    fs::set_permissions(at("etc/debian_version"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(at("etc/os-release"), Some(7), Some(8)).ok();
    chown(at("usr/lib/os-release"), Some(7), Some(8)).unwrap();
    fs::remove_file(at("etc/fstab")).unwrap();
    fs::remove_dir_all(at("usr/share/zoneinfo")).ok();
    fs::remove_dir_all(at("usr/share/bash-completion")).unwrap();
    // delete and make again: opaque
    fs::remove_dir_all(at("etc/apt")).unwrap();
    fs::create_dir(at("etc/apt")).unwrap();
    fs::write(at("etc/apt/only"), "nothing of the old directory").unwrap();
    // rename a directory of a lower layer: a redirect; and one inside it
    fs::rename(at("usr/share/perl5"), at("usr/share/perl-moved")).unwrap();
    fs::rename(at("usr/lib/git-core/mergetools"), at("usr/share/perl-moved/mergetools")).unwrap();
    fs::write(at("usr/share/perl-moved/added"), "into a renamed directory").unwrap();
    // type changes
    fs::remove_file(at("etc/issue.net")).unwrap();
    fs::create_dir(at("etc/issue.net")).unwrap();
    fs::write(at("etc/issue.net/x"), "was a file").unwrap();
    fs::remove_dir_all(at("etc/init.d")).unwrap();
    fs::write(at("etc/init.d"), "was a directory").unwrap();
    // hard links, attributes, special files, links
    fs::hard_link(at("srv/case/added"), at("srv/case/added-too")).unwrap();
    fs::hard_link(at("srv/case/attrs"), at("srv/case/attrs-too")).unwrap();
    setxattr(at("srv/case/added"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    mknodat(CWD, at("srv/case/zero"), FileType::CharacterDevice, Mode::from(0o640), makedev(1, 5)).unwrap();
    mknodat(CWD, at("srv/case/queue"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    symlink("../absent", at("srv/case/dangling")).unwrap();
    fs::DirBuilder::new().mode(0o1777).create(at("srv/sticky")).unwrap();
    fs::write(at("srv/case/grüße \n"), "an odd name").unwrap();
    let long = at("srv").join("l".repeat(180)).join("m".repeat(180));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("deep"), "a long path").unwrap();
}
