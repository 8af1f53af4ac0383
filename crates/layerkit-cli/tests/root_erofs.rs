//! EROFS images of real layers and of extreme trees, as the kernel and erofs-utils see them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use layer_model::{
    Applier, Base, Change, Content, Entry, EntryKind, LayerPathBuf, LayerSink, Metadata, Silent, Stack,
    Timestamp, Xattrs, content::Extent, testing::Snapshot,
};
use layerkit::{
    apply::{ErofsApplier, ErofsImage, ErofsOptions, ErofsSink, ErofsWritten},
    format::WriteOptions,
};
use support::{SharedDir, layerkit_ok, peer_ok, snapshot};

/// A loop device over a file.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Self {
        let output = Command::new("losetup").args(["-f", "--show", "-r"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A mount by the kernel, and the devices under it.
struct KernelMount {
    at: PathBuf,
    _devices: Vec<Loop>,
}

impl KernelMount {
    fn erofs(at: PathBuf, image: &Path, devices: &[PathBuf]) -> Self {
        let devices: Vec<Loop> =
            [image.to_owned()].iter().chain(devices).map(|file| Loop::new(file)).collect();
        let options: String = devices[1..].iter().map(|device| format!(",device={}", device.0)).collect();
        Self::mount(at, "erofs", &devices[0].0.clone(), &format!("ro{options}"), devices)
    }

    fn overlay(at: PathBuf, lowers: &[&Self]) -> Self {
        let lowers: Vec<String> = lowers.iter().map(|lower| lower.at.display().to_string()).collect();
        Self::mount(at, "overlay", "none", &format!("ro,lowerdir={}", lowers.join(":")), Vec::new())
    }

    fn mount(at: PathBuf, kind: &str, device: &str, options: &str, devices: Vec<Loop>) -> Self {
        fs::create_dir_all(&at).unwrap();
        let output =
            Command::new("mount").args(["-t", kind, "-o", options, device]).arg(&at).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { at, _devices: devices }
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

fn layer_tars(inputs: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| inputs.join(format!("layer-{n}.tar"))).collect()
}

/// `fsck.erofs` finds nothing, and `dump.erofs` counts as many inodes as the image says.
fn peers_agree(peers: &Path, shared: &SharedDir, name: &str, inodes: u64) {
    let inside = shared.inside.join(name);
    peer_ok(peers, ["fsck.erofs".as_ref(), inside.as_os_str()]);
    let dump = peer_ok(peers, ["dump.erofs".as_ref(), "-s".as_ref(), inside.as_os_str()]);
    let dump = String::from_utf8(dump).unwrap();
    let count = dump.lines().find_map(|line| line.strip_prefix("Filesystem inode count:")).unwrap();
    assert_eq!(count.trim(), inodes.to_string(), "{name}");
}

/// Layers made with typed parents, one over the other, mounted with overlayfs.
fn layers_equal_umoci(test: &str, tag: &str, count: usize) {
    need!(test, support::kernel_erofs());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let shared = SharedDir::new(&peers, &format!("erofs-{tag}"));
    let applier = ErofsApplier::<ErofsImage>::new(ErofsOptions::new());
    let whole_blocks = WriteOptions::new().inline_data(false).epoch_from_files(true);
    let blocks = ErofsApplier::<ErofsImage>::new(ErofsOptions::new().write(whole_blocks));
    let mut stack: Option<Stack<ErofsImage>> = None;
    let (mut mounts, mut flat) = (Vec::new(), Vec::new());
    for (n, tar) in layer_tars(&inputs, 4).iter().enumerate() {
        // v1 has the first three layers, v2 another last one.
        if count == 3 && n == 3 {
            continue;
        }
        let image = shared.outside.join(format!("{n}.erofs"));
        let mut source =
            layerkit::LayerInput::file(tar, None).unwrap().changes(Default::default(), &Silent).unwrap();
        let base_of = stack.clone();
        let base = Base::from_stack(stack.as_ref());
        let made = applier
            .apply(&mut source, base, image.clone(), &Silent)
            .unwrap_or_else(|e| panic!("{}", e.chain()));
        peers_agree(&peers, &shared, &format!("{n}.erofs"), made.layer.image().superblock().inodes);
        mounts.insert(0, KernelMount::erofs(shared.outside.join(format!("m{n}")), &image, &[]));
        // The kernel sees in it what we do.
        snapshot(&mounts[0].at).assert_same(&Snapshot::of(&made.layer.plain()).unwrap());
        stack = Some(match stack {
            Some(stack) => stack.with_nearest(made.layer),
            None => Stack::of(made.layer),
        });
        // And once more as a merge needs it.
        let plain = shared.outside.join(format!("n{n}.erofs"));
        let mut source =
            layerkit::LayerInput::file(tar, None).unwrap().changes(Default::default(), &Silent).unwrap();
        blocks
            .apply(&mut source, base_of.as_ref().map_or(Base::Empty, Base::Layers), plain.clone(), &Silent)
            .unwrap();
        flat.push(plain);
    }
    let want = snapshot(&inputs.join(format!("rootfs-{tag}")));
    let merged = KernelMount::overlay(shared.outside.join("merged"), &mounts.iter().collect::<Vec<_>>());
    want.assert_same(&snapshot(&merged.at));
    drop((merged, mounts));

    // The same without overlayfs: metadata of all layers in one image, the layers as devices.
    let image = shared.outside.join("merged.erofs");
    let args = ["erofs".as_ref(), "merge".as_ref(), image.as_os_str()];
    layerkit_ok(
        args.into_iter().chain(flat.iter().map(|layer| layer.as_os_str())).chain(["--strip".as_ref()]),
    );
    let merged = KernelMount::erofs(shared.outside.join("merged"), &image, &flat);
    want.assert_same(&snapshot(&merged.at));
}

#[test]
fn three_real_layers_mounted_and_merged_equal_umocis_tree() {
    layers_equal_umoci("three_real_layers_mounted_and_merged_equal_umocis_tree", "v1", 3);
}

#[test]
fn four_real_layers_mounted_and_merged_equal_umocis_tree() {
    layers_equal_umoci("four_real_layers_mounted_and_merged_equal_umocis_tree", "v2", 4);
}

#[test]
fn an_index_shows_what_the_image_shows() {
    let test = "an_index_shows_what_the_image_shows";
    need!(test, support::kernel_erofs());
    let inputs = need!(test, support::inputs());
    let scratch = tempfile::tempdir().unwrap();
    for tar in &layer_tars(&inputs, 4)[..] {
        let [image, index, both] = ["image", "index", "both"].map(|name| scratch.path().join(name));
        let build = |out: &Path, extra: &[&str]| {
            let args =
                ["erofs".as_ref(), "build".as_ref(), "--tar".as_ref(), tar.as_os_str(), out.as_os_str()];
            layerkit_ok(args.into_iter().chain(extra.iter().map(|arg| arg.as_ref())));
        };
        build(&image, &[]);
        build(&index, &["--tar-index"]);
        build(&both, &["--tar-index=append"]);
        let want = KernelMount::erofs(scratch.path().join("want"), &image, &[]);
        let want = snapshot(&want.at);
        let beside = KernelMount::erofs(scratch.path().join("beside"), &index, std::slice::from_ref(tar));
        want.assert_same(&snapshot(&beside.at));
        let behind = KernelMount::erofs(scratch.path().join("behind"), &both, &[]);
        want.assert_same(&snapshot(&behind.at));
    }
}

#[test]
fn an_index_of_the_peer_is_read_as_the_kernel_reads_it() {
    let test = "an_index_of_the_peer_is_read_as_the_kernel_reads_it";
    need!(test, support::kernel_erofs());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let shared = SharedDir::new(&peers, "erofs-peer-index");
    for (n, tar) in layer_tars(&inputs, 2).iter().enumerate() {
        fs::copy(tar, shared.outside.join("layer.tar")).unwrap();
        let name = format!("index-{n}");
        let (out, input) = (shared.inside.join(&name), shared.inside.join("layer.tar"));
        let args = ["mkfs.erofs".as_ref(), "--quiet".as_ref(), "--tar=i".as_ref(), "--aufs".as_ref()];
        peer_ok(&peers, args.into_iter().chain([out.as_os_str(), input.as_os_str()]));
        let index = shared.outside.join(name);
        let mounted = KernelMount::erofs(shared.outside.join("mount"), &index, std::slice::from_ref(tar));
        let image = ErofsImage::open(&index, &[tar]).unwrap();
        snapshot(&mounted.at).assert_same(&Snapshot::of(&image.plain()).unwrap());
    }
}

/// Whatever this crate takes for sound after it was damaged, the kernel reads to its end and lives.
#[test]
fn the_kernel_survives_damaged_images_that_are_taken_for_sound() {
    let test = "the_kernel_survives_damaged_images_that_are_taken_for_sound";
    need!(test, support::kernel_erofs());
    let scratch = tempfile::tempdir().unwrap();
    let tree = scratch.path().join("tree");
    fs::create_dir_all(tree.join("d/e")).unwrap();
    for n in 0..40 {
        fs::write(tree.join(format!("d/file-{n}")), vec![n as u8; n * 40]).unwrap();
    }
    std::os::unix::fs::symlink("d/file-1", tree.join("link")).unwrap();
    fs::hard_link(tree.join("d/file-2"), tree.join("d/e/again")).unwrap();
    let image = scratch.path().join("image");
    let (mut state, mut tried) = (0x2545_f491_4f6c_dd1d_u64, 0);
    for options in [&["--no-checksum"][..], &["--no-checksum", "--no-inline", "--chunk-size", "4096"]] {
        let args =
            ["erofs".as_ref(), "build".as_ref(), "--dir".as_ref(), tree.as_os_str(), image.as_os_str()];
        layerkit_ok(args.into_iter().chain(options.iter().map(|arg| arg.as_ref())));
        let good = fs::read(&image).unwrap();
        for _ in 0..400 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = (state >> 20) as usize % bytes.len();
                bytes[at] ^= 1 << (state & 7);
            }
            let Ok(opened) = layerkit::format::Image::open(layerkit::format::Memory(bytes.clone())) else {
                continue;
            };
            if !opened.check(&Default::default()).is_ok_and(|report| report.is_sound()) {
                continue;
            }
            let damaged = scratch.path().join("damaged");
            fs::write(&damaged, bytes).unwrap();
            let mounted = KernelMount::erofs(scratch.path().join("mount"), &damaged, &[]);
            snapshot(&mounted.at).assert_same(&Snapshot::of(&ErofsImage::new(opened, "").plain()).unwrap());
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} of 800 damaged images were sound");
}

#[test]
fn a_root_file_system_becomes_an_image_and_is_extracted_again() {
    let test = "a_root_file_system_becomes_an_image_and_is_extracted_again";
    need!(test, support::kernel_erofs());
    let (inputs, peers) = (need!(test, support::inputs()), need!(test, support::peers()));
    let shared = SharedDir::new(&peers, "erofs-rootfs");
    let (tree, image) = (inputs.join("rootfs-v1"), shared.outside.join("image"));
    for options in
        [&["--block-size", "4096"][..], &["--no-inline", "--chunk-size", "65536"], &["--block-size", "512"]]
    {
        let args =
            ["erofs".as_ref(), "build".as_ref(), "--dir".as_ref(), tree.as_os_str(), image.as_os_str()];
        let built = layerkit_ok(args.into_iter().chain(options.iter().map(|arg| arg.as_ref())));
        peers_agree(&peers, &shared, "image", built["inodes"].as_u64().unwrap());
        let mounted = KernelMount::erofs(shared.outside.join("mount"), &image, &[]);
        snapshot(&tree).assert_same(&snapshot(&mounted.at));
    }
    let out = shared.outside.join("out");
    layerkit_ok(["erofs".as_ref(), "extract".as_ref(), image.as_os_str(), out.as_os_str()]);
    snapshot(&tree).assert_same(&snapshot(&out));
}

/// Makes the image `path` of the changes that `fill` hands in.
fn image_of(path: &Path, fill: impl FnOnce(&mut ErofsSink<'_, &mut fs::File>)) -> ErofsWritten {
    let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let mut sink =
        ErofsSink::new::<ErofsImage>(&mut file, Base::Empty, ErofsOptions::new(), &Silent).unwrap();
    fill(&mut sink);
    sink.finish().unwrap().1
}

/// A tree at the ends of what there can be, as changes.
fn extremes(sink: &mut ErofsSink<'_, &mut fs::File>) {
    let metadata = |mode, secs| Metadata { mtime: Timestamp::new(secs, 7), ..Metadata::file(mode) };
    // A macro, as content borrows for exactly as long as its path.
    macro_rules! put {
        ($path:expr, $kind:expr, $metadata:expr, $xattrs:expr $(,)?) => {{
            let path = LayerPathBuf::clean($path).unwrap();
            let entry = Entry::new($kind, $metadata).with_xattrs($xattrs);
            sink.change(Change::upsert(path.as_path(), entry)).unwrap();
        }};
    }
    let none = Xattrs::new();
    for n in 0..200_000 {
        put!(format!("many/{n}").as_bytes(), EntryKind::File(Content::empty()), metadata(0o644, n), &none);
    }
    put!(b"empty", EntryKind::Directory, metadata(0o700, -1), &none);
    for len in 1..=255 {
        let name: Vec<u8> = (0..len).map(|n| [b'a', 0xff, b'\n', 0x80, b' '][(n + len) % 5]).collect();
        put!(
            &[b"names/", &name[..]].concat(),
            EntryKind::File(Content::from_bytes(&name)),
            metadata(0o600, 2),
            &none,
        );
    }
    for byte in (1..=255_u8).filter(|byte| !b"/.".contains(byte)) {
        put!(&[b"bytes/", &[byte][..]].concat(), EntryKind::Fifo, metadata(0o7777, 3), &none);
    }
    let content: Vec<u8> = (0..20_000_u32).map(|n| (n % 253) as u8).collect();
    for size in [
        1, 31, 32, 33, 63, 64, 511, 512, 513, 4031, 4032, 4033, 4063, 4064, 4065, 4095, 4096, 4097, 8191,
        8192, 8193,
    ] {
        let file = EntryKind::File(Content::from_bytes(&content[..size]));
        put!(format!("sizes/{size}").as_bytes(), file, metadata(0o644, 4), &none);
    }
    for (name, secs) in [("before", -86_400), ("late", 5_000_000_000), ("later", 1 << 33)] {
        put!(
            format!("times/{name}").as_bytes(),
            EntryKind::File(Content::empty()),
            metadata(0o644, secs),
            &none,
        );
    }
    let mut xattrs = Xattrs::new();
    for n in 0..100_u32 {
        xattrs.insert(format!("user.{n}").into_bytes(), vec![n as u8; (n * 661) as usize]);
    }
    xattrs.insert(*b"user.largest", vec![b'x'; 65_535]);
    put!(b"xattrs/many", EntryKind::File(Content::from_bytes(b"x")), metadata(0o644, 5), &xattrs);
    put!(b"xattrs/dir", EntryKind::Directory, metadata(0o755, 5), &xattrs);
    put!(b"devices/null", EntryKind::CharDevice(layer_model::Device::new(1, 3)), metadata(0o666, 6), &none);
    put!(
        b"devices/last",
        EntryKind::BlockDevice(layer_model::Device::new(4095, 1_048_575)),
        metadata(0o600, 6),
        &none,
    );
    put!(b"devices/link", EntryKind::Symlink { target: &[b'l'; 4095] }, metadata(0o777, 6), &none);
}

#[test]
fn the_kernel_sees_the_extremes_as_they_were_written() {
    let test = "the_kernel_sees_the_extremes_as_they_were_written";
    need!(test, support::kernel_erofs());
    let peers = need!(test, support::peers());
    let shared = SharedDir::new(&peers, "erofs-extremes");
    let path = shared.outside.join("image");
    let written = image_of(&path, |sink| {
        extremes(sink);
    });
    peers_agree(&peers, &shared, "image", written.image.inodes);
    let image = ErofsImage::open::<&Path>(&path, &[]).unwrap();
    let report = image.image().check(&Default::default()).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
    let mounted = KernelMount::erofs(shared.outside.join("mount"), &path, &[]);
    snapshot(&mounted.at).assert_same(&Snapshot::of(&image.plain()).unwrap());
    // And not only as this crate reads it.
    assert_eq!(fs::read_dir(mounted.at.join("many")).unwrap().count(), 200_000);
    let meta = |name: &str| fs::symlink_metadata(mounted.at.join(name)).unwrap();
    assert_eq!((meta("times/before").mtime(), meta("times/later").mtime()), (-86_400, 1 << 33));
    assert_eq!(meta("devices/last").rdev(), rustix::fs::makedev(4095, 1_048_575));
}

#[test]
fn a_file_has_seventy_thousand_names() {
    let test = "a_file_has_seventy_thousand_names";
    need!(test, support::kernel_erofs());
    let peers = need!(test, support::peers());
    let shared = SharedDir::new(&peers, "erofs-links");
    let path = shared.outside.join("image");
    let written = image_of(&path, |sink| {
        let first = LayerPathBuf::clean(b"first").unwrap();
        let content = EntryKind::File(Content::from_bytes(b"shared"));
        sink.change(Change::upsert(first.as_path(), Entry::new(content, Metadata::file(0o644)))).unwrap();
        for n in 0..70_000 {
            let path = LayerPathBuf::clean(format!("links/{n}").as_bytes()).unwrap();
            let link = EntryKind::HardLink { target: first.as_path() };
            sink.change(Change::upsert(path.as_path(), Entry::new(link, Metadata::file(0o644)))).unwrap();
        }
    });
    peers_agree(&peers, &shared, "image", written.image.inodes);
    let mounted = KernelMount::erofs(shared.outside.join("mount"), &path, &[]);
    let meta = |name: &str| fs::metadata(mounted.at.join(name)).unwrap();
    assert_eq!((meta("links/69999").nlink(), meta("links/69999").ino()), (70_001, meta("first").ino()));
    assert_eq!(fs::read(mounted.at.join("links/0")).unwrap(), b"shared");
}

#[test]
fn a_terabyte_of_holes_is_a_small_image() {
    let test = "a_terabyte_of_holes_is_a_small_image";
    need!(test, support::kernel_erofs());
    let peers = need!(test, support::peers());
    let shared = SharedDir::new(&peers, "erofs-holes");
    let path = shared.outside.join("image");
    let written = image_of(&path, |sink| {
        let extents = [Extent { offset: 1 << 20, len: 5 }, Extent { offset: (1 << 40) - 4, len: 4 }];
        let mut packed = &b"firstlast"[..];
        let content = Content::sparse(&extents, &mut packed, 1 << 40).unwrap();
        let name = LayerPathBuf::clean(b"sparse").unwrap();
        let entry = Entry::new(EntryKind::File(content), Metadata::file(0o644));
        sink.change(Change::upsert(name.as_path(), entry)).unwrap();
    });
    assert!(written.image.size < 64 << 20, "{}", written.image.size);
    peer_ok(&peers, ["fsck.erofs".as_ref(), shared.inside.join("image").as_os_str()]);
    let mounted = KernelMount::erofs(shared.outside.join("mount"), &path, &[]);
    let mut file = fs::File::open(mounted.at.join("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    let mut read = |offset, len| {
        let mut bytes = vec![9; len];
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(read((1 << 20) - 2, 9), b"\0\0first\0\0");
    assert_eq!(read((1 << 40) - 6, 6), b"\0\0last");
    assert!(read(1 << 39, 100_000).iter().all(|byte| *byte == 0));
}
