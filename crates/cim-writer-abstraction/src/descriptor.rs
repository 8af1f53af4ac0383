//! What is written down about a layer, so that its handle survives the process: `layerkit-cim.json`, next to it.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use layer_model::{Digest, Error, ErrorKind, Form, IoContext, Result};
use serde::{Deserialize, Serialize};

use crate::{CimKind, CimName, CimProfile};

/// The name of the file.
pub const FILE_NAME: &str = "layerkit-cim.json";
/// The version of what is in it.
const SCHEMA: u32 = 1;
/// More than that is none of ours, in bytes.
const SIZE_MAX: u64 = 4 << 20;

/// What is written down about a layer, or about a merged image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Descriptor {
    schema: u32,
    /// What it is.
    pub kind: DescribedKind,
    /// The container, or the image directory: relative to this file, or a path of the host.
    pub container: String,
    /// The name of the image.
    pub name: String,
    /// Whether it has a root digest.
    pub verified: bool,
    /// The root digest in lower-case hex, once Windows has made one.
    pub root_digest: Option<String>,
    /// The digest of the layer's uncompressed tar.
    pub diff_id: Option<String>,
    /// Those of the layers below, nearest first; null for a layer that did not come from a tar.
    pub parents: Vec<Option<String>>,
    /// Hives that are still to be merged, by their names below `Hives`.
    pub recorded_hives: Vec<String>,
    /// What a merged image was made of, topmost first.
    pub sources: Vec<Source>,
    /// Which behaviour was followed.
    pub profile: DescribedProfile,
    /// Who wrote it, and which version.
    pub writer: String,
}

/// What is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DescribedKind {
    /// A layer in a forked CIM.
    Forked,
    /// A layer in a block CIM.
    Block,
    /// Block CIMs merged into one.
    Merged,
}

impl From<CimKind> for DescribedKind {
    fn from(kind: CimKind) -> Self {
        match kind {
            CimKind::Forked => Self::Forked,
            CimKind::Block => Self::Block,
        }
    }
}

/// The profile that was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DescribedProfile {
    /// [`CimProfile::Spec`].
    Spec,
    /// [`CimProfile::Hcsshim`].
    Hcsshim,
}

impl From<CimProfile> for DescribedProfile {
    fn from(profile: CimProfile) -> Self {
        match profile {
            CimProfile::Spec => Self::Spec,
            CimProfile::Hcsshim => Self::Hcsshim,
        }
    }
}

/// A source of a merged image, as it was when it was merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Source {
    /// Its container.
    pub container: String,
    /// Its name in there.
    pub name: String,
    /// Its root digest, where it has one: that settles it.
    pub root_digest: Option<String>,
    /// Else the size of its container in bytes, ...
    pub size: Option<u64>,
    /// ... and when it was last written, in nanoseconds since 1970.
    pub modified: Option<u64>,
}

impl Source {
    /// The source `name` in `container`, known by its root digest, or by what the file system says about the container.
    ///
    /// # Errors
    /// Those of looking at the container.
    pub fn of(container: &str, name: &CimName, root_digest: Option<String>) -> Result<Self> {
        let (size, modified) = match root_digest {
            Some(_) => (None, None),
            None => stat(container).map(|(size, modified)| (Some(size), Some(modified)))?,
        };
        Ok(Self {
            container: container.to_owned(),
            name: name.as_str().to_owned(),
            root_digest,
            size,
            modified,
        })
    }

    /// Checks that the container is still what was merged. One that is known by its digest is checked when it is
    /// mounted.
    fn check(&self) -> Result<()> {
        let (Some(size), Some(modified)) = (self.size, self.modified) else { return Ok(()) };
        if stat(&self.container)? != (size, modified) {
            let what = format!("the container {} is not the one that was merged any more", self.container);
            return Err(Error::new(ErrorKind::FailedPrecondition, what));
        }
        Ok(())
    }
}

fn stat(path: &str) -> Result<(u64, u64)> {
    let at = |error: Error| error.entry(path);
    let metadata = fs::metadata(path).during("look at the container").map_err(at)?;
    let modified: SystemTime = metadata.modified().during("look at the container").map_err(at)?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}

impl Descriptor {
    /// A description of the image `name` in `container`, which nothing else is known of.
    pub fn new(kind: DescribedKind, container: impl Into<String>, name: &CimName) -> Self {
        Self {
            schema: SCHEMA,
            kind,
            container: container.into(),
            name: name.as_str().to_owned(),
            verified: false,
            root_digest: None,
            diff_id: None,
            parents: Vec::new(),
            recorded_hives: Vec::new(),
            sources: Vec::new(),
            profile: DescribedProfile::Spec,
            writer: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Writes it into `dir`, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut json =
            serde_json::to_vec_pretty(self).map_err(std::io::Error::other).during("write the description")?;
        json.push(b'\n');
        let (staged, path) = (dir.join(format!(".{FILE_NAME}.new")), dir.join(FILE_NAME));
        fs::write(&staged, json).during("write the description of the layer")?;
        fs::rename(staged, path).during("put the description of the layer into place")
    }

    /// Reads that of the layer in `dir`, and checks what can be checked: the digests' form, the sources of a merged
    /// image.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidArchive`] for what is no description,
    /// [`ErrorKind::UnsupportedVersion`] for a newer one, [`ErrorKind::FailedPrecondition`] when a source is another one.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let named = |error: Error| error.entry(path.as_os_str().as_encoded_bytes());
        Self::read(&path).map_err(named)
    }

