//! Processes that are killed while they work: every snapshot is there whole, or is not there.
//!
//! The test runs this same program again as a child, with the directory to work in in its environment.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use erofs_snapshotter::{DirState, Filters, Kind, Labels, Snapshotter};
use layer_model::{LayerPathBuf, LayerTree, NodeKind, Silent, tree::LayerTreeExt};
use support::{names, open, options};

const ROOT: &str = "CRASH_ROOT";
const SEED: &str = "CRASH_SEED";

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn child(root: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_child", "--nocapture", "--test-threads=1"])
        .env(ROOT, root)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test by itself: what a child does.
#[test]
fn as_a_child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    println!();
    work(&PathBuf::from(root), seed);
}

/// Prepares, commits and removes, and says so after each.
fn work(root: &Path, seed: u64) {
    let mut random = Random(seed);
    let options =
        options().merge_threshold(std::num::NonZeroUsize::new(2)).set_immutable(seed.is_multiple_of(2));
    let snapshots = open(root, options);
    println!("open");
    let mut committed: Vec<String> = all(&snapshots, Kind::Committed).into_iter().collect();
    for n in 0.. {
        let (key, name) = (format!("key-{seed}-{n}"), format!("layer-{seed}-{n}"));
        let parent = (!committed.is_empty() && random.below(4) > 0)
            .then(|| committed[random.below(committed.len() as u64) as usize].clone());
        if random.below(5) == 0 {
            snapshots.view(&key, parent.as_deref(), Labels::new()).unwrap();
        } else {
            snapshots.prepare(&key, parent.as_deref(), Labels::new()).unwrap();
            let upper = snapshots.snapshot_dir(&key).unwrap().upper_path();
            fill(&upper, &name, random.below(6));
            if random.below(6) > 0 {
                snapshots.commit(&name, &key, Labels::new(), &Silent).unwrap();
                println!("committed {name}");
                committed.push(name);
            }
        }
        if random.below(2) == 0 {
            let mut keys: Vec<String> = all(&snapshots, Kind::Active).into_iter().collect();
            keys.extend(all(&snapshots, Kind::View));
            keys.extend(committed.iter().cloned());
            let key = &keys[random.below(keys.len() as u64) as usize];
            println!("removing {key}");
            if snapshots.remove(key).is_ok() {
                println!("removed {key}");
                committed.retain(|name| name != key);
            }
        }
    }
}

fn all(snapshots: &Snapshotter, kind: Kind) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let filter = Filters::parse([format!("kind=={}", kind.name())]).unwrap();
    snapshots
        .walk(&filter, |info| {
            found.insert(info.name);
            Ok(())
        })
        .unwrap();
    found
}

/// A layer that says which it is, in every file.
fn fill(upper: &Path, name: &str, files: u64) {
    fs::write(upper.join("name"), name).unwrap();
    for n in 0..files * 7 {
        let dir = upper.join(format!("d{}", n % 5));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), format!("{name} {n} ").repeat(n as usize * 40)).unwrap();
    }
    fs::write(upper.join("files"), files.to_string()).unwrap();
}

/// The layer is as it was filled.
fn check_layer(layer: &dyn LayerTree, name: &str) {
    let read = |path: &str| {
        let path = LayerPathBuf::clean(path.as_bytes()).unwrap();
        let node = layer.lookup_path(path.as_path()).unwrap().unwrap();
        let NodeKind::File { size } = node.kind else { panic!("{node:?}") };
        let mut text = vec![0; size as usize];
        layer.open_path(path.as_path()).unwrap().read_exact_at(&mut text, 0).unwrap();
        String::from_utf8(text).unwrap()
    };
    assert_eq!(read("name"), name);
    let files: u64 = read("files").parse().unwrap();
    for n in 0..files * 7 {
        assert_eq!(read(&format!("d{}/{n}", n % 5)), format!("{name} {n} ").repeat(n as usize * 40));
    }
}

