//! The fs-verity digest that the data below a metacopy file has to have.
//!
//! An overlay mounted with `verity=on` writes it into the marker of a file whose data stays below. It is the
//! digest of a descriptor over a Merkle tree (`Documentation/filesystems/fsverity.rst`): SHA-256, blocks of
//! 4096 bytes, no salt.

use layer_model::{Error, ErrorKind, IoContext, ReadAt, Result};
use sha2::{Digest, Sha256};

const BLOCK: usize = 4096;
const HASH: usize = 32;

/// Fails unless the `size` bytes of `file` have this digest.
///
/// # Errors
/// [`ErrorKind::InvalidUpper`] when they have not, and those of reading.
pub(crate) fn verify(file: &dyn ReadAt, size: u64, want: &[u8; HASH]) -> Result<()> {
    if digest(file, size)? == *want {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidUpper,
        "the data below does not have the fs-verity digest of its metacopy",
    ))
}

fn digest(file: &dyn ReadAt, size: u64) -> Result<[u8; HASH]> {
    let mut levels = vec![Vec::with_capacity(BLOCK)];
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        let len = BLOCK.min(usize::try_from(size - at).unwrap_or(BLOCK));
        block[len..].fill(0);
        file.read_exact_at(&mut block[..len], at).during("read metacopy data")?;
        add(&mut levels, 0, sha256(&block));
        at += len as u64;
    }
    // struct fsverity_descriptor
    let mut descriptor = [0; 256];
    descriptor[..3].copy_from_slice(&[1, 1, BLOCK.trailing_zeros() as u8]);
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..16 + HASH].copy_from_slice(&root(levels));
    Ok(sha256(&descriptor))
}

/// Puts a hash into the open block of a level; a full one is hashed into the level above.
fn add(levels: &mut Vec<Vec<u8>>, level: usize, hash: [u8; HASH]) {
    if levels[level].len() == BLOCK {
        let full = std::mem::replace(&mut levels[level], Vec::with_capacity(BLOCK));
        if levels.len() == level + 1 {
            levels.push(Vec::with_capacity(BLOCK));
        }
        add(levels, level + 1, sha256(&full));
    }
    levels[level].extend_from_slice(&hash);
}

/// The root: of an empty file nothing, of a single block its own hash.
fn root(mut levels: Vec<Vec<u8>>) -> [u8; HASH] {
    let mut level = 0;
    loop {
        if level + 1 == levels.len() && levels[level].len() <= HASH {
            let mut root = [0; HASH];
            root[..levels[level].len()].copy_from_slice(&levels[level]);
            return root;
        }
        let mut last = std::mem::take(&mut levels[level]);
        last.resize(BLOCK, 0);
        if levels.len() == level + 1 {
            levels.push(Vec::new());
        }
        add(&mut levels, level + 1, sha256(&last));
        level += 1;
    }
}

fn sha256(bytes: &[u8]) -> [u8; HASH] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests are those that `fsverity digest` prints.
    #[test]
    fn the_digest_is_that_of_the_kernel() {
        let known = [
            (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (1, "dbbdfa9d606f7adeaa7f16dcfb0d49161c4cfb82d9d51cfb5cb43fa3dacb9e5b"),
            (4096, "3f128b8d5a052638172857f47f0110dc2fc2c234dc0c712c08a3bc6f6c540483"),
            (4097, "f54d7eca1ac49ae471f4abedb0d9309f0b84a51ec5c1733e3abb2aaf9f66c4ad"),
            (600_000, "22a030e0df2b08f5a1fa2d5a612b44145030d46809b913da5625ddd244595d5e"),
        ];
        for (size, want) in known {
            let file = vec![b'x'; size];
            let got = digest(&file, size as u64).unwrap();
            let hex: String = got.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, want, "{size} bytes");
            verify(&file, size as u64, &got).unwrap();
        }
        let error = verify(&vec![b'y'; 10], 10, &[0; 32]).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidUpper);
    }
}
