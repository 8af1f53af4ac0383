//! Places inodes in blocks.
//!
//! What goes with an inode (xattrs, chunk map, inline data) stays in one block with it where that is possible,
//! because inline data must not cross a block and everything else is faster to read. Ends of blocks are
//! remembered, a few at a time, and filled with later inodes that fit.

use crate::raw::SLOT_SIZE;

/// How many ends of blocks are remembered.
const GAPS: usize = 32;

/// Free space at the end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    start: u64,
    end: u64,
}

/// Gives out positions. What it gives depends on nothing but the calls before.
#[derive(Debug)]
pub(super) struct Packer {
    block: u64,
    /// Ranges of blocks that were never used; the last one ends nowhere.
    fresh: Vec<Gap>,
    gaps: Vec<Gap>,
}

impl Packer {
    /// Starts at `position`, which may be within a block.
    pub(super) fn new(position: u64, block: u64) -> Self {
        let start = position.next_multiple_of(SLOT_SIZE);
        let fresh = start.next_multiple_of(block);
        let mut packer = Self { block, fresh: vec![Gap { start: fresh, end: u64::MAX }], gaps: Vec::new() };
        packer.keep(start, fresh);
        packer
    }

    /// Takes over what another packer has left before `end`; it is used first.
    pub(super) fn take_over(&mut self, other: Self, end: u64) {
        let rest = Gap { start: other.end(), end };
        if rest.start < rest.end {
            self.fresh.insert(0, rest);
        }
        other.gaps.iter().for_each(|gap| self.keep(gap.start, gap.end));
    }

    /// The end of all blocks used.
    pub(super) fn end(&self) -> u64 {
        self.fresh.last().map_or(0, |fresh| fresh.start)
    }

    /// Room for `size` bytes: within one block if they fit in one, otherwise from the start of one.
    pub(super) fn place(&mut self, size: u64) -> u64 {
        // The last range ends nowhere.
        self.place_before(size, u64::MAX).unwrap_or(u64::MAX)
    }

    /// The same, if there is room before `limit`.
    pub(super) fn place_before(&mut self, size: u64, limit: u64) -> Option<u64> {
        let fitting = self.gaps.iter().enumerate().filter(|(_, gap)| gap.end - gap.start >= size);
        if let Some((index, gap)) = fitting.min_by_key(|(_, gap)| (gap.end - gap.start, gap.start)) {
            let Gap { start, end } = *gap;
            self.gaps.swap_remove(index);
            self.keep((start + size).next_multiple_of(SLOT_SIZE), end);
            return Some(start);
        }
        let range = self.fresh.iter_mut().find(|range| range.end.min(limit) - range.start >= size)?;
        let start = range.start;
        let end = (start + size).next_multiple_of(self.block);
        range.start = end;
        self.keep((start + size).next_multiple_of(SLOT_SIZE), end);
        Some(start)
    }

    fn keep(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if self.gaps.len() == GAPS {
            let smallest =
                (0..GAPS).min_by_key(|&i| (self.gaps[i].end - self.gaps[i].start, self.gaps[i].start));
            if let Some(smallest) = smallest {
                self.gaps.swap_remove(smallest);
            }
        }
        self.gaps.push(Gap { start, end });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_blocks_are_filled_later() {
        let mut packer = Packer::new(1152, 4096);
        assert_eq!(packer.place(64), 1152);
        assert_eq!(packer.place(3000), 4096);
        assert_eq!(packer.place(100), 4096 + 3008);
        assert_eq!(packer.place(2880), 1216);
        assert_eq!(packer.place(9000), 8192);
        assert_eq!(packer.place(3000), 8192 + 9024);
        assert_eq!(packer.end(), 8192 + 3 * 4096);
    }

    #[test]
    fn what_fits_a_block_never_crosses_one() {
        let mut packer = Packer::new(0, 512);
        let mut used = Vec::new();
        for round in 0..5000u64 {
            let size = 32 + round * 7919 % 1500;
            let start = packer.place(size);
            assert!(start.is_multiple_of(32));
            assert!(if size <= 512 {
                start / 512 == (start + size - 1) / 512
            } else {
                start.is_multiple_of(512)
            });
            used.push((start, start + size));
        }
        used.sort_unstable();
        assert!(used.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
