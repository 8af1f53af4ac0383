//! The functions themselves: from pointers to values and back.

use std::{ffi::c_void, slice};

use super::{
    WORLDS,
    world::{Called, World},
};
use crate::{
    Attributes, CimOp, CimPath, FileMeta, FileTime, Guid, StreamName,
    op::{CreateFlags, MergeFlags, MountFlags},
    path::wtf8,
    table::{
        CimTable, HResult,
        raw::{
            FileMetadata, FileStatBasicInformation, Hresult, ImageHandle, ImagePath, Pcwstr, RawGuid,
            StreamHandle,
        },
    },
};

/// The functions of the world with this number.
///
/// # Panics
/// When there is no such world.
pub fn emulated_table(world: usize) -> CimTable {
    macro_rules! tables {
        ($($number:literal)*) => { [$(table_of::<$number>),*] };
    }
    let tables: [fn() -> CimTable; WORLDS] = tables!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    );
    tables[world]()
}

fn table_of<const W: usize>() -> CimTable {
    CimTable {
        create_image: Some(create_image::<W>),
        create_image2: Some(create_image2::<W>),
        close_image: Some(close_image::<W>),
        commit_image: Some(commit_image::<W>),
        create_file: Some(create_file::<W>),
        create_alternate_stream: Some(create_alternate_stream::<W>),
        write_stream: Some(write_stream::<W>),
        close_stream: Some(close_stream::<W>),
        delete_path: Some(delete_path::<W>),
        create_hard_link: Some(create_hard_link::<W>),
        tombstone_file: Some(tombstone_file::<W>),
        create_merge_link: Some(create_merge_link::<W>),
        add_fs_to_merged_image2: Some(add_fs_to_merged_image2::<W>),
        seal_image: Some(seal_image::<W>),
        get_verification_information: Some(get_verification_information::<W>),
        mount_image: Some(mount_image::<W>),
        dismount_image: Some(dismount_image::<W>),
        merge_mount_image: Some(merge_mount_image::<W>),
        mount_verified_image: Some(mount_verified_image::<W>),
        merge_mount_verified_image: Some(merge_mount_verified_image::<W>),
        read_file: Some(read_file::<W>),
        get_file_stat: Some(get_file_stat::<W>),
        ..CimTable::default()
    }
}

/// Does the work of a call in world `W`. A world that is gone takes no calls.
fn call<const W: usize>(work: impl FnOnce(&mut World) -> Called) -> Hresult {
    let mut slot = super::world(W);
    let done = slot.as_mut().ok_or(HResult::INVALID_ARGUMENT).and_then(|world| {
        world.call()?;
        work(world)
    });
    done.err().unwrap_or(HResult::OK).0
}

/// The longest string that is read: no path of Windows is longer.
const STRING_MAX: usize = 65_536;

/// The units of a string up to its NUL, [`None`] for NULL.
///
/// # Safety
/// `string` is NULL, or points to units of which one is 0.
unsafe fn units<'s>(string: Pcwstr) -> Called<Option<&'s [u16]>> {
    if string.is_null() {
        return Ok(None);
    }
    let mut len = 0;
    // SAFETY: there is a NUL at `len` or behind it, says the caller.
    while unsafe { *string.add(len) } != 0 {
        len += 1;
        if len == STRING_MAX {
            return Err(HResult::INVALID_ARGUMENT);
        }
    }
    // SAFETY: the units up to there were read just now.
    Ok(Some(unsafe { slice::from_raw_parts(string, len) }))
}

/// A path of the host, or a name; [`None`] for NULL.
///
/// # Safety
/// As [`units`].
unsafe fn optional_text(string: Pcwstr) -> Called<Option<String>> {
    // SAFETY: passed on to the caller.
    let Some(units) = (unsafe { units(string) })? else { return Ok(None) };
    String::from_utf16(units).map(Some).map_err(|_| HResult::INVALID_ARGUMENT)
}

/// As [`optional_text`], where NULL is a mistake.
///
/// # Safety
/// As [`units`].
pub(super) unsafe fn text(string: Pcwstr) -> Called<String> {
    // SAFETY: passed on to the caller.
    unsafe { optional_text(string) }?.ok_or(HResult::INVALID_ARGUMENT)
}

/// A path in an image.
///
/// # Safety
/// As [`units`].
unsafe fn path(string: Pcwstr) -> Called<CimPath> {
    // SAFETY: passed on to the caller.
    let units = unsafe { units(string) }?.ok_or(HResult::INVALID_ARGUMENT)?;
    CimPath::from_utf16(units).map_err(|_| HResult::INVALID_ARGUMENT)
}

