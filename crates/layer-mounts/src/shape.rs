//! What a whole list of mounts is.

use layer_model::{Error, ErrorKind, Result};

use crate::{
    ErofsMount, Kind, Mount, OverlayMount, Step, Template, WindowsMount,
    managed::Managed,
    overlay,
    template::{Activated, Part},
};

/// What a list of mounts is. Each keeps the text that it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MountShape {
    /// A directory. Whether it is one layer or a whole tree is not visible.
    Bind(BindMount),
    /// Directories as layers, with an upper one or without.
    Overlay(OverlayMount),
    /// An EROFS image.
    Erofs(ErofsMount),
    /// A directory in a file system in a file, once that is mounted.
    BlockImage(BlockImage),
    /// A Windows layer.
    Windows(WindowsMount),
    /// Mounts that have something left for the mount manager.
    Unresolved(UnresolvedMounts),
}

/// A layer that a list of mounts names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerRef<'a> {
    /// A directory.
    Dir(&'a str),
    /// An EROFS image, or merged metadata that stands for several layers.
    Image(&'a ErofsMount),
}

/// A bind mount of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BindMount {
    mount: Mount,
}

impl BindMount {
    /// The mount as it was given.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The directory.
    pub fn source(&self) -> &str {
        &self.mount.source
    }

    /// Whether the directory is not to be changed.
    pub fn is_read_only(&self) -> bool {
        self.mount.is_read_only()
    }
}

/// A file system in a file (`rwlayer.img`), with the layer in a directory inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlockImage {
    mounts: Vec<Mount>,
    image: String,
    file_system: String,
    size: Option<u64>,
    dir: String,
    read_only: bool,
}

impl BlockImage {
    /// The image file.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The file system in it, as it is mounted.
    pub fn file_system(&self) -> &str {
        &self.file_system
    }

    /// How large it is made, in bytes, where the list says so.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The directory inside, by the path where it is mounted.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// Whether the directory is not to be changed.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

/// Mounts that the manager has to work on before their paths are known: templates to expand, directories and
/// file systems to make.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnresolvedMounts {
    mounts: Vec<Mount>,
    /// The EROFS mounts, by their numbers in the list.
    images: Vec<(usize, ErofsMount)>,
    /// The lower layers of the last one, nearest first; [`None`] where they cannot be told.
    lowers: Option<Vec<Lower>>,
}

/// A lower layer of a mount that is not activated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Lower {
    /// What an earlier mount mounts, by its number.
    Mount(usize),
    /// A directory that is there already.
    Dir(String),
}

impl UnresolvedMounts {
    /// The mounts as they were given.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The mount that makes the file system of a block image, where there is one.
    pub fn block_image(&self) -> Option<&Mount> {
        self.mounts.first().filter(|mount| is_mkfs(mount))
    }

