//! The mount lists of snapshots, byte for byte as containerd's snapshotters write them.
//!
//! | snapshot | layers are images | layers are directories |
//! |---|---|---|
//! | active, no parent | `bind` of `fs/` | the same |
//! | an image of its own, no parent | `erofs` | |
//! | view of one layer | `erofs` | `bind` of the layer's `fs/`, read-only |
//! | others | one `erofs` for each layer, then `format/mkdir/overlay` | `overlay` |
//!
//! Merged metadata ([`FSMETA`](crate::dir::FSMETA)) of a layer stands for it and all below it, with one `device=` for
//! each, bottom first; where it is all there is to a view of several layers, a `format/bind` follows it. In a stack of
//! both forms `lowerdir=` names mounts and paths, nearest first.

use std::{ops::Range, path::Path};

use layer_model::{Error, ErrorKind, Result};
use layer_mounts::{Mount, overlay::escape};

use crate::{SnapshotDir, sys::named};

/// The form in which a layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerForm {
    /// An image.
    Image,
    /// A directory in overlayfs's form: what was the upper directory.
    Directory,
}

/// Who mounts the images of layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MountForm {
    /// Whoever gets the list: containerd's mount manager, which expands templates. Since containerd 2.2.
    #[default]
    Managed,
    /// Whoever asks for the list has each layer's image mounted on its `fs/` ([`premounts`]), so that the list is a
    /// plain overlay mount of those, without templates and merged metadata. As in containerd 2.1.
    Premounted,
}

/// A lower layer: its directory, and in which form it is there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lower {
    /// The directory of its snapshot.
    pub dir: SnapshotDir,
    /// Its form.
    pub form: LayerForm,
}

impl Lower {
    /// A layer.
    pub fn new(dir: SnapshotDir, form: LayerForm) -> Self {
        Self { dir, form }
    }
}

/// Options of [`mount_list`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListOptions {
    /// Who mounts images.
    pub form: MountForm,
    /// Added to overlay mounts, at their end.
    pub overlay: Vec<String>,
    /// `uidmap=` and `gidmap=` of an overlay mount, where there are any.
    pub id_maps: Vec<String>,
}

/// The list of mounts that shows a snapshot.
///
/// `own` is its directory, `lowers` are its layers, nearest first. Unless it is `writable`, it is a view.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a path that a list cannot hold; those of looking for merged metadata and
/// dm-verity.
pub fn mount_list(
    own: &SnapshotDir,
    lowers: &[Lower],
    writable: bool,
    options: &ListOptions,
) -> Result<Vec<Mount>> {
    let access = if writable { "rw" } else { "ro" };
    match lowers {
        [] if own.image()?.is_some() => Ok(vec![image_mount(own)?]),
        [] => Ok(vec![Mount::new("bind", path(&own.upper_path())?, [access, "rbind"])]),
        [one] if !writable => Ok(vec![match one.form {
            LayerForm::Image => image_mount(&one.dir)?,
            LayerForm::Directory => {
                let flags = ["ro", "rbind"].map(str::to_owned);
                let all = options.id_maps.iter().cloned().chain(flags);
                Mount::new("bind", path(&one.dir.upper_path())?, all)
            }
        }]),
        lowers if options.form == MountForm::Premounted || has_no_image(lowers) => {
            overlay(own, lowers, writable, options).map(|mount| vec![mount])
        }
        lowers => managed(own, lowers, writable, options),
    }
}

fn has_no_image(lowers: &[Lower]) -> bool {
    lowers.iter().all(|lower| lower.form == LayerForm::Directory)
}

/// What has to be mounted, and where, before a list in the form [`MountForm::Premounted`] can be: each layer's image
/// on its `fs/`. None, where the list takes none of these directories.
///
/// # Errors
/// As [`mount_list`].
pub fn premounts(lowers: &[Lower], writable: bool) -> Result<Vec<(Mount, std::path::PathBuf)>> {
    if lowers.len() == 1 && !writable {
        return Ok(Vec::new());
    }
    let images = lowers.iter().filter(|lower| lower.form == LayerForm::Image);
    images.map(|lower| Ok((image_mount(&lower.dir)?, lower.dir.upper_path()))).collect()
}

/// A mount of one layer's image.
fn image_mount(dir: &SnapshotDir) -> Result<Mount> {
    let mut mount = Mount::new("erofs", path(&dir.image_path())?, ["ro", "loop"]);
    if dir.has_sidecar()? {
        mount.options.push(format!("X-containerd.dmverity={}", path(&dir.sidecar_path())?));
    }
    Ok(mount)
}

