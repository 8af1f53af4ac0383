//! Mounts of CIM layers: the rules of both readers, and the text both ways.

use cim_writer_abstraction::{
    CimName, CimProfile,
    location::CimLocation,
    mount::{AnySpec, BlockCimType, BlockSource, BlockSpec, ForkedParent, ForkedSpec, MountSpec, Reader},
};
use layer_model::{ErrorKind, Result};
use layer_mounts::Mount;
use proptest::{collection::vec, option, prelude::*};

const LAYER: &str = r"C:\s\3\layer.vhd\layer.cim";
const ONE: &str = r#"parentCimPaths=["C:\\s\\1\\layer.vhd\\layer.cim"]"#;
const TWO: &str = r#"parentCimPaths=["C:\\s\\2\\layer.vhd\\layer.cim","C:\\s\\1\\layer.vhd\\layer.cim"]"#;
const MERGED: &str = r"mergedCIMPath=C:\s\2\merged.vhd\merged.cim";

fn block_mount(source: &str, options: &[&str]) -> Mount {
    Mount::new("BlockCIM", source, options.iter().copied())
}

fn forked_mount(options: &[&str]) -> Mount {
    Mount::new("CimFS", r"C:\s\3", options.iter().copied())
}

fn block(source: &str, options: &[&str], reader: Reader, profile: CimProfile) -> Result<BlockSpec> {
    match MountSpec::parse(&[block_mount(source, options)], reader, profile)?.into_any() {
        AnySpec::Block(block) => Ok(block),
        AnySpec::Forked(forked) => panic!("{forked:?}"),
    }
}

fn forked(options: &[&str], reader: Reader, profile: CimProfile) -> Result<ForkedSpec> {
    match MountSpec::parse(&[forked_mount(options)], reader, profile)?.into_any() {
        AnySpec::Forked(forked) => Ok(forked),
        AnySpec::Block(block) => panic!("{block:?}"),
    }
}

fn location(path: &str) -> CimLocation {
    path.parse().expect("a joined path")
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("refused").kind().clone()
}

use CimProfile::{Hcsshim, Spec};
use Reader::{Differ, Runtime};

