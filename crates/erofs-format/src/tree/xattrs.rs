//! Xattrs, each pair of name and value kept once, and each set of pairs.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::{error::Result, raw::xattr::split_name};

use super::unrepresentable;

/// A name with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PairId(pub(crate) u32);

/// The xattrs of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetId(pub(crate) u32);

impl SetId {
    /// No xattrs.
    pub(crate) const EMPTY: Self = Self(0);
}

#[derive(Debug)]
pub(crate) struct XattrPool {
    bytes: Vec<u8>,
    pairs: Vec<Pair>,
    pair_index: HashTable<u32>,
    /// The pairs of all sets.
    members: Vec<PairId>,
    /// Where each set starts in `members`, and one more for the end.
    sets: Vec<u32>,
    set_index: HashTable<u32>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    start: usize,
    name_len: u16,
    value_len: u16,
}

impl XattrPool {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            pairs: Vec::new(),
            pair_index: HashTable::new(),
            members: Vec::new(),
            sets: vec![0, 0],
            set_index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// How many distinct pairs there are.
    pub(crate) fn pair_count(&self) -> usize {
        self.pairs.len()
    }

    /// How many distinct sets there are, the empty one included.
    pub(crate) fn set_count(&self) -> usize {
        self.sets.len() - 1
    }

    /// Full name and value.
    pub(crate) fn pair(&self, pair: PairId) -> (&[u8], &[u8]) {
        self.pairs[pair.0 as usize].split(&self.bytes)
    }

    /// The pairs of a set, in bytewise order of their names.
    pub(crate) fn set(&self, set: SetId) -> &[PairId] {
        &self.members[self.sets[set.0 as usize] as usize..self.sets[set.0 as usize + 1] as usize]
    }

    /// The set with these pairs; of a repeated name the last value counts.
    pub(crate) fn intern<'x>(
        &mut self,
        xattrs: impl IntoIterator<Item = (&'x [u8], &'x [u8])>,
    ) -> Result<SetId> {
        let mut pairs = Vec::new();
        for (name, value) in xattrs {
            pairs.push(self.intern_pair(name, value)?);
        }
        // Stable, so that the last of equal names stays last.
        pairs.sort_by(|&a, &b| self.pair(a).0.cmp(self.pair(b).0));
        let mut kept: Vec<PairId> = Vec::with_capacity(pairs.len());
        for pair in pairs {
            match kept.last_mut() {
                Some(last) if self.pair(*last).0 == self.pair(pair).0 => *last = pair,
                _ => kept.push(pair),
            }
        }
        Ok(self.intern_set(kept))
    }

    /// A set with one name set to another value.
    pub(super) fn with(&mut self, set: SetId, name: &[u8], value: &[u8]) -> Result<SetId> {
        let pair = self.intern_pair(name, value)?;
        let mut pairs = self.set(set).to_vec();
        match pairs.binary_search_by(|&other| self.pair(other).0.cmp(name)) {
            Ok(at) => pairs[at] = pair,
            Err(at) => pairs.insert(at, pair),
        }
        Ok(self.intern_set(pairs))
    }

    /// A set without a name.
    pub(super) fn without(&mut self, set: SetId, name: &[u8]) -> SetId {
        let pairs = self.set(set).iter().copied().filter(|&pair| self.pair(pair).0 != name).collect();
        self.intern_set(pairs)
    }

    fn intern_pair(&mut self, name: &[u8], value: &[u8]) -> Result<PairId> {
        let storable = split_name(name).is_some_and(|(_, rest)| rest.len() <= 255 && !rest.contains(&0));
        if !storable {
            return Err(unrepresentable("xattr", format!("the name \"{}\"", name.escape_ascii())));
        }
        let Ok(value_len) = u16::try_from(value.len()) else {
            return Err(unrepresentable("xattr", format!("a value of {} bytes", value.len())));
        };
        let hash = self.hasher.hash_one((name, value));
        let (pairs, bytes, hasher) = (&self.pairs, &self.bytes, &self.hasher);
        if let Some(&pair) =
            self.pair_index.find(hash, |&pair| pairs[pair as usize].split(bytes) == (name, value))
        {
            return Ok(PairId(pair));
        }
        let id = self.pairs.len() as u32;
        self.pair_index.insert_unique(hash, id, |&pair| hasher.hash_one(pairs[pair as usize].split(bytes)));
        self.pairs.push(Pair { start: self.bytes.len(), name_len: name.len() as u16, value_len });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        Ok(PairId(id))
    }

    fn intern_set(&mut self, pairs: Vec<PairId>) -> SetId {
        if pairs.is_empty() {
            return SetId::EMPTY;
        }
        let hash = self.hasher.hash_one(&pairs[..]);
        let (sets, members, hasher) = (&self.sets, &self.members, &self.hasher);
        let content = |set: u32| &members[sets[set as usize] as usize..sets[set as usize + 1] as usize];
        if let Some(&set) = self.set_index.find(hash, |&set| content(set) == pairs) {
            return SetId(set);
        }
        let id = self.set_count() as u32;
        self.set_index.insert_unique(hash, id, |&set| hasher.hash_one(content(set)));
        self.members.extend_from_slice(&pairs);
        self.sets.push(self.members.len() as u32);
        SetId(id)
    }
}

impl Pair {
    fn split<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let (name_len, value_len) = (usize::from(self.name_len), usize::from(self.value_len));
        bytes[self.start..self.start + name_len + value_len].split_at(name_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_whatever_the_order() {
        let mut pool = XattrPool::new();
        let (a, b) = ((&b"user.a"[..], &b"1"[..]), (&b"user.b"[..], &b"2"[..]));
        let set = pool.intern([b, a]).unwrap();
        assert_eq!(pool.intern([a, b]).unwrap(), set);
        assert_eq!(pool.intern([a, (b"user.b", b"3"), b]).unwrap(), set);
        let only_a = pool.without(set, b"user.b");
        assert_eq!(pool.with(only_a, b"user.b", b"2").unwrap(), set);
        assert_eq!(pool.without(only_a, b"user.a"), SetId::EMPTY);
        assert_eq!((pool.pair_count(), pool.set(set).len()), (3, 2));
    }

    #[test]
    fn names_outside_the_prefixes_are_refused() {
        let mut pool = XattrPool::new();
        let long = [&b"user."[..], &[b'x'; 256]].concat();
        for name in [&b"btrfs.compression"[..], b"user.", b"system.other", b"", b"user.a\0", &long] {
            assert!(pool.intern([(name, &b""[..])]).is_err());
        }
        assert!(pool.intern([(&b"user.big"[..], &vec![0; 65_536][..])]).is_err());
        assert!(pool.intern([(&b"user.big"[..], &vec![0; 65_535][..])]).is_ok());
    }
}