/// Writes a result through a pointer that may be NULL by mistake.
///
/// # Safety
/// `to` is NULL, or points to a place for a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Called {
    if to.is_null() {
        return Err(HResult::POINTER);
    }
    // SAFETY: the caller says that it is such a place.
    unsafe { to.write(value) };
    Ok(())
}

/// Bytes that the caller lends.
///
/// # Safety
/// `bytes` is NULL, or points to `len` bytes.
unsafe fn lent<'b>(bytes: *const c_void, len: usize) -> Called<&'b [u8]> {
    match (bytes.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(HResult::POINTER),
        // SAFETY: the caller says that so many bytes are there.
        (false, _) => Ok(unsafe { slice::from_raw_parts(bytes.cast(), len) }),
    }
}

// The functions. Of all of them:
//
// # Safety
// Strings are NULL or end in a NUL; pointers to buffers are NULL or point to as many bytes as the call says; pointers
// to results are NULL or point to a place for them. Handles may be anything.

unsafe extern "system" fn create_image<const W: usize>(
    dir: Pcwstr,
    existing: Pcwstr,
    new: Pcwstr,
    handle: *mut ImageHandle,
) -> Hresult {
    // SAFETY: the arguments are those of the caller.
    unsafe { create_image2::<W>(dir, 0, existing, new, handle) }
}

unsafe extern "system" fn create_image2<const W: usize>(
    container: Pcwstr,
    flags: u32,
    existing: Pcwstr,
    new: Pcwstr,
    handle: *mut ImageHandle,
) -> Hresult {
    call::<W>(|world| {
        if handle.is_null() {
            return Err(HResult::POINTER);
        }
        // SAFETY: strings and the place of the result are as the caller promises.
        unsafe {
            let (existing, new) = (optional_text(existing)?, optional_text(new)?);
            let flags = CreateFlags::from_bits_retain(flags);
            let made = world.create(&text(container)?, flags, existing.as_deref(), new.as_deref())?;
            put(handle, made as ImageHandle)
        }
    })
}

unsafe extern "system" fn close_image<const W: usize>(image: ImageHandle) {
    if let Some(world) = super::world(W).as_mut() {
        world.close(image as usize);
    }
}

unsafe extern "system" fn commit_image<const W: usize>(image: ImageHandle) -> Hresult {
    call::<W>(|world| world.commit(image as usize))
}

unsafe extern "system" fn create_file<const W: usize>(
    image: ImageHandle,
    name: Pcwstr,
    metadata: *const FileMetadata,
    stream: *mut StreamHandle,
) -> Hresult {
    call::<W>(|world| {
        if metadata.is_null() || stream.is_null() {
            return Err(HResult::POINTER);
        }
        // SAFETY: the metadata is there, says the caller, and its buffers are; so are string and result.
        unsafe {
            let raw = *metadata;
            let buffer = |bytes, len: u32| lent(bytes, len as usize).map(Box::<[u8]>::from);
            let meta = FileMeta {
                attributes: Attributes::from_bits_retain(raw.attributes),
                creation: FileTime(raw.creation_time),
                write: FileTime(raw.last_write_time),
                change: FileTime(raw.change_time),
                access: FileTime(raw.last_access_time),
                security: buffer(raw.security_descriptor, raw.security_descriptor_size)?,
                ea: buffer(raw.ea, raw.ea_size)?,
                reparse: buffer(raw.reparse_data, raw.reparse_data_size)?,
            };
            let size = u64::try_from(raw.file_size).map_err(|_| HResult::INVALID_ARGUMENT)?;
            let op = CimOp::CreateFile { path: &path(name)?, meta: &meta, size };
            put(stream, world.create_stream(image as usize, &op)? as StreamHandle)
        }
    })
}

unsafe extern "system" fn create_alternate_stream<const W: usize>(
    image: ImageHandle,
    name: Pcwstr,
    size: u64,
    stream: *mut StreamHandle,
) -> Hresult {
    call::<W>(|world| {
        if stream.is_null() {
            return Err(HResult::POINTER);
        }
        // SAFETY: string and result are as the caller promises.
        unsafe {
            let units = units(name)?.ok_or(HResult::INVALID_ARGUMENT)?;
            let colon = units.iter().position(|unit| *unit == u16::from(b':'));
            let (of, name) = units.split_at(colon.ok_or(HResult::INVALID_ARGUMENT)?);
            let of = CimPath::from_utf16(of).map_err(|_| HResult::INVALID_ARGUMENT)?;
            let name = StreamName::new(wtf8(&name[1..])).map_err(|_| HResult::INVALID_ARGUMENT)?;
            let op = CimOp::CreateStream { of: &of, name: &name, size };
            put(stream, world.create_stream(image as usize, &op)? as StreamHandle)
        }
    })
}

