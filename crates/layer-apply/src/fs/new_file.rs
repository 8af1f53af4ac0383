//! A file that appears whole or not at all.

use std::{
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use layer_model::{Error, ErrorKind, IoContext, Result};

/// Makes `path` with what `fill` writes, and replaces a file that is there. It is made beside its place, and gets its
/// name when `fill` is done; after an error everything is as it was.
///
/// # Errors
/// [`ErrorKind::Exists`] when a directory is there; those of `fill` and of the file system.
pub fn write_file<T>(path: &Path, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let at = |e: Error| e.entry(path.as_os_str().as_encoded_bytes());
    if path.is_dir() {
        return Err(at(Error::new(ErrorKind::Exists, "a directory is there")));
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".layerkit-file-")
        // What any new file gets: the umask takes its part away.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .during("make a file beside the output")
        .map_err(at)?;
    let made = fill(file.as_file_mut())?;
    file.persist(path).map_err(|e| at(Error::io("give the output its name", e.error)))?;
    Ok(made)
}
