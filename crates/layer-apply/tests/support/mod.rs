//! Trees and layers as one line of text, and what became of them.
//!
//! Entries are separated by `;`: `d/` a directory, `f:"text"` a file, `l>target` a link, `h=target` a hard link,
//! `C n 1:3`, `B n 8:1`, `P p` special files, `wh:p` a deletion, `opq:p` an opaque directory. After the entry
//! may come a mode (`0755`), `uid N`, `gid N`, `mtime S[.N]`, `atime S[.N]`, and attributes (`user.k=v`).
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses its own part")]

pub mod cases;
pub mod late_parents;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Mutex,
};

use layer_apply::{ApplyOptions, FlatApplier, OverlayApplier};
use layer_model::{
    Applied, Applier, Base, Device, Error, LayerPathBuf, LayerSource, Metadata, Monitor, Node, NodeKind,
    Result, Stack, Timestamp, Warning, WarningKind,
    testing::{MemoryChanges, OwnedAction, OwnedChange, Snapshot},
};
use overlay_dir::{Namespace, OverlayDir, OverlayDirOptions, PlainDir, PlainDirOptions};

#[derive(Clone, Debug)]
pub enum Kind {
    Dir,
    File(Vec<u8>),
    Symlink(String),
    Hard(String),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Whiteout,
    Opaque,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub name: String,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    pub xattrs: Vec<(String, String)>,
}

fn time(text: &str) -> Timestamp {
    let (secs, nanos) = text.split_once('.').unwrap_or((text, "0"));
    Timestamp::new(secs.parse().unwrap(), format!("{nanos:0<9}").parse().unwrap())
}