unsafe extern "system" fn write_stream<const W: usize>(
    stream: StreamHandle,
    bytes: *const c_void,
    len: u32,
) -> Hresult {
    let mut slot = super::world(W);
    let done = slot.as_mut().ok_or(HResult::INVALID_ARGUMENT).and_then(|world| {
        let short = world.call()?;
        // SAFETY: so many bytes are there, says the caller.
        let bytes = unsafe { lent(bytes, len as usize) }?;
        world.write(stream as usize, bytes, short)
    });
    done.err().unwrap_or(HResult::OK).0
}

unsafe extern "system" fn close_stream<const W: usize>(stream: StreamHandle) {
    if let Some(world) = super::world(W).as_mut() {
        world.close_stream(stream as usize);
    }
}

unsafe extern "system" fn delete_path<const W: usize>(image: ImageHandle, name: Pcwstr) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the string is as the caller promises.
        let path = unsafe { path(name) }?;
        world.op(image as usize, &CimOp::Delete { path: &path })
    })
}

unsafe extern "system" fn tombstone_file<const W: usize>(image: ImageHandle, name: Pcwstr) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the string is as the caller promises.
        let path = unsafe { path(name) }?;
        world.op(image as usize, &CimOp::Tombstone { path: &path })
    })
}

unsafe extern "system" fn create_hard_link<const W: usize>(
    image: ImageHandle,
    new: Pcwstr,
    existing: Pcwstr,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the strings are as the caller promises.
        let (new, existing) = unsafe { (path(new)?, path(existing)?) };
        world.op(image as usize, &CimOp::HardLink { path: &new, target: &existing })
    })
}

unsafe extern "system" fn create_merge_link<const W: usize>(
    image: ImageHandle,
    new: Pcwstr,
    old: Pcwstr,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the strings are as the caller promises.
        let (new, old) = unsafe { (path(new)?, path(old)?) };
        world.op(image as usize, &CimOp::MergeLink { path: &new, target: &old })
    })
}

unsafe extern "system" fn add_fs_to_merged_image2<const W: usize>(
    image: ImageHandle,
    source: Pcwstr,
    flags: u32,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the string is as the caller promises.
        let source = unsafe { text(source) }?;
        world.add_source(image as usize, &source, MergeFlags::from_bits_retain(flags))
    })
}

/// The size of the header that emulated containers begin with.
const HEADER: u64 = 4096;

unsafe extern "system" fn seal_image<const W: usize>(
    container: Pcwstr,
    hash_size: *mut u64,
    header_size: *mut u64,
    hash: *mut u8,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the string and the places of the results are as the caller promises.
        unsafe {
            if hash_size.is_null() || *hash_size < 32 {
                return Err(HResult::INVALID_ARGUMENT);
            }
            let root = world.seal(&text(container)?)?;
            put(hash_size, 32)?;
            put(header_size, HEADER)?;
            put(hash.cast(), root)
        }
    })
}

unsafe extern "system" fn get_verification_information<const W: usize>(
    container: Pcwstr,
    sealed: *mut u32,
    hash_size: *mut u64,
    signature_size: *mut u64,
    header_size: *mut u64,
    hash: *mut u8,
    _signature: *mut u8,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the string and the places of the results are as the caller promises.
        unsafe {
            if hash_size.is_null() || *hash_size < 32 {
                return Err(HResult::INVALID_ARGUMENT);
            }
            let root = world.root(&text(container)?)?;
            put(sealed, u32::from(root.is_some()))?;
            put(hash_size, if root.is_some() { 32 } else { 0 })?;
            put(signature_size, 0)?;
            put(header_size, HEADER)?;
            match root {
                Some(root) => put(hash.cast(), root),
                None => Ok(()),
            }
        }
    })
}

/// # Safety
/// `guid` is NULL or points to one.
unsafe fn volume(guid: *const RawGuid) -> Called<Guid> {
    if guid.is_null() {
        return Err(HResult::POINTER);
    }
    // SAFETY: the caller says that it is there.
    let RawGuid { data1, data2, data3, data4 } = unsafe { *guid };
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&data1.to_be_bytes());
    bytes[4..6].copy_from_slice(&data2.to_be_bytes());
    bytes[6..8].copy_from_slice(&data3.to_be_bytes());
    bytes[8..].copy_from_slice(&data4);
    Ok(Guid::from_rfc(bytes))
}

