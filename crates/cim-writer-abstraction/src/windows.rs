//! CimFS of the running Windows: its DLLs are loaded, and fill the tables.
//!
//! Nothing else is here. What can be got wrong about calling them is in [`table`](crate::table), and tested everywhere.
//! DLLs are looked for in the system's directory and that of the application, in no other. Which one writes images,
//! `cimwriter.dll` or `cimfs.dll`, is decided once in a process; they stay loaded until it ends.
#![expect(unsafe_code, reason = "calls of kernel32, ntdll and advapi32")]

use std::{
    ffi::{CStr, c_void},
    ptr,
    sync::{Arc, OnceLock},
};

use layer_model::{Error, ErrorKind, Result};

use crate::{
    caps::{Capabilities, Found, OsVersion},
    path::utf16,
    table::{
        CimApi, CimTable, HResult, HostFiles, OfflineRegistry, OffregTable,
        raw::{Dll, Pcwstr},
    },
};

/// The functions of CimFS. Those that this Windows does not have are missing in the table; [`Capabilities::probe`] says
/// what works.
///
/// # Errors
/// [`ErrorKind::NotSupported`] when there is neither `cimfs.dll` nor `cimwriter.dll`.
pub fn cimfs() -> Result<CimApi> {
    let libraries = Libraries::get();
    if libraries.writer().is_none() && libraries.cimfs.is_none() {
        let what = "this Windows has neither cimfs.dll nor cimwriter.dll";
        return Err(Error::new(ErrorKind::NotSupported, what));
    }
    let lookup = |dll, name| libraries.find(dll, name);
    // SAFETY: the names are those of the SDK's header, and so are the signatures of the fields; the DLLs are loaded
    // as long as the process runs.
    let table = unsafe { CimTable::load(lookup) };
    // SAFETY: the functions are those of CimFS itself.
    Ok(unsafe { CimApi::new(table, message, Arc::new(HostFiles)) })
}

/// The offline registry, which merges hives for this Windows.
///
/// # Errors
/// [`ErrorKind::NotSupported`] when there is no `offreg.dll`.
pub fn offline_registry() -> Result<OfflineRegistry> {
    let libraries = Libraries::get();
    if libraries.offreg.is_none() {
        return Err(Error::new(ErrorKind::NotSupported, "this Windows has no offreg.dll"));
    }
    // SAFETY: as for `cimfs`.
    let table = unsafe { OffregTable::load(|dll, name| libraries.find(dll, name)) };
    // SAFETY: the functions are those of the offline registry itself.
    Ok(unsafe { OfflineRegistry::new(table, message, os_version()) })
}

impl Capabilities {
    /// What the running Windows can do: its build, its update revision, and the functions that its DLLs have.
    pub fn probe() -> Self {
        let libraries = Libraries::get();
        let exports = |dll: Option<Module>, names: &[&'static CStr]| -> Option<Vec<&'static str>> {
            let there = |name: &&&'static CStr| dll.is_some_and(|dll| !dll.find(name).is_null());
            dll.map(|_| names.iter().filter(there).filter_map(|name| name.to_str().ok()).collect())
        };
        let cimfs = exports(libraries.cimfs, CimTable::NAMES);
        let cimwriter = exports(libraries.cimwriter, CimTable::NAMES);
        let offreg = exports(libraries.offreg, OffregTable::NAMES);
        let mut found = Found::new(os_version());
        if let Some(exports) = &cimfs {
            found = found.cimfs(exports);
        }
        if let Some(exports) = &cimwriter {
            found = found.cimwriter(exports);
        }
        if let Some(exports) = &offreg {
            found = found.offreg(exports);
        }
        Self::judge(&found)
    }
}

/// The DLLs that could be loaded.
#[derive(Debug)]
struct Libraries {
    cimfs: Option<Module>,
    cimwriter: Option<Module>,
    offreg: Option<Module>,
}

impl Libraries {
    fn get() -> &'static Self {
        static LIBRARIES: OnceLock<Libraries> = OnceLock::new();
        LIBRARIES.get_or_init(|| Libraries {
            cimfs: Module::load("cimfs.dll"),
            cimwriter: Module::load("cimwriter.dll"),
            offreg: Module::load("offreg.dll"),
        })
    }

    fn writer(&self) -> Option<Module> {
        self.cimwriter.or(self.cimfs)
    }

    fn find(&self, dll: Dll, name: &CStr) -> *const c_void {
        let module = match dll {
            Dll::Writer => self.writer(),
            Dll::Cimfs => self.cimfs,
            Dll::Offreg => self.offreg,
        };
        module.map_or(ptr::null(), |module| module.find(name))
    }
}

