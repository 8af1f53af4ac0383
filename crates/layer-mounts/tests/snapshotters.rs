//! The mount lists of containerd's snapshotters, row by row.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use layer_model::ErrorKind;
use layer_mounts::{Activated, LayerRef, Mount, MountShape, Template, from_mounts, windows::WindowsForm};

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount::new(kind, source, options.iter().copied())
}

fn erofs(source: &str, more: &[&str]) -> Mount {
    mount("erofs", source, &[&["ro", "loop"], more].concat())
}

fn block() -> Mount {
    mount(
        "mkfs/ext4",
        "/s/9/rwlayer.img",
        &["X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.size=20GiB", "rw", "loop"],
    )
}

fn block_bind() -> Vec<Mount> {
    let options = ["X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "rw", "rbind"];
    vec![block(), mount("format/mkdir/bind", "{{ mount 0 }}/upper", &options)]
}

fn stack(lowerdir: &str) -> Vec<Mount> {
    let mut mounts: Vec<_> = [3, 2, 1].map(|n| erofs(&format!("/s/{n}/layer.erofs"), &[])).into();
    let lower = format!("lowerdir={lowerdir}");
    mounts.push(mount("format/mkdir/overlay", "overlay", &["workdir=/s/9/work", "upperdir=/s/9/fs", &lower]));
    mounts
}

fn block_stack() -> Vec<Mount> {
    vec![
        block(),
        erofs("/s/2/layer.erofs", &[]),
        erofs("/s/1/fsmeta.erofs", &["device=/s/0/layer.erofs", "device=/s/1/layer.erofs"]),
        mount(
            "format/mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 0 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
                "workdir={{ mount 0 }}/work",
                "upperdir={{ mount 0 }}/upper",
                "uidmap=0:524288:65536",
                "gidmap=0:524288:65536",
                "lowerdir={{ overlay 1 2 }}",
                "volatile",
            ],
        ),
    ]
}

