//! Sparse maps in their four encodings. No input or output.
//!
//! | encoding | where the map is |
//! |---|---|
//! | old GNU | type `S`; four extents in the header, more in extension blocks behind it |
//! | PAX 0.0 | repeated records `GNU.sparse.offset` and `GNU.sparse.numbytes` |
//! | PAX 0.1 | one record `GNU.sparse.map` of comma-separated numbers |
//! | PAX 1.0 | decimal lines in front of the data, padded to whole blocks |
//!
//! All of them become a list of [`Extent`]s that is sorted, does not overlap, lies inside the file and has no
//! empty member. As in Go's `archive/tar`, a map that breaks this is an error, and so is one whose data is not
//! exactly the payload: an archive that says two things about its size is not worth guessing at.

use layer_model::{Error, ErrorKind, Result, content::Extent};

use crate::{
    header::{Block, Field, field, number},
    pax::{self, PaxRecords},
};

/// The most bytes that a map may take in the archive, as in Go: an archive cannot make the reader hold more.
pub const MAX_MAP_BYTES: usize = 1 << 20;

/// How a PAX archive says that an entry is sparse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaxSparse {
    /// The map is in the records (0.0 and 0.1).
    InRecords,
    /// The map stands in front of the data (1.0).
    BeforeData,
}

/// Whether records make their entry sparse. Records of unknown versions do not: the entry is taken as it is.
pub fn pax_sparse(records: &PaxRecords) -> Option<PaxSparse> {
    let value = |key: &[u8]| records.get(key).unwrap_or_default();
    match (value(b"GNU.sparse.major"), value(b"GNU.sparse.minor")) {
        (b"0", b"0" | b"1") => Some(PaxSparse::InRecords),
        (b"1", b"0") => Some(PaxSparse::BeforeData),
        // The first versions had no version number.
        (b"", b"") => {
            let has_map = records.get(b"GNU.sparse.offset").is_some() || !value(b"GNU.sparse.map").is_empty();
            has_map.then_some(PaxSparse::InRecords)
        }
        _ => None,
    }
}

/// The map of PAX 0.0 or 0.1.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when numbers are malformed, out of turn, or not as many as announced.
pub fn map_in_records(records: &PaxRecords, extents: &mut Vec<Extent>) -> Result<()> {
    let announced = match records.get(b"GNU.sparse.numblocks").map(pax::integer) {
        Some(Ok(count)) => usize::try_from(count).map_err(|_| invalid("has a negative number of extents"))?,
        _ => return Err(invalid("lacks its number of extents")),
    };
    let mut numbers = Numbers { extents, offset: None, count: 0 };
    let mut repeated = false;
    for (key, value) in records.iter() {
        match key {
            b"GNU.sparse.offset" if numbers.offset.is_none() => numbers.push(value)?,
            b"GNU.sparse.numbytes" if numbers.offset.is_some() => numbers.push(value)?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                return Err(invalid("has its numbers out of turn"));
            }
            _ => continue,
        }
        repeated = true;
    }
    let list = records.get(b"GNU.sparse.map").unwrap_or_default();
    if !repeated && !list.is_empty() {
        list.split(|b| *b == b',').try_for_each(|number| numbers.push(number))?;
    }
    if numbers.offset.is_some() || numbers.count != announced {
        return Err(invalid("has not as many extents as it says"));
    }
    Ok(())
}

/// Offsets and lengths, as they come one after the other.
struct Numbers<'a> {
    extents: &'a mut Vec<Extent>,
    offset: Option<u64>,
    count: usize,
}

impl Numbers<'_> {
    fn push(&mut self, text: &[u8]) -> Result<()> {
        let number = pax::integer(text).ok().and_then(|n| u64::try_from(n).ok());
        let number = number.ok_or_else(|| invalid("holds something that is no number"))?;
        match self.offset.take() {
            None => self.offset = Some(number),
            Some(offset) => {
                self.extents.push(Extent { offset, len: number });
                self.count += 1;
            }
        }
        Ok(())
    }
}

