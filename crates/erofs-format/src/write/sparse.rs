//! Chunk sizes: for holes, and for data that is in one piece.

/// The largest chunk, as a power of two of blocks.
pub(super) const MAX_BITS: u8 = 31;

/// The size of an entry of a chunk map.
const INDEX: u64 = 8;

/// The chunk size with which `size` bytes take one chunk, or as few as possible.
pub(super) fn single_chunk_bits(size: u64, block_bits: u8) -> u8 {
    let bits = (u64::BITS - size.saturating_sub(1).leading_zeros()) as u8;
    bits.saturating_sub(block_bits).min(MAX_BITS)
}

/// The chunk size, as a power of two of blocks, for which map and data together are smallest.
///
/// Small chunks store no zeros but make long maps: a terabyte with one page of data is better off with chunks
/// of some megabytes. Of equally good sizes the smallest is chosen.
pub(super) fn best_chunk_bits(size: u64, ranges: &[(u64, u64)], block_bits: u8) -> u8 {
    let most = single_chunk_bits(size, block_bits);
    let cost = |bits: u8| {
        let map = size.div_ceil(1 << (bits + block_bits)).saturating_mul(INDEX);
        map.saturating_add(data_size(size, ranges, bits + block_bits, block_bits))
    };
    (0..=most).min_by_key(|&bits| (cost(bits), bits)).unwrap_or(0)
}

/// How many bytes the chunks with data take.
fn data_size(size: u64, ranges: &[(u64, u64)], chunk_bits: u8, block_bits: u8) -> u64 {
    let mut sum = 0u64;
    let mut done = 0;
    for &(offset, len) in ranges.iter().filter(|(_, len)| *len > 0) {
        let first = (offset >> chunk_bits).max(done);
        let last = (offset + len - 1) >> chunk_bits;
        if last < first {
            continue;
        }
        done = last + 1;
        let end = done.saturating_mul(1 << chunk_bits).min(size.next_multiple_of(1 << block_bits));
        sum = sum.saturating_add(end - (first << chunk_bits));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chunk_suffices_up_to_the_largest() {
        for (size, bits) in
            [(0, 0), (1, 0), (4096, 0), (4097, 1), (1 << 20, 8), ((1 << 20) + 1, 9), (1 << 62, 31)]
        {
            assert_eq!(single_chunk_bits(size, 12), bits, "{size}");
        }
    }

    #[test]
    fn large_holes_get_large_chunks() {
        assert_eq!(best_chunk_bits(1 << 20, &[(0, 4096)], 12), 0);
        assert_eq!(best_chunk_bits(16384, &[(4096, 4096)], 12), 0);
        let bits = best_chunk_bits(1 << 40, &[(12_345_678, 100)], 12);
        assert!((8..12).contains(&bits), "{bits}");
    }
}