fn device(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

/// Parses a line of entries.
pub fn items(text: &str) -> Vec<Item> {
    text.split(';').map(str::trim).filter(|entry| !entry.is_empty()).map(item).collect()
}

fn item(text: &str) -> Item {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap();
    let mut mode = None;
    let (name, kind) = if let Some(path) = first.strip_prefix("wh:") {
        (path.to_owned(), Kind::Whiteout)
    } else if let Some(path) = first.strip_prefix("opq:") {
        (path.to_owned(), Kind::Opaque)
    } else if matches!(first, "C" | "B" | "P") {
        let name = words.next().unwrap().to_owned();
        let numbers = |words: &mut dyn Iterator<Item = &str>| device(words.next().unwrap());
        let kind = match first {
            "C" => numbers(&mut words).into_kind(Kind::Char),
            "B" => numbers(&mut words).into_kind(Kind::Block),
            _ => Kind::Fifo,
        };
        (name, kind)
    } else if let Some((name, content)) = first.split_once(":\"") {
        (name.to_owned(), Kind::File(content.trim_end_matches('"').into()))
    } else if let Some((name, target)) = first.split_once('>') {
        mode = Some(0o777);
        (name.to_owned(), Kind::Symlink(target.to_owned()))
    } else if let Some((name, target)) = first.split_once('=') {
        (name.to_owned(), Kind::Hard(target.to_owned()))
    } else if first.ends_with('/') {
        mode = Some(0o755);
        (first.to_owned(), Kind::Dir)
    } else {
        (first.to_owned(), Kind::File(Vec::new()))
    };
    let mut item = Item {
        name,
        kind,
        mode: mode.unwrap_or(0o644),
        uid: own_uid(),
        gid: own_gid(),
        mtime: None,
        atime: None,
        xattrs: Vec::new(),
    };
    while let Some(word) = words.next() {
        match word {
            "uid" => item.uid = words.next().unwrap().parse().unwrap(),
            "gid" => item.gid = words.next().unwrap().parse().unwrap(),
            "mtime" => item.mtime = Some(time(words.next().unwrap())),
            "atime" => item.atime = Some(time(words.next().unwrap())),
            word => match word.split_once('=') {
                Some((name, value)) => item.xattrs.push((name.to_owned(), value.to_owned())),
                None => item.mode = u32::from_str_radix(word, 8).unwrap(),
            },
        }
    }
    item
}

trait IntoKind {
    fn into_kind(self, make: impl FnOnce(u32, u32) -> Kind) -> Kind;
}

impl IntoKind for (u32, u32) {
    fn into_kind(self, make: impl FnOnce(u32, u32) -> Kind) -> Kind {
        make(self.0, self.1)
    }
}

pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

pub fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

fn clean(name: &str) -> LayerPathBuf {
    LayerPathBuf::clean(name.as_bytes()).unwrap()
}

/// The line as changes.
pub fn changes(text: &str) -> MemoryChanges {
    MemoryChanges::new(items(text).into_iter().map(|item| change(&item)).collect())
}

pub fn change(item: &Item) -> OwnedChange {
    let path = clean(&item.name);
    let mut link = None;
    let mut content = Vec::new();
    let kind = match &item.kind {
        Kind::Whiteout => return OwnedChange { path, action: OwnedAction::Remove },
        Kind::Opaque => return OwnedChange { path, action: OwnedAction::Opaque },
        Kind::Dir => NodeKind::Directory,
        Kind::File(bytes) => {
            content = bytes.clone();
            NodeKind::File { size: bytes.len() as u64 }
        }
        Kind::Symlink(target) => NodeKind::Symlink { target: target.as_bytes().into() },
        Kind::Hard(target) => {
            link = Some(clean(target));
            NodeKind::File { size: 0 }
        }
        Kind::Char(major, minor) => NodeKind::CharDevice(Device::new(*major, *minor)),
        Kind::Block(major, minor) => NodeKind::BlockDevice(Device::new(*major, *minor)),
        Kind::Fifo => NodeKind::Fifo,
    };
    let mtime = item.mtime.unwrap_or(Timestamp::from_secs(1_000_000));
    let mut metadata = Metadata::file(item.mode);
    (metadata.uid, metadata.gid, metadata.mtime, metadata.atime) = (item.uid, item.gid, mtime, item.atime);
    let mut node = Node::new(kind, metadata);
    for (name, value) in &item.xattrs {
        node.xattrs.insert(name.as_bytes(), value.as_bytes());
    }
    OwnedChange { path, action: OwnedAction::Upsert { node, content, link } }
}

/// The line as an archive, names as they are written.
pub fn tar(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for item in items(text) {
        let (mut name, mut link, mut content, flag) = (
            item.name.clone(),
            String::new(),
            Vec::new(),
            match &item.kind {
                Kind::Dir => b'5',
                Kind::File(_) | Kind::Whiteout | Kind::Opaque => b'0',
                Kind::Symlink(_) => b'2',
                Kind::Hard(_) => b'1',
                Kind::Char(..) => b'3',
                Kind::Block(..) => b'4',
                Kind::Fifo => b'6',
            },
        );
        let mut device = (0, 0);
        match &item.kind {
            Kind::Whiteout => {
                let (dir, base) = name.rsplit_once('/').map_or(("", &*name), |(dir, base)| (dir, base));
                let slash = if dir.is_empty() { "" } else { "/" };
                name = format!("{dir}{slash}.wh.{base}");
            }
            Kind::Opaque => name = format!("{name}/.wh..wh..opq"),
            Kind::File(bytes) => content = bytes.clone(),
            Kind::Symlink(target) | Kind::Hard(target) => link = target.clone(),
            Kind::Char(major, minor) | Kind::Block(major, minor) => device = (*major, *minor),
            _ => {}
        }
        if !item.xattrs.is_empty() {
            let records: Vec<(Vec<u8>, Vec<u8>)> = item
                .xattrs
                .iter()
                .map(|(name, value)| {
                    (format!("SCHILY.xattr.{name}").into_bytes(), value.clone().into_bytes())
                })
                .collect();
            push_pax(&mut out, &records);
        }
        let mtime = item.mtime.unwrap_or(Timestamp::from_secs(1_000_000)).secs;
        push_header(&mut out, name.as_bytes(), flag, content.len() as u64, |header| {
            octal(&mut header[100..108], item.mode.into());
            octal(&mut header[108..116], item.uid.into());
            octal(&mut header[116..124], item.gid.into());
            octal(&mut header[136..148], u64::try_from(mtime).unwrap());
            header[157..157 + link.len()].copy_from_slice(link.as_bytes());
            octal(&mut header[329..337], device.0.into());
            octal(&mut header[337..345], device.1.into());
        });
        out.extend_from_slice(&content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn octal(field: &mut [u8], value: u64) {
    let text = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(text.as_bytes());
}

/// Appends a header; `edit` changes it before the checksum is made.
pub fn push_header(out: &mut Vec<u8>, name: &[u8], flag: u8, size: u64, edit: impl FnOnce(&mut [u8; 512])) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name);
    for field in [100..108, 108..116, 116..124] {
        octal(&mut header[field], 0);
    }
    octal(&mut header[124..136], size);
    octal(&mut header[136..148], 0);
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut header);
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
    octal(&mut header[148..155], sum);
    out.extend_from_slice(&header);
}

/// Appends an extended header.
pub fn push_pax(out: &mut Vec<u8>, records: &[(Vec<u8>, Vec<u8>)]) {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + len.to_string().len() != len {
            len = rest + len.to_string().len();
        }
        body.extend_from_slice(format!("{len} ").as_bytes());
        body.extend_from_slice(key);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    push_header(out, b"PaxHeaders/x", b'x', body.len() as u64, |_| {});
    out.extend_from_slice(&body);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Makes the tree with plain file operations, parents as needed. Deletions and opaque directories become
/// overlay markers in `user.*`.
pub fn build(root: &Path, text: &str) {
    fs::create_dir_all(root).unwrap();
    let list = items(text);
    for item in &list {
        let path = root.join(item.name.trim_end_matches('/'));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        match &item.kind {
            Kind::Dir => fs::create_dir_all(&path).unwrap(),
            Kind::File(bytes) => fs::write(&path, bytes).unwrap(),
            Kind::Symlink(target) => symlink(target, &path).unwrap(),
            Kind::Hard(target) => fs::hard_link(root.join(target), &path).unwrap(),
            Kind::Char(major, minor) => mknod(&path, rustix::fs::FileType::CharacterDevice, *major, *minor),
            Kind::Block(major, minor) => mknod(&path, rustix::fs::FileType::BlockDevice, *major, *minor),
            Kind::Fifo => mknod(&path, rustix::fs::FileType::Fifo, 0, 0),
            Kind::Whiteout => mknod(&path, rustix::fs::FileType::CharacterDevice, 0, 0),
            Kind::Opaque => {
                fs::create_dir_all(&path).unwrap();
                set_xattr(&path, "user.overlay.opaque", b"y");
            }
        }
        for (name, value) in &item.xattrs {
            set_xattr(&path, name, value.as_bytes());
        }
    }
    // Modes, owners and times when nothing is made any more, children first.
    for item in list.iter().rev() {
        let path = root.join(item.name.trim_end_matches('/'));
        if matches!(item.kind, Kind::Whiteout | Kind::Opaque) {
            continue;
        }
        if (item.uid, item.gid) != (own_uid(), own_gid()) {
            std::os::unix::fs::lchown(&path, Some(item.uid), Some(item.gid)).unwrap();
        }
        if !matches!(item.kind, Kind::Symlink(_) | Kind::Hard(_)) {
            fs::set_permissions(&path, fs::Permissions::from_mode(item.mode)).unwrap();
        }
        if let (Some(mtime), false) = (item.mtime, matches!(item.kind, Kind::Symlink(_))) {
            let at = std::time::UNIX_EPOCH + std::time::Duration::new(mtime.secs as u64, mtime.nanos);
            fs::File::open(&path).unwrap().set_modified(at).unwrap();
        }
    }
}

fn mknod(path: &Path, kind: rustix::fs::FileType, major: u32, minor: u32) {
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, rustix::fs::makedev(major, minor)).unwrap();
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// The value of an attribute.
pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 * 1024];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

/// The tree as a line: names, types, contents. Whiteouts are shown as `wh:`, opaque directories as `opq:` beside
/// their directory.
pub fn listing(root: &Path) -> String {
    let mut lines = BTreeMap::new();
    list(root, root, &mut lines);
    lines.into_values().collect::<Vec<_>>().join("; ")
}

fn list(root: &Path, dir: &Path, lines: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let Ok(meta) = fs::symlink_metadata(&path) else {
            lines.insert(name.clone(), format!("unseen:{name}"));
            continue;
        };
        let kind = meta.file_type();
        let rdev = || (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let opaque = ["user.overlay.opaque", "trusted.overlay.opaque"];
        let line = if kind.is_dir() {
            list(root, &path, lines);
            let opaque = opaque.iter().any(|attribute| xattr(&path, attribute).as_deref() == Some(b"y"));
            format!("{name}/{}", if opaque { format!("; opq:{name}") } else { String::new() })
        } else if kind.is_symlink() {
            format!("{name}>{}", fs::read_link(&path).unwrap().display())
        } else if kind.is_char_device() && rdev() == (0, 0) {
            format!("wh:{name}")
        } else if kind.is_char_device() {
            format!("C {name} {}:{}", rdev().0, rdev().1)
        } else if kind.is_block_device() {
            format!("B {name} {}:{}", rdev().0, rdev().1)
        } else if kind.is_fifo() {
            format!("P {name}")
        } else {
            format!("{name}:\"{}\"", String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()))
        };
        lines.insert(name, line);
    }
}

