//! A table of values by number, copied on write.

use std::sync::Arc;

/// How many values are copied together: pointers only, so a chunk is small.
const CHUNK: usize = 128;

/// Values by number. A clone shares all of them with the original until one side changes some: it costs a pointer
/// for [`CHUNK`] values.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    chunks: Vec<Arc<Vec<Arc<T>>>>,
    len: u32,
}

impl<T> Clone for Arena<T> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Clone> Arena<T> {
    /// Adds a value, and returns its number.
    pub(crate) fn push(&mut self, value: T) -> u32 {
        let id = self.len;
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => Arc::make_mut(chunk).push(Arc::new(value)),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(Arc::new(value));
                self.chunks.push(Arc::new(chunk));
            }
        }
        self.len += 1;
        id
    }

    pub(crate) fn get(&self, id: u32) -> &Arc<T> {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> &mut T {
        Arc::make_mut(&mut Arc::make_mut(&mut self.chunks[id as usize / CHUNK])[id as usize % CHUNK])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_what_is_changed_later() {
        let mut old = Arena::default();
        for n in 0..300 {
            assert_eq!(old.push(n), n);
        }
        let mut new = old.clone();
        *new.get_mut(130) = 7;
        assert_eq!((**old.get(130), **new.get(130)), (130, 7));
        assert!(Arc::ptr_eq(old.get(131), new.get(131)));
        assert_eq!(new.push(8), 300);
        assert_eq!(old.push(9), 300);
        assert_eq!((**old.get(300), **new.get(300)), (9, 8));
    }
}