/// Every row, with the name of the shape that it is.
fn rows() -> Vec<(&'static str, Vec<Mount>)> {
    let json = r#"parentLayerPaths=["C:\\2","C:\\1"]"#;
    vec![
        ("bind mount", vec![mount("bind", "/s/1/fs", &["rw", "rbind"])]),
        ("bind mount", vec![mount("bind", "/s/1/fs", &["ro", "rbind"])]),
        (
            "overlay mount",
            vec![mount(
                "overlay",
                "overlay",
                &[
                    "uidmap=0:524288:65536",
                    "gidmap=0:524288:65536",
                    "workdir=/s/3/work",
                    "upperdir=/s/3/fs",
                    "lowerdir=/s/2/fs:/s/1/fs",
                    "volatile",
                    "userxattr",
                    "index=off",
                ],
            )],
        ),
        ("overlay mount", vec![mount("overlay", "overlay", &["lowerdir=/s/2/fs:/s/1/fs"])]),
        ("EROFS mount", vec![erofs("/s/1/layer.erofs", &[])]),
        (
            "EROFS mount",
            vec![erofs("/s/1/layer.erofs", &["X-containerd.dmverity=/s/1/layer.erofs.dmverity"])],
        ),
        (
            "EROFS mount",
            vec![erofs("/s/3/fsmeta.erofs", &["device=/s/1/l", "device=/s/2/l", "device=/s/3/l"])],
        ),
        ("mounts that are not activated", block_bind()),
        ("mounts that are not activated", stack("{{ overlay 0 2 }}")),
        ("mounts that are not activated", block_stack()),
        (
            "mounts that are not activated",
            vec![
                erofs("/s/1/layer.erofs", &[]),
                mount(
                    "format/mkdir/overlay",
                    "overlay",
                    &["workdir=/w", "upperdir=/u", "lowerdir={{ mount 0 }}"],
                ),
            ],
        ),
        (
            "mounts that are not activated",
            vec![
                erofs("/s/2/layer.erofs", &[]),
                erofs("/s/1/layer.erofs", &[]),
                mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"]),
            ],
        ),
        (
            "mounts that are not activated",
            vec![
                erofs("/s/2/fsmeta.erofs", &["device=/s/1/l", "device=/s/2/l"]),
                mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"]),
            ],
        ),
        ("Windows layer", vec![mount("windows-layer", r"C:\3", &["rw", json])]),
        ("Windows layer", vec![mount("lcow-layer", r"C:\3", &["rw", json])]),
        (
            "Windows layer",
            vec![mount(
                "CimFS",
                r"C:\3",
                &["rw", r"cimpath=C:\3.cim", r#"parentCimPaths=["C:\\2.cim"]"#, json],
            )],
        ),
        (
            "Windows layer",
            vec![mount(
                "BlockCIM",
                r"C:\3",
                &[
                    "blockCIMType=file",
                    r"mergedCIMPath=C:\m.bcim",
                    r#"parentCimPaths=["C:\\2.bcim","C:\\1.bcim"]"#,
                    "enable_layer_integrity",
                    "append_vhd_footer",
                ],
            )],
        ),
    ]
}

#[test]
fn every_row_has_one_shape_and_comes_back_byte_for_byte() {
    for (name, mounts) in rows() {
        let shape = from_mounts(&mounts).unwrap_or_else(|e| panic!("{mounts:?}: {e}"));
        assert_eq!(shape.name(), name, "{mounts:?}");
        assert_eq!(shape.to_mounts(), mounts);
    }
}

#[test]
fn unknown_options_and_their_order_come_back_too() {
    for (_, mut mounts) in rows() {
        for mount in &mut mounts {
            mount.options.insert(0, "of=tomorrow".into());
            mount.options.push("X-containerd.of.tomorrow".into());
            mount.target = "below".into();
        }
        assert_eq!(from_mounts(&mounts).unwrap().to_mounts(), mounts);
    }
}

#[test]
fn an_empty_list_is_an_error() {
    assert_eq!(from_mounts(&[]).unwrap_err().kind(), &ErrorKind::InvalidArgument);
}

#[test]
fn lists_that_no_snapshotter_makes_are_not_guessed_at() {
    let bind = || mount("bind", "/d", &["rbind"]);
    for list in [
        vec![mount("ext4", "/dev/sda", &[])],
        vec![mount("mkfs/ext4", "/img", &[])],
        vec![mount("shrink/bind", "/d", &[])],
        vec![bind(), bind()],
        vec![erofs("/l", &[]), bind()],
        vec![bind(), mount("format/bind", "{{ mount 0 }}", &[])],
        vec![erofs("/l", &[]), block(), mount("format/bind", "{{ mount 0 }}", &[])],
        vec![erofs("/l", &[]), mount("format/xfs", "{{ mount 0 }}", &[])],
        vec![erofs("/l", &[]), mount("windows-layer", "/l", &[])],
    ] {
        assert_eq!(from_mounts(&list).unwrap_err().kind(), &ErrorKind::NotSupported, "{list:?}");
    }
    for list in [
        vec![mount("bind", "", &["rbind"])],
        vec![mount("erofs", "", &[])],
        vec![mount("", "/d", &[])],
        vec![mount("overlay", "overlay", &["upperdir=/u", "workdir=/w"])],
        vec![mount("mkdir/bind", "/p", &["X-containerd.mkdir.path=/p:0755:1000"])],
        vec![erofs("/l", &[]), mount("format/bind", "{{ mount 1 }}", &[])],
        vec![erofs("/l", &[]), mount("format/bind", "{{ .Mount }}", &[])],
        vec![mount("CimFS", r"C:\3", &["parentCimPaths=nothing"])],
    ] {
        assert_eq!(from_mounts(&list).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{list:?}");
    }
}

#[test]
fn a_bind_mount_is_a_directory_of_unknown_meaning() {
    let shape = from_mounts(&[mount("bind", "/d/fs", &["rw", "rbind"])]).unwrap();
    let MountShape::Bind(bind) = &shape else { panic!("a bind mount") };
    assert_eq!((bind.source(), bind.is_read_only()), ("/d/fs", false));
    assert_eq!((shape.upper(), shape.parents().unwrap()), (Some("/d/fs"), vec![]));
    let view = from_mounts(&[mount("bind", "/d/fs", &["ro", "rbind"])]).unwrap();
    assert_eq!((view.upper(), view.parents().unwrap()), (None, vec![LayerRef::Dir("/d/fs")]));
}

#[test]
fn verity_and_merged_metadata_are_read_from_the_options() {
    let shape = from_mounts(&[erofs("/d/layer.erofs", &["X-containerd.dmverity=/d/p"])]).unwrap();
    let MountShape::Erofs(image) = &shape else { panic!("an image") };
    assert_eq!((image.image(), image.verity(), image.is_merged()), ("/d/layer.erofs", Some("/d/p"), false));
    assert_eq!(image.layers(), ["/d/layer.erofs"]);

    let shape = from_mounts(&[erofs("/m", &["device=/1", "device=/2", "device=/3"])]).unwrap();
    let MountShape::Erofs(merged) = &shape else { panic!("an image") };
    assert!(merged.is_merged());
    assert_eq!(merged.devices(), ["/1", "/2", "/3"], "bottom first, as the kernel numbers them");
    assert_eq!(merged.layers(), ["/3", "/2", "/1"], "nearest first");
}

#[test]
fn a_block_image_is_known_once_it_is_mounted() {
    let MountShape::Unresolved(unresolved) = from_mounts(&block_bind()).unwrap() else {
        panic!("not mounted")
    };
    assert_eq!(unresolved.block_image().unwrap().source, "/s/9/rwlayer.img");
    let shape = unresolved.activated(&[Activated::at("/run/m:0")]).unwrap();
    let MountShape::BlockImage(image) = &shape else { panic!("a block image") };
    assert_eq!(
        (image.image(), image.file_system(), image.size()),
        ("/s/9/rwlayer.img", "ext4", Some(20 << 30))
    );
    assert_eq!((image.dir(), shape.upper()), ("/run/m:0/upper", Some("/run/m:0/upper")));
    assert_eq!(shape.to_mounts(), block_bind());
}

#[test]
fn a_template_as_a_source_is_not_the_current_directory() {
    let mounts =
        [erofs("/s/fsmeta.erofs", &["device=/s/1"]), mount("format/bind", "{{ mount 0 }}", &["ro", "rbind"])];
    let shape = from_mounts(&mounts).unwrap();
    let MountShape::Unresolved(unresolved) = &shape else { panic!("not mounted") };
    assert_eq!(shape.upper(), None);
    let parents = shape.parents().unwrap();
    let [LayerRef::Image(image)] = parents.as_slice() else { panic!("one image") };
    assert_eq!(image.image(), "/s/fsmeta.erofs");
    let MountShape::Bind(bind) = unresolved.activated(&[Activated::at("/run/0")]).unwrap() else {
        panic!("a bind")
    };
    assert_eq!((bind.source(), bind.is_read_only()), ("/run/0", true));
    assert!(unresolved.activated(&[]).is_err());
}

#[test]
fn a_stack_of_images_expands_to_their_mount_points() {
    let MountShape::Unresolved(unresolved) = from_mounts(&stack("{{ overlay 0 2 }}")).unwrap() else {
        panic!()
    };
    let points = ["/run/0", "/run/a:1", "/run/2"].map(Activated::at);
    let last = unresolved.last_expanded(&points).unwrap();
    assert_eq!(last.kind, "overlay");
    assert_eq!(last.value("lowerdir"), Some(r"/run/0:/run/a\:1:/run/2"));
    last.check_for_kernel().unwrap();
    let MountShape::Overlay(overlay) = unresolved.activated(&points).unwrap() else { panic!("an overlay") };
    assert_eq!(overlay.lowers(), ["/run/0", "/run/a:1", "/run/2"]);
    assert_eq!((overlay.upper(), overlay.work()), (Some("/s/9/fs"), Some("/s/9/work")));
}

#[test]
fn the_parents_of_a_stack_of_images_are_known_before_it_is_mounted() {
    let images = |lowerdir| {
        let shape = from_mounts(&stack(lowerdir)).unwrap();
        let parents = shape.parents().map_err(|e| e.kind().clone())?;
        let names = parents.into_iter().map(|parent| match parent {
            LayerRef::Image(image) => image.image().to_owned(),
            LayerRef::Dir(dir) => dir.to_owned(),
        });
        Ok::<_, ErrorKind>(names.collect::<Vec<_>>())
    };
    let nearest_first =
        ["/s/3/layer.erofs", "/s/2/layer.erofs", "/s/1/layer.erofs"].map(String::from).to_vec();
    assert_eq!(images("{{ overlay 0 2 }}"), Ok(nearest_first.clone()));
    assert_eq!(images("{{mount 0}}:{{mount 1}}:{{mount 2}}"), Ok(nearest_first));
    // Where the list has fewer than the images, or what is no layer, it is not known what it is.
    for unclear in [
        "{{ overlay 0 1 }}",
        "/elsewhere",
        "{{ overlay 0 2 }}/below",
        "{{ overlay 0 2 }}::/data",
        "{{ overlay 0 2 }}:",
        "x{{ overlay 0 2 }}",
    ] {
        assert_eq!(images(unclear), Err(ErrorKind::FailedPrecondition), "{unclear}");
    }
}

#[test]
fn a_stack_of_images_and_directories_has_both_in_order() {
    let shape = from_mounts(&stack(r"/s/5/fs:{{ mount 0 }}:/a\:b/fs:{{ overlay 1 2 }}:/s/0/fs")).unwrap();
    let names = shape.parents().unwrap().into_iter().map(|parent| match parent {
        LayerRef::Image(image) => format!("image {}", image.image()),
        LayerRef::Dir(dir) => dir.to_owned(),
    });
    let want = [
        "/s/5/fs",
        "image /s/3/layer.erofs",
        "/a:b/fs",
        "image /s/2/layer.erofs",
        "image /s/1/layer.erofs",
        "/s/0/fs",
    ];
    assert_eq!(names.collect::<Vec<_>>(), want);
    let MountShape::Unresolved(unresolved) = &shape else { panic!("not mounted") };
    let MountShape::Overlay(overlay) =
        unresolved.activated(&["/m/0", "/m:1", "/m/2"].map(Activated::at)).unwrap()
    else {
        panic!("an overlay")
    };
    assert_eq!(overlay.lowers(), ["/s/5/fs", "/m/0", "/a:b/fs", "/m:1", "/m/2", "/s/0/fs"]);
}

#[test]
fn a_stack_over_a_block_image_keeps_its_options_in_order() {
    let shape = from_mounts(&block_stack()).unwrap();
    assert_eq!(shape.parents().unwrap().len(), 2);
    let MountShape::Unresolved(unresolved) = &shape else { panic!("not mounted") };
    assert_eq!(unresolved.upper().unwrap(), Some(Template::parse("{{ mount 0 }}/upper").unwrap()));
    let last = unresolved.last_expanded(&["/b", "/m1", "/m2"].map(Activated::at)).unwrap();
    let want = ["workdir=/b/work", "upperdir=/b/upper", "uidmap=0:524288:65536", "gidmap=0:524288:65536"];
    assert_eq!(last.options[..4], want);
    assert_eq!(last.options[4..], ["lowerdir=/m1:/m2", "volatile"]);
}

#[test]
fn windows_layers_are_data() {
    let forms: Vec<_> = rows()
        .into_iter()
        .filter_map(|(_, mounts)| match from_mounts(&mounts).unwrap() {
            MountShape::Windows(windows) => Some(windows.form().clone()),
            _ => None,
        })
        .collect();
    let parents = vec![r"C:\2".to_owned(), r"C:\1".to_owned()];
    assert_eq!(forms[0], WindowsForm::Layer { parents: parents.clone() });
    assert_eq!(forms[1], WindowsForm::Lcow { parents: parents.clone() });
    let cim =
        WindowsForm::Cim { cim: Some(r"C:\3.cim".into()), parent_cims: vec![r"C:\2.cim".into()], parents };
    assert_eq!(forms[2], cim);
    let WindowsForm::BlockCim { block_type, merged, parent_cims, integrity: true, vhd_footer: true } =
        &forms[3]
    else {
        panic!("a block CIM with all flags");
    };
    assert_eq!((block_type.as_deref(), merged.as_deref()), (Some("file"), Some(r"C:\m.bcim")));
    assert_eq!(parent_cims.as_slice(), [r"C:\2.bcim", r"C:\1.bcim"]);
    let none = from_mounts(&[mount("windows-layer", r"C:\1", &["parentLayerPaths=null"])]).unwrap();
    assert!(matches!(none, MountShape::Windows(w) if *w.form() == WindowsForm::Layer { parents: vec![] }));
}