/// Brings a line that a test expects into the order of [`listing`].
pub fn sorted(text: &str) -> String {
    let mut entries: Vec<&str> = text.split(';').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    let key = |entry: &&str| -> (String, bool) {
        let name = entry.trim_start_matches("wh:").trim_start_matches("opq:");
        let name =
            name.strip_prefix("C ").or(name.strip_prefix("B ")).or(name.strip_prefix("P ")).unwrap_or(name);
        let end = name.find([':', '>', ' ']).unwrap_or(name.len());
        (name[..end].trim_end_matches('/').to_owned(), entry.starts_with("opq:"))
    };
    entries.sort_by_key(key);
    entries.join("; ")
}

/// Remembers the warnings, and may stop.
#[derive(Debug, Default)]
pub struct Heard {
    warnings: Mutex<Vec<(WarningKind, String, String)>>,
}

impl Monitor for Heard {
    fn warn(&self, warning: &Warning<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.warnings.lock().unwrap().push((
            warning.kind,
            text(warning.path.as_bytes()),
            text(warning.detail),
        ));
    }
}

impl Heard {
    pub fn count(&self, kind: WarningKind) -> usize {
        self.warnings.lock().unwrap().iter().filter(|(have, ..)| *have == kind).count()
    }

    pub fn kinds(&self) -> Vec<WarningKind> {
        self.warnings.lock().unwrap().iter().map(|(kind, ..)| *kind).collect()
    }
}

