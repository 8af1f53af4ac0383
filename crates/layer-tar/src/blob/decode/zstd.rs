//! Zstandard (RFC 8878), decoded in Rust.
//!
//! Frames and blocks are told apart here, so that the decoder is given one whole block at a time and memory
//! stays at a window and a block whatever the input is.

use std::io::Read;

use layer_model::{Error, ErrorKind, Result};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, errors::FrameDecoderError};

use super::{Decoder, Step};

/// The most bytes that a block may have, compressed or not.
const MAX_BLOCK: usize = 128 * 1024;

/// Frames and skippable frames in a row.
pub(super) struct Unzstd {
    frame: FrameDecoder,
    state: State,
    /// What is needed before the state can go on, and what there is of it.
    held: Vec<u8>,
    want: usize,
    /// Whether a checksum follows the last block of this frame.
    has_checksum: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Magic and descriptor of a frame, or magic and half a length of a skippable one; or the end.
    Magic,
    /// The rest of the length of a skippable frame.
    SkipLength,
    Skip(u32),
    FrameHeader,
    BlockHeader,
    Block {
        last: bool,
    },
    /// The output of a block is being taken.
    Output {
        last: bool,
    },
}

impl Unzstd {
    pub(super) fn new(max_window: u64) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(max_window);
        Self { frame, state: State::Magic, held: Vec::new(), want: 5, has_checksum: false }
    }

    fn go(&mut self, state: State, want: usize) {
        self.state = state;
        self.want = want;
    }

    fn next_frame(&mut self) {
        self.held.clear();
        self.go(State::Magic, 5);
    }

    /// Goes on with what was held, all that was wanted.
    fn part(&mut self) -> Result<()> {
        match self.state {
            State::Magic => match self.held[..] {
                [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => self.go(State::SkipLength, 8),
                [0x28, 0xb5, 0x2f, 0xfd, descriptor, ..] => {
                    self.has_checksum = descriptor & 4 != 0;
                    let single_segment = descriptor & 0x20 != 0;
                    let size = match descriptor >> 6 {
                        0 => usize::from(single_segment),
                        power => 1 << power,
                    };
                    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
                    self.go(State::FrameHeader, 5 + usize::from(!single_segment) + dictionary + size);
                    // A header may be complete with its descriptor already.
                    if self.held.len() == self.want {
                        return self.part();
                    }
                }
                _ => return Err(invalid("no zstd frame where one has to be")),
            },
            State::SkipLength => {
                let length = u32::from_le_bytes([self.held[4], self.held[5], self.held[6], self.held[7]]);
                if length == 0 {
                    self.next_frame();
                } else {
                    self.go(State::Skip(length), 0);
                }
            }
            State::FrameHeader => {
                self.frame.reset(&self.held[..]).map_err(frame_error)?;
                self.held.clear();
                self.go(State::BlockHeader, 3);
            }
            State::BlockHeader => {
                let header = u32::from_le_bytes([self.held[0], self.held[1], self.held[2], 0]);
                let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
                let content = if kind == 1 { 1 } else { size as usize };
                if content > MAX_BLOCK {
                    return Err(invalid("zstd block is too large"));
                }
                let checksum = if last && self.has_checksum { 4 } else { 0 };
                self.go(State::Block { last }, 3 + content + checksum);
                if self.held.len() == self.want {
                    return self.part();
                }
            }
            State::Block { last } => {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.frame.decode_blocks(&self.held[..], one).map_err(frame_error)?;
                self.held.clear();
                self.go(State::Output { last }, 0);
            }
            State::Skip(_) | State::Output { .. } => {}
        }
        Ok(())
    }
}

impl Decoder for Unzstd {
    fn decode(&mut self, mut input: &[u8], out: &mut [u8]) -> Result<Step> {
        let given = input.len();
        let mut produced = 0;
        loop {
            match self.state {
                State::Output { last } => {
                    let n = self.frame.read(&mut out[produced..]);
                    let n = n.map_err(|error| invalid("zstd data is corrupt").cause(error))?;
                    produced += n;
                    if produced == out.len() {
                        break;
                    }
                    if n == 0 && last {
                        let stored = self.frame.get_checksum_from_data();
                        if stored.is_some() && stored != self.frame.get_calculated_checksum() {
                            return Err(invalid("zstd checksum is wrong"));
                        }
                        self.next_frame();
                    } else if n == 0 {
                        self.go(State::BlockHeader, 3);
                    }
                }
                State::Skip(left) => {
                    let n = input.len().min(left as usize);
                    input = &input[n..];
                    // Not more than `left`, so that it fits.
                    match left - n as u32 {
                        0 => self.next_frame(),
                        left => self.state = State::Skip(left),
                    }
                    if input.is_empty() {
                        break;
                    }
                }
                _ => {
                    let n = input.len().min(self.want - self.held.len());
                    self.held.extend_from_slice(&input[..n]);
                    input = &input[n..];
                    if self.held.len() < self.want {
                        break;
                    }
                    self.part()?;
                }
            }
        }
        Ok(Step { consumed: given - input.len(), produced })
    }

    fn end(&mut self) -> Result<()> {
        if self.state == State::Magic && self.held.is_empty() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Truncated, "zstd stream ends early"))
        }
    }
}

fn frame_error(error: FrameDecoderError) -> Error {
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, max } => {
            let message = format!("zstd frame asks for a window of {requested} bytes, {max} are allowed");
            Error::new(ErrorKind::LimitExceeded { limit: "max_window" }, message)
        }
        FrameDecoderError::DictNotProvided { .. } => invalid("zstd frame needs a dictionary").cause(error),
        _ => invalid("zstd data is corrupt").cause(error),
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}
