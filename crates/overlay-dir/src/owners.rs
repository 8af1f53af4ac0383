//! Owners on disk against owners in the container.

use layer_model::{Error, ErrorKind, Result, idmap::IdMap};

/// How owners on disk are shown: through the id maps of the container that the layer belongs to.
///
/// The default is the identity. A layer made by a mount with `uidmap=` and `gidmap=`, or by a process in a
/// user namespace, has owners of the host on disk (524288 for root, say); exported as they are they would be
/// somebody else's in every other container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owners {
    /// The user ids.
    pub users: IdMap,
    /// The group ids.
    pub groups: IdMap,
    /// What an id is shown as that the map does not hold (65534 by convention); [`None`] makes it an error.
    pub overflow: Option<u32>,
}

impl Owners {
    /// Owners through these maps; an id that they do not hold is an error.
    pub fn mapped(users: IdMap, groups: IdMap) -> Self {
        Self { users, groups, overflow: None }
    }

    /// Shows ids that the maps do not hold as `id`.
    #[must_use]
    pub fn overflow(mut self, id: u32) -> Self {
        self.overflow = Some(id);
        self
    }

    /// The user and the group as the container sees them.
    pub(crate) fn inside(&self, user: u32, group: u32) -> Result<(u32, u32)> {
        let show = |map: &IdMap, id, what| match (map.to_inside(id), self.overflow) {
            (Ok(id), _) | (Err(_), Some(id)) => Ok(id),
            (Err(_), None) => {
                Err(Error::new(ErrorKind::UnmappedId { id }, format!("{what} {id} is not in the id map")))
            }
        };
        Ok((show(&self.users, user, "user")?, show(&self.groups, group, "group")?))
    }
}

#[cfg(test)]
mod tests {
    use layer_model::idmap::IdRange;

    use super::*;

    #[test]
    fn owners_without_a_counterpart_are_an_error_or_the_overflow_id() {
        let map = IdMap::new(vec![IdRange { inside: 0, outside: 1000, len: 10 }]).unwrap();
        let owners = Owners::mapped(map.clone(), IdMap::identity());
        assert_eq!(owners.inside(1003, 7).unwrap(), (3, 7));
        assert_eq!(owners.inside(3, 7).unwrap_err().kind(), &ErrorKind::UnmappedId { id: 3 });
        assert_eq!(owners.overflow(65534).inside(3, 7).unwrap(), (65534, 7));
    }
}
