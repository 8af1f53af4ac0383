//! `index.json`: which images the layout holds, and their tags.
//!
//! It is read and rewritten as JSON, not as a type, so that fields which no type here knows stay as they are.

use layer_model::{Error, ErrorKind, Result};
use oci_spec::image::{Descriptor, ImageIndex, Platform};
use serde_json::{Value, json};

use super::{
    INDEX, Inner, LocalStore,
    lock::{Edit, Turn},
};
use crate::document::{self, Document, Documents, Image, MAX_DOCUMENT, descriptor_from, digest_of};

/// The annotation that names an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An entry of the index.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tagged {
    /// Its tag. Several entries may have the same, for several platforms.
    pub tag: Option<String>,
    /// What it refers to, with its annotations.
    pub descriptor: Descriptor,
}

impl LocalStore {
    /// `index.json`, checked.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`]; as [`Document::parse`] and [`Document::index`].
    pub fn index(&self) -> Result<ImageIndex> {
        self.0.index()?.index().map_err(|error| error.entry(INDEX))
    }

    /// The entries of the index, in its order.
    ///
    /// # Errors
    /// As [`index`](Self::index).
    pub fn tags(&self) -> Result<Vec<Tagged>> {
        let index = self.0.index()?;
        let each =
            |entry| Ok(Tagged { tag: tag_of(entry).map(str::to_owned), descriptor: descriptor_from(entry)? });
        entries(&index.value)
            .iter()
            .map(each)
            .collect::<Result<_>>()
            .map_err(|error: Error| error.entry(INDEX))
    }

    /// What a tag refers to; the first entry, where there are several.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; as [`index`](Self::index).
    pub fn resolve(&self, tag: &str) -> Result<Descriptor> {
        self.resolve_for(tag, None)
    }

    /// What a tag refers to for a platform: an entry of that platform, or one that names none, as an index
    /// of its own does, and which [`read_image`](Documents::read_image) then looks into.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_for(&self, tag: &str, platform: Option<&Platform>) -> Result<Descriptor> {
        let mut found: Vec<_> =
            self.tags()?.into_iter().filter(|entry| entry.tag.as_deref() == Some(tag)).collect();
        let descriptors: Vec<_> = found.iter().map(|entry| entry.descriptor.clone()).collect();
        if let Some(chosen) = document::select(&descriptors, platform) {
            return Ok(chosen.clone());
        }
        found.retain(|entry| entry.descriptor.platform().is_none());
        let first = found.into_iter().next().map(|entry| entry.descriptor);
        first.ok_or_else(|| Error::new(ErrorKind::NotFound, "no image of this tag").entry(tag))
    }

    /// The image of a tag.
    ///
    /// # Errors
    /// As [`resolve_for`](Self::resolve_for) and [`read_image`](Documents::read_image).
    pub fn image(&self, tag: &str, platform: Option<&Platform>) -> Result<Image> {
        self.read_image(&self.resolve_for(tag, platform)?, platform)
    }

    /// Gives a tag to an image whose manifest or index is in the store. Entries of the same tag are
    /// replaced, except those that are for another platform where the descriptor names one.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidArgument`] for a tag that does not fit the grammar of the image specification.
    /// - [`ErrorKind::NotFound`] when the store lacks the blob, [`ErrorKind::SizeMismatch`] when it is of
    ///   another size.
    pub fn put_tag(&self, tag: &str, descriptor: &Descriptor) -> Result<()> {
        validate_tag(tag)?;
        let digest = digest_of(descriptor)?;
        let mut entry = document::to_value(descriptor)?;
        if let Some(fields) = entry.as_object_mut() {
            let annotations = fields.entry("annotations").or_insert_with(|| json!({}));
            annotations[REF_NAME] = tag.into();
        }
        self.0.edit_index(|store, all| {
            // Under the locks: what is tagged now was not collected before.
            let size = super::size(&store.stat(&digest)?);
            if size != descriptor.size() {
                let kind = ErrorKind::SizeMismatch { expected: descriptor.size(), got: size };
                return Err(Error::new(kind, "the blob to be tagged has another size").entry(digest.as_str()));
            }
            let platform = entry.get("platform");
            all.retain(|other| {
                let elsewhere =
                    platform.is_some() && other.get("platform").is_some_and(|p| Some(p) != platform);
                tag_of(other) != Some(tag) || elsewhere
            });
            all.push(entry);
            Ok(())
        })
    }

    /// Removes all entries of a tag. The blobs stay until they are collected.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub fn remove_tag(&self, tag: &str) -> Result<()> {
        self.0.edit_index(|_, all| {
            let before = all.len();
            all.retain(|entry| tag_of(entry) != Some(tag));
            if all.len() == before {
                return Err(Error::new(ErrorKind::NotFound, "no image of this tag").entry(tag));
            }
            Ok(())
        })
    }
}

impl Inner {
    pub(super) fn index(&self) -> Result<Document> {
        let bytes =
            self.root.read(INDEX, MAX_DOCUMENT).map_err(|error| error.entry(INDEX))?.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the image layout has lost its index").entry(INDEX)
            })?;
        Document::parse(document::INDEX, bytes).map_err(|error| error.entry(INDEX))
    }

    /// Rewrites the entries of the index, whole and durably, while nobody else does.
    fn edit_index(&self, edit: impl FnOnce(&Self, &mut Vec<Value>) -> Result<()>) -> Result<()> {
        let sidecar = self.sidecar()?;
        let _turn = Turn::shared(sidecar)?;
        let _edit = Edit::take(sidecar)?;
        let mut index = self.index()?.value;
        let Some(all) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(
                Error::new(ErrorKind::InvalidArchive, "the index has no list of manifests").entry(INDEX)
            );
        };
        edit(self, all)?;
        index.sort_all_objects();
        let bytes = serde_json::to_vec(&index).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "cannot be written as JSON").cause(error)
        })?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(
                Error::new(ErrorKind::LimitExceeded { limit: "max_document" }, "too many tags").entry(INDEX)
            );
        }
        self.root.replace(&self.staging()?, INDEX, &bytes)
    }
}

fn entries(index: &Value) -> &[Value] {
    index.get("manifests").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn tag_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

/// The grammar of `org.opencontainers.image.ref.name` (image-spec, annotations.md).
fn validate_tag(tag: &str) -> Result<()> {
    let component = |component: &str| {
        let mut rest = component;
        loop {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            if end == 0 {
                return false;
            }
            rest = &rest[end..];
            rest = match rest.strip_prefix("--").or_else(|| rest.strip_prefix(['-', '.', '_', ':', '@', '+']))
            {
                Some(rest) => rest,
                None => return rest.is_empty(),
            };
        }
    };
    if tag.len() <= 4096 && tag.split('/').all(component) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, format!("{tag:?} cannot be a tag")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["v1", "latest", "docker.io/library/alpine:3.20", "a--b", "a@b+c", "x_y.z/1"] {
            assert!(validate_tag(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", "-a", "a-", "a---b", "a b", "a..b", "ä", "../x"] {
            assert_eq!(validate_tag(bad).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
