//! What is known of a snapshot, and how it is recorded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use content_store::{Labels, filter::Fields, labels};
use layer_model::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::{Usage, lists::LayerForm};

/// The label with the user ids of a snapshot's containers: `INSIDE:OUTSIDE:LENGTH`, with commas between.
pub const LABEL_UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
pub const LABEL_GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It shows its parent, and nothing is changed.
    View,
    /// Changes are being made to it.
    Active,
    /// A layer, and the parent of others.
    Committed,
}

impl Kind {
    /// The word for it in filters.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// What it is.
    pub kind: Kind,
    /// Its key; once committed, its name.
    pub name: String,
    /// The name of its parent.
    pub parent: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// When it was prepared; once committed, when that was.
    pub created: SystemTime,
    /// When its labels were changed.
    pub updated: SystemTime,
}

/// For filters: `kind` (`view`, `active`, `committed`), `name`, `parent` (empty for none), `labels.<key>`.
impl Fields for Info {
    fn field(&self, path: &[String]) -> Option<&str> {
        match path.first()?.as_str() {
            "kind" => Some(self.kind.name()),
            "name" => Some(&self.name),
            "parent" => Some(self.parent.as_deref().unwrap_or_default()),
            // The key may have been quoted, or its dots taken for separators.
            "labels" => self.labels.get(&path[1..].join(".")).map(String::as_str),
            _ => None,
        }
    }
}

/// A time, as it is kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stamp(u64, u32);

impl Stamp {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs(), since.subsec_nanos())
    }

    fn time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::new(self.0, self.1)).unwrap_or(UNIX_EPOCH)
    }
}

/// What is kept of a snapshot, under its key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The name of its directory.
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub(crate) labels: Labels,
    pub(crate) created: Stamp,
    pub(crate) updated: Stamp,
    /// Of a committed one: what it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<(u64, u64)>,
    /// Of a committed one: how the layer is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) form: Option<LayerForm>,
    /// The fs-verity digest of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verity: Option<String>,
    /// Whether an image is being made of the upper directory: what there is of one is then not to be trusted, as the
    /// upper directory may have changed since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) converting: bool,
}

impl Record {
    pub(crate) fn new(id: u64, kind: Kind, parent: Option<&str>, labels: Labels) -> Self {
        let now = Stamp::now();
        let parent = parent.map(str::to_owned);
        Self {
            id,
            kind,
            parent,
            labels,
            created: now,
            updated: now,
            usage: None,
            form: None,
            verity: None,
            converting: false,
        }
    }

    pub(crate) fn info(&self, name: &str) -> Info {
        Info {
            kind: self.kind,
            name: name.to_owned(),
            parent: self.parent.clone(),
            labels: self.labels.clone(),
            created: self.created.time(),
            updated: self.updated.time(),
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let (size, inodes) = self.usage.unwrap_or_default();
        Usage { size, inodes }
    }
}

/// Labels without those that have no value, if they are within containerd's limits.
pub(crate) fn checked_labels(mut given: Labels) -> Result<Labels> {
    given.retain(|_, value| !value.is_empty());
    labels::validate(&given)?;
    Ok(given)
}

/// The labels after a change that field paths name: `labels` for all, `labels.<key>` for one, no path for all.
pub(crate) fn updated_labels(old: &Labels, given: &Labels, paths: &[&str]) -> Result<Labels> {
    let mut after = old.clone();
    if paths.is_empty() {
        after = given.clone();
    }
    for path in paths {
        if let Some(key) = path.strip_prefix("labels.") {
            after.insert(key.to_owned(), given.get(key).cloned().unwrap_or_default());
        } else if *path == "labels" {
            after = given.clone();
        } else {
            let message = format!("field {path:?} of a snapshot cannot change");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    checked_labels(after)
}

/// The owner that the root of a container has outside, by the id maps in the labels of its snapshot.
pub(crate) fn mapped_root(labels: &Labels) -> Result<Option<(u32, u32)>> {
    let outside = |label: &str| {
        let Some(map) = labels.get(label) else { return Ok(None) };
        let bad = || Error::new(ErrorKind::InvalidArgument, format!("label {label}: {map:?} maps no root"));
        let run = |text: &str| {
            let mut numbers = text.split(':').map(str::parse::<u32>);
            match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(len)), None) => Some((inside, outside, len)),
                _ => None,
            }
        };
        let runs: Option<Vec<_>> = map.split(',').map(run).collect();
        let root = runs.ok_or_else(bad)?.into_iter().find(|(inside, _, len)| *inside == 0 && *len > 0);
        root.map(|(_, outside, _)| Some(outside)).ok_or_else(bad)
    };
    match (outside(LABEL_UID_MAPPING)?, outside(LABEL_GID_MAPPING)?) {
        (Some(user), Some(group)) => Ok(Some((user, group))),
        (None, None) => Ok(None),
        _ => Err(Error::new(ErrorKind::InvalidArgument, "id maps for users and groups go together")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn field_paths_name_what_changes() {
        let (old, given) =
            (labels(&[("a", "1"), ("b.c", "2")]), labels(&[("a", "9"), ("d", "4"), ("e", "")]));
        let after = |paths: &[&str]| updated_labels(&old, &given, paths);
        assert_eq!(after(&[]).unwrap(), labels(&[("a", "9"), ("d", "4")]));
        assert_eq!(after(&["labels"]).unwrap(), labels(&[("a", "9"), ("d", "4")]));
        assert_eq!(after(&["labels.d"]).unwrap(), labels(&[("a", "1"), ("b.c", "2"), ("d", "4")]));
        assert_eq!(after(&["labels.b.c", "labels.e"]).unwrap(), labels(&[("a", "1")]));
        for bad in ["kind", "parent", "labelsx", "label"] {
            assert_eq!(after(&[bad]).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn id_maps_say_whose_the_root_is() {
        let maps = |user: &str, group: &str| {
            mapped_root(&labels(&[(LABEL_UID_MAPPING, user), (LABEL_GID_MAPPING, group)]))
        };
        assert_eq!(maps("0:1000:65536", "5:1:1,0:2000:1").unwrap(), Some((1000, 2000)));
        assert_eq!(mapped_root(&Labels::new()).unwrap(), None);
        for (user, group) in [("", "0:1:1"), ("0:1", "0:1:1"), ("1:1:1", "0:1:1"), ("0:1:1:1", "0:1:1")] {
            assert!(maps(user, group).is_err(), "{user} {group}");
        }
        assert!(mapped_root(&labels(&[(LABEL_UID_MAPPING, "0:1:1")])).is_err());
    }
}
