//! Has the kernel read files before their turn comes, where they are not in its cache.
//!
//! Small files one after the other leave a disk idle most of the time: each is asked for when the one before has been read.
//! A thread that opens what comes next and tells the kernel so keeps it busy. Files that are in the cache need none of that:
//! the thread sleeps until a read has taken too long for memory.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use layer_model::{LayerTree, ReadAt, Result};
use rustix::fs::{Advice, fadvise};

use super::files::{FileList, Opener};

/// How long a read from memory takes at most, of the pieces that files are read in.
const FROM_MEMORY: Duration = Duration::from_micros(250);

/// How many bytes may be asked for before their turn.
const AHEAD: u64 = 32 << 20;

/// For how many bytes one slow read is a sign of more.
const STRETCH: u64 = 128 << 20;

/// The kernel reads no more than this for one advice, whatever it was asked for (`force_page_cache_ra` in
/// `mm/readahead.c`; the window that block devices come with).
const WINDOW: u64 = 128 << 10;

/// Where the reader of a list of files is, and how far the thread that asks may be ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How many bytes the files have that the reader is through with.
    at: u64,
    /// Up to where files are asked for.
    until: u64,
    ended: bool,
}

/// Who reads the files. When it is gone nothing more is asked for.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a Ahead);

impl Reader<'_> {
    /// Does one read, and takes note if it had to wait.
    pub(super) fn timed<T>(&self, read: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = read();
        if begun.elapsed() > FROM_MEMORY {
            self.waited();
        }
        done
    }

    fn waited(&self) {
        let mut state = self.0.lock();
        state.until = state.at + STRETCH;
        self.0.moved.notify_one();
    }

    /// The reader is through with a file of `size` bytes.
    pub(super) fn through(&self, size: u64) {
        let mut state = self.0.lock();
        state.at += size;
        if state.at < state.until {
            self.0.moved.notify_one();
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.moved.notify_one();
    }
}

impl Ahead {
    /// The one reader.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader(self)
    }

    /// Asks for files as they are wanted, until the end. What cannot be opened is left to the reader, who will say why.
    pub(super) fn ask(&self, tree: &dyn LayerTree, files: &FileList) -> Result<()> {
        let (mut opener, mut files) = (Opener::new(tree), files.reader());
        let mut at = 0;
        while let Some(file) = files.next_file()? {
            match self.wait_for(at) {
                Turn::Ended => return Ok(()),
                Turn::Over => {}
                Turn::Wanted => {
                    if let Ok(opened) = opener.open(file.path) {
                        advise(&*opened, file.size.min(AHEAD));
                    }
                }
            }
            at += file.size;
        }
        Ok(())
    }

    /// Waits until the file that begins at `at` is wanted, or no longer.
    fn wait_for(&self, at: u64) -> Turn {
        let mut state = self.lock();
        loop {
            if state.ended {
                return Turn::Ended;
            }
            // What the reader reads now is too late to ask for.
            if at <= state.at {
                return Turn::Over;
            }
            if at < state.until.min(state.at + AHEAD) {
                return Turn::Wanted;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Turn {
    Wanted,
    Over,
    Ended,
}

/// Tells the kernel that the first `len` bytes will be read. It need not listen.
fn advise(file: &dyn ReadAt, len: u64) {
    let Some(fd) = file.as_fd() else { return };
    for start in (0..len).step_by(WINDOW as usize) {
        let window = std::num::NonZeroU64::new(WINDOW.min(len - start));
        if fadvise(fd, start, window, Advice::WillNeed).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        thread,
    };

    use layer_model::{LayerDir, LayerPath, Node, testing::MemoryLayer};

    use super::*;

    /// A directory of files that counts how many were opened.
    struct Counting(Arc<dyn LayerDir>, Arc<AtomicUsize>);

    impl LayerTree for Counting {
        fn root(&self) -> Result<Arc<dyn LayerDir>> {
            Ok(Arc::new(Self(self.0.clone(), self.1.clone())))
        }
    }

    impl LayerDir for Counting {
        fn node(&self) -> Result<Node> {
            self.0.node()
        }

        fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
            self.0.lookup(name)
        }

        fn names(&self) -> Result<Vec<Box<[u8]>>> {
            self.0.names()
        }

        fn open_dir(&self, name: &[u8]) -> Result<Arc<dyn LayerDir>> {
            self.0.open_dir(name)
        }

        fn open_file(&self, name: &[u8]) -> Result<Box<dyn ReadAt>> {
            self.1.fetch_add(1, SeqCst);
            self.0.open_file(name)
        }
    }

    #[test]
    fn files_are_asked_for_after_a_slow_read_and_not_too_far_ahead() {
        let (mut tree, mut files) = (MemoryLayer::new(), FileList::default());
        let size = 1 << 20;
        for n in 0..200 {
            let name = format!("{n:03}");
            tree = tree.file(&name, "");
            files.push(LayerPath::new(name.as_bytes()).unwrap(), size);
        }
        let count = Arc::new(AtomicUsize::new(0));
        let (tree, ahead) = (Counting(tree.root().unwrap(), count.clone()), Ahead::default());
        let settles_at = |wanted: usize| {
            for _ in 0..2000 {
                if count.load(SeqCst) == wanted {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(5));
            assert_eq!(count.load(SeqCst), wanted);
        };
        thread::scope(|scope| {
            let helper = scope.spawn(|| ahead.ask(&tree, &files));
            let reader = ahead.reader();
            (0..10).for_each(|_| reader.through(size));
            settles_at(0);
            reader.through(size);
            reader.waited();
            // Those behind the one that is being read now.
            settles_at(31);
            (0..5).for_each(|_| reader.through(size));
            settles_at(36);
            // The sign counts for so many bytes.
            (0..150).for_each(|_| reader.through(size));
            settles_at(count.load(SeqCst));
            assert!(count.load(SeqCst) <= 128, "{count:?}");
            drop(reader);
            helper.join().unwrap().unwrap();
        });
    }
}
