//! gzip (RFC 1952): a member a block, or a few where parts of it do not compress.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use layer_model::{Error, ErrorKind, MediaType, Result, media};

use super::{
    BlockEncoder, Codec,
    noise::{Stretch, stretches},
};

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
                Box::new(Encoder(ZlibRs(Compress::new(Compression::new(level.into()), false))))
            }
            #[cfg(feature = "libdeflate")]
            Backend::Libdeflate => {
                let level = Self::check(self.level.unwrap_or(libdeflate::DEFAULT_LEVEL), 12)?;
                Box::new(Encoder(libdeflate::Libdeflate::new(level)?))
            }
        }))
    }
}

/// The level of zlib-rs whose output is no larger than Go's at its default: level 6 is up to four thousandths
/// larger on layers of Debian packages and Python wheels.
const DEFAULT_LEVEL: u8 = 7;

/// A deflate (RFC 1951) of one library, at one level.
trait Deflate: Send {
    /// As much as `len` bytes can become.
    fn bound(&mut self, len: usize) -> usize;

    /// Makes `data` a whole stream at the start of `out`, which has the room of [`Deflate::bound`]. Returns the
    /// length of the stream.
    fn deflate(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize>;

    fn crc(data: &[u8]) -> u32;
}

/// Makes members: one of every stretch that compresses, and one of every stretch that does not.
struct Encoder<D>(D);

impl<D: Deflate> BlockEncoder for Encoder<D> {
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        let mut len = 0;
        for stretch in stretches(block) {
            let (range, bound) = match &stretch {
                Stretch::Plain(range) => (range.clone(), self.0.bound(range.len())),
                Stretch::Noise(range) => (range.clone(), stored_len(range.len())),
            };
            let room = len + HEADER.len() + bound + TRAILER;
            if out.len() < room {
                out.resize(room, 0);
            }
            let data = &block[range];
            let member = &mut out[len..];
            member[..HEADER.len()].copy_from_slice(&HEADER);
            let body = &mut member[HEADER.len()..];
            let packed = match stretch {
                Stretch::Plain(_) => self.0.deflate(data, body)?,
                Stretch::Noise(_) => store(data, body),
            };
            body[packed..packed + 4].copy_from_slice(&D::crc(data).to_le_bytes());
            // The format has the length modulo 2^32.
            body[packed + 4..packed + TRAILER].copy_from_slice(&(data.len() as u32).to_le_bytes());
            len += HEADER.len() + packed + TRAILER;
        }
        Ok(len)
    }
}

/// The most that a block of stored bytes holds, and the length of its header (RFC 1951, section 3.2.4).
const STORED: (usize, usize) = (0xffff, 5);

fn stored_len(len: usize) -> usize {
    len + len.div_ceil(STORED.0) * STORED.1
}

/// Makes `data`, of which there is some, a stream of stored blocks at the start of `out`. Returns its length.
fn store(data: &[u8], out: &mut [u8]) -> usize {
    let last = data.len().div_ceil(STORED.0) - 1;
    let mut end = 0;
    for (n, part) in data.chunks(STORED.0).enumerate() {
        let len = part.len() as u16;
        out[end] = u8::from(n == last);
        out[end + 1..end + 3].copy_from_slice(&len.to_le_bytes());
        out[end + 3..end + 5].copy_from_slice(&(!len).to_le_bytes());
        end += STORED.1;
        out[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    end
}

/// zlib-rs, in Rust.
struct ZlibRs(Compress);

impl Deflate for ZlibRs {
    /// At level 1, zlib-rs writes no stored blocks, and nine bits for half of all bytes; the rest is room for
    /// small blocks.
    fn bound(&mut self, len: usize) -> usize {
        len + len / 8 + 1024
    }

    fn deflate(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize> {
        self.0.reset();
        let failed = || Error::new(ErrorKind::Io(None), "compress with zlib-rs");
        match self.0.compress(data, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => Ok(usize::try_from(self.0.total_out()).unwrap_or(usize::MAX)),
            Ok(status) => {
                Err(failed().cause(std::io::Error::other(format!("no end of the stream: {status:?}"))))
            }
            Err(error) => Err(failed().cause(error)),
        }
    }

    fn crc(data: &[u8]) -> u32 {
        let mut crc = Crc::new();
        crc.update(data);
        crc.sum()
    }
}

#[cfg(feature = "libdeflate")]
mod libdeflate {
    use layer_model::{Error, ErrorKind, Result};
    use libdeflater::{CompressionLvl, Compressor, crc32};

    use super::Deflate;

    /// The fastest level of libdeflate whose output is no larger than Go's at its default on layers: a hundredth
    /// smaller on those of Debian packages, the same on programs, though up to four hundredths larger on source
    /// text alone. Level 5 is smaller than Go's on all of them.
    pub(super) const DEFAULT_LEVEL: u8 = 2;

    /// libdeflate, in C.
    pub(super) struct Libdeflate(Compressor);

    impl Libdeflate {
        pub(super) fn new(level: u8) -> Result<Self> {
            let level = CompressionLvl::new(level.into()).map_err(|error| {
                Error::new(ErrorKind::InvalidArgument, format!("libdeflate has no level {level}: {error:?}"))
            })?;
            Ok(Self(Compressor::new(level)))
        }
    }

    impl Deflate for Libdeflate {
        fn bound(&mut self, len: usize) -> usize {
            self.0.deflate_compress_bound(len)
        }

        fn deflate(&mut self, data: &[u8], out: &mut [u8]) -> Result<usize> {
            self.0
                .deflate_compress(data, out)
                .map_err(|error| Error::new(ErrorKind::Io(None), "compress with libdeflate").cause(error))
        }

        fn crc(data: &[u8]) -> u32 {
            crc32(data)
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
