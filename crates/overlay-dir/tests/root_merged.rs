//! The in-process merge against the kernel's: the same layers, mounted and merged, must show the same tree.
//! Needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
};

use layer_model::{ErrorKind, LayerPath, LayerTree, testing::Snapshot, tree::LayerTreeExt};
use overlay_dir::{PlainDir, PlainDirOptions};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use support::{Bench, Overlay, can_run, overlay_missing, set_xattr, write};

const ALL: &str = "redirect_dir=on,metacopy=on";

/// A sequence of numbers that looks random and is the same every time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    /// A path of one to three components from few names, so that operations meet.
    fn path(&mut self) -> String {
        let depth = 1 + self.roll(3);
        let names: Vec<_> = (0..depth).map(|_| ["a", "b", "c", "d"][self.roll(4) as usize]).collect();
        names.join("/")
    }
}

/// Does one thing to the tree at `root`, whether it works or not, and says what.
fn operate(root: &Overlay, dice: &mut Dice) -> String {
    let (path, other) = (dice.path(), dice.path());
    let (at, to) = (root.path(&path), root.path(&other));
    let number = dice.roll(1000);
    let (what, done): (&str, io::Result<()>) = match dice.roll(20) {
        0..=2 => ("mkdir", fs::create_dir_all(&at)),
        3..=5 => ("write", fs::write(&at, format!("{number}"))),
        6..=7 => {
            ("chmod", fs::set_permissions(&at, fs::Permissions::from_mode(0o600 + number as u32 % 0o100)))
        }
        8..=13 => ("rename", fs::rename(&at, &to)),
        14 => ("unlink", fs::remove_file(&at)),
        15 => ("rmdir", fs::remove_dir_all(&at)),
        16 => ("link", fs::hard_link(&at, &to)),
        17 => ("symlink", symlink(format!("{number}"), &at)),
        // The null device: writing to it has no effect, and a FIFO would wait for a reader.
        18 => (
            "mknod",
            mknodat(CWD, &at, FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).map_err(Into::into),
        ),
        _ => {
            let name = if number < 500 { "user.x" } else { "trusted.overlay.opaque" };
            let value = format!("{number}");
            let set = rustix::fs::lsetxattr(&at, name, value.as_bytes(), rustix::fs::XattrFlags::empty());
            ("setxattr", set.map_err(Into::into))
        }
    };
    format!("{what} {path} ({other}): {:?}", done.map_err(|e| e.kind()))
}

#[test]
fn random_stacks_look_as_the_kernel_shows_them() {
    if !can_run("random_stacks", overlay_missing()) {
        return;
    }
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let mut bench = Bench::new();
        bench.layer();
        let mut log = Vec::new();
        for _ in 0..4 {
            let options =
                ["redirect_dir=on,metacopy=on", "redirect_dir=on,metacopy=on", "redirect_dir=on", "index=on"];
            let options = options[dice.roll(4) as usize];
            log.push(format!("-- {options}"));
            // Volatile, as nothing is gained by syncing these.
            bench.change(&format!("{options},volatile"), |mount| {
                log.extend((0..20).map(|_| operate(mount, &mut dice)))
            });
            let shown = bench.show(ALL).unwrap();
            let plain = PlainDir::open(&shown.at, PlainDirOptions::default()).unwrap();
            let kernel = Snapshot::of(&plain);
            let merged = Snapshot::of(&bench.merged());
            let story = || format!("seed {seed}\n{}", log.join("\n"));
            match (kernel, merged) {
                (Ok(kernel), Ok(merged)) => {
                    let difference = kernel.difference(&merged);
                    assert!(difference.is_empty(), "{}\n{}", story(), difference.join("\n"));
                }
                (kernel, merged) => {
                    panic!("{}\nkernel {:?}\nmerged {:?}", story(), kernel.err(), merged.err())
                }
            }
        }
    }
}

