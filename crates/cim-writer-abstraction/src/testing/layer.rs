//! A layer in memory, made entry by entry.

use layer_model::{Silent, road};
use layer_tar::{TarSink, WriteOptions};

use super::{EventList, OwnedContent, OwnedEvent};
use crate::{
    Attributes, CimPath, FileMeta, FileTime, StreamName,
    ea::{self, Ea},
    reparse::Link,
    security::sddl,
    wcow::WcowChanges,
};

/// A layer of Windows in memory, made entry by entry in the order of an archive. Paths have slashes or backslashes.
///
/// Everything panics on what no layer can have: a test says what it means.
///
/// ```
/// use cim_writer_abstraction::testing::WcowLayer;
///
/// let layer = WcowLayer::base().file("Files/a.txt", "hello").stream("Zone.Identifier", "zone").remove("Files/b");
/// let tar = layer.tar();
/// assert_eq!(tar.len() % 512, 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct WcowLayer {
    events: Vec<OwnedEvent>,
}

/// The registry hives below `Files\Windows\System32\config`.
const HIVES: [&str; 5] = ["SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT"];

/// Who may do what to an ordinary file.
const FILE_SDDL: &str = "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)";

impl WcowLayer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The smallest base layer: four directories and five hives of one byte each.
    #[must_use]
    pub fn base() -> Self {
        let dirs = ["Files", "Files/Windows", "Files/Windows/System32", "Files/Windows/System32/config"];
        let layer = dirs.into_iter().fold(Self::new(), |layer, dir| layer.dir(dir));
        HIVES.into_iter().fold(layer, |layer, hive| {
            let content = &hive.as_bytes()[..1];
            layer.file(&format!("Files/Windows/System32/config/{hive}"), content)
        })
    }

    /// A base layer with a utility VM: its boot files, its hives, and links to files of the layer.
    #[must_use]
    pub fn base_with_utility_vm() -> Self {
        let mut layer = Self::base().file("Files/Windows/System32/shared.dll", "shared");
        for dir in [
            "UtilityVM",
            "UtilityVM/Files",
            "UtilityVM/Files/Windows",
            "UtilityVM/Files/Windows/System32",
            "UtilityVM/Files/Windows/System32/config",
            "UtilityVM/Files/EFI",
            "UtilityVM/Files/EFI/Microsoft",
            "UtilityVM/Files/EFI/Microsoft/Boot",
        ] {
            layer = layer.dir(dir);
        }
        layer
            .file("UtilityVM/Files/Windows/System32/config/SYSTEM", "y")
            .file("UtilityVM/Files/Windows/System32/config/SOFTWARE", "o")
            .file("UtilityVM/Files/EFI/Microsoft/Boot/BCD", "bcd")
            .file("UtilityVM/Files/EFI/Microsoft/Boot/bootmgfw.efi", "boot")
            .link("UtilityVM/Files/Windows/System32/shared.dll", "Files/Windows/System32/shared.dll")
    }

    /// A child of [`WcowLayer::base_with_utility_vm`] with everything that a layer can have: changes of hives,
    /// streams, links before and behind their targets and into the parent, links and junctions, a sparse file,
    /// extended attributes, security descriptors, names beyond ASCII, removals.
    #[must_use]
    pub fn child() -> Self {
        Self::new()
            .dir("Hives")
            .file("Hives/SYSTEM_DELTA", "delta")
            .file("Hives/DEFAULTUSER_DELTA", "user")
            .dir("Files")
            .dir("Files/data")
            .sddl("O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)")
            .stream("of-a-directory", "d")
            .file("Files/data/a.txt", "content of a")
            .sddl(FILE_SDDL)
            .ea("SECOND", b"2")
            .ea("first", b"\0\xff")
            .stream("Zone.Identifier", "[ZoneTransfer]")
            .stream("empty", "")
            .link("Files/data/early", "Files/data/late.txt")
            .file("Files/data/late.txt", "late")
            .link("Files/data/again", "Files/data/a.txt")
            .link("Files/data/shared.dll", "Files/Windows/System32/shared.dll")
            .symlink("Files/data/relative", "..\\data\\a.txt")
            .symlink("Files/data/absolute", "C:\\Windows")
            .attributes(Attributes::DIRECTORY | Attributes::REPARSE_POINT)
            .junction("Files/data/junction", "C:\\data")
            .sparse("Files/data/sparse", 10_000, &[(0, b"begin"), (4096, b"middle"), (9_997, b"end")])
            .file("Files/data/gr\u{fc}n \u{2603}.txt", "g")
            .attributes(Attributes::READONLY | Attributes::HIDDEN | Attributes::ARCHIVE)
            .file("Files/data/empty", "")
            .remove("Files/data/gone")
            .remove("Files/Windows/gone.dll")
    }

    /// With a directory.
    #[must_use]
    pub fn dir(self, path: &str) -> Self {
        self.add(path, Attributes::DIRECTORY, OwnedContent::default())
    }

    /// With a file.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.add(path, Attributes::ARCHIVE, content.as_ref().into())
    }

    /// With a sparse file: `len` bytes, zero but for `data` at its offsets.
    #[must_use]
    pub fn sparse(self, path: &str, len: usize, data: &[(usize, &[u8])]) -> Self {
        let attributes = Attributes::ARCHIVE | Attributes::SPARSE_FILE;
        self.add(path, attributes, OwnedContent::sparse(len, data))
    }

    /// With a symbolic link to a file.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.reparse(path, target, false)
    }

    /// With a junction.
    #[must_use]
    pub fn junction(self, path: &str, target: &str) -> Self {
        self.reparse(path, target, true).edit(|meta| meta.attributes |= Attributes::DIRECTORY)
    }

    /// With a hard link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.events.push(OwnedEvent::Link { path: parse(path), target: parse(target) });
        self
    }

    /// With a removal.
    #[must_use]
    pub fn remove(mut self, path: &str) -> Self {
        self.events.push(OwnedEvent::Remove { path: parse(path) });
        self
    }

    /// With an opaque mark.
    #[must_use]
    pub fn opaque(mut self, path: &str) -> Self {
        self.events.push(OwnedEvent::Opaque { path: parse(path) });
        self
    }

    /// With an alternate stream of what was added last.
    ///
    /// # Panics
    /// When nothing was, or the name is none.
    #[must_use]
    pub fn stream(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let of = match self.events.last() {
            Some(OwnedEvent::Add { path, .. } | OwnedEvent::Stream { of: path, .. }) => path.clone(),
            other => panic!("a stream belongs to a file, not to {other:?}"),
        };
        let name = StreamName::new(name).expect("a test names streams as Windows does");
        self.events.push(OwnedEvent::Stream { of, name, content: content.as_ref().into() });
        self
    }

    /// With these attributes of what was added last.
    #[must_use]
    pub fn attributes(self, attributes: Attributes) -> Self {
        self.edit(|meta| meta.attributes = attributes)
    }

    /// With these times of what was added last: creation, write, change, access.
    #[must_use]
    pub fn times(self, [creation, write, change, access]: [i64; 4]) -> Self {
        self.edit(|meta| {
            [meta.creation, meta.write, meta.change, meta.access] =
                [creation, write, change, access].map(FileTime);
        })
    }

    /// With this security descriptor of what was added last.
    #[must_use]
    pub fn sddl(self, text: &str) -> Self {
        let descriptor = sddl::parse(text).expect("a test has sound SDDL");
        self.edit(|meta| meta.security = descriptor.into_bytes())
    }

    /// With one more extended attribute of what was added last.
    #[must_use]
    pub fn ea(self, name: &str, value: &[u8]) -> Self {
        self.edit(|meta| {
            let old = meta.ea.clone();
            let mut all: Vec<Ea<'_>> = ea::entries(&old).collect::<Result<_, _>>().expect("made here");
            all.push(Ea::new(name.as_bytes(), value));
            meta.ea = ea::encode(&all).expect("a test has sound attributes").into();
        })
    }

    /// With the metadata changed of what was added last.
    ///
    /// # Panics
    /// When nothing was.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut FileMeta)) -> Self {
        let added = self.events.iter_mut().rev().find_map(|event| match event {
            OwnedEvent::Add { meta, .. } => Some(meta),
            _ => None,
        });
        change(added.expect("something was added before, as the test says"));
        self
    }

    /// With an event of any kind.
    #[must_use]
    pub fn event(mut self, event: OwnedEvent) -> Self {
        self.events.push(event);
        self
    }

    /// The layer as events.
    pub fn events(&self) -> EventList {
        EventList::new(self.events.clone())
    }

    /// The layer as changes on the road.
    pub fn changes(&self) -> WcowChanges<EventList> {
        WcowChanges::new(self.events())
    }

    /// The layer as an archive, as hcsshim would export it.
    ///
    /// # Panics
    /// When no archive can hold it.
    pub fn tar(&self) -> Vec<u8> {
        let sink = TarSink::new(Vec::new(), WriteOptions::default().windows(true), &Silent);
        let written = road::pump(&mut self.changes(), sink, &Silent);
        written.expect("the layer of a test can be written").0
    }

    fn add(mut self, path: &str, attributes: Attributes, content: OwnedContent) -> Self {
        let mut meta = FileMeta::new(attributes);
        // All different, with digits below what Unix counts in.
        let time = 132_223_104_000_000_000;
        meta.creation = FileTime(time + 1);
        meta.write = FileTime(time + 20_000_002);
        meta.change = FileTime(time + 30_000_000);
        meta.access = FileTime(time - 40_000_004);
        self.events.push(OwnedEvent::Add { path: parse(path), meta, content });
        self
    }

    fn reparse(self, path: &str, target: &str, is_junction: bool) -> Self {
        let link = Link::new(target.as_bytes(), is_junction).encode().expect("a test has sound links");
        self.add(path, Attributes::REPARSE_POINT, OwnedContent::default()).edit(|meta| meta.reparse = link)
    }
}

fn parse(path: &str) -> CimPath {
    CimPath::new(path.replace('/', "\\")).expect("a test names files as Windows does")
}
