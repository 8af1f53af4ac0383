//! Trees of every kind, written and read again.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{collections::BTreeMap, io::Cursor, path::Path};

use common::{Mount, Peers, Seen, assert_same, can_mount, listing, listing_of_directory, trees::noise};
use erofs_format::{
    BlobWriter, CheckOptions, Contents, FileData, Image, ImagePlan, InodeForm, Memory, Metadata, NewDevice,
    NewFile, OpenOptions, StreamWriter, Target, Times, Timestamp, Tree, WriteOptions,
};
use proptest::{prelude::*, strategy::ValueTree};

/// A file to be made, in a directory chosen by number.
#[derive(Clone, Debug)]
struct File {
    dir: usize,
    name: Vec<u8>,
    metadata: (u16, u32, u32, i64, u32),
    kind: Kind,
    xattrs: Vec<(u8, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    Regular(usize),
    Sparse(u64, Vec<(u64, u64)>),
    Symlink(Vec<u8>),
    Device(u32, u32),
    Fifo,
    LinkTo(usize),
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 1..40).prop_map(|mut name| {
        name.iter_mut().filter(|byte| matches!(**byte, 0 | b'/')).for_each(|byte| *byte = b'_');
        name
    });
    prop_oneof![
        6 => "[a-z]{1,9}".prop_map(String::into_bytes),
        3 => bytes,
        1 => (200usize..=255).prop_map(|len| vec![b'n'; len]),
        1 => prop::sample::select(vec!["-", "...", "!x", "~", "\u{7f}", ".x"]).prop_map(|name| name.as_bytes().to_vec()),
    ]
}

/// Sizes around the boundaries of tails and blocks.
fn sizes() -> impl Strategy<Value = usize> {
    let near = |around: &'static [usize]| {
        (prop::sample::select(around), 0usize..9).prop_map(|(at, delta)| (at + delta).saturating_sub(4))
    };
    prop_oneof![
        0usize..100,
        near(&[448, 480, 512, 1024, 4000, 4032, 4064, 4096, 8192, 12288]),
        0usize..30_000
    ]
}

fn sparse() -> impl Strategy<Value = Kind> {
    let ranges = prop::collection::vec((0u64..1 << 20, 1u64..20_000), 0..5);
    (ranges, 0u64..1 << 20, 0u32..4).prop_map(|(gaps, rest, shift)| {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, len) in gaps {
            ranges.push((at + gap, len));
            at += gap + len;
        }
        Kind::Sparse(at + (rest << shift), ranges)
    })
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Directory),
        6 => sizes().prop_map(Kind::Regular),
        1 => sparse(),
        1 => (1usize..=4095).prop_map(|len| Kind::Symlink(vec![b't'; len])),
        1 => "[a-z/]{1,30}".prop_map(|target| Kind::Symlink(target.into_bytes())),
        1 => (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Kind::Device(major, minor)),
        1 => Just(Kind::Fifo),
        2 => any::<usize>().prop_map(Kind::LinkTo),
    ]
}

fn files() -> impl Strategy<Value = Vec<File>> {
    let ids = || prop_oneof![Just(0u32), Just(1000), Just(65_535), Just(65_536), any::<u32>()];
    let seconds = prop_oneof![Just(0i64), Just(-1), Just(1 << 33), -1i64 << 40..1 << 40];
    let metadata = (0u16..0o10000, ids(), ids(), seconds, prop_oneof![Just(0u32), 0u32..1_000_000_000]);
    let value = prop_oneof![5 => prop::collection::vec(any::<u8>(), 0..40), 1 => (0usize..60_000).prop_map(|len| vec![7; len])];
    let xattrs = prop::collection::vec((1u8..40, value), 0..6);
    let file = (any::<usize>(), names(), metadata, kinds(), xattrs)
        .prop_map(|(dir, name, metadata, kind, xattrs)| File { dir, name, metadata, kind, xattrs });
    prop::collection::vec(file, 0..120)
}

