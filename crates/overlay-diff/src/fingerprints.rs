//! Which paths were given.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
};

use layer_model::LayerPath;

/// A set of paths, as 128-bit hashes under keys of this process, so that no input can aim at a collision. The
/// paths themselves would take several times the memory in a layer of many directories.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    keys: [RandomState; 2],
    set: HashSet<[u64; 2]>,
}

impl Fingerprints {
    fn of(&self, path: LayerPath<'_>) -> [u64; 2] {
        [0, 1].map(|key: usize| self.keys[key].hash_one(path.as_bytes()))
    }

    pub(crate) fn insert(&mut self, path: LayerPath<'_>) {
        self.set.insert(self.of(path));
    }

    pub(crate) fn contains(&self, path: LayerPath<'_>) -> bool {
        self.set.contains(&self.of(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_what_was_put_into_it() {
        let path = |name: &'static [u8]| LayerPath::new(name).unwrap();
        let mut set = Fingerprints::default();
        set.insert(path(b"a/b"));
        assert!(set.contains(path(b"a/b")));
        assert!(!set.contains(path(b"a")) && !set.contains(LayerPath::ROOT));
    }
}
