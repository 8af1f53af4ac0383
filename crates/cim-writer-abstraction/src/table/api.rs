//! One safe method for each function.

use std::{ffi::c_void, fmt, ptr, rc::Rc, sync::Arc};

use layer_model::{Error, ErrorKind, Result};

use super::{
    Containers, HResult,
    raw::{CimTable, FileMetadata, FileStatBasicInformation, ImageHandle, StreamHandle},
    wide::Wide,
};
use crate::{
    CimName, CimPath, FileMeta, StreamName,
    op::{CreateFlags, MergeFlags},
};

/// What a system says about a result code, where it says something.
pub type Messages = fn(HResult) -> Option<String>;

/// A table whose functions are what they should be, so that they can be called safely.
#[derive(Clone)]
pub struct CimApi {
    table: CimTable,
    messages: Messages,
    containers: Arc<dyn Containers>,
}

impl fmt::Debug for CimApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CimApi").field("table", &self.table).finish_non_exhaustive()
    }
}

/// Calls a function of the table, and makes its result an error where it is one.
macro_rules! call {
    ($api:expr, $field:ident, $name:literal ($($arg:expr),* $(,)?)) => {{
        let api: &CimApi = $api;
        match api.table().$field {
            None => Err(missing($name)),
            Some(function) => {
                // SAFETY: the table's functions are those of CimFS, as whoever made the `CimApi` promised. They are
                // given handles that they gave out themselves and that are not closed yet, and pointers to strings,
                // structures and buffers that live in the calling method until after the call; sizes are those of
                // the buffers.
                let code = HResult(unsafe { function($($arg),*) });
                if code.is_err() { Err(api.failure($name, code)) } else { Ok(()) }
            }
        }
    }};
}
pub(super) use call;

/// What a call gets when the system does not have the function.
pub(super) fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotSupported, format!("this system has no {name}"))
}

/// Digests of CimFS are SHA-256.
const HASH: usize = 32;

/// What a container says about its verification: `CimGetVerificationInformation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The root digest, of a container that is sealed.
    pub root: Option<[u8; HASH]>,
    /// The size of the signature, 0 for none.
    pub signature_size: u64,
    /// The size of the header that the container begins with.
    pub fixed_header_size: u64,
}

impl CimApi {
    /// Calls go to the functions of `table`; containers are reached through `containers`.
    ///
    /// # Safety
    /// The functions are those of CimFS, or behave as Microsoft documents them: they read strings up to their NUL and
    /// buffers up to their size, write what they return where they are told, and keep no pointer. They can be called
    /// as long as this value, or anything made with it, is there.
    pub unsafe fn new(table: CimTable, messages: Messages, containers: Arc<dyn Containers>) -> Self {
        Self { table, messages, containers }
    }

    /// The functions.
    pub fn table(&self) -> &CimTable {
        &self.table
    }

    /// The same without the function `name`, as on a system that does not have it.
    #[must_use]
    pub fn without(mut self, name: &std::ffi::CStr) -> Self {
        self.table = self.table.without(name);
        self
    }

    /// How containers are reached beside CimFS.
    pub fn containers(&self) -> &dyn Containers {
        &*self.containers
    }

    pub(super) fn failure(&self, call: &str, code: HResult) -> Error {
        code.error(call, (self.messages)(code))
    }

    pub(super) fn message(&self, code: HResult) -> Option<String> {
        (self.messages)(code)
    }

    /// `CimCreateImage`: a standard CIM in the directory `dir`.
    ///
    /// With `new` alone a new image, with `existing` alone, or both of the same name, a change to that image, with
    /// both a fork.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while another image of the directory is written, [`ErrorKind::AlreadyExists`] when `new`
    /// is there, [`ErrorKind::NotFound`] when `existing` is not.
    pub fn create_image(
        &self,
        dir: &str,
        existing: Option<&CimName>,
        new: Option<&CimName>,
    ) -> Result<Image> {
        let dir = Wide::host(dir)?;
        let (existing, new) = (existing.map(Wide::name).transpose()?, new.map(Wide::name).transpose()?);
        let (existing, new) = (Wide::or_null(existing.as_ref()), Wide::or_null(new.as_ref()));
        self.opened("CimCreateImage", |handle| {
            call!(self, create_image, "CimCreateImage"(dir.as_ptr(), existing, new, handle))
        })
    }

