//! The suite for sinks over the exported functions: on Windows loaded from the DLLs as a program would, elsewhere by
//! their addresses.

use std::ffi::{CStr, c_void};

use cim_writer_abstraction::{
    CimKind, CimName, CimSink,
    hive::HiveMerger,
    table::{CimApi, TableSink},
    testing::{SinkCase, sink_conformance},
};

/// Writes the strings of the test's own calls.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

type Dump = unsafe extern "system" fn(*const u16, *const u16, *mut u8, usize, *mut usize) -> i32;

struct Exported {
    api: CimApi,
    dump: Dump,
    places: u32,
}

impl SinkCase for Exported {
    fn place(&mut self, kind: CimKind) -> String {
        self.places += 1;
        match kind {
            CimKind::Forked => format!("C:\\cims\\{}", self.places),
            CimKind::Block => format!("C:\\s\\{}\\layer.vhd", self.places),
        }
    }

    fn sink(&mut self) -> Box<dyn CimSink + '_> {
        Box::new(TableSink::new(self.api.clone()))
    }

    fn dump(&mut self, place: &str, name: &CimName) -> Option<String> {
        let (place, name) = (wide(place), wide(name.as_str()));
        let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
        let (at, room) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: strings end in a NUL, and the buffer is as large as said.
        let code = unsafe { (self.dump)(place.as_ptr(), name.as_ptr(), at, room, &mut size) };
        if code < 0 {
            return None;
        }
        buffer.truncate(size);
        Some(String::from_utf8(buffer).expect("a dump is text"))
    }
}

#[test]
fn the_exported_functions_keep_the_rules() {
    let mut case = Exported { api: library::api(), dump: library::dump(), places: 0 };
    sink_conformance(&mut case);
}

#[test]
fn every_function_of_the_emulator_is_exported() {
    let missing = [c"CimAddFsToMergedImage", c"CimConvertBlockImage"];
    let api = library::api();
    let present = api.table().present();
    for name in cim_writer_abstraction::table::CimTable::NAMES {
        assert_eq!(present.contains(name), !missing.contains(name), "{name:?}");
    }
}

#[test]
fn hives_are_merged_by_the_exported_registry() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("base"), "base ").expect("written");
    std::fs::write(at("delta"), "delta").expect("written");
    library::merger().merge(&at("base"), &at("delta"), &at("out")).expect("merged");
    let merged = std::fs::read_to_string(at("out")).expect("it is there");
    assert!(
        merged.starts_with("merged by the emulator for 10.0\n") && merged.ends_with("base delta"),
        "{merged}"
    );
}

/// The functions, by their addresses in this very program.
#[cfg(not(windows))]
mod library {
    use cim_emulator as dll;
    use cim_writer_abstraction::{
        caps::OsVersion,
        emu::Emulator,
        table::{CimTable, HResult, HostFiles, OfflineRegistry, OffregTable},
    };

    use super::*;

    fn address(name: &CStr) -> *const c_void {
        macro_rules! addresses {
            ($($function:ident)*) => {
                match name.to_str().expect("names are ASCII") {
                    $(stringify!($function) => dll::$function as *const c_void,)*
                    _ => std::ptr::null(),
                }
            };
        }
        addresses! {
            CimCreateImage CimCreateImage2 CimCloseImage CimCommitImage CimCreateFile CimCreateAlternateStream
            CimWriteStream CimCloseStream CimDeletePath CimCreateHardLink CimTombstoneFile CimCreateMergeLink
            CimAddFsToMergedImage2 CimSealImage CimGetVerificationInformation CimMountImage CimDismountImage
            CimMergeMountImage CimMountVerifiedImage CimMergeMountVerifiedImage CimReadFile
            CimGetFileStatBasicInformation OROpenHive ORMergeHives ORSaveHive ORCloseHive ORCreateHive
        }
    }

    fn no_message(_: HResult) -> Option<String> {
        None
    }

    pub(super) fn api() -> CimApi {
        // SAFETY: the functions are those of these names.
        let table = unsafe { CimTable::load(|_, name| address(name)) };
        // SAFETY: they do what the emulator does.
        unsafe { CimApi::new(table, no_message, std::sync::Arc::new(HostFiles)) }
    }

    pub(super) fn dump() -> Dump {
        dll::CimEmulatorDump
    }

    pub(super) fn merger() -> impl HiveMerger {
        let _ = Emulator::of_process();
        // SAFETY: the functions are those of these names.
        let table = unsafe { OffregTable::load(|_, name| address(name)) };
        let os = OsVersion { major: 10, minor: 0, ..OsVersion::default() };
        // SAFETY: they do what the emulator does.
        unsafe { OfflineRegistry::new(table, no_message, os) }
    }
}

/// The functions, loaded from the DLLs next to this program.
#[cfg(windows)]
mod library {
    use cim_writer_abstraction::windows;

    use super::*;

    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetModuleHandleW(name: *const u16) -> *mut c_void;
        fn GetProcAddress(module: *mut c_void, name: *const u8) -> *const c_void;
    }

    fn own(name: &CStr) -> *const c_void {
        let _ = api();
        // What was loaded to write images, by the same preference.
        for dll in ["cimwriter.dll", "cimfs.dll"] {
            // SAFETY: names end in a NUL; a module that is not loaded is NULL.
            let address = unsafe {
                let module = GetModuleHandleW(wide(dll).as_ptr());
                if module.is_null() { continue } else { GetProcAddress(module, name.as_ptr().cast()) }
            };
            assert!(!address.is_null(), "{dll} is not the emulator");
            return address;
        }
        panic!("no DLL is loaded: copy the emulator next to this program")
    }

    pub(super) fn api() -> CimApi {
        windows::cimfs().expect("the emulator is next to this program")
    }

    pub(super) fn dump() -> Dump {
        // SAFETY: the function of the emulator has this signature.
        unsafe { std::mem::transmute::<*const c_void, Dump>(own(c"CimEmulatorDump")) }
    }

    pub(super) fn merger() -> impl HiveMerger {
        windows::offline_registry().expect("the emulator is next to this program")
    }

    #[test]
    fn what_is_there_is_found_out() {
        use cim_writer_abstraction::Capabilities;
        let here = Capabilities::probe();
        assert!(here.os().is_some_and(|os| os.major >= 10 && os.build > 10_000), "{:?}", here.os());
        assert!(here.merge_hives().is_ok());
        // Wine says that it is a Windows without block CIMs; the writer's DLL brings them to any.
        // SAFETY: the name ends in a NUL.
        let writer = !unsafe { GetModuleHandleW(wide("cimwriter.dll").as_ptr()) }.is_null();
        assert_eq!(here.write_blocks().is_ok(), writer || here.os().is_some_and(|os| os.build >= 27_766));
    }

    #[test]
    fn write_calls_go_to_the_writers_dll_where_it_is() {
        // SAFETY: the function of the emulator has this signature.
        let calls: extern "system" fn() -> u64 = unsafe { std::mem::transmute(own(c"CimEmulatorCalls")) };
        let before = calls();
        let mut sink = TableSink::new(api());
        let name = CimName::new("1.cim").expect("a name");
        sink.op(&cim_writer_abstraction::CimOp::CreateImage {
            kind: CimKind::Forked,
            container: "C:\\counted",
            name: &name,
            parent: None,
            flags: cim_writer_abstraction::op::CreateFlags::empty(),
        })
        .expect("created");
        assert!(calls() > before);
    }
}
