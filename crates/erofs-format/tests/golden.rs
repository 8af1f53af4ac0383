//! Images byte by byte: the same input gives the same image, in every version until `LAYOUT_VERSION` changes.
//!
//! The files in `golden/` are hex dumps of the bytes that are not zero. After a change that is meant,
//! `LAYERKIT_BLESS=1 cargo test -p erofs-format --test golden` writes them anew; then raise `LAYOUT_VERSION`.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fmt::Write, io::Cursor, path::Path};

use erofs_format::{
    BlockAddress, DeviceNumber, FileData, Image, ImagePlan, Memory, Metadata, NewDevice, NewFile,
    StreamWriter, Target, Timestamp, Tree, WriteOptions,
};

/// The image as text: its size, and the lines of 16 bytes that are not all zero.
fn dump(image: &[u8]) -> String {
    let mut text = format!("size {:#x}\n", image.len());
    for (number, line) in image.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|&byte| byte != 0))
    {
        write!(text, "{:04x}:", number * 16).unwrap();
        line.chunks(2).for_each(|pair| {
            text.push(' ');
            pair.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        });
        text.push('\n');
    }
    text
}

/// The image that a dump describes.
fn image_of(dump: &str) -> Vec<u8> {
    let mut lines = dump.lines().skip_while(|line| line.starts_with('#'));
    let size = lines.next().unwrap().strip_prefix("size 0x").unwrap();
    let mut image = vec![0; usize::from_str_radix(size, 16).unwrap()];
    for line in lines {
        let (at, bytes) = line.split_once(':').unwrap();
        let bytes: String = bytes.split_whitespace().collect();
        for (index, digits) in bytes.as_bytes().chunks(2).enumerate() {
            let byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
            image[usize::from_str_radix(at, 16).unwrap() + index] = byte;
        }
    }
    image
}

fn assert_golden(name: &str, image: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("LAYERKIT_BLESS").is_some() {
        std::fs::write(&path, dump(image)).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(dump(image) == golden, "{name} differs; it is now\n{}", dump(image));
    assert!(image_of(&golden) == image);
}

fn metadata(mode: u16, seconds: i64) -> Metadata {
    Metadata { mode, uid: 0, gid: 0, mtime: Timestamp::from_seconds(seconds) }
}

fn small_tree(device: bool) -> Tree {
    let mut tree = Tree::new(metadata(0o755, 0));
    let root = tree.root();
    let mut add = |name: &[u8], metadata, file| tree.add(root, name, metadata, file).unwrap();
    let bytes = |text: &str| NewFile::Regular { size: text.len() as u64, data: FileData::Bytes(text.into()) };
    let hello = add(b"hello.txt", metadata(0o644, 0), bytes("hello erofs\n"));
    let later = add(b"later", metadata(0o600, 1_700_000_000), bytes("later"));
    add(b"-dash", metadata(0o644, 0), bytes(""));
    add(b"link", metadata(0o777, 0), NewFile::Symlink(b"hello.txt"));
    add(b"gone", metadata(0, 0), NewFile::WHITEOUT);
    add(b"disk", metadata(0o660, 0), NewFile::BlockDevice(DeviceNumber { major: 8, minor: 1 }));
    add(b"hole", metadata(0o644, 0), NewFile::Regular { size: 9000, data: FileData::Hole });
    let dir = add(b"dir", metadata(0o755, 0), NewFile::Directory);
    tree.link(dir, b"again", hello).unwrap();
    tree.set_xattr(hello, b"user.mime", b"text/plain").unwrap();
    tree.set_xattr(later, b"user.mime", b"text/plain").unwrap();
    tree.set_xattr(dir, b"trusted.overlay.opaque", b"y").unwrap();
    if device {
        let device = tree.add_device(NewDevice { tag: b"blob".to_vec(), blocks: 16 }).unwrap();
        let data = FileData::Blocks(BlockAddress { device, block: 3 });
        tree.add(root, b"far", metadata(0o644, 0), NewFile::Regular { size: 5000, data }).unwrap();
    }
    tree
}

#[test]
fn planned_images_have_their_golden_bytes() {
    let new = || WriteOptions::new().uuid(*b"golden uuid 0123").label("golden").unwrap();
    let large = new().large(true).target(Target::Linux6_15).build_time(1_700_000_000);
    let cases = [
        ("planned.hex", new(), false),
        ("device.hex", new().block_size(512).unwrap().xattr_prefix("trusted.overlay.").unwrap(), true),
        ("chunks.hex", new().block_size(1024).unwrap().chunk_size(1024).unwrap(), false),
        ("large.hex", large, false),
    ];
    for (name, options, device) in cases {
        let plan = ImagePlan::new(small_tree(device), &options, &()).unwrap();
        assert_golden(name, &plan.write(Vec::new(), &()).unwrap().0);
    }
}

#[test]
fn streamed_images_have_their_golden_bytes() {
    let out = Cursor::new(Vec::new());
    let options = WriteOptions::new().block_size(512).unwrap();
    let mut writer = StreamWriter::new(out, &options, metadata(0o755, 0), Vec::new()).unwrap();
    let root = writer.tree().root();
    let mime = [(&b"user.mime"[..], &b"text/plain"[..])];
    for (name, len) in [("a", 10), ("b", 512), ("c", 700), ("d", 0)] {
        let content = vec![name.as_bytes()[0]; len];
        let metadata = metadata(0o644, 0);
        writer.add_file(root, name.as_bytes(), metadata, mime, len as u64, &mut &content[..]).unwrap();
    }
    let first = writer.tree().find(root, b"a").unwrap();
    writer.tree_mut().link(root, b"again", first).unwrap();
    assert_golden("streamed.hex", writer.finish(&()).unwrap().0.get_ref());
}

#[test]
fn the_smallest_image_by_mkfs_reads_as_documented() {
    let image = image_of(include_str!("golden/mkfs-1.5-smallest.hex"));
    let image = Image::open(Memory(image)).unwrap();
    let superblock = image.superblock();
    assert_eq!((superblock.root.0, superblock.inodes, superblock.epoch), (36, 2, 1_700_000_000));
    let names: Vec<_> =
        image.read_dir(&image.root().unwrap()).unwrap().map(|entry| entry.unwrap().name).collect();
    assert_eq!(names, [b"hello.txt"]);
    let hello = image.lookup("hello.txt").unwrap();
    assert_eq!((hello.nid().0, hello.mode(), hello.size()), (39, 0o100_644, 12));
    assert_eq!(std::io::read_to_string(image.file(hello)).unwrap(), "hello erofs\n");
    assert_eq!(image.check(&Default::default()).unwrap().findings, []);
}
