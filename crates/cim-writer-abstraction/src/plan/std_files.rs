//! The files that a layer keeps in its directory, too: hives, and what a utility VM boots from.

use crate::{CimPath, CimProfile, hive::HIVES, path::PathKey};

const CONFIG: &str = r"Files\Windows\System32\config";
const HIVES_DIR: &str = "Hives";
/// Compared exactly by hcsshim, other than the two above.
const UTILITY_VM: [&str; 4] = [
    r"UtilityVM\Files\Windows\System32\config\SYSTEM",
    r"UtilityVM\Files\Windows\System32\config\SOFTWARE",
    r"UtilityVM\Files\EFI\Microsoft\Boot\BCD",
    r"UtilityVM\Files\EFI\Microsoft\Boot\bootmgfw.efi",
];

/// The table of those files.
#[derive(Debug)]
pub(super) struct StdFiles {
    files: Vec<(PathKey, StdFile)>,
    profile: CimProfile,
}

/// One of those files.
#[derive(Clone, Debug)]
pub(super) struct StdFile {
    /// Its path as the table spells it: that of the file in the layer directory.
    pub(super) path: CimPath,
    /// Whether it is what a layer changes in a hive, which a base layer has no use for.
    pub(super) is_delta: bool,
}

impl StdFiles {
    pub(super) fn new(profile: CimProfile) -> Self {
        let hives = HIVES.iter().map(|hive| (format!(r"{CONFIG}\{}", hive.name), false));
        let deltas = HIVES.iter().map(|hive| (format!(r"{HIVES_DIR}\{}", hive.delta), true));
        let utility_vm = UTILITY_VM.iter().map(|path| ((*path).to_owned(), false));
        let files = hives.chain(deltas).chain(utility_vm).map(|(path, is_delta)| {
            let path = known(&path);
            (path.key(), StdFile { path, is_delta })
        });
        Self { files: files.collect(), profile }
    }

    /// The file at `path`, if it is one of them.
    pub(super) fn find(&self, path: &CimPath, key: &PathKey) -> Option<&StdFile> {
        let (_, file) = self.files.iter().find(|(known, _)| known == key)?;
        let exact = self.profile == CimProfile::Hcsshim && file.path.starts_with(&known("UtilityVM"));
        (!exact || file.path == *path).then_some(file)
    }
}

/// The hive `name` in a base layer.
pub(super) fn config(name: &str) -> CimPath {
    known(&format!(r"{CONFIG}\{name}"))
}

/// The file `name` among the hives of a layer.
pub(super) fn hive(name: &str) -> CimPath {
    known(&format!(r"{HIVES_DIR}\{name}"))
}

/// The directory of a layer's hives.
pub(super) fn hives_dir() -> CimPath {
    known(HIVES_DIR)
}

/// A path of this file, or made of one of its names.
pub(super) fn known(path: &str) -> CimPath {
    CimPath::new(path).expect("paths of the table are well formed")
}
