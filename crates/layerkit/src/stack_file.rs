//! `stack.json`: what an unpacked directory holds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use layer_model::{Digest, Error, ErrorKind, IoContext, Result};
use overlay_dir::Namespace;
use serde::{Deserialize, Serialize};

/// The name of the file.
pub const STACK_FILE: &str = "stack.json";

/// The largest file that is read: 512 layers take about 150 KiB.
const MAX_BYTES: u64 = 8 << 20;

/// What [`unpack`](crate::unpack()) made, bottom layer first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StackFile {
    /// The form of the layers.
    pub format: Format,
    /// Where overlay markers are kept; only with [`Format::Overlay`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xattrs: Option<XattrNamespace>,
    /// The layers, bottom first.
    pub layers: Vec<StackLayer>,
}

/// The form of unpacked layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// One directory a layer, `layers/NN-HEX/fs`, with overlayfs's markers.
    #[default]
    Overlay,
    /// One EROFS image a layer, `layers/NN-HEX/layer.erofs`, in a directory as containerd's EROFS snapshotter has it.
    Erofs,
    /// One merged tree, `rootfs`.
    Flat,
}

/// Where overlay markers are kept, in the words of `stack.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XattrNamespace {
    /// `trusted.overlay.*`
    Trusted,
    /// `user.overlay.*`, for mounts with `userxattr`
    User,
}

impl From<Namespace> for XattrNamespace {
    fn from(namespace: Namespace) -> Self {
        match namespace {
            Namespace::Trusted => Self::Trusted,
            Namespace::User => Self::User,
        }
    }
}

impl From<XattrNamespace> for Namespace {
    fn from(namespace: XattrNamespace) -> Self {
        match namespace {
            XattrNamespace::Trusted => Self::Trusted,
            XattrNamespace::User => Self::User,
        }
    }
}

/// One unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StackLayer {
    /// The directory of the layer, relative to that of `stack.json`; `rootfs` for every layer of a flat tree.
    pub path: PathBuf,
    /// The digest of the uncompressed layer tar.
    #[serde(with = "as_text")]
    pub diff_id: Digest,
    /// The digest of the blob.
    #[serde(with = "as_text")]
    pub digest: Digest,
    /// The size of the blob in bytes.
    pub size: u64,
    /// The root hash of the image's dm-verity tree, in hexadecimal, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<String>,
}

impl StackFile {
    /// Reads the `stack.json` in `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is none, [`ErrorKind::InvalidArgument`] where it does not parse or names a
    /// path outside `dir`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(STACK_FILE);
        let name = path.as_os_str().as_encoded_bytes();
        let bad = |why: String| Error::new(ErrorKind::InvalidArgument, why).entry(name);
        let size = fs::metadata(&path).during("open stack.json").map_err(|e| e.entry(name))?.len();
        if size > MAX_BYTES {
            return Err(bad(format!("{size} bytes are too many for a stack.json")));
        }
        let text = fs::read(&path).during("read stack.json").map_err(|e| e.entry(name))?;
        let file: Self = serde_json::from_slice(&text).map_err(|e| bad(format!("not a stack.json: {e}")))?;
        let inside = |p: &Path| p.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        match file.layers.iter().find(|layer| !inside(&layer.path)) {
            Some(layer) => Err(bad(format!("layer path {:?} leaves the directory", layer.path))),
            None => Ok(file),
        }
    }

    /// Writes `stack.json` into `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::new(ErrorKind::InvalidArgument, "a path is not UTF-8").cause(e))?;
        text.push('\n');
        fs::write(dir.join(STACK_FILE), text).during("write stack.json")
    }
}

mod as_text {
    use layer_model::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(digest.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
