//! From paths to inodes.

use crate::error::{Error, ErrorKind, Result};

use super::{Image, Inode};

/// The longest path that a resolution may expand to.
const PATH_MAX: usize = 1 << 16;

impl Image {
    /// The inode at `path`, counted from the root, without following symbolic links. Empty components and "."
    /// are ignored, ".." goes up and stays at the root.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, or damage on the way.
    pub fn lookup(&self, path: impl AsRef<[u8]>) -> Result<Inode> {
        self.locate(path.as_ref(), 0).map_err(|error| error.path(path))
    }

    /// The inode at `path`, symbolic links followed within the image (absolute ones from its root).
    ///
    /// # Errors
    /// As [`Image::lookup`], and `TooManyLinks`.
    pub fn resolve_path(&self, path: impl AsRef<[u8]>) -> Result<Inode> {
        self.locate(path.as_ref(), self.limits().max_symlinks).map_err(|error| error.path(path))
    }

    /// Follows up to `links` symbolic links, none at all if that is 0.
    fn locate(&self, path: &[u8], links: u32) -> Result<Inode> {
        let follow = links > 0;
        let mut links = links;
        let mut above = Vec::new();
        let mut here = self.root()?;
        let mut todo: Vec<u8> = path.to_vec();
        let mut at = 0;
        while let Some(component) = next_component(&todo, &mut at) {
            if !here.is_dir() {
                return Err(Error::new(ErrorKind::NotDirectory, "path", "a parent is not a directory"));
            }
            if component == b".." {
                here = above.pop().unwrap_or(here);
                continue;
            }
            let Some(entry) = self.lookup_in(&here, component)? else {
                return Err(Error::new(ErrorKind::NotFound, "path", "nothing is there"));
            };
            let found = self.inode(entry.nid)?;
            if follow && found.file_type() == crate::FileType::Symlink {
                if links == 0 {
                    return Err(Error::new(ErrorKind::TooManyLinks, "path", "too many symbolic links"));
                }
                links -= 1;
                let mut target = self.read_link(&found)?;
                if target.starts_with(b"/") {
                    here = above.drain(..).next().unwrap_or(here);
                }
                target.push(b'/');
                target.extend_from_slice(&todo[at..]);
                if target.len() > PATH_MAX {
                    return Err(Error::new(
                        ErrorKind::TooManyLinks,
                        "path",
                        "symbolic links make it too long",
                    ));
                }
                (todo, at) = (target, 0);
            } else {
                above.push(std::mem::replace(&mut here, found));
            }
        }
        Ok(here)
    }
}

/// The next component from `at` on that means something.
fn next_component<'a>(path: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    loop {
        let rest = path.get(*at..).filter(|rest| !rest.is_empty())?;
        let len = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        *at += (len + 1).min(rest.len());
        if !matches!(&rest[..len], b"" | b".") {
            return Some(&rest[..len]);
        }
    }
}
