//! PAX extended headers: `length key=value\n` records. No input or output.
//!
//! Rules for odd records are those of Go's `archive/tar` (`strconv.go`), but for numbers, see [`integer`].

use layer_model::{Error, ErrorKind, Result, Timestamp};

/// The prefix of keys that carry extended attributes, the rest of the key being the name.
pub const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// The records of one extended header, in their order.
///
/// Records live in one buffer, which is reused from entry to entry.
#[derive(Clone, Debug, Default)]
pub struct PaxRecords {
    text: Vec<u8>,
    spans: Vec<Span>,
}

/// Where a record lies: the key from `key` to `equals`, the value from there (less one) to `end`.
#[derive(Clone, Copy, Debug)]
struct Span {
    key: u32,
    equals: u32,
    end: u32,
}

impl PaxRecords {
    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Keys and values in the order of the archive; a key may come twice, and then the last one counts.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + ExactSizeIterator + Clone {
        self.spans.iter().map(|span| self.record(span))
    }

    /// The value that counts for `key`.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.iter().rev().find(|(have, _)| *have == key).map(|(_, value)| value)
    }

    fn record(&self, span: &Span) -> (&[u8], &[u8]) {
        let [key, equals, end] = [span.key, span.equals, span.end].map(|at| at as usize);
        (&self.text[key..equals], &self.text[equals + 1..end])
    }

    /// Takes all records away, and keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.spans.clear();
    }

    /// Replaces the records by those of an extended header's payload, which `fill` puts into the empty buffer.
    ///
    /// # Errors
    /// Those of `fill`; [`ErrorKind::InvalidArchive`] for a malformed record. There are no records then.
    pub(crate) fn refill(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        self.clear();
        let parsed = fill(&mut self.text).and_then(|()| parse(&self.text, &mut self.spans));
        if parsed.is_err() {
            self.clear();
        }
        parsed
    }

    /// The records of a payload.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for a malformed record.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut records = Self::default();
        records.refill(|text| {
            text.extend_from_slice(payload);
            Ok(())
        })?;
        Ok(records)
    }
}

fn parse(text: &[u8], spans: &mut Vec<Span>) -> Result<()> {
    let mut at = 0;
    while at < text.len() {
        let span = record(text, at).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArchive,
                format!("malformed PAX record at byte {at} of the extended header"),
            )
        })?;
        at = span.end as usize + 1;
        spans.push(span);
    }
    Ok(())
}

fn record(text: &[u8], start: usize) -> Option<Span> {
    // A record has at least the five bytes of `5 a=\n`, so that a length has no business being long.
    let digits = text[start..].iter().take(12).position(|b| *b == b' ')?;
    let len = usize::try_from(integer(&text[start..start + digits]).ok()?).ok()?;
    let end = start.checked_add(len).filter(|end| *end <= text.len())?.checked_sub(1)?;
    let key = start + digits + 1;
    let body = text.get(key..end)?;
    let equals = key + body.iter().position(|b| *b == b'=')?;
    let (name, value) = (&text[key..equals], &text[equals + 1..end]);
    let no_nul = match name {
        b"path" | b"linkpath" | b"uname" | b"gname" => value,
        _ => name,
    };
    if text[end] != b'\n' || name.is_empty() || no_nul.contains(&0) {
        return None;
    }
    let [key, equals, end] = [key, equals, end].map(u32::try_from);
    Some(Span { key: key.ok()?, equals: equals.ok()?, end: end.ok()? })
}

/// A decimal integer: digits, with a `-` in front at most.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for anything else, a leading `+` included.
pub fn integer(text: &[u8]) -> Result<i64> {
    let invalid = || Error::new(ErrorKind::InvalidArchive, "number in a PAX record is malformed");
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(invalid());
    }
    let mut value = 0_i64;
    for byte in digits {
        let digit = if byte.is_ascii_digit() { i64::from(byte - b'0') } else { return Err(invalid()) };
        let digit = if negative { -digit } else { digit };
        value = value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or_else(invalid)?;
    }
    Ok(value)
}

/// A time: seconds with any number of decimals, of which nine are kept.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for anything else.
pub fn time(text: &[u8]) -> Result<Timestamp> {
    let malformed = || Error::new(ErrorKind::InvalidArchive, "time in a PAX record is malformed");
    Timestamp::parse(text).ok_or_else(malformed)
}

/// Appends a record. Its length counts its own digits.
pub(crate) fn append_record(out: &mut Vec<u8>, key: &[&[u8]], value: &[u8]) {
    let bare = key.iter().map(|part| part.len()).sum::<usize>() + value.len() + 3;
    let digits = |n: usize| n.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut len = bare + digits(bare);
    len = bare + digits(len);
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    for part in key {
        out.extend_from_slice(part);
    }
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_split_at_their_length_and_at_the_first_equals_sign() {
        let records = PaxRecords::parse(b"10 path=a\n12 x=y=z\0\n\n\n10 path=b\n").unwrap();
        let all: Vec<_> = records.iter().collect();
        assert_eq!(all, [(&b"path"[..], &b"a"[..]), (b"x", b"y=z\0\n\n"), (b"path", b"b")]);
        assert_eq!(records.get(b"path"), Some(&b"b"[..]));
        assert_eq!(records.get(b"nothing"), None);
        assert!(PaxRecords::parse(b"5 a=\n").unwrap().get(b"a").unwrap().is_empty());
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"99 path=a\n"[..],
            b"10 path=aX",
            b"+10 path=a\n",
            b"6 =va\n",
            b"11 path=a\0\n",
            b"15 linkpath=a\0\n",
            b"10 path+a\n",
            b"path=a\n",
            b"0 path=a\n",
            b"-1 path=a\n",
            b" 10 path=a\n",
            b"10path=abc\n",
            b"3 \n",
            b"4 =\n",
            b"10 pa\0h=a\n",
            b"18446744073709551616 a=\n",
            b"10 path=a\n1",
        ] {
            let refused = PaxRecords::parse(bad).unwrap_err();
            assert_eq!(refused.kind(), &ErrorKind::InvalidArchive, "{bad:?}");
        }
    }

    #[test]
    fn times_have_decimals_and_may_be_negative() {
        for (text, secs, nanos) in [
            ("1350244992.023960108", 1_350_244_992, 23_960_108),
            ("1350244992.02396010", 1_350_244_992, 23_960_100),
            ("1350244992.", 1_350_244_992, 0),
            ("-1.5", -2, 500_000_000),
            ("-1", -1, 0),
            ("-0.25", -1, 750_000_000),
            ("1.0000000009", 1, 0),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), Timestamp { secs, nanos }, "{text}");
        }
        for bad in ["", ".5", "1.-5", "1.2.3", "+1", "nan", "1e3", "99999999999999999999"] {
            assert!(time(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_appended_is_parsed(key in "[a-z.]{1,300}", value in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let mut text = Vec::new();
            append_record(&mut text, &[b"k.", key.as_bytes()], &value);
            let records = PaxRecords::parse(&text).unwrap();
            let key = [b"k.", key.as_bytes()].concat();
            prop_assert_eq!(records.iter().next(), Some((&key[..], &value[..])));
        }

        #[test]
        fn times_survive(secs in -10_000_000_000_i64..10_000_000_000, nanos in 0_u32..1_000_000_000) {
            let given = Timestamp { secs, nanos };
            prop_assert_eq!(time(given.to_string().as_bytes()).unwrap(), given);
        }
    }
}