/// The map of PAX 1.0, eaten block by block: the number of extents, then offset and length of each, one
/// decimal number a line. What is left of the last block is padding.
#[derive(Debug, Default)]
pub struct LineMap {
    line: Vec<u8>,
    announced: Option<u64>,
    offset: Option<u64>,
    bytes: usize,
}

impl LineMap {
    /// Takes the next block, and says whether the map is complete.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] for a line that is no number, [`ErrorKind::LimitExceeded`] past
    /// [`MAX_MAP_BYTES`].
    pub fn push(&mut self, block: &Block, extents: &mut Vec<Extent>) -> Result<bool> {
        self.bytes += block.len();
        if self.bytes > MAX_MAP_BYTES {
            return Err(too_long());
        }
        let mut rest = &block[..];
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let number = pax::integer(&self.line).ok().and_then(|n| u64::try_from(n).ok());
            let number = number.ok_or_else(|| invalid("holds a line that is no number"))?;
            self.line.clear();
            match (self.announced, self.offset.take()) {
                (None, _) => self.announced = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => extents.push(Extent { offset, len: number }),
            }
            if self.announced == Some(extents.len() as u64) {
                return Ok(true);
            }
        }
        self.line.extend_from_slice(rest);
        Ok(false)
    }
}

/// The extents of an old GNU header, and whether an extension block follows.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for a number that is none.
pub fn map_in_header(block: &Block, extents: &mut Vec<Extent>) -> Result<bool> {
    slots(block, field::GNU_SPARSE, extents)?;
    Ok(field::GNU_IS_EXTENDED.of(block)[0] != 0)
}

/// The extents of an extension block, and whether another one follows.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for a number that is none, [`ErrorKind::LimitExceeded`] when the extents so
/// far came in more than [`MAX_MAP_BYTES`]: a chain of extension blocks has no end of its own.
pub fn map_in_extension(block: &Block, extensions: usize, extents: &mut Vec<Extent>) -> Result<bool> {
    if extensions.saturating_mul(block.len()) > MAX_MAP_BYTES {
        return Err(too_long());
    }
    slots(block, field::EXTENSION_SPARSE, extents)?;
    Ok(field::EXTENSION_IS_EXTENDED.of(block)[0] != 0)
}

fn slots(block: &Block, area: Field, extents: &mut Vec<Extent>) -> Result<()> {
    // An empty slot ends the list, as in GNU and BSD tar.
    for slot in area.of(block).chunks_exact(24).take_while(|slot| slot[0] != 0) {
        let [offset, len] =
            [&slot[..12], &slot[12..]].map(|n| number(n).ok().and_then(|n| u64::try_from(n).ok()));
        let (Some(offset), Some(len)) = (offset, len) else {
            return Err(invalid("holds something that is no number"));
        };
        extents.push(Extent { offset, len });
    }
    Ok(())
}

/// Checks a complete map against the size of the file and the bytes of data that the archive has for it, and
/// takes empty extents away.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when extents are unsorted, overlap, pass the end, or need other data.
pub fn check(extents: &mut Vec<Extent>, size: u64, stored: u64) -> Result<()> {
    let mut at = 0_u64;
    let mut data = 0_u64;
    for extent in extents.iter() {
        let end = extent.offset.checked_add(extent.len).filter(|end| *end <= size);
        let Some(end) = end.filter(|_| extent.offset >= at) else {
            return Err(invalid("has extents that overlap, are out of order or pass the end of the file"));
        };
        at = end;
        // Extents do not overlap and lie below `size`, so that their sum does as well.
        data += extent.len;
    }
    if data != stored {
        return Err(invalid("needs other data than the archive holds"));
    }
    extents.retain(|extent| extent.len > 0);
    Ok(())
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidArchive, format!("sparse map {what}"))
}

