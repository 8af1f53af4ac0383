//! Archives that [`TarSink`](layer_tar::TarSink) would not make.

use layer_model::{Device, Timestamp, Xattrs, windows};
use layer_tar::{
    encode::{END, EntryHeader},
    header::{BLOCK, field, padding, typeflag},
};

use super::WcowLayer;
use crate::{base64, security::sddl};

/// An archive, made member by member. Nothing is checked but what cannot be in a header at all.
#[derive(Clone, Debug, Default)]
pub struct RawArchive(Vec<u8>);

impl RawArchive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a member: its type flag, name, target, records, and content, at the time 1600000000.
    ///
    /// # Panics
    /// When a record is named like a field of the header, or something has a NUL.
    #[must_use]
    pub fn member(
        mut self,
        typeflag: u8,
        name: &str,
        link: &str,
        records: &[(&str, &str)],
        content: &[u8],
    ) -> Self {
        let records: Xattrs = records.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
        let header = EntryHeader {
            name: name.as_bytes(),
            link_name: link.as_bytes(),
            typeflag,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: content.len() as u64,
            mtime: Timestamp::from_secs(1_600_000_000),
            device: Device::default(),
            atime: None,
            ctime: None,
            xattrs: Xattrs::EMPTY,
            records: &records,
        };
        header.encode(&mut self.0).expect("a test has members that a tar can hold");
        self.content(content)
    }

    /// With a file.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        self.member(typeflag::REGULAR, name, "", &[], content.as_bytes())
    }

    /// With a file that has records.
    #[must_use]
    pub fn with_records(self, name: &str, records: &[(&str, &str)]) -> Self {
        self.member(typeflag::REGULAR, name, "", records, b"")
    }

    /// With a directory.
    #[must_use]
    pub fn dir(self, name: &str) -> Self {
        self.member(typeflag::DIRECTORY, name, "", &[], b"")
    }

    /// With a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(typeflag::SYMLINK, name, target, &[], b"")
    }

    /// With a hard link.
    #[must_use]
    pub fn link(self, name: &str, target: &str) -> Self {
        self.member(typeflag::HARD_LINK, name, target, &[], b"")
    }

    /// With a sparse file as old versions of GNU tar wrote it: `data` at `offset`, in `len` bytes.
    #[must_use]
    pub fn gnu_sparse(mut self, name: &str, len: u64, offset: u64, data: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(field::NAME.at, name.as_bytes());
        put(field::SIZE.at, format!("{:011o}\0", data.len()).as_bytes());
        put(field::TYPEFLAG.at, &[typeflag::GNU_SPARSE]);
        put(field::MAGIC.at, b"ustar  \0");
        put(field::GNU_SPARSE.at, format!("{offset:011o}\0{:011o}\0", data.len()).as_bytes());
        put(field::GNU_REAL_SIZE.at, format!("{len:011o}\0").as_bytes());
        put(field::CHECKSUM.at, b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[field::CHECKSUM.at..][..8].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.content(data)
    }

    /// The bytes of the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&END);
        self.0
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        // A payload in memory, so that its padding fits.
        self.0.resize(self.0.len() + padding(content.len() as u64) as usize, 0);
        self
    }
}

/// What BuildKit gives every directory.
const BUILDKIT_DIR: &str = "O:BAG:SYD:(A;OICI;FA;;;BA)(A;OICI;FA;;;SY)(A;;FA;;;BA)(A;OICIIO;GA;;;CO)\
(A;OICI;0x1200a9;;;BU)(A;CI;LC;;;BU)(A;CI;DC;;;BU)";
/// What BuildKit gives every file.
const BUILDKIT_FILE: &str = "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)";

