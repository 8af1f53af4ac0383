//! The same lists, and the same refusals, as a containerd with the EROFS snapshotter.
//!
//! Needs root and `LAYERKIT_PEERS`: a directory to change the root to, with containerd 2.1, `ctr` and `mkfs.erofs`.
//! A containerd of its own is started there, and stopped again.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use erofs_snapshotter::{Labels, MountForm, Snapshotter, SnapshotterOptions};
use layer_model::{ErrorKind, Result, Silent};
use layer_mounts::{Mount, from_mounts};
use serde_json::Value;
use support::can;

/// A containerd, and the directory in the peers' root that is its own.
struct Containerd {
    peers: PathBuf,
    dir: PathBuf,
    process: Child,
}

impl Containerd {
    fn start(peers: &Path) -> Self {
        let dir = peers.join(format!("tmp/snapshotter-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let inside = |name: &str| format!("/{}/{name}", dir.strip_prefix(peers).unwrap().display());
        let config = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\n\
             disabled_plugins = ['io.containerd.snapshotter.v1.btrfs', 'io.containerd.grpc.v1.cri', \
             'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime']\n[grpc]\n  address = '{}'\n[ttrpc]\n  address = '{}'\n",
            inside("root"),
            inside("state"),
            inside("sock"),
            inside("ttrpc"),
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let process = Command::new("chroot")
            .arg(peers)
            .args(["containerd", "-c", &inside("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self { peers: peers.to_owned(), dir, process };
        for _ in 0..300 {
            if started.ctr(&["version"]).is_ok() {
                return started;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let log = fs::read_to_string(started.dir.join("log")).unwrap();
        panic!("containerd does not serve: {log}");
    }

    /// What `ctr` prints, or its complaint.
    fn ctr(&self, args: &[&str]) -> Result<String, String> {
        let socket = format!("/{}/sock", self.dir.strip_prefix(&self.peers).unwrap().display());
        let output = Command::new("chroot")
            .arg(&self.peers)
            .args(["ctr", "-a", &socket, "-n", "test"])
            .args(args)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn snapshots(&self, args: &[&str]) -> Result<String, String> {
        self.ctr(&[&["snapshots", "--snapshotter", "erofs"], args].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // What the snapshotter has mounted; it may be there once for each propagation.
        for _ in 0..3 {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
            for target in below.filter(|target| Path::new(target).starts_with(&self.dir)) {
                let _ = Command::new("umount").arg(target).status();
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Lists as text, in which directories have numbers in the order of their first mention.
#[derive(Default)]
struct Lines {
    known: HashMap<String, usize>,
    text: String,
}

impl Lines {
    fn add(&mut self, mounts: &[Mount]) {
        from_mounts(mounts).unwrap();
        for mount in mounts {
            let line = format!("{} {} {:?}\n", mount.kind, mount.source, mount.options);
            let mut rest = line.as_str();
            while let Some(at) = rest.find("/snapshots/") {
                let begin = rest[..at].rfind(['=', ' ', ':', '"']).unwrap() + 1;
                let after = &rest[at + "/snapshots/".len()..];
                let end = after.find('/').unwrap();
                let next = self.known.len();
                let number = *self.known.entry(after[..end].to_owned()).or_insert(next);
                self.text += &format!("{}DIR{number}", &rest[..begin]);
                rest = &after[end..];
            }
            self.text += rest;
        }
    }
}

fn parse(json: &str) -> Vec<Mount> {
    let list: Vec<Value> = serde_json::from_str(json).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter()
        .map(|mount| {
            assert_eq!(mount["Target"], "");
            let options: Vec<String> = mount["Options"].as_array().unwrap().iter().map(text).collect();
            Mount::new(text(&mount["Type"]), text(&mount["Source"]), options)
        })
        .collect()
}

#[test]
fn containerd_gives_the_same_lists_and_refuses_the_same() {
    let peers = std::env::var_os("LAYERKIT_PEERS").map(PathBuf::from);
    let peers = peers.and_then(|peers| peers.canonicalize().ok());
    let usable = peers.as_ref().is_some_and(|peers| peers.join("usr/bin/containerd").exists());
    let root = rustix::process::geteuid().is_root();
    if !can("peer_containerd", "root and LAYERKIT_PEERS with containerd", usable && root) {
        return;
    }
    let containerd = Containerd::start(&peers.unwrap());
    let temp = tempfile::tempdir().unwrap();
    let options = SnapshotterOptions::new().mount_form(MountForm::Premounted);
    let ours = Snapshotter::open(temp.path(), options).unwrap();

    let (mut want, mut have) = (Lines::default(), Lines::default());
    let make: [(&str, &str, Option<&str>); 7] = [
        ("prepare", "a", None),
        ("view", "empty", None),
        ("prepare", "b", Some("one")),
        ("view", "v1", Some("one")),
        ("prepare", "c", Some("two")),
        ("view", "v2", Some("two")),
        ("view", "v3", Some("three")),
    ];
    for (verb, key, parent) in make {
        // What is committed before the first use.
        let commit = match key {
            "b" => Some(("one", "a")),
            "c" => Some(("two", "b")),
            "v3" => Some(("three", "c")),
            _ => None,
        };
        if let Some((name, key)) = commit {
            containerd.snapshots(&["commit", name, key]).unwrap();
            ours.commit(name, key, Labels::new(), &Silent).unwrap();
        }
        let mut args = vec![verb, "--mounts", key];
        args.extend(parent);
        want.add(&parse(&containerd.snapshots(&args).unwrap()));
        have.add(&match verb {
            "prepare" => ours.prepare(key, parent, Labels::new()).unwrap(),
            _ => ours.view(key, parent, Labels::new()).unwrap(),
        });
    }
    assert_eq!(have.text, want.text);

    type Attempt<'a> = (&'a [&'a str], Box<dyn Fn() -> Result<()> + 'a>);
    let none = Labels::new;
    let s = &ours;
    containerd.snapshots(&["prepare", "d", "two"]).unwrap();
    s.prepare("d", Some("two"), none()).unwrap();
    // Not among them: the commit of a view, after which this containerd has lost it.
    let refused: Vec<Attempt<'_>> = vec![
        (&["prepare", "d"], Box::new(|| s.prepare("d", None, none()).map(drop))),
        (&["prepare", "n", "nope"], Box::new(|| s.prepare("n", Some("nope"), none()).map(drop))),
        (&["prepare", "n", "d"], Box::new(|| s.prepare("n", Some("d"), none()).map(drop))),
        (&["view", "d", "two"], Box::new(|| s.view("d", Some("two"), none()).map(drop))),
        (&["commit", "one", "d"], Box::new(|| s.commit("one", "d", none(), &Silent))),
        (&["commit", "n", "nope"], Box::new(|| s.commit("n", "nope", none(), &Silent))),
        (&["mounts", "/x", "one"], Box::new(|| s.mounts("one").map(drop))),
        (&["mounts", "/x", "nope"], Box::new(|| s.mounts("nope").map(drop))),
        (&["rm", "one"], Box::new(|| s.remove("one"))),
        (&["rm", "nope"], Box::new(|| s.remove("nope"))),
        (&["info", "nope"], Box::new(|| s.stat("nope").map(drop))),
        (&["usage", "nope"], Box::new(|| s.usage("nope").map(drop))),
    ];
    for (args, attempt) in refused {
        let words = containerd.snapshots(args).unwrap_err();
        let error = attempt().unwrap_err();
        let want = match error.kind() {
            ErrorKind::NotFound => "not found",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::FailedPrecondition => "failed precondition",
            ErrorKind::InvalidArgument => "invalid argument",
            other => panic!("{args:?}: {other:?}"),
        };
        assert!(words.contains(want), "{args:?}: {error:?}, and containerd: {words}");
    }
    for key in ["empty", "v1", "v2", "v3", "d", "three", "two", "one"] {
        ours.remove(key).unwrap();
        if let Err(words) = containerd.snapshots(&["rm", key]) {
            eprintln!("containerd keeps {key}: {words}");
        }
    }
}
