//! What the tests share: images, and what must be left when a test is done.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
    time::{Duration, Instant},
};

use erofs_format::{
    FileData, Image, ImagePlan, Memory, MergeOptions, Metadata, NewFile, Tree, WriteOptions, merge_layers,
};
use kernel_mount::{KernelFeatures, OverlayOptions, umount};

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

/// Whether this process may mount, and the kernel knows EROFS and has loop devices.
pub(crate) fn can_mount() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".into());
    }
    // Once, and before anything is mounted: between fork and exec a child holds what its parent has open.
    static MODULES: Once = Once::new();
    MODULES.call_once(|| drop(Command::new("modprobe").args(["-qa", "erofs", "loop", "overlay"]).status()));
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for name in ["erofs", "overlay"] {
        if !known.split_whitespace().any(|known| known == name) {
            return Err(format!("the kernel does not know {name}"));
        }
    }
    if Path::new("/dev/loop-control").exists() { Ok(()) } else { Err("there are no loop devices".into()) }
}

/// Whether the kernel mounts images from files.
pub(crate) fn can_mount_files() -> Result<(), String> {
    can_mount_since((6, 12))
}

/// Whether this process may mount, on a kernel of this version or a later one.
pub(crate) fn can_mount_since(version: (u32, u32)) -> Result<(), String> {
    can_mount()?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= version { Ok(()) } else { Err(format!("Linux {release} is too old")) }
}

/// The fallbacks, each by itself and all together.
pub(crate) fn kernels() -> Vec<(&'static str, KernelFeatures)> {
    let without = |mask: fn(&mut KernelFeatures)| {
        let mut features = KernelFeatures::default();
        mask(&mut features);
        features
    };
    vec![
        ("everything", KernelFeatures::default()),
        ("no detached layers", without(|k| k.detached_layers = false)),
        ("no lowerdir+", without(|k| k.layer_by_layer = false)),
        ("no images from files", without(|k| k.file_backed_erofs = false)),
        ("the oldest", KernelFeatures::oldest()),
    ]
}

/// A folder for a test. When it is dropped, nothing may be mounted in it or from it, nor be left in the scratch
/// directory.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("kernel-mount-").tempdir().unwrap();
        for name in ["scratch", "mnt"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as text, as mount lists have it.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub(crate) fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.path("scratch")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn overlay_options(&self, kernel: KernelFeatures) -> OverlayOptions {
        OverlayOptions::new().kernel_features(kernel).scratch(self.scratch())
    }

    /// The lines of the mount table that name this place.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let name = self.folder.path().to_str().unwrap();
        table.lines().filter(|line| line.contains(name)).map(str::to_owned).collect()
    }

    /// The files of this place that are bound to loop devices.
    pub(crate) fn loops(&self) -> Vec<String> {
        let mut bound = Vec::new();
        for device in fs::read_dir("/sys/block").unwrap() {
            let file = device.unwrap().path().join("loop/backing_file");
            bound.extend(
                fs::read_to_string(file).ok().filter(|f| f.contains(self.folder.path().to_str().unwrap())),
            );
        }
        bound
    }

    /// Waits until loop devices are released: whoever probes new devices holds them for a moment.
    pub(crate) fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.loops().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fails unless nothing is left.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.mounts(), [""; 0]);
        self.settle();
        assert_eq!(self.loops(), [""; 0]);
        assert_eq!(fs::read_dir(self.scratch()).unwrap().count(), 0);
    }

    /// Unmounts, and fails unless nothing is left.
    #[track_caller]
    pub(crate) fn unmount(&self) {
        umount(&self.mnt()).unwrap();
        self.assert_clean();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Where a test failed, its mounts must not stay, and nothing in them may be removed with the folder.
        while umount(&self.mnt()).is_ok() {}
        if std::thread::panicking() {
            return;
        }
        self.assert_clean();
    }
}

/// An image of files: `path=text`, `path/` for a directory, `path-` for a whiteout. The root has the mode 0751, the
/// owner 7:8 and the time 1,000,000.
pub(crate) fn image(files: &[&str], options: &WriteOptions) -> Vec<u8> {
    let time = erofs_format::Timestamp { seconds: 1_000_000, nanoseconds: 0 };
    let root = Metadata { mode: 0o751, uid: 7, gid: 8, mtime: time };
    let mut tree = Tree::new(root);
    for file in files {
        let metadata = |mode| Metadata { mode, ..Metadata::default() };
        let root = tree.root();
        if let Some(name) = file.strip_suffix('/') {
            tree.add(root, name.as_bytes(), metadata(0o755), NewFile::Directory).unwrap();
        } else if let Some(name) = file.strip_suffix('-') {
            tree.add(root, name.as_bytes(), metadata(0), NewFile::WHITEOUT).unwrap();
        } else {
            let (name, text) = file.split_once('=').unwrap();
            let data = FileData::Bytes(text.into());
            let new = NewFile::Regular { size: text.len() as u64, data };
            tree.add(root, name.as_bytes(), metadata(0o644), new).unwrap();
        }
    }
    ImagePlan::new(tree, options, &()).unwrap().write(Vec::new(), &()).unwrap().0
}

pub(crate) fn options(block_size: u32) -> WriteOptions {
    WriteOptions::new().block_size(block_size).unwrap()
}

/// Merged metadata over layers, bottom first: its bytes, and those of the layers.
pub(crate) fn merged(layers: &[&[&str]], options: &WriteOptions) -> (Vec<u8>, Vec<Vec<u8>>) {
    let plain = options.clone().inline_data(false);
    let blobs: Vec<Vec<u8>> = layers.iter().map(|files| image(files, &plain)).collect();
    let images: Vec<Image> = blobs.iter().map(|bytes| Image::open(Memory(bytes.clone())).unwrap()).collect();
    let plan = merge_layers(&images, &MergeOptions::new().strip_markers(true), &plain).unwrap();
    (plan.write(Vec::new(), &()).unwrap().0, blobs)
}

/// The names in a directory with what is in them: `name=text`, or the name alone.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let mut listed: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            match fs::read_to_string(entry.path()) {
                Ok(text) => format!("{name}={text}"),
                Err(_) => name,
            }
        })
        .collect();
    listed.sort();
    listed
}

/// A directory whose path is longer than a value of fsconfig(2) may be.
pub(crate) fn long_dir(place: &Place) -> PathBuf {
    let dir = place.path(&"l".repeat(200)).join("o".repeat(200));
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A link, so that names and files differ.
pub(crate) fn link(to: &Path, at: &Path) {
    symlink(to, at).unwrap();
}
