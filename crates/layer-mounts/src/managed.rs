//! Options that the mount manager takes for itself: `X-containerd.*`.

use layer_model::{Error, ErrorKind, Result};

/// What the names of such options start with.
pub const PREFIX: &str = "X-containerd.";

/// The mode of a directory that is made without one being said.
pub const DEFAULT_DIR_MODE: u32 = 0o700;

/// An option for the mount manager.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Managed {
    /// `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`: a directory to make.
    Mkdir(Mkdir),
    /// `X-containerd.mkfs.fs=NAME`: the file system to make.
    MkfsType(String),
    /// `X-containerd.mkfs.size=BYTES`: how large, in bytes.
    MkfsSize(u64),
    /// `X-containerd.dmverity=PATH`: the file with the root hash of a dm-verity device.
    DmVerity(String),
    /// Another one.
    Other(String),
}

/// A directory that the mount manager makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mkdir {
    /// Where; may hold a template.
    pub path: String,
    /// Its mode.
    pub mode: u32,
    /// User and group, [`None`] for those of the manager.
    pub owner: Option<(u32, u32)>,
}

/// Takes an option apart; [`None`] when it is not for the manager.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for a value that has not the form of its option.
pub fn parse(option: &str) -> Result<Option<Managed>> {
    let Some(rest) = option.strip_prefix(PREFIX) else { return Ok(None) };
    let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
    let bad = || Error::new(ErrorKind::InvalidArgument, format!("unusable mount option {option:?}"));
    Ok(Some(match name {
        "mkdir.path" => Managed::Mkdir(parse_mkdir(value).ok_or_else(bad)?),
        "mkfs.fs" => Managed::MkfsType(value.to_owned()),
        "mkfs.size" => Managed::MkfsSize(parse_size(value).ok_or_else(bad)?),
        "dmverity" => Managed::DmVerity(value.to_owned()),
        _ => Managed::Other(option.to_owned()),
    }))
}

/// One, two or four parts: a user without a group is nothing.
fn parse_mkdir(value: &str) -> Option<Mkdir> {
    let parts: Vec<&str> = value.split(':').collect();
    let (path, mode, owner) = match parts.as_slice() {
        [path] => (path, None, None),
        [path, mode] => (path, Some(mode), None),
        [path, mode, user, group] => (path, Some(mode), Some((decimal(user)?, decimal(group)?))),
        _ => return None,
    };
    let mode = match mode {
        Some(mode) if is_digits(mode) => u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777)?,
        Some(_) => return None,
        None => DEFAULT_DIR_MODE,
    };
    (!path.is_empty()).then(|| Mkdir { path: (*path).to_owned(), mode, owner })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn decimal(text: &str) -> Option<u32> {
    is_digits(text).then(|| text.parse().ok()).flatten()
}

/// A number of bytes with a unit: `20GiB`, `1.5g`, `4096`. All units are powers of 1024, as in the `go-units`
/// that containerd uses (`RAMInBytes`).
fn parse_size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim_start_matches(' ').to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine digits are finer than any unit needs, and cannot overflow below.
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = (fraction.parse::<u128>().ok()? << shift) / scale;
    whole.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mkdir(value: &str) -> Result<Option<Managed>> {
        parse(&format!("X-containerd.mkdir.path={value}"))
    }

    #[test]
    fn a_directory_has_a_mode_and_maybe_an_owner() {
        let made = |path: &str, mode, owner| Some(Managed::Mkdir(Mkdir { path: path.into(), mode, owner }));
        assert_eq!(mkdir("/p").unwrap(), made("/p", 0o700, None));
        assert_eq!(mkdir("{{ mount 0 }}/upper:0755").unwrap(), made("{{ mount 0 }}/upper", 0o755, None));
        assert_eq!(mkdir("/p:1777:0:1000").unwrap(), made("/p", 0o1777, Some((0, 1000))));
    }

    #[test]
    fn a_directory_of_three_parts_is_invalid() {
        for bad in [
            "/p:0755:1000",
            "/p:0755:1000:1000:1",
            "",
            ":0755",
            "/p:",
            "/p:9",
            "/p:+7",
            "/p:17777",
            "/p:7:a:b",
        ] {
            assert_eq!(mkdir(bad).unwrap_err().kind(), &ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let size = |value: &str| match parse(&format!("X-containerd.mkfs.size={value}")) {
            Ok(Some(Managed::MkfsSize(size))) => Some(size),
            _ => None,
        };
        for (text, bytes) in
            [("4096", 4096), ("20GiB", 20 << 30), ("64m", 64 << 20), ("1.5 kB", 1536), ("0", 0)]
        {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for bad in ["", "GiB", "-1", "1.2.3", "1.", "20EiB", "99999999999999999999", "17179869184g", "0x10"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_options_are_left_alone() {
        assert_eq!(parse("rw").unwrap(), None);
        assert_eq!(parse("X-containerd.dmverity=/p=q").unwrap(), Some(Managed::DmVerity("/p=q".into())));
        let unknown = "X-containerd.new=1";
        assert_eq!(parse(unknown).unwrap(), Some(Managed::Other(unknown.into())));
    }
}
