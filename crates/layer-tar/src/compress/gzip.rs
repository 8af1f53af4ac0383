//! gzip (RFC 1952): a member a block.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use layer_model::{Error, ErrorKind, MediaType, Result, media};

use super::{BlockEncoder, Codec};

/// How many bytes go into a member. Each member starts without history, which costs about a kilobyte: at this
/// size that is a thousandth of the output, and the blocks of all threads still fit into little memory.
const MEMBER: usize = 2 << 20;

/// The header of a member: no name, no time, an operating system that is not told.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// CRC and length, behind the data.
const TRAILER: usize = 8;

/// gzip, as the type `application/vnd.oci.image.layer.v1.tar+gzip` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gzip {
    level: Option<u8>,
    backend: Backend,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Backend {
    #[default]
    Rust,
    #[cfg(feature = "libdeflate")]
    Libdeflate,
}

impl Gzip {
    /// gzip of a level from 0 (stored) to 9 (smallest); libdeflate goes up to 12. [`Gzip::default`] is the
    /// level at which the output is no larger than that of Go's default level.
    pub fn new(level: u8) -> Self {
        Self { level: Some(level), backend: Backend::default() }
    }

    /// The same, encoded by libdeflate: other bytes, fewer of them, in about half the time.
    #[cfg(feature = "libdeflate")]
    #[must_use]
    pub fn with_libdeflate(mut self) -> Self {
        self.backend = Backend::Libdeflate;
        self
    }

    fn check(level: u8, max: u8) -> Result<u8> {
        if level <= max {
            Ok(level)
        } else {
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("gzip has no level {level} here, only 0 to {max}"),
            ))
        }
    }
}

impl Codec for Gzip {
    fn media_type(&self) -> MediaType {
        MediaType::layer_tar_in(media::Compression::Gzip)
    }

    fn block_len(&self) -> usize {
        MEMBER
    }

    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>> {
        Ok(Some(match self.backend {
            Backend::Rust => {
                let level = Self::check(self.level.unwrap_or(DEFAULT_LEVEL), 9)?;
                Box::new(RustEncoder { deflate: Compress::new(Compression::new(level.into()), false) })
            }
            #[cfg(feature = "libdeflate")]
            Backend::Libdeflate => {
                let level = Self::check(self.level.unwrap_or(libdeflate::DEFAULT_LEVEL), 12)?;
                Box::new(libdeflate::Encoder::new(level)?)
            }
        }))
    }
}

/// The level of zlib-rs whose output is no larger than Go's at its default: level 6 is up to four thousandths
/// larger on layers of Debian packages and Python wheels.
const DEFAULT_LEVEL: u8 = 7;

/// Encodes by zlib-rs, in Rust.
struct RustEncoder {
    deflate: Compress,
}

impl BlockEncoder for RustEncoder {
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        self.deflate.reset();
        let mut len = HEADER.len();
        loop {
            // Data that does not compress grows by five bytes every 16 KiB; the rest is room for small blocks.
            let room = len + block.len() / 1024 + block.len() + 1024 + TRAILER;
            if out.len() < room {
                out.resize(room, 0);
            }
            let taken = usize::try_from(self.deflate.total_in()).unwrap_or(usize::MAX);
            let end = out.len() - TRAILER;
            let (before, rest) = (self.deflate.total_out(), &block[taken..]);
            let status = self.deflate.compress(rest, &mut out[len..end], FlushCompress::Finish);
            len += usize::try_from(self.deflate.total_out() - before).unwrap_or(usize::MAX);
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(_) => out.resize(out.len() * 2, 0),
                Err(error) => {
                    return Err(Error::new(ErrorKind::Io(None), "compress with zlib-rs").cause(error));
                }
            }
        }
        let mut crc = Crc::new();
        crc.update(block);
        Ok(close(block, crc.sum(), len, out))
    }
}

/// Puts header and trailer around `out[HEADER..len]`, and gives the length of it all.
fn close(block: &[u8], crc: u32, len: usize, out: &mut [u8]) -> usize {
    out[..HEADER.len()].copy_from_slice(&HEADER);
    out[len..len + 4].copy_from_slice(&crc.to_le_bytes());
    // The format has the length modulo 2^32.
    out[len + 4..len + TRAILER].copy_from_slice(&(block.len() as u32).to_le_bytes());
    len + TRAILER
}

#[cfg(feature = "libdeflate")]
mod libdeflate {
    use layer_model::{Error, ErrorKind, Result};
    use libdeflater::{CompressionLvl, Compressor, crc32};

    use super::{BlockEncoder, HEADER, TRAILER, close};

    /// The fastest level of libdeflate whose output is no larger than Go's at its default on layers of Debian
    /// packages and on programs; level 4 is up to a hundredth larger on the latter.
    pub(super) const DEFAULT_LEVEL: u8 = 5;

    /// Encodes by libdeflate, in C.
    pub(super) struct Encoder {
        deflate: Compressor,
    }

    impl Encoder {
        pub(super) fn new(level: u8) -> Result<Self> {
            let level = CompressionLvl::new(level.into()).map_err(|error| {
                Error::new(ErrorKind::InvalidArgument, format!("libdeflate has no level {level}: {error:?}"))
            })?;
            Ok(Self { deflate: Compressor::new(level) })
        }
    }

    impl BlockEncoder for Encoder {
        fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<usize> {
            let bound = HEADER.len() + self.deflate.deflate_compress_bound(block.len()) + TRAILER;
            if out.len() < bound {
                out.resize(bound, 0);
            }
            let end = out.len() - TRAILER;
            let packed = self.deflate.deflate_compress(block, &mut out[HEADER.len()..end]);
            let packed = packed
                .map_err(|error| Error::new(ErrorKind::Io(None), "compress with libdeflate").cause(error))?;
            Ok(close(block, crc32(block), HEADER.len() + packed, out))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn codecs() -> Vec<Gzip> {
        vec![
            Gzip::default(),
            Gzip::new(0),
            Gzip::new(1),
            Gzip::new(9),
            #[cfg(feature = "libdeflate")]
            Gzip::default().with_libdeflate(),
            #[cfg(feature = "libdeflate")]
            Gzip::new(12).with_libdeflate(),
        ]
    }

    #[test]
    fn members_hold_their_blocks() {
        let text = "layer ".repeat(10_000);
        let noise: Vec<u8> = (0_u32..100_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for codec in codecs() {
            let mut encoder = codec.encoder().unwrap().unwrap();
            let (mut stream, mut out) = (Vec::new(), Vec::new());
            for block in [text.as_bytes(), &noise, b"", b"x"] {
                let len = encoder.encode(block, &mut out).unwrap();
                stream.extend_from_slice(&out[..len]);
            }
            let mut back = Vec::new();
            MultiGzDecoder::new(&stream[..]).read_to_end(&mut back).unwrap();
            assert!(back == [text.as_bytes(), &noise, b"x"].concat(), "{codec:?}");
        }
    }

    #[test]
    fn levels_are_honoured_and_others_refused() {
        let text: String = (0..20_000).map(|n| format!("{} ", n * n % 7919)).collect();
        let size = |level| {
            Gzip::new(level).encoder().unwrap().unwrap().encode(text.as_bytes(), &mut Vec::new()).unwrap()
        };
        assert!(size(0) > size(1) && size(1) > size(9));
        assert_eq!(Gzip::new(10).encoder().err().unwrap().kind(), &ErrorKind::InvalidArgument);
    }
}
