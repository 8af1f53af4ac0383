//! Damaged images: whatever the bytes, the reader does not panic, does not run on, and says what is wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::Read;

use common::trees::noise;
use erofs_format::{
    BlockAddress, CheckOptions, DeviceNumber, FileData, Image, ImagePlan, Memory, Metadata, NewDevice,
    NewFile, OpenOptions, Timestamp, Tree, WriteOptions,
};

/// A tree with one of everything that an image can have, in few bytes.
fn small_tree(device: bool) -> Tree {
    let metadata = |mode| Metadata { mode, uid: 1, gid: 2, mtime: Timestamp { seconds: -1, nanoseconds: 5 } };
    let mut tree = Tree::new(metadata(0o755));
    let root = tree.root();
    tree.set_xattr(root, b"user.root", b"value").unwrap();
    let dir = tree.add(root, b"dir", metadata(0o700), NewFile::Directory).unwrap();
    for number in 0..60 {
        tree.add(dir, format!("entry {number}").as_bytes(), metadata(0o600), NewFile::Fifo).unwrap();
    }
    for size in [0usize, 10, 600, 1024, 3000] {
        let data = FileData::Bytes(noise(size as u64, size));
        let file = NewFile::Regular { size: size as u64, data };
        let id = tree.add(root, format!("file {size}").as_bytes(), metadata(0o644), file).unwrap();
        tree.set_xattr(id, b"user.shared", b"by all files").unwrap();
        tree.set_xattr(id, b"trusted.overlay.redirect", b"/elsewhere").unwrap();
        tree.link(dir, format!("link {size}").as_bytes(), id).unwrap();
    }
    tree.add(root, b"hole", metadata(0o644), NewFile::Regular { size: 100_000, data: FileData::Hole })
        .unwrap();
    tree.add(root, b"symlink", metadata(0o777), NewFile::Symlink(b"dir/link 10")).unwrap();
    tree.add(root, b"null", metadata(0o666), NewFile::CharDevice(DeviceNumber { major: 1, minor: 3 }))
        .unwrap();
    if device {
        let device = tree.add_device(NewDevice { tag: b"tag".to_vec(), blocks: 4 }).unwrap();
        let data = FileData::Blocks(BlockAddress { device, block: 1 });
        tree.add(root, b"far", metadata(0o644), NewFile::Regular { size: 1000, data }).unwrap();
    }
    tree
}

fn images() -> Vec<Vec<u8>> {
    let new = || WriteOptions::new().block_size(512).unwrap();
    let options = [
        (new(), false),
        (new().chunk_size(512).unwrap().xattr_prefix("trusted.overlay.").unwrap(), true),
        (new().large(true).target(erofs_format::Target::Linux6_15).inline_data(false), true),
        (new().block_size(4096).unwrap(), false),
    ];
    let image = |(options, device): (WriteOptions, bool)| {
        let plan = ImagePlan::new(small_tree(device), &options, &()).unwrap();
        plan.write(Vec::new(), &()).unwrap().0
    };
    options.into_iter().map(image).collect()
}

fn open(bytes: Vec<u8>, lenient: bool) -> erofs_format::Result<Image> {
    let image = OpenOptions::new().lenient(lenient).open(Memory(bytes.clone()))?;
    if image.devices().is_empty() {
        return Ok(image);
    }
    let mut options = OpenOptions::new().lenient(lenient);
    for _ in image.devices() {
        options = options.device(Memory(noise(1, 2048)));
    }
    options.open(Memory(bytes))
}

/// Looks at everything, as far as it goes.
fn look_at_everything(image: &Image) {
    for entry in image.walk() {
        let Ok(entry) = entry else { break };
        let _ = image.xattrs(&entry.inode);
        let _ = image.xattr(&entry.inode, b"user.shared");
        let _ = image.xattr(&entry.inode, b"trusted.overlay.redirect");
        let _ = image.read_link(&entry.inode);
        // Sizes can be anything up to 2^63: what is there matters, not what is claimed.
        let _ = image.file(entry.inode.clone()).take(1 << 20).read_to_end(&mut Vec::new());
        let _ = image.extents(&entry.inode).take(1000).count();
    }
    for path in ["dir/entry 7", "symlink", "dir/none/x", "file 10"] {
        let _ = image.resolve_path(path);
    }
    let _ = image.check(&CheckOptions::new());
}

#[test]
fn a_hundred_thousand_mutations_are_survived() {
    let images = images();
    let mut random = noise(42, 4 << 20).into_iter().cycle();
    let mut next = |below: usize| {
        let bytes = [random.next(), random.next(), random.next(), random.next()].map(Option::unwrap);
        u32::from_le_bytes(bytes) as usize % below
    };
    let mut opened = 0;
    for round in 0..100_000 {
        let mut bytes = images[round % images.len()].clone();
        for _ in 0..1 + next(3) {
            // Mostly where structures are, sometimes anywhere.
            let at = match next(4) {
                0 => 1024 + next(128),
                1 => next(bytes.len()),
                _ => 1152 + next((bytes.len() - 1152).min(6000)),
            };
            match next(4) {
                0 => bytes[at] = next(256) as u8,
                1 => bytes[at] ^= 1 << next(8),
                2 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
                _ => bytes[at..].iter_mut().take(2).for_each(|byte| *byte = 0),
            }
        }
        if round % 50 == 0 {
            let len = next(bytes.len());
            bytes.truncate(len);
        }
        if let Ok(image) = open(bytes, round % 3 != 0) {
            opened += 1;
            look_at_everything(&image);
        }
    }
    assert!(opened > 50_000, "{opened}");
}

#[test]
fn whole_images_have_no_findings() {
    for bytes in images() {
        let image = open(bytes, false).unwrap();
        let report = image.check(&CheckOptions::new()).unwrap();
        assert_eq!(report.findings, []);
        look_at_everything(&image);
    }
}
