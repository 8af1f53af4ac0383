//! Work that is done by several threads and taken in one order.
//!
//! A walk over a tree is a tree of units: reading a directory turns up more directories. Units carry a
//! [`Key`] whose order is the order of the walk. Helpers always take the earliest unit that nobody has, so
//! that they work just ahead of the consumer; the consumer asks for exactly the next unit, and does it
//! itself when no helper has begun. The result is the same for any number of helpers, none included.
//!
//! A channel of results in order of completion would need a second structure to put them in order again, and
//! could not let the consumer help; one map under one lock is both.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

/// The place of a unit: the numbers of the entries to go through, then the entry that the unit starts at.
/// Lexicographic order is the order of the walk.
pub(crate) type Key = Vec<u32>;

/// What is done with a unit.
pub(crate) trait Work: Send + Sync + 'static {
    /// Something to do.
    type Unit: Send + 'static;
    /// What comes of it.
    type Out: Send + 'static;

    /// Does `unit`, and hands units that it turns up to `spawn` as early as they are known. Their keys are
    /// after `key`.
    fn run(&self, key: &[u32], unit: Self::Unit, spawn: &dyn Fn(Key, Self::Unit)) -> Self::Out;

    /// How many bytes of content an outcome holds.
    fn weight(out: &Self::Out) -> usize;
}

/// How far helpers may be ahead of the consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Units begun or done, and not taken.
    pub(crate) units: usize,
    /// Bytes of content in them.
    pub(crate) bytes: usize,
}

/// The queue and its helpers. Dropping it stops and joins them.
pub(crate) struct Ordered<W: Work> {
    shared: Arc<Shared<W>>,
    helpers: Vec<JoinHandle<()>>,
}

struct Shared<W: Work> {
    work: W,
    limits: Limits,
    state: Mutex<State<W>>,
    /// There is something to begin, or room to begin it.
    begin: Condvar,
    /// A unit is done.
    done: Condvar,
}

struct State<W: Work> {
    waiting: BTreeMap<Key, W::Unit>,
    running: HashSet<Key>,
    done: HashMap<Key, thread::Result<W::Out>>,
    bytes: usize,
    stop: bool,
}

impl<W: Work> Ordered<W> {
    /// Starts `helpers` threads on `first`, whose key is `key`. Where the system has no more threads, there
    /// are fewer.
    pub(crate) fn start(work: W, limits: Limits, helpers: usize, key: Key, first: W::Unit) -> Self {
        let state = State {
            waiting: BTreeMap::from([(key, first)]),
            running: HashSet::new(),
            done: HashMap::new(),
            bytes: 0,
            stop: false,
        };
        let (begin, done) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { work, limits, state: Mutex::new(state), begin, done });
        let spawn = |_| {
            let shared = shared.clone();
            thread::Builder::new().name("overlay-diff".into()).spawn(move || shared.help()).ok()
        };
        let helpers = (0..helpers).map_while(spawn).collect();
        Self { shared, helpers }
    }

    pub(crate) fn work(&self) -> &W {
        &self.shared.work
    }

    /// The outcome of the unit at `key`, which was spawned.
    pub(crate) fn take(&self, key: &Key) -> W::Out {
        let mut state = self.shared.lock();
        loop {
            if let Some(unit) = state.waiting.remove(key) {
                drop(state);
                return self.shared.work.run(key, unit, &|key, unit| self.shared.spawn(key, unit));
            }
            if let Some(out) = state.done.remove(key) {
                if let Ok(out) = &out {
                    state.bytes -= W::weight(out);
                }
                drop(state);
                self.shared.begin.notify_one();
                return out.unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic));
            }
            assert!(state.running.contains(key), "every unit asked for was spawned by one that was taken");
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<W: Work> Drop for Ordered<W> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.begin.notify_all();
        for helper in self.helpers.drain(..) {
            // A panic of a unit was kept as its outcome; there is nothing else to fail.
            drop(helper.join());
        }
    }
}

impl<W: Work> Shared<W> {
    /// No unit runs under the lock, so a poisoned lock still holds a whole state.
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, key: Key, unit: W::Unit) {
        self.lock().waiting.insert(key, unit);
        self.begin.notify_one();
    }

    fn help(&self) {
        let mut state = self.lock();
        loop {
            if state.stop {
                return;
            }
            let room =
                state.running.len() + state.done.len() < self.limits.units && state.bytes < self.limits.bytes;
            let Some((key, unit)) = (if room { state.waiting.pop_first() } else { None }) else {
                state = self.begin.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.running.insert(key.clone());
            drop(state);
            let run = || self.work.run(&key, unit, &|key, unit| self.spawn(key, unit));
            let out = catch_unwind(AssertUnwindSafe(run));
            state = self.lock();
            state.running.remove(&key);
            if let Ok(out) = &out {
                state.bytes += W::weight(out);
            }
            state.done.insert(key, out);
            self.done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// Counts down: a unit `n` has the units `n - 1` to 0 below it.
    struct Countdown {
        ahead: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        slow: bool,
    }

    impl Work for Countdown {
        type Unit = u32;
        type Out = Vec<u32>;

        fn run(&self, key: &[u32], unit: u32, spawn: &dyn Fn(Key, u32)) -> Vec<u32> {
            let ahead = self.ahead.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(ahead, SeqCst);
            if self.slow {
                thread::sleep(std::time::Duration::from_micros(u64::from(unit) * 50));
            }
            assert_ne!(unit, 99, "a unit that panics");
            for at in 0..unit {
                spawn([key, &[at]].concat(), unit - 1 - at);
            }
            vec![unit]
        }

        fn weight(out: &Vec<u32>) -> usize {
            out.len()
        }
    }

    fn walk(helpers: usize, units: usize) -> (Vec<u32>, usize) {
        let (ahead, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let work = Countdown { ahead: ahead.clone(), most: most.clone(), slow: helpers > 1 };
        let queue = Ordered::start(work, Limits { units, bytes: 1000 }, helpers, vec![], 7);
        let mut seen = Vec::new();
        let mut stack = vec![vec![]];
        while let Some(key) = stack.pop() {
            let out = queue.take(&key);
            ahead.fetch_sub(1, SeqCst);
            seen.push(out[0]);
            stack.extend((0..out[0]).rev().map(|at| [&key[..], &[at]].concat()));
        }
        drop(queue);
        (seen, most.load(SeqCst))
    }

    #[test]
    fn the_order_does_not_depend_on_the_helpers() {
        let (alone, most) = walk(0, 4);
        assert_eq!((alone.len(), most), (128, 1));
        for helpers in [1, 2, 5] {
            assert_eq!(walk(helpers, 4).0, alone);
        }
    }

    #[test]
    fn helpers_stay_within_the_limit() {
        let (_, most) = walk(5, 4);
        assert!(most <= 5, "4 units ahead and the consumer's own, not {most}");
    }

    #[test]
    fn a_panic_of_a_unit_reaches_the_consumer() {
        let work = Countdown { ahead: Arc::default(), most: Arc::default(), slow: false };
        let queue = Ordered::start(work, Limits { units: 4, bytes: 1000 }, 1, vec![], 99);
        assert!(catch_unwind(AssertUnwindSafe(|| queue.take(&vec![]))).is_err());
    }
}
