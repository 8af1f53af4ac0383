//! The emulator of `cim-writer-abstraction` as a DLL.
//!
//! Built for Windows and copied next to a program as `cimfs.dll`, `cimwriter.dll` or `offreg.dll`, it takes the place
//! of the real ones: the program's calls then work on images in memory, for one process, without privileges, also where
//! Windows itself is only imitated. That tests what nothing else can: loading, the calling convention, the layout of
//! structures as another compiler run sees it.
//!
//! Every copy that is loaded has a world of its own, so that what is written through `cimwriter.dll` cannot be mounted
//! through `cimfs.dll`. It refuses to be mistaken for the real thing: what it writes is gone when the process ends.
//!
//! Two functions are the emulator's own: [`CimEmulatorDump`] shows what is in an image, [`CimEmulatorCalls`] counts.
#![allow(non_snake_case, reason = "the names are Microsoft's")]

use std::{ffi::c_void, slice};

use cim_writer_abstraction::{
    CimName,
    emu::Emulator,
    table::{
        CimTable, HResult, OffregTable,
        raw::{
            FileMetadata, FileStatBasicInformation, Hresult, ImageHandle, ImagePath, Pcwstr, RawGuid,
            RegistryHandle, StreamHandle,
        },
    },
};

fn cimfs() -> CimTable {
    Emulator::of_process().table()
}

fn offreg() -> OffregTable {
    Emulator::of_process().offreg_table()
}

/// Exports functions that pass their arguments on to those of a table, whose documentation they share.
macro_rules! export {
    ($table:ident, $missing:expr, $($name:ident = $field:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[doc = concat!("See the field `", stringify!($field), "` of the table.")]
        ///
        /// # Safety
        /// As Microsoft documents it: strings end in a NUL, buffers are as large as the call says, and there is a
        /// place for every result.
        #[unsafe(no_mangle)]
        pub unsafe extern "system" fn $name($($arg: $ty),*) $(-> $ret)? {
            match $table().$field {
                // SAFETY: the arguments are those of the caller, who keeps to the documentation.
                Some(function) => unsafe { function($($arg),*) },
                None => $missing,
            }
        }
    )*};
}

export! { cimfs, HResult::PROC_NOT_FOUND.0,
    CimCreateImage = create_image(dir: Pcwstr, existing: Pcwstr, new: Pcwstr, image: *mut ImageHandle) -> Hresult;
    CimCreateImage2 = create_image2(container: Pcwstr, flags: u32, existing: Pcwstr, new: Pcwstr,
        image: *mut ImageHandle) -> Hresult;
    CimCommitImage = commit_image(image: ImageHandle) -> Hresult;
    CimCreateFile = create_file(image: ImageHandle, path: Pcwstr, metadata: *const FileMetadata,
        stream: *mut StreamHandle) -> Hresult;
    CimCreateAlternateStream = create_alternate_stream(image: ImageHandle, path: Pcwstr, size: u64,
        stream: *mut StreamHandle) -> Hresult;
    CimWriteStream = write_stream(stream: StreamHandle, bytes: *const c_void, len: u32) -> Hresult;
    CimDeletePath = delete_path(image: ImageHandle, path: Pcwstr) -> Hresult;
    CimCreateHardLink = create_hard_link(image: ImageHandle, new: Pcwstr, existing: Pcwstr) -> Hresult;
    CimTombstoneFile = tombstone_file(image: ImageHandle, path: Pcwstr) -> Hresult;
    CimCreateMergeLink = create_merge_link(image: ImageHandle, new: Pcwstr, old: Pcwstr) -> Hresult;
    CimAddFsToMergedImage2 = add_fs_to_merged_image2(image: ImageHandle, source: Pcwstr, flags: u32) -> Hresult;
    CimSealImage = seal_image(container: Pcwstr, hash_size: *mut u64, header_size: *mut u64, hash: *mut u8)
        -> Hresult;
    CimGetVerificationInformation = get_verification_information(container: Pcwstr, sealed: *mut u32,
        hash_size: *mut u64, signature_size: *mut u64, header_size: *mut u64, hash: *mut u8,
        signature: *mut u8) -> Hresult;
    CimMountImage = mount_image(container: Pcwstr, name: Pcwstr, flags: u32, volume: *const RawGuid) -> Hresult;
    CimDismountImage = dismount_image(volume: *const RawGuid) -> Hresult;
    CimMergeMountImage = merge_mount_image(count: u32, images: *const ImagePath, flags: u32,
        volume: *const RawGuid) -> Hresult;
    CimMountVerifiedImage = mount_verified_image(container: Pcwstr, name: Pcwstr, flags: u32,
        volume: *const RawGuid, size: u16, hash: *const u8) -> Hresult;
    CimMergeMountVerifiedImage = merge_mount_verified_image(count: u32, images: *const ImagePath, flags: u32,
        volume: *const RawGuid, size: u16, hash: *const u8) -> Hresult;
    CimReadFile = read_file(image: Pcwstr, file: Pcwstr, offset: u64, buffer: *mut c_void, size: u64,
        read: *mut u64, remaining: *mut u64) -> Hresult;
    CimGetFileStatBasicInformation = get_file_stat(image: Pcwstr, file: Pcwstr,
        stat: *mut FileStatBasicInformation) -> Hresult;
}

