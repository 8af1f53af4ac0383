//! What the results of calls mean.

use std::fmt;

use layer_model::{Error, ErrorKind};

/// A result code of Windows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HResult(pub i32);

/// The facility of Win32 error codes in an `HRESULT`, and the bits that tell.
const FACILITY_MASK: u32 = 0x1fff_0000;
const FACILITY_WIN32: u32 = 0x0007_0000;

impl HResult {
    /// Success.
    pub const OK: Self = Self(0);
    /// `E_INVALIDARG`.
    pub const INVALID_ARGUMENT: Self = Self::win32(87);
    /// `E_ACCESSDENIED`.
    pub const ACCESS_DENIED: Self = Self::win32(5);
    /// `E_POINTER`.
    pub const POINTER: Self = Self(0x8000_4003_u32 as i32);
    /// `ERROR_FILE_NOT_FOUND`.
    pub const FILE_NOT_FOUND: Self = Self::win32(2);
    /// `ERROR_PATH_NOT_FOUND`.
    pub const PATH_NOT_FOUND: Self = Self::win32(3);
    /// `ERROR_SHARING_VIOLATION`.
    pub const SHARING_VIOLATION: Self = Self::win32(32);
    /// `ERROR_HANDLE_EOF`.
    pub const HANDLE_EOF: Self = Self::win32(38);
    /// `ERROR_FILE_EXISTS`.
    pub const FILE_EXISTS: Self = Self::win32(80);
    /// `ERROR_PROC_NOT_FOUND`.
    pub const PROC_NOT_FOUND: Self = Self::win32(127);
    /// `ERROR_ALREADY_EXISTS`.
    pub const ALREADY_EXISTS: Self = Self::win32(183);
    /// `ERROR_CIMFS_IMAGE_CORRUPT`.
    pub const IMAGE_CORRUPT: Self = Self::win32(470);
    /// `ERROR_CIMFS_IMAGE_VERSION_NOT_SUPPORTED`.
    pub const VERSION_NOT_SUPPORTED: Self = Self::win32(471);

    /// The code for a Win32 error: `HRESULT_FROM_WIN32`.
    pub const fn win32(code: u16) -> Self {
        Self((0x8007_0000 | code as u32) as i32)
    }

    /// Whether the call failed.
    pub const fn is_err(self) -> bool {
        self.0 < 0
    }

    /// The Win32 error, of a failure that is one.
    pub const fn as_win32(self) -> Option<u16> {
        let bits = self.0 as u32;
        if self.is_err() && bits & FACILITY_MASK == FACILITY_WIN32 { Some(bits as u16) } else { None }
    }

    /// What a failure means. `None` for one of its own kind, and for what depends on the call.
    fn kind(self) -> Option<ErrorKind> {
        Some(match self {
            Self::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
            Self::SHARING_VIOLATION => ErrorKind::Busy,
            Self::PATH_NOT_FOUND | Self::FILE_NOT_FOUND => ErrorKind::NotFound,
            Self::FILE_EXISTS | Self::ALREADY_EXISTS => ErrorKind::AlreadyExists,
            Self::ACCESS_DENIED => ErrorKind::PermissionDenied,
            Self::IMAGE_CORRUPT => ErrorKind::CorruptImage,
            Self::VERSION_NOT_SUPPORTED => ErrorKind::UnsupportedVersion,
            Self::PROC_NOT_FOUND => ErrorKind::NotSupported,
            // The driver's own, as a status or made a result (bit 28).
            Self(code) => match code as u32 {
                0xc000_c001 | 0xd000_c001 => ErrorKind::CorruptImage,
                0xc000_c002 | 0xd000_c002 => ErrorKind::UnsupportedVersion,
                _ => return None,
            },
        })
    }

    /// The failure as an error: `call` was doing it, and `message` is what the system says about the code.
    pub fn error(self, call: &str, message: Option<String>) -> Error {
        let kind = self.kind().unwrap_or(match self.as_win32() {
            Some(code) => ErrorKind::Io(Some(i32::from(code))),
            None => ErrorKind::Io(Some(self.0)),
        });
        Error::new(kind, format!("{call} failed")).cause(Failure { code: self, message })
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_win32() {
            Some(code) => write!(f, "Windows error {code}"),
            None => write!(f, "result 0x{:08x}", self.0),
        }
    }
}

impl fmt::Debug for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HResult(0x{:08x})", self.0)
    }
}

/// The cause of an error that a call returned.
#[derive(Debug)]
struct Failure {
    code: HResult,
    message: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match &self.message {
            Some(message) => write!(f, ": {}", message.trim_end()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_windows() {
        for (code, bits) in [
            (HResult::INVALID_ARGUMENT, 0x8007_0057_u32),
            (HResult::ACCESS_DENIED, 0x8007_0005),
            (HResult::SHARING_VIOLATION, 0x8007_0020),
            (HResult::IMAGE_CORRUPT, 0x8007_01d6),
        ] {
            assert_eq!(code.0 as u32, bits);
        }
        assert_eq!(HResult::POINTER.as_win32(), None);
        assert_eq!(HResult(0x9007_0020_u32 as i32).as_win32(), None, "another facility");
        assert!(!HResult::OK.is_err() && !HResult(1).is_err());
    }

    #[test]
    fn every_documented_failure_has_its_kind() {
        for (code, kind) in [
            (HResult::INVALID_ARGUMENT, ErrorKind::InvalidArgument),
            (HResult::SHARING_VIOLATION, ErrorKind::Busy),
            (HResult::PATH_NOT_FOUND, ErrorKind::NotFound),
            (HResult::FILE_NOT_FOUND, ErrorKind::NotFound),
            (HResult::FILE_EXISTS, ErrorKind::AlreadyExists),
            (HResult::ALREADY_EXISTS, ErrorKind::AlreadyExists),
            (HResult::ACCESS_DENIED, ErrorKind::PermissionDenied),
            (HResult::IMAGE_CORRUPT, ErrorKind::CorruptImage),
            (HResult::VERSION_NOT_SUPPORTED, ErrorKind::UnsupportedVersion),
            (HResult::PROC_NOT_FOUND, ErrorKind::NotSupported),
            (HResult(0xc000_c001_u32 as i32), ErrorKind::CorruptImage),
            (HResult(0xd000_c002_u32 as i32), ErrorKind::UnsupportedVersion),
            (HResult::win32(112), ErrorKind::Io(Some(112))),
            (HResult::POINTER, ErrorKind::Io(Some(0x8000_4003_u32 as i32))),
        ] {
            assert_eq!(code.error("CimCreateFile", None).kind(), &kind, "{code:?}");
        }
    }

    #[test]
    fn the_story_has_the_call_the_code_and_what_the_system_says() {
        let error = HResult::SHARING_VIOLATION.error("CimCommitImage", Some("It is in use.\r\n".into()));
        assert_eq!(error.chain(), "CimCommitImage failed: Windows error 32: It is in use.");
    }
}