/// Layers by hand, bottom first: each a list of what is in it.
enum Put {
    File(&'static str, &'static str),
    Dir(&'static str),
    /// A metadata copy of this size.
    Meta(&'static str, u64),
    Redirect(&'static str, &'static str),
    Opaque(&'static str),
    Gone(&'static str),
}

fn build(bench: &mut Bench, layers: &[&[Put]]) {
    for layer in layers {
        let root = bench.layer();
        for put in *layer {
            match put {
                Put::File(path, content) => write(root.join(path), content),
                Put::Dir(path) => fs::create_dir_all(root.join(path)).unwrap(),
                Put::Meta(path, size) => {
                    write(root.join(path), "");
                    fs::File::options().write(true).open(root.join(path)).unwrap().set_len(*size).unwrap();
                    set_xattr(&root.join(path), "trusted.overlay.metacopy", b"");
                }
                Put::Redirect(path, to) => {
                    set_xattr(&root.join(path), "trusted.overlay.redirect", to.as_bytes());
                }
                Put::Opaque(path) => {
                    fs::create_dir_all(root.join(path)).unwrap();
                    set_xattr(&root.join(path), "trusted.overlay.opaque", b"y");
                }
                Put::Gone(path) => {
                    mknodat(CWD, root.join(path), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                }
            }
        }
    }
}

#[test]
fn stacks_by_hand_look_as_the_kernel_shows_them() {
    use Put::*;
    if !can_run("stacks_by_hand", overlay_missing()) {
        return;
    }
    let cases: &[(&str, &[&[Put]])] = &[
        ("an opaque middle", &[&[File("d/1", "1")], &[Opaque("d"), File("d/2", "2")], &[File("d/3", "3")]]),
        ("a file between directories", &[&[File("d/1", "1")], &[File("d", "file")], &[File("d/3", "3")]]),
        ("a whiteout between directories", &[&[File("d/1", "1")], &[Gone("d")], &[File("d/3", "3")]]),
        (
            "a redirect through an opaque directory",
            &[
                &[File("x/y/1", "1")],
                &[Opaque("o"), Dir("o/d"), Redirect("o/d", "/x/y")],
                &[Dir("t"), Redirect("t", "/o/d")],
            ],
        ),
        (
            "a redirect through a redirect",
            &[
                &[File("real/in/1", "1")],
                &[Dir("p"), Redirect("p", "real")],
                &[Dir("t"), Redirect("t", "/p/in")],
            ],
        ),
        (
            "a redirect to a deleted directory",
            &[&[File("x/1", "1")], &[Gone("x")], &[Dir("t"), Redirect("t", "x")]],
        ),
        (
            "a redirect to the name of a file",
            &[&[File("x/1", "1")], &[File("x", "2")], &[Dir("t"), Redirect("t", "/x")]],
        ),
        (
            "an opaque directory ignores its redirect",
            &[&[File("x/1", "1")], &[Opaque("t"), Redirect("t", "/x")]],
        ),
        ("a metadata copy over its data", &[&[File("f", "data")], &[Meta("f", 4)], &[Meta("f", 4)]]),
        (
            "metadata copies with redirects",
            &[
                &[File("f", "data")],
                &[Meta("g", 4), Redirect("g", "f"), Gone("f")],
                &[Meta("d/h", 4), Redirect("d/h", "/g")],
            ],
        ),
        (
            "metadata copies with absolute redirects into directories",
            &[
                &[File("e/f", "data")],
                &[Meta("e/g", 4), Redirect("e/g", "/e/f"), Gone("e/f")],
                &[Meta("d/h", 4), Redirect("d/h", "/e/g")],
            ],
        ),
        (
            "a redirect without a metadata copy",
            &[&[File("f", "data")], &[File("g", "own"), Redirect("g", "f")]],
        ),
        ("a root with markers", &[&[File("f", "data")], &[Opaque("."), File("g", "own")]]),
    ];
    for (name, layers) in cases {
        eprintln!("{name}");
        let mut bench = Bench::new();
        build(&mut bench, layers);
        bench.assert_same_as_kernel(ALL);
    }
}

#[test]
fn a_metadata_copy_without_data_is_refused_by_both() {
    use Put::*;
    if !can_run("no_data", overlay_missing()) {
        return;
    }
    let cases: &[&[&[Put]]] = &[
        &[&[], &[Meta("f", 4)]],
        &[&[Dir("f")], &[Meta("f", 4)]],
        &[&[File("f", "data")], &[Gone("f")], &[Meta("f", 4)]],
        &[&[File("x", "data")], &[Meta("f", 4), Redirect("f", "/y")]],
    ];
    for layers in cases {
        let mut bench = Bench::new();
        build(&mut bench, layers);
        assert!(fs::metadata(bench.show(ALL).unwrap().path("f")).is_err());
        let error = bench.merged().lookup_path(LayerPath::new(b"f").unwrap()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "metacopy" });
    }
}

#[test]
fn redirects_without_permission_to_follow_are_refused_by_both() {
    use Put::*;
    if !can_run("nofollow", overlay_missing()) {
        return;
    }
    let mut bench = Bench::new();
    let redirected = &[
        Dir("t"),
        Redirect("t", "x"),
        Dir("u"),
        Redirect("u", "/no/thing"),
        Opaque("o"),
        Redirect("o", "x"),
        File("plain", "1"),
        Redirect("plain", "x"),
    ];
    build(&mut bench, &[&[Dir("bottom"), Redirect("bottom", "x"), Dir("o")], redirected]);
    let shown = bench.show("redirect_dir=nofollow").unwrap();
    let merged = bench.merged().without_redirects();
    for (name, refused) in [("t", true), ("u", true), ("o", false), ("plain", false), ("bottom", false)] {
        let kernel = fs::metadata(shown.path(name));
        assert_eq!(kernel.is_err(), refused, "{name}: {kernel:?}");
        let here = merged.lookup_path(LayerPath::new(name.as_bytes()).unwrap());
        assert_eq!(here.as_ref().is_err(), refused, "{name}: {here:?}");
        if let Err(error) = here {
            assert_eq!(error.kind(), &ErrorKind::UnsupportedMarker { marker: "redirect" });
        }
    }
}

#[test]
fn data_only_layers_give_what_the_kernel_reads() {
    use Put::*;
    if !can_run("data_only", overlay_missing()) {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let data = [temp.path().join("data1"), temp.path().join("data2")];
    write(data[0].join("objs/1"), "payload");
    write(data[1].join("objs/1"), "hidden!");
    write(data[1].join("objs/2"), "two");
    fs::create_dir(data[0].join("objs/2")).unwrap();
    let cases: &[(&str, &[&[Put]])] = &[
        ("one copy", &[&[], &[Meta("f", 7), Redirect("f", "/objs/1")]]),
        (
            "copies over copies",
            &[&[Meta("f", 7), Redirect("f", "/objs/1")], &[Meta("f", 7)], &[Meta("f", 7)]],
        ),
        ("a directory in the first", &[&[], &[Meta("f", 3), Redirect("f", "/objs/2")]]),
        ("not there", &[&[], &[Meta("f", 7), Redirect("f", "/objs/3")]]),
        ("not absolute", &[&[], &[Meta("f", 7), Redirect("f", "objs")]]),
    ];
    for (name, layers) in cases {
        let mut bench = Bench::new();
        build(&mut bench, layers);
        let lowers: Vec<_> = bench.layers.iter().map(|path| path.to_str().unwrap()).collect();
        let option =
            format!("lowerdir={}::{}::{},{ALL}", lowers.join(":"), data[0].display(), data[1].display());
        let shown = match Overlay::mount(&temp.path().join("at"), &option) {
            Ok(shown) => shown,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                // KERNEL(6.5)
                assert!(!can_run("data_only", Some("no data-only layers".into())));
                return;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let data_only = data.iter().map(|path| Arc::new(support::open(path)) as Arc<dyn LayerTree>).collect();
        let merged = bench.merged().with_data_only(data_only);
        let root = merged.root().unwrap();
        assert_eq!(root.lookup(b"f").is_ok(), fs::metadata(shown.path("f")).is_ok(), "{name}");
        let here = root.open_file(b"f").ok().map(|file| {
            let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_exact_at(&mut content, 0).unwrap();
            content
        });
        assert_eq!(here, fs::read(shown.path("f")).ok(), "{name}");
    }
}
