//! Layers on disk, and overlay mounts over them.

use std::{
    ffi::CString,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use layer_model::{
    Base, LayerTree, Result, Stack,
    merged::Merged,
    testing::{MemoryLayer, Snapshot},
};
use overlay_diff::{TreeDiffer, TreeOptions, UpperDiffer, UpperOptions};
use overlay_dir::{
    Namespace, OverlayDir, OverlayDirOptions, OverlayFeatures, OverlayUpper, OverlayUpperOptions, PlainDir,
    PlainDirOptions,
};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
        utimensat,
    },
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{Heard, Outcome};

/// Says why a test cannot run here, and fails where it has to.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none(), "{test} cannot run: {reason}");
    eprintln!("SKIP {test}: {reason}");
}

/// Layers, and one overlay over them.
pub(crate) struct Disk {
    temp: tempfile::TempDir,
    lowers: usize,
    namespace: Namespace,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self::of(Namespace::Trusted)
    }

    pub(crate) fn of(namespace: Namespace) -> Self {
        Self::at(tempfile::tempdir().expect("a temporary directory"), namespace)
    }

    /// In a directory below `path`.
    pub(crate) fn below(path: &Path) -> Self {
        Self::at(tempfile::tempdir_in(path).expect("a temporary directory"), Namespace::Trusted)
    }

    fn at(temp: tempfile::TempDir, namespace: Namespace) -> Self {
        for dir in ["upper", "work", "merged"] {
            fs::create_dir(temp.path().join(dir)).expect("a directory");
        }
        Self { temp, lowers: 0, namespace }
    }

    /// A fresh lower layer on top of those made before.
    pub(crate) fn lower(&mut self) -> Dir {
        let path = self.temp.path().join(format!("l{}", self.lowers));
        fs::create_dir(&path).expect("a directory");
        self.lowers += 1;
        Dir(path)
    }

    pub(crate) fn upper(&self) -> Dir {
        Dir(self.temp.path().join("upper"))
    }

    pub(crate) fn work(&self) -> Dir {
        Dir(self.temp.path().join("work"))
    }

    /// Mounts the overlay; `options` are added to those for the layers.
    pub(crate) fn mount(&self, options: &str) -> std::io::Result<Mounted> {
        let at = |name: &str| self.temp.path().join(name).display().to_string();
        let lowers: Vec<_> = (0..self.lowers).rev().map(|n| at(&format!("l{n}"))).collect();
        let data = format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), at("upper"), at("work"));
        let data = if options.is_empty() { data } else { format!("{data},{options}") };
        let data = CString::new(data).expect("no NUL in a temporary path");
        let merged = self.temp.path().join("merged");
        mount("overlay", &merged, "overlay", MountFlags::empty(), data.as_c_str())?;
        Ok(Mounted { dir: Dir(merged) })
    }

    /// Mounts, does something in the mount, and looks at what a new mount shows: the old one remembers
    /// inode numbers that it has no place for on disk.
    pub(crate) fn change(&self, options: &str, change: impl FnOnce(&Dir)) -> Seen {
        change(&self.mount(options).expect("an overlay mount").dir);
        let mounted = self.mount(options).expect("an overlay mount");
        let merged = mounted.dir.plain();
        let heard = Heard::default();
        let differ = TreeDiffer::new(TreeOptions::new().detect_link_topology(true));
        let lowers = Merged::of_stack(&self.stack());
        let mut source = differ.between(Some(&lowers), &merged, &heard).expect("readable trees");
        Seen {
            snapshot: snapshot(&merged),
            walked: Outcome::of(&mut source, &heard).expect("readable trees"),
        }
    }

    pub(crate) fn handle(&self) -> Result<OverlayUpper> {
        self.handle_with(OverlayUpperOptions::default())
    }

    pub(crate) fn handle_with(&self, options: OverlayUpperOptions) -> Result<OverlayUpper> {
        let dir = OverlayDir::open(&self.upper().0, OverlayDirOptions::default().namespace(self.namespace))?;
        OverlayUpper::new(dir, options.features(OverlayFeatures::default()))
    }

    pub(crate) fn stack(&self) -> Stack<OverlayDir> {
        let open = |n| {
            let options = OverlayDirOptions::default().namespace(self.namespace);
            OverlayDir::open(self.temp.path().join(format!("l{n}")), options).expect("a lower layer")
        };
        Stack::from_bottom((0..self.lowers).map(open)).expect("a lower layer")
    }

    /// The changes of the upper over the lower layers.
    pub(crate) fn diff(&self, options: UpperOptions) -> Result<Outcome> {
        self.diff_over(options, Base::Layers(&self.stack()))
    }

    pub(crate) fn diff_over(&self, options: UpperOptions, base: Base<'_, OverlayDir>) -> Result<Outcome> {
        let heard = Heard::default();
        let mut source = UpperDiffer::new(options).changes(&self.handle()?, base, &heard)?;
        Outcome::of(&mut source, &heard)
    }

    /// The lower layers as one tree in memory.
    pub(crate) fn base(&self) -> MemoryLayer {
        let merged = Merged::of_stack(&self.stack());
        let heard = Heard::default();
        let mut source =
            TreeDiffer::new(TreeOptions::new()).between(None, &merged, &heard).expect("readable layers");
        let all = Outcome::of(&mut source, &heard).expect("readable layers");
        MemoryLayer::new().applied(&all.changes).expect("a tree without dangling links")
    }

    /// The changes, and the proof that they give `want` on the base: by upper walk in each form, and by
    /// walking both trees.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, want: &Seen) -> Outcome {
        use overlay_diff::OpaqueStyle::Marker;
        let exact = || UpperOptions::new().detect_link_topology(true);
        let base = self.base();
        let outcome = self.diff(exact()).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        let marker =
            self.diff(exact().opaque_style(Marker)).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
        for (how, outcome) in [("explicit", &outcome), ("marker", &marker), ("double walk", &want.walked)] {
            same(&format!("{name}, {how}"), &base, outcome, &want.snapshot);
        }
        outcome
    }
}

