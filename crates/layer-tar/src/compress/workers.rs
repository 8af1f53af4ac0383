//! Threads that compress blocks, and the order of what they give.

use std::{
    collections::VecDeque,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use layer_model::{Error, ErrorKind, Result};

use super::{BlockEncoder, Codec};
use crate::{
    Chunk,
    chunk::{Buffer, Pool},
};

/// A block, and where its result goes.
struct Task {
    block: Chunk,
    out: Buffer,
    reply: Sender<Result<Chunk>>,
}

/// Threads with one queue of tasks between them. Results are taken in the order of the blocks, whoever is
/// done first.
pub(super) struct Workers {
    tasks: Option<Sender<Task>>,
    pending: VecDeque<Receiver<Result<Chunk>>>,
    threads: Vec<JoinHandle<()>>,
    pool: Pool,
}

impl Workers {
    pub(super) fn start(codec: &dyn Codec, jobs: usize) -> Result<Self> {
        let (tasks, queue) = bounded::<Task>(jobs);
        let mut threads = Vec::with_capacity(jobs);
        for _ in 0..jobs {
            let queue = queue.clone();
            let Some(encoder) = codec.encoder()? else { break };
            threads.push(thread::spawn(move || work(encoder, &queue)));
        }
        Ok(Self { tasks: Some(tasks), pending: VecDeque::new(), threads, pool: Pool::new(0) })
    }

    /// Hands a block to the threads.
    pub(super) fn submit(&mut self, block: Chunk) -> Result<()> {
        let (reply, result) = bounded(1);
        self.pending.push_back(result);
        let task = Task { block, out: self.pool.take(), reply };
        let sent = self.tasks.as_ref().is_some_and(|tasks| tasks.send(task).is_ok());
        if sent { Ok(()) } else { Err(gone()) }
    }

    /// The next result in order, if it is there, or if so much waits that it has to be waited for.
    pub(super) fn next_ready(&mut self) -> Option<Result<Chunk>> {
        let enough = self.threads.len() + 2;
        let first = self.pending.front()?;
        let result = if self.pending.len() > enough {
            first.recv().unwrap_or_else(|_| Err(gone()))
        } else {
            first.try_recv().ok()?
        };
        self.pending.pop_front();
        Some(result)
    }

    /// The next result in order; [`None`] when all were given.
    pub(super) fn next_result(&mut self) -> Option<Result<Chunk>> {
        let first = self.pending.pop_front()?;
        Some(first.recv().unwrap_or_else(|_| Err(gone())))
    }
}

fn work(mut encoder: Box<dyn BlockEncoder>, queue: &Receiver<Task>) {
    for Task { block, mut out, reply } in queue {
        let len = encoder.encode(&block, out.as_mut());
        // Nobody waits for the result when the writer was dropped.
        let _ = reply.send(len.map(|len| out.freeze(len)));
    }
}

/// A codec of the application's that panicked takes its thread with it.
fn gone() -> Error {
    Error::new(ErrorKind::Io(None), "a compression thread has died")
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tasks = None;
        self.pending.clear();
        for thread in self.threads.drain(..) {
            // A panic there was reported as a missing result already.
            let _ = thread.join();
        }
    }
}
