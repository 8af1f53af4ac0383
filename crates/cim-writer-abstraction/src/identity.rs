//! What mounted CIMs are known by: a volume, whose GUID the runtime makes from the container's id.

use layer_model::{Error, ErrorKind, Result};

use crate::Guid;

/// The namespace in which containerd's shim for Windows (`internal/layers` of hcsshim) hashes container ids.
pub const CONTAINER_NAMESPACE: Guid = Guid::from_rfc([
    0x68, 0x27, 0x36, 0x7b, 0xc3, 0x88, 0x4e, 0x9b, 0x96, 0x1c, 0x6d, 0x2c, 0x93, 0x6c, 0x00, 0x00,
]);

/// The volume on which a container's layers are mounted; the Host Compute Service is given it as the layer's id.
pub fn container_guid(container_id: &str) -> Guid {
    Guid::v5(CONTAINER_NAMESPACE, container_id.as_bytes())
}

/// The path of a volume: `\\?\Volume{guid}\`.
pub fn volume_path(volume: Guid) -> String {
    format!("\\\\?\\Volume{{{volume}}}\\")
}

/// The volume of such a path, with or without the backslash at its end.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`] for any other path.
pub fn parse_volume_path(path: &str) -> Result<Guid> {
    let guid = path.strip_prefix(r"\\?\Volume").map(|rest| rest.strip_suffix('\\').unwrap_or(rest));
    let guid = guid.filter(|rest| rest.starts_with('{')).and_then(|rest| rest.parse().ok());
    guid.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "not the path of a volume").entry(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_volume_is_the_one_that_the_runtime_makes() {
        let guid = container_guid("test-container");
        assert_eq!(guid.to_string(), "78b0c2aa-fcc1-5e50-813f-eb0574f209a5");
        assert_eq!(volume_path(guid), r"\\?\Volume{78b0c2aa-fcc1-5e50-813f-eb0574f209a5}\");
        assert_eq!(CONTAINER_NAMESPACE.to_string(), "6827367b-c388-4e9b-961c-6d2c936c0000");
    }

    #[test]
    fn the_volume_of_a_path_comes_back() {
        let guid = container_guid("x");
        assert_eq!(parse_volume_path(&volume_path(guid)).unwrap(), guid);
        assert_eq!(parse_volume_path(volume_path(guid).trim_end_matches('\\')).unwrap(), guid);
        for bad in
            ["", r"\\?\Volume", r"C:\", r"\\?\Volume{}\", r"\\?\Volume78b0c2aa-fcc1-5e50-813f-eb0574f209a5\"]
        {
            assert!(parse_volume_path(bad).is_err(), "{bad}");
        }
    }
}