/// A DLL that is loaded until the process ends: the number of its module, which is its address.
#[derive(Clone, Copy, Debug)]
struct Module(usize);

impl Module {
    fn load(name: &str) -> Option<Self> {
        const SEARCH_APPLICATION_DIR: u32 = 0x200;
        const SEARCH_SYSTEM32: u32 = 0x800;
        let name = wide(name);
        let flags = SEARCH_APPLICATION_DIR | SEARCH_SYSTEM32;
        // SAFETY: the name ends in a NUL; the second argument has to be NULL.
        let module = unsafe { LoadLibraryExW(name.as_ptr(), ptr::null_mut(), flags) };
        (!module.is_null()).then_some(Self(module as usize))
    }

    fn find(self, name: &CStr) -> *const c_void {
        // SAFETY: the module is loaded, and the name ends in a NUL.
        unsafe { GetProcAddress(self.0 as *mut c_void, name.as_ptr().cast()) }
    }
}

/// `OSVERSIONINFOW`.
#[repr(C)]
struct OsVersionInfo {
    size: u32,
    major: u32,
    minor: u32,
    build: u32,
    platform: u32,
    service_pack: [u16; 128],
}
const _: () = assert!(size_of::<OsVersionInfo>() == 276);

/// The version of the running system, as it is: `GetVersionEx` says what the application's manifest wants to hear.
pub fn os_version() -> OsVersion {
    let mut info =
        OsVersionInfo { size: 276, major: 0, minor: 0, build: 0, platform: 0, service_pack: [0; 128] };
    // SAFETY: the structure is as large as it says.
    unsafe { RtlGetVersion(&mut info) };
    OsVersion { major: info.major, minor: info.minor, build: info.build, revision: update_revision() }
}

/// The update build revision, 0 where the registry does not tell.
fn update_revision() -> u32 {
    const LOCAL_MACHINE: usize = 0x8000_0002_u32 as i32 as isize as usize;
    const DWORD_ONLY: u32 = 0x10;
    let key = wide("SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion");
    let value = wide("UBR");
    let (mut revision, mut size) = (0_u32, 4_u32);
    // SAFETY: the strings end in a NUL, and there is room for the four bytes that a DWORD has.
    let status = unsafe {
        RegGetValueW(
            LOCAL_MACHINE as *mut c_void,
            key.as_ptr(),
            value.as_ptr(),
            DWORD_ONLY,
            ptr::null_mut(),
            (&raw mut revision).cast(),
            &mut size,
        )
    };
    if status == 0 { revision } else { 0 }
}

/// What the system says about a code.
fn message(code: HResult) -> Option<String> {
    const FROM_SYSTEM: u32 = 0x1000;
    const IGNORE_INSERTS: u32 = 0x200;
    let mut text = [0_u16; 1024];
    // SAFETY: the text may be as long as the array; without inserts there are no arguments.
    let len = unsafe {
        FormatMessageW(
            FROM_SYSTEM | IGNORE_INSERTS,
            ptr::null(),
            code.0 as u32,
            0,
            text.as_mut_ptr(),
            text.len() as u32,
            ptr::null_mut(),
        )
    };
    match len as usize {
        0 => None,
        len => Some(String::from_utf16_lossy(&text[..len.min(text.len())]).trim_end().to_owned()),
    }
}

fn wide(text: &str) -> Vec<u16> {
    let mut units = utf16(text.as_bytes());
    units.push(0);
    units
}

#[link(name = "kernel32")]
unsafe extern "system" {
    fn LoadLibraryExW(name: Pcwstr, file: *mut c_void, flags: u32) -> *mut c_void;
    fn GetProcAddress(module: *mut c_void, name: *const u8) -> *const c_void;
    fn FormatMessageW(
        flags: u32,
        source: *const c_void,
        message: u32,
        language: u32,
        buffer: *mut u16,
        size: u32,
        arguments: *mut c_void,
    ) -> u32;
}

#[link(name = "ntdll")]
unsafe extern "system" {
    fn RtlGetVersion(info: *mut OsVersionInfo) -> i32;
}

#[link(name = "advapi32")]
unsafe extern "system" {
    fn RegGetValueW(
        key: *mut c_void,
        subkey: Pcwstr,
        value: Pcwstr,
        flags: u32,
        kind: *mut u32,
        data: *mut c_void,
        size: *mut u32,
    ) -> i32;
}
