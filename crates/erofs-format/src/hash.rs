//! The two small checksums of the format. Both run over a few bytes only, so simple code is fast enough.

use crate::raw::xattr::FILTER_SEED;

/// CRC-32C as the superblock stores it: initial value all ones, no final inversion.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc = CRC32C_TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    }
    crc
}

/// The bloom filter bit of an xattr name: `index` is the base prefix, `rest` the name after it.
pub(crate) fn filter_bit(index: u8, rest: &[u8]) -> u32 {
    1 << (xxh32(rest, FILTER_SEED.wrapping_add(u32::from(index))) & 31)
}

const CRC32C_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

const PRIME: [u32; 5] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D, 0x27D4_EB2F, 0x1656_67B1];

/// XXH32 (xxHash specification, 32-bit variant).
fn xxh32(input: &[u8], seed: u32) -> u32 {
    let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let round = |acc: u32, lane: u32| {
        acc.wrapping_add(lane.wrapping_mul(PRIME[1])).rotate_left(13).wrapping_mul(PRIME[0])
    };
    let mut stripes = input.chunks_exact(16);
    let mut hash = if input.len() >= 16 {
        let mut acc = [
            seed.wrapping_add(PRIME[0]).wrapping_add(PRIME[1]),
            seed.wrapping_add(PRIME[1]),
            seed,
            seed.wrapping_sub(PRIME[0]),
        ];
        for stripe in &mut stripes {
            for (acc, lane) in acc.iter_mut().zip(stripe.chunks_exact(4)) {
                *acc = round(*acc, word(lane));
            }
        }
        acc.iter().zip([1, 7, 12, 18]).fold(0u32, |sum, (acc, turn)| sum.wrapping_add(acc.rotate_left(turn)))
    } else {
        stripes = input.chunks_exact(16);
        seed.wrapping_add(PRIME[4])
    };
    hash = hash.wrapping_add(input.len() as u32);
    let mut lanes = stripes.remainder().chunks_exact(4);
    for lane in &mut lanes {
        hash = hash.wrapping_add(word(lane).wrapping_mul(PRIME[2])).rotate_left(17).wrapping_mul(PRIME[3]);
    }
    for byte in lanes.remainder() {
        hash =
            hash.wrapping_add(u32::from(*byte).wrapping_mul(PRIME[4])).rotate_left(11).wrapping_mul(PRIME[0]);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(PRIME[1]);
    hash = (hash ^ (hash >> 13)).wrapping_mul(PRIME[2]);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_the_standard_one_without_the_last_inversion() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0x1CF9_6D7C);
    }

    #[test]
    fn xattr_names_hash_as_the_kernel_hashes_them() {
        let cases: [(&[u8], u8, u32); 8] = [
            (b"overlay.redirect", 4, 0x887E_C271),
            (b"overlay.opaque", 4, 0x4CE0_A7F4),
            (b"overlay.metacopy", 4, 0xDBE5_E05F),
            (b"selinux", 6, 0x9490_146B),
            (b"capability", 6, 0x8C47_AC5D),
            (b"", 2, 0x0857_597E),
            (b"", 3, 0x59EE_ABB5),
            (b"foo", 1, 0x6B6A_B58C),
        ];
        for (name, index, hash) in cases {
            assert_eq!(xxh32(name, FILTER_SEED + u32::from(index)), hash);
            assert_eq!(filter_bit(index, name), 1 << (hash & 31));
        }
    }
}
