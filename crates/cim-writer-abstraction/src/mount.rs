//! What containerd's mounts say about CIM layers, both ways.
//!
//! A snapshotter describes a layer in a CIM as one mount whose options hold the CIMs of its parents as JSON. Two
//! programs read it, with rules of their own: the differ, which extracts a layer into the CIM that the mount names, and
//! the runtime, which mounts the parents below a scratch directory. [`MountSpec::parse`] is both, as [`Reader`] says;
//! with [`CimProfile::Spec`] it also refuses what the two let pass and nobody can have meant.
//!
//! ```
//! use cim_writer_abstraction::{CimProfile, mount::{AnySpec, MountSpec, Reader}};
//! use layer_mounts::Mount;
//!
//! # fn main() -> layer_model::Result<()> {
//! let mount = Mount::new(
//!     "BlockCIM",
//!     r"C:\s\2\layer.vhd\layer.cim",
//!     [r#"parentCimPaths=["C:\\s\\1\\layer.vhd\\layer.cim"]"#, "blockCIMType=file"],
//! );
//! let spec = MountSpec::parse(&[mount.clone()], Reader::Differ, CimProfile::Spec)?;
//! let AnySpec::Block(block) = spec.any() else { panic!("a block CIM") };
//! assert_eq!(block.parents[0].container(), r"C:\s\1\layer.vhd");
//! assert_eq!(block.parents[0].name().as_str(), "layer.cim");
//! assert_eq!(spec.mount(), &mount);
//! # Ok(()) }
//! ```

use layer_model::{Error, ErrorKind, Result};
use layer_mounts::{
    Mount,
    windows::{
        self, BLOCK_CIM, BLOCK_CIM_TYPE, CIM, CIM_PATH, LAYER_INTEGRITY, MERGED_CIM, PARENT_CIMS,
        PARENT_LAYERS, VHD_FOOTER,
    },
};

use crate::{
    CimProfile,
    location::{self, CimLocation},
};

/// Who reads a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reader {
    /// Whoever extracts a layer into the CIM that the mount names.
    Differ,
    /// Whoever mounts the parents for a container, with the mount's source as its scratch directory.
    Runtime,
}

/// A mount of a CIM layer: its text, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MountSpec {
    mount: Mount,
    any: AnySpec,
}

/// What a mount of a CIM layer says, as its type has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AnySpec {
    /// A layer in a forked CIM.
    Forked(ForkedSpec),
    /// A layer in a block CIM.
    Block(BlockSpec),
}

/// What a mount says about a forked CIM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForkedSpec {
    /// The directory of the snapshot: of a layer, or of a container's scratch space.
    pub source: String,
    /// Whether the snapshot is a view.
    pub read_only: bool,
    /// The CIM to extract to. Every mount of the snapshotter has one; for a container it means nothing.
    pub cim: Option<CimLocation>,
    /// The parents, nearest first.
    pub parents: Vec<ForkedParent>,
}

/// A parent in a forked CIM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForkedParent {
    /// Its directory, which holds the files that are not in the CIM.
    pub dir: String,
    /// Its CIM.
    pub cim: CimLocation,
}

/// What a mount says about a block CIM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockSpec {
    /// What the snapshot is for.
    pub source: BlockSource,
    /// Where the containers are.
    pub cim_type: BlockCimType,
    /// The parents, nearest first.
    pub parents: Vec<CimLocation>,
    /// What the parents are merged in, where there are two or more and a container is started.
    pub merged: Option<CimLocation>,
    /// Whether CIMs are verified.
    pub integrity: bool,
    /// Whether containers get a VHD footer.
    pub footer: bool,
}

/// What the source of a mount of a block CIM is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlockSource {
    /// The CIM to extract to.
    Layer(CimLocation),
    /// The directory with a container's scratch space.
    Scratch(String),
}

/// Where the containers of block CIMs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockCimType {
    /// In ordinary files.
    File,
    /// On raw devices.
    Device,
}

impl BlockCimType {
    /// The value of `blockCIMType`.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Device => "device",
        }
    }
}