    /// The last mount, expanded, once those before it are mounted: a bind or overlay mount with paths, its
    /// steps for the manager done.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when there are not as many as mounts before the last one.
    pub fn last_expanded(&self, earlier: &[Activated]) -> Result<Mount> {
        let Some((last, before)) = self.mounts.split_last() else { return Err(no_mounts()) };
        if earlier.len() != before.len() {
            let message = format!("{} mounts come before the last one, not {}", before.len(), earlier.len());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let mut mount = last.expanded(earlier)?;
        mount.kind = Kind::parse(&mount.kind)?.file_system;
        mount.options.retain(|option| !option.starts_with(crate::managed::PREFIX));
        Ok(mount)
    }

    /// What the mounts are once those before the last one are mounted.
    ///
    /// # Errors
    /// As [`UnresolvedMounts::last_expanded`], and those of the shape.
    pub fn activated(&self, earlier: &[Activated]) -> Result<MountShape> {
        let last = self.last_expanded(earlier)?;
        let Some(block) = self.block_image().filter(|_| last.kind == "bind") else {
            return from_mounts(&[last]);
        };
        let managed = block.managed()?;
        let size = managed.iter().rev().find_map(|option| match option {
            Managed::MkfsSize(size) => Some(*size),
            _ => None,
        });
        Ok(MountShape::BlockImage(BlockImage {
            image: block.source.clone(),
            file_system: Kind::parse(&block.kind)?.file_system,
            size,
            read_only: last.is_read_only(),
            dir: last.source,
            mounts: self.mounts.clone(),
        }))
    }
}

/// Finds out what a list of mounts is.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for an empty list and for options that have not their form;
/// [`ErrorKind::NotSupported`] for a list that none of the known snapshotters makes.
pub fn from_mounts(mounts: &[Mount]) -> Result<MountShape> {
    let [first, rest @ ..] = mounts else { return Err(no_mounts()) };
    for mount in mounts {
        mount.managed()?;
    }
    if !rest.is_empty() {
        return unresolved(mounts);
    }
    if let Some(windows) = WindowsMount::parse(first)? {
        return Ok(MountShape::Windows(windows));
    }
    let kind = Kind::parse(&first.kind)?;
    if !kind.steps.is_empty() {
        return unresolved(mounts);
    }
    match kind.file_system.as_str() {
        "bind" if first.source.is_empty() => {
            Err(Error::new(ErrorKind::InvalidArgument, "bind mount without a source"))
        }
        "bind" => Ok(MountShape::Bind(BindMount { mount: first.clone() })),
        "overlay" => Ok(MountShape::Overlay(OverlayMount::parse(first.clone())?)),
        "erofs" => Ok(MountShape::Erofs(ErofsMount::parse(first.clone())?)),
        other => {
            Err(Error::new(ErrorKind::NotSupported, format!("a mount of type {other:?} is no known layer")))
        }
    }
}

/// A list with work for the manager: an image to make, EROFS layers, and a bind or overlay mount over them.
fn unresolved(mounts: &[Mount]) -> Result<MountShape> {
    let unknown = |mount: &Mount| {
        let message = format!("a mount of type {:?} in this place is no known layer", mount.kind);
        Err(Error::new(ErrorKind::NotSupported, message))
    };
    let Some((last, before)) = mounts.split_last() else { return Err(no_mounts()) };
    let mut images = Vec::new();
    for (number, mount) in before.iter().enumerate() {
        if mount.kind == "erofs" {
            images.push((number, ErofsMount::parse(mount.clone())?));
        } else if number > 0 || !is_mkfs(mount) {
            return unknown(mount);
        }
    }
    let kind = Kind::parse(&last.kind)?;
    // Every template has to be one, also where nothing is made of it here.
    if kind.has(Step::Format) {
        for text in last.options.iter().chain([&last.source, &last.target]) {
            check_template(text, before.len())?;
        }
    }
    let lowers = match kind.file_system.as_str() {
        "bind" => match Template::parse(&last.source)?.parts() {
            [Part::Mount(number)] if images.iter().any(|(image, _)| image == number) => {
                Some(vec![Lower::Mount(*number)])
            }
            _ => Some(Vec::new()),
        },
        "overlay" => match last.value("lowerdir") {
            Some(value) => lowers_of(&Template::parse(value)?),
            None => Some(Vec::new()),
        },
        _ => return unknown(last),
    };
    if kind.steps.is_empty() || kind.has(Step::Mkfs) {
        return unknown(last);
    }
    Ok(MountShape::Unresolved(UnresolvedMounts { mounts: mounts.to_vec(), images, lowers }))
}

/// The layers of a `lowerdir=`: mounts, directories, and both where a stack has layers of both forms. [`None`] for
/// anything else: a path below a mount, layers of data only.
fn lowers_of(template: &Template) -> Option<Vec<Lower>> {
    // What stands between two colons.
    let mut entries = vec![Vec::new()];
    for part in template.parts() {
        match part {
            Part::Text(text) => {
                for (at, piece) in overlay::split_at_colons(text).into_iter().enumerate() {
                    if at > 0 {
                        entries.push(Vec::new());
                    }
                    if let (Some(entry), false) = (entries.last_mut(), piece.is_empty()) {
                        entry.push(Part::Text(piece.to_owned()));
                    }
                }
            }
            other => entries.last_mut()?.push(other.clone()),
        }
    }
    let mut lowers = Vec::new();
    for entry in entries {
        match &entry[..] {
            [Part::Text(dir)] => lowers.push(Lower::Dir(overlay::unescape(dir))),
            [part] => lowers.extend(part.mounts()?.into_iter().map(Lower::Mount)),
            _ => return None,
        }
    }
    Some(lowers)
}

/// A template may only name mounts before it.
fn check_template(text: &str, before: usize) -> Result<()> {
    let known = vec![Activated::default(); before];
    Template::parse(text)?.expand(&known).map(drop)
}

fn is_mkfs(mount: &Mount) -> bool {
    Kind::parse(&mount.kind).is_ok_and(|kind| kind.steps == [Step::Mkfs])
}

fn no_mounts() -> Error {
    Error::new(ErrorKind::InvalidArgument, "a list of mounts without a mount")
}

impl MountShape {
    /// The list that the shape was made from, byte for byte.
    pub fn to_mounts(&self) -> Vec<Mount> {
        match self {
            Self::Bind(bind) => vec![bind.mount.clone()],
            Self::Overlay(overlay) => vec![overlay.mount().clone()],
            Self::Erofs(erofs) => vec![erofs.mount().clone()],
            Self::BlockImage(block) => block.mounts.clone(),
            Self::Windows(windows) => vec![windows.mount().clone()],
            Self::Unresolved(unresolved) => unresolved.mounts.clone(),
        }
    }