fn options() -> impl Strategy<Value = WriteOptions> {
    let block = prop::sample::select(vec![512u32, 1024, 2048, 4096, 4096, 4096, 65_536]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), 0u8..6);
    (block, flags, prop_oneof![Just(None), (0u32..5).prop_map(Some)]).prop_map(|(block, flags, share)| {
        let (inline, large, extended, more) = flags;
        let mut options =
            WriteOptions::new().block_size(block).unwrap().inline_data(inline).share_xattrs(share);
        if large {
            options = options.large(true).target(Target::Linux6_15).epoch(-1000);
        }
        match more {
            0 => options = options.chunk_size(block).unwrap(),
            1 => options = options.chunk_size(block * 4).unwrap().small_chunk_maps(true),
            2 => options = options.xattr_prefix("user.pre").unwrap().xattr_prefix("trusted.o").unwrap(),
            _ => {}
        }
        if extended { options.inodes(InodeForm::Extended) } else { options }
    })
}

fn xattr_name(number: u8) -> String {
    match number {
        0..10 => format!("user.prefixed-{number}"),
        10..20 => format!("trusted.overlay.{number}"),
        20..30 => format!("security.{number}"),
        _ => format!("user.{number}"),
    }
}

fn content_of(index: usize, len: usize) -> Vec<u8> {
    // Some blocks alike, some zero.
    let mut content = noise(index as u64 % 5, len);
    content.chunks_mut(1024).skip(index % 3).step_by(4).for_each(|chunk| chunk.fill(0));
    content
}

/// What the files are by token; sparse files have a pattern.
struct Source<'a>(&'a [File]);

impl Contents for Source<'_> {
    fn read_exact_at(&self, token: u64, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        match &self.0[token as usize].kind {
            Kind::Regular(len) => {
                let content = content_of(token as usize, *len);
                buf.copy_from_slice(&content[offset as usize..][..buf.len()]);
            }
            _ => (offset..).zip(buf).for_each(|(at, byte)| *byte = pattern(at)),
        }
        Ok(())
    }
}

fn pattern(at: u64) -> u8 {
    (at % 251) as u8 | 1
}

/// Builds a tree in one of the ways, and what it should look like. `add` adds a regular file.
fn build(files: &[File], target: &mut dyn Build) {
    let mut dirs = vec![target.tree().root()];
    let mut ids = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let dir = dirs[file.dir % dirs.len()];
        if target.tree().find(dir, &file.name).is_some() || matches!(&file.name[..], b"." | b"..") {
            continue;
        }
        let (mode, uid, gid, seconds, nanoseconds) = file.metadata;
        let metadata = Metadata { mode, uid, gid, mtime: Timestamp { seconds, nanoseconds } };
        // Linux keeps `user.` for regular files and directories.
        let any_name = matches!(file.kind, Kind::Directory | Kind::Regular(_) | Kind::Sparse(..));
        let xattrs: BTreeMap<String, &[u8]> =
            file.xattrs.iter().map(|(number, value)| (xattr_name(*number), &value[..])).collect();
        let xattrs = xattrs.iter().filter(|(name, _)| any_name || !name.starts_with("user."));
        let xattrs: Vec<(&[u8], &[u8])> = xattrs.map(|(name, value)| (name.as_bytes(), *value)).collect();
        let other = match &file.kind {
            Kind::Regular(_) | Kind::Sparse(..) => {
                ids.push(target.regular(index, file, dir, metadata, &xattrs));
                continue;
            }
            Kind::LinkTo(number) => {
                if !ids.is_empty() {
                    target.tree().link(dir, &file.name, ids[number % ids.len()]).unwrap();
                }
                continue;
            }
            Kind::Directory => NewFile::Directory,
            Kind::Symlink(text) => NewFile::Symlink(text),
            Kind::Device(major, minor) => {
                NewFile::BlockDevice(erofs_format::DeviceNumber { major: *major, minor: *minor })
            }
            Kind::Fifo => NewFile::Fifo,
        };
        let id = target.tree().add(dir, &file.name, metadata, other).unwrap();
        target.tree().set_xattrs(id, xattrs).unwrap();
        match file.kind {
            Kind::Directory => dirs.push(id),
            _ => ids.push(id),
        }
    }
}

type Xattrs<'a> = &'a [(&'a [u8], &'a [u8])];