impl MountSpec {
    /// Reads the mounts of a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for more or fewer than one mount, and for options that do not say what the reader
    /// has to know or, with [`CimProfile::Spec`], contradict each other, name no absolute path, or seem meant for CIMs
    /// without being known. [`ErrorKind::NotSupported`] for other types of mounts and, of a differ, for CIMs on devices:
    /// another reader may take them.
    pub fn parse(mounts: &[Mount], reader: Reader, profile: CimProfile) -> Result<Self> {
        let [mount] = mounts else {
            return Err(invalid(format!("{} mounts, where a CIM layer has one", mounts.len())));
        };
        let options = Options { mount, is_strict: profile == CimProfile::Spec };
        let any = match mount.kind.as_str() {
            CIM => AnySpec::Forked(options.forked(reader)?),
            BLOCK_CIM => AnySpec::Block(options.block(reader)?),
            other => {
                let what = format!("a mount of type {other:?} is no CIM layer");
                return Err(Error::new(ErrorKind::NotSupported, what));
            }
        };
        Ok(Self { mount: mount.clone(), any })
    }

    /// The mount that containerd's snapshotters make for this.
    pub fn new(any: AnySpec) -> Self {
        let mount = match &any {
            AnySpec::Forked(forked) => forked.to_mount(),
            AnySpec::Block(block) => block.to_mount(),
        };
        Self { mount, any }
    }

    /// The mount, as it was given.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// What the mount says.
    pub fn any(&self) -> &AnySpec {
        &self.any
    }

    /// What the mount says.
    pub fn into_any(self) -> AnySpec {
        self.any
    }
}

impl ForkedSpec {
    fn to_mount(&self) -> Mount {
        let mut options = vec![if self.read_only { "ro" } else { "rw" }.to_owned()];
        options.extend(self.cim.iter().map(|cim| format!("{CIM_PATH}={cim}")));
        if !self.parents.is_empty() {
            let dirs = windows::paths_to_json(self.parents.iter().map(|parent| &parent.dir));
            options.push(format!("{PARENT_LAYERS}={dirs}"));
            let cims = windows::paths_to_json(self.parents.iter().map(|parent| parent.cim.to_string()));
            options.push(format!("{PARENT_CIMS}={cims}"));
        }
        Mount::new(CIM, &self.source, options)
    }
}

impl BlockSpec {
    fn to_mount(&self) -> Mount {
        let parents = windows::paths_to_json(self.parents.iter().map(CimLocation::to_string));
        let mut options =
            vec![format!("{PARENT_CIMS}={parents}"), format!("{BLOCK_CIM_TYPE}={}", self.cim_type.name())];
        options.extend(self.integrity.then(|| LAYER_INTEGRITY.to_owned()));
        options.extend(self.footer.then(|| VHD_FOOTER.to_owned()));
        options.extend(self.merged.iter().map(|merged| format!("{MERGED_CIM}={merged}")));
        let source = match &self.source {
            BlockSource::Layer(cim) => cim.to_string(),
            BlockSource::Scratch(dir) => dir.clone(),
        };
        Mount::new(BLOCK_CIM, source, options)
    }
}

/// The options of a mount, and how closely they are looked at.
struct Options<'a> {
    mount: &'a Mount,
    is_strict: bool,
}

/// Which of several options of one name counts.
#[derive(Clone, Copy)]
enum Counts {
    First,
    Last,
}

