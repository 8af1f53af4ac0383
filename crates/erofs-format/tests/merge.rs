//! Merging layers: what an overlay mount of them would show.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::listing;
use erofs_format::{
    FileData, Image, ImagePlan, Memory, MergeOptions, Metadata, NewFile, NodeId, OpenOptions, Tree,
    WriteOptions, flatten_layers, merge_layers,
};

/// Builds a layer from lines: `path/` is a directory, `path/!` an opaque one, `path=text` a file, `path-` a whiteout.
fn layer(lines: &[&str]) -> Vec<u8> {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    let mut tree = Tree::new(metadata);
    for line in lines {
        let (path, file, opaque) = if let Some(path) = line.strip_suffix("/!") {
            (path, NewFile::Directory, true)
        } else if let Some(path) = line.strip_suffix('/') {
            (path, NewFile::Directory, false)
        } else if let Some(path) = line.strip_suffix('-') {
            (path, NewFile::WHITEOUT, false)
        } else {
            let (path, text) = line.split_once('=').unwrap();
            let data = FileData::Bytes(text.into());
            (path, NewFile::Regular { size: text.len() as u64, data }, false)
        };
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = find(&tree, dir);
        let node = if path.is_empty() {
            tree.root()
        } else {
            tree.add(dir, name.as_bytes(), metadata, file).unwrap()
        };
        if opaque {
            tree.set_xattr(node, b"trusted.overlay.opaque", b"y").unwrap();
        }
    }
    let options = WriteOptions::new().inline_data(false);
    ImagePlan::new(tree, &options, &()).unwrap().write(Vec::new(), &()).unwrap().0
}

fn find(tree: &Tree, path: &str) -> NodeId {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.fold(tree.root(), |dir, name| tree.find(dir, name.as_bytes()).unwrap())
}

/// What a merge shows, as `path=content`, or the path for anything else.
fn merged(layers: &[&[&str]]) -> Vec<String> {
    let bytes: Vec<Vec<u8>> = layers.iter().map(|lines| layer(lines)).collect();
    let images: Vec<Image> = bytes.iter().map(|b| Image::open(Memory(b.clone())).unwrap()).collect();
    let strip = MergeOptions::new().strip_markers(true);
    let (image, _) =
        merge_layers(&images, &strip, &WriteOptions::new()).unwrap().write(Vec::new(), &()).unwrap();
    let mut separate = OpenOptions::new();
    let mut together = image.clone();
    for layer in &bytes {
        separate = separate.device(Memory(layer.clone()));
        together.extend_from_slice(layer);
    }
    let separate = separate.open(Memory(image)).unwrap();
    let together = Image::open(Memory(together)).unwrap();
    let (plan, contents) = flatten_layers(&images, &strip, &WriteOptions::new()).unwrap();
    let flat = Image::open(Memory(plan.write(Vec::new(), &contents).unwrap().0)).unwrap();
    common::assert_same(&listing(&separate), &listing(&together));
    common::assert_same(&listing(&separate), &listing(&flat));
    show(&separate)
}

fn show(image: &Image) -> Vec<String> {
    let mut shown = Vec::new();
    for entry in image.walk().skip(1) {
        let entry = entry.unwrap();
        let path = String::from_utf8(entry.path).unwrap();
        let mut text = String::new();
        let regular = entry.inode.file_type() == erofs_format::FileType::Regular;
        std::io::Read::read_to_string(&mut image.file(entry.inode), &mut text).unwrap_or(0);
        shown.push(if regular { format!("{path}={text}") } else { path });
    }
    shown
}

