//! Any bytes as an image, read by path, by walk and by content: no panic, no endless work, no large allocation.
#![no_main]

use std::io::Read;

use erofs_format::{Memory, OpenOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for lenient in [false, true] {
        let Ok(image) = OpenOptions::new().lenient(lenient).open(Memory(data.to_vec())) else { continue };
        for entry in image.walk() {
            let Ok(entry) = entry else { break };
            let _ = image.xattrs(&entry.inode);
            let _ = image.xattr(&entry.inode, b"trusted.overlay.opaque");
            let _ = image.read_link(&entry.inode);
            // Sizes go up to 2^63: what is there matters, not what is claimed.
            let _ = image.file(entry.inode.clone()).take(1 << 16).read_to_end(&mut Vec::new());
            let _ = image.extents(&entry.inode).take(100).count();
        }
        // In a sound tree, each name leads to what the walk found there.
        let entries: Result<Vec<_>, _> = image.walk().collect();
        for entry in entries.into_iter().flatten().filter(|_| !lenient) {
            assert_eq!(image.lookup(&entry.path).ok(), Some(entry.inode));
        }
        let _ = image.resolve_path("a/../b/c");
    }
});
