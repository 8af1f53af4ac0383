//! What an entry has besides its content: mode, owner, times, extended attributes.

use std::fmt;

use crate::path::Printable;

/// The bits of a mode that a layer carries: permissions, set-user-id, set-group-id, sticky.
pub const MODE_MASK: u32 = 0o7777;

/// A point in time: seconds since 1970-01-01 UTC, rounded down, and nanoseconds after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self { secs: 0, nanos: 0 };

    /// A time of whole seconds.
    pub const fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }

    /// A time of seconds and nanoseconds; nanoseconds of a second and more carry over.
    pub const fn new(secs: i64, nanos: u32) -> Self {
        Self { secs: secs.saturating_add((nanos / 1_000_000_000) as i64), nanos: nanos % 1_000_000_000 }
    }

    /// Takes decimal text, as PAX records have it: seconds, with any number of decimals of which nine are kept. The
    /// decimals of a negative number count downwards. [`None`] for anything else, a plus sign included.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let dot = text.iter().position(|b| *b == b'.');
        let (whole, decimals) = dot.map_or((text, &[][..]), |at| (&text[..at], &text[at + 1..]));
        let digits = whole.strip_prefix(b"-").unwrap_or(whole);
        if digits.is_empty() || !digits.iter().chain(decimals).all(u8::is_ascii_digit) {
            return None;
        }
        let secs: i64 = str::from_utf8(whole).ok()?.parse().ok()?;
        let units = std::iter::successors(Some(100_000_000), |unit| Some(unit / 10));
        let nanos = decimals.iter().zip(units).map(|(digit, unit)| u32::from(digit - b'0') * unit).sum();
        if nanos > 0 && whole.starts_with(b"-") {
            // -1.25 is a quarter second before -1, that is -2 and three quarters.
            return Some(Self { secs: secs.saturating_sub(1), nanos: 1_000_000_000 - nanos });
        }
        Some(Self { secs, nanos })
    }

    /// The same time with the nanoseconds cut off.
    pub const fn truncated(self) -> Self {
        Self::from_secs(self.secs)
    }
}

/// Decimal text that [`Timestamp::parse`] takes, without needless zeros; as Go's `archive/tar` writes it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return write!(f, "{}", self.secs);
        }
        let (sign, secs, nanos) = match self.secs {
            secs @ 0.. => ("", secs, self.nanos),
            // The seconds are rounded down, the text is rounded towards zero.
            secs => ("-", -(secs + 1), 1_000_000_000 - self.nanos),
        };
        let decimals = format!("{nanos:09}");
        write!(f, "{sign}{secs}.{}", decimals.trim_end_matches('0'))
    }
}

/// A device number in its two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Device {
    /// The major number; Linux keeps 12 bits.
    pub major: u32,
    /// The minor number; Linux keeps 20 bits.
    pub minor: u32,
}

impl Device {
    /// A device number.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Whether Linux can hold the number: it cuts larger ones off silently.
    pub const fn fits_linux(self) -> bool {
        self.major <= 0xfff && self.minor <= 0xf_ffff
    }
}

/// Mode, owner and times of an entry. The type is in [`EntryKind`](crate::EntryKind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// Permission, set-id and sticky bits ([`MODE_MASK`]), no type bits.
    pub mode: u32,
    /// The owner, as the container sees it.
    pub uid: u32,
    /// The group, as the container sees it.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last access, where the source has one worth keeping.
    pub atime: Option<Timestamp>,
}

impl Metadata {
    /// Metadata of a file made by root at the epoch.
    pub const fn file(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: Timestamp::EPOCH, atime: None }
    }

    /// What a directory gets that nothing describes: mode 0755, owned by root, at the epoch.
    pub const IMPLIED_DIR: Self = Self::file(0o755);
}

/// Extended attributes, sorted by name, each name once. Names and values are bytes.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Xattrs(Vec<Attribute>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Attribute {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

impl Xattrs {
    /// No attributes.
    pub const EMPTY: &'static Xattrs = &Xattrs(Vec::new());

    /// No attributes; allocates nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.position(name).ok().map(|at| &*self.0[at].value)
    }

    /// Sets `name`, and returns the value that it had.
    pub fn insert(&mut self, name: impl Into<Box<[u8]>>, value: impl Into<Box<[u8]>>) -> Option<Box<[u8]>> {
        let (name, value) = (name.into(), value.into());
        match self.position(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].value, value)),
            Err(at) => {
                self.0.insert(at, Attribute { name, value });
                None
            }
        }
    }

    /// Takes `name` away, and returns the value that it had.
    pub fn remove(&mut self, name: &[u8]) -> Option<Box<[u8]>> {
        self.position(name).ok().map(|at| self.0.remove(at).value)
    }

    /// Keeps the attributes for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        self.0.retain(|Attribute { name, value }| keep(name, value));
    }

    /// Takes all attributes away, and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + Clone {
        self.0.iter().map(|Attribute { name, value }| (&**name, &**value))
    }

    fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.0.binary_search_by(|have| (*have.name).cmp(name))
    }
}

impl<N: Into<Box<[u8]>>, V: Into<Box<[u8]>>> FromIterator<(N, V)> for Xattrs {
    /// A name that comes twice keeps its last value.
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut xattrs = Self::new();
        for (name, value) in pairs {
            xattrs.insert(name, value);
        }
        xattrs
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (Printable(name), Printable(value)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_sorted_and_unique() {
        let mut xattrs: Xattrs =
            [(&b"user.b"[..], &b"1"[..]), (b"user.a", b"2"), (b"user.b", b"3")].into_iter().collect();
        let names: Vec<_> = xattrs.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"user.a", b"user.b"]);
        assert_eq!(xattrs.get(b"user.b"), Some(&b"3"[..]));
        assert_eq!(xattrs.remove(b"user.a").as_deref(), Some(&b"2"[..]));
        assert_eq!(xattrs.len(), 1);
    }

    #[test]
    fn times_are_decimal_text() {
        for (text, secs, nanos, again) in [
            ("1350244992.023960108", 1_350_244_992, 23_960_108, "1350244992.023960108"),
            ("1350244992.02396010", 1_350_244_992, 23_960_100, "1350244992.0239601"),
            ("5.", 5, 0, "5"),
            ("5.123", 5, 123_000_000, "5.123"),
            ("-1.5", -2, 500_000_000, "-1.5"),
            ("-1", -1, 0, "-1"),
            ("-0.25", -1, 750_000_000, "-0.25"),
            ("1.0000000009", 1, 0, "1"),
        ] {
            let time = Timestamp::parse(text.as_bytes()).unwrap();
            assert_eq!((time, time.to_string()), (Timestamp { secs, nanos }, again.to_owned()), "{text}");
        }
        for bad in ["", "-", ".5", "1.-5", "1.2.3", "+1", "--1", "nan", "1e3", "99999999999999999999", "1 "] {
            assert_eq!(Timestamp::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn nanoseconds_carry_over() {
        assert_eq!(Timestamp::new(1, 2_500_000_000), Timestamp { secs: 3, nanos: 500_000_000 });
    }
}
