//! gzip (RFC 1952), inflated by zlib-rs.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use layer_model::{Error, ErrorKind, Result};

use super::{Decoder, Step};

/// Header flags: what follows the fixed part.
mod flag {
    pub(super) const HEADER_CRC: u8 = 2;
    pub(super) const EXTRA: u8 = 4;
    pub(super) const NAME: u8 = 8;
    pub(super) const COMMENT: u8 = 16;
}

/// Members in a row, then nothing or NUL bytes. Headers are skipped; CRC and length are checked.
pub(super) struct Gunzip {
    state: State,
    flags: u8,
    inflate: Decompress,
    crc: Crc,
    /// Bytes of a fixed-size part: a header, a length, a trailer.
    held: [u8; 10],
    held_len: usize,
}

/// Which part of a member comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The fixed header, which has to come.
    Header,
    ExtraLength,
    Extra(u16),
    Name,
    Comment,
    HeaderCrc,
    Data,
    Trailer,
    /// Another member, padding, or the end.
    Between,
    Padding,
}

impl Gunzip {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header,
            flags: 0,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            held: [0; 10],
            held_len: 0,
        }
    }

    /// Collects `want` bytes of a fixed-size part; true when they are there.
    fn hold(&mut self, input: &mut &[u8], want: usize) -> bool {
        let n = input.len().min(want - self.held_len);
        self.held[self.held_len..self.held_len + n].copy_from_slice(&input[..n]);
        self.held_len += n;
        *input = &input[n..];
        let complete = self.held_len == want;
        if complete {
            self.held_len = 0;
        }
        complete
    }

    /// The part that follows `done` (a flag, or 0 after the fixed part), by the flags of this member.
    fn after(&self, done: u8) -> State {
        let parts = [
            (flag::EXTRA, State::ExtraLength),
            (flag::NAME, State::Name),
            (flag::COMMENT, State::Comment),
            (flag::HEADER_CRC, State::HeaderCrc),
        ];
        let rest =
            parts.iter().skip_while(|(flag, _)| done != 0 && *flag != done).skip(usize::from(done != 0));
        rest.into_iter().find(|(flag, _)| self.flags & flag != 0).map_or(State::Data, |(_, state)| *state)
    }

    /// Goes one part on; false when it needs more input.
    fn part(&mut self, input: &mut &[u8]) -> Result<bool> {
        match self.state {
            State::Header => {
                if !self.hold(input, 10) {
                    return Ok(false);
                }
                if self.held[..3] != [0x1f, 0x8b, 8] {
                    return Err(invalid("no gzip header where one has to be"));
                }
                self.flags = self.held[3];
                self.inflate.reset(false);
                self.crc.reset();
                self.state = self.after(0);
            }
            State::ExtraLength => {
                if !self.hold(input, 2) {
                    return Ok(false);
                }
                self.state = State::Extra(u16::from_le_bytes([self.held[0], self.held[1]]));
            }
            State::Extra(left) => {
                let n = input.len().min(usize::from(left));
                *input = &input[n..];
                // Not more than `left`, so that it fits.
                let left = left - n as u16;
                self.state = if left == 0 { self.after(flag::EXTRA) } else { State::Extra(left) };
                return Ok(left == 0);
            }
            State::Name | State::Comment => {
                let Some(end) = input.iter().position(|b| *b == 0) else {
                    *input = &[];
                    return Ok(false);
                };
                *input = &input[end + 1..];
                self.state = self.after(if self.state == State::Name { flag::NAME } else { flag::COMMENT });
            }
            State::HeaderCrc => {
                if !self.hold(input, 2) {
                    return Ok(false);
                }
                self.state = State::Data;
            }
            State::Data => {}
            State::Trailer => {
                if !self.hold(input, 8) {
                    return Ok(false);
                }
                let [crc, len] = [0, 4].map(|at| {
                    let bytes = &self.held[at..at + 4];
                    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
                });
                if crc != self.crc.sum() {
                    return Err(invalid("gzip checksum is wrong"));
                }
                if len != self.crc.amount() {
                    return Err(invalid("gzip length is wrong"));
                }
                self.state = State::Between;
            }
            State::Between => match input.first() {
                None => return Ok(false),
                Some(0) => self.state = State::Padding,
                Some(0x1f) => self.state = State::Header,
                Some(_) => return Err(invalid("garbage after the last gzip member")),
            },
            State::Padding => {
                if input.iter().any(|b| *b != 0) {
                    return Err(invalid("garbage in the padding after the last gzip member"));
                }
                *input = &[];
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Inflates; true when the member's data is complete.
    fn inflate(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<(usize, bool)> {
        let (taken, given) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(input, out, FlushDecompress::None);
        let status = status.map_err(|error| invalid("gzip data is corrupt").cause(error))?;
        let delta = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let consumed = delta(self.inflate.total_in(), taken);
        let produced = delta(self.inflate.total_out(), given);
        *input = &input[consumed..];
        self.crc.update(&out[..produced]);
        Ok((produced, status == Status::StreamEnd))
    }
}

impl Decoder for Gunzip {
    fn decode(&mut self, mut input: &[u8], out: &mut [u8]) -> Result<Step> {
        let given = input.len();
        let mut produced = 0;
        loop {
            if self.state == State::Data {
                let (n, complete) = self.inflate(&mut input, &mut out[produced..])?;
                produced += n;
                if !complete {
                    break;
                }
                self.state = State::Trailer;
            } else if !self.part(&mut input)? {
                break;
            }
        }
        Ok(Step { consumed: given - input.len(), produced })
    }

    fn end(&mut self) -> Result<()> {
        match self.state {
            State::Between | State::Padding => Ok(()),
            _ => Err(Error::new(ErrorKind::Truncated, "gzip stream ends early")),
        }
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, message)
}
