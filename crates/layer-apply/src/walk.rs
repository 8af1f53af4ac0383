//! From a path of the layer to a directory of the target, whatever the target is.
//!
//! A path may run through links, of the target and, where the form has lower layers, of those: what counts is the
//! tree as it will be seen. Looking for the directory and making it are two steps, so that a deletion can ask
//! without leaving anything.

use layer_model::{Error, ErrorKind, LayerPath, LayerPathBuf, Result};

/// The most links that one resolution follows, as in containerd. The kernel's own limit is 40.
const MAX_LINKS: usize = 255;

/// What lies below a name that the target does not have itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    Nothing,
    Directory,
    Link(Box<[u8]>),
    Other,
}

/// Where a walk ended. `D` is what the target calls its directories by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place<D> {
    /// The target has the directory.
    Here(D),
    /// Only lower layers have it.
    Below,
    /// There is no such directory. With `whiteout`, because the layer itself took it, or one above it, away.
    Nowhere {
        /// Whether a deletion of the same layer is the reason.
        whiteout: bool,
    },
}

/// A path without links, and what is there.
#[derive(Clone, Debug)]
pub(crate) struct Walked<D> {
    pub(crate) path: LayerPathBuf,
    pub(crate) place: Place<D>,
}

/// What one component leads to.
pub(crate) enum Step<D> {
    Down(Place<D>),
    /// A link with this target; with `below`, one of a lower layer.
    Link {
        target: Box<[u8]>,
        below: bool,
    },
}

/// A target whose directories can be walked.
pub(crate) trait Walker {
    type Dir: Copy + PartialEq;

    fn root(&self) -> Self::Dir;

    /// What the target has at `name` in one of its directories, [`None`] where it has nothing.
    fn step_here(
        &mut self,
        dir: Self::Dir,
        path: LayerPath<'_>,
        name: &[u8],
    ) -> Result<Option<Step<Self::Dir>>>;

    /// What lower layers have at `name` in `parent`, which the target does not have there.
    fn below(&mut self, parent: LayerPath<'_>, name: &[u8]) -> Result<Below>;

    /// The nearest directory above `path` that can be had without a walk, and its path.
    fn nearest(&mut self, path: LayerPath<'_>) -> (LayerPathBuf, Self::Dir);

    /// A path that links led to.
    fn check_path(&self, path: LayerPath<'_>) -> Result<()>;
}

/// A walk and what it met.
pub(crate) struct Walk<D> {
    pub(crate) at: Walked<D>,
    /// How many links were followed.
    pub(crate) links: usize,
    /// What was seen of lower layers on the way, which a new entry of the same name would hide.
    pub(crate) below: Vec<LayerPathBuf>,
}

/// Goes from `start` along `rest`, following links, changing nothing.
///
/// # Errors
/// `NotDirectory` when something else is in the way, `TooManyLinks`.
pub(crate) fn walk<'p, W: Walker>(
    walker: &mut W,
    start: (LayerPathBuf, W::Dir),
    rest: impl DoubleEndedIterator<Item = &'p [u8]>,
) -> Result<Walk<W::Dir>> {
    let at = Walked { path: start.0, place: Place::Here(start.1) };
    let mut walk = Walk { at, links: 0, below: Vec::new() };
    // Last first, so that the next one is popped.
    let mut todo: Vec<Box<[u8]>> = rest.rev().map(Box::from).collect();
    while let Some(name) = todo.pop() {
        match &*name {
            b"" | b"." => continue,
            b".." => {
                walk.at.path.pop();
                walk.at.place = locate(walker, walk.at.path.as_path())?;
                continue;
            }
            _ => {}
        }
        match step(walker, &walk.at, &name)? {
            Step::Down(place) => {
                walk.at.path.push(&name)?;
                if place == Place::Below {
                    walk.below.push(walk.at.path.clone());
                }
                walk.at.place = place;
                walker.check_path(walk.at.path.as_path())?;
            }
            Step::Link { target, below } => {
                walk.links += 1;
                if walk.links > MAX_LINKS {
                    let message = format!("more than {MAX_LINKS} symbolic links");
                    return Err(Error::new(ErrorKind::TooManyLinks, message));
                }
                if below {
                    walk.below.push(walk.at.path.as_path().join(&name)?);
                }
                if target.starts_with(b"/") {
                    walk.at = Walked { path: LayerPathBuf::root(), place: Place::Here(walker.root()) };
                }
                todo.extend(target.rsplit(|b| *b == b'/').map(Box::from));
            }
        }
    }
    Ok(walk)
}

/// What is at `path`, which has no links.
fn locate<W: Walker>(walker: &mut W, path: LayerPath<'_>) -> Result<Place<W::Dir>> {
    let (from, start) = walker.nearest(path);
    let mut at = Walked { path: from.clone(), place: Place::Here(start) };
    for name in path.components().skip(from.as_path().depth()) {
        match step(walker, &at, name)? {
            Step::Down(place) => at.place = place,
            Step::Link { .. } => return Err(not_directory(path)),
        }
        at.path.push(name)?;
    }
    Ok(at.place)
}

/// Goes down one component.
fn step<W: Walker>(walker: &mut W, at: &Walked<W::Dir>, name: &[u8]) -> Result<Step<W::Dir>> {
    match at.place {
        Place::Nowhere { .. } => return Ok(Step::Down(at.place)),
        Place::Below => {}
        Place::Here(dir) => {
            if let Some(step) = walker.step_here(dir, at.path.as_path(), name)? {
                return Ok(step);
            }
        }
    }
    Ok(match walker.below(at.path.as_path(), name)? {
        Below::Nothing => Step::Down(Place::Nowhere { whiteout: false }),
        Below::Directory => Step::Down(Place::Below),
        Below::Link(target) => Step::Link { target, below: true },
        Below::Other => return Err(not_directory(at.path.as_path().join(name)?.as_path())),
    })
}

pub(crate) fn not_directory(path: LayerPath<'_>) -> Error {
    Error::new(ErrorKind::NotDirectory, "not a directory").at(path)
}
