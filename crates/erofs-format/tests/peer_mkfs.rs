//! Images made by mkfs.erofs with every option that concerns uncompressed data: what we read is what the
//! kernel shows.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use common::{Mount, Peers, assert_same, can_mount, listing, listing_of_directory, trees::make_varied_tree};
use erofs_format::{CheckOptions, FileSource, Image, OpenOptions};

/// Options, and whether mkfs.erofs is given an extra device to write data to.
const VARIANTS: &[(&str, bool)] = &[
    ("", false),
    ("-b512", false),
    ("-b1024", false),
    ("-b2048", false),
    ("-Enoinline_data", false),
    ("-Eforce-inode-extended", false),
    ("-Eforce-inode-compact --all-root", false),
    ("-T1700000000 --all-time", false),
    ("-x1", false),
    ("-x-1", false),
    ("--xattr-prefix=trusted.overlay. --xattr-prefix=user.own.", false),
    ("-E^xattr-name-filter", false),
    ("--chunksize=4096", false),
    ("--chunksize=65536", false),
    ("--chunksize=4096 -Eforce-chunk-indexes", false),
    ("--chunksize=4096", true),
    ("--chunksize=1048576", true),
    ("-E48bit", false),
    ("-E48bit,dot-omitted", false),
    ("--MZ", false),
    ("--MZ=id", false),
    ("-L label -U 00112233-4455-6677-8899-aabbccddeeff", false),
    ("--dsunit=16", false),
    ("--fsalignblks=64", false),
    ("--hard-dereference", false),
    ("-Eplain-xattr-prefixes --xattr-prefix=user.own.", false),
    ("--xattr-inode-digest=trusted.erofs.fp", false),
    ("--root-xattr-isize=500", false),
];

#[test]
fn images_by_mkfs_read_as_the_kernel_shows_them() {
    let test = "images_by_mkfs_read_as_the_kernel_shows_them";
    let Some(peers) = Peers::find(test) else { return };
    if !can_mount(test) {
        return;
    }
    let folder = peers.folder();
    let tree = folder.path().join("tree");
    make_varied_tree(&tree);
    for (number, (options, with_device)) in VARIANTS.iter().enumerate() {
        let path = folder.path().join(format!("{number}.erofs"));
        let blob = folder.path().join(format!("{number}.blob"));
        let blob_option = format!("--blobdev={}", peers.inside(&blob));
        let (image_inside, tree_inside) = (peers.inside(&path), peers.inside(&tree));
        let mut command = vec!["mkfs.erofs", "--quiet"];
        command.extend(options.split_whitespace());
        if *with_device {
            command.push(&blob_option);
        }
        command.extend([&image_inside[..], &tree_inside]);
        peers.run(&command);
        eprintln!("mkfs.erofs {options} {}", if *with_device { "with a device" } else { "" });
        let devices: Vec<&std::path::Path> = with_device.then_some(&*blob).into_iter().collect();
        let mount = Mount::new(&path, &devices);
        let mut open = OpenOptions::new();
        if *with_device {
            open = open.device(FileSource::open(&blob).unwrap());
        }
        let image = open.open(FileSource::open(&path).unwrap()).unwrap();
        let shown = listing_of_directory(mount.path());
        assert!(shown.len() > 770);
        assert_same(&listing(&image), &shown);
        let report = image.check(&CheckOptions::new().jobs(2)).unwrap();
        for finding in &report.findings {
            eprintln!("  {finding}");
        }
        assert!(report.is_sound());
        for name in ["sub/-dash", "sub/~tilde", "many/0699-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"] {
            assert!(image.lookup(name).is_ok(), "{name}");
        }
        let resolved = image.resolve_path("short-link/../-dash").unwrap();
        assert_eq!(resolved, image.lookup("/sub/./-dash").unwrap());
    }
}

#[test]
fn each_xattr_is_found_by_name_too() {
    let Some(peers) = Peers::find("each_xattr_is_found_by_name_too") else { return };
    let folder = peers.folder();
    let tree = folder.path().join("tree");
    make_varied_tree(&tree);
    let path = folder.path().join("image");
    let (image_inside, tree_inside) = (peers.inside(&path), peers.inside(&tree));
    peers.run(&["mkfs.erofs", "--quiet", "--xattr-prefix=user.own.", &image_inside, &tree_inside]);
    let image = Image::open(FileSource::open(&path).unwrap()).unwrap();
    let mut count = 0;
    for entry in image.walk() {
        let inode = entry.unwrap().inode;
        for xattr in image.xattrs(&inode).unwrap() {
            assert_eq!(image.xattr(&inode, &xattr.name).unwrap().as_deref(), Some(&*xattr.value));
            count += 1;
        }
        for absent in ["user.absent", "trusted.overlay.opaque", "system.posix_acl_access"] {
            assert!(image.xattr(&inode, absent.as_bytes()).unwrap().is_none());
        }
    }
    assert!(count > 100);
}
