//! UUIDs that follow from a text.

use sha1::{Digest, Sha1};

/// The name space of URLs (RFC 9562, appendix).
const URL: [u8; 16] = 0x6ba7b811_9dad_11d1_80b4_00c04fd430c8_u128.to_be_bytes();

/// The version 5 UUID of a URL, in RFC 4122 byte order.
///
/// containerd gives layers the UUID of `erofs:blobs/` and their digest.
pub fn uuid_from_url(url: &str) -> [u8; 16] {
    let hash = Sha1::new_with_prefix(URL).chain_update(url).finalize();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hash[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x50;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_of_a_url_is_that_of_the_standard() {
        // Python: uuid.uuid5(uuid.NAMESPACE_URL, "http://python.org/")
        let expected = 0x4c56_5f0d_3f5a_5890_b41b_20cf_4770_1c5e_u128.to_be_bytes();
        assert_eq!(uuid_from_url("http://python.org/"), expected);
    }
}
