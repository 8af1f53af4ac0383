//! Mount lists, row by row.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;

use erofs_snapshotter::{
    LayerForm, MountForm, SnapshotDir, layer_image_options,
    lists::{ListOptions, Lower, mount_list, premounts},
};
use layer_apply::ErofsImage;
use layer_model::{Base, ErrorKind, Silent, testing::MemoryLayer};
use layer_mounts::{LayerRef, MountShape, from_mounts};
use support::kind_of;

/// Layers `1`, `2`, ...: `i` an image, `m` an image with merged metadata, `v` one with a dm-verity sidecar, `d` a
/// directory; bottom first. And a snapshot over them, `9`.
struct Place {
    temp: tempfile::TempDir,
    own: SnapshotDir,
    lowers: Vec<Lower>,
}

fn place(layers: &str, own_image: bool) -> Place {
    let temp = tempfile::tempdir().unwrap();
    let make = |name: &str| SnapshotDir::create_active(temp.path().join(name)).unwrap();
    let put = |dir: &SnapshotDir| {
        let mut layer = MemoryLayer::new().file("f", "x").changes();
        dir.apply::<ErofsImage>(&mut layer, Base::Empty, layer_image_options(), &Silent).unwrap();
    };
    let mut lowers = Vec::new();
    for (at, form) in layers.chars().enumerate() {
        let dir = make(&(at + 1).to_string());
        if form != 'd' {
            put(&dir);
        }
        match form {
            'm' => fs::write(dir.fsmeta_path(), "not looked into").unwrap(),
            'v' => fs::write(dir.sidecar_path(), "{}").unwrap(),
            _ => {}
        }
        let form = if form == 'd' { LayerForm::Directory } else { LayerForm::Image };
        lowers.insert(0, Lower::new(dir, form));
    }
    let own = make("9");
    if own_image {
        put(&own);
    }
    Place { temp, own, lowers }
}

impl Place {
    /// The list, a mount a line: type, source, options. `S` stands for the folder of the snapshots.
    fn list(&self, writable: bool, options: &ListOptions) -> String {
        let mounts = mount_list(&self.own, &self.lowers, writable, options).unwrap();
        let shape = from_mounts(&mounts).unwrap_or_else(|error| panic!("{mounts:?}: {error:?}"));
        assert_eq!(shape.to_mounts(), mounts);
        if options.form == MountForm::Managed {
            self.check_parents(&shape, writable);
            let image_below = self.lowers.first().is_some_and(|lower| lower.form == LayerForm::Image);
            if writable || image_below {
                let dir = SnapshotDir::from_mounts(&mounts).unwrap();
                let want = if writable { self.own.path() } else { self.lowers[0].dir.path() };
                assert_eq!(dir.path(), want, "{mounts:?}");
            }
        }
        let lines = mounts.iter().map(|m| format!("{} {} {}", m.kind, m.source, m.options.join(",")));
        lines.collect::<Vec<_>>().join("\n").replace(self.temp.path().to_str().unwrap(), "S")
    }

    /// Whoever reads the list finds the same layers in it, nearest first.
    fn check_parents(&self, shape: &MountShape, writable: bool) {
        if self.lowers.is_empty() {
            return;
        }
        let mut found = Vec::new();
        for parent in shape.parents().unwrap() {
            match parent {
                LayerRef::Dir(dir) => found.push(dir.to_owned()),
                LayerRef::Image(image) => found.extend(image.layers().into_iter().map(str::to_owned)),
            }
        }
        let want = self.lowers.iter().map(|lower| match lower.form {
            LayerForm::Image => lower.dir.image_path(),
            LayerForm::Directory => lower.dir.upper_path(),
        });
        let want: Vec<_> = want.map(|path| path.to_str().unwrap().to_owned()).collect();
        assert_eq!(found, want, "{writable}");
    }
}

