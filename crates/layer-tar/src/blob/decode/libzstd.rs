//! Zstandard (RFC 8878), decoded by the reference library: about twice as fast as in Rust.

use layer_model::{Error, ErrorKind, IoContext, Result};
use zstd::{
    stream::raw::{Decoder as Stream, InBuffer, Operation, OutBuffer},
    zstd_safe::DParameter,
};

use super::{Decoder, Step};

/// Frames and skippable frames in a row.
pub(super) struct Unzstd {
    stream: Stream<'static>,
    max_window: u64,
    /// Whether everything so far was whole frames.
    at_boundary: bool,
}

/// The smallest and the largest window that the library knows, as powers of two.
const WINDOW_LOGS: (u32, u32) = (10, 31);

impl Unzstd {
    pub(super) fn new(max_window: u64) -> Result<Self> {
        let mut stream = Stream::new().during("start zstd")?;
        let log = max_window.max(1).ilog2().clamp(WINDOW_LOGS.0, WINDOW_LOGS.1);
        stream.set_parameter(DParameter::WindowLogMax(log)).during("start zstd")?;
        Ok(Self { stream, max_window, at_boundary: true })
    }

    fn error(&self, error: std::io::Error) -> Error {
        // The library has a number for this, the binding only its text.
        if error.to_string().contains("too much memory") {
            let message =
                format!("zstd frame asks for a larger window than the {} bytes allowed", self.max_window);
            return Error::new(ErrorKind::LimitExceeded { limit: "max_window" }, message);
        }
        Error::new(ErrorKind::InvalidArchive, "zstd data is corrupt").cause(error)
    }
}

impl Decoder for Unzstd {
    fn decode(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step> {
        // Without input, and at the end of a frame, the library would say that it waits for the next one.
        if input.is_empty() && self.at_boundary {
            return Ok(Step { consumed: 0, produced: 0 });
        }
        let mut input = InBuffer::around(input);
        let mut out = OutBuffer::around(out);
        let hint = self.stream.run(&mut input, &mut out).map_err(|error| self.error(error))?;
        self.at_boundary = hint == 0;
        Ok(Step { consumed: input.pos(), produced: out.pos() })
    }

    fn end(&mut self) -> Result<()> {
        if self.at_boundary {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Truncated, "zstd stream ends early"))
        }
    }
}