trait Build {
    fn tree(&mut self) -> &mut Tree;
    fn regular(
        &mut self,
        index: usize,
        file: &File,
        dir: erofs_format::NodeId,
        metadata: Metadata,
        xattrs: Xattrs<'_>,
    ) -> erofs_format::NodeId;
}

struct Planned(Tree);

impl Build for Planned {
    fn tree(&mut self) -> &mut Tree {
        &mut self.0
    }

    fn regular(
        &mut self,
        index: usize,
        file: &File,
        dir: erofs_format::NodeId,
        metadata: Metadata,
        xattrs: Xattrs<'_>,
    ) -> erofs_format::NodeId {
        let token = index as u64;
        let file_data = match &file.kind {
            Kind::Sparse(size, ranges) => NewFile::Regular {
                size: *size,
                data: FileData::SparseSource { token, ranges: ranges.clone() },
            },
            Kind::Regular(size) if index.is_multiple_of(2) => {
                NewFile::Regular { size: *size as u64, data: FileData::Bytes(content_of(index, *size)) }
            }
            Kind::Regular(size) => NewFile::Regular { size: *size as u64, data: FileData::Source { token } },
            _ => unreachable!(),
        };
        let id = self.0.add(dir, &file.name, metadata, file_data).unwrap();
        self.0.set_xattrs(id, xattrs.iter().copied()).unwrap();
        id
    }
}

struct Streamed(StreamWriter<Cursor<Vec<u8>>>);

impl Build for Streamed {
    fn tree(&mut self) -> &mut Tree {
        self.0.tree_mut()
    }

    fn regular(
        &mut self,
        index: usize,
        file: &File,
        dir: erofs_format::NodeId,
        metadata: Metadata,
        xattrs: Xattrs<'_>,
    ) -> erofs_format::NodeId {
        let xattrs = xattrs.iter().copied();
        let id = match &file.kind {
            Kind::Sparse(size, ranges) => {
                let content: Vec<u8> =
                    ranges.iter().flat_map(|&(at, len)| (at..at + len).map(pattern)).collect();
                self.0.add_sparse_file(dir, &file.name, metadata, xattrs, *size, ranges, &mut &content[..])
            }
            Kind::Regular(size) => {
                let content = content_of(index, *size);
                self.0.add_file(dir, &file.name, metadata, xattrs, *size as u64, &mut &content[..])
            }
            _ => unreachable!(),
        };
        id.unwrap()
    }
}

fn root() -> Metadata {
    Metadata { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default() }
}

fn planned(files: &[File], options: &WriteOptions) -> Vec<u8> {
    let mut tree = Planned(Tree::new(root()));
    build(files, &mut tree);
    let plan = ImagePlan::new(tree.0, options, &Source(files)).unwrap();
    let (image, summary) = plan.write(Vec::new(), &Source(files)).unwrap();
    assert_eq!(image.len() as u64, summary.size);
    image
}

fn streamed(files: &[File], options: &WriteOptions) -> Vec<u8> {
    let mut writer =
        Streamed(StreamWriter::new(Cursor::new(Vec::new()), options, root(), Vec::new()).unwrap());
    build(files, &mut writer);
    let (image, summary) = writer.0.finish(&()).unwrap();
    assert_eq!(image.get_ref().len() as u64, summary.size);
    image.into_inner()
}

fn checked(image: Vec<u8>) -> Image {
    let image = Image::open(Memory(image)).unwrap();
    let report = image.check(&CheckOptions::new().jobs(2)).unwrap();
    assert_eq!(report.findings, []);
    image
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn trees_come_back_whichever_way_they_were_written(files in files(), options in options()) {
        let image = planned(&files, &options);
        prop_assert!(planned(&files, &options) == image);
        let stream = streamed(&files, &options);
        prop_assert!(streamed(&files, &options) == stream);
        assert_same(&listing(&checked(image)), &listing(&checked(stream)));
    }
}