    /// `CimCreateImage2`: a CIM of any kind. Block CIMs have no `existing` one.
    ///
    /// # Errors
    /// As [`CimApi::create_image`].
    pub fn create_image2(
        &self,
        container: &str,
        flags: CreateFlags,
        existing: Option<&CimName>,
        new: Option<&CimName>,
    ) -> Result<Image> {
        let container = Wide::host(container)?;
        let (existing, new) = (existing.map(Wide::name).transpose()?, new.map(Wide::name).transpose()?);
        let (existing, new) = (Wide::or_null(existing.as_ref()), Wide::or_null(new.as_ref()));
        self.opened("CimCreateImage2", |handle| {
            let flags = flags.bits();
            call!(self, create_image2, "CimCreateImage2"(container.as_ptr(), flags, existing, new, handle))
        })
    }

    fn opened(&self, name: &str, open: impl FnOnce(*mut ImageHandle) -> Result<()>) -> Result<Image> {
        if self.table.close_image.is_none() {
            return Err(missing("CimCloseImage"));
        }
        let mut handle = ptr::null_mut();
        open(&mut handle)?;
        if handle.is_null() {
            return Err(Error::new(ErrorKind::NotSupported, format!("{name} gave no handle")));
        }
        Ok(Image(Rc::new(Inner { api: self.clone(), handle })))
    }

    /// `CimSealImage`: writes the root digest of a closed verified image into its container, and returns it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a container, [`ErrorKind::InvalidArgument`] for one that is not verified.
    pub fn seal(&self, container: &str) -> Result<[u8; HASH]> {
        let wide = Wide::host(container)?;
        let (mut hash_size, mut header_size, mut hash) = (HASH as u64, 0, [0; HASH]);
        call!(
            self,
            seal_image,
            "CimSealImage"(wide.as_ptr(), &mut hash_size, &mut header_size, hash.as_mut_ptr())
        )
        .and_then(|()| check_hash(hash_size))
        .map_err(|error| error.entry(container))?;
        Ok(hash)
    }

    /// `CimGetVerificationInformation`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a container, [`ErrorKind::UnsupportedVersion`] when its digest has another size
    /// than 32 bytes.
    pub fn verification(&self, container: &str) -> Result<Verification> {
        let wide = Wide::host(container)?;
        let (mut sealed, mut hash_size, mut hash) = (0, HASH as u64, [0; HASH]);
        let (mut signature_size, mut fixed_header_size) = (0, 0);
        call!(
            self,
            get_verification_information,
            "CimGetVerificationInformation"(
                wide.as_ptr(),
                &mut sealed,
                &mut hash_size,
                &mut signature_size,
                &mut fixed_header_size,
                hash.as_mut_ptr(),
                ptr::null_mut(),
            )
        )
        .map_err(|error| error.entry(container))?;
        let root = match sealed {
            0 => None,
            _ => {
                check_hash(hash_size).map_err(|error| error.entry(container))?;
                Some(hash)
            }
        };
        Ok(Verification { root, signature_size, fixed_header_size })
    }

    /// `CimReadFile`: reads from the main stream of a file of the image at `image` (its `.cim` file, or container and
    /// name in one path), from `offset` on. Returns how many bytes were read, and how many follow.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the image or the file.
    pub fn read_file(
        &self,
        image: &str,
        path: &CimPath,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(usize, u64)> {
        let (image, file) = (Wide::host(image)?, Wide::path(path)?);
        let (mut read, mut remaining) = (0, 0);
        let (buffer, len) = (into.as_mut_ptr().cast::<c_void>(), into.len() as u64);
        call!(
            self,
            read_file,
            "CimReadFile"(image.as_ptr(), file.as_ptr(), offset, buffer, len, &mut read, &mut remaining)
        )
        .map_err(|error| error.entry(path.as_bytes()))?;
        Ok((usize::try_from(read).unwrap_or(usize::MAX).min(into.len()), remaining))
    }

    /// `CimGetFileStatBasicInformation`: what is known about a file of the image at `image`.
    ///
    /// # Errors
    /// As [`CimApi::read_file`].
    pub fn file_stat(&self, image: &str, path: &CimPath) -> Result<FileStatBasicInformation> {
        let (image, file) = (Wide::host(image)?, Wide::path(path)?);
        let mut stat = FileStatBasicInformation::default();
        call!(
            self,
            get_file_stat,
            "CimGetFileStatBasicInformation"(image.as_ptr(), file.as_ptr(), &mut stat)
        )
        .map_err(|error| error.entry(path.as_bytes()))?;
        Ok(stat)
    }

    /// `CimConvertBlockImage`: makes a standard CIM in `dir` of the block CIM `name` in `container`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the image.
    pub fn convert_block_image(&self, container: &str, name: &CimName, dir: &str) -> Result<()> {
        let (container, name, dir) = (Wide::host(container)?, Wide::name(name)?, Wide::host(dir)?);
        call!(
            self,
            convert_block_image,
            "CimConvertBlockImage"(container.as_ptr(), name.as_ptr(), dir.as_ptr())
        )
    }
}

fn check_hash(size: u64) -> Result<()> {
    if size == HASH as u64 {
        return Ok(());
    }
    let what = format!("a root digest of {size} bytes");
    Err(Error::new(ErrorKind::UnsupportedVersion, what))
}

/// An image that is open for writing. Dropped, it is closed; nothing of it is kept then unless it was committed.
#[derive(Debug)]
pub struct Image(Rc<Inner>);

/// The handle, which streams share: an image is closed after its streams.
#[derive(Debug)]
struct Inner {
    api: CimApi,
    handle: ImageHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(close) = self.api.table.close_image {
            // SAFETY: the handle came from the function that creates images, and nobody else closes it: streams,
            // which keep this value alive, are closed before.
            unsafe { close(self.handle) }
        }
    }
}

