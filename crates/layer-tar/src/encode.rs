//! Headers as Go's `archive/tar` writes them. No input or output.
//!
//! A diff id is a digest over headers, so that every byte of them counts. The layout is that of Go's `Writer`
//! (`writer.go`, `format.go`, `strconv.go`) for entries that allow PAX, which is what containerd asks for:
//! plain USTAR where it can hold the entry, else a PAX extended header in front of a USTAR header with
//! whatever fits of the same. GNU extensions, global headers and base-256 numbers are never written.

use layer_model::{Device, Error, ErrorKind, Result, Timestamp, Xattrs};

use crate::{
    header::{BLOCK, Block, Field, field, padding, typeflag},
    pax::{self, XATTR_PREFIX},
};

/// The end of an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The most bytes that an extended header may have, as in Go: readers accept no more.
const MAX_EXTENSION: usize = 1 << 20;

/// Go's zero time, 0001-01-01: a header with that time is written with the epoch instead.
pub(crate) const GO_ZERO: Timestamp = Timestamp::from_secs(-62_135_596_800);

/// The keys of records that stand for fields of the header.
const HEADER_KEYS: [&[u8]; 10] =
    [b"atime", b"ctime", b"gid", b"gname", b"linkpath", b"mtime", b"path", b"size", b"uid", b"uname"];

/// One entry, as it is to be written.
#[derive(Clone, Copy, Debug)]
pub struct EntryHeader<'a> {
    /// The name; that of a directory ends in `/`.
    pub name: &'a [u8],
    /// The target of a link, else empty.
    pub link_name: &'a [u8],
    /// The type.
    pub typeflag: u8,
    /// Permission and set-id bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How many bytes of content follow.
    pub size: u64,
    /// The modification time. Nanoseconds are written as a PAX record if there are any.
    pub mtime: Timestamp,
    /// The number of a device, else zero.
    pub device: Device,
    /// The access time, written as a PAX record.
    pub atime: Option<Timestamp>,
    /// When anything of the entry last changed, written as a PAX record.
    pub ctime: Option<Timestamp>,
    /// Extended attributes, all of which are written.
    pub xattrs: &'a Xattrs,
    /// More PAX records, under their own names; none of those that header fields have.
    pub records: &'a Xattrs,
}

