//! dm-verity, as containerd appends it to layers.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use erofs_format::{FileSource, Hash, VerityOptions, VerityReader, VerityTree, verity_tree};
use layer_apply::{erofs_error, write_file};
use layer_model::{Error, ErrorKind, IoContext, Result};

/// An image with its hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Protected {
    /// What has to be trusted: the root hash, in hexadecimal.
    pub root_hash: String,
    /// Where the verity superblock is.
    pub hash_offset: u64,
    /// How many bytes were appended.
    pub appended: u64,
    /// The file beside the image that says the first two, for containerd.
    pub sidecar: PathBuf,
}

/// Appends the hash tree to the image, with containerd's parameters, and writes root hash and offset to
/// `IMAGE.dmverity`. The blocks are those of the image, up to 4096 bytes.
///
/// # Errors
/// [`ErrorKind::Exists`] when that file is there, which means that the image has its tree; those of the image and of
/// the file system. The image is then as it was.
pub fn protect(image: &Path) -> Result<Protected> {
    let at = |error: Error| error.entry(image.as_os_str().as_encoded_bytes());
    let sidecar = sidecar_of(image);
    if sidecar.exists() {
        return Err(at(Error::new(ErrorKind::Exists, "the image has its hash tree already")));
    }
    let opened = erofs_format::Image::open(source(image)?).map_err(erofs_error).map_err(at)?;
    let options = verity_over(opened.superblock().block_size())?;
    let mut file = OpenOptions::new().read(true).write(true).open(image).during("open image").map_err(at)?;
    let tree = verity_tree(&mut file, &options).map_err(erofs_error).map_err(at)?;
    append_tree(&mut file, &tree, sidecar, true).map_err(at)
}

/// containerd's parameters for an image with blocks of `block` bytes: the same blocks, up to 4096 bytes.
pub(crate) fn verity_over(block: u64) -> Result<VerityOptions> {
    VerityOptions::new().block_size(block.min(4096) as u32).map_err(erofs_error)
}

/// Appends its hash tree to an image in the making, and writes the file beside it.
pub(crate) fn protect_with(image: &Path, file: &mut File, tree: &VerityTree) -> Result<Protected> {
    let at = |error: Error| error.entry(image.as_os_str().as_encoded_bytes());
    append_tree(file, tree, sidecar_of(image), false).map_err(at)
}

/// Appends the tree to the file. After an error the file is as it was.
fn append_tree(file: &mut File, tree: &VerityTree, sidecar: PathBuf, sync: bool) -> Result<Protected> {
    let before = file.metadata().during("stat image")?.len();
    let protected = Protected {
        root_hash: tree.root().iter().map(|byte| format!("{byte:02x}")).collect(),
        hash_offset: tree.offset(),
        appended: tree.offset() + tree.appended_size() - before,
        sidecar,
    };
    let made = append(file, before, tree, sync).and_then(|()| write_sidecar(&protected));
    if made.is_err() {
        // What was appended is behind the file system, where nobody looks; away with it all the same.
        let _ = file.set_len(before);
    }
    made.map(|()| protected)
}

fn append(file: &mut File, end: u64, tree: &VerityTree, sync: bool) -> Result<()> {
    file.seek(SeekFrom::Start(end)).during("seek in image")?;
    tree.append_to(file).map_err(erofs_error)?;
    if sync { file.sync_data().during("write image to disk") } else { Ok(()) }
}

fn write_sidecar(Protected { root_hash, hash_offset, sidecar, .. }: &Protected) -> Result<()> {
    write_file(sidecar, |file| {
        let text = format!("{{\n  \"roothash\": \"{root_hash}\",\n  \"hashoffset\": {hash_offset}\n}}");
        file.write_all(text.as_bytes()).during("write the file beside the image")
    })
}

/// Reads a whole protected image, and checks it against its root hash.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] when it is another image, or damaged; those of the file system.
pub fn verify(image: &Path, root_hash: &str, hash_offset: u64) -> Result<()> {
    let at = |error: Error| error.entry(image.as_os_str().as_encoded_bytes());
    let root = parse_hash(root_hash)?;
    let reader = VerityReader::open(source(image)?, hash_offset, root).map_err(erofs_error).map_err(at)?;
    reader.verify().map_err(erofs_error).map_err(at)
}

/// The same for an image whose hash tree is the last thing in its file, where [`protect`] puts it.
///
/// # Errors
/// As [`verify`]; [`ErrorKind::NotFound`] without the file beside the image that says where the tree is.
pub(crate) fn verify_appended(image: &Path, root_hash: &str) -> Result<()> {
    let sidecar = sidecar_of(image);
    let at = |error: Error| error.entry(sidecar.as_os_str().as_encoded_bytes());
    let text = std::fs::read(&sidecar).during("read the file beside the image").map_err(at)?;
    let said: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| at(Error::new(ErrorKind::InvalidArgument, "not JSON").cause(error)))?;
    let offset = said["hashoffset"].as_u64();
    let offset = offset.ok_or_else(|| {
        at(Error::new(ErrorKind::InvalidArgument, "it does not say where the hash tree is"))
    })?;
    verify(image, root_hash, offset)
}

fn parse_hash(text: &str) -> Result<Hash> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes: Option<Vec<u8>> = match text.len() {
        64 => text.as_bytes().chunks_exact(2).map(byte).collect(),
        _ => None,
    };
    let hash = bytes.and_then(|bytes| Hash::try_from(bytes).ok());
    hash.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a root hash has 64 hexadecimal digits"))
}

fn source(image: &Path) -> Result<FileSource> {
    let opened = FileSource::open(image).during("open image");
    opened.map_err(|error| error.entry(image.as_os_str().as_encoded_bytes()))
}

fn sidecar_of(image: &Path) -> PathBuf {
    let mut name = OsString::from(image);
    name.push(".dmverity");
    name.into()
}
