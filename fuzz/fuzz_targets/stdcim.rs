//! Any bytes as the files of a standard CIM, read by walk, by path and by stream, as a layer and as a tree: no panic, no
//! endless work, no large allocation.
#![no_main]

use cim_writer_abstraction::{
    stdcim::{File, Image, ImageEvents},
    wcow::WcowChanges,
};
use layer_model::{LayerSource, ReadAt, Silent, walk::TreeSource};
use layerkit_fuzz::Pack;
use libfuzzer_sys::fuzz_target;

/// Directories can share their lists, and a walk through all of them is as long as the number of ways.
const ENTRIES: usize = 2000;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::open_in(&Pack::new(data), "image") else { return };
    for entry in image.walk().take(ENTRIES) {
        let Ok(entry) = entry else { break };
        look_at(&entry.file);
        // In a sound tree, each path leads to what the walk found there.
        if let Ok(found) = image.lookup(&entry.path) {
            assert_eq!(found.map(|file| file.id()), Some(entry.file.id()), "{}", entry.path);
        }
    }
    drain(&mut WcowChanges::new(ImageEvents::new(&image)));
    drain(&mut TreeSource::new(&image, &Silent));
});

fn drain(source: &mut dyn LayerSource) {
    for _ in 0..ENTRIES {
        if !matches!(source.next_change(), Ok(Some(_))) {
            break;
        }
    }
}

fn look_at(file: &File) {
    let _ = file.meta();
    if let Ok(stream) = file.open() {
        let _ = read_ends(&stream);
    }
    let Ok(streams) = file.streams() else { return };
    for entry in streams.iter().take(20) {
        if let Ok(stream) = file.open_entry(entry) {
            let _ = read_ends(&stream);
        }
        assert!(!matches!(file.open_stream(&entry.name), Ok(None)), "{}", entry.name);
    }
}

/// Sizes go up to 2^48: what is there matters, not what is claimed.
fn read_ends(stream: &dyn ReadAt) -> std::io::Result<()> {
    let mut buf = [0; 4096];
    for at in [0, stream.len()?.saturating_sub(100), stream.len()? / 2, u64::MAX] {
        stream.read_at(&mut buf, at)?;
    }
    Ok(())
}