impl Options<'_> {
    fn forked(&self, reader: Reader) -> Result<ForkedSpec> {
        self.check(&[CIM_PATH, PARENT_LAYERS, PARENT_CIMS], &[])?;
        let dirs_count = match reader {
            Reader::Differ => Counts::Last,
            Reader::Runtime => Counts::First,
        };
        let dirs = self.paths(PARENT_LAYERS, dirs_count)?;
        let cims = self.paths(PARENT_CIMS, Counts::First)?;
        if dirs.len() != cims.len() && (self.is_strict || reader == Reader::Runtime) {
            let what = format!("{} directories of parents, and {} CIMs of them", dirs.len(), cims.len());
            return Err(invalid(what));
        }
        let parent =
            |(dir, cim): (String, String)| Ok(ForkedParent { dir: self.dir(dir)?, cim: self.cim(&cim)? });
        let parents = dirs.into_iter().zip(cims).map(parent).collect::<Result<_>>()?;
        let cim = match (self.value(CIM_PATH, Counts::First), reader) {
            (Some(path), Reader::Differ) => Some(self.cim(path)?),
            (None, Reader::Differ) => return Err(invalid("no cimpath to extract the layer to")),
            (Some(path), Reader::Runtime) if self.is_strict => Some(self.cim(path)?),
            // It is meant for a differ only.
            (path, Reader::Runtime) => path.and_then(|path| self.cim(path).ok()),
        };
        let read_only = self.mount.is_read_only();
        Ok(ForkedSpec { source: self.dir(self.mount.source.clone())?, read_only, cim, parents })
    }

    fn block(&self, reader: Reader) -> Result<BlockSpec> {
        self.check(&[PARENT_CIMS, BLOCK_CIM_TYPE, MERGED_CIM], &[LAYER_INTEGRITY, VHD_FOOTER])?;
        let cim_type = match (self.value(BLOCK_CIM_TYPE, Counts::Last), reader) {
            (Some("file"), _) | (None, Reader::Differ) => BlockCimType::File,
            (Some("device"), Reader::Runtime) => BlockCimType::Device,
            (Some("device"), Reader::Differ) => {
                return Err(Error::new(
                    ErrorKind::NotSupported,
                    "nothing extracts to a block CIM on a device",
                ));
            }
            (Some(other), _) => return Err(invalid(format!("block CIMs of type {other:?}"))),
            (None, Reader::Runtime) => return Err(invalid("no blockCIMType")),
        };
        let parents = self.paths(PARENT_CIMS, Counts::Last)?;
        let merged = self.value(MERGED_CIM, Counts::Last).filter(|path| self.is_strict || !path.is_empty());
        if reader == Reader::Runtime {
            if parents.is_empty() {
                return Err(invalid("a container needs a parent at least"));
            }
            if parents.len() > 1 && merged.is_none() {
                return Err(invalid("no mergedCIMPath, and more than one parent"));
            }
        }
        let source = match reader {
            Reader::Differ => BlockSource::Layer(self.cim(&self.mount.source)?),
            Reader::Runtime => BlockSource::Scratch(self.dir(self.mount.source.clone())?),
        };
        Ok(BlockSpec {
            source,
            cim_type,
            parents: parents.iter().map(|path| self.cim(path)).collect::<Result<_>>()?,
            merged: merged.map(|path| self.cim(path)).transpose()?,
            integrity: self.mount.has(LAYER_INTEGRITY),
            footer: self.mount.has(VHD_FOOTER),
        })
    }

    /// Looks for options that contradict each other, or seem to be meant for CIMs and are not known.
    fn check(&self, valued: &[&str], flags: &[&str]) -> Result<()> {
        if !self.is_strict {
            return Ok(());
        }
        for name in valued {
            let mut values = self.mount.values(name);
            let first = values.next();
            if values.any(|value| Some(value) != first) {
                return Err(invalid(format!("{name} is given twice, and not the same")));
            }
        }
        for option in &self.mount.options {
            let (name, is_valued) =
                option.split_once('=').map_or((option.as_str(), false), |(name, _)| (name, true));
            let known = if is_valued { valued } else { flags };
            if !known.contains(&name) && seems_to_be_meant(name) {
                return Err(invalid(format!("the option {name:?} means nothing for this type of mount")));
            }
        }
        Ok(())
    }

    fn value(&self, name: &str, counts: Counts) -> Option<&str> {
        let mut values = self.mount.values(name);
        match counts {
            Counts::First => values.next(),
            Counts::Last => values.last(),
        }
    }

    fn paths(&self, name: &str, counts: Counts) -> Result<Vec<String>> {
        self.value(name, counts).map_or(Ok(Vec::new()), |json| windows::parse_paths(name, json))
    }

    fn dir(&self, path: String) -> Result<String> {
        if self.is_strict {
            location::check_absolute(&path)?;
        }
        Ok(path)
    }

    fn cim(&self, path: &str) -> Result<CimLocation> {
        if self.is_strict {
            location::check_absolute(path)?;
        }
        CimLocation::parse(path)
    }
}

/// Whether an option of this name is one for CIMs, perhaps of another type of mount, another version, or misspelled.
fn seems_to_be_meant(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["cim", "parent", "layer", "vhd"].iter().any(|part| name.contains(part))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, what)
}
