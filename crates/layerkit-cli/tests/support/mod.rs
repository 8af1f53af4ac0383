//! What the tests of the command share: running it, and finding out what this machine can do.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub(crate) mod containerd;
pub(crate) mod overlay;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use layer_model::testing::Snapshot;
use overlay_dir::{PlainDir, PlainDirOptions};

/// Says why a test cannot run here, and fails it where skipping is not allowed (`LAYERKIT_REQUIRE=1`).
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none(), "{test} has to run here, but: {reason}");
    eprintln!("SKIP {test}: {reason}");
}

/// Leaves the test with a printed reason unless the condition holds.
#[macro_export]
macro_rules! need {
    ($test:expr, $given:expr) => {
        match $given {
            Ok(value) => value,
            Err(reason) => return support::skip($test, &reason),
        }
    };
}

/// Whether this process may mount and make devices.
pub(crate) fn root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("needs root".into()) }
}

/// Whether the kernel mounts EROFS from loop devices, and this process may.
pub(crate) fn kernel_erofs() -> Result<(), String> {
    root()?;
    let _ = Command::new("modprobe").args(["-q", "erofs"]).status();
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.split_whitespace().any(|name| name == "erofs") {
        return Err("the kernel does not know EROFS".into());
    }
    match Command::new("losetup").arg("-f").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("there are no loop devices".into()),
    }
}

/// The folder with the real image: an OCI layout `image`, its layers, and `rootfs-v1`, `rootfs-v2` as umoci
/// unpacks them.
pub(crate) fn inputs() -> Result<PathBuf, String> {
    from_env("LAYERKIT_INPUTS", "the real image")
}

/// The root directory of the peers (umoci, skopeo, containerd, ...), to chroot into.
pub(crate) fn peers() -> Result<PathBuf, String> {
    from_env("LAYERKIT_PEERS", "the root of the peers")
}

fn from_env(name: &str, what: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os(name).ok_or_else(|| format!("{name} does not say where {what} is"))?;
    let path = PathBuf::from(path);
    if path.is_dir() { Ok(path) } else { Err(format!("{name}={} is no directory", path.display())) }
}

/// Runs a program inside the peers' root.
pub(crate) fn peer<S: AsRef<OsStr>>(peers: &Path, command: impl IntoIterator<Item = S>) -> Output {
    Command::new("chroot").arg(peers).args(command).output().expect("chroot starts")
}

/// Runs a program inside the peers' root, and fails the test with its output when it fails.
#[track_caller]
pub(crate) fn peer_ok<S: AsRef<OsStr>>(peers: &Path, command: impl IntoIterator<Item = S>) -> Vec<u8> {
    let command: Vec<_> = command.into_iter().map(|s| s.as_ref().to_owned()).collect();
    let output = peer(peers, &command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A scratch directory that the peers see too: its path out here, and in there.
pub(crate) struct SharedDir {
    pub(crate) outside: PathBuf,
    pub(crate) inside: PathBuf,
}

impl SharedDir {
    pub(crate) fn new(peers: &Path, name: &str) -> Self {
        let inside = PathBuf::from(format!("/var/tmp/layerkit-{name}-{}", std::process::id()));
        let outside = peers.join(inside.strip_prefix("/").expect("the path is absolute"));
        let _ = fs::remove_dir_all(&outside);
        fs::create_dir_all(&outside).expect("the peers' root is writable");
        Self { outside, inside }
    }
}

impl Drop for SharedDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.outside);
    }
}

/// The command, not started yet.
pub(crate) fn layerkit() -> Command {
    Command::new(env!("CARGO_BIN_EXE_layerkit"))
}

/// Runs the command with `--json`, and gives the object that it prints.
#[track_caller]
pub(crate) fn layerkit_ok<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> serde_json::Value {
    let output = layerkit().arg("--json").args(args).output().expect("layerkit starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "layerkit failed: {error}");
    serde_json::from_slice(&output.stdout).expect("one JSON object on standard output")
}

/// Runs the command with `--json`, expects status 1, one line on standard error, and gives the error object.
#[track_caller]
pub(crate) fn layerkit_fails<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> serde_json::Value {
    let output = layerkit().args(["--json", "--quiet"]).args(args).output().expect("layerkit starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line on standard error: {stderr}");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(value["error"]["kind"].is_string() && value["error"]["message"].is_string(), "{value}");
    value["error"].clone()
}

/// A mount that goes away with the test.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = layerkit().arg("umount").arg(&self.0).status();
    }
}

/// All that a directory shows, for comparisons.
pub(crate) fn snapshot(dir: &Path) -> Snapshot {
    let tree = PlainDir::open(dir, PlainDirOptions::default())
        .unwrap_or_else(|e| panic!("{}: {}", dir.display(), e.chain()));
    Snapshot::of(&tree).unwrap_or_else(|e| panic!("{}: {}", dir.display(), e.chain())).without_access_times()
}
