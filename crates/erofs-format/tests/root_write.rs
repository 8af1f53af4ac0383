//! Images that we write, as the kernel and fsck.erofs see them.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{fs, path::Path};

use common::{
    Listing, Mount, Peers, assert_same, can_mount, listing, listing_of_directory,
    trees::{make_varied_tree, stream_of, tree_of},
};
use erofs_format::{CheckOptions, FileSource, Image, ImagePlan, InodeForm, WriteOptions};

fn variants() -> Vec<(&'static str, WriteOptions)> {
    let new = WriteOptions::new;
    vec![
        ("defaults", new()),
        ("512", new().block_size(512).unwrap()),
        ("1024", new().block_size(1024).unwrap()),
        ("2048", new().block_size(2048).unwrap()),
        ("no inline data", new().inline_data(false)),
        ("extended", new().inodes(InodeForm::Extended)),
        ("48 bits", new().large(true).target(erofs_format::Target::Linux6_15).epoch(1_000_000_000)),
        ("chunks", new().chunk_size(4096).unwrap()),
        ("large chunks", new().chunk_size(65536).unwrap()),
        ("small chunk maps", new().chunk_size(4096).unwrap().small_chunk_maps(true)),
        ("chunks of 512", new().block_size(512).unwrap().chunk_size(512).unwrap()),
        ("nothing shared", new().share_xattrs(None)),
        ("no filter", new().xattr_filter(false)),
        ("prefixes", new().xattr_prefix("trusted.overlay.").unwrap().xattr_prefix("user.own.").unwrap()),
        ("no checksum", new().checksum(false)),
        ("label", new().label("fifteen bytes!!").unwrap().uuid([7; 16])),
    ]
}

#[test]
fn the_kernel_shows_what_was_written() {
    let test = "the_kernel_shows_what_was_written";
    if !can_mount(test) {
        return;
    }
    let peers = Peers::find(test);
    let folder = match &peers {
        Some(peers) => peers.folder(),
        None => tempfile::tempdir().unwrap(),
    };
    let source = folder.path().join("tree");
    make_varied_tree(&source);
    let expected = listing_of_directory(&source);
    for (name, options) in variants() {
        for streamed in [false, true] {
            eprintln!("{name}{}", if streamed { ", streamed" } else { "" });
            let path = folder.path().join("image");
            let out =
                fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            let summary = if streamed {
                stream_of(&source, &options, out).1
            } else {
                let (tree, files) = tree_of(&source);
                let plan = ImagePlan::new(tree, &options, &files).unwrap();
                plan.write(out, &files).unwrap().1
            };
            assert_eq!(fs::metadata(&path).unwrap().len(), summary.size);
            assert_eq!(
                summary.inodes,
                expected.values().filter(|seen| seen.link_to.is_none()).count() as u64
            );
            let image = Image::open(FileSource::open(&path).unwrap()).unwrap();
            assert_same(&listing(&image), &expected);
            assert_eq!(image.check(&CheckOptions::new().jobs(3)).unwrap().findings, []);
            let mount = Mount::new(&path, &[]);
            assert_same(&listing_of_directory(mount.path()), &expected);
            drop(mount);
            if let Some(peers) = &peers {
                check_with_fsck(peers, &path, &expected);
                check_with_dump(peers, &path, &expected);
            }
        }
    }
}

/// Lets fsck.erofs extract an image, which must give the tree that it was made from.
fn check_with_fsck(peers: &Peers, path: &Path, expected: &Listing) {
    let out = path.with_file_name("out");
    let extract = format!("--extract={}", peers.inside(&out));
    peers.run(&["fsck.erofs", "--preserve", "--xattrs", &extract, &peers.inside(path)]);
    let mut extracted = listing_of_directory(&out);
    for (path, seen) in expected {
        // fsck.erofs 1.9 stops at a value of no bytes.
        if seen.xattrs.values().any(Vec::is_empty) {
            extracted.get_mut(path).unwrap().xattrs = seen.xattrs.clone();
        }
    }
    assert_same(&extracted, expected);
    fs::remove_dir_all(&out).unwrap();
}

/// Lets dump.erofs count the files of an image.
fn check_with_dump(peers: &Peers, path: &Path, expected: &Listing) {
    let printed = peers.run(&["dump.erofs", "-S", &peers.inside(path)]);
    let count = |label: &str| -> usize {
        let line = printed.lines().find(|line| line.starts_with(label)).unwrap();
        line.rsplit(|c: char| c.is_whitespace()).next().unwrap().parse().unwrap()
    };
    let of_type = |bits: u16| expected.values().filter(|seen| seen.mode & 0o170_000 == bits).count();
    assert_eq!(count("Filesystem regular file count"), of_type(0o100_000));
    assert_eq!(count("Filesystem directory count"), of_type(0o040_000));
    assert_eq!(count("Filesystem symlink file count"), of_type(0o120_000));
    assert_eq!(count("Filesystem SOCK file count"), 1);
}
