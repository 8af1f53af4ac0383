//! Digests on the way, on a thread of their own when there is one to spare.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};
use layer_model::{Digest, Digester, MediaType, digest::Algorithm};

use crate::Chunk;

/// How many chunks may wait to be hashed. Hashing is faster than what feeds it; the queue evens out bursts.
const QUEUE: usize = 4;

/// What is known of a blob after all of it went by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobSummary {
    /// The type of the blob as it is stored.
    pub media_type: MediaType,
    /// The digest of the blob as it is stored.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
    /// The digest of the content: of the tar inside a layer blob.
    pub diff_id: Digest,
    /// The size of the content, in bytes.
    pub diff_size: u64,
}

/// Hashes chunks, here or on a thread.
#[derive(Debug)]
pub(crate) enum Hasher {
    Here(Digester),
    Thread { queue: Sender<Chunk>, thread: JoinHandle<Digester> },
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm, on_thread: bool) -> Self {
        let mut digester = Digester::new(algorithm);
        if !on_thread {
            return Self::Here(digester);
        }
        let (queue, chunks) = bounded::<Chunk>(QUEUE);
        let thread = thread::spawn(move || {
            for chunk in chunks {
                digester.update(&chunk);
            }
            digester
        });
        Self::Thread { queue, thread }
    }

    pub(crate) fn update(&mut self, chunk: &Chunk) {
        match self {
            Self::Here(digester) => digester.update(chunk),
            Self::Thread { queue, .. } => {
                // The thread ends only after the queue does; were it gone, `finish` would say so.
                let _ = queue.send(chunk.clone());
            }
        }
    }

    /// The digest of all bytes, and how many there were.
    pub(crate) fn finish(self) -> (Digest, u64) {
        let digester = match self {
            Self::Here(digester) => digester,
            Self::Thread { queue, thread } => {
                drop(queue);
                thread.join().expect("hashing cannot panic because it only updates a digest")
            }
        };
        let count = digester.count();
        (digester.finish(), count)
    }
}
