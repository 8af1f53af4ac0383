//! Digests on the way, on a thread of their own when there is one to spare.

use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};
use layer_model::{Digest, Digester, MediaType, digest::Algorithm};

use crate::Chunk;

/// How many bytes may wait to be hashed. What feeds the hash comes in bursts, as from a pipe; more than this leaves
/// the cache before it is hashed.
const AHEAD: usize = 3 << 20;

/// How many chunks may wait at least.
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

/// Hashes chunks, here or on a thread, which has ended when this is gone.
#[derive(Debug)]
pub(crate) struct Hasher {
    place: Place,
    /// How long chunks are.
    chunk_len: usize,
    /// Whether its thread runs after the others.
    gives_way: bool,
}

#[derive(Debug)]
enum Place {
    Here(Digester),
    Thread { queue: Sender<Chunk>, thread: JoinHandle<Digester> },
    Finished,
}

impl Hasher {
    /// Hashes chunks of `chunk_len` bytes or so.
    pub(crate) fn new(algorithm: Algorithm, on_thread: bool, chunk_len: usize) -> Self {
        let place = Place::Here(Digester::new(algorithm));
        let here = Self { place, chunk_len: chunk_len.max(1), gives_way: false };
        if on_thread { here.on_thread() } else { here }
    }

    /// The same for what is decompressed meanwhile, which takes longer: where there are fewer processors than threads,
    /// the hash is to wait for that, and not the other way round.
    pub(crate) fn behind_decoder(algorithm: Algorithm, on_thread: bool, chunk_len: usize) -> Self {
        let mut here = Self::new(algorithm, false, chunk_len);
        here.gives_way = true;
        if on_thread { here.on_thread() } else { here }
    }

    /// The same, on a thread from now on.
    pub(crate) fn on_thread(mut self) -> Self {
        let mut digester = match std::mem::replace(&mut self.place, Place::Finished) {
            Place::Here(digester) => digester,
            place => return Self { place, ..self },
        };
        let (queue, chunks) = bounded::<Chunk>((AHEAD / self.chunk_len).max(QUEUE));
        let thread = thread::spawn(move || {
            if self.gives_way {
                give_way();
            }
            for chunk in chunks {
                digester.update(&chunk);
            }
            digester
        });
        Self { place: Place::Thread { queue, thread }, ..self }
    }

    pub(crate) fn update(&mut self, chunk: &Chunk) {
        match &mut self.place {
            Place::Here(digester) => digester.update(chunk),
            // The thread ends only after the queue does; were it gone, `finish` would say so.
            Place::Thread { queue, .. } => drop(queue.send(chunk.clone())),
            Place::Finished => {}
        }
    }

    /// The digest of all bytes, and how many there were.
    pub(crate) fn finish(mut self) -> (Digest, u64) {
        let digester = self.stop().expect("a hasher finishes once because that consumes it");
        let count = digester.count();
        (digester.finish(), count)
    }

    fn stop(&mut self) -> Option<Digester> {
        match std::mem::replace(&mut self.place, Place::Finished) {
            Place::Here(digester) => Some(digester),
            Place::Thread { queue, thread } => {
                drop(queue);
                Some(thread.join().expect("hashing cannot panic because it only updates a digest"))
            }
            Place::Finished => None,
        }
    }
}

/// Lets the calling thread run after the others.
pub(crate) fn give_way() {
    // A system that does not know it does without.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.stop();
    }
}
