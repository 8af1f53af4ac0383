//! Extended attributes: inline, shared, with base and long prefixes.

use std::{borrow::Cow, ops::Range};

use crate::{
    error::{Error, Result},
    hash,
    raw::{
        superblock::{compat, incompat},
        xattr::{Entry, IbodyHeader, LONG_PREFIX, LONG_PREFIX_MAX, LongPrefix, base_prefix, split_name},
    },
};

use super::{Bytes, Image, Inode, Space, meta::structure};

/// An extended attribute.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Xattr<'a> {
    /// The full name, prefix included.
    pub name: Vec<u8>,
    /// The value.
    pub value: Bytes<'a>,
}

/// A long name prefix, composed.
pub(super) struct Prefix {
    /// What names start with; `None` if the base prefix means nothing.
    text: Option<Vec<u8>>,
    /// Where the record ends.
    pub(super) end: u64,
}

/// An entry as it was found.
struct Found<'a> {
    bytes: Bytes<'a>,
    name_index: u8,
    name_len: usize,
    /// What it takes of its area, padding included.
    stored: u64,
}

impl<'a> Found<'a> {
    fn rest(&self) -> &[u8] {
        &self.bytes[..self.name_len]
    }

    fn into_value(self) -> Bytes<'a> {
        let range = self.name_len..self.bytes.len();
        self.bytes.cut(range)
    }
}

