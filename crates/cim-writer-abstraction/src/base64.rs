//! Standard base64 with padding, for the buffers of Windows in archives and journals.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What is in [`VALUES`] for bytes that are no digit.
const NONE: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut at = 0;
    while at < 64 {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// Appends the base64 of `bytes` to `out`.
pub(crate) fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |word: u32, shift: u32| ALPHABET[(word >> shift & 63) as usize];
    out.reserve(bytes.len().div_ceil(3) * 4);
    let mut triples = bytes.chunks_exact(3);
    for triple in &mut triples {
        let word = u32::from_be_bytes([0, triple[0], triple[1], triple[2]]);
        out.extend_from_slice(&[digit(word, 18), digit(word, 12), digit(word, 6), digit(word, 0)]);
    }
    match *triples.remainder() {
        [a] => {
            let word = u32::from_be_bytes([0, a, 0, 0]);
            out.extend_from_slice(&[digit(word, 18), digit(word, 12), b'=', b'=']);
        }
        [a, b] => {
            let word = u32::from_be_bytes([0, a, b, 0]);
            out.extend_from_slice(&[digit(word, 18), digit(word, 12), digit(word, 6), b'=']);
        }
        _ => {}
    }
}

/// The bytes that `text` stands for; [`None`] when it is no base64: digits outside the alphabet, lines, missing
/// padding, or bits that do not count and are not zero.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let digits = &text[..text.len() - padding];
    let mut out = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut word = 0;
        for digit in group {
            let value = VALUES[usize::from(*digit)];
            if value == NONE {
                return None;
            }
            word = word << 6 | u32::from(value);
        }
        word <<= 6 * (4 - group.len());
        let bytes = word.to_be_bytes();
        let (kept, cut) = bytes[1..].split_at(group.len() * 3 / 4);
        if cut.iter().any(|b| *b != 0) {
            return None;
        }
        out.extend_from_slice(kept);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode_into(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_examples_of_rfc_4648_come_out() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes.as_bytes());
        }
        assert_eq!(encode(&crate::FileMeta::NULL_DACL), "AQAEgAAAAAAAAAAAAAAAAAAAAAA=");
    }

    #[test]
    fn what_only_looks_like_base64_is_refused() {
        for bad in ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Zm9v\n", "Zm-_", "=g==", "Z===", "====", "Zg==Zg=="] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(bytes: Vec<u8>) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()).unwrap(), bytes);
        }
    }
}