/// A folder with a tree to work in, `root`, and a canary beside it that nothing may touch.
pub struct Place {
    pub temp: tempfile::TempDir,
    canary: Snapshot,
}

impl Place {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        build(
            &temp.path().join("canary"),
            "perm400:\"secret\" 0400 mtime 77; sub/ mtime 78; sub/file:\"x\" mtime 79; etc/passwd:\"host\"",
        );
        build(&temp.path().join("dest-evil"), "secret:\"evil\" mtime 5");
        let canary = Self::look(temp.path());
        Self { temp, canary }
    }

    pub fn with(tree: &str) -> Self {
        let place = Self::new();
        build(&place.root(), tree);
        place
    }

    pub fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn look(temp: &Path) -> Snapshot {
        let mut all = Snapshot::default();
        for name in ["canary", "dest-evil"] {
            let dir = PlainDir::open(temp.join(name), PlainDirOptions::default()).unwrap();
            let seen = Snapshot::of(&dir).unwrap();
            if name == "canary" {
                all = seen;
            } else {
                assert!(seen.paths().count() == 2, "the neighbour has one file");
                assert_eq!(fs::read(temp.join("dest-evil/secret")).unwrap(), b"evil");
                assert_eq!(fs::metadata(temp.join("dest-evil/secret")).unwrap().nlink(), 1);
            }
        }
        all
    }

    /// Fails when anything outside the root changed, or something new is beside it.
    #[track_caller]
    pub fn outside_untouched(&self) {
        self.canary.assert_same(&Self::look(self.temp.path()));
        let mut names: Vec<String> = fs::read_dir(self.temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                !matches!(&**name, "root" | "canary" | "dest-evil" | "parents" | "m" | "upper" | "work")
            })
            .collect();
        names.sort();
        assert!(names.is_empty(), "new beside the root: {names:?}");
    }

    #[track_caller]
    pub fn holds(&self, want: &str) {
        assert_eq!(listing(&self.root()), sorted(want));
    }

    /// Applies a layer to the root in place.
    pub fn flatten(&self, options: ApplyOptions, layer: &str) -> (Result<Applied<PlainDir>>, Heard) {
        let heard = Heard::default();
        fs::create_dir_all(self.root()).unwrap();
        let result = FlatApplier::new(options).apply(&mut changes(layer), Base::Unknown, self.root(), &heard);
        self.outside_untouched();
        (result, heard)
    }

    /// Applies an archive to the root in place.
    pub fn flatten_tar(&self, options: ApplyOptions, tar: &[u8]) -> (Result<Applied<PlainDir>>, Heard) {
        let heard = Heard::default();
        fs::create_dir_all(self.root()).unwrap();
        let mut source = layer_tar::TarSource::new(tar, layer_tar::ReadOptions::default(), &heard);
        let result = FlatApplier::new(options).apply(&mut source, Base::Unknown, self.root(), &heard);
        self.outside_untouched();
        (result, heard)
    }

    /// Makes parents (nearest first) from lines, as layers with markers in `user.*`.
    pub fn parents(&self, lines: &[&str]) -> Option<Stack<OverlayDir>> {
        Stack::from_nearest(lines.iter().enumerate().map(|(n, line)| {
            let dir = self.temp.path().join("parents").join(n.to_string());
            build(&dir, line);
            OverlayDir::open(dir, OverlayDirOptions::default().namespace(Namespace::User)).unwrap()
        }))
    }

    /// Applies a layer in overlay form to `root`, over parents, with markers in `user.*`.
    pub fn overlay(
        &self,
        options: ApplyOptions,
        parents: Option<&Stack<OverlayDir>>,
        source: &mut dyn LayerSource,
    ) -> (Result<Applied<OverlayDir>>, Heard) {
        let heard = Heard::default();
        let options = options.namespace(Namespace::User);
        let applier = OverlayApplier::<OverlayDir>::new(options);
        let result = applier.apply(source, Base::from_stack(parents), self.root(), &heard);
        self.outside_untouched();
        (result, heard)
    }
}

/// Whether a test that needs `what` can run; if not it says so, or fails where tests must not be skipped.
pub fn can(test: &str, what: &str, possible: bool) -> bool {
    if !possible {
        assert!(std::env::var_os("LAYERKIT_REQUIRE").is_none(), "{test} needs {what}");
        eprintln!("SKIP {test}: {what} is missing");
    }
    possible
}

/// Whether this is root outside any user namespace.
pub fn is_root() -> bool {
    own_uid() == 0 && Namespace::Trusted.check_readable().is_ok()
}

#[track_caller]
pub fn kind_of<T: std::fmt::Debug>(result: Result<T>) -> layer_model::ErrorKind {
    result.expect_err("this must fail").kind().clone()
}

/// The metadata of a name, not followed.
pub fn meta(path: impl AsRef<Path>) -> fs::Metadata {
    fs::symlink_metadata(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

pub fn chain(error: &Error) -> String {
    error.chain()
}

/// A mount that is gone when this is dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts `kind` at `at`, which is made; [`None`] where that is not possible.
    pub fn new(kind: &str, at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount(kind, at, kind, rustix::mount::MountFlags::empty(), Some(&*options)).ok()?;
        Some(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The example program, which is built with the tests.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples").join(name)
}