/// What a mount showed at the end.
pub(crate) struct Seen {
    pub(crate) snapshot: Snapshot,
    /// What walking it and the lower layers found, while it was mounted.
    walked: Outcome,
}

/// Fails unless the changes, on `base`, give `want`.
#[track_caller]
pub(crate) fn same(name: &str, base: &MemoryLayer, outcome: &Outcome, want: &Snapshot) {
    let got = base.applied(&outcome.changes).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
    let difference = want.difference(&snapshot(&got));
    assert!(difference.is_empty(), "{name}:\n{}\n{:#?}", difference.join("\n"), outcome.lines());
}

/// What a layer can carry of a tree.
pub(crate) fn snapshot(tree: &dyn LayerTree) -> Snapshot {
    let all = Snapshot::of(tree).expect("a readable tree");
    all.without_root().without_dir_times().without_access_times()
}

/// A mount, gone when it is dropped.
pub(crate) struct Mounted {
    dir: Dir,
}

impl Mounted {
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.dir.0, UnmountFlags::DETACH);
    }
}

/// A directory to make things in. All times are long ago unless something changes them later.
#[derive(Clone, Debug)]
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub(crate) fn plain(&self) -> PlainDir {
        PlainDir::open(&self.0, PlainDirOptions::default()).expect("a directory")
    }

    fn parents(&self, path: &str) {
        if let Some(parent) = Path::new(path).parent() {
            fs::create_dir_all(self.0.join(parent)).expect("directories");
        }
    }

    pub(crate) fn dir(&self, path: &str, mode: u32) -> &Self {
        fs::create_dir_all(self.at(path)).expect("directories");
        self.mode(path, mode)
    }

    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        self.parents(path);
        fs::write(self.at(path), content).expect("a file");
        self.old(path)
    }

    /// Writes without setting the time.
    pub(crate) fn write(&self, path: &str, content: &str) -> &Self {
        fs::write(self.at(path), content).expect("a file");
        self
    }

    pub(crate) fn symlink(&self, path: &str, target: &str) -> &Self {
        self.parents(path);
        symlink(target, self.at(path)).expect("a symbolic link");
        self.old(path)
    }

    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        self.parents(path);
        fs::hard_link(self.at(target), self.at(path)).expect("a hard link");
        self
    }

    pub(crate) fn device(&self, path: &str, major: u32, minor: u32) -> &Self {
        self.parents(path);
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, self.at(path), FileType::CharacterDevice, mode, makedev(major, minor))
            .expect("a device");
        self
    }

    pub(crate) fn fifo(&self, path: &str) -> &Self {
        self.parents(path);
        mknodat(CWD, self.at(path), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
        self
    }

    pub(crate) fn whiteout(&self, path: &str) -> &Self {
        self.device(path, 0, 0)
    }

    pub(crate) fn xattr(&self, path: &str, name: &str, value: &[u8]) -> &Self {
        lsetxattr(self.at(path), name, value, XattrFlags::empty()).expect("an extended attribute");
        self
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).expect("a mode");
        self
    }

    pub(crate) fn owner(&self, path: &str, id: u32) -> &Self {
        lchown(self.at(path), Some(id), Some(id)).expect("an owner");
        self
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> &Self {
        fs::rename(self.at(from), self.at(to)).expect("a rename");
        self
    }

    pub(crate) fn remove(&self, path: &str) -> &Self {
        let path = self.at(path);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("something to remove");
        self
    }

    /// Sets the time to one long ago.
    pub(crate) fn old(&self, path: &str) -> &Self {
        self.time(path, 1_000_000_000, 0)
    }

    pub(crate) fn time(&self, path: &str, secs: i64, nanos: i64) -> &Self {
        let time = Timespec { tv_sec: secs, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
        self
    }

    pub(crate) fn mtime(&self, path: &str) -> (i64, i64) {
        let metadata = fs::symlink_metadata(self.at(path)).expect("something there");
        (metadata.mtime(), metadata.mtime_nsec())
    }
}
