//! What CimFS of the machine at hand can do, as tokens.
//!
//! Windows grew CIMs bit by bit, and a function that is missing or ignored is found out late. A constructor that
//! needs a feature therefore takes the feature's token, and tokens come from [`Capabilities`] alone: of the running
//! Windows ([`Capabilities::probe`]), or of a back end that does without it ([`Capabilities::emulated`]).
//!
//! The gates are those of hcsshim, and the functions needed have to be there as well: a build number says when a
//! function was announced, not that this DLL has it.

use std::fmt;

use layer_model::{Error, ErrorKind, Result};

/// The version of Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct OsVersion {
    /// The major version: 10 since Windows 10.
    pub major: u32,
    /// The minor version.
    pub minor: u32,
    /// The build.
    pub build: u32,
    /// The update build revision (`UBR`).
    pub revision: u32,
}

impl fmt::Display for OsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.major, self.minor, self.build, self.revision)
    }
}

/// The first build whose `cimfs.dll` writes block CIMs. hcsshim calls the number a placeholder.
const BLOCK_BUILD: u32 = 27_766;
/// The first build whose `cimfs.dll` makes verified CIMs. A placeholder as well.
const VERIFIED_BUILD: u32 = 27_800;
/// The first build with forked CIMs for containers.
const FORKED_BUILD: u32 = 26_100;
/// Windows Server 2022, which got forked CIMs with an update.
const SERVER_2022: u32 = 20_348;
const SERVER_2022_REVISION: u32 = 2_031;
/// The first build with CimFS at all.
const CIMFS_BUILD: u32 = 19_041;

macro_rules! tokens {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(());
    )*};
}

tokens! {
    /// Standard CIMs can be written, and forked from one another.
    CanFork;
    /// Block CIMs can be written.
    CanWriteBlocks;
    /// Verified block CIMs can be written, sealed, and asked for their digest.
    CanVerify;
    /// Block CIMs can be merged on disk.
    CanMerge;
    /// CIMs can be mounted one by one, and dismounted.
    CanMount;
    /// Merged block CIMs can be mounted with their sources.
    CanMountMerged;
    /// Verified CIMs can be mounted against their root digest.
    CanMountVerified;
    /// Registry hives can be merged.
    CanMergeHives;
}

/// Which of the tokens there are, and why the others are not.
///
/// ```
/// use cim_writer_abstraction::Capabilities;
///
/// let here = Capabilities::probe();
/// if let Err(error) = here.write_blocks() {
///     println!("no block CIMs: {error}");
/// }
/// // A journal or the emulator can do everything anywhere.
/// assert!(Capabilities::emulated().write_blocks().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    os: Option<OsVersion>,
    fork: Gate,
    write_blocks: Gate,
    verify: Gate,
    merge: Gate,
    mount: Gate,
    mount_merged: Gate,
    mount_verified: Gate,
    merge_hives: Gate,
}

/// Open, or the reason why not.
type Gate = Result<(), Box<str>>;

/// What a probe found: input of [`Capabilities::judge`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Found<'a> {
    /// The version of the system.
    pub os: OsVersion,
    /// The exports of `cimfs.dll` that are there, [`None`] when the DLL is not.
    pub cimfs: Option<&'a [&'a str]>,
    /// The exports of `cimwriter.dll` that are there, [`None`] when the DLL is not.
    pub cimwriter: Option<&'a [&'a str]>,
    /// The exports of `offreg.dll` that are there, [`None`] when the DLL is not.
    pub offreg: Option<&'a [&'a str]>,
}

impl<'a> Found<'a> {
    /// A system of this version without any of the DLLs.
    pub fn new(os: OsVersion) -> Self {
        Self { os, cimfs: None, cimwriter: None, offreg: None }
    }

    /// With a `cimfs.dll` that has these exports.
    #[must_use]
    pub fn cimfs(mut self, exports: &'a [&'a str]) -> Self {
        self.cimfs = Some(exports);
        self
    }

    /// With a `cimwriter.dll` that has these exports.
    #[must_use]
    pub fn cimwriter(mut self, exports: &'a [&'a str]) -> Self {
        self.cimwriter = Some(exports);
        self
    }

    /// With an `offreg.dll` that has these exports.
    #[must_use]
    pub fn offreg(mut self, exports: &'a [&'a str]) -> Self {
        self.offreg = Some(exports);
        self
    }
}

/// Functions without which nothing can be written.
const WRITE: &[&str] = &[
    "CimCloseImage",
    "CimCommitImage",
    "CimCreateFile",
    "CimWriteStream",
    "CimCloseStream",
    "CimCreateHardLink",
];
const FORK: &[&str] = &["CimCreateImage", "CimCreateAlternateStream", "CimDeletePath"];
const BLOCK: &[&str] =
    &["CimCreateImage2", "CimCreateAlternateStream", "CimTombstoneFile", "CimCreateMergeLink"];
