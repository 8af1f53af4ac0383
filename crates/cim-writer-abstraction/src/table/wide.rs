//! Strings as the API takes them.

use std::ptr;

use layer_model::{Error, ErrorKind, Result};

use super::raw::Pcwstr;
use crate::{CimName, CimPath, StreamName, path::utf16};

/// A wide string that ends in a NUL.
#[derive(Debug)]
pub(super) struct Wide(Vec<u16>);

impl Wide {
    fn terminated(mut units: Vec<u16>) -> Result<Self> {
        if let Some(at) = units.iter().position(|unit| *unit == 0) {
            let what = "a string with a NUL in it";
            return Err(Error::new(ErrorKind::InvalidArgument, what).offset(at as u64));
        }
        units.push(0);
        Ok(Self(units))
    }

    /// A path of the host: a directory, a container.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when it is empty, which the API takes for something else, or has a NUL.
    pub(super) fn host(path: &str) -> Result<Self> {
        if path.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "the path of the container is empty"));
        }
        Self::terminated(utf16(path.as_bytes())).map_err(|error| error.entry(path))
    }

    pub(super) fn name(name: &CimName) -> Result<Self> {
        Self::terminated(utf16(name.as_str().as_bytes()))
    }

    /// A path in an image. [`CimPath`] has no trailing backslash, on which the writer of Windows fails.
    pub(super) fn path(path: &CimPath) -> Result<Self> {
        Self::terminated(path.to_utf16())
    }

    /// `path:name`.
    pub(super) fn stream(of: &CimPath, name: &StreamName) -> Result<Self> {
        let mut units = of.to_utf16();
        units.push(u16::from(b':'));
        units.extend(name.to_utf16());
        Self::terminated(units)
    }

    /// `container\name`.
    pub(super) fn joined(container: &str, name: &CimName) -> Result<Self> {
        let container = container.strip_suffix('\\').unwrap_or(container);
        Self::host(&format!("{container}\\{name}"))
    }

    pub(super) fn as_ptr(&self) -> Pcwstr {
        self.0.as_ptr()
    }

    /// NULL for [`None`]: to the API an empty string is something else.
    pub(super) fn or_null(wide: Option<&Self>) -> Pcwstr {
        wide.map_or(ptr::null(), Self::as_ptr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(wide: &Wide) -> String {
        String::from_utf16(&wide.0).unwrap()
    }

    #[test]
    fn strings_end_in_one_nul_and_have_no_other() {
        assert_eq!(text(&Wide::host("C:\\cims").unwrap()), "C:\\cims\0");
        assert!(Wide::host("").is_err());
        assert_eq!(Wide::host("a\0b").unwrap_err().byte_offset(), Some(1));
    }

    #[test]
    fn nothing_is_null_and_not_empty() {
        assert!(Wide::or_null(None).is_null());
        let name = Wide::name(&CimName::new("1.cim").unwrap()).unwrap();
        assert_eq!(Wide::or_null(Some(&name)), name.as_ptr());
    }

    #[test]
    fn streams_and_images_in_containers_are_spelled_in_one_string() {
        let path = CimPath::new("Files\\f").unwrap();
        assert_eq!(text(&Wide::stream(&path, &StreamName::new("s:$DATA").unwrap()).unwrap()), "Files\\f:s\0");
        let name = CimName::new("layer.cim").unwrap();
        for container in ["C:\\s\\1\\layer.vhd", "C:\\s\\1\\layer.vhd\\"] {
            assert_eq!(text(&Wide::joined(container, &name).unwrap()), "C:\\s\\1\\layer.vhd\\layer.cim\0");
        }
    }

    #[test]
    fn surrogates_without_a_partner_are_handed_over_as_they_are() {
        let path = CimPath::from_utf16(&[0x61, 0xd800]).unwrap();
        assert_eq!(Wide::path(&path).unwrap().0, [0x61, 0xd800, 0]);
    }
}