#[test]
fn every_snapshot_has_the_list_that_containerd_gives_it() {
    let image = |n: u32| format!("erofs S/{n}/layer.erofs ro,loop\n");
    let (w, u) = ("workdir=S/9/work", "upperdir=S/9/fs");
    for (layers, own_image, writable, want) in [
        ("", false, true, "bind S/9/fs rw,rbind".to_owned()),
        ("", false, false, "bind S/9/fs ro,rbind".into()),
        ("", true, true, "erofs S/9/layer.erofs ro,loop".into()),
        // Images.
        ("i", false, false, "erofs S/1/layer.erofs ro,loop".into()),
        (
            "v",
            false,
            false,
            "erofs S/1/layer.erofs ro,loop,X-containerd.dmverity=S/1/layer.erofs.dmverity".into(),
        ),
        (
            "i",
            false,
            true,
            image(1) + &format!("format/mkdir/overlay overlay {w},{u},lowerdir={{{{ mount 0 }}}},x=y"),
        ),
        (
            "iii",
            false,
            true,
            image(3)
                + &image(2)
                + &image(1)
                + &format!("format/mkdir/overlay overlay {w},{u},lowerdir={{{{ overlay 0 2 }}}},x=y"),
        ),
        (
            "ii",
            false,
            false,
            image(2) + &image(1) + "format/mkdir/overlay overlay lowerdir={{ overlay 0 1 }},x=y",
        ),
        // Merged metadata; of one layer it is not looked at by a view.
        ("m", false, false, "erofs S/1/layer.erofs ro,loop".into()),
        (
            "im",
            false,
            false,
            "erofs S/2/fsmeta.erofs ro,loop,device=S/1/layer.erofs,device=S/2/layer.erofs\n\
             format/bind {{ mount 0 }} ro,rbind"
                .into(),
        ),
        (
            "im",
            false,
            true,
            format!(
                "erofs S/2/fsmeta.erofs ro,loop,device=S/1/layer.erofs,device=S/2/layer.erofs\n\
                 format/mkdir/overlay overlay {w},{u},lowerdir={{{{ mount 0 }}}},x=y"
            ),
        ),
        (
            "imi",
            false,
            false,
            image(3)
                + "erofs S/2/fsmeta.erofs ro,loop,device=S/1/layer.erofs,device=S/2/layer.erofs\n\
                   format/mkdir/overlay overlay lowerdir={{ overlay 0 1 }},x=y",
        ),
        // Directories.
        ("d", false, false, "bind S/1/fs ro,rbind".into()),
        ("d", false, true, format!("overlay overlay {w},{u},lowerdir=S/1/fs,x=y")),
        ("dd", false, true, format!("overlay overlay {w},{u},lowerdir=S/2/fs:S/1/fs,x=y")),
        ("ddd", false, false, "overlay overlay lowerdir=S/3/fs:S/2/fs:S/1/fs,x=y".into()),
        // Both.
        ("id", false, false, image(1) + "format/mkdir/overlay overlay lowerdir=S/2/fs:{{ mount 0 }},x=y"),
        (
            "iidid",
            false,
            true,
            image(4)
                + &image(2)
                + &image(1)
                + &format!(
                    "format/mkdir/overlay overlay {w},{u},\
                     lowerdir=S/5/fs:{{{{ mount 0 }}}}:S/3/fs:{{{{ overlay 1 2 }}}},x=y"
                ),
        ),
        // Metadata over a directory is none of the whole stack.
        ("dm", false, false, image(2) + "format/mkdir/overlay overlay lowerdir={{ mount 0 }}:S/1/fs,x=y"),
    ] {
        let mut options = ListOptions::default();
        options.overlay = vec!["x=y".into()];
        let place = place(layers, own_image);
        assert_eq!(place.list(writable, &options), want, "{layers} {own_image} {writable}");
    }
}

#[test]
fn images_that_are_mounted_already_are_directories() {
    let mut options = ListOptions::default();
    options.form = MountForm::Premounted;
    let (w, u) = ("workdir=S/9/work", "upperdir=S/9/fs");
    for (layers, writable, want, mounted) in [
        ("i", false, "erofs S/1/layer.erofs ro,loop".to_owned(), 0),
        ("i", true, format!("overlay overlay {w},{u},lowerdir=S/1/fs"), 1),
        ("iim", true, format!("overlay overlay {w},{u},lowerdir=S/3/fs:S/2/fs:S/1/fs"), 3),
        ("di", false, "overlay overlay lowerdir=S/2/fs:S/1/fs".into(), 1),
    ] {
        let place = place(layers, false);
        assert_eq!(place.list(writable, &options), want, "{layers} {writable}");
        let before = premounts(&place.lowers, writable).unwrap();
        assert_eq!(before.len(), mounted);
        for (mount, at) in before {
            assert_eq!((mount.kind.as_str(), mount.options.join(",")), ("erofs", "ro,loop".into()));
            assert_eq!(at.with_file_name("layer.erofs").to_str(), Some(mount.source.as_str()));
        }
    }
}

#[test]
fn id_maps_stand_where_each_snapshotter_has_them() {
    let mut options = ListOptions::default();
    options.id_maps = vec!["uidmap=0:1:2".into(), "gidmap=0:3:4".into()];
    let maps = "uidmap=0:1:2,gidmap=0:3:4";
    let (w, u) = ("workdir=S/9/work", "upperdir=S/9/fs");
    let list = |layers, writable| place(layers, false).list(writable, &options);
    assert_eq!(list("dd", true), format!("overlay overlay {maps},{w},{u},lowerdir=S/2/fs:S/1/fs"));
    assert_eq!(list("d", false), format!("bind S/1/fs {maps},ro,rbind"));
    let want = format!("\nformat/mkdir/overlay overlay {w},{u},{maps},lowerdir={{{{ overlay 0 1 }}}}");
    assert!(list("ii", true).ends_with(&want));
}

#[test]
fn paths_are_written_so_that_they_are_read_again() {
    let temp = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        fs::create_dir_all(temp.path().join(name)).unwrap();
        SnapshotDir::create_active(temp.path().join(name).join("1")).unwrap()
    };
    let odd = make(r"a:b,c\d");
    let lowers = [Lower::new(odd.clone(), LayerForm::Directory)];
    let mounts = mount_list(&odd, &lowers, true, &ListOptions::default()).unwrap();
    let MountShape::Overlay(overlay) = from_mounts(&mounts).unwrap() else { panic!("an overlay") };
    assert_eq!(overlay.upper(), odd.upper_path().to_str());
    assert_eq!(overlay.lowers(), [odd.upper_path().to_str().unwrap()]);
    assert_eq!(SnapshotDir::from_mounts(&mounts).unwrap().path(), odd.path());
    let template = make("{{ mount 0 }}");
    assert_eq!(
        kind_of(mount_list(&template, &[], true, &ListOptions::default())),
        ErrorKind::InvalidArgument
    );
}
