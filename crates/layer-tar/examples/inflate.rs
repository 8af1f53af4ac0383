//! Decompresses a gzip blob, and does nothing with what comes out: the time that is left when all else of a conversion
//! costs nothing. Prints how many bytes there were.

use std::{
    fs::File,
    io::{Read, Write},
};

use flate2::bufread::MultiGzDecoder;

fn main() -> std::io::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_default();
    let file = std::io::BufReader::with_capacity(256 << 10, File::open(path)?);
    let mut decoder = MultiGzDecoder::new(file);
    let (mut buffer, mut count) = (vec![0; 512 << 10], 0);
    loop {
        match decoder.read(&mut buffer)? {
            0 => return writeln!(std::io::stdout(), "{{\"bytes\": {count}}}"),
            n => count += n,
        }
    }
}