/// A handful of trees from the same strategies, shown by the kernel and extracted by fsck.erofs.
#[test]
fn the_kernel_shows_generated_trees_as_we_read_them() {
    let test = "the_kernel_shows_generated_trees_as_we_read_them";
    if !can_mount(test) {
        return;
    }
    let peers = Peers::find(test);
    let folder = peers.as_ref().map_or_else(|| tempfile::tempdir().unwrap(), Peers::folder);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..25 {
        let files = files().new_tree(&mut runner).unwrap().current();
        let options = options().new_tree(&mut runner).unwrap().current();
        // Pages of 4096 bytes take no larger blocks.
        let images = [planned(&files, &options), streamed(&files, &options)];
        for bytes in images {
            if bytes[1024 + 12] > 12 {
                continue;
            }
            compare_with_kernel(&bytes, &folder.path().join("image"), peers.as_ref());
        }
    }
}

fn compare_with_kernel(bytes: &[u8], path: &Path, peers: Option<&Peers>) {
    std::fs::write(path, bytes).unwrap();
    let ours = listing(&checked(bytes.to_vec()));
    let mount = Mount::new(path, &[]);
    assert_same(&ours, &listing_of_directory(mount.path()));
    if let Some(peers) = peers {
        peers.run(&["fsck.erofs", &peers.inside(path)]);
    }
}

#[test]
fn extremes_are_shown_by_the_kernel_as_they_are() {
    let mut tree = Tree::new(root());
    let top = tree.root();
    let file = |size, data| NewFile::Regular { size, data };
    let linked = tree.add(top, b"linked", root(), file(3, FileData::Bytes(b"abc".to_vec()))).unwrap();
    let links = tree.add(top, b"links", root(), NewFile::Directory).unwrap();
    for number in 0..70_000 {
        tree.link(links, format!("{number}").as_bytes(), linked).unwrap();
    }
    let dirs = tree.add(top, b"dirs", root(), NewFile::Directory).unwrap();
    for number in 0..66_000 {
        tree.add(dirs, format!("{number}").as_bytes(), root(), NewFile::Directory).unwrap();
    }
    let xattrs = tree.add(top, b"xattrs", root(), file(0, FileData::Hole)).unwrap();
    for number in 0..100u8 {
        tree.set_xattr(xattrs, format!("user.{number}").as_bytes(), &noise(number.into(), 65_535)).unwrap();
    }
    let ranges = vec![(0, 1), (1 << 39, 5000), ((1 << 40) - 1, 1)];
    tree.add(top, b"tera", root(), file(1 << 40, FileData::SparseSource { token: 0, ranges })).unwrap();
    tree.add(top, b"hole", root(), file(1 << 62, FileData::Hole)).unwrap();
    let contents = |_: u64, _: u64, buf: &mut [u8]| {
        buf.fill(b'x');
        Ok(())
    };
    let plan = ImagePlan::new(tree, &WriteOptions::new(), &contents).unwrap();
    assert!(plan.size() < 64 << 20, "{}", plan.size());
    let (bytes, _) = plan.write(Vec::new(), &contents).unwrap();
    let image = checked(bytes.clone());
    assert_eq!(image.lookup("linked").unwrap().nlink(), 70_001);
    assert_eq!(image.lookup("dirs").unwrap().nlink(), 66_002);
    assert_eq!(image.xattrs(&image.lookup("xattrs").unwrap()).unwrap().len(), 100);
    let test = "extremes_are_shown_by_the_kernel_as_they_are";
    if !can_mount(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, &bytes).unwrap();
    let mount = Mount::new(&path, &[]);
    let meta = |name: &str| std::fs::metadata(mount.path().join(name)).unwrap();
    use std::os::unix::fs::{FileExt, MetadataExt};
    assert_eq!((meta("linked").nlink(), meta("dirs").nlink()), (70_001, 66_002));
    assert_eq!(std::fs::read_dir(mount.path().join("links")).unwrap().count(), 70_000);
    assert!(mount.path().join("links/69999").exists() && mount.path().join("dirs/65999").exists());
    let value = &mut vec![0; 65_536];
    let len = rustix::fs::lgetxattr(mount.path().join("xattrs"), "user.99", &mut *value).unwrap();
    assert!(value[..len] == noise(99, 65_535));
    let tera = std::fs::File::open(mount.path().join("tera")).unwrap();
    for (at, expected) in
        [(0, *b"x\0\0"), ((1 << 39) - 1, *b"\0xx"), ((1 << 39) + 4999, *b"x\0\0"), ((1 << 40) - 3, *b"\0\0x")]
    {
        let mut found = [0; 3];
        tera.read_exact_at(&mut found, at).unwrap();
        assert_eq!(found, expected, "{at}");
    }
    assert_eq!(meta("hole").size(), 1 << 62);
}

