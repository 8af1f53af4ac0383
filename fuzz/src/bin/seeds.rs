//! Writes a corpus for every target, a file for each path through the code: `cargo run --bin seeds`.

#[path = "../../../crates/cim-writer-abstraction/tests/support/vector.rs"]
mod vector;
#[path = "../../../crates/cim-writer-abstraction/tests/support/written.rs"]
mod written;

use std::{error::Error, fs, io::Write, path::Path};

use layer_model::{Silent, road, testing::MemoryLayer};
use layer_tar::{
    BlobWriter, BlobWriterOptions, TarSink, WriteOptions,
    compress::{Codec, Gzip, Plain, Zstd},
};
use layerkit_fuzz::Pack;

fn main() -> Result<(), Box<dyn Error>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, tar) in tars()? {
        for target in ["tar_read", "tar_round_trip"] {
            put(&corpus.join(target), name, &tar)?;
        }
        let codecs: [(&str, Box<dyn Codec>); 3] = [
            ("plain", Box::new(Plain)),
            ("gzip", Box::new(Gzip::new(1))),
            ("zstd", Box::new(Zstd::default())),
        ];
        for (codec_name, codec) in codecs {
            let mut writer = BlobWriter::new(Vec::new(), codec, BlobWriterOptions::default().jobs(1))?;
            writer.write_all(&tar)?;
            put(&corpus.join("blob_open"), &format!("{name}.{codec_name}"), &writer.finish()?.0)?;
        }
    }
    for (name, tar) in cim_writer_abstraction::testing::archives::all() {
        put(&corpus.join("wcow"), name, &tar)?;
    }
    for (name, files, image) in cims() {
        put(&corpus.join("stdcim"), name, &Pack::pack(&files, image))?;
    }
    Ok(())
}

/// Standard CIMs: their files, and the name of the image.
fn cims() -> [(&'static str, vector::Files, &'static str); 3] {
    let written = written::files();
    [
        ("vector", vector::files(), vector::NAME),
        ("fork", written.clone(), vector::NAME),
        ("base", written, "base"),
    ]
}

fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(name), bytes)?;
    Ok(())
}

fn tars() -> Result<Vec<(&'static str, Vec<u8>)>, Box<dyn Error>> {
    let plain =
        MemoryLayer::new().dir("d", 0o755).file("d/f", "content").symlink("l", "d/f").link("h", "d/f");
    let markers = MemoryLayer::new().opaque("d").whiteout("gone").whiteout("d/gone");
    let nodes = MemoryLayer::new().char_device("c", 1, 3).fifo("p");
    let long = MemoryLayer::new()
        .file(&"n".repeat(150), "x")
        .file(&format!("{}/{}", "d".repeat(90), "f".repeat(90)), "x")
        .xattr(&"n".repeat(150), "user.name", b"value")
        .mtime(&"n".repeat(150), 1_700_000_000, 5);
    let mut all = Vec::new();
    for (name, layer) in [("plain", plain), ("markers", markers), ("nodes", nodes), ("long", long)] {
        let sink = TarSink::new(Vec::new(), WriteOptions::default().nanoseconds(true), &Silent);
        all.push((name, road::pump(&mut layer.changes(), sink, &Silent)?.0));
    }
    all.extend(layer_tar::testing::odd_tars());
    Ok(all)
}
