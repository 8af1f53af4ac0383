//! The markers: types without values, which handles and writers carry.

use std::fmt;

use layer_model::Result;

use crate::{
    Capabilities,
    caps::{CanVerify, CanWriteBlocks},
    mount::BlockCimType,
    op::{CimKind, CreateFlags, MergeFlags, MountFlags},
};

mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// Where an image is.
pub trait Storage: Sealed + Send + Sync + 'static {
    /// Its kind.
    const KIND: CimKind;
}

/// Where an image is that can be written. Devices are only read: they are files that a virtual machine was given.
pub trait WritableStorage: Storage {}

/// Where a block CIM is.
pub trait BlockStorage: Storage {
    /// What says so when it is created.
    const CREATE: CreateFlags;
    /// What says so when it is merged.
    const MERGE: MergeFlags;
    /// What says so when it is mounted.
    const MOUNT: MountFlags;
    /// What `blockCIMType=` says.
    const TYPE: BlockCimType;
}

/// In a directory with the images that it was forked from, and those forked from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forked {}

/// In a file of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SingleFile {}

/// On a raw device: a file that was attached to a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {}

impl Sealed for Forked {}
impl Sealed for SingleFile {}
impl Sealed for Device {}

impl Storage for Forked {
    const KIND: CimKind = CimKind::Forked;
}

impl Storage for SingleFile {
    const KIND: CimKind = CimKind::Block;
}

impl Storage for Device {
    const KIND: CimKind = CimKind::Block;
}

impl WritableStorage for Forked {}
impl WritableStorage for SingleFile {}

impl BlockStorage for SingleFile {
    const CREATE: CreateFlags = CreateFlags::SINGLE_FILE;
    const MERGE: MergeFlags = MergeFlags::SINGLE_FILE;
    const MOUNT: MountFlags = MountFlags::SINGLE_FILE;
    const TYPE: BlockCimType = BlockCimType::File;
}

impl BlockStorage for Device {
    const CREATE: CreateFlags = CreateFlags::BLOCK_DEVICE;
    const MERGE: MergeFlags = MergeFlags::BLOCK_DEVICE;
    const MOUNT: MountFlags = MountFlags::BLOCK_DEVICE;
    const TYPE: BlockCimType = BlockCimType::Device;
}

/// Whether an image has a root digest.
pub trait Integrity: Sealed + Send + Sync + 'static {
    /// What a handle of such an image knows.
    type Evidence: Clone + fmt::Debug + PartialEq + Send + Sync;
    /// The token that writing one takes.
    type Token: Copy;
    /// Whether the image is sealed when it is closed.
    const SEALED: bool;
    /// What says so when it is created.
    const CREATE: CreateFlags;
    /// What says so when it is merged.
    const MERGE: MergeFlags;

    /// The token, where such images can be written.
    ///
    /// # Errors
    /// [`NotSupported`](layer_model::ErrorKind::NotSupported), with the reason.
    fn token(capabilities: &Capabilities) -> Result<Self::Token>;

    /// What is known of an image of which `digest` is known.
    fn evidence(digest: Option<RootDigest>) -> Self::Evidence;

    /// The digest that is known.
    fn digest(evidence: &Self::Evidence) -> Option<RootDigest>;
}

/// An image without a root digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unverified {}

/// An image with a hash tree, and the root digest in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verified {}

impl Sealed for Unverified {}
impl Sealed for Verified {}

impl Integrity for Unverified {
    type Evidence = ();
    type Token = CanWriteBlocks;
    const SEALED: bool = false;
    const CREATE: CreateFlags = CreateFlags::empty();
    const MERGE: MergeFlags = MergeFlags::empty();

    fn token(capabilities: &Capabilities) -> Result<Self::Token> {
        capabilities.write_blocks()
    }

    fn evidence(_: Option<RootDigest>) -> Self::Evidence {}

    fn digest((): &Self::Evidence) -> Option<RootDigest> {
        None
    }
}

impl Integrity for Verified {
    type Evidence = Option<RootDigest>;
    type Token = CanVerify;
    const SEALED: bool = true;
    const CREATE: CreateFlags = CreateFlags::VERIFIED;
    const MERGE: MergeFlags = MergeFlags::VERIFIED;

    fn token(capabilities: &Capabilities) -> Result<Self::Token> {
        capabilities.verify()
    }

    fn evidence(digest: Option<RootDigest>) -> Self::Evidence {
        digest
    }

    fn digest(evidence: &Self::Evidence) -> Option<RootDigest> {
        *evidence
    }
}

/// The root digest of a sealed image.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootDigest(pub [u8; 32]);

impl RootDigest {
    /// Takes 64 hexadecimal digits, as the file `integrity_checksum` has them, or the 44 characters of URL-safe base64
    /// that it had in 2025.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = match text.len() {
            64 => {
                let digits = text.as_bytes().chunks_exact(2).map(|pair| str::from_utf8(pair).ok());
                let bytes = digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()));
                // from_str_radix takes a sign
                text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| bytes.collect::<Option<Vec<u8>>>())?
            }
            44 => crate::base64::decode(text.replace('-', "+").replace('_', "/").as_bytes()),
            _ => None,
        };
        bytes?.try_into().ok().map(Self)
    }
}

impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::content::hex(&self.0))
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a layer has parents.
pub trait Role: Sealed {}

/// A layer without parents, which brings the hives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BaseRole {}

/// A layer on top of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildRole {}

impl Sealed for BaseRole {}
impl Sealed for ChildRole {}
impl Role for BaseRole {}
impl Role for ChildRole {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_both_spellings() {
        let digest = RootDigest([0xfb; 32]);
        assert_eq!(RootDigest::parse(&digest.to_string()), Some(digest));
        let base64 = format!("{}-_s=", "-_v7".repeat(10));
        assert_eq!(RootDigest::parse(&base64).map(|digest| digest.0[..2].to_vec()), Some(vec![0xfb, 0xfb]));
        for bad in ["", "00", &"+1".repeat(32), &"x".repeat(44)] {
            assert_eq!(RootDigest::parse(bad), None, "{bad}");
        }
    }
}