    /// What the shape is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bind(_) => "bind mount",
            Self::Overlay(_) => "overlay mount",
            Self::Erofs(_) => "EROFS mount",
            Self::BlockImage(_) => "block image",
            Self::Windows(_) => "Windows layer",
            Self::Unresolved(_) => "mounts that are not activated",
        }
    }

    /// The directory that changes go to, by its path: of an overlay mount the upper one, of a bind mount that
    /// may be written to its source. Read-only shapes have none, and of mounts that are not activated it is
    /// not known yet.
    pub fn upper(&self) -> Option<&str> {
        match self {
            Self::Bind(bind) => Some(bind.source()).filter(|_| !bind.is_read_only()),
            Self::Overlay(overlay) => overlay.upper(),
            Self::BlockImage(block) => Some(block.dir()).filter(|_| !block.read_only),
            Self::Erofs(_) | Self::Windows(_) | Self::Unresolved(_) => None,
        }
    }

    /// The layers below the upper directory, nearest first; where nothing can be changed, all layers. This is
    /// what two lists are compared by, one for a container's parent and one for the container, after whoever
    /// compares has opened them: names are not identities.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] when the layers are not known before the mounts are activated;
    /// [`ErrorKind::NotSupported`] for Windows layers, which no directory or image stands for, and for
    /// overlay mounts with data-only layers.
    pub fn parents(&self) -> Result<Vec<LayerRef<'_>>> {
        match self {
            Self::Bind(bind) if bind.is_read_only() => Ok(vec![LayerRef::Dir(bind.source())]),
            Self::Bind(_) | Self::BlockImage(_) => Ok(Vec::new()),
            Self::Overlay(overlay) if overlay.data_only().is_empty() => {
                Ok(overlay.lowers().iter().map(|path| LayerRef::Dir(path)).collect())
            }
            Self::Overlay(_) => Err(Error::new(ErrorKind::NotSupported, "data-only layers are no parents")),
            Self::Erofs(erofs) => Ok(vec![LayerRef::Image(erofs)]),
            Self::Windows(_) => {
                Err(Error::new(ErrorKind::NotSupported, "Windows layers have parents of their own"))
            }
            Self::Unresolved(unresolved) => unresolved.parents(),
        }
    }
}

impl UnresolvedMounts {
    fn parents(&self) -> Result<Vec<LayerRef<'_>>> {
        let unknown = || {
            let message = "the layers are not known before the mounts are activated";
            Error::new(ErrorKind::FailedPrecondition, message)
        };
        let layer = |lower| match lower {
            &Lower::Mount(number) => {
                let found = self.images.iter().find(|(image, _)| *image == number);
                found.map(|(_, image)| LayerRef::Image(image)).ok_or_else(unknown)
            }
            Lower::Dir(dir) => Ok(LayerRef::Dir(dir)),
        };
        let lowers = self.lowers.as_ref().ok_or_else(unknown)?;
        let parents: Vec<LayerRef<'_>> = lowers.iter().map(layer).collect::<Result<_>>()?;
        let images = parents.iter().filter(|layer| matches!(layer, LayerRef::Image(_))).count();
        if images == self.images.len() {
            return Ok(parents);
        }
        Err(Error::new(ErrorKind::FailedPrecondition, "not every image is known to be a layer"))
    }

    /// The upper directory of an overlay mount, before it is known where the image below it is mounted.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for what is no template.
    pub fn upper(&self) -> Result<Option<Template>> {
        let upper = self.mounts.last().and_then(|mount| mount.value("upperdir"));
        upper.map(|value| Template::parse(&overlay::unescape(value))).transpose()
    }
}