/// A mount of merged metadata, which stands for `lowers`.
fn merged_mount(lowers: &[Lower]) -> Result<Option<Mount>> {
    let [nearest, ..] = lowers else { return Ok(None) };
    // A stack that has a directory in it has no merged metadata of all that is below.
    if !lowers.iter().all(|lower| lower.form == LayerForm::Image) || !nearest.dir.has_fsmeta()? {
        return Ok(None);
    }
    let mut mount = Mount::new("erofs", path(&nearest.dir.fsmeta_path())?, ["ro", "loop"]);
    for lower in lowers.iter().rev() {
        mount.options.push(format!("device={}", path(&lower.dir.image_path())?));
    }
    Ok(Some(mount))
}

/// `workdir=` and `upperdir=`.
fn upper(own: &SnapshotDir, writable: bool) -> Result<Vec<String>> {
    if !writable {
        return Ok(Vec::new());
    }
    let option = |name, dir: &Path| Ok(format!("{name}={}", escape(&path(dir)?)));
    Ok(vec![option("workdir", &own.work_path())?, option("upperdir", &own.upper_path())?])
}

/// Directories over directories, as the overlay snapshotter has it; where they stand for images, as the EROFS
/// snapshotter has it.
fn overlay(own: &SnapshotDir, lowers: &[Lower], writable: bool, options: &ListOptions) -> Result<Mount> {
    let upper = upper(own, writable)?;
    let maps = options.id_maps.clone();
    let mut all = if has_no_image(lowers) { [maps, upper].concat() } else { [upper, maps].concat() };
    let dirs = lowers.iter().map(|lower| Ok(escape(&path(&lower.dir.upper_path())?)));
    all.push(format!("lowerdir={}", dirs.collect::<Result<Vec<_>>>()?.join(":")));
    all.extend_from_slice(&options.overlay);
    Ok(Mount::new("overlay", "overlay", all))
}

/// What stands in a `lowerdir=` with templates.
enum Piece {
    /// These mounts.
    Mounts(Range<usize>),
    /// A directory.
    Dir(String),
}

fn managed(own: &SnapshotDir, lowers: &[Lower], writable: bool, options: &ListOptions) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    for (at, lower) in lowers.iter().enumerate() {
        if lower.form == LayerForm::Directory {
            pieces.push(Piece::Dir(escape(&path(&lower.dir.upper_path())?)));
            continue;
        }
        match pieces.last_mut() {
            Some(Piece::Mounts(range)) => range.end += 1,
            _ => pieces.push(Piece::Mounts(mounts.len()..mounts.len() + 1)),
        }
        if let Some(merged) = merged_mount(&lowers[at..])? {
            mounts.push(merged);
            break;
        }
        mounts.push(image_mount(&lower.dir)?);
    }
    let mut all = upper(own, writable)?;
    all.extend_from_slice(&options.id_maps);
    if let ([Piece::Mounts(range)], false) = (&pieces[..], writable)
        && range.len() == 1
    {
        // Overlayfs takes no single layer without an upper directory.
        all.extend(["ro", "rbind"].map(str::to_owned));
        mounts.push(Mount::new("format/bind", "{{ mount 0 }}", all));
        return Ok(mounts);
    }
    let pieces = pieces.into_iter().map(|piece| match piece {
        Piece::Dir(dir) => dir,
        Piece::Mounts(range) if range.len() == 1 => format!("{{{{ mount {} }}}}", range.start),
        Piece::Mounts(range) => format!("{{{{ overlay {} {} }}}}", range.start, range.end - 1),
    });
    all.push(format!("lowerdir={}", pieces.collect::<Vec<_>>().join(":")));
    all.extend_from_slice(&options.overlay);
    mounts.push(Mount::new("format/mkdir/overlay", "overlay", all));
    Ok(mounts)
}

/// A path as text in a list.
fn path(path: &Path) -> Result<String> {
    let unusable = |why| named(Error::new(ErrorKind::InvalidArgument, why), path);
    let text = path.to_str().ok_or_else(|| unusable("the path is not UTF-8, which mount lists are"))?;
    if text.contains("{{") {
        return Err(unusable("the path would be a template in a mount list"));
    }
    Ok(text.to_owned())
}