    fn read(path: &Path) -> Result<Self> {
        let size = fs::metadata(path).during("look at the description of the layer")?.len();
        if size > SIZE_MAX {
            return Err(Error::new(ErrorKind::InvalidArchive, "too large for a description of a layer"));
        }
        let json = fs::read(path).during("read the description of the layer")?;
        let invalid = |error| Error::new(ErrorKind::InvalidArchive, "no description of a layer").cause(error);
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let Version { schema } = serde_json::from_slice(&json).map_err(invalid)?;
        if schema != SCHEMA {
            let what = format!("a description of version {schema}, and not of version {SCHEMA}");
            return Err(Error::new(ErrorKind::UnsupportedVersion, what));
        }
        let found: Self = serde_json::from_slice(&json).map_err(invalid)?;
        CimName::new(found.name.as_str())?;
        for digest in found.diff_id.iter().chain(found.parents.iter().flatten()) {
            digest.parse::<Digest>()?;
        }
        found.sources.iter().try_for_each(Source::check)?;
        Ok(found)
    }

    /// Checks that this is `wanted`.
    ///
    /// # Errors
    /// [`ErrorKind::WrongForm`].
    pub fn expect(&self, wanted: DescribedKind) -> Result<()> {
        if self.kind == wanted {
            return Ok(());
        }
        let kind = ErrorKind::WrongForm { expected: wanted.form(), got: self.kind.form() };
        Err(Error::new(kind, "a layer of another form is needed"))
    }

    /// Checks that a layer described so can be in one stack with this one.
    pub(crate) fn expect_same(&self, kind: DescribedKind, verified: bool) -> Result<()> {
        let form = |kind: DescribedKind, verified: bool| match (kind, verified) {
            (DescribedKind::Block, true) => "verified block CIM",
            (kind, _) => kind.form(),
        };
        let (expected, got) = (form(self.kind, self.verified), form(kind, verified));
        if expected == got {
            return Ok(());
        }
        Err(Error::new(ErrorKind::WrongForm { expected, got }, "layers of different forms are no stack"))
    }

    /// Checks that `parents`, nearest first, are those of this layer.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`], which names the first that is another one.
    pub fn check_parents<'p>(&self, parents: impl IntoIterator<Item = &'p Descriptor>) -> Result<()> {
        let given: Vec<_> = parents.into_iter().map(|parent| parent.diff_id.as_deref()).collect();
        if given.len() != self.parents.len() {
            let what = format!("the layer has {} parents, {} were given", self.parents.len(), given.len());
            return Err(Error::new(ErrorKind::InvalidArgument, what));
        }
        for (at, (wanted, given)) in self.parents.iter().zip(given).enumerate() {
            if given != wanted.as_deref() {
                let name = |id: Option<&str>| id.unwrap_or("of no known diff id").to_owned();
                let (wanted, given) = (name(wanted.as_deref()), name(given));
                let what = format!("parent {at} of the layer is {wanted}, the one given is {given}");
                return Err(Error::new(ErrorKind::InvalidArgument, what));
            }
        }
        Ok(())
    }
}

impl DescribedKind {
    fn form(self) -> &'static str {
        match self {
            Self::Forked => Form::FORKED_CIM.0,
            Self::Block => Form::BLOCK_CIM.0,
            Self::Merged => "merged block CIM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Descriptor {
        let mut described =
            Descriptor::new(DescribedKind::Block, "layer.vhd", &CimName::new("layer.cim").unwrap());
        described.diff_id = Some(Digest::sha256("tar").to_string());
        described.parents = vec![Some(Digest::sha256("parent").to_string())];
        described
    }

    #[test]
    fn what_was_written_down_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        described().save(dir.path()).unwrap();
        assert_eq!(Descriptor::open(dir.path()).unwrap(), described());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_kind_and_the_parents_are_checked() {
        let described = described();
        assert!(described.expect(DescribedKind::Block).is_ok());
        let error = described.expect(DescribedKind::Forked).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::WrongForm { expected: "forked CIM", got: "block CIM" });
        let mut parent = Descriptor::new(DescribedKind::Block, "p", &CimName::new("layer.cim").unwrap());
        assert!(described.check_parents([]).is_err());
        assert!(described.check_parents([&parent]).is_err());
        parent.diff_id.clone_from(&described.parents[0]);
        assert!(described.check_parents([&parent]).is_ok());
    }

    #[test]
    fn a_source_that_was_changed_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let container = dir.path().join("layer.vhd");
        fs::write(&container, "one").unwrap();
        let mut merged =
            Descriptor::new(DescribedKind::Merged, "merged.vhd", &CimName::new("merged.cim").unwrap());
        let name = CimName::new("layer.cim").unwrap();
        merged.sources.push(Source::of(container.to_str().unwrap(), &name, None).unwrap());
        merged.save(dir.path()).unwrap();
        assert_eq!(Descriptor::open(dir.path()).unwrap(), merged);
        fs::write(&container, "another").unwrap();
        assert_eq!(Descriptor::open(dir.path()).unwrap_err().kind(), &ErrorKind::FailedPrecondition);
        fs::remove_file(&container).unwrap();
        assert_eq!(Descriptor::open(dir.path()).unwrap_err().kind(), &ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_description_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |text: &str| {
            fs::write(dir.path().join(FILE_NAME), text).unwrap();
            Descriptor::open(dir.path()).unwrap_err().kind().clone()
        };
        assert_eq!(open("{"), ErrorKind::InvalidArchive);
        assert_eq!(open(r#"{"schema":2}"#), ErrorKind::UnsupportedVersion);
        assert_eq!(open(r#"{"schema":1}"#), ErrorKind::InvalidArchive);
    }
}
