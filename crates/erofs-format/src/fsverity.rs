//! fs-verity: the digest that identifies a file's content, as the kernel measures it.
//!
//! Kernel documentation: `Documentation/filesystems/fsverity.rst`. Blocks of 4096 bytes.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256, Sha512, digest::Output};

use crate::error::{Error, Result};

const BLOCK: usize = 4096;

/// The hash of an fs-verity digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FsVerityHash {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// The digest of everything that `content` gives. The salt has at most 32 bytes; most files have none.
///
/// # Errors
/// `InvalidArgument` for a longer salt; `Io` if reading fails.
pub fn fsverity_digest(content: &mut dyn Read, hash: FsVerityHash, salt: &[u8]) -> Result<Vec<u8>> {
    let mut digest = FsVerityDigest::new(hash, salt)?;
    io::copy(content, &mut digest).map_err(|error| Error::io("read content", error))?;
    Ok(digest.finish())
}

/// Computes a digest while content is written: a `Write` that takes the content from its start.
///
/// Memory is a block for each level of the tree: at most seven.
#[derive(Clone, Debug)]
pub struct FsVerityDigest(Algorithm);

#[derive(Clone, Debug)]
enum Algorithm {
    Sha256(Tree<Sha256>),
    Sha512(Tree<Sha512>),
}

impl FsVerityDigest {
    /// Starts with no content.
    ///
    /// # Errors
    /// `InvalidArgument` for a salt of more than 32 bytes.
    pub fn new(hash: FsVerityHash, salt: &[u8]) -> Result<Self> {
        if salt.len() > 32 {
            return Err(Error::invalid("an fs-verity salt has at most 32 bytes"));
        }
        Ok(Self(match hash {
            FsVerityHash::Sha256 => Algorithm::Sha256(Tree::new(salt, 64)),
            FsVerityHash::Sha512 => Algorithm::Sha512(Tree::new(salt, 128)),
        }))
    }

    /// Takes more content.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            Algorithm::Sha256(tree) => tree.update(data),
            Algorithm::Sha512(tree) => tree.update(data),
        }
    }

    /// The digest of all content.
    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            Algorithm::Sha256(tree) => tree.finish(1),
            Algorithm::Sha512(tree) => tree.finish(2),
        }
    }
}

impl Write for FsVerityDigest {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A Merkle tree of which only the open block of each level is kept.
#[derive(Clone, Debug)]
struct Tree<D> {
    /// A hash that has taken the padded salt.
    start: D,
    salt: Vec<u8>,
    size: u64,
    /// The open block of each level, content first.
    levels: Vec<Vec<u8>>,
}

impl<D: Digest + Clone> Tree<D> {
    fn new(salt: &[u8], input_size: usize) -> Self {
        let mut start = D::new();
        if !salt.is_empty() {
            start.update(salt);
            start.update(vec![0; input_size - salt.len()]);
        }
        Self { start, salt: salt.to_vec(), size: 0, levels: vec![Vec::with_capacity(BLOCK)] }
    }

    fn update(&mut self, mut data: &[u8]) {
        self.size += data.len() as u64;
        while !data.is_empty() {
            // A full block is closed when more comes: a tree of one block has no level above.
            if self.levels[0].len() == BLOCK {
                self.close(0);
            }
            let len = (BLOCK - self.levels[0].len()).min(data.len());
            self.levels[0].extend_from_slice(&data[..len]);
            data = &data[len..];
        }
    }

    fn hash(&self, block: &[u8]) -> Output<D> {
        self.start.clone().chain_update(block).chain_update(&[0; BLOCK][block.len()..]).finalize()
    }

    /// Moves the hash of a level's open block to the level above.
    fn close(&mut self, level: usize) {
        let hash = self.hash(&self.levels[level]);
        self.levels[level].clear();
        if self.levels.len() == level + 1 {
            self.levels.push(Vec::with_capacity(BLOCK));
        }
        if self.levels[level + 1].len() == BLOCK {
            self.close(level + 1);
        }
        self.levels[level + 1].extend_from_slice(&hash);
    }

    fn finish(mut self, algorithm: u8) -> Vec<u8> {
        let mut level = 0;
        while level + 1 < self.levels.len() {
            if !self.levels[level].is_empty() {
                self.close(level);
            }
            level += 1;
        }
        let mut descriptor = [0; 256];
        descriptor[..4].copy_from_slice(&[1, algorithm, BLOCK.trailing_zeros() as u8, self.salt.len() as u8]);
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        if self.size > 0 {
            let root = self.hash(&self.levels[level]);
            descriptor[16..16 + root.len()].copy_from_slice(&root);
        }
        descriptor[80..80 + self.salt.len()].copy_from_slice(&self.salt);
        D::digest(descriptor).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(content: &[u8], salt: &[u8]) -> String {
        let digest = fsverity_digest(&mut &content[..], FsVerityHash::Sha256, salt).unwrap();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_the_fsverity_tool() {
        let cases: [(&[u8], &[u8], &str); 6] = [
            (b"", b"", "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (b"hello erofs\n", b"", "d8c3e82a23d26689672b10103f14ba67c94b1b66c5f8a8cce530693436f4bbbb"),
            (
                b"hello erofs\n",
                b"\xaa\xbb",
                "6127eb0edf7282ee46de7ea1c681ef8b7a038666de371e4066361e5f2c30394f",
            ),
            (&[0; 4096], b"", "babc284ee4ffe7f449377fbf6692715b43aec7bc39c094a95878904d34bac97e"),
            (&[0; 4097], b"", "093756e4ea9683329106d4a16982682ed182c14bf076463a9e7f97305cbac743"),
            (&vec![0; 1 << 20], b"", "feb19a23e72cb1b8f935d668a09ecaad0bf7c5b9cdfa6dbba7c88a9998ed2b87"),
        ];
        for (content, salt, expected) in cases {
            assert_eq!(digest(content, salt), expected, "{} bytes", content.len());
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let content: Vec<u8> = (0..700_000u32).map(|number| (number % 251) as u8).collect();
        let mut whole = FsVerityDigest::new(FsVerityHash::Sha512, b"salt").unwrap();
        whole.update(&content);
        let mut pieces = FsVerityDigest::new(FsVerityHash::Sha512, b"salt").unwrap();
        content.chunks(1237).for_each(|piece| pieces.update(piece));
        assert_eq!(whole.finish(), pieces.finish());
        assert!(FsVerityDigest::new(FsVerityHash::Sha256, &[0; 33]).is_err());
    }
}
