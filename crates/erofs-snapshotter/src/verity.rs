//! fs-verity: the kernel checks a file against a digest whenever it is read.

mod kernel;

use std::{fs::File, io::BufReader, path::Path};

use erofs_format::{FsVerityHash, fsverity_digest};
use layer_apply::erofs_error;
use layer_model::{Error, ErrorKind, Result};
use rustix::io::Errno;

use crate::sys::{failed, named};

/// The digest that the kernel will measure: sha256, blocks of 4096 bytes, no salt.
pub(crate) fn digest(file: &File, path: &Path) -> Result<String> {
    let mut content = BufReader::with_capacity(1 << 20, file);
    let digest = fsverity_digest(&mut content, FsVerityHash::Sha256, &[])
        .map_err(|error| named(erofs_error(error), path))?;
    Ok(hex(&digest))
}

/// Protects a file from now on. One that is protected already stays as it is.
pub(crate) fn enable(file: &File, path: &Path) -> Result<()> {
    match kernel::enable(file) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(translate(error, "protect with fs-verity", path)),
    }
}

/// Compares what the kernel checks the file against with the digest expected.
pub(crate) fn check(file: &File, expected: &str, path: &Path) -> Result<()> {
    let measured = match kernel::measure(file) {
        Ok(measured) => measured,
        Err(Errno::NODATA) => {
            let message = "the image is not protected with fs-verity";
            return Err(named(Error::new(ErrorKind::FailedPrecondition, message), path));
        }
        Err(error) => return Err(translate(error, "measure with fs-verity", path)),
    };
    compare(measured.sha256(), expected, path)
}

fn compare(measured: Option<&[u8]>, expected: &str, path: &Path) -> Result<()> {
    let Some(measured) = measured else {
        let message = "the image is protected with another hash than sha256";
        return Err(named(Error::new(ErrorKind::FailedPrecondition, message), path));
    };
    let measured = hex(measured);
    if measured == expected {
        return Ok(());
    }
    let message = format!("the image has the fs-verity digest {measured}, not {expected}");
    Err(named(Error::new(ErrorKind::FailedPrecondition, message), path))
}

fn translate(error: Errno, operation: &str, path: &Path) -> Error {
    match error {
        Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS => {
            let error = Error::new(ErrorKind::NotSupported, "the file system has no fs-verity").cause(error);
            named(error.context(operation), path)
        }
        error => failed(operation, path, error),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_that_the_kernel_measures() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("f");
        std::fs::write(&path, "").unwrap();
        // What `fsverity digest` prints for an empty file.
        let empty = "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95";
        assert_eq!(digest(&File::open(&path).unwrap(), &path).unwrap(), empty);
    }

    #[test]
    fn another_digest_or_hash_is_told() {
        let path = Path::new("/l");
        assert!(compare(Some(&[0xab, 1]), "ab01", path).is_ok());
        for (measured, words) in [(Some(&[0xab, 2][..]), "digest ab02, not ab01"), (None, "another hash")] {
            let error = compare(measured, "ab01", path).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_file_system_without_it_says_so() {
        // No file of this one can ever be protected.
        let file = File::open("/proc/self/status").unwrap();
        let path = Path::new("/proc/self/status");
        assert_eq!(enable(&file, path).unwrap_err().kind(), &ErrorKind::NotSupported);
        assert_eq!(check(&file, "", path).unwrap_err().kind(), &ErrorKind::NotSupported);
    }
}
