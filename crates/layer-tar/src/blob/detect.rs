//! Telling compressions by their first bytes.

use layer_model::media::Compression;

/// How many bytes decide.
pub(super) const HEAD: usize = 10;

/// The compression of a stream that begins with `head`: at least ten bytes of it, or all there are.
///
/// Everything that is neither gzip nor zstd is plain, also nothing at all: that is an empty layer.
pub fn detect(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame, with its length behind the magic.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide() {
        for (head, want) in [
            (&b"\x1f\x8b\x08\0\0\0\0\0\0\xff"[..], Compression::Gzip),
            (b"\x1f\x8b\x07", Compression::None),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x50\x2a\x4d\x18\0\0\0\0", Compression::Zstd),
            (b"\x5f\x2a\x4d\x18\0\0\0\0", Compression::Zstd),
            (b"\x50\x2a\x4d\x18", Compression::None),
            (b"\x60\x2a\x4d\x18\0\0\0\0", Compression::None),
            (b"", Compression::None),
            (b"etc/", Compression::None),
        ] {
            assert_eq!(detect(head), want, "{head:?}");
        }
    }
}