impl EntryHeader<'_> {
    /// Appends the blocks of the header to `out`, extended header included.
    ///
    /// # Errors
    /// [`ErrorKind::Unrepresentable`] for a device number above 2097151, a name or target with a NUL, an attribute
    /// whose name is empty or has a `=` or NUL, more than a mebibyte of records, a size past 63 bits.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        self.check()?;
        let records = self.records();
        let mut block = self.common(!records.is_empty());
        if records.is_empty() {
            if let Some((prefix, name)) = split_name(self.name) {
                put_text(&mut block, field::NAME, name);
                put_text(&mut block, field::PREFIX, prefix);
            }
        } else {
            encode_extension(self.name, &records, out)?;
        }
        seal(&mut block);
        out.extend_from_slice(&block);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let refused = |what: String| Err(Error::new(ErrorKind::Unrepresentable, what).entry(self.name));
        let Device { major, minor } = self.device;
        if !fits_octal(field::DEVMAJOR, i64::from(major)) || !fits_octal(field::DEVMINOR, i64::from(minor)) {
            return refused(format!("device {major}:{minor} does not fit a tar header"));
        }
        if self.name.contains(&0) || self.link_name.contains(&0) {
            return refused("name or link target holds a NUL byte".to_owned());
        }
        if i64::try_from(self.size).is_err() {
            return refused("size does not fit a tar".to_owned());
        }
        let taken = |name: &[u8]| HEADER_KEYS.contains(&name) || name.starts_with(XATTR_PREFIX);
        let unusable = self.xattrs.iter().find(|(name, _)| !is_pax_key(name));
        match unusable.or_else(|| self.records.iter().find(|(name, _)| !is_pax_key(name) || taken(name))) {
            Some((name, _)) => {
                let name = layer_model::path::Printable(name);
                refused(format!("attribute {name:?} cannot be carried by a tar"))
            }
            None => Ok(()),
        }
    }

    /// The extended header's payload; empty when USTAR can hold the entry. Records are sorted by key.
    fn records(&self) -> Vec<u8> {
        let number = |field, value: i64| (!fits_octal(field, value)).then(|| value.to_string());
        let uid = number(field::UID, i64::from(self.uid));
        let gid = number(field::GID, i64::from(self.gid));
        let size = number(field::SIZE, i64::try_from(self.size).unwrap_or(i64::MAX));
        let set = |time: &Timestamp| *time != GO_ZERO;
        let plain_time = self.mtime.nanos == 0 && fits_octal(field::MTIME, self.mtime.secs);
        let mtime = Some(self.mtime).filter(|_| !plain_time).filter(set).map(|time| time.to_string());
        let atime = self.atime.filter(set).map(|time| time.to_string());
        let ctime = self.ctime.filter(set).map(|time| time.to_string());
        let link = (!self.link_name.is_ascii() || self.link_name.len() > field::LINKNAME.len)
            .then_some(self.link_name);

        let long = !self.name.is_ascii() || self.name.len() > field::NAME.len;
        let other = !self.xattrs.is_empty()
            || !self.records.is_empty()
            || link.is_some()
            || [&uid, &gid, &size, &mtime, &atime, &ctime].iter().any(|record| record.is_some());
        // A name that could be split is carried as a record too, once there are records at all.
        let name = (long && (other || split_name(self.name).is_none())).then_some(self.name);

        let mut records: Vec<([&[u8]; 2], &[u8])> = Vec::new();
        records.extend(self.xattrs.iter().map(|(name, value)| ([XATTR_PREFIX, name], value)));
        records.extend(self.records.iter().map(|(name, value)| ([&[][..], name], value)));
        let fields: [(&[u8], Option<&[u8]>); 8] = [
            (b"atime", atime.as_ref().map(|s| s.as_bytes())),
            (b"ctime", ctime.as_ref().map(|s| s.as_bytes())),
            (b"gid", gid.as_ref().map(|s| s.as_bytes())),
            (b"linkpath", link),
            (b"mtime", mtime.as_ref().map(|s| s.as_bytes())),
            (b"path", name),
            (b"size", size.as_ref().map(|s| s.as_bytes())),
            (b"uid", uid.as_ref().map(|s| s.as_bytes())),
        ];
        records.extend(fields.into_iter().filter_map(|(key, value)| Some(([key, &[]], value?))));
        if !self.records.is_empty() {
            // Else they are sorted already: attributes are, and `SCHILY.xattr.` sorts before every lower-case key.
            records.sort_by(|(a, _), (b, _)| a.iter().copied().flatten().cmp(b.iter().copied().flatten()));
        }
        let mut text = Vec::new();
        for (key, value) in records {
            pax::append_record(&mut text, &key, value);
        }
        text
    }

    /// The header without prefix and checksum. Beside an extended header, text loses what is not ASCII.
    fn common(&self, beside_extension: bool) -> Block {
        let mut block = [0; BLOCK];
        block[field::TYPEFLAG.at] = self.typeflag;
        for (field, text) in [(field::NAME, self.name), (field::LINKNAME, self.link_name)] {
            if beside_extension && !text.is_ascii() {
                put_text(&mut block, field, &ascii(text));
            } else {
                put_text(&mut block, field, text);
            }
        }
        let secs = if self.mtime == GO_ZERO { 0 } else { self.mtime.secs };
        put_octal(&mut block, field::MODE, i64::from(self.mode));
        put_octal(&mut block, field::UID, i64::from(self.uid));
        put_octal(&mut block, field::GID, i64::from(self.gid));
        put_octal(&mut block, field::SIZE, i64::try_from(self.size).unwrap_or(i64::MAX));
        put_octal(&mut block, field::MTIME, secs);
        put_octal(&mut block, field::DEVMAJOR, i64::from(self.device.major));
        put_octal(&mut block, field::DEVMINOR, i64::from(self.device.minor));
        block
    }
}

/// Whether an attribute of this name can be a PAX record.
pub fn is_pax_key(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'=') && !name.contains(&0)
}

/// The `x` header that stands in front of `name`'s own, with its payload padded to whole blocks.
fn encode_extension(name: &[u8], records: &[u8], out: &mut Vec<u8>) -> Result<()> {
    if records.len() > MAX_EXTENSION {
        let message = "more extended attributes and names than a tar can carry";
        return Err(Error::new(ErrorKind::Unrepresentable, message).entry(name));
    }
    let slash = name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (dir, file) = name.split_at(slash);
    let mut own = ascii(&[dir, b"PaxHeaders.0/", file].concat());
    own.truncate(field::NAME.len);
    while own.last() == Some(&b'/') {
        own.pop();
    }
    let mut block = [0; BLOCK];
    block[field::TYPEFLAG.at] = typeflag::PAX;
    put_text(&mut block, field::NAME, &own);
    for field in [field::MODE, field::UID, field::GID, field::MTIME] {
        put_octal(&mut block, field, 0);
    }
    // Bounded above, so that it fits.
    put_octal(&mut block, field::SIZE, records.len() as i64);
    seal(&mut block);
    out.extend_from_slice(&block);
    out.extend_from_slice(records);
    let padded = out.len() + padding(records.len() as u64) as usize;
    out.resize(padded, 0);
    Ok(())
}