const MERGE: &[&str] = &["CimCreateImage2", "CimAddFsToMergedImage2"];
const VERIFY: &[&str] = &["CimSealImage", "CimGetVerificationInformation"];
const MOUNT: &[&str] = &["CimMountImage", "CimDismountImage"];
const MOUNT_MERGED: &[&str] = &["CimMergeMountImage", "CimDismountImage"];
const MOUNT_VERIFIED: &[&str] = &["CimMountVerifiedImage", "CimMergeMountVerifiedImage", "CimDismountImage"];
const HIVES: &[&str] = &["OROpenHive", "ORMergeHives", "ORSaveHive", "ORCloseHive"];

impl Capabilities {
    /// Everything, for back ends that do without Windows: journals, the model, the emulator.
    pub fn emulated() -> Self {
        Self {
            os: None,
            fork: Ok(()),
            write_blocks: Ok(()),
            verify: Ok(()),
            merge: Ok(()),
            mount: Ok(()),
            mount_merged: Ok(()),
            mount_verified: Ok(()),
            merge_hives: Ok(()),
        }
    }

    /// Nothing, because of `reason`.
    pub fn none(reason: impl Into<Box<str>>) -> Self {
        let no: Gate = Err(reason.into());
        Self {
            os: None,
            fork: no.clone(),
            write_blocks: no.clone(),
            verify: no.clone(),
            merge: no.clone(),
            mount: no.clone(),
            mount_merged: no.clone(),
            mount_verified: no.clone(),
            merge_hives: no,
        }
    }

    /// What the running system can do. Nothing anywhere but on Windows.
    #[cfg(not(windows))]
    pub fn probe() -> Self {
        Self::none("CimFS is part of Windows")
    }

    /// What a system on which a probe found this can do: the gates, as a pure function.
    pub fn judge(found: &Found<'_>) -> Self {
        let Found { os, cimfs, cimwriter, offreg } = *found;
        // The writer's DLL is asked first, as it is when functions are called; it works on every build.
        let (writer, newer) = match cimwriter {
            Some(exports) => (Dll { name: "cimwriter.dll", exports: Some(exports) }, true),
            None => (Dll { name: "cimfs.dll", exports: cimfs }, false),
        };
        let mounter = Dll { name: "cimfs.dll", exports: cimfs };
        let since = |build: u32| -> Gate {
            if newer || os.build >= build {
                return Ok(());
            }
            Err(format!("build {build} of Windows or cimwriter.dll is needed, this is build {}", os.build)
                .into())
        };
        let mounts_since = |build: u32| -> Gate {
            if os.build >= build {
                return Ok(());
            }
            Err(format!("build {build} of Windows is needed, this is build {}", os.build).into())
        };
        let forks =
            os.build >= FORKED_BUILD || (os.build == SERVER_2022 && os.revision >= SERVER_2022_REVISION);
        let fork = if forks {
            mounter.present().and_then(|()| writer.has(&[WRITE, FORK]))
        } else {
            let needed = format!("build {FORKED_BUILD}, or {SERVER_2022}.{SERVER_2022_REVISION}");
            Err(format!("{needed}, of Windows is needed, this is build {}.{}", os.build, os.revision).into())
        };
        Self {
            os: Some(os),
            fork,
            write_blocks: since(BLOCK_BUILD).and_then(|()| writer.has(&[WRITE, BLOCK])),
            verify: since(VERIFIED_BUILD).and_then(|()| writer.has(&[WRITE, BLOCK, VERIFY])),
            merge: since(BLOCK_BUILD).and_then(|()| writer.has(&[WRITE, MERGE])),
            mount: mounts_since(CIMFS_BUILD).and_then(|()| mounter.has(&[MOUNT])),
            mount_merged: mounts_since(BLOCK_BUILD).and_then(|()| mounter.has(&[MOUNT_MERGED])),
            mount_verified: mounts_since(VERIFIED_BUILD).and_then(|()| mounter.has(&[MOUNT_VERIFIED])),
            merge_hives: Dll { name: "offreg.dll", exports: offreg }.has(&[HIVES]),
        }
    }

    /// The version of the system that was probed, [`None`] for a back end that does without Windows.
    pub fn os(&self) -> Option<OsVersion> {
        self.os
    }

    /// The token for [forked CIMs](CanFork).
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn fork(&self) -> Result<CanFork> {
        open("forked CIMs", &self.fork).map(CanFork)
    }

    /// The token for [block CIMs](CanWriteBlocks).
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn write_blocks(&self) -> Result<CanWriteBlocks> {
        open("block CIMs", &self.write_blocks).map(CanWriteBlocks)
    }

    /// The token for [verified CIMs](CanVerify).
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn verify(&self) -> Result<CanVerify> {
        open("verified CIMs", &self.verify).map(CanVerify)
    }