impl Image {
    /// `CimCreateFile`: creates a file or directory over whatever is there, and opens its main stream of `size` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the parent directory, [`ErrorKind::Busy`] while a stream is open.
    pub fn create_file(&self, path: &CimPath, meta: &FileMeta, size: u64) -> Result<OpenStream> {
        let wide = Wide::path(path)?;
        let raw = metadata(meta, size)?;
        self.stream(size, |handle| {
            call!(&self.0.api, create_file, "CimCreateFile"(self.0.handle, wide.as_ptr(), &raw, handle))
        })
    }

    /// `CimCreateAlternateStream`: creates and opens a stream of a file or directory that is there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the file, [`ErrorKind::Busy`] while a stream is open.
    pub fn create_stream(&self, of: &CimPath, name: &StreamName, size: u64) -> Result<OpenStream> {
        let wide = Wide::stream(of, name)?;
        self.stream(size, |handle| {
            call!(
                &self.0.api,
                create_alternate_stream,
                "CimCreateAlternateStream"(self.0.handle, wide.as_ptr(), size, handle)
            )
        })
    }

    fn stream(&self, size: u64, open: impl FnOnce(*mut StreamHandle) -> Result<()>) -> Result<OpenStream> {
        if self.0.api.table.close_stream.is_none() {
            return Err(missing("CimCloseStream"));
        }
        let mut handle = ptr::null_mut();
        open(&mut handle)?;
        Ok(OpenStream { image: Rc::clone(&self.0), handle, size, written: 0 })
    }

    /// `CimCreateHardLink`: `path` becomes another name of the file `target`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without `target` or the parent of `path`, [`ErrorKind::IsDirectory`] when `target` is
    /// a directory.
    pub fn hard_link(&self, path: &CimPath, target: &CimPath) -> Result<()> {
        let (new, existing) = (Wide::path(path)?, Wide::path(target)?);
        // Inside an image nobody is denied access: of links the code says that one end is a directory.
        call!(
            &self.0.api,
            create_hard_link,
            "CimCreateHardLink"(self.0.handle, new.as_ptr(), existing.as_ptr())
        )
        .map_err(is_directory)
    }

    /// `CimCreateMergeLink`: `path` becomes another name of the file that `target` will be when images are merged.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a standard CIM.
    pub fn merge_link(&self, path: &CimPath, target: &CimPath) -> Result<()> {
        let (new, old) = (Wide::path(path)?, Wide::path(target)?);
        call!(&self.0.api, create_merge_link, "CimCreateMergeLink"(self.0.handle, new.as_ptr(), old.as_ptr()))
            .map_err(is_directory)
    }

    /// `CimDeletePath`: takes away what is at `path`, and all below it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing is there.
    pub fn delete(&self, path: &CimPath) -> Result<()> {
        let wide = Wide::path(path)?;
        call!(&self.0.api, delete_path, "CimDeletePath"(self.0.handle, wide.as_ptr()))
    }

    /// `CimTombstoneFile`: hides what other images have at `path`, once they are merged.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a standard CIM.
    pub fn tombstone(&self, path: &CimPath) -> Result<()> {
        let wide = Wide::path(path)?;
        call!(&self.0.api, tombstone_file, "CimTombstoneFile"(self.0.handle, wide.as_ptr()))
    }

