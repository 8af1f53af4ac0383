//! Pieces of streams that several threads read at once, in memory that is used again.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// A piece of a stream. Clones share the memory: a hash thread and a writer can hold the same bytes.
#[derive(Clone)]
pub struct Chunk {
    buffer: Arc<Buffer>,
    len: usize,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[..self.len]
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len)
    }
}

/// Memory to be filled. Goes back to its pool when it, or the last chunk made of it, is dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Buffer {
    /// The memory; as many bytes as the pool gives, with whatever they held before.
    pub(crate) fn as_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The first `len` bytes, not to be changed any more.
    pub(crate) fn freeze(self, len: usize) -> Chunk {
        debug_assert!(len <= self.bytes.len(), "a chunk lies inside its buffer");
        Chunk { buffer: Arc::new(self), len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

/// How many buffers a pool keeps while nobody uses them: about as many as the queues of a pipeline hold.
const KEPT: usize = 20;

/// Where buffers of one size wait to be used again: taking memory from the system anew, page by page, costs
/// as much as hashing it.
#[derive(Clone)]
pub(crate) struct Pool {
    size: usize,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Pool {
    /// A pool of buffers of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, free: Arc::default() }
    }

    /// A buffer of the pool's size or more.
    pub(crate) fn take(&self) -> Buffer {
        let mut bytes = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if bytes.len() < self.size {
            bytes.resize(self.size, 0);
        }
        Buffer { bytes, pool: self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_the_last_chunk_is_gone() {
        let pool = Pool::new(8);
        let mut buffer = pool.take();
        buffer.as_mut()[0] = 7;
        let first = buffer.freeze(1);
        let second = first.clone();
        drop(first);
        assert_eq!((&*second, pool.free.lock().unwrap().len()), (&[7][..], 0));
        drop(second);
        assert_eq!(pool.free.lock().unwrap().len(), 1);
        assert_eq!(pool.take().as_mut()[0], 7);
    }
}