fn too_long() -> Error {
    Error::new(ErrorKind::LimitExceeded { limit: "max_extension_size" }, "sparse map is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(pairs: &[(&str, &str)]) -> PaxRecords {
        let mut text = Vec::new();
        for (key, value) in pairs {
            pax::append_record(&mut text, &[key.as_bytes()], value.as_bytes());
        }
        PaxRecords::parse(&text).unwrap()
    }

    fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn records_make_an_entry_sparse_only_in_known_versions() {
        for (pairs, want) in [
            (&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")][..], Some(PaxSparse::BeforeData)),
            (&[("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")], Some(PaxSparse::InRecords)),
            (&[("GNU.sparse.map", "0,1")], Some(PaxSparse::InRecords)),
            (&[("GNU.sparse.name", "spn")], None),
            (&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), ("GNU.sparse.map", "0,1")], None),
            (&[("GNU.sparse.major", "1")], None),
        ] {
            assert_eq!(pax_sparse(&records(pairs)), want, "{pairs:?}");
        }
    }

    #[test]
    fn maps_in_records_are_lists_or_repeated_records() {
        let mut extents = Vec::new();
        map_in_records(
            &records(&[("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "0,5,10,2")]),
            &mut extents,
        )
        .unwrap();
        assert_eq!(extents, [extent(0, 5), extent(10, 2)]);

        let repeated = [
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "0"),
            ("GNU.sparse.numbytes", "5"),
            ("GNU.sparse.offset", "10"),
            ("GNU.sparse.numbytes", "2"),
        ];
        extents.clear();
        map_in_records(&records(&repeated), &mut extents).unwrap();
        assert_eq!(extents, [extent(0, 5), extent(10, 2)]);

        for bad in [
            &[("GNU.sparse.map", "0,5")][..],
            &[("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,5,10,2")],
            &[("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0")],
            &[("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,-5")],
            &[("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,x")],
            &[("GNU.sparse.numblocks", "-1"), ("GNU.sparse.map", "0,5")],
            &[("GNU.sparse.numblocks", "1"), ("GNU.sparse.numbytes", "5"), ("GNU.sparse.offset", "0")],
        ] {
            assert!(map_in_records(&records(bad), &mut Vec::new()).is_err(), "{bad:?}");
        }
    }

    fn block(text: &str) -> Block {
        let mut block = [0; 512];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    #[test]
    fn maps_of_lines_may_cross_blocks() {
        let text = format!("60\n{}", (0..60).map(|n| format!("{}\n10\n", n * 1000)).collect::<String>());
        let mut blocks = text.as_bytes().chunks(512).map(|part| block(std::str::from_utf8(part).unwrap()));
        let (mut map, mut extents) = (LineMap::default(), Vec::new());
        assert!(!map.push(&blocks.next().unwrap(), &mut extents).unwrap());
        assert!(map.push(&blocks.next().unwrap(), &mut extents).unwrap());
        assert_eq!((extents.len(), extents[59]), (60, extent(59_000, 10)));
        assert!(LineMap::default().push(&block("0\n"), &mut Vec::new()).unwrap());
        assert!(LineMap::default().push(&block("1\nx\n"), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_map_without_end_meets_the_limit() {
        let mut map = LineMap::default();
        let mut extents = Vec::new();
        let lines = block(&"1\n".repeat(256));
        let first = block(&format!("999999999\n{}", "1\n".repeat(251)));
        assert!(!map.push(&first, &mut extents).unwrap());
        let error = (0..10_000).find_map(|_| map.push(&lines, &mut extents).err()).unwrap();
        assert!(matches!(error.kind(), ErrorKind::LimitExceeded { .. }));
        assert!(map_in_extension(&[0; 512], 2049, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_map_has_to_fit_its_file_and_its_data() {
        let mut good = vec![extent(0, 5), extent(5, 0), extent(10, 2), extent(20, 0)];
        check(&mut good, 20, 7).unwrap();
        assert_eq!(good, [extent(0, 5), extent(10, 2)]);
        for (bad, size, stored) in [
            (vec![extent(0, 5), extent(4, 2)], 20, 7),
            (vec![extent(10, 2), extent(0, 5)], 20, 7),
            (vec![extent(19, 2)], 20, 2),
            (vec![extent(u64::MAX, 2)], 20, 2),
            (vec![extent(0, 5)], 20, 6),
            (vec![extent(0, 5)], 20, 4),
            (vec![], 20, 1),
        ] {
            assert!(check(&mut bad.clone(), size, stored).is_err(), "{bad:?}");
        }
    }
}