    /// `CimAddFsToMergedImage2`: adds an image to this one, topmost first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without that image, [`ErrorKind::InvalidArgument`] for one of another kind.
    pub fn add_source(&self, container: &str, name: &CimName, flags: MergeFlags) -> Result<()> {
        let wide = Wide::joined(container, name)?;
        call!(
            &self.0.api,
            add_fs_to_merged_image2,
            "CimAddFsToMergedImage2"(self.0.handle, wide.as_ptr(), flags.bits())
        )
        .map_err(|error| error.entry(container))
    }

    /// `CimCommitImage`: what was done becomes the image. Nothing can be done to it after that.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while a stream is open, or the image that is changed is mounted.
    pub fn commit(&self) -> Result<()> {
        call!(&self.0.api, commit_image, "CimCommitImage"(self.0.handle))
    }
}

fn is_directory(error: Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            Error::new(ErrorKind::IsDirectory, "one end of the link is a directory").cause(error)
        }
        _ => error,
    }
}

/// The metadata as the API takes it. Its pointers are those of the buffers of `meta`.
fn metadata(meta: &FileMeta, size: u64) -> Result<FileMetadata> {
    fn buffer(bytes: &[u8]) -> Result<(*const c_void, u32)> {
        let too_long = |_| Error::new(ErrorKind::InvalidArgument, "a metadata buffer of 4 GiB or more");
        let len = u32::try_from(bytes.len()).map_err(too_long)?;
        // Nothing is NULL, not a pointer to no bytes.
        Ok((if bytes.is_empty() { ptr::null() } else { bytes.as_ptr().cast() }, len))
    }
    let (security_descriptor, security_descriptor_size) = buffer(meta.security_or_default())?;
    let (reparse_data, reparse_data_size) = buffer(&meta.reparse)?;
    let (ea, ea_size) = buffer(&meta.ea)?;
    let file_size = match i64::try_from(size) {
        Ok(size) if size == 0 || !meta.is_dir() => size,
        Ok(_) => return Err(Error::new(ErrorKind::InvalidArgument, "a directory has no content")),
        Err(_) => return Err(Error::new(ErrorKind::InvalidArgument, "a file of 8 EiB or more")),
    };
    Ok(FileMetadata {
        attributes: meta.attributes.bits(),
        file_size,
        creation_time: meta.creation.0,
        last_write_time: meta.write.0,
        change_time: meta.change.0,
        last_access_time: meta.access.0,
        security_descriptor,
        security_descriptor_size,
        reparse_data,
        reparse_data_size,
        ea,
        ea_size,
    })
}

/// A stream that is open for writing. It takes no more bytes than were announced. Dropped, it is closed.
#[derive(Debug)]
pub struct OpenStream {
    image: Rc<Inner>,
    handle: StreamHandle,
    size: u64,
    written: u64,
}

/// The most that one call writes: its argument has 32 bits, and a power of two keeps pieces aligned.
const PIECE: usize = 1 << 30;

impl OpenStream {
    /// `CimWriteStream`.
    ///
    /// # Errors
    /// [`ErrorKind::SizeMismatch`] for more bytes than were announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let got = self.written.saturating_add(bytes.len() as u64);
        if got > self.size {
            return Err(self.mismatch(got, "more bytes than the stream was announced with"));
        }
        for piece in bytes.chunks(PIECE) {
            let (buffer, len) = (piece.as_ptr().cast::<c_void>(), piece.len() as u32);
            call!(&self.image.api, write_stream, "CimWriteStream"(self.handle, buffer, len)).map_err(
                |error| match error.kind() {
                    ErrorKind::Io(Some(38)) => {
                        self.mismatch(got, "the image takes fewer bytes than were announced").cause(error)
                    }
                    _ => error,
                },
            )?;
            self.written += u64::from(len);
        }
        Ok(())
    }

    /// `CimCloseStream`, when all bytes were written.
    ///
    /// # Errors
    /// [`ErrorKind::SizeMismatch`] when some were not; the stream is closed then, too.
    pub fn finish(self) -> Result<()> {
        if self.written < self.size {
            return Err(self.mismatch(self.written, "fewer bytes than the stream was announced with"));
        }
        Ok(())
    }

    fn mismatch(&self, got: u64, what: &str) -> Error {
        Error::new(ErrorKind::SizeMismatch { expected: self.size, got }, what)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if let Some(close) = self.image.api.table.close_stream
            && !self.handle.is_null()
        {
            // SAFETY: the handle came from a function that opens streams, nobody else closes it, and its image is
            // still open: this value keeps it.
            unsafe { close(self.handle) }
        }
    }
}