#[test]
fn layers_merge_as_overlayfs_merges_them() {
    let cases: &[(&[&[&str]], &[&str])] = &[
        (&[&["a=1", "b=1"], &["b=2", "c=2"]], &["a=1", "b=2", "c=2"]),
        (&[&["d/", "d/a=1"], &["d/", "d/b=2"]], &["d", "d/a=1", "d/b=2"]),
        (&[&["a=1", "b=1"], &["a-"]], &["b=1"]),
        (&[&["d/", "d/a=1"], &["d-"]], &[]),
        (&[&["d/", "d/a=1"], &["d/!", "d/b=2"]], &["d", "d/b=2"]),
        (&[&["d/", "d/a=1"], &["d-"], &["d/", "d/b=3"]], &["d", "d/b=3"]),
        // A file between two directories hides the lower one.
        (&[&["d/", "d/a=1"], &["d=file"], &["d/", "d/b=3"]], &["d", "d/b=3"]),
        // A layer that says nothing about a directory does not.
        (&[&["d/", "d/a=1"], &["x=2"], &["d/", "d/b=3"]], &["d", "d/a=1", "d/b=3", "x=2"]),
        // Opaque in the middle: cut off from there on, but not the layer itself.
        (&[&["d/", "d/a=1"], &["d/!", "d/b=2"], &["d/", "d/c=3"]], &["d", "d/b=2", "d/c=3"]),
        (&[&["d/", "d/a=1"], &["d=2"]], &["d=2"]),
        (&[&["d=1"], &["d/", "d/a=2"]], &["d", "d/a=2"]),
        (&[&["a=1"], &["/!", "b=2"]], &["b=2"]),
        (&[&["e/", "e/f/", "e/f/a=1", "e/f/b=1"], &["e/", "e/f/", "e/f/a-"]], &["e", "e/f", "e/f/b=1"]),
        (&[&["only=1"]], &["only=1"]),
    ];
    for (layers, expected) in cases {
        assert_eq!(merged(layers), *expected, "{layers:?}");
    }
}

#[test]
fn markers_stay_unless_stripped() {
    let bytes = [layer(&["a=1", "d/"]), layer(&["a-", "d/!"])];
    let images = bytes.map(|b| Image::open(Memory(b)).unwrap());
    let plan = merge_layers(&images, &MergeOptions::new(), &WriteOptions::new()).unwrap();
    let image = Image::open(Memory(plan.write(Vec::new(), &()).unwrap().0)).unwrap();
    assert!(image.lookup("a").unwrap().is_whiteout());
    let dir = image.lookup("d").unwrap();
    assert_eq!(image.xattr(&dir, b"trusted.overlay.opaque").unwrap().as_deref(), Some(&b"y"[..]));
}

#[test]
fn layers_that_cannot_be_devices_are_refused() {
    let kind = |images: &[Image]| {
        merge_layers(images, &MergeOptions::new(), &WriteOptions::new()).unwrap_err().kind()
    };
    assert_eq!(kind(&[]), erofs_format::ErrorKind::InvalidArgument);
    let build = |options: &WriteOptions, xattr: Option<&str>| {
        let mut tree = Tree::new(Metadata::default());
        let file = NewFile::Regular { size: 3, data: FileData::Bytes(b"abc".to_vec()) };
        let node = tree.add(tree.root(), b"file", Metadata::default(), file).unwrap();
        if let Some(name) = xattr {
            tree.set_xattr(node, name.as_bytes(), b"").unwrap();
        }
        let plan = ImagePlan::new(tree, options, &()).unwrap();
        Image::open(Memory(plan.write(Vec::new(), &()).unwrap().0)).unwrap()
    };
    let plain = WriteOptions::new().inline_data(false);
    assert_eq!(kind(&[build(&WriteOptions::new(), None)]), erofs_format::ErrorKind::Unsupported);
    let small = plain.clone().block_size(512).unwrap();
    assert_eq!(kind(&[build(&plain, None), build(&small, None)]), erofs_format::ErrorKind::InvalidArgument);
    let redirected = build(&plain, Some("trusted.overlay.redirect"));
    assert_eq!(kind(&[redirected]), erofs_format::ErrorKind::UnsupportedMarker { marker: "redirect" });
}