#[test]
fn times_and_epochs_decide_which_inodes_are_compact() {
    let at = |seconds, nanoseconds| Metadata { mtime: Timestamp { seconds, nanoseconds }, ..root() };
    let extended = |options: &WriteOptions, metadata| {
        let mut tree = Tree::new(at(0, 0));
        tree.add(tree.root(), b"file", metadata, NewFile::Fifo).unwrap();
        let plan = ImagePlan::new(tree, options, &()).unwrap();
        let image = Image::open(Memory(plan.write(Vec::new(), &()).unwrap().0)).unwrap();
        let inode = image.lookup("file").unwrap();
        (inode.is_extended(), inode.mtime())
    };
    let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    let (plain, large) =
        (WriteOptions::new(), WriteOptions::new().large(true).target(Target::Linux6_15).epoch(-5));
    let all = plain.clone().epoch(9).times(Times::All(time(9, 0)));
    let cases = [
        (&plain, at(0, 0), (false, time(0, 0))),
        (&plain, at(1, 0), (true, time(1, 0))),
        (&plain, at(0, 1), (true, time(0, 1))),
        (&large, at(-5, 0), (false, time(-5, 0))),
        (&large, at(-6, 0), (true, time(-6, 0))),
        (&large, at((1 << 32) - 6, 0), (false, time((1 << 32) - 6, 0))),
        (&large, at((1 << 32) - 5, 0), (true, time((1 << 32) - 5, 0))),
        (&large, at(3, 3), (true, time(3, 3))),
        (&all, at(77, 7), (false, time(9, 0))),
        (&plain.clone().whole_seconds(true), at(0, 7), (false, time(0, 0))),
        (&plain.clone().times(Times::AtMost(time(5, 0))), at(7, 7), (true, time(5, 0))),
    ];
    for (options, metadata, expected) in cases {
        assert_eq!(extended(options, metadata), expected, "{metadata:?}");
    }
}

#[test]
fn targets_refuse_what_their_kernel_does_not_know() {
    let plan = |options: WriteOptions| {
        let mut tree = Tree::new(root());
        tree.add(tree.root(), b"hole", root(), NewFile::Regular { size: 5, data: FileData::Hole }).unwrap();
        ImagePlan::new(tree, &options, &()).map(|_| ())
    };
    let new = WriteOptions::new;
    assert!(plan(new()).is_ok());
    for refused in [
        new().target(Target::Linux5_4),
        new().large(true),
        new().target(Target::Linux5_16).block_size(512).unwrap(),
        new().target(Target::Linux5_16).xattr_prefix("user.x").unwrap(),
        new().chunk_size(512).unwrap(),
    ] {
        assert_eq!(plan(refused).unwrap_err().kind(), erofs_format::ErrorKind::Unrepresentable);
    }
}

#[test]
fn an_index_over_an_archive_reads_from_it_beside_or_behind() {
    // Data of an archive, at multiples of 512 bytes.
    let archive = noise(3, 512 * 40);
    let mut tree = Tree::new(root());
    let blocks = archive.len() as u64 / 512;
    let device = tree.add_device(NewDevice { tag: vec![b'a'; 64], blocks }).unwrap();
    for (name, block, size) in [("first", 1, 700), ("second", 4, 512), ("third", 6, 9000)] {
        let data = FileData::Blocks(erofs_format::BlockAddress { device, block });
        tree.add(tree.root(), name.as_bytes(), root(), NewFile::Regular { size, data }).unwrap();
    }
    let options = WriteOptions::new().block_size(512).unwrap();
    let (index, _) = ImagePlan::new(tree, &options, &()).unwrap().write(Vec::new(), &()).unwrap();
    let behind = Image::open(Memory([&index[..], &archive].concat())).unwrap();
    let beside = OpenOptions::new().device(Memory(archive.clone())).open(Memory(index.clone())).unwrap();
    for image in [behind, beside] {
        let third = image.lookup("third").unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut image.file(third), &mut content).unwrap();
        assert!(content == archive[6 * 512..][..9000]);
        assert!(image.check(&CheckOptions::new()).unwrap().is_sound());
    }
    let two = OpenOptions::new().device(Memory(Vec::new())).device(Memory(Vec::new()));
    assert_eq!(two.open(Memory(index)).unwrap_err().kind(), erofs_format::ErrorKind::DeviceCount);
}

