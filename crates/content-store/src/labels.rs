//! Labels: what is known about a blob beyond its bytes.
//!
//! The keys are containerd's, so that a store can be handed over with its meaning. Labels never come from
//! the inside of an image: what an image config says about itself is not trusted to steer a store.

use std::collections::BTreeMap;

use layer_model::{Digest, Error, ErrorKind, Result};

/// Labels of one blob, sorted by key. An empty value means: no such label.
pub type Labels = BTreeMap<String, String>;

/// On a compressed layer: the digest of its uncompressed bytes (the diff id).
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Never collected, whatever the value.
pub const GC_ROOT: &str = "containerd.io/gc.root";
/// This blob keeps that one: the prefix of keys such as `….config`, `….l.0`, `….m.0`, `…/name`.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";
/// That blob keeps this one: the prefix, as with [`GC_REF_CONTENT`].
pub const GC_BACK_REF_CONTENT: &str = "containerd.io/gc.bref.content";
/// On a lease: when it ends, as RFC 3339 text.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";
/// On a lease: keep its blobs, but not what they refer to.
pub const GC_FLAT: &str = "containerd.io/gc.flat";
/// Where a blob came from: the prefix; the rest of the key is the host, the value a comma list of repositories.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";

/// Key and value of one label together, in bytes; containerd's limit.
pub const MAX_LABEL: usize = 4096;
/// All keys and values of one blob together, in bytes: so that reading labels back is bounded too.
pub const MAX_LABELS: usize = 1024 * 1024;

/// Checks the limits.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for an empty key, a label above [`MAX_LABEL`], labels above [`MAX_LABELS`].
pub fn validate(labels: &Labels) -> Result<()> {
    let mut all = 0;
    for (key, value) in labels {
        let size = key.len() + value.len();
        all += size;
        if key.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a label has an empty key"));
        }
        if size > MAX_LABEL {
            let key: String = key.chars().take(64).collect();
            let message =
                format!("label {key:?} has {size} bytes of key and value, {MAX_LABEL} is the limit");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    if all > MAX_LABELS {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{all} bytes of labels, {MAX_LABELS} is the limit"),
        ));
    }
    Ok(())
}

/// A change of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelUpdate {
    /// These and no others.
    Replace(Labels),
    /// These change, all others stay. An empty value removes the label.
    Change(Labels),
    /// These are added where the key is not there yet.
    AddMissing(Labels),
}

impl LabelUpdate {
    /// The change of one label; an empty value removes it.
    pub fn set(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Change(Labels::from([(key.into(), value.into())]))
    }

    /// The change that field paths name, as containerd's API has it: `labels` for all, `labels.<key>` for
    /// one, no path for all.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for any other path: nothing else of a blob can change.
    pub fn from_field_paths(labels: &Labels, paths: &[&str]) -> Result<Self> {
        let mut changed = Labels::new();
        let mut all = paths.is_empty();
        for path in paths {
            if let Some(key) = path.strip_prefix("labels.") {
                changed.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
            } else if *path == "labels" {
                all = true;
            } else {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("field {path:?} of a blob cannot change"),
                ));
            }
        }
        Ok(if all { Self::Replace(labels.clone()) } else { Self::Change(changed) })
    }

    /// The labels after the change. Empty values are gone.
    ///
    /// # Errors
    /// Those of [`validate`].
    pub fn apply(&self, labels: &Labels) -> Result<Labels> {
        let mut after = match self {
            Self::Replace(new) => new.clone(),
            Self::Change(changed) => {
                let mut after = labels.clone();
                after.extend(changed.clone());
                after
            }
            Self::AddMissing(missing) => {
                let mut after = missing.clone();
                after.extend(labels.clone());
                after
            }
        };
        after.retain(|_, value| !value.is_empty());
        validate(&after)?;
        Ok(after)
    }
}

/// The digests that labels under `prefix` name. Values that are no digest are skipped.
pub(crate) fn references<'a>(labels: &'a Labels, prefix: &'a str) -> impl Iterator<Item = Digest> + 'a {
    let named = move |key: &str| {
        // "….content" alone, or "….content.<anything>", or "….content/<anything>"; not "….contents".
        key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
    };
    labels.iter().filter(move |(key, _)| named(key)).filter_map(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn field_paths_select_what_changes() {
        let given = labels(&[("a", "1"), ("b", "2")]);
        let old = labels(&[("b", "0"), ("c", "3")]);
        let apply =
            |paths: &[&str]| LabelUpdate::from_field_paths(&given, paths).unwrap().apply(&old).unwrap();
        assert_eq!(apply(&["labels"]), given);
        assert_eq!(apply(&[]), given);
        assert_eq!(apply(&["labels.a"]), labels(&[("a", "1"), ("b", "0"), ("c", "3")]));
        assert_eq!(apply(&["labels.c"]), labels(&[("b", "0")]), "a path without a value removes");
        for bad in ["size", "digest", "label", "labelsx"] {
            let error = LabelUpdate::from_field_paths(&given, &[bad]).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn missing_labels_are_added_and_others_kept() {
        let old = labels(&[("a", "1")]);
        let after = LabelUpdate::AddMissing(labels(&[("a", "2"), ("b", "3")])).apply(&old).unwrap();
        assert_eq!(after, labels(&[("a", "1"), ("b", "3")]));
    }

    #[test]
    fn limits_are_those_of_containerd() {
        let at = |value: usize| labels(&[("k", &"v".repeat(value))]);
        assert!(validate(&at(MAX_LABEL - 1)).is_ok());
        assert_eq!(validate(&at(MAX_LABEL)).unwrap_err().kind(), &ErrorKind::InvalidArgument);
        assert!(validate(&labels(&[("", "v")])).is_err());
        let many: Labels = (0..300).map(|n| (n.to_string(), "v".repeat(4000))).collect();
        assert!(validate(&many).is_err());
    }

    #[test]
    fn references_are_found_under_dots_and_slashes_only() {
        let digest = Digest::sha256(b"x");
        let found = |key: &str| references(&labels(&[(key, digest.as_str())]), GC_REF_CONTENT).count();
        assert_eq!(found("containerd.io/gc.ref.content"), 1);
        assert_eq!(found("containerd.io/gc.ref.content.l.0"), 1);
        assert_eq!(found("containerd.io/gc.ref.content/mine"), 1);
        assert_eq!(found("containerd.io/gc.ref.contents"), 0);
        assert_eq!(
            references(&labels(&[("containerd.io/gc.ref.content.l.0", "junk")]), GC_REF_CONTENT).count(),
            0
        );
    }
}
