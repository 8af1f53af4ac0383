//! The same bytes as containerd's own differs, on overlay mounts after random operations.
//!
//! Needs root, overlay mounts, and `LAYERKIT_PEERS`: a directory to change the root to, with containerd's
//! differs behind the command `/usr/local/bin/reference` (see `benches/reference`).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use layer_model::{Base, Profile, Silent, road};
use layer_tar::{TarSink, WriteOptions};
use overlay_diff::{DiffSource, TreeDiffer, TreeOptions, UpperDiffer, UpperOptions};
use support::{
    disk::{Disk, skip},
    random::{Random, age, operate},
};

const TEST: &str = "containerd_writes_the_same_bytes";

/// A root with the reference in it.
struct Peers(PathBuf);

impl Peers {
    fn find() -> Result<Self, String> {
        let root = std::env::var_os("LAYERKIT_PEERS").ok_or("LAYERKIT_PEERS is not set")?;
        let root = fs::canonicalize(root).map_err(|error| error.to_string())?;
        let reference = root.join("usr/local/bin/reference");
        if !reference.is_file() {
            return Err(format!("no {}", reference.display()));
        }
        fs::create_dir_all(root.join("tmp")).map_err(|error| error.to_string())?;
        Ok(Self(root))
    }

    /// What the reference writes; an error where it refuses.
    fn diff(&self, verb: &str, base: &Path, new: &Path) -> Result<Vec<u8>, String> {
        let inside = |path: &Path| Path::new("/").join(path.strip_prefix(&self.0).unwrap());
        let out = base.with_file_name("reference.tar");
        let mut command = Command::new("chroot");
        command.arg(&self.0).arg("/usr/local/bin/reference").arg("-o").arg(inside(&out));
        let output = command.arg(verb).arg(inside(base)).arg(inside(new)).output().unwrap();
        if output.status.success() {
            return Ok(fs::read(out).unwrap());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn tar(mut source: DiffSource<'_>) -> Vec<u8> {
    let sink = TarSink::new(Vec::new(), WriteOptions::default(), &Silent);
    road::pump(&mut source, sink, &Silent).unwrap().0
}

#[test]
fn containerd_writes_the_same_bytes() {
    let peers = match Peers::find() {
        Ok(peers) => peers,
        Err(reason) => return skip(TEST, &reason),
    };
    let rounds: u64 = std::env::var("LAYERKIT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let mut compared = 0;
    for seed in 1..=rounds {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut disk = Disk::below(&peers.0.join("tmp"));
        let lower = disk.lower();
        (0..40).for_each(|_| operate(&lower, &mut random));
        age(&lower, &mut random);
        let mounted = match disk.mount("index=off") {
            Ok(mounted) => mounted,
            Err(error) => return skip(TEST, &format!("no overlay mount: {error}")),
        };
        (0..25).for_each(|_| operate(mounted.dir(), &mut random));

        let walked = peers.diff("diff-walk", &lower.0, &mounted.dir().0).unwrap();
        let options = TreeOptions::new().profile(Profile::Containerd);
        let (old, new) = (lower.plain(), mounted.dir().plain());
        let ours = tar(TreeDiffer::new(options).between(Some(&old), &new, &Silent).unwrap());
        assert!(walked == ours, "seed {seed}: the walk over both trees");

        drop((new, mounted));
        // The reference looks through dangling links, and gives up below what used to be a file.
        let Ok(theirs) = peers.diff("diff-overlay", &lower.0, &disk.upper().0) else { continue };
        let differ = UpperDiffer::new(UpperOptions::new().profile(Profile::Containerd));
        let (upper, stack) = (disk.handle().unwrap(), disk.stack());
        let ours = tar(differ.changes(&upper, Base::Layers(&stack), &Silent).unwrap());
        assert!(theirs == ours, "seed {seed}: the upper directory");
        compared += 1;
    }
    assert!(compared * 2 > rounds, "most random uppers are none of the known exceptions");
}
