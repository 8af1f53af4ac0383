//! Strings and numbers of JSON, in one spelling only.

/// Appends `text`, which is WTF-8, as a string of JSON. Escaped are quotes, backslashes, control characters and
/// unpaired surrogates, nothing else.
pub(crate) fn string_into(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let len = match byte {
            b'"' | b'\\' | 0..0x20 => 1,
            // U+D800 to U+DFFF as three bytes.
            0xed if matches!(text.get(at + 1), Some(0xa0..)) && text.len() >= at + 3 => 3,
            _ => {
                at += 1;
                continue;
            }
        };
        out.extend_from_slice(&text[plain..at]);
        match &text[at..at + len] {
            b"\n" => out.extend_from_slice(b"\\n"),
            b"\r" => out.extend_from_slice(b"\\r"),
            b"\t" => out.extend_from_slice(b"\\t"),
            b"\x08" => out.extend_from_slice(b"\\b"),
            b"\x0c" => out.extend_from_slice(b"\\f"),
            [byte @ 0..0x20] => unit_into(u16::from(*byte), out),
            [byte] => out.extend_from_slice(&[b'\\', *byte]),
            surrogate => {
                let (high, low) = (u16::from(surrogate[1] & 0x3f), u16::from(surrogate[2] & 0x3f));
                unit_into(0xd000 | high << 6 | low, out);
            }
        }
        at += len;
        plain = at;
    }
    out.extend_from_slice(&text[plain..]);
    out.push(b'"');
}

/// Appends a UTF-16 unit as an escape.
fn unit_into(unit: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| b"0123456789abcdef"[usize::from(unit >> shift & 15)]));
}

/// Appends a decimal number.
pub(crate) fn unsigned_into(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a decimal number, with a sign if it is negative.
pub(crate) fn signed_into(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    unsigned_into(number.unsigned_abs(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> String {
        let mut out = Vec::new();
        string_into(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_have_one_spelling() {
        assert_eq!(string(b"Files\\a"), r#""Files\\a""#);
        assert_eq!(string(b"say \"hi\""), r#""say \"hi\"""#);
        assert_eq!(string(b"\x00\x08\t\n\x0c\r\x1f\x7f/"), "\"\\u0000\\b\\t\\n\\f\\r\\u001f\x7f/\"");
        assert_eq!(
            string("Größe \u{1f980} \u{d7ff}\u{e000}".as_bytes()),
            "\"Größe \u{1f980} \u{d7ff}\u{e000}\""
        );
        assert_eq!(string(b"a\xed\xa0\x80b"), r#""a\ud800b""#);
        assert_eq!(string(b"\xed\xbf\xbf"), r#""\udfff""#);
        assert_eq!(string(b""), r#""""#);
    }

    #[test]
    fn numbers_are_plain_decimals() {
        for number in [0, 9, 10, 116_444_736_000_000_000, i64::MAX, -1, i64::MIN] {
            let mut out = Vec::new();
            signed_into(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
        }
        let mut out = Vec::new();
        unsigned_into(u64::MAX, &mut out);
        assert_eq!(out, u64::MAX.to_string().as_bytes());
    }
}