/// Whatever happened, this holds.
fn check(root: &Path) -> BTreeMap<String, Kind> {
    let snapshots = open(root, options());
    let mut found = BTreeMap::new();
    let mut dirs = BTreeSet::new();
    snapshots
        .walk(&Filters::all(), |info| {
            let dir = snapshots.snapshot_dir(&info.name)?;
            dirs.insert(dir.path().file_name().unwrap().to_str().unwrap().to_owned());
            let (stack, inside) = (snapshots.layer_stack(&info.name)?, names(dir.path()));
            match info.kind {
                Kind::Committed => {
                    assert_eq!(dir.state()?, DirState::Committed);
                    check_layer(stack.unwrap().nearest(), &info.name);
                    assert_eq!(names(&dir.upper_path()), Vec::<String>::new(), "{}", info.name);
                    let image = inside.iter().filter(|name| name.contains("erofs.")).count();
                    assert_eq!(image, 0, "nothing half-made: {inside:?}");
                }
                Kind::Active => {
                    assert_eq!(dir.state()?, DirState::Active, "what was made of it is gone: {inside:?}");
                    snapshots.mounts(&info.name)?;
                }
                Kind::View => assert_eq!(inside, ["fs"]),
            }
            if let Some(parent) = &info.parent {
                assert_eq!(snapshots.stat(parent)?.kind, Kind::Committed);
            }
            found.insert(info.name, info.kind);
            Ok(())
        })
        .unwrap();
    let there: BTreeSet<String> = names(&root.join("snapshots")).into_iter().collect();
    assert_eq!(there, dirs, "a directory for each snapshot, and no other");
    found
}

#[test]
fn a_hundred_kills_leave_no_half_snapshot_and_lose_none() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    let mut random = Random(11);
    let mut expected = BTreeSet::new();
    let mut total = 0;
    for round in 0..100 {
        let mut child = child(&root, round);
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // The first rounds are killed while they open, too.
        while round > 5 && lines.read_line(&mut line).unwrap() > 0 && !line.contains("open") {}
        std::thread::sleep(Duration::from_micros(random.below(if round > 5 { 250_000 } else { 60_000 })));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        lines.read_to_string(&mut said).unwrap();
        let mut unsure = None;
        for line in said.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["committed", name] => {
                    expected.insert(name.to_owned());
                    total += 1;
                }
                ["removing", name] => unsure = Some(name.to_owned()),
                ["removed", name] => drop(expected.remove(name)),
                _ => {}
            }
        }
        if !root.exists() {
            continue;
        }
        let found = check(&root);
        for name in &expected {
            let there = found.get(name) == Some(&Kind::Committed);
            assert!(there || unsure.as_ref() == Some(name), "round {round}: {name} is lost");
        }
        // One more may have been committed without a word, and the last removal may have been or not.
        expected = found.into_iter().filter(|(_, kind)| *kind == Kind::Committed).map(|(n, _)| n).collect();
        if expected.len() > 40 {
            let snapshots = open(&root, options());
            for name in expected.clone() {
                if snapshots.remove(&name).is_ok() {
                    expected.remove(&name);
                }
            }
        }
    }
    eprintln!("{total} layers were reported committed, {} are left", expected.len());
    assert!(total >= 50, "the children came to commit {total} layers only");
    remove_all(&root);
}

/// An immutable image would outlive the temporary directory that it is in.
fn remove_all(root: &Path) {
    let snapshots = open(root, options());
    let names = || {
        [Kind::View, Kind::Active, Kind::Committed]
            .into_iter()
            .flat_map(|kind| all(&snapshots, kind))
            .collect::<Vec<_>>()
    };
    while let left = names()
        && !left.is_empty()
    {
        // Those that others are based on refuse until the others are gone.
        let removed = left.iter().filter(|name| snapshots.remove(name).is_ok()).count();
        assert!(removed > 0, "{left:?} cannot be removed");
    }
}
