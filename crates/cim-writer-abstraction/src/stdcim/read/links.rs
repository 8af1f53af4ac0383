//! Link tables: what is in a directory, and which alternate streams a file has.

use std::{cmp::Ordering, marker::PhantomData};

use layer_model::Result;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32},
};

use super::{
    super::raw::{LinkTableHeader, UPCASE_LENGTH},
    regions::Object,
};
use crate::{
    CimPath, StreamName,
    path::{COMPONENT_MAX, wtf8},
};

/// The upcase table of an image.
pub(in crate::stdcim) struct Upcase(Box<[U16]>);

/// What a link leads to: a file id, or a stream.
pub(super) trait Target: FromBytes + IntoBytes {
    /// Whether `name` can be the name of one, in WTF-8.
    fn takes(name: &[u8]) -> bool;
}

impl Target for U32 {
    fn takes(name: &[u8]) -> bool {
        CimPath::new(name).is_ok_and(|path| path.components().count() == 1) && name[0] != b'\\'
    }
}

impl Target for super::super::raw::StreamRecord {
    fn takes(name: &[u8]) -> bool {
        StreamName::new(name).is_ok()
    }
}

/// A link table. Small ones are read at once, of larger ones what is asked for.
pub(super) struct LinkTable<T> {
    object: Object,
    bytes: Option<Box<[u8]>>,
    count: u32,
    target: PhantomData<T>,
}

/// Tables up to this size are cheaper to read whole than to search in the file.
const SMALL: u64 = 64 * 1024;

const HEADER: u64 = size_of::<LinkTableHeader>() as u64;

impl Upcase {
    pub(super) fn read(object: &Object) -> Result<Self> {
        let mut units = vec![U16::ZERO; UPCASE_LENGTH].into_boxed_slice();
        object.read_exact(0, units.as_mut_bytes())?;
        Ok(Self(units))
    }

    /// The upper-case form of a unit.
    pub(super) fn unit(&self, unit: u16) -> u16 {
        self.0[usize::from(unit)].get()
    }

    /// The order of two names.
    pub(super) fn compare(&self, a: &[u16], b: &[u16]) -> Ordering {
        a.iter().map(|unit| self.unit(*unit)).cmp(b.iter().map(|unit| self.unit(*unit)))
    }
}

impl<T: Target> LinkTable<T> {
    /// The table that `object` begins with, and may be shorter than.
    pub(super) fn open(object: &Object) -> Result<Self> {
        let header: LinkTableHeader = object.get(0)?;
        let (length, count) = (u64::from(header.length.get()), header.count.get());
        if length < HEADER || length > object.len() {
            return Err(object.corrupt(0, format!("a link table of {length} bytes")));
        }
        if u64::from(count) > (length - HEADER) / Self::LINK {
            return Err(object.corrupt(4, format!("a link table with {count} links in {length} bytes")));
        }
        let mut table =
            Self { object: object.part(0, length, "a link table")?, bytes: None, count, target: PhantomData };
        if length <= SMALL {
            table.bytes = Some(table.object.bytes()?);
        }
        Ok(table)
    }

    /// The same, all of it read and checked.
    pub(super) fn load(object: &Object, upcase: &Upcase) -> Result<Self> {
        let mut table = Self::open(object)?;
        if table.bytes.is_none() {
            table.bytes = Some(table.object.bytes()?);
        }
        let mut last = Vec::new();
        for at in 0..table.count {
            let name = table.name(at)?;
            if at > 0 {
                table.check_order(at, upcase, &last, &name)?;
            }
            last = name;
        }
        Ok(table)
    }

    /// The size of a value and of the offset of its name.
    const LINK: u64 = size_of::<T>() as u64 + 4;

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes the table has.
    pub(super) fn len(&self) -> u64 {
        self.object.len()
    }

    /// What link `at`, below the count, leads to.
    pub(super) fn value(&self, at: u32) -> Result<T> {
        self.get(HEADER + u64::from(at) * size_of::<T>() as u64)
    }

    /// The name of link `at`, below the count.
    pub(super) fn name(&self, at: u32) -> Result<Vec<u16>> {
        let slot = HEADER + u64::from(self.count) * size_of::<T>() as u64 + u64::from(at) * 4;
        let offset = u64::from(self.get::<U32>(slot)?.get());
        let past_end = || self.object.corrupt(slot, "a name passes the end of its link table");
        if offset + 2 > self.len() {
            return Err(past_end());
        }
        let length = usize::from(self.get::<U16>(offset)?.get());
        if offset + 2 + 2 * length as u64 > self.len() {
            return Err(past_end());
        }
        if length == 0 || length > COMPONENT_MAX {
            return Err(self.object.corrupt(offset, format!("a name of {length} units")));
        }
        let mut units = vec![U16::ZERO; length];
        self.read(offset + 2, units.as_mut_bytes())?;
        let name: Vec<u16> = units.into_iter().map(U16::get).collect();
        if !T::takes(&wtf8(&name)) {
            let name = String::from_utf16_lossy(&name);
            return Err(self.object.corrupt(offset, format!("{name:?} is no name")));
        }
        Ok(name)
    }

    /// The link of this name.
    ///
    /// Names that are looked at are checked to stand in order.
    pub(super) fn find(&self, name: &[u16], upcase: &Upcase) -> Result<Option<T>> {
        self.position(name, upcase)?.map(|at| self.value(at)).transpose()
    }

    /// Where the link of this name is.
    pub(super) fn position(&self, name: &[u16], upcase: &Upcase) -> Result<Option<u32>> {
        let (mut low, mut high) = (0, self.count);
        let (mut below, mut above): (Option<Vec<u16>>, Option<Vec<u16>>) = (None, None);
        while low < high {
            let at = low + (high - low) / 2;
            let here = self.name(at)?;
            if let Some(below) = &below {
                self.check_order(at, upcase, below, &here)?;
            }
            if let Some(above) = &above {
                self.check_order(at, upcase, &here, above)?;
            }
            match upcase.compare(name, &here) {
                Ordering::Equal => return Ok(Some(at)),
                Ordering::Less => (high, above) = (at, Some(here)),
                Ordering::Greater => (low, below) = (at + 1, Some(here)),
            }
        }
        Ok(None)
    }

    fn check_order(&self, at: u32, upcase: &Upcase, earlier: &[u16], later: &[u16]) -> Result<()> {
        if upcase.compare(earlier, later) == Ordering::Less {
            return Ok(());
        }
        let later = String::from_utf16_lossy(later);
        let what = format!("the names of a link table do not ascend at {later:?}, number {at}");
        Err(self.object.corrupt(0, what))
    }

    fn get<U: FromBytes + IntoBytes>(&self, at: u64) -> Result<U> {
        let mut value = U::new_zeroed();
        self.read(at, value.as_mut_bytes())?;
        Ok(value)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let Some(bytes) = &self.bytes else { return self.object.read_exact(at, buf) };
        let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).and_then(|b| b.get(..buf.len()));
        buf.copy_from_slice(from.ok_or_else(|| self.object.corrupt(at, "a link table ends early"))?);
        Ok(())
    }
}
