//! Security identifiers.

use std::{fmt, str::FromStr};

use layer_model::{Error, ErrorKind, Result};

use super::invalid;
use crate::le;

/// A SID: an authority, and numbers that it gave.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sid {
    /// 48 bits.
    authority: u64,
    /// At most 15.
    numbers: Vec<u32>,
}

/// The most numbers that a SID has (`SID_MAX_SUB_AUTHORITIES`).
const NUMBERS_MAX: usize = 15;

impl Sid {
    /// A SID of these numbers.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an authority of more than 48 bits, and for more than 15 numbers.
    pub fn new(authority: u64, numbers: &[u32]) -> Result<Self> {
        if authority >> 48 != 0 || numbers.len() > NUMBERS_MAX {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "no SID has such an authority or so many numbers",
            ));
        }
        Ok(Self { authority, numbers: numbers.into() })
    }

    /// Who gave the numbers: 5 is `NT AUTHORITY`.
    pub fn authority(&self) -> u64 {
        self.authority
    }

    /// The numbers, the relative identifier last.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Reads the SID that `bytes` begin with, and says how long it is.
    pub(super) fn read(bytes: &[u8]) -> Result<(Self, usize)> {
        let head: [u8; 8] = le::array(bytes, 0).ok_or_else(|| invalid("it ends inside a SID"))?;
        let [revision, count, authority @ ..] = head;
        if revision != 1 {
            return Err(invalid("the revision of a SID is not 1"));
        }
        let count = usize::from(count);
        if count > NUMBERS_MAX {
            return Err(invalid("a SID has more than 15 numbers").offset(1));
        }
        let len = 8 + 4 * count;
        let body = bytes.get(8..len).ok_or_else(|| invalid("it ends inside a SID").offset(8))?;
        let numbers = body.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
        let authority = authority.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        Ok((Self { authority, numbers }, len))
    }

    /// Appends the SID's bytes.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        // No SID has more than 15 numbers.
        out.extend_from_slice(&[1, self.numbers.len() as u8]);
        out.extend_from_slice(&self.authority.to_be_bytes()[2..]);
        for number in &self.numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// `S-1-5-32-544`.
impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As Windows has it: authorities of more than 32 bits are hexadecimal.
        if self.authority >> 32 == 0 {
            write!(f, "S-1-{}", self.authority)?;
        } else {
            write!(f, "S-1-0x{:012x}", self.authority)?;
        }
        self.numbers.iter().try_for_each(|number| write!(f, "-{number}"))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Sid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::new(ErrorKind::InvalidArgument, "not a SID");
        let (head, rest) = text.split_at_checked(4).ok_or_else(refuse)?;
        if !head.eq_ignore_ascii_case("S-1-") {
            return Err(refuse());
        }
        let mut numbers = rest.split('-').map(|digits| number(digits).ok_or_else(refuse));
        let authority = numbers.next().unwrap_or_else(|| Err(refuse()))?;
        let numbers = numbers.map(|number| u32::try_from(number?).map_err(|_| refuse()));
        let numbers: Vec<u32> = numbers.take(NUMBERS_MAX + 1).collect::<Result<_>>()?;
        Self::new(authority, &numbers).map_err(|_| refuse())
    }
}

/// Digits, decimal or after `0x`.
pub(super) fn number(digits: &str) -> Option<u64> {
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (digits, 10),
    };
    // A sign is what the parser of numbers would take, too.
    digits.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| u64::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sids_are_read_and_shown_as_windows_does() {
        for (text, authority, numbers) in [
            ("S-1-5-32-544", 5, vec![32, 544]),
            ("S-1-1-0", 1, vec![0]),
            ("S-1-0xffffffffffff-1", 0xffff_ffff_ffff, vec![1]),
            ("S-1-5-21-4294967295-0-7-500", 5, vec![21, u32::MAX, 0, 7, 500]),
        ] {
            let sid: Sid = text.parse().unwrap();
            assert_eq!((sid.authority(), sid.numbers()), (authority, numbers.as_slice()));
            assert_eq!(sid.to_string(), text);
            let mut bytes = Vec::new();
            sid.append_to(&mut bytes);
            assert_eq!(Sid::read(&bytes).unwrap(), (sid, bytes.len()));
        }
        assert_eq!("s-1-0x5-0x20-544".parse::<Sid>().unwrap().to_string(), "S-1-5-32-544");
    }

    #[test]
    fn what_is_no_sid_is_refused() {
        let long = format!("S-1-5{}", "-1".repeat(16));
        for bad in [
            "",
            "S-1",
            "S-1-",
            "S-2-5-1",
            "S-1-5--1",
            "S-1-5-4294967296",
            "S-1-0x1000000000000-1",
            "S-1-+5-1",
            &long,
        ] {
            assert!(bad.parse::<Sid>().is_err(), "{bad}");
        }
    }
}
