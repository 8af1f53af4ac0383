//! What the tests of this crate share: overlay mounts that go away by themselves, and trees to compare.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use layer_model::{LayerTree, Result, merged::Merged, testing::Snapshot};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, PlainDir, PlainDirOptions};
use rustix::{
    fs::{XattrFlags, lsetxattr},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

/// An overlay mount, gone when it is dropped.
pub(crate) struct Overlay {
    pub(crate) at: PathBuf,
}

impl Overlay {
    pub(crate) fn mount(at: &Path, options: &str) -> std::io::Result<Self> {
        fs::create_dir_all(at)?;
        let data = CString::new(options).unwrap();
        mount("overlay", at, "overlay", MountFlags::empty(), data.as_c_str())?;
        Ok(Self { at: at.into() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// A directory with layers in it: `l0`, `l1`, ... lower ones, and for each mount an upper and a work directory.
pub(crate) struct Bench {
    pub(crate) temp: tempfile::TempDir,
    /// Nearest first.
    pub(crate) layers: Vec<PathBuf>,
    mounts: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), layers: Vec::new(), mounts: 0 }
    }

    /// A new empty layer on top.
    pub(crate) fn layer(&mut self) -> PathBuf {
        let path = self.temp.path().join(format!("l{}", self.layers.len()));
        fs::create_dir(&path).unwrap();
        self.layers.insert(0, path.clone());
        path
    }

    fn lowerdir(layers: &[PathBuf]) -> String {
        let names: Vec<_> = layers.iter().map(|l| l.to_str().unwrap()).collect();
        format!("lowerdir={}", names.join(":"))
    }

    fn mount_point(&mut self) -> PathBuf {
        self.mounts += 1;
        self.temp.path().join(format!("m{}", self.mounts))
    }

    /// Mounts the layers below a new upper, which becomes the nearest layer, and lets `change` at it.
    pub(crate) fn change(&mut self, options: &str, change: impl FnOnce(&Overlay)) -> PathBuf {
        let lower = Self::lowerdir(&self.layers);
        let work = self.temp.path().join(format!("w{}", self.layers.len()));
        fs::create_dir(&work).unwrap();
        let upper = self.layer();
        let at = self.mount_point();
        let dirs = format!("{lower},upperdir={},workdir={}", upper.display(), work.display());
        let overlay = Overlay::mount(&at, &format!("{dirs},{options}"))
            .unwrap_or_else(|e| panic!("mount {dirs},{options}: {e}"));
        change(&overlay);
        drop(overlay);
        upper
    }

    /// The work directory of the mount that made the nearest layer.
    pub(crate) fn work(&self) -> PathBuf {
        self.temp.path().join(format!("w{}", self.layers.len() - 1))
    }

    /// Mounts all layers read-only.
    pub(crate) fn show(&mut self, options: &str) -> std::io::Result<Overlay> {
        let mut layers = self.layers.clone();
        if layers.len() == 1 {
            let empty = self.temp.path().join("empty");
            fs::create_dir_all(&empty)?;
            layers.push(empty);
        }
        let at = self.mount_point();
        Overlay::mount(&at, &format!("{},{options}", Self::lowerdir(&layers)))
    }

    /// The layers as this crate opens them, merged in process.
    pub(crate) fn merged(&self) -> Merged {
        Merged::new(self.layers.iter().map(|path| Arc::new(open(path)) as Arc<dyn LayerTree>).collect())
            .unwrap()
    }

    /// Compares what the kernel shows of the layers with what is merged in process.
    #[track_caller]
    pub(crate) fn assert_same_as_kernel(&mut self, options: &str) {
        let overlay = self.show(options).unwrap();
        let plain = PlainDir::open(&overlay.at, PlainDirOptions::default()).unwrap();
        let kernel = Snapshot::of(&plain).unwrap();
        let merged = Snapshot::of(&self.merged()).unwrap();
        kernel.assert_same(&merged);
    }
}

pub(crate) fn open(path: &Path) -> OverlayDir {
    OverlayDir::open(path, OverlayDirOptions::default().namespace(Namespace::Trusted)).unwrap()
}

pub(crate) fn open_user(path: &Path) -> OverlayDir {
    OverlayDir::open(path, OverlayDirOptions::default().namespace(Namespace::User)).unwrap()
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name} on {path:?}: {e}"));
}

pub(crate) fn write(path: impl AsRef<Path>, content: &str) {
    if let Some(parent) = path.as_ref().parent() {
        fs::create_dir_all(parent).unwrap();
    }
    fs::write(path, content).unwrap();
}

/// Why this process cannot do what a test of the kernel's overlayfs needs; tried out, not guessed.
pub(crate) fn overlay_missing() -> Option<String> {
    let mut bench = Bench::new();
    bench.layer();
    bench.layer();
    let shown = bench.show("metacopy=on,redirect_dir=on");
    shown.err().map(|error| format!("no overlay mounts with metacopy and redirects here: {error}"))
}

/// Whether to go on with a test that needs something; where not, says so, or fails if it must not be skipped.
pub(crate) fn can_run(test: &str, missing: Option<String>) -> bool {
    let Some(reason) = missing else { return true };
    if std::env::var_os("LAYERKIT_REQUIRE").is_some_and(|v| v.as_bytes() == b"1") {
        panic!("{test} must run: {reason}");
    }
    eprintln!("SKIP {test}: {reason}");
    false
}

/// The names of a directory, as text.
pub(crate) fn names(tree: &dyn LayerTree) -> Result<Vec<String>> {
    let names = tree.root()?.names()?;
    Ok(names.into_iter().map(|name| String::from_utf8_lossy(&name).into_owned()).collect())
}
