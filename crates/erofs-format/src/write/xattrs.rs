//! Which xattrs are shared, and the bytes of xattr areas.

use zerocopy::IntoBytes;

use crate::{
    error::Result,
    hash,
    raw::xattr::{Entry, IbodyHeader, LONG_PREFIX, LongPrefix, split_name},
    tree::{PairId, SetId, Tree, XattrPool, unrepresentable},
};

use super::options::WriteOptions;

/// The largest area: the field that counts it has 16 bits.
const AREA_MAX: u64 = 12 + 4 * (u16::MAX as u64 - 1);

/// The most shared ids of an inode.
const SHARED_MAX: usize = 255;

/// Where shared xattrs are, and how names are stored.
#[derive(Debug)]
pub(super) struct XattrLayout {
    /// Long prefixes, whole.
    prefixes: Vec<Vec<u8>>,
    filter: bool,
    /// The position of each shared pair, 0 for those that are not.
    positions: Vec<u64>,
    /// The size of each set's area, where it has one.
    areas: Vec<Option<u32>>,
    /// The position that ids count from.
    pub(super) base: u64,
}

impl XattrLayout {
    pub(super) fn new(options: &WriteOptions) -> Self {
        Self {
            prefixes: options.prefixes.iter().map(WriteOptions::prefix_text).collect(),
            filter: options.xattr_filter,
            positions: Vec::new(),
            areas: Vec::new(),
            base: 0,
        }
    }

    /// Notes that a pair is stored at `position`.
    pub(super) fn share(&mut self, pair: PairId, position: u64) {
        let index = pair.0 as usize;
        if self.positions.len() <= index {
            self.positions.resize(index + 1, 0);
        }
        self.positions[index] = position;
    }

    fn position(&self, pair: PairId) -> Option<u64> {
        self.positions.get(pair.0 as usize).copied().filter(|&position| position != 0)
    }

    pub(super) fn is_shared(&self, pair: PairId) -> bool {
        self.position(pair).is_some()
    }

    /// Decides what is shared besides what already is: pairs used often enough (`uses` counts the inodes of
    /// each set), and pairs for which there is no room inline. Returns them in the order of the table.
    pub(super) fn choose(&self, tree: &Tree, options: &WriteOptions, uses: &[u32]) -> Vec<PairId> {
        let pool = &tree.xattrs;
        let mut wanted = vec![false; pool.pair_count()];
        if let Some(least) = options.share_xattrs {
            let mut counts = vec![0u64; pool.pair_count()];
            for (set, &uses) in uses.iter().enumerate() {
                for pair in pool.set(SetId(set as u32)) {
                    counts[pair.0 as usize] += u64::from(uses);
                }
            }
            for (wanted, count) in wanted.iter_mut().zip(counts) {
                *wanted = count >= u64::from(least.max(1));
            }
        }
        for (set, _) in uses.iter().enumerate().filter(|(_, uses)| **uses > 0) {
            self.make_room(pool, pool.set(SetId(set as u32)), AREA_MAX, &mut wanted);
        }
        let mut chosen: Vec<PairId> = (0..wanted.len())
            .filter(|&index| wanted[index])
            .map(|index| PairId(index as u32))
            .filter(|&pair| !self.is_shared(pair))
            .collect();
        chosen.sort_unstable_by(|&a, &b| pool.pair(a).cmp(&pool.pair(b)));
        chosen
    }

    /// Marks pairs of a set to be shared, largest first, until its area has at most `room` bytes.
    pub(super) fn make_room(&self, pool: &XattrPool, pairs: &[PairId], room: u64, wanted: &mut [bool]) {
        let is_inline = |pair: &PairId, wanted: &[bool]| !wanted[pair.0 as usize] && !self.is_shared(*pair);
        let mut inline: Vec<_> = pairs
            .iter()
            .filter(|pair| is_inline(pair, wanted))
            .map(|&pair| (self.stored_size(pool, pair), pair))
            .collect();
        let shared = pairs.len() - inline.len();
        let mut area = 12 + 4 * shared as u64 + inline.iter().map(|(size, _)| size).sum::<u64>();
        inline.sort_unstable();
        while area > room
            && let Some((size, pair)) = inline.pop()
        {
            wanted[pair.0 as usize] = true;
            area = area + 4 - size;
        }
    }

    /// The bytes that a pair takes as an entry.
    pub(super) fn stored_size(&self, pool: &XattrPool, pair: PairId) -> u64 {
        let (name, value) = pool.pair(pair);
        Entry::stored_size(self.stored_name(name).1.len(), value.len()) as u64
    }