impl Image {
    /// All xattrs of a file: shared ones first, then inline ones. Names with an unknown prefix are left out,
    /// as the kernel does.
    ///
    /// # Errors
    /// `Corrupt` if the area is damaged or (unless lenient) a name appears twice.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr<'_>>> {
        let mut list = Vec::new();
        self.each_xattr(inode, |image, found| {
            if let Some(name) = image.full_name(&found) {
                let name = name.into_owned();
                list.push(Xattr { name, value: found.into_value() });
            }
            true
        })?;
        if !self.is_lenient() {
            let mut names: Vec<_> = list.iter().map(|xattr| &xattr.name).collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                let message = format!("the name \"{}\" appears twice", pair[0].escape_ascii());
                return Err(Error::corrupt("xattrs", inode.xattr_position(), message));
            }
        }
        Ok(list)
    }

    /// One xattr of a file, by its full name. Asks the bloom filter first, if the image has one.
    ///
    /// # Errors
    /// `Corrupt` if what was looked at is damaged.
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<Bytes<'_>>> {
        if inode.xattr_size == 0 {
            return Ok(None);
        }
        if self.superblock().filter_usable {
            let filter = self.xattr_filter(inode)?;
            if let Some((index, rest)) = split_name(name)
                && filter & hash::filter_bit(index, rest) != 0
            {
                return Ok(None);
            }
        }
        let mut value = None;
        self.each_xattr(inode, |image, found| {
            if image.full_name(&found).is_some_and(|full| *full == *name) {
                value = Some(found.into_value());
            }
            value.is_none()
        })?;
        Ok(value)
    }

    /// The bloom filter, as stored.
    pub(crate) fn xattr_filter(&self, inode: &Inode) -> Result<u32> {
        Ok(self.xattr_header(inode)?.name_filter.get())
    }

    /// Whether [`Image::xattr_filter`] means something.
    pub(crate) fn uses_filter(&self) -> bool {
        self.superblock().filter_usable
    }

    fn xattr_header(&self, inode: &Inode) -> Result<IbodyHeader> {
        let at = inode.xattr_position();
        structure(&self.meta(inode.space(), at, size_of::<IbodyHeader>(), "xattrs")?, "xattrs", at)
    }

    /// The shared ids of an inode.
    pub(crate) fn shared_xattrs(&self, inode: &Inode) -> Result<Vec<u32>> {
        if inode.xattr_size == 0 {
            return Ok(Vec::new());
        }
        let at = inode.xattr_position();
        let count = usize::from(self.xattr_header(inode)?.shared_count);
        if size_of::<IbodyHeader>() + 4 * count > inode.xattr_size as usize {
            return Err(Error::corrupt("xattrs", at, format!("there is no room for {count} shared ids")));
        }
        let ids = self.meta(inode.space(), at + size_of::<IbodyHeader>() as u64, 4 * count, "xattrs")?;
        Ok(ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect())
    }

    /// A shared xattr: its full name (if its prefix means something), where it is, and whether that is in the
    /// plain image.
    pub(crate) fn shared_xattr(&self, id: u32) -> Result<(Option<Vec<u8>>, Range<u64>, bool)> {
        let (space, at) = self.shared_position(id);
        let found = self.found(space, at, self.space_size(space))?;
        let name = self.full_name(&found).map(Cow::into_owned);
        Ok((name, at..at + found.stored, space == Space::Image))
    }

    /// The full names of the xattrs that are not shared.
    pub(crate) fn inline_xattr_names(&self, inode: &Inode) -> Result<Vec<Option<Vec<u8>>>> {
        let mut names = Vec::new();
        if inode.xattr_size > 0 {
            let shared = self.shared_xattrs(inode)?.len();
            self.each_inline(inode, shared, |image, found| {
                names.push(image.full_name(&found).map(Cow::into_owned));
                true
            })?;
        }
        Ok(names)
    }

    fn shared_position(&self, id: u32) -> (Space, u64) {
        let in_metabox = self.superblock().has_compat(compat::SHARED_EA_IN_METABOX)
            && self.superblock().has(incompat::METABOX);
        let space = if in_metabox { Space::Metabox } else { Space::Image };
        (space, self.superblock().xattr_start + 4 * u64::from(id))
    }

    /// Calls `visit` for each entry until it says that it has enough.
    fn each_xattr<'a>(
        &'a self,
        inode: &Inode,
        mut visit: impl FnMut(&'a Self, Found<'a>) -> bool,
    ) -> Result<()> {
        if inode.xattr_size == 0 {
            return Ok(());
        }
        let shared = self.shared_xattrs(inode)?;
        for &id in &shared {
            let (space, at) = self.shared_position(id);
            if !visit(self, self.found(space, at, self.space_size(space))?) {
                return Ok(());
            }
        }
        self.each_inline(inode, shared.len(), visit)
    }

    fn each_inline<'a>(
        &'a self,
        inode: &Inode,
        shared: usize,
        mut visit: impl FnMut(&'a Self, Found<'a>) -> bool,
    ) -> Result<()> {
        let mut at = inode.xattr_position() + (size_of::<IbodyHeader>() + 4 * shared) as u64;
        let end = inode.body_end();
        while at < end {
            let found = self.found(inode.space(), at, end)?;
            at += found.stored;
            if !visit(self, found) {
                break;
            }
        }
        Ok(())
    }

    /// The entry at `at`, which must end before `end`.
    fn found(&self, space: Space, at: u64, end: u64) -> Result<Found<'_>> {
        let size = size_of::<Entry>();
        let raw: Entry = structure(&self.meta(space, at, size, "xattr")?, "xattr", at)?;
        let (name_len, value_len) = (usize::from(raw.name_len), usize::from(raw.value_size.get()));
        if at + (size + name_len + value_len) as u64 > end {
            return Err(Error::corrupt("xattr", at, "runs out of its area"));
        }
        let bytes = self.meta(space, at + size as u64, name_len + value_len, "xattr")?;
        let stored = Entry::stored_size(name_len, value_len) as u64;
        Ok(Found { bytes, name_index: raw.name_index, name_len, stored })
    }

    fn full_name<'b>(&self, found: &'b Found<'_>) -> Option<Cow<'b, [u8]>> {
        let prefix = if found.name_index & LONG_PREFIX != 0 {
            self.0.prefixes.get(usize::from(found.name_index & !LONG_PREFIX))?.text.as_deref()?
        } else {
            base_prefix(found.name_index)?
        };
        Some([prefix, found.rest()].concat().into())
    }

    pub(super) fn prefixes_are_plain(&self) -> bool {
        self.prefix_container().is_none()
    }

    /// The inode whose content the prefix table is in; `None`: the plain image.
    fn prefix_container(&self) -> Option<Container> {
        let sb = self.superblock();
        if sb.has_compat(compat::PLAIN_XATTR_PFX) {
            None
        } else if sb.has(incompat::METABOX) {
            Some(Container::Metabox)
        } else {
            sb.packed.map(Container::Packed)
        }
    }

    pub(super) fn read_prefixes(&self) -> Result<Vec<Prefix>> {
        let count = usize::from(self.superblock().prefix_count);
        let mut at = self.superblock().prefix_start;
        if count > LONG_PREFIX_MAX {
            return Err(Error::corrupt("xattr prefixes", at, format!("there cannot be {count}")));
        }
        let packed = match self.prefix_container() {
            Some(Container::Packed(nid)) if count > 0 => Some(self.inode(nid)?),
            _ => None,
        };
        let space = if let Some(Container::Metabox) = self.prefix_container() {
            Space::Metabox
        } else {
            Space::Image
        };
        let read = |at: u64, len: usize| match &packed {
            Some(packed) => self.content(packed, at, len, "xattr prefixes"),
            None => self.meta(space, at, len, "xattr prefixes"),
        };
        let mut prefixes = Vec::with_capacity(count);
        for _ in 0..count {
            let record: LongPrefix = structure(&read(at, size_of::<LongPrefix>())?, "xattr prefixes", at)?;
            let size = u64::from(record.size.get());
            if size < 1 {
                return Err(Error::corrupt("xattr prefixes", at, "a record is empty"));
            }
            let infix = read(at + size_of::<LongPrefix>() as u64, size as usize - 1)?;
            let base = if record.base_index == 0 { Some(&b""[..]) } else { base_prefix(record.base_index) };
            let text = base.map(|base| [base, &infix].concat());
            let end = at + 2 + size;
            prefixes.push(Prefix { text, end });
            at = end.next_multiple_of(4);
        }
        Ok(prefixes)
    }
}

/// Where the table of long prefixes is, if not in the plain image.
#[derive(Clone, Copy)]
enum Container {
    Metabox,
    Packed(crate::Nid),
}
