//! Owners inside a container against owners on disk.

use crate::{Error, ErrorKind, Result};

/// One run of ids: `len` ids from `inside` on stand for those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id as the container sees it.
    pub inside: u32,
    /// The first id as it is on disk.
    pub outside: u32,
    /// How many ids the run has.
    pub len: u32,
}

/// A map of user or group ids. The empty map is the identity.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IdMap {
    ranges: Vec<IdRange>,
}

impl IdMap {
    /// The identity.
    pub const fn identity() -> Self {
        Self { ranges: Vec::new() }
    }

    /// A map of these runs.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when a run is empty or passes the last id, or two runs overlap.
    pub fn new(ranges: Vec<IdRange>) -> Result<Self> {
        let overlap = |a: u32, b: u32, len_a: u32, len_b: u32| {
            u64::from(a) < u64::from(b) + u64::from(len_b) && u64::from(b) < u64::from(a) + u64::from(len_a)
        };
        for (at, range) in ranges.iter().enumerate() {
            let fits = |first: u32| u64::from(first) + u64::from(range.len) <= u64::from(u32::MAX);
            let clash = ranges[..at].iter().any(|other| {
                overlap(range.inside, other.inside, range.len, other.len)
                    || overlap(range.outside, other.outside, range.len, other.len)
            });
            if range.len == 0 || !fits(range.inside) || !fits(range.outside) || clash {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("unusable id range {range:?}")));
            }
        }
        Ok(Self { ranges })
    }

    /// Whether every id stands for itself.
    pub fn is_identity(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The id on disk for an id of the container.
    ///
    /// # Errors
    /// [`ErrorKind::UnmappedId`] when no run holds it.
    pub fn to_outside(&self, id: u32) -> Result<u32> {
        self.translate(id, |r| (r.inside, r.outside))
    }

    /// The id of the container for an id on disk.
    ///
    /// # Errors
    /// [`ErrorKind::UnmappedId`] when no run holds it.
    pub fn to_inside(&self, id: u32) -> Result<u32> {
        self.translate(id, |r| (r.outside, r.inside))
    }

    fn translate(&self, id: u32, direction: impl Fn(&IdRange) -> (u32, u32)) -> Result<u32> {
        if self.is_identity() {
            return Ok(id);
        }
        self.ranges
            .iter()
            .find_map(|range| {
                let (from, to) = direction(range);
                id.checked_sub(from).filter(|step| *step < range.len).map(|step| to + step)
            })
            .ok_or_else(|| Error::new(ErrorKind::UnmappedId { id }, format!("id {id} is not in the id map")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_translate_both_ways() {
        let map = IdMap::new(vec![IdRange { inside: 0, outside: 524_288, len: 65_536 }]).unwrap();
        assert_eq!(map.to_outside(7).unwrap(), 524_295);
        assert_eq!(map.to_inside(524_288).unwrap(), 0);
        assert_eq!(map.to_inside(7).unwrap_err().kind(), &ErrorKind::UnmappedId { id: 7 });
        assert_eq!(IdMap::identity().to_inside(7).unwrap(), 7);
    }

    #[test]
    fn runs_that_overlap_or_overflow_are_refused() {
        let range = |inside, outside, len| IdRange { inside, outside, len };
        assert!(IdMap::new(vec![range(0, 10, 5), range(4, 100, 1)]).is_err());
        assert!(IdMap::new(vec![range(0, 10, 5), range(9, 14, 1)]).is_err());
        assert!(IdMap::new(vec![range(0, u32::MAX, 2)]).is_err());
        assert!(IdMap::new(vec![range(0, 0, 0)]).is_err());
    }
}
