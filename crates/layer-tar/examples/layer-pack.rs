//! Compresses a layer tar into a blob: `layer-pack TAR BLOB plain|gzip|libdeflate|zstd [LEVEL] [JOBS]`.

use std::{env, fs::File, io, time::Instant};

use layer_model::{Error, ErrorKind, IoContext, Result};
use layer_tar::{
    BlobWriter, BlobWriterOptions,
    compress::{Codec, Gzip, Plain},
};

fn codec(name: &str, level: Option<&String>) -> Result<Box<dyn Codec>> {
    let number = || Error::new(ErrorKind::InvalidArgument, "the level is a number");
    let level = level.filter(|level| *level != "-").map(|level| level.parse::<u8>()).transpose();
    let level = level.map_err(|_| number())?;
    let gzip = level.map_or_else(Gzip::default, Gzip::new);
    Ok(match name {
        "plain" => Box::new(Plain),
        "gzip" => Box::new(gzip),
        #[cfg(feature = "libdeflate")]
        "libdeflate" => Box::new(gzip.with_libdeflate()),
        #[cfg(feature = "zstd")]
        "zstd" => Box::new(level.map_or_else(Default::default, |l| layer_tar::compress::Zstd::new(l.into()))),
        _ => return Err(Error::new(ErrorKind::NotSupported, format!("no codec {name:?} in this build"))),
    })
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [tar, blob, name, rest @ ..] = &args[..] else {
        let usage = "usage: layer-pack TAR BLOB plain|gzip|libdeflate|zstd [LEVEL] [JOBS]";
        return Err(Error::new(ErrorKind::InvalidArgument, usage));
    };
    let mut input = File::open(tar).during("open tar")?;
    let output = File::create(blob).during("create blob")?;
    let mut options = BlobWriterOptions::default();
    if let Some(jobs) = rest.get(1).and_then(|jobs| jobs.parse().ok()) {
        options = options.jobs(jobs);
    }
    let start = Instant::now();
    let mut writer = BlobWriter::new(output, codec(name, rest.first())?, options)?;
    io::copy(&mut input, &mut writer).during("compress")?;
    let (_, summary) = writer.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} {} ({} bytes), diff id {}",
        summary.media_type, summary.digest, summary.size, summary.diff_id
    );
    println!("{seconds:.3} s, {:.0} MB/s of content", summary.diff_size as f64 / seconds / 1e6);
    Ok(())
}
