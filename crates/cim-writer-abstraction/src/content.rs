//! Where the bytes of streams go, and where they come from: blobs, named by their SHA-256.
//!
//! The entries of an image are small and live in memory ([`model`](crate::model)); the bytes do not. A [`BlobSink`]
//! takes them, one stream at a time, and says what they are called; [`Blobs`] gives them back by that name. Equal
//! bytes are one blob, whoever writes them.
//!
//! | type | keeps bytes |
//! |---|---|
//! | [`pack::PackWriter`], [`pack::ContentPack`] | in one file of a directory |
//! | [`MemoryBlobs`] | in memory, for small images and tests |
//! | [`HashOnly`] | nowhere: only the names are wanted |

pub mod pack;

pub use pack::{ContentPack, PackWriter};

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use layer_model::{Content, Digest, Error, ErrorKind, ReadAt, Result};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of no bytes.
pub const EMPTY_SHA256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// Takes the bytes of streams, one stream after another.
///
/// # Laws
/// - Calls come as [`begin`](Self::begin), any number of [`write`](Self::write), then [`end`](Self::end) or
///   [`cancel`](Self::cancel). After an error the sink is spent.
/// - What `end` returns is the SHA-256 of the bytes written since `begin`.
pub trait BlobSink {
    /// A stream of about `size` bytes begins. What counts is how many are written.
    ///
    /// # Errors
    /// Those of where the bytes go.
    fn begin(&mut self, size: u64) -> Result<()>;

    /// The next bytes of the stream.
    ///
    /// # Errors
    /// Those of where the bytes go.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// The stream is complete.
    ///
    /// # Errors
    /// Those of where the bytes go.
    fn end(&mut self) -> Result<[u8; 32]>;

    /// The stream is given up, and its bytes are forgotten.
    ///
    /// # Errors
    /// Those of where the bytes go.
    fn cancel(&mut self) -> Result<()>;
}

impl<B: BlobSink + ?Sized> BlobSink for &mut B {
    fn begin(&mut self, size: u64) -> Result<()> {
        (**self).begin(size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (**self).write(bytes)
    }

    fn end(&mut self) -> Result<[u8; 32]> {
        (**self).end()
    }

    fn cancel(&mut self) -> Result<()> {
        (**self).cancel()
    }
}

impl<B: BlobSink + ?Sized> BlobSink for Box<B> {
    fn begin(&mut self, size: u64) -> Result<()> {
        (**self).begin(size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (**self).write(bytes)
    }

    fn end(&mut self) -> Result<[u8; 32]> {
        (**self).end()
    }

    fn cancel(&mut self) -> Result<()> {
        (**self).cancel()
    }
}

/// Gives blobs by their SHA-256.
pub trait Blobs: fmt::Debug + Send + Sync {
    /// The blob of this name, [`None`] when it is not here.
    ///
    /// # Errors
    /// Those of where the bytes are.
    fn find(&self, sha256: &[u8; 32]) -> Result<Option<Blob>>;

    /// The blob of this name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not here, and those of where the bytes are.
    fn open(&self, sha256: &[u8; 32]) -> Result<Blob> {
        if *sha256 == EMPTY_SHA256 {
            return Ok(Blob::empty());
        }
        self.find(sha256)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no content with the digest {}", hex(sha256)))
        })
    }
}

impl<B: Blobs + ?Sized> Blobs for &B {
    fn find(&self, sha256: &[u8; 32]) -> Result<Option<Blob>> {
        (**self).find(sha256)
    }
}

impl<B: Blobs + ?Sized> Blobs for Arc<B> {
    fn find(&self, sha256: &[u8; 32]) -> Result<Option<Blob>> {
        (**self).find(sha256)
    }
}

/// The bytes of one blob: a range of something with positioned reads.
#[derive(Clone)]
pub struct Blob {
    file: Arc<dyn ReadAt>,
    offset: u64,
    len: u64,
}

impl Blob {
    /// `len` bytes of `file` from `offset` on.
    pub fn new(file: Arc<dyn ReadAt>, offset: u64, len: u64) -> Self {
        Self { file, offset, len }
    }

    /// No bytes.
    pub fn empty() -> Self {
        Self::new(Arc::new(Vec::new()), 0, 0)
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The bytes as content on the road: the range of the file that they are in.
    pub fn content(&self) -> Content<'_> {
        Content::from_range(&*self.file, self.offset, self.len)
    }

    /// All bytes, checked against the digest that they have to have.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] when they are other bytes, [`ErrorKind::Truncated`] when the file ends before
    /// the blob does, those of reading.
    pub fn read_verified(&self, sha256: &[u8; 32], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut hash = Sha256::new();
        self.content().read_into(&mut |bytes| {
            hash.update(bytes);
            take(bytes)
        })?;
        let got = hash.finalize().into();
        if got == *sha256 {
            return Ok(());
        }
        let kind = ErrorKind::DigestMismatch { expected: digest(sha256), got: digest(&got) };
        Err(Error::new(kind, "the content is damaged"))
    }
}

