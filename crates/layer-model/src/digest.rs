//! Digests by name, and computing them on the way.

use std::{fmt, io, str::FromStr};

use sha2::Digest as _;

use crate::{Error, ErrorKind, Result};

/// A digest as OCI writes it: `algorithm:encoded`, checked against the grammar, so that its parts are safe
/// as file names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: Box<str>,
    colon: usize,
}

/// The algorithms that can be computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// SHA-256, 64 hex digits.
    #[default]
    Sha256,
    /// SHA-384, 96 hex digits.
    Sha384,
    /// SHA-512, 128 hex digits.
    Sha512,
    /// BLAKE3, 64 hex digits. The OCI image specification registers it since 2025, and leaves it to implementations whether
    /// they know it; containerd 2.1 does not.
    Blake3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha256, Self::Sha384, Self::Sha512, Self::Blake3];

    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// How many hex digits the digest has.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 | Self::Blake3 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }

    /// The algorithm of this name, if it can be computed here.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn sha256(bytes: impl AsRef<[u8]>) -> Self {
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(bytes.as_ref());
        digester.finish()
    }

    /// The name of the algorithm, also of one that cannot be computed here.
    pub fn algorithm_name(&self) -> &str {
        &self.text[..self.colon]
    }

    /// The algorithm, when it can be computed here.
    pub fn algorithm(&self) -> Option<Algorithm> {
        Algorithm::from_name(self.algorithm_name())
    }

    /// The part after the colon, lower-case hex for the algorithms known here.
    pub fn encoded(&self) -> &str {
        &self.text[self.colon + 1..]
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            |why: &str| Err(Error::new(ErrorKind::InvalidArgument, format!("{text:?} is no digest: {why}")));
        let Some((name, encoded)) = text.split_once(':') else { return invalid("no colon") };
        let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !name.split(['+', '.', '_', '-']).all(part) {
            return invalid("bad algorithm");
        }
        if encoded.is_empty() || !encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"=_-".contains(&b)) {
            return invalid("bad encoding");
        }
        if let Some(algorithm) = Algorithm::from_name(name) {
            let hex = encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if encoded.len() != algorithm.hex_len() || !hex {
                return invalid("wrong length or not lower-case hex");
            }
        }
        Ok(Self { text: text.into(), colon: name.len() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Computes a digest, and counts the bytes.
#[derive(Clone, Debug)]
pub struct Digester {
    state: State,
    count: u64,
}

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Blake3(Box<blake3::Hasher>),
}

impl Digester {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => State::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
            Algorithm::Blake3 => State::Blake3(Box::default()),
        };
        Self { state, count: 0 }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        match &mut self.state {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha384(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
            State::Blake3(hash) => drop(hash.update(bytes)),
        }
    }

    /// How many bytes were taken.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let (algorithm, hash) = match self.state {
            State::Sha256(hash) => (Algorithm::Sha256, hash.finalize().to_vec()),
            State::Sha384(hash) => (Algorithm::Sha384, hash.finalize().to_vec()),
            State::Sha512(hash) => (Algorithm::Sha512, hash.finalize().to_vec()),
            State::Blake3(hash) => (Algorithm::Blake3, hash.finalize().as_bytes().to_vec()),
        };
        let mut text = String::with_capacity(algorithm.name().len() + 1 + algorithm.hex_len());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in hash {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest { text: text.into(), colon: algorithm.name().len() }
    }
}

impl Default for Digester {
    fn default() -> Self {
        Self::new(Algorithm::default())
    }
}

impl io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_come_out() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::sha256(b"").as_str(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::sha256(b""));
        let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let mut blake3 = Digester::new(Algorithm::Blake3);
        assert_eq!(blake3.clone().finish().as_str(), empty);
        // The second of the official vectors: one byte, a zero.
        blake3.update(&[0]);
        let zero = "blake3:2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213";
        assert_eq!(blake3.finish().as_str(), zero);
    }

    #[test]
    fn every_digest_can_be_read_again() {
        for algorithm in Algorithm::ALL {
            let mut digester = Digester::new(algorithm);
            digester.update(b"some bytes");
            let digest = digester.finish();
            assert_eq!(digest.as_str().parse::<Digest>().unwrap().algorithm(), Some(algorithm));
        }
    }

    #[test]
    fn text_that_could_be_a_path_is_no_digest() {
        for bad in [
            "sha256:../../etc/passwd",
            "sha256:abc",
            "sha256",
            ":abc",
            "SHA256:00",
            "a/b:00",
            "sha256:",
            "x:a/b",
        ] {
            assert_eq!(bad.parse::<Digest>().unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
        let upper = format!("sha256:{}", "A".repeat(64));
        assert!(upper.parse::<Digest>().is_err());
        assert!("blake3+b64:Zm9v=".parse::<Digest>().is_ok());
    }
}
