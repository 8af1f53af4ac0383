//! Mounting: which call, with which flags.

use layer_model::{Digest, Error, ErrorKind, Result};

use super::{
    CimApi, HResult,
    api::{call, missing},
    raw::{ImagePath, RawGuid},
    wide::Wide,
};
use crate::{CimName, Guid, content::hex, op::MountFlags};

/// An image, by where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRef<'a> {
    /// Its directory, or its container: a path of the host.
    pub container: &'a str,
    /// Its name in there.
    pub name: &'a CimName,
}

/// What is known about an image before it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// It is not verified.
    Unverified,
    /// It is verified, and whatever its root digest is will do.
    Verified,
    /// It is verified, and has this root digest.
    Root([u8; 32]),
}

/// What is mounted, and how.
#[derive(Clone, Debug)]
pub struct Mount<'a> {
    images: Vec<ImageRef<'a>>,
    flags: MountFlags,
    trust: Trust,
}

impl<'a> Mount<'a> {
    /// One image. `flags` say what holds it, and what is cached.
    pub fn one(image: ImageRef<'a>, flags: MountFlags) -> Self {
        Self { images: vec![image], flags, trust: Trust::Unverified }
    }

    /// A merged image with the images that were merged, in the same order: topmost first.
    pub fn merged(
        merged: ImageRef<'a>,
        sources: impl IntoIterator<Item = ImageRef<'a>>,
        flags: MountFlags,
    ) -> Self {
        let images = std::iter::once(merged).chain(sources).collect();
        Self { images, flags, trust: Trust::Unverified }
    }

    /// What is known about the image, or the merged one.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// The flags of the call: [`MountFlags::VERIFIED`] is for the plain one alone.
    fn checked_flags(&self) -> Result<u32> {
        let refuse = |what: &str| Err(Error::new(ErrorKind::InvalidArgument, what));
        if self.flags.contains(MountFlags::VERIFIED) {
            return refuse("whether an image is verified is no matter of flags");
        }
        if self.flags.contains(MountFlags::CHILD_ONLY) {
            return refuse("mounting the leaf of a fork alone was never implemented by Windows");
        }
        if self.flags.contains(MountFlags::SINGLE_FILE | MountFlags::BLOCK_DEVICE) {
            return refuse("a container is a file or a device, not both");
        }
        let is_block = self.flags.intersects(MountFlags::SINGLE_FILE | MountFlags::BLOCK_DEVICE);
        if !is_block && (self.trust != Trust::Unverified || self.images.len() > 1) {
            return refuse("standard CIMs are neither verified nor merged");
        }
        if self.images.len() == 2 {
            return refuse("a merged image has two sources or more");
        }
        let flags = match (self.trust, self.images.len()) {
            (Trust::Verified, 1) => self.flags | MountFlags::VERIFIED,
            (Trust::Verified, _) => return refuse("a merged verified image is mounted with its root digest"),
            _ => self.flags,
        };
        Ok(flags.bits())
    }
}

impl CimApi {
    /// Mounts an image as the volume `\\?\Volume{volume}\`. Needs an elevated process.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the volume is there, [`ErrorKind::NotFound`] when the image is not,
    /// [`ErrorKind::DigestMismatch`] when it has another root digest, [`ErrorKind::PermissionDenied`].
    pub fn mount(&self, volume: Guid, mount: &Mount<'_>) -> Result<()> {
        let flags = mount.checked_flags()?;
        let volume = raw(volume);
        let first = mount.images.first().map_or("", |image| image.container);
        let strings =
            mount.images.iter().map(|image| Ok((Wide::host(image.container)?, Wide::name(image.name)?)));
        let strings = strings.collect::<Result<Vec<_>>>()?;
        let paths: Vec<_> =
            strings.iter().map(|(dir, name)| ImagePath { dir: dir.as_ptr(), name: name.as_ptr() }).collect();
        let count = paths.len() as u32; // a stack of that many layers has no names for them
        let done = match (&paths[..], mount.trust) {
            ([image], Trust::Unverified | Trust::Verified) => {
                call!(self, mount_image, "CimMountImage"(image.dir, image.name, flags, &volume))
            }
            ([image], Trust::Root(root)) => {
                let (size, root) = (root.len() as u16, root.as_ptr());
                call!(
                    self,
                    mount_verified_image,
                    "CimMountVerifiedImage"(image.dir, image.name, flags, &volume, size, root)
                )
            }
            (_, Trust::Root(root)) => {
                let (size, root) = (root.len() as u16, root.as_ptr());
                call!(
                    self,
                    merge_mount_verified_image,
                    "CimMergeMountVerifiedImage"(count, paths.as_ptr(), flags, &volume, size, root)
                )
            }
            _ => call!(self, merge_mount_image, "CimMergeMountImage"(count, paths.as_ptr(), flags, &volume)),
        };
        done.map_err(|error| self.integrity(error, first, mount.trust)).map_err(|error| error.entry(first))
    }

    /// Takes the volume away. Needs an elevated process.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a volume that is not there.
    pub fn dismount(&self, volume: Guid) -> Result<()> {
        call!(self, dismount_image, "CimDismountImage"(&raw(volume)))
    }

    /// A wrong root digest has no code of its own that is public, but Windows says what it is.
    fn integrity(&self, error: Error, container: &str, trust: Trust) -> Error {
        let (Trust::Root(expected), ErrorKind::Io(Some(code))) = (trust, error.kind()) else { return error };
        let code = u16::try_from(*code).map_or(HResult(*code), HResult::win32);
        let message = self.message(code).unwrap_or_default().to_ascii_lowercase();
        if !message.contains("integrity violation") {
            return error;
        }
        let what = "the image has another root digest";
        match self.verification(container).ok().and_then(|found| found.root) {
            Some(got) if got != expected => {
                let (expected, got) = (root_digest(expected), root_digest(got));
                Error::new(ErrorKind::DigestMismatch { expected, got }, what).cause(error)
            }
            // The digest is as expected, what it is of is not.
            _ => {
                Error::new(ErrorKind::CorruptImage, "the image is not what its root digest says").cause(error)
            }
        }
    }
}

/// The root of the hash tree in the notation of digests: its nodes are SHA-256.
fn root_digest(root: [u8; 32]) -> Digest {
    format!("sha256:{}", hex(&root)).parse().expect("64 hex digits are a digest")
}

fn raw(guid: Guid) -> RawGuid {
    let b = guid.to_rfc();
    RawGuid {
        data1: u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
        data2: u16::from_be_bytes([b[4], b[5]]),
        data3: u16::from_be_bytes([b[6], b[7]]),
        data4: [b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]],
    }
}
