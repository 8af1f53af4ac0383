//! GUIDs, in their two byte orders and as text.

use std::{fmt, str::FromStr};

use layer_model::{Error, ErrorKind};
use sha1::{Digest as _, Sha1};

/// A GUID.
///
/// In memory and in files of Windows its first three fields are little-endian ([`Guid::to_mixed`]); RFC 4122 hashes
/// and orders it as big-endian ([`Guid::to_rfc`]), which is also the order of its digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Guid([u8; 16]);

impl Guid {
    /// All zero.
    pub const NIL: Guid = Guid([0; 16]);

    /// Takes the bytes in the order of RFC 4122, that of the text.
    pub const fn from_rfc(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes in the order of RFC 4122.
    pub const fn to_rfc(self) -> [u8; 16] {
        self.0
    }

    /// Takes the bytes as Windows keeps them: a `GUID` structure.
    pub const fn from_mixed(bytes: [u8; 16]) -> Self {
        Self(swap(bytes))
    }

    /// The bytes as Windows keeps them.
    pub const fn to_mixed(self) -> [u8; 16] {
        swap(self.0)
    }

    /// The version 5 GUID of RFC 4122: `name`, hashed with SHA-1 in the namespace.
    pub fn v5(namespace: Guid, name: &[u8]) -> Self {
        let digest = Sha1::new().chain_update(namespace.0).chain_update(name).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x50;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

/// Turns one byte order into the other.
const fn swap(b: [u8; 16]) -> [u8; 16] {
    [b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
}

/// Where hyphens stand in the text.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl FromStr for Guid {
    type Err = Error;

    /// Takes 32 hexadecimal digits with four hyphens, in braces or not.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::new(ErrorKind::InvalidArgument, "not a GUID").entry(text);
        let digits = match text.strip_prefix('{') {
            Some(inner) => inner.strip_suffix('}').ok_or_else(refuse)?,
            None => text,
        };
        if digits.len() != 36 {
            return Err(refuse());
        }
        let mut value: u128 = 0;
        for (at, byte) in digits.bytes().enumerate() {
            if HYPHENS.contains(&at) {
                if byte != b'-' {
                    return Err(refuse());
                }
                continue;
            }
            let digit = char::from(byte).to_digit(16).ok_or_else(refuse)?;
            value = value << 4 | u128::from(digit);
        }
        Ok(Self(value.to_be_bytes()))
    }
}

/// Lower-case, with hyphens, without braces.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_big_endian_and_memory_is_mixed() {
        let guid: Guid = "04030201-0605-0807-090a-0b0c0d0e0f10".parse().unwrap();
        assert_eq!(guid.to_mixed(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(guid.to_rfc()[..4], [4, 3, 2, 1]);
        assert_eq!("{04030201-0605-0807-090A-0B0C0D0E0F10}".parse::<Guid>().unwrap(), guid);
    }

    #[test]
    fn what_is_no_guid_is_refused() {
        for bad in [
            "",
            "{04030201-0605-0807-090a-0b0c0d0e0f10",
            "04030201-0605-0807-090a-0b0c0d0e0f1",
            "04030201060508070-90a-0b0c-0d0e0f100",
            "0403020g-0605-0807-090a-0b0c0d0e0f10",
            "+4030201-0605-0807-090a-0b0c0d0e0f10",
            "04030201-0605-0807-090a-0b0c0d0e0f\u{e9}",
        ] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hashed_guid_is_that_of_the_rfc() {
        // Known from every implementation: www.example.org in the DNS namespace.
        let dns: Guid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".parse().unwrap();
        assert_eq!(Guid::v5(dns, b"www.example.org").to_string(), "74738ff5-5367-5958-9aee-98fffdcd1876");
    }

    proptest! {
        #[test]
        fn text_and_both_orders_come_back(bytes: [u8; 16]) {
            let guid = Guid::from_mixed(bytes);
            prop_assert_eq!(guid.to_mixed(), bytes);
            prop_assert_eq!(Guid::from_rfc(guid.to_rfc()), guid);
            prop_assert_eq!(guid.to_string().parse::<Guid>().unwrap(), guid);
        }
    }
}