/// # Safety
/// `paths` is NULL or points to `count` paths of strings.
unsafe fn images(count: u32, paths: *const ImagePath) -> Called<Vec<(String, String)>> {
    if paths.is_null() || count < 2 {
        return Err(HResult::INVALID_ARGUMENT);
    }
    // SAFETY: so many are there, says the caller.
    let paths = unsafe { slice::from_raw_parts(paths, count as usize) };
    // SAFETY: and they are made of strings.
    paths.iter().map(|path| unsafe { Ok((text(path.dir)?, text(path.name)?)) }).collect()
}

/// # Safety
/// `hash` is NULL or points to `size` bytes.
unsafe fn root(size: u16, hash: *const u8) -> Called<[u8; 32]> {
    // SAFETY: so many bytes are there, says the caller.
    let hash = unsafe { lent(hash.cast(), size.into()) }?;
    hash.try_into().map_err(|_| HResult::INVALID_ARGUMENT)
}

unsafe extern "system" fn mount_image<const W: usize>(
    container: Pcwstr,
    name: Pcwstr,
    flags: u32,
    guid: *const RawGuid,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: strings and the volume are as the caller promises.
        let (image, volume) = unsafe { ((text(container)?, text(name)?), volume(guid)?) };
        world.mount(&[image], MountFlags::from_bits_retain(flags), volume, None)
    })
}

unsafe extern "system" fn dismount_image<const W: usize>(guid: *const RawGuid) -> Hresult {
    call::<W>(|world| {
        // SAFETY: the volume is as the caller promises.
        let volume = unsafe { volume(guid) }?;
        world.dismount(volume)
    })
}

unsafe extern "system" fn merge_mount_image<const W: usize>(
    count: u32,
    paths: *const ImagePath,
    flags: u32,
    guid: *const RawGuid,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: paths and the volume are as the caller promises.
        let (images, volume) = unsafe { (images(count, paths)?, volume(guid)?) };
        world.mount(&images, MountFlags::from_bits_retain(flags), volume, None)
    })
}

unsafe extern "system" fn mount_verified_image<const W: usize>(
    container: Pcwstr,
    name: Pcwstr,
    flags: u32,
    guid: *const RawGuid,
    size: u16,
    hash: *const u8,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: strings, the volume and the digest are as the caller promises.
        let (image, volume, root) =
            unsafe { ((text(container)?, text(name)?), volume(guid)?, root(size, hash)?) };
        world.mount(&[image], MountFlags::from_bits_retain(flags), volume, Some(root))
    })
}

unsafe extern "system" fn merge_mount_verified_image<const W: usize>(
    count: u32,
    paths: *const ImagePath,
    flags: u32,
    guid: *const RawGuid,
    size: u16,
    hash: *const u8,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: paths, the volume and the digest are as the caller promises.
        let (images, volume, root) = unsafe { (images(count, paths)?, volume(guid)?, root(size, hash)?) };
        world.mount(&images, MountFlags::from_bits_retain(flags), volume, Some(root))
    })
}

unsafe extern "system" fn read_file<const W: usize>(
    image: Pcwstr,
    file: Pcwstr,
    offset: u64,
    buffer: *mut c_void,
    size: u64,
    read: *mut u64,
    remaining: *mut u64,
) -> Hresult {
    call::<W>(|world| {
        if buffer.is_null() || read.is_null() || remaining.is_null() {
            return Err(HResult::POINTER);
        }
        let size = usize::try_from(size).map_err(|_| HResult::INVALID_ARGUMENT)?;
        // SAFETY: strings, the buffer and the places of the results are as the caller promises.
        unsafe {
            let into = slice::from_raw_parts_mut(buffer.cast(), size);
            let (now, left) = world.read(&text(image)?, &path(file)?, offset, into)?;
            put(read, now)?;
            put(remaining, left)
        }
    })
}

unsafe extern "system" fn get_file_stat<const W: usize>(
    image: Pcwstr,
    file: Pcwstr,
    stat: *mut FileStatBasicInformation,
) -> Hresult {
    call::<W>(|world| {
        // SAFETY: strings and the place of the result are as the caller promises.
        unsafe { put(stat, world.stat(&text(image)?, &path(file)?)?) }
    })
}
