//! A stand-in for the offline registry: it knows no registry, but opens, puts together, and saves files.

use std::{fs, io::ErrorKind as IoKind, io::Write as _, slice};

use super::{WORLDS, world::World};
use crate::table::{
    OffregTable,
    raw::{Pcwstr, RegistryHandle},
};

/// What a "merged" hive begins with; the version of the system and both hives follow.
pub(super) const MERGED: &str = "merged by the emulator for";

/// The functions of the offline registry of the world with this number.
///
/// # Panics
/// When there is no such world.
pub fn emulated_offreg(world: usize) -> OffregTable {
    macro_rules! tables {
        ($($number:literal)*) => { [$(table_of::<$number>),*] };
    }
    let tables: [fn() -> OffregTable; WORLDS] = tables!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    );
    tables[world]()
}

fn table_of<const W: usize>() -> OffregTable {
    OffregTable {
        open_hive: Some(open_hive::<W>),
        merge_hives: Some(merge_hives::<W>),
        save_hive: Some(save_hive::<W>),
        close_hive: Some(close_hive::<W>),
        create_hive: Some(create_hive::<W>),
    }
}

const FILE_NOT_FOUND: u32 = 2;
const INVALID_HANDLE: u32 = 6;
const WRITE_FAULT: u32 = 29;
const INVALID_PARAMETER: u32 = 87;
const ALREADY_EXISTS: u32 = 183;

fn call<const W: usize>(work: impl FnOnce(&mut World) -> Result<(), u32>) -> u32 {
    let mut slot = super::world(W);
    let done = slot.as_mut().ok_or(INVALID_HANDLE).and_then(|world| {
        world.call().map_err(|code| code.as_win32().map_or(1, u32::from))?;
        work(world)
    });
    done.err().unwrap_or(0)
}

/// # Safety
/// `string` is NULL or ends in a NUL.
unsafe fn text(string: Pcwstr) -> Result<String, u32> {
    // SAFETY: passed on to the caller.
    unsafe { super::functions::text(string) }.map_err(|_| INVALID_PARAMETER)
}

// Of all functions:
//
// # Safety
// Strings are NULL or end in a NUL; pointers to results are NULL or point to a place for them. Handles may be anything.

unsafe extern "system" fn open_hive<const W: usize>(file: Pcwstr, key: *mut RegistryHandle) -> u32 {
    call::<W>(|world| {
        // SAFETY: the string is as the caller promises.
        let bytes = fs::read(unsafe { text(file) }?).map_err(|_| FILE_NOT_FOUND)?;
        // SAFETY: and so is the place of the result.
        unsafe { put(key, world.new_hive(bytes)) }
    })
}

unsafe extern "system" fn create_hive<const W: usize>(key: *mut RegistryHandle) -> u32 {
    // SAFETY: the place of the result is as the caller promises.
    call::<W>(|world| unsafe { put(key, world.new_hive(Vec::new())) })
}

unsafe extern "system" fn merge_hives<const W: usize>(
    keys: *const RegistryHandle,
    count: u32,
    merged: *mut RegistryHandle,
) -> u32 {
    call::<W>(|world| {
        if keys.is_null() || count < 2 {
            return Err(INVALID_PARAMETER);
        }
        // SAFETY: so many keys are there, says the caller.
        let keys = unsafe { slice::from_raw_parts(keys, count as usize) };
        let mut bytes = Vec::new();
        for key in keys {
            bytes.extend_from_slice(world.hives.get(&(*key as usize)).ok_or(INVALID_HANDLE)?);
        }
        // SAFETY: the place of the result is as the caller promises.
        unsafe { put(merged, world.new_hive(bytes)) }
    })
}

unsafe extern "system" fn save_hive<const W: usize>(
    key: RegistryHandle,
    file: Pcwstr,
    major: u32,
    minor: u32,
) -> u32 {
    call::<W>(|world| {
        // SAFETY: the string is as the caller promises.
        let path = unsafe { text(file) }?;
        let bytes = world.hives.get(&(key as usize)).ok_or(INVALID_HANDLE)?;
        let mut file = fs::File::create_new(path).map_err(|error| match error.kind() {
            IoKind::AlreadyExists => ALREADY_EXISTS,
            _ => WRITE_FAULT,
        })?;
        let head = format!("{MERGED} {major}.{minor}\n");
        file.write_all(head.as_bytes()).and_then(|()| file.write_all(bytes)).map_err(|_| WRITE_FAULT)
    })
}

unsafe extern "system" fn close_hive<const W: usize>(key: RegistryHandle) -> u32 {
    // Closing does not count as a call: it cannot be made to fail.
    let mut slot = super::world(W);
    match slot.as_mut().and_then(|world| world.hives.remove(&(key as usize))) {
        Some(_) => 0,
        None => INVALID_HANDLE,
    }
}

/// # Safety
/// `to` is NULL or points to a place for a handle.
unsafe fn put(to: *mut RegistryHandle, handle: usize) -> Result<(), u32> {
    if to.is_null() {
        return Err(INVALID_PARAMETER);
    }
    // SAFETY: the caller says that it is such a place.
    unsafe { to.write(handle as RegistryHandle) };
    Ok(())
}