/// A layer as BuildKit makes it on Linux for Windows: `Hives` and `Files` first, then what an overlay has, below
/// `Files/`. Times of creation have their decimals without leading zeros; targets of links, also symbolic and
/// absolute ones, have `Files/` in front; attributes and security descriptors go by type, symbolic links have none.
pub fn buildkit() -> Vec<u8> {
    let descriptor = |text| {
        let mut encoded = Vec::new();
        let bytes = sddl::parse(text).expect("these are sound").into_bytes();
        base64::encode_into(&bytes, &mut encoded);
        String::from_utf8(encoded).expect("base64 is ASCII")
    };
    let (of_dir, of_file) = (descriptor(BUILDKIT_DIR), descriptor(BUILDKIT_FILE));
    let [attributes, security, made] =
        [windows::FILE_ATTRIBUTES, windows::SECURITY_DESCRIPTOR, windows::CREATION_TIME]
            .map(|name| str::from_utf8(name).expect("these are ASCII"));
    let top = [(attributes, "16"), (made, "1600000000.123")];
    let dir = [(attributes, "16"), (security, &of_dir), (made, "1600000000.0")];
    let file = [(attributes, "32"), (security, &of_file), (made, "1600000000.0")];
    let other = [(made, "1600000000.0")];
    RawArchive::new()
        .member(typeflag::DIRECTORY, "Hives", "", &top, b"")
        .member(typeflag::DIRECTORY, "Files", "", &top, b"")
        .member(typeflag::DIRECTORY, "Files/app/", "", &dir, b"")
        .member(typeflag::REGULAR, "Files/app/main.exe", "", &file, b"MZ")
        .member(typeflag::SYMLINK, "Files/app/current", "Files/main.exe", &other, b"")
        .member(typeflag::SYMLINK, "Files/app/etc", "Files//etc", &other, b"")
        .member(typeflag::HARD_LINK, "Files/app/same.exe", "Files/app/main.exe", &other, b"")
        .member(typeflag::REGULAR, "Files/app/.wh.old.exe", "", &file, b"")
        .finish()
}

/// Archives for a corpus, each with a name: sound ones, and ones with a single thing wrong.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let raw = RawArchive::new;
    vec![
        ("base", WcowLayer::base().tar()),
        ("utility-vm", WcowLayer::base_with_utility_vm().tar()),
        ("child", WcowLayer::child().tar()),
        ("opaque", WcowLayer::new().dir("Files").opaque("Files").tar()),
        ("buildkit", buildkit()),
        (
            "backslashes",
            raw()
                .dir(".\\Files\\")
                .file("./Files\\a", "1")
                .link("Files\\l", "Files\\a")
                .file("Files\\.wh.b", "")
                .finish(),
        ),
        (
            "streams",
            raw()
                .dir("Files/")
                .file("Files/:of-dir", "1")
                .file("Files/a", "2")
                .file("Files/a:x:$DATA", "3")
                .file("Files/a:y", "4")
                .finish(),
        ),
        (
            "records",
            raw()
                .with_records(
                    "Files/a",
                    &[
                        ("MSWINDOWS.fileattr", "4294967295"),
                        ("MSWINDOWS.sd", BUILDKIT_FILE),
                        ("MSWINDOWS.xattr.B", "eHl6"),
                        ("MSWINDOWS.xattr.a", "eA=="),
                        ("MSWINDOWS.later", "1"),
                        ("LIBARCHIVE.creationtime", "-1.5"),
                    ],
                )
                .member(typeflag::SYMLINK, "Files/j", "C:\\data", &[("MSWINDOWS.mountpoint", "1")], b"")
                .finish(),
        ),
        (
            "sparse",
            raw()
                .gnu_sparse("Files/s", 5000, 4096, b"data")
                .member(
                    typeflag::REGULAR,
                    "Files/p",
                    "",
                    &[("GNU.sparse.size", "100"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "10,3")],
                    b"abc",
                )
                .member(typeflag::CONTIGUOUS, "Files/c", "", &[], b"contiguous")
                .finish(),
        ),
        ("orphan", raw().file("Files/a", "1").file("Files/b:s", "2").finish()),
        ("twice", raw().file("Files/a", "1").file("Files/a:s", "2").file("Files/a:S", "3").finish()),
        ("bad-type", raw().file("Files/a", "1").file("Files/a:s:$INDEX_ALLOCATION", "2").finish()),
        ("device", raw().member(typeflag::CHAR, "Files/d", "", &[], b"").finish()),
        ("bad-records", raw().with_records("Files/a", &[("MSWINDOWS.rawsd", "AQAE")]).finish()),
        ("bad-attributes", raw().with_records("Files/a", &[("MSWINDOWS.fileattr", "0x20")]).finish()),
        ("bad-name", raw().file("Files/a?b", "").finish()),
    ]
}
