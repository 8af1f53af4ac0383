//! What happens to a container beside what CimFS does to it.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{ErrorKind as IoKind, Write as _},
    path::Path,
};

use layer_model::{Error, ErrorKind, IoContext as _, Result};

use crate::vhd::Footer;

/// Reaches containers as files: for their size, the footer behind the image, and small files next to them.
pub trait Containers: fmt::Debug + Send + Sync {
    /// The size of the container in bytes, [`None`] where there is no such thing.
    ///
    /// # Errors
    /// Those of looking at it.
    fn size(&self, container: &str) -> Result<Option<u64>>;

    /// Appends a VHD footer to a container of `len` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::SizeMismatch`] when it is not `len` bytes long, [`ErrorKind::AlreadyExists`] when it ends in a
    /// footer, and errors of writing it.
    fn append_footer(&self, container: &str, len: u64, unique_id: [u8; 16]) -> Result<()>;

    /// Writes a file `name` next to the container, which is not there yet.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when it is there, and errors of writing it.
    fn write_beside(&self, container: &str, name: &str, text: &str) -> Result<()>;
}

/// Containers that are files of this system.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFiles;

impl Containers for HostFiles {
    fn size(&self, container: &str) -> Result<Option<u64>> {
        let meta = fs::metadata(container).during("look at the container");
        meta.map(|meta| Some(meta.len())).map_err(|error| error.entry(container))
    }

    fn append_footer(&self, container: &str, len: u64, unique_id: [u8; 16]) -> Result<()> {
        append(Path::new(container), len, unique_id).map_err(|error| error.entry(container))
    }

    fn write_beside(&self, container: &str, name: &str, text: &str) -> Result<()> {
        let path = Path::new(container).with_file_name(name);
        let written = OpenOptions::new().write(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        match written {
            Err(error) if error.kind() == IoKind::AlreadyExists => {
                Err(Error::new(ErrorKind::AlreadyExists, "the file beside the container is there already"))
            }
            done => done.during("write beside the container"),
        }
        .map_err(|error| error.entry(name))
    }
}

fn append(container: &Path, len: u64, unique_id: [u8; 16]) -> Result<()> {
    let opened = OpenOptions::new().read(true).write(true).open(container);
    let mut file = opened.during("open the container")?;
    let got = file.metadata().during("look at the container")?.len();
    if got != len {
        let kind = ErrorKind::SizeMismatch { expected: len, got };
        return Err(Error::new(kind, "the container was changed"));
    }
    Footer::append(&mut file, unique_id).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_appended_once_and_to_what_was_measured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.vhd");
        fs::write(&path, [7; 1000]).unwrap();
        let container = path.to_str().unwrap();
        assert_eq!(HostFiles.size(container).unwrap(), Some(1000));
        let short = HostFiles.append_footer(container, 999, [9; 16]).unwrap_err();
        assert_eq!(short.kind(), &ErrorKind::SizeMismatch { expected: 999, got: 1000 });
        HostFiles.append_footer(container, 1000, [9; 16]).unwrap();
        let footer = Footer { size: 1000, unique_id: [9; 16] };
        assert_eq!(fs::read(&path).unwrap()[1000..], footer.to_bytes());
        let again = HostFiles.append_footer(container, 1512, [9; 16]).unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::AlreadyExists);
        assert_eq!(HostFiles.size(container).unwrap(), Some(1512));
    }

    #[test]
    fn what_is_beside_a_container_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.vhd");
        let container = path.to_str().unwrap();
        HostFiles.write_beside(container, "integrity_checksum", "00ff").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("integrity_checksum")).unwrap(), "00ff");
        let again = HostFiles.write_beside(container, "integrity_checksum", "11").unwrap_err();
        assert_eq!(again.kind(), &ErrorKind::AlreadyExists);
    }
}
