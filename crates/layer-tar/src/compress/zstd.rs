//! Zstandard (RFC 8878): a frame a block, encoded by the reference library.

use layer_model::{Error, ErrorKind, IoContext, MediaType, Result, media};
use zstd::{
    bulk::Compressor,
    zstd_safe::{CParameter, compress_bound},
};

use super::{BlockEncoder, Codec};

/// How many bytes go into a frame: enough for the window of the default level, so that little is lost by
/// starting anew.
const FRAME: usize = 4 << 20;

/// Zstandard, as the type `application/vnd.oci.image.layer.v1.tar+zstd` has it. Frames carry their content's
/// size and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zstd {
    level: i32,
}

impl Zstd {
    /// zstd of a level from 1 to 22; negative levels are faster still.
    pub fn new(level: i32) -> Self {
        Self { level }
    }
}

impl Default for Zstd {
    /// Level 3, the library's own default.
    fn default() -> Self {
        Self::new(3)
    }
}

impl Codec for Zstd {
    fn media_type(&self) -> MediaType {
        MediaType::layer_tar_in(media::Compression::Zstd)
    }

    fn block_len(&self) -> usize {
        FRAME
    }

    fn encoder(&self) -> Result<Option<Box<dyn BlockEncoder>>> {
        if !zstd::compression_level_range().contains(&self.level) {
            let message = format!("zstd has no level {}", self.level);
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut compressor = Compressor::new(self.level).during("start zstd")?;
        compressor.set_parameter(CParameter::ChecksumFlag(true)).during("start zstd")?;
        Ok(Some(Box::new(Encoder { compressor })))
    }
}

struct Encoder {
    compressor: Compressor<'static>,
}

impl BlockEncoder for Encoder {
    fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        let bound = compress_bound(block.len());
        if out.len() < bound {
            out.resize(bound, 0);
        }
        self.compressor.compress_to_buffer(block, &mut out[..]).during("compress with zstd")
    }
}
