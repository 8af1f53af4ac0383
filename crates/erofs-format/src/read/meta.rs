//! Reading metadata: small pieces, many of them, near each other.
//!
//! What lies in memory is borrowed. Files are read in windows, a fixed number of which are kept, so that a
//! walk costs one system call per window and not several per inode.

use std::{
    io,
    ops::{Deref, Range},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{error::Error, source::ReadAt};

/// The size of a window. Large enough to make system calls rare, small enough for random access.
const WINDOW_SIZE: u64 = 64 << 10;

/// How many windows are kept: 4 MiB in all.
const SLOTS: usize = 64;

/// Bytes of an image: borrowed from memory, shared with the cache, or read for the occasion.
#[derive(Clone)]
pub struct Bytes<'a>(Repr<'a>);

#[derive(Clone)]
enum Repr<'a> {
    Borrowed(&'a [u8]),
    Shared(Arc<[u8]>, Range<usize>),
    Owned(Vec<u8>),
}

impl Bytes<'_> {
    pub(crate) fn owned(bytes: Vec<u8>) -> Self {
        Self(Repr::Owned(bytes))
    }

    /// Cuts a range out of the bytes, which must contain it.
    pub(crate) fn cut(mut self, range: Range<usize>) -> Self {
        match &mut self.0 {
            Repr::Borrowed(bytes) => *bytes = &bytes[range],
            Repr::Shared(_, whole) => *whole = whole.start + range.start..whole.start + range.end,
            Repr::Owned(bytes) => {
                bytes.truncate(range.end);
                bytes.drain(..range.start);
            }
        }
        self
    }
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Borrowed(bytes) => bytes,
            Repr::Shared(window, range) => &window[range.clone()],
            Repr::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Bytes<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Bytes<'_> {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// A window with its number.
type Window = (u64, Arc<[u8]>);

/// The windows kept, each in the slot that its number falls into.
pub(super) struct Cache {
    slots: Vec<Mutex<Option<Window>>>,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::new(None)).collect() }
    }

    /// `len` bytes of `source`, which the caller has found to be within it.
    pub(super) fn read<'a>(&self, source: &'a dyn ReadAt, offset: u64, len: usize) -> io::Result<Bytes<'a>> {
        if let Some(bytes) = source.slice(offset, len) {
            return Ok(Bytes(Repr::Borrowed(bytes)));
        }
        let number = offset / WINDOW_SIZE;
        let start = (offset % WINDOW_SIZE) as usize;
        if start + len <= WINDOW_SIZE as usize {
            let window = self.window(source, number)?;
            if start + len > window.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(Bytes(Repr::Shared(window, start..start + len)));
        }
        let mut bytes = vec![0; len];
        source.read_exact_at(&mut bytes, offset)?;
        Ok(Bytes(Repr::Owned(bytes)))
    }

    fn window(&self, source: &dyn ReadAt, number: u64) -> io::Result<Arc<[u8]>> {
        let slot = &self.slots[(number % SLOTS as u64) as usize];
        // A poisoned slot holds a whole window or none: it is replaced in one step.
        if let Some((kept, window)) = &*slot.lock().unwrap_or_else(PoisonError::into_inner)
            && *kept == number
        {
            return Ok(Arc::clone(window));
        }
        let start = number * WINDOW_SIZE;
        let mut bytes = vec![0; source.size().saturating_sub(start).min(WINDOW_SIZE) as usize];
        source.read_exact_at(&mut bytes, start)?;
        let window: Arc<[u8]> = bytes.into();
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, Arc::clone(&window)));
        Ok(window)
    }
}

/// Reads a structure that is at most a few bytes from the front of `bytes`.
pub(super) fn structure<T>(bytes: &[u8], what: &'static str, offset: u64) -> Result<T, Error>
where
    T: zerocopy::FromBytes,
{
    match T::read_from_prefix(bytes) {
        Ok((value, _)) => Ok(value),
        Err(_) => Err(Error::corrupt(what, offset, "is cut off")),
    }
}