/// A long name as prefix and name of a USTAR header, when there is a slash at the right place.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= field::NAME.len || !name.is_ascii() {
        return None;
    }
    let searched = match name.len() {
        len if len > field::PREFIX.len + 1 => field::PREFIX.len + 1,
        // The slash at the end of a directory's name does not split anything off.
        len if name.ends_with(b"/") => len - 1,
        len => len,
    };
    let slash = name[..searched].iter().rposition(|b| *b == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    let fits = !prefix.is_empty()
        && prefix.len() <= field::PREFIX.len
        && (1..=field::NAME.len).contains(&rest.len());
    fits.then_some((prefix, rest))
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

/// Cuts text to its field. When the cut leaves a slash at the end, a NUL takes the place of the first slash
/// there, as some readers would take the file for a directory.
fn put_text(block: &mut Block, field: Field, text: &[u8]) {
    let target = field.of_mut(block);
    let kept = text.len().min(target.len());
    target.fill(0);
    target[..kept].copy_from_slice(&text[..kept]);
    if text.len() > target.len() && target.last() == Some(&b'/') {
        let end = target.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
        target[end] = 0;
    }
}

/// Fills a field with zeros and octal digits, and a NUL at the end. A number that does not fit is written as
/// zero: a PAX record has it.
fn put_octal(block: &mut Block, field: Field, value: i64) {
    let mut value = if fits_octal(field, value) { value } else { 0 };
    let target = field.of_mut(block);
    let digits = target.len() - 1;
    for digit in target[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    target[digits] = 0;
}

fn fits_octal(field: Field, value: i64) -> bool {
    let bits = 3 * (field.len - 1);
    value >= 0 && value < 1 << bits
}

/// Sets magic, version and checksum.
fn seal(block: &mut Block) {
    field::MAGIC.of_mut(block).copy_from_slice(b"ustar\0");
    field::VERSION.of_mut(block).copy_from_slice(b"00");
    field::CHECKSUM.of_mut(block).fill(b' ');
    let sum: i64 = block.iter().map(|b| i64::from(*b)).sum();
    let digits = Field { len: field::CHECKSUM.len - 1, ..field::CHECKSUM };
    put_octal(block, digits, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &[u8]) -> EntryHeader<'_> {
        EntryHeader {
            name,
            link_name: b"",
            typeflag: typeflag::REGULAR,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::EPOCH,
            device: Device::default(),
            atime: None,
            ctime: None,
            xattrs: Xattrs::EMPTY,
            records: Xattrs::EMPTY,
        }
    }

    fn encoded(header: EntryHeader<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        header.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn names_use_the_prefix_only_when_nothing_else_needs_records() {
        let name = [&[b'd'; 60][..], b"/", &[b'f'; 60]].concat();
        assert_eq!(encoded(header(&name)).len(), BLOCK);
        assert_eq!(encoded(EntryHeader { uid: 1 << 21, ..header(&name) }).len(), 3 * BLOCK);
        assert_eq!(encoded(header(&[b'f'; 100])).len(), BLOCK);
        assert_eq!(encoded(header(&[b'f'; 101])).len(), 3 * BLOCK);
    }

    #[test]
    fn numbers_that_fit_need_no_records_and_others_are_zero_in_the_header() {
        assert_eq!(encoded(EntryHeader { uid: (1 << 21) - 1, ..header(b"f") }).len(), BLOCK);
        let out = encoded(EntryHeader { uid: 1 << 21, ..header(b"f") });
        assert_eq!(&out[512..525], b"15 uid=209715");
        assert_eq!(&out[1024 + 108..1024 + 116], b"0000000\0");
    }

    #[test]
    fn what_a_tar_cannot_hold_is_refused() {
        let device = Device::new(1 << 21, 0);
        let xattrs: Xattrs = [(&b"user.a=b"[..], &b""[..])].into_iter().collect();
        let large: Xattrs = [(&b"user.a"[..], vec![0; 1 << 20])].into_iter().collect();
        for refused in [
            EntryHeader { device, typeflag: typeflag::CHAR, ..header(b"d") },
            EntryHeader { xattrs: &xattrs, ..header(b"f") },
            EntryHeader { xattrs: &large, ..header(b"f") },
            EntryHeader { size: u64::MAX, ..header(b"f") },
            header(b"a\0b"),
        ] {
            assert_eq!(refused.encode(&mut Vec::new()).unwrap_err().kind(), &ErrorKind::Unrepresentable);
        }
    }
}