    /// Fixes the areas of all sets, once it is known what is shared.
    pub(super) fn measure(&mut self, pool: &XattrPool) {
        self.areas = (0..pool.set_count()).map(|set| self.area_size(pool, SetId(set as u32))).collect();
    }

    /// The size of a set's area, after [`XattrLayout::measure`].
    pub(super) fn area(&self, set: SetId) -> Result<u64> {
        let area = self.areas[set.0 as usize];
        area.map(u64::from)
            .ok_or_else(|| unrepresentable("xattrs", "the xattrs of a file take too much room"))
    }

    /// The size of a set's area, as things are shared now; [`None`] if it would be too large.
    pub(super) fn area_size(&self, pool: &XattrPool, set: SetId) -> Option<u32> {
        if set == SetId::EMPTY {
            return Some(0);
        }
        let (shared, inline) = self.split(pool.set(set));
        let inline: u64 = inline.iter().map(|&pair| self.stored_size(pool, pair)).sum();
        let area = 12 + 4 * shared.len() as u64 + inline;
        (area <= AREA_MAX).then_some(area as u32)
    }

    /// The shared positions (ascending) and the inline pairs of a set.
    fn split(&self, pairs: &[PairId]) -> (Vec<u64>, Vec<PairId>) {
        let mut shared = Vec::new();
        let mut inline = Vec::new();
        for &pair in pairs {
            match self.position(pair) {
                Some(position) if shared.len() < SHARED_MAX => shared.push(position),
                _ => inline.push(pair),
            }
        }
        shared.sort_unstable();
        (shared, inline)
    }

    /// Appends a set's area.
    pub(super) fn write_area(&self, pool: &XattrPool, set: SetId, out: &mut Vec<u8>) -> Result<()> {
        if set == SetId::EMPTY {
            return Ok(());
        }
        let (shared, inline) = self.split(pool.set(set));
        let header = IbodyHeader {
            name_filter: if self.filter { filter(pool, set) } else { 0 }.into(),
            shared_count: shared.len() as u8,
            reserved: [0; 7],
        };
        out.extend_from_slice(header.as_bytes());
        for position in shared {
            let id = u32::try_from((position - self.base) / 4);
            let id = id.map_err(|_| unrepresentable("xattrs", "a shared xattr is too far away"))?;
            out.extend_from_slice(&id.to_le_bytes());
        }
        for pair in inline {
            self.write_pair(pool, pair, out);
        }
        Ok(())
    }

    /// Appends a pair as an entry.
    pub(super) fn write_pair(&self, pool: &XattrPool, pair: PairId, out: &mut Vec<u8>) {
        let (name, value) = pool.pair(pair);
        let (name_index, rest) = self.stored_name(name);
        let entry = Entry { name_len: rest.len() as u8, name_index, value_size: (value.len() as u16).into() };
        out.extend_from_slice(entry.as_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        let used = size_of::<Entry>() + rest.len() + value.len();
        out.extend_from_slice(&[0; 3][..Entry::stored_size(rest.len(), value.len()) - used]);
    }

    /// Prefix number and rest of a full name: the longest prefix that fits.
    fn stored_name<'n>(&self, name: &'n [u8]) -> (u8, &'n [u8]) {
        let long = self.prefixes.iter().enumerate().filter(|(_, prefix)| name.starts_with(prefix));
        match long.max_by_key(|(index, prefix)| (prefix.len(), usize::MAX - index)) {
            Some((index, prefix)) => (LONG_PREFIX | index as u8, &name[prefix.len()..]),
            // Names without base prefix do not get into a tree.
            None => split_name(name).unwrap_or((0, name)),
        }
    }
}

/// The bloom filter of a set of names.
fn filter(pool: &XattrPool, set: SetId) -> u32 {
    let names = pool.set(set).iter().filter_map(|&pair| split_name(pool.pair(pair).0));
    !names.fold(0, |bits, (index, rest)| bits | hash::filter_bit(index, rest))
}

/// The table of long prefixes, as it is stored.
pub(super) fn prefix_table(options: &WriteOptions) -> Vec<u8> {
    let mut table = Vec::new();
    for (base_index, infix) in &options.prefixes {
        table.resize(table.len().next_multiple_of(4), 0);
        let record = LongPrefix { size: (1 + infix.len() as u16).into(), base_index: *base_index };
        table.extend_from_slice(record.as_bytes());
        table.extend_from_slice(infix);
    }
    table
}