export! { cimfs, (),
    CimCloseImage = close_image(image: ImageHandle);
    CimCloseStream = close_stream(stream: StreamHandle);
}

export! { offreg, 127,
    OROpenHive = open_hive(file: Pcwstr, key: *mut RegistryHandle) -> u32;
    ORMergeHives = merge_hives(keys: *const RegistryHandle, count: u32, merged: *mut RegistryHandle) -> u32;
    ORSaveHive = save_hive(key: RegistryHandle, file: Pcwstr, major: u32, minor: u32) -> u32;
    ORCloseHive = close_hive(key: RegistryHandle) -> u32;
    ORCreateHive = create_hive(key: *mut RegistryHandle) -> u32;
}

/// The emulator's own: writes the view dump of the image `name` in `container` into `buffer`, as far as it fits, and its
/// size into `size`.
///
/// # Safety
/// The strings end in a NUL, `buffer` has `capacity` bytes, and there is a place for `size`.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn CimEmulatorDump(
    container: Pcwstr,
    name: Pcwstr,
    buffer: *mut u8,
    capacity: usize,
    size: *mut usize,
) -> Hresult {
    if container.is_null() || name.is_null() || buffer.is_null() || size.is_null() {
        return HResult::POINTER.0;
    }
    // SAFETY: the strings end in a NUL, says the caller.
    let (container, name) = unsafe { (text(container), text(name)) };
    let dump = CimName::new(name).and_then(|name| Emulator::of_process().dump(&container, &name));
    let Ok(dump) = dump else { return HResult::FILE_NOT_FOUND.0 };
    let fits = dump.len().min(capacity);
    // SAFETY: the buffer has as many bytes, says the caller, and there is a place for the size.
    unsafe {
        slice::from_raw_parts_mut(buffer, fits).copy_from_slice(&dump.as_bytes()[..fits]);
        size.write(dump.len());
    }
    HResult::OK.0
}

/// The emulator's own: how many calls there were that could fail.
#[unsafe(no_mangle)]
pub extern "system" fn CimEmulatorCalls() -> u64 {
    Emulator::of_process().calls()
}

/// # Safety
/// The string ends in a NUL.
unsafe fn text(string: Pcwstr) -> String {
    let mut len = 0;
    // SAFETY: there is a NUL at `len` or behind it.
    while unsafe { *string.add(len) } != 0 {
        len += 1;
    }
    // SAFETY: the units up to there were read just now.
    String::from_utf16_lossy(unsafe { slice::from_raw_parts(string, len) })
}
