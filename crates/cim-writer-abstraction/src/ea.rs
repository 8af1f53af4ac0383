//! Extended attributes: the chain of `FILE_FULL_EA_INFORMATION` that the API takes.
//!
//! ```
//! use cim_writer_abstraction::ea::{self, Ea};
//!
//! # fn main() -> layer_model::Result<()> {
//! let chain = ea::encode(&[Ea::new(b"A", b"xyz")])?;
//! assert_eq!(chain, b"\0\0\0\0\0\x01\x03\0A\0xyz\0\0\0");
//! assert_eq!(ea::entries(&chain).next().transpose()?, Some(Ea::new(b"A", b"xyz")));
//! # Ok(()) }
//! ```

use layer_model::{Error, ErrorKind, Result};

use crate::le;

/// The longest name, in bytes.
pub const NAME_MAX: usize = 254;
/// The longest value, in bytes.
pub const VALUE_MAX: usize = 0xffff;
/// The longest chain, in bytes: files keep its length in 16 bits.
pub const TOTAL_MAX: usize = 0xffff;

/// Offset of the next entry, flags, length of the name, length of the value.
const HEADER_LEN: usize = 8;

/// One extended attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ea<'a> {
    /// `FILE_NEED_EA` (0x80) keeps programs that know nothing of extended attributes away from the file. Layers
    /// have 0.
    pub flags: u8,
    /// The name, in which case does not count.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Ea<'a> {
    /// An attribute without flags.
    pub fn new(name: &'a [u8], value: &'a [u8]) -> Self {
        Self { flags: 0, name, value }
    }

    /// How long the entry is in a chain, with its padding.
    fn len(&self) -> usize {
        (HEADER_LEN + self.name.len() + 1 + self.value.len()).next_multiple_of(4)
    }
}

/// Chains attributes, sorted by their upper-cased names: archives give them in any order, and images have to come out
/// the same. No attributes are no bytes.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for a name that is empty or has a NUL, [`ErrorKind::ConflictingEntries`] for two names
/// that differ in case only, [`ErrorKind::LimitExceeded`] for what is too long.
pub fn encode(attributes: &[Ea<'_>]) -> Result<Vec<u8>> {
    let mut sorted: Vec<(Vec<u8>, &Ea<'_>)> =
        attributes.iter().map(|ea| (ea.name.to_ascii_uppercase(), ea)).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(pair) = sorted.array_windows().find(|[(a, _), (b, _)]| a == b) {
        let what = "two extended attributes of one name";
        return Err(Error::new(ErrorKind::ConflictingEntries, what).entry(pair[0].1.name));
    }
    let mut chain = Vec::new();
    let mut last = None;
    for (_, ea) in sorted {
        if let Some(last) = last.replace(chain.len()) {
            let distance = (chain.len() - last) as u32; // below TOTAL_MAX
            chain[last..last + 4].copy_from_slice(&distance.to_le_bytes());
        }
        append(&mut chain, ea)?;
    }
    Ok(chain)
}

fn append(chain: &mut Vec<u8>, ea: &Ea<'_>) -> Result<()> {
    let too_long = |limit| {
        Error::new(ErrorKind::LimitExceeded { limit }, "an extended attribute is too long").entry(ea.name)
    };
    if ea.name.is_empty() || ea.name.contains(&0) {
        return Err(Error::new(ErrorKind::InvalidArchive, "no name of an extended attribute").entry(ea.name));
    }
    let name_len = u8::try_from(ea.name.len()).ok().filter(|len| usize::from(*len) <= NAME_MAX);
    let name_len = name_len.ok_or_else(|| too_long("ea_name"))?;
    let value_len = u16::try_from(ea.value.len()).map_err(|_| too_long("ea_value"))?;
    let end = chain.len() + ea.len();
    if end > TOTAL_MAX {
        return Err(too_long("ea_total"));
    }
    chain.extend_from_slice(&[0, 0, 0, 0, ea.flags, name_len]);
    chain.extend_from_slice(&value_len.to_le_bytes());
    chain.extend_from_slice(ea.name);
    chain.push(0);
    chain.extend_from_slice(ea.value);
    chain.resize(end, 0);
    Ok(())
}

/// The attributes of a chain, in its order.
///
/// What the kernel refuses (`IoCheckEaBufferValidity`) is refused here; padding behind the last entry may be missing.
pub fn entries(chain: &[u8]) -> Entries<'_> {
    Entries { chain, at: 0 }
}

/// The attributes of a chain: [`entries`]. Ends after an error.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    chain: &'a [u8],
    at: usize,
}

impl<'a> Entries<'a> {
    /// The entry at `self.at`, and where the next one begins.
    fn read(&self) -> Result<(Ea<'a>, usize)> {
        let rest = &self.chain[self.at..];
        let head: [u8; HEADER_LEN] = le::array(rest, 0).ok_or_else(|| self.refuse("ends in an entry"))?;
        let [n0, n1, n2, n3, flags, name_len, v0, v1] = head;
        let body = &rest[HEADER_LEN..];
        let (name_len, value_len) = (usize::from(name_len), usize::from(u16::from_le_bytes([v0, v1])));
        let (Some(name), Some(terminator)) = (body.get(..name_len), body.get(name_len)) else {
            return Err(self.refuse("ends in a name"));
        };
        let value = body.get(name_len + 1..).and_then(|rest| rest.get(..value_len));
        let value = value.ok_or_else(|| self.refuse("ends in a value"))?;
        if *terminator != 0 || name.contains(&0) || name.is_empty() {
            return Err(self.refuse("has a malformed name"));
        }
        let ea = Ea { flags, name, value };
        let next = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        if next == 0 {
            if rest.len() > ea.len() {
                return Err(self.refuse("goes on behind its last entry"));
            }
            return Ok((ea, self.chain.len()));
        }
        // Where another entry follows there is something for it to be read from.
        if next != ea.len() || next >= rest.len() {
            return Err(self.refuse("has an entry that points to no other"));
        }
        Ok((ea, self.at + next))
    }

    fn refuse(&self, what: &str) -> Error {
        let message = format!("a chain of extended attributes {what}");
        Error::new(ErrorKind::InvalidArchive, message).offset(self.at as u64)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Ea<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.chain.len() {
            return None;
        }
        let read = self.read();
        self.at = read.as_ref().map_or(self.chain.len(), |(_, next)| *next);
        Some(read.map(|(ea, _)| ea))
    }
}