#[test]
fn data_on_a_device_of_its_own_is_deduplicated_over_files() {
    let options = WriteOptions::new().chunk_size(4096).unwrap();
    let mut tree = Tree::new(root());
    let device = tree.add_device(NewDevice::default()).unwrap();
    let mut blob = BlobWriter::new(Vec::new(), &options, device);
    let content = noise(9, 10_000);
    for name in ["a", "b", "c"] {
        let data = blob.append(10_000, &mut &content[..]).unwrap();
        tree.add(tree.root(), name.as_bytes(), root(), NewFile::Regular { size: 10_000, data }).unwrap();
    }
    let (blob, blocks) = blob.finish().unwrap();
    assert_eq!((blob.len(), blocks), (3 * 4096, 3));
    tree.set_device_blocks(device, blocks);
    let (image, _) = ImagePlan::new(tree, &options, &()).unwrap().write(Vec::new(), &()).unwrap();
    let image = OpenOptions::new().device(Memory(blob)).open(Memory(image)).unwrap();
    let mut found: Vec<Seen> = listing(&image).into_values().skip(1).collect();
    found.dedup();
    assert_eq!(found.len(), 1);
}

/// An image whose file "inside" has its inode in the metabox, which is not compressed. Programs make none such, so
/// this one is patched together.
#[test]
fn inodes_in_a_metabox_are_read_from_there() {
    let mut tree = Tree::new(root());
    let options = WriteOptions::new().large(true).target(Target::Linux6_15).checksum(false);
    // A compact inode of a regular file of 4 bytes, its content after it.
    let mut inode = vec![0; 36];
    inode[0] = 2 << 1;
    inode[4..8].copy_from_slice(&[0xa4, 0x81, 1, 0]);
    inode[8] = 4;
    inode[32..].copy_from_slice(b"mbox");
    let size = inode.len() as u64;
    tree.add(tree.root(), b"box", root(), NewFile::Regular { size, data: FileData::Bytes(inode) }).unwrap();
    tree.add(tree.root(), b"inside", root(), NewFile::Fifo).unwrap();
    // The prefix makes room for the extension of the superblock.
    let options = options.xattr_prefix("user.as long as an extension slot").unwrap();
    let plan = ImagePlan::new(tree, &options, &()).unwrap();
    let nid = |name: &[u8]| plan.nid(plan.tree().find(plan.tree().root(), name).unwrap()).0;
    let (metabox, inside) = (nid(b"box"), nid(b"inside"));
    let (mut image, _) = plan.write(Vec::new(), &()).unwrap();
    image[1024 + 13] = 1;
    image[1024 + 80..1024 + 84].copy_from_slice(&0x180u32.to_le_bytes());
    image[1024 + 128..1024 + 136].copy_from_slice(&metabox.to_le_bytes());
    image[1024 + 136..1024 + 144].fill(0);
    let entry = inside.to_le_bytes();
    let at = (1200..image.len()).find(|&at| image[at..].starts_with(&entry) && image[at + 10] == 5).unwrap();
    image[at..at + 8].copy_from_slice(&(1u64 << 63).to_le_bytes());
    image[at + 10] = 1;
    let open = |image: &[u8]| Image::open(Memory(image.to_vec()));
    let found = open(&image).unwrap();
    let inode = found.lookup("inside").unwrap();
    assert!(inode.nid().in_metabox());
    assert_eq!(std::io::read_to_string(found.file(inode)).unwrap(), "mbox");
    // One slot further on there is nothing.
    image[at] = 1;
    let error = open(&image).unwrap().lookup("inside").unwrap_err();
    assert_eq!(error.kind(), erofs_format::ErrorKind::Corrupt);
    image[1024 + 80..1024 + 84].copy_from_slice(&0x80u32.to_le_bytes());
    assert!(open(&image).unwrap().lookup("inside").is_err());
}