impl ReadAt for Blob {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset);
        let want = buf.len().min(usize::try_from(left).unwrap_or(buf.len()));
        if want == 0 {
            return Ok(0);
        }
        self.file.read_at(&mut buf[..want], self.offset + offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("offset", &self.offset).field("len", &self.len).finish_non_exhaustive()
    }
}

/// Keeps no bytes: says only what they are called.
#[derive(Clone, Debug, Default)]
pub struct HashOnly {
    hash: Sha256,
}

impl BlobSink for HashOnly {
    fn begin(&mut self, _size: u64) -> Result<()> {
        self.hash = Sha256::new();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<[u8; 32]> {
        Ok(self.hash.finalize_reset().into())
    }

    fn cancel(&mut self) -> Result<()> {
        Ok(())
    }
}

type BlobMap = HashMap<[u8; 32], Arc<Vec<u8>>>;

/// Keeps bytes in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryBlobs {
    blobs: Arc<Mutex<BlobMap>>,
    open: Vec<u8>,
}

impl MemoryBlobs {
    /// Puts a blob in, and returns what it is called.
    pub fn insert(&mut self, bytes: impl Into<Vec<u8>>) -> [u8; 32] {
        let bytes = bytes.into();
        let sha256 = Sha256::digest(&bytes).into();
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.entry(sha256).or_insert_with(|| Arc::new(bytes));
        sha256
    }
}

impl BlobSink for MemoryBlobs {
    fn begin(&mut self, _size: u64) -> Result<()> {
        self.open.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.open.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<[u8; 32]> {
        let bytes = std::mem::take(&mut self.open);
        Ok(self.insert(bytes))
    }

    fn cancel(&mut self) -> Result<()> {
        self.open.clear();
        Ok(())
    }
}

impl Blobs for MemoryBlobs {
    fn find(&self, sha256: &[u8; 32]) -> Result<Option<Blob>> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(blobs.get(sha256).map(|bytes| Blob::new(bytes.clone(), 0, Vec::len(bytes) as u64)))
    }
}

impl fmt::Debug for MemoryBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("MemoryBlobs").field("blobs", &blobs.len()).finish_non_exhaustive()
    }
}

/// The digits of a digest.
pub(crate) fn hex(sha256: &[u8; 32]) -> String {
    let mut text = Vec::with_capacity(64);
    hex_into(sha256, &mut text);
    text.into_iter().map(char::from).collect()
}

/// Appends the digits of a digest.
pub(crate) fn hex_into(sha256: &[u8; 32], out: &mut Vec<u8>) {
    out.extend(
        sha256.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|n| b"0123456789abcdef"[usize::from(n)]),
    );
}

/// A digest as the road writes it.
pub(crate) fn digest(sha256: &[u8; 32]) -> Digest {
    format!("sha256:{}", hex(sha256)).parse().expect("64 digits are a SHA-256")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sinks_call_the_same_bytes_the_same() {
        let mut memory = MemoryBlobs::default();
        for sink in [&mut HashOnly::default() as &mut dyn BlobSink, &mut memory] {
            sink.begin(0).unwrap();
            assert_eq!(sink.end().unwrap(), EMPTY_SHA256);
            sink.begin(3).unwrap();
            sink.write(b"xyz").unwrap();
            sink.cancel().unwrap();
            sink.begin(3).unwrap();
            sink.write(b"a").unwrap();
            sink.write(b"bc").unwrap();
            assert_eq!(
                hex(&sink.end().unwrap()),
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            );
        }
        let sha256 = memory.insert(*b"abc");
        let blob = memory.open(&sha256).unwrap();
        let mut out = Vec::new();
        blob.content().write_to(&mut out).unwrap();
        assert_eq!(out, b"abc");
        assert_eq!(memory.open(&[0; 32]).unwrap_err().kind(), &ErrorKind::NotFound);
        assert_eq!(memory.open(&EMPTY_SHA256).unwrap().size(), 0);
    }

    #[test]
    fn other_bytes_than_the_digest_says_are_found_out() {
        let blob = Blob::new(Arc::new(b"xabcx".to_vec()), 1, 3);
        let sha256 = Sha256::digest(b"abc").into();
        let mut out = Vec::new();
        let mut take = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        blob.read_verified(&sha256, &mut take).unwrap();
        let error = blob.read_verified(&[7; 32], &mut take).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DigestMismatch { .. }));
        assert_eq!(out, b"abcabc");
        let short = Blob::new(Arc::new(b"ab".to_vec()), 0, 3);
        assert_eq!(short.read_verified(&sha256, &mut |_| Ok(())).unwrap_err().kind(), &ErrorKind::Truncated);
    }

    #[test]
    fn a_blob_ends_where_it_ends() {
        let blob = Blob::new(Arc::new(b"0123456789".to_vec()), 2, 5);
        let mut buf = [0; 10];
        assert_eq!(blob.read_at(&mut buf, 3).unwrap(), 2);
        assert_eq!(&buf[..2], b"56");
        assert_eq!(blob.read_at(&mut buf, 5).unwrap(), 0);
        assert_eq!(blob.read_at(&mut buf, u64::MAX).unwrap(), 0);
    }
}
