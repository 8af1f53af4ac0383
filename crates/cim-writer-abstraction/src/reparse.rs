//! Reparse data: symbolic links and junctions, as `REPARSE_DATA_BUFFER`.

use layer_model::{Error, ErrorKind, Result};

use crate::{le, path};

/// `IO_REPARSE_TAG_SYMLINK`.
pub const TAG_SYMLINK: u32 = 0xa000_000c;
/// `IO_REPARSE_TAG_MOUNT_POINT`: a junction.
pub const TAG_JUNCTION: u32 = 0xa000_0003;
/// The longest buffer that file systems take (`MAXIMUM_REPARSE_DATA_BUFFER_SIZE`).
pub const MAX_LEN: usize = 16 * 1024;

/// Tag, length, reserved.
const HEADER_LEN: usize = 8;
/// Offsets and lengths of two names.
const NAMES_LEN: usize = 8;
/// `SYMLINK_FLAG_RELATIVE`.
const FLAG_RELATIVE: u32 = 1;

/// A symbolic link or a junction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Where it leads, in WTF-8, as people write it: `..\b`, `C:\data`, `\\server\share`, `\\?\Volume{...}\`.
    pub target: Box<[u8]>,
    /// Whether it is a junction: for directories, and resolved where the file is.
    pub is_junction: bool,
}

impl Link {
    /// A link to `target`. Slashes become backslashes: no part of Windows below its shell takes them.
    pub fn new(target: &[u8], is_junction: bool) -> Self {
        let target = target.iter().map(|byte| if *byte == b'/' { b'\\' } else { *byte }).collect();
        Self { target, is_junction }
    }

    /// The buffer of the link.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for a target that is empty, has a NUL or is no Unicode text,
    /// [`ErrorKind::LimitExceeded`] for one that needs more than [`MAX_LEN`] bytes.
    pub fn encode(&self) -> Result<Box<[u8]>> {
        let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidArchive, what).entry(&self.target));
        if self.target.is_empty() {
            return refuse("a link without a target");
        }
        if self.target.contains(&0) || !path::is_wtf8(&self.target) {
            return refuse("the target of a link is no Unicode text");
        }
        let (substitute, is_relative) = self.substitute();
        let terminated = |text: &[u8]| -> Vec<u8> {
            path::utf16(text).into_iter().chain([0]).flat_map(u16::to_le_bytes).collect()
        };
        let (substitute, print) = (terminated(&substitute), terminated(&self.target));
        let flags_len = if self.is_junction { 0 } else { 4 };
        let body_len = NAMES_LEN + flags_len + substitute.len() + print.len();
        if HEADER_LEN + body_len > MAX_LEN {
            let limit = ErrorKind::LimitExceeded { limit: "reparse_size" };
            return Err(Error::new(limit, "the target of a link is too long").entry(&self.target));
        }
        let mut buffer = Vec::with_capacity(HEADER_LEN + body_len);
        let tag = if self.is_junction { TAG_JUNCTION } else { TAG_SYMLINK };
        buffer.extend_from_slice(&tag.to_le_bytes());
        // Everything is below MAX_LEN. Lengths do not count the terminators.
        for number in [body_len, 0, 0, substitute.len() - 2, substitute.len(), print.len() - 2] {
            buffer.extend_from_slice(&(number as u16).to_le_bytes());
        }
        if !self.is_junction {
            buffer.extend_from_slice(&u32::from(is_relative).to_le_bytes());
        }
        buffer.extend_from_slice(&substitute);
        buffer.extend_from_slice(&print);
        Ok(buffer.into())
    }

    /// What the kernel follows, and whether that depends on where the link is.
    fn substitute(&self) -> (Vec<u8>, bool) {
        match &*self.target {
            [b'\\', b'\\', b'?', b'\\', rest @ ..] => ([br"\??\", rest].concat(), false),
            [b'\\', b'\\', rest @ ..] => ([br"\??\UNC\", rest].concat(), false),
            [drive, b':', ..] if drive.is_ascii_alphabetic() => ([br"\??\", &*self.target].concat(), false),
            other => (other.to_vec(), true),
        }
    }

    /// Reads the buffer of a symbolic link or a junction. The target is the name meant for people; where a buffer has
    /// none, as junctions of some tools, it is made from the other.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] for other tags, [`ErrorKind::InvalidArchive`] for a buffer that does not hold
    /// together.
    pub fn parse(buffer: &[u8]) -> Result<Self> {
        let refuse = |what: &str, at: usize| {
            let message = format!("reparse data: {what}");
            Error::new(ErrorKind::InvalidArchive, message).offset(at as u64)
        };
        let tag = tag(buffer).ok_or_else(|| refuse("it ends inside its tag", buffer.len()))?;
        let is_junction = match tag {
            TAG_JUNCTION => true,
            TAG_SYMLINK => false,
            other => {
                let what = format!("reparse data with the tag {other:#010x}");
                return Err(Error::new(ErrorKind::NotSupported, what));
            }
        };
        if buffer.len() > MAX_LEN {
            return Err(refuse("it is longer than 16 KiB", MAX_LEN));
        }
        let len = le::u16(buffer, 4).map(usize::from);
        if len.is_none_or(|len| HEADER_LEN + len != buffer.len()) {
            return Err(refuse("its length is wrong", 4));
        }
        let names_at = HEADER_LEN + NAMES_LEN + if is_junction { 0 } else { 4 };
        let names = buffer.get(names_at..).ok_or_else(|| refuse("it ends early", buffer.len()))?;
        let name = |field: usize| {
            let number = |at| le::u16(buffer, at).map(usize::from);
            let (start, len) = (number(field)?, number(field + 2)?);
            let bytes = names.get(start..)?.get(..len).filter(|_| start % 2 == 0 && len % 2 == 0)?;
            let units: Vec<u16> = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            Some(path::wtf8(&units))
        };
        let name = |field| name(field).ok_or_else(|| refuse("a name leads outside", field));
        let (substitute, print) = (name(HEADER_LEN)?, name(HEADER_LEN + 4)?);
        let target = if print.is_empty() { for_people(&substitute) } else { print };
        if target.is_empty() || target.contains(&0) {
            return Err(refuse("its target is empty or has a NUL", names_at));
        }
        Ok(Self { target: target.into(), is_junction })
    }
}

/// The tag of a buffer, [`None`] where there are not even four bytes.
pub fn tag(buffer: &[u8]) -> Option<u32> {
    le::u32(buffer, 0)
}

/// Whether the symbolic link in `buffer` says that its target depends on where it is.
pub fn is_relative(buffer: &[u8]) -> bool {
    tag(buffer) == Some(TAG_SYMLINK)
        && le::u32(buffer, HEADER_LEN + NAMES_LEN).is_some_and(|flags| flags & FLAG_RELATIVE != 0)
}

/// The text that has this substitute name.
fn for_people(substitute: &[u8]) -> Vec<u8> {
    let Some(rest) = substitute.strip_prefix(br"\??\") else { return substitute.to_vec() };
    match rest {
        [b'U', b'N', b'C', b'\\', share @ ..] => [br"\\", share].concat(),
        [drive, b':', ..] if drive.is_ascii_alphabetic() => rest.to_vec(),
        _ => [br"\\?\", rest].concat(),
    }
}
