//! Reads a layer blob to its end, checks it, and says what it was: `layer-info FILE MEDIA-TYPE [--bytes]`.
//!
//! With `--bytes` the content is only decompressed and hashed, not read as a tar.

use std::{env, fs::File, time::Instant};

use layer_model::{Error, ErrorKind, IoContext, LayerSource, MediaType, Result, Silent};
use layer_tar::{BlobOptions, LayerBlob, ReadOptions};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, media_type, rest @ ..] = &args[..] else {
        return Err(Error::new(ErrorKind::InvalidArgument, "usage: layer-info FILE MEDIA-TYPE [--bytes]"));
    };
    let media_type: MediaType = media_type.parse()?;
    let file = File::open(path).during("open blob")?;
    let start = Instant::now();
    let blob = LayerBlob::open(file, &media_type, BlobOptions::default(), &Silent)?;
    let mut changes = 0_u64;
    let summary = if rest.iter().any(|arg| arg == "--bytes") {
        blob.finish()?
    } else {
        let mut source = blob.into_source(ReadOptions::default())?;
        while source.next_change()?.is_some() {
            changes += 1;
        }
        source.summary().cloned().ok_or_else(|| Error::new(ErrorKind::Truncated, "no summary"))?
    };
    let seconds = start.elapsed().as_secs_f64();
    println!("digest   {} ({} bytes)", summary.digest, summary.size);
    println!("diff id  {} ({} bytes)", summary.diff_id, summary.diff_size);
    println!(
        "{changes} changes in {seconds:.3} s, {:.0} MB/s of content",
        summary.diff_size as f64 / seconds / 1e6
    );
    Ok(())
}