#[test]
fn a_differ_takes_a_missing_type_for_files() {
    for profile in [Spec, Hcsshim] {
        let block = block(
            r"C:\a\2\layer.vhd\layer.cim",
            &[r#"parentCimPaths=["C:\\a\\layer.vhd\\layer.cim"]"#],
            Differ,
            profile,
        );
        let block = block.unwrap();
        assert_eq!(block.cim_type, BlockCimType::File);
        let [parent] = block.parents.as_slice() else { panic!("{block:?}") };
        assert_eq!((parent.container(), parent.name().as_str()), (r"C:\a\layer.vhd", "layer.cim"));
        let BlockSource::Layer(target) = block.source else { panic!("a target") };
        assert_eq!((target.container(), target.name().as_str()), (r"C:\a\2\layer.vhd", "layer.cim"));
    }
}

#[test]
fn a_forked_mount_without_a_cim_has_nothing_to_extract_to() {
    for profile in [Spec, Hcsshim] {
        assert_eq!(kind(forked(&["rw"], Differ, profile)), ErrorKind::InvalidArgument);
        assert_eq!(forked(&["rw"], Runtime, profile).unwrap().cim, None);
    }
}

#[test]
fn one_mount_is_wanted_and_other_types_are_for_others() {
    let mount = block_mount(LAYER, &[ONE]);
    for profile in [Spec, Hcsshim] {
        for reader in [Differ, Runtime] {
            let parse = |mounts: &[Mount]| kind(MountSpec::parse(mounts, reader, profile));
            assert_eq!(parse(&[]), ErrorKind::InvalidArgument);
            assert_eq!(parse(&[mount.clone(), mount.clone()]), ErrorKind::InvalidArgument);
            for other in ["windows-layer", "lcow-layer", "overlay", "blockcim", ""] {
                assert_eq!(parse(&[Mount::new(other, "x", ["ro"])]), ErrorKind::NotSupported, "{other}");
            }
        }
    }
}

#[test]
fn the_runtime_wants_a_type_parents_and_what_they_are_merged_in() {
    let scratch = |options: &[&str]| block(r"C:\s\3", options, Runtime, Hcsshim);
    assert_eq!(kind(scratch(&[ONE])), ErrorKind::InvalidArgument);
    assert_eq!(kind(scratch(&["parentCimPaths=[]", "blockCIMType=file"])), ErrorKind::InvalidArgument);
    assert_eq!(kind(scratch(&["blockCIMType=file"])), ErrorKind::InvalidArgument);
    assert_eq!(kind(scratch(&[TWO, "blockCIMType=file"])), ErrorKind::InvalidArgument);
    assert_eq!(kind(scratch(&[TWO, "blockCIMType=file", "mergedCIMPath="])), ErrorKind::InvalidArgument);
    assert_eq!(kind(scratch(&[ONE, "blockCIMType=tape"])), ErrorKind::InvalidArgument);
    let device = scratch(&[TWO, "blockCIMType=device", MERGED]).unwrap();
    assert_eq!(device.cim_type, BlockCimType::Device);
    assert_eq!(device.merged, Some(location(r"C:\s\2\merged.vhd\merged.cim")));
    assert_eq!(device.source, BlockSource::Scratch(r"C:\s\3".into()));
    let names: Vec<_> = device.parents.iter().map(CimLocation::container).collect();
    assert_eq!(names, [r"C:\s\2\layer.vhd", r"C:\s\1\layer.vhd"], "nearest first");
    // One parent is mounted as it is.
    assert_eq!(scratch(&[ONE, "blockCIMType=file"]).unwrap().merged, None);
}

#[test]
fn a_differ_wants_files_but_neither_parents_nor_a_merged_cim() {
    let differ = |options: &[&str]| block(LAYER, options, Differ, Spec);
    assert_eq!(kind(differ(&["blockCIMType=device"])), ErrorKind::NotSupported);
    assert_eq!(kind(differ(&["blockCIMType=tape"])), ErrorKind::InvalidArgument);
    assert!(differ(&["blockCIMType=file", "parentCimPaths=[]"]).unwrap().parents.is_empty());
    assert!(differ(&["parentCimPaths=null"]).unwrap().parents.is_empty());
    let two = differ(&[TWO, "enable_layer_integrity"]).unwrap();
    assert_eq!((two.parents.len(), two.integrity, two.footer), (2, true, false));
    assert!(differ(&["append_vhd_footer"]).unwrap().footer);
    assert_eq!(kind(differ(&["parentCimPaths=C:\\x"])), ErrorKind::InvalidArgument);
    assert_eq!(kind(differ(&["parentCimPaths=[1]"])), ErrorKind::InvalidArgument);
}

#[test]
fn which_of_two_options_counts_depends_on_the_reader_in_the_references_way_only() {
    let dirs = [r#"parentLayerPaths=["C:\\first"]"#, r#"parentLayerPaths=["C:\\last"]"#];
    let cims = [r#"parentCimPaths=["C:\\c\\first.cim"]"#, r#"parentCimPaths=["C:\\c\\last.cim"]"#];
    let options = [r"cimpath=C:\c\a.cim", r"cimpath=C:\c\b.cim", dirs[0], dirs[1], cims[0], cims[1]];
    let differ = forked(&options, Differ, Hcsshim).unwrap();
    assert_eq!(differ.cim, Some(location(r"C:\c\a.cim")));
    let parent = |dir: &str| ForkedParent { dir: dir.into(), cim: location(r"C:\c\first.cim") };
    assert_eq!(differ.parents, [parent(r"C:\last")]);
    assert_eq!(forked(&options, Runtime, Hcsshim).unwrap().parents, [parent(r"C:\first")]);
    assert_eq!(kind(forked(&options, Differ, Spec)), ErrorKind::InvalidArgument);

    let options = [ONE, TWO, "blockCIMType=tape", "blockCIMType=file"];
    assert_eq!(block(LAYER, &options, Differ, Hcsshim).unwrap().parents.len(), 2);
    assert_eq!(kind(block(LAYER, &options, Differ, Spec)), ErrorKind::InvalidArgument);
    // The same twice is no contradiction.
    assert!(block(LAYER, &[ONE, ONE, "append_vhd_footer", "append_vhd_footer"], Differ, Spec).is_ok());
}

#[test]
fn as_many_directories_as_cims_are_wanted_but_by_the_references_differ() {
    let options = [r"cimpath=C:\c\3.cim", r#"parentLayerPaths=["C:\\1"]"#, "parentCimPaths=[]"];
    assert_eq!(kind(forked(&options, Differ, Spec)), ErrorKind::InvalidArgument);
    assert_eq!(kind(forked(&options, Runtime, Spec)), ErrorKind::InvalidArgument);
    assert_eq!(kind(forked(&options, Runtime, Hcsshim)), ErrorKind::InvalidArgument);
    assert!(forked(&options, Differ, Hcsshim).unwrap().parents.is_empty());
}

#[test]
fn paths_that_nobody_can_have_meant_are_refused() {
    for path in [
        "layer.cim",
        r"s\layer.vhd\layer.cim",
        r"\s\layer.vhd\layer.cim",
        r"C:layer.vhd\layer.cim",
        r"C:\s\\layer.vhd\layer.cim",
        r"C:\s\.\layer.vhd\layer.cim",
        r"C:\s\..\layer.vhd\layer.cim",
        r"C:\s\layer.vhd\",
        "",
    ] {
        assert_eq!(kind(block(path, &[], Differ, Spec)), ErrorKind::InvalidArgument, "{path}");
        let json = format!("parentCimPaths={}", layer_mounts::windows::paths_to_json([path]));
        assert_eq!(kind(block(LAYER, &[&json], Differ, Spec)), ErrorKind::InvalidArgument, "{path}");
        let merged = format!("mergedCIMPath={path}");
        assert_eq!(kind(block(LAYER, &[&merged], Differ, Spec)), ErrorKind::InvalidArgument, "{path}");
    }
    // The reference looks at none of that, as long as there is something to take apart.
    assert!(block(r"s\\layer.vhd\layer.cim", &[], Differ, Hcsshim).is_ok());
    for path in [
        r"C:\layer.cim",
        r"\\server\share\layer.cim",
        r"\\?\C:\s\layer.vhd\layer.cim",
        "C:/s/layer.cim",
        "/s/1/layer.vhd/layer.cim",
    ] {
        assert!(block(path, &[], Differ, Spec).is_ok(), "{path}");
    }
}

#[test]
fn options_that_seem_meant_for_cims_have_to_be_known() {
    for option in [
        "parentcimpaths=[]",
        "parentLayerPaths=[]",
        r"cimpath=C:\x.cim",
        "blockCimType=file",
        "mergedCimPath=",
        "enable_layer_integrity=true",
        "append_vhd_footers",
        "blockCIMType",
    ] {
        assert_eq!(kind(block(LAYER, &[option], Differ, Spec)), ErrorKind::InvalidArgument, "{option}");
        assert!(block(LAYER, &[option], Differ, Hcsshim).is_ok(), "{option}");
    }
    for option in ["rw", "ro", "X-containerd.of.tomorrow", "size=20GiB"] {
        assert!(block(LAYER, &[option], Differ, Spec).is_ok(), "{option}");
    }
}

#[test]
fn every_escape_of_json_is_understood_and_gos_are_written() {
    let escaped = r#"parentCimPaths=["C:\u005cs\\a \u0026 \u003cb\u003e\\layer.cim"]"#;
    let spec = block(LAYER, &[escaped], Differ, Spec).unwrap();
    assert_eq!(spec.parents[0].container(), r"C:\s\a & <b>");
    let written = MountSpec::new(AnySpec::Block(spec));
    assert_eq!(written.mount().options[0], r#"parentCimPaths=["C:\\s\\a \u0026 \u003cb\u003e\\layer.cim"]"#);
}

#[test]
fn what_the_snapshotters_make_comes_back_byte_for_byte() {
    let dirs = r#"parentLayerPaths=["C:\\s\\2","C:\\s\\1"]"#;
    let cims = r#"parentCimPaths=["C:\\cim-layers\\2.cim","C:\\cim-layers\\1.cim"]"#;
    let cim = r"cimpath=C:\cim-layers\3.cim";
    let rows = [
        (Differ, forked_mount(&["rw", cim])),
        (Differ, forked_mount(&["rw", cim, dirs, cims])),
        (Runtime, forked_mount(&["rw", cim, dirs, cims])),
        (Runtime, forked_mount(&["ro", cim, dirs, cims])),
        (Differ, block_mount(LAYER, &["parentCimPaths=[]", "blockCIMType=file"])),
        (
            Differ,
            block_mount(LAYER, &[TWO, "blockCIMType=file", "enable_layer_integrity", "append_vhd_footer"]),
        ),
        (Runtime, block_mount(r"C:\s\3", &[ONE, "blockCIMType=file"])),
        (Runtime, block_mount(r"C:\s\3", &[TWO, "blockCIMType=device", "append_vhd_footer", MERGED])),
    ];
    for (reader, mount) in rows {
        for profile in [Spec, Hcsshim] {
            let spec = MountSpec::parse(std::slice::from_ref(&mount), reader, profile).unwrap();
            assert_eq!(spec.mount(), &mount);
            assert_eq!(MountSpec::new(spec.any().clone()).mount(), &mount);
        }
    }
}

#[test]
fn unknown_options_and_their_order_are_kept_in_the_text() {
    let mount = block_mount(LAYER, &["of=tomorrow", "blockCIMType=file", ONE, "ro"]);
    let spec = MountSpec::parse(std::slice::from_ref(&mount), Differ, Spec).unwrap();
    assert_eq!(spec.mount(), &mount);
}

#[test]
fn joined_paths_are_parted_at_the_last_separator() {
    for (path, container, name) in [
        (r"C:\s\1\layer.vhd\layer.cim", r"C:\s\1\layer.vhd", "layer.cim"),
        (r"C:\layer.cim", r"C:\", "layer.cim"),
        ("/layer.cim", "/", "layer.cim"),
        ("/s/1/layer.vhd/layer.cim", "/s/1/layer.vhd", "layer.cim"),
        (r"layer.vhd\layer.cim", "layer.vhd", "layer.cim"),
        (r"\\.\PHYSICALDRIVE2\layer.cim", r"\\.\PHYSICALDRIVE2", "layer.cim"),
    ] {
        let location = CimLocation::parse(path).unwrap();
        assert_eq!((location.container(), location.name().as_str()), (container, name));
        assert_eq!(location.to_string(), path);
    }
    for bad in ["", "layer.cim", r"C:\s\", r"C:\s\a:b", r"s\\layer.cim"] {
        assert_eq!(kind(CimLocation::parse(bad)), ErrorKind::InvalidArgument, "{bad}");
    }
    assert_eq!(kind(CimLocation::parse(r"C:\s\..")), ErrorKind::PathEscape);
    let name = || CimName::new("layer.cim").expect("a name");
    for bad in ["", "C:", r"C:\s\", "/s/"] {
        assert_eq!(kind(CimLocation::new(bad, name())), ErrorKind::InvalidArgument, "{bad}");
    }
}

fn any_location() -> impl Strategy<Value = CimLocation> {
    ("[A-Z]:(\\\\[a-z&<> \u{2028}é]{1,8}){1,3}", "[a-z0-9 &]{1,8}\\.cim").prop_map(|(container, name)| {
        CimLocation::new(container, CimName::new(name).expect("a name")).expect("a container")
    })
}

fn any_spec() -> impl Strategy<Value = (Reader, AnySpec)> {
    let block = (any_location(), any::<[bool; 3]>(), vec(any_location(), 1..4), option::of(any_location()));
    let block = block.prop_map(|(source, [integrity, footer, runtime], parents, merged)| {
        let (reader, source, cim_type) = match runtime {
            true => (Runtime, BlockSource::Scratch(source.container().into()), BlockCimType::Device),
            false => (Differ, BlockSource::Layer(source), BlockCimType::File),
        };
        let merged = merged.or_else(|| (runtime && parents.len() > 1).then(|| parents[0].clone()));
        (reader, AnySpec::Block(BlockSpec { source, cim_type, parents, merged, integrity, footer }))
    });
    let parent = (any_location(), any_location())
        .prop_map(|(dir, cim)| ForkedParent { dir: dir.container().into(), cim });
    let forked = (any_location(), any::<bool>(), any_location(), vec(parent, 0..4));
    let forked = forked.prop_map(|(source, read_only, cim, parents)| {
        let source = source.container().into();
        (Differ, AnySpec::Forked(ForkedSpec { source, read_only, cim: Some(cim), parents }))
    });
    prop_oneof![block, forked]
}

proptest! {
    #[test]
    fn what_is_said_comes_back((reader, any) in any_spec()) {
        let made = MountSpec::new(any.clone());
        for profile in [Spec, Hcsshim] {
            let back = MountSpec::parse(std::slice::from_ref(made.mount()), reader, profile).unwrap();
            prop_assert_eq!(back.any(), &any);
        }
    }

    #[test]
    fn any_mount_is_taken_without_a_panic(
        source in "[ -~é]{0,20}",
        options in vec("(parentCimPaths=|cimpath=|blockCIMType=|mergedCIMPath=|parentLayerPaths=)?[ -~]{0,20}", 0..5),
    ) {
        for mount_type in ["CimFS", "BlockCIM"] {
            let mount = Mount::new(mount_type, source.clone(), options.clone());
            for (reader, profile) in [(Differ, Spec), (Runtime, Spec), (Differ, Hcsshim), (Runtime, Hcsshim)] {
                if let Ok(spec) = MountSpec::parse(std::slice::from_ref(&mount), reader, profile) {
                    prop_assert_eq!(spec.mount(), &mount);
                }
            }
        }
    }
}