    /// The token for [merging](CanMerge) on disk.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn merge(&self) -> Result<CanMerge> {
        open("merging of CIMs", &self.merge).map(CanMerge)
    }

    /// The token for [mounting](CanMount) one CIM.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn mount(&self) -> Result<CanMount> {
        open("mounting of CIMs", &self.mount).map(CanMount)
    }

    /// The token for [mounting a merged CIM](CanMountMerged).
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn mount_merged(&self) -> Result<CanMountMerged> {
        open("mounting of merged CIMs", &self.mount_merged).map(CanMountMerged)
    }

    /// The token for [mounting verified CIMs](CanMountVerified).
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn mount_verified(&self) -> Result<CanMountVerified> {
        open("mounting of verified CIMs", &self.mount_verified).map(CanMountVerified)
    }

    /// The token for [merging hives](CanMergeHives).
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] with the reason.
    pub fn merge_hives(&self) -> Result<CanMergeHives> {
        open("merging of registry hives", &self.merge_hives).map(CanMergeHives)
    }
}

fn open(what: &str, gate: &Gate) -> Result<()> {
    match gate {
        Ok(()) => Ok(()),
        Err(reason) => Err(Error::new(ErrorKind::NotSupported, format!("no {what} here: {reason}"))),
    }
}

struct Dll<'a> {
    name: &'a str,
    exports: Option<&'a [&'a str]>,
}

impl Dll<'_> {
    fn present(&self) -> Gate {
        self.has(&[])
    }

    fn has(&self, wanted: &[&[&str]]) -> Gate {
        let Some(exports) = self.exports else {
            return Err(format!("{} cannot be loaded", self.name).into());
        };
        match wanted.iter().copied().flatten().find(|name| !exports.contains(name)) {
            Some(missing) => Err(format!("{} has no {missing}", self.name).into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(build: u32, revision: u32) -> OsVersion {
        OsVersion { major: 10, minor: 0, build, revision }
    }

    fn all() -> Vec<&'static str> {
        [WRITE, FORK, BLOCK, MERGE, VERIFY, MOUNT, MOUNT_MERGED, MOUNT_VERIFIED].concat()
    }

    #[test]
    fn gates_open_with_the_builds_of_windows() {
        let exports = all();
        // build, revision; fork, blocks, verified, mounts of merged and of verified images
        for (build, revision, expected) in [
            (19_045, 0, [false, false, false, false, false]),
            (20_348, 2_030, [false, false, false, false, false]),
            (20_348, 2_031, [true, false, false, false, false]),
            (22_631, 9_999, [false, false, false, false, false]),
            (26_100, 1, [true, false, false, false, false]),
            (27_765, 0, [true, false, false, false, false]),
            (27_766, 0, [true, true, false, true, false]),
            (27_800, 0, [true, true, true, true, true]),
        ] {
            let caps = Capabilities::judge(&Found::new(on(build, revision)).cimfs(&exports));
            let got = [
                caps.fork().is_ok(),
                caps.write_blocks().is_ok() && caps.merge().is_ok(),
                caps.verify().is_ok(),
                caps.mount_merged().is_ok(),
                caps.mount_verified().is_ok(),
            ];
            assert_eq!(got, expected, "{build}.{revision}");
            assert!(caps.mount().is_ok());
        }
    }

    #[test]
    fn the_writers_dll_writes_on_every_build_but_mounts_nothing() {
        let exports = all();
        let caps = Capabilities::judge(&Found::new(on(20_348, 0)).cimwriter(&exports));
        assert!(caps.write_blocks().is_ok() && caps.verify().is_ok() && caps.merge().is_ok());
        assert!(caps.mount().is_err() && caps.mount_merged().is_err() && caps.mount_verified().is_err());
        // Forked CIMs need cimfs.dll whoever writes them.
        let newest = Capabilities::judge(&Found::new(on(28_000, 0)).cimwriter(&exports));
        assert!(newest.fork().unwrap_err().to_string().contains("cimfs.dll cannot be loaded"));
    }

    #[test]
    fn a_build_number_does_not_stand_in_for_a_function() {
        let exports: Vec<_> = all().into_iter().filter(|name| *name != "CimSealImage").collect();
        let caps = Capabilities::judge(&Found::new(on(28_000, 0)).cimfs(&exports));
        let error = caps.verify().unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::NotSupported);
        assert_eq!(error.message(), "no verified CIMs here: cimfs.dll has no CimSealImage");
        assert!(caps.write_blocks().is_ok());
    }

    #[test]
    fn hives_are_merged_where_the_offline_registry_is() {
        let found = Found::new(on(28_000, 0));
        assert!(Capabilities::judge(&found).merge_hives().is_err());
        assert!(Capabilities::judge(&found.offreg(HIVES)).merge_hives().is_ok());
    }

    #[cfg(not(windows))]
    #[test]
    fn nothing_can_be_done_without_windows_but_emulated() {
        assert_eq!(Capabilities::probe().fork().unwrap_err().kind(), &ErrorKind::NotSupported);
        assert!(Capabilities::emulated().fork().is_ok());
    }
}
