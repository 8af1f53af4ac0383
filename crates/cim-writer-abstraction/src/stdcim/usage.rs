//! Which files belong to an image, how large they are, and taking them away.

use std::{fs, path::Path};

use layer_model::{Error, IoContext, Result};

use super::{ImageDir, read};
use crate::CimName;

/// The files that were made with an image and belong to it alone. Those of its parents are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OwnFiles {
    /// The region files that are there.
    pub regions: Vec<OwnFile>,
    /// The object id files that are there. Readers need none of them.
    pub object_ids: Vec<OwnFile>,
    /// How many region files are not there, without which the image cannot be read.
    pub missing_regions: u32,
}

/// A file of an image directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnFile {
    /// Its name.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
}

impl OwnFiles {
    /// The files of the image `name` in the directory `dir`, as its header counts them.
    ///
    /// # Errors
    /// [`NotFound`](layer_model::ErrorKind::NotFound) without the image, [`CorruptImage`](layer_model::ErrorKind::CorruptImage) and [`UnsupportedVersion`](layer_model::ErrorKind::UnsupportedVersion) for
    /// its header, errors of the operating system.
    pub fn of(dir: impl AsRef<Path>, name: &CimName) -> Result<Self> {
        let dir = dir.as_ref();
        let set = read::read_image_header(&ImageDir::new(dir), name.as_str())?.regions;
        let mut own = Self::default();
        for index in 0..set.count.get() {
            match stat(dir, set.region_name(index))? {
                Some(file) => own.regions.push(file),
                None => own.missing_regions += 1,
            }
            own.object_ids.extend(stat(dir, set.object_id_name(index))?);
        }
        Ok(own)
    }

    /// How many bytes the image takes: all its files but the file-system file itself.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().chain(&self.object_ids).map(|file| file.size).sum()
    }
}

fn stat(dir: &Path, name: String) -> Result<Option<OwnFile>> {
    match fs::symlink_metadata(dir.join(&name)) {
        Ok(metadata) => Ok(Some(OwnFile { size: metadata.len(), name })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("size of region file", error).entry(name)),
    }
}

/// Takes an image away with the files that belong to it alone: its regions, its object ids, then itself.
///
/// Images that were forked from it can no longer be read. Returns what there was.
///
/// # Errors
/// The first one. Everything else is still taken away; where the header cannot be read, that is the image file alone,
/// and nobody knows its regions any more.
pub fn destroy(dir: impl AsRef<Path>, name: &CimName) -> Result<OwnFiles> {
    let dir = dir.as_ref();
    let own = OwnFiles::of(dir, name);
    let names = own.iter().flat_map(|own| own.regions.iter().chain(&own.object_ids));
    let names = names.map(|file| file.name.as_str()).chain([name.as_str()]);
    let mut first = None;
    for name in names {
        let removed = fs::remove_file(dir.join(name)).during("remove file of image");
        if let Err(error) = removed.map_err(|error| error.entry(name)) {
            first.get_or_insert(error);
        }
    }
    match (own, first) {
        (Ok(own), None) => Ok(own),
        (Ok(_), Some(error)) | (Err(error), _) => Err(error),
    }
}
