//! `cimfs.h` and `offreg.h`, as they are: structures, handles, function pointers.

use std::{
    ffi::{CStr, c_void},
    fmt,
    mem::{align_of, offset_of, size_of},
};

/// `CIMFS_IMAGE_HANDLE`: opaque.
pub type ImageHandle = *mut c_void;
/// `CIMFS_STREAM_HANDLE`: opaque.
pub type StreamHandle = *mut c_void;
/// `ORHKEY`: opaque.
pub type RegistryHandle = *mut c_void;
/// A result code; negative when the call failed.
pub type Hresult = i32;
/// A wide string that ends in a NUL.
pub type Pcwstr = *const u16;

/// `CIMFS_FILE_METADATA`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FileMetadata {
    /// `FILE_ATTRIBUTE_*`.
    pub attributes: u32,
    /// The size of the main stream, 0 for directories.
    pub file_size: i64,
    /// A `FILETIME`, as all times here.
    pub creation_time: i64,
    /// When the content was written.
    pub last_write_time: i64,
    /// When anything was changed.
    pub change_time: i64,
    /// When it was read.
    pub last_access_time: i64,
    /// A self-relative security descriptor.
    pub security_descriptor: *const c_void,
    /// Its size in bytes.
    pub security_descriptor_size: u32,
    /// A `REPARSE_DATA_BUFFER`.
    pub reparse_data: *const c_void,
    /// Its size in bytes.
    pub reparse_data_size: u32,
    /// A chain of `FILE_FULL_EA_INFORMATION`.
    pub ea: *const c_void,
    /// Its size in bytes.
    pub ea_size: u32,
}

/// `CIMFS_IMAGE_PATH`: where one image of a merged mount is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ImagePath {
    /// The image directory, or the container.
    pub dir: Pcwstr,
    /// The name of the image in there.
    pub name: Pcwstr,
}

/// `GUID`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RawGuid {
    /// The first eight digits.
    pub data1: u32,
    /// Four more.
    pub data2: u16,
    /// Four more.
    pub data3: u16,
    /// The rest.
    pub data4: [u8; 8],
}

/// `FILE_STAT_BASIC_INFORMATION`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FileStatBasicInformation {
    /// The file's number.
    pub file_id: i64,
    /// A `FILETIME`, as all times here.
    pub creation_time: i64,
    /// When it was read.
    pub last_access_time: i64,
    /// When the content was written.
    pub last_write_time: i64,
    /// When anything was changed.
    pub change_time: i64,
    /// What the content takes.
    pub allocation_size: i64,
    /// The size of the content.
    pub end_of_file: i64,
    /// `FILE_ATTRIBUTE_*`.
    pub file_attributes: u32,
    /// The tag of the reparse data.
    pub reparse_tag: u32,
    /// How many names the file has.
    pub number_of_links: u32,
    /// The device's type.
    pub device_type: u32,
    /// The device's characteristics.
    pub device_characteristics: u32,
    /// Nothing.
    pub reserved: u32,
    /// The volume's number.
    pub volume_serial_number: i64,
    /// The file's number, in its long form.
    pub file_id_128: [u8; 16],
}

// Offsets that were seen in a program cross-compiled against the header, for the targets with CimFS.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<FileMetadata>() == 96 && align_of::<FileMetadata>() == 8);
    assert!(offset_of!(FileMetadata, attributes) == 0);
    assert!(offset_of!(FileMetadata, file_size) == 8);
    assert!(offset_of!(FileMetadata, creation_time) == 16);
    assert!(offset_of!(FileMetadata, last_write_time) == 24);
    assert!(offset_of!(FileMetadata, change_time) == 32);
    assert!(offset_of!(FileMetadata, last_access_time) == 40);
    assert!(offset_of!(FileMetadata, security_descriptor) == 48);
    assert!(offset_of!(FileMetadata, security_descriptor_size) == 56);
    assert!(offset_of!(FileMetadata, reparse_data) == 64);
    assert!(offset_of!(FileMetadata, reparse_data_size) == 72);
    assert!(offset_of!(FileMetadata, ea) == 80);
    assert!(offset_of!(FileMetadata, ea_size) == 88);
    assert!(size_of::<ImagePath>() == 16);
};
#[cfg(all(target_pointer_width = "32", windows))]
const _: () = {
    assert!(size_of::<FileMetadata>() == 72 && align_of::<FileMetadata>() == 8);
    assert!(offset_of!(FileMetadata, security_descriptor) == 48);
    assert!(offset_of!(FileMetadata, security_descriptor_size) == 52);
    assert!(offset_of!(FileMetadata, reparse_data) == 56);
    assert!(offset_of!(FileMetadata, reparse_data_size) == 60);
    assert!(offset_of!(FileMetadata, ea) == 64);
    assert!(offset_of!(FileMetadata, ea_size) == 68);
};
const _: () = {
    assert!(size_of::<ImageHandle>() == size_of::<usize>());
    assert!(size_of::<RawGuid>() == 16 && align_of::<RawGuid>() == 4);
    assert!(size_of::<FileStatBasicInformation>() == 104);
    assert!(offset_of!(FileStatBasicInformation, file_attributes) == 56);
    assert!(offset_of!(FileStatBasicInformation, volume_serial_number) == 80);
};

/// A DLL of which functions are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dll {
    /// `cimwriter.dll` where it is there, else `cimfs.dll`.
    Writer,
    /// `cimfs.dll`.
    Cimfs,
    /// `offreg.dll`.
    Offreg,
}

macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($(#[$fdoc:meta])* $field:ident, $name:literal in $dll:ident:
        fn($($arg:ty),* $(,)?) $(-> $ret:ty)?;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default)]
        #[non_exhaustive]
        pub struct $table {
            $($(#[$fdoc])* pub $field: Option<unsafe extern "system" fn($($arg),*) $(-> $ret)?>,)*
        }

        impl $table {
            /// The names under which the DLLs export the functions, in the order of the fields.
            pub const NAMES: &'static [&'static CStr] = &[$($name),*];

            /// Fills the table with what `lookup` finds; NULL stands for a function that is not there.
            ///
            /// # Safety
            /// What `lookup` gives for a name is the function of that name, with the signature of its field, and can
            /// be called as long as the table or a copy of it is used.
            pub unsafe fn load(mut lookup: impl FnMut(Dll, &'static CStr) -> *const c_void) -> Self {
                Self {
                    $($field: {
                        let address = lookup(Dll::$dll, $name);
                        // SAFETY: an `Option` of a function pointer has the size of a pointer and is `None` for NULL;
                        // that another address is a function of this signature is what the caller promises.
                        unsafe {
                            std::mem::transmute::<
                                *const c_void,
                                Option<unsafe extern "system" fn($($arg),*) $(-> $ret)?>,
                            >(address)
                        }
                    },)*
                }
            }

            /// The names of the functions that are there.
            pub fn present(&self) -> Vec<&'static CStr> {
                let there = [$(self.$field.is_some()),*];
                Self::NAMES.iter().zip(there).filter(|(_, there)| *there).map(|(name, _)| *name).collect()
            }

            /// The same table without the function `name`.
            #[must_use]
            pub fn without(mut self, name: &CStr) -> Self {
                $(if name == $name { self.$field = None; })*
                self
            }

            /// Which DLL has the function `name`.
            pub fn dll(name: &CStr) -> Option<Dll> {
                $(if name == $name { return Some(Dll::$dll); })*
                None
            }
        }

        impl fmt::Debug for $table {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($table)).field(&self.present()).finish()
            }
        }
    };
}

functions! {
    /// The functions of CimFS, each [`None`] where the system does not have it.
    ///
    /// Arguments are named in the documentation of each field, in order; those with a question mark may be NULL.
    CimTable {
        /// Directory, existing image?, new image?, handle.
        create_image, c"CimCreateImage" in Writer: fn(Pcwstr, Pcwstr, Pcwstr, *mut ImageHandle) -> Hresult;
        /// Directory or container, flags, existing image?, new image?, handle.
        create_image2, c"CimCreateImage2" in Writer: fn(Pcwstr, u32, Pcwstr, Pcwstr, *mut ImageHandle) -> Hresult;
        /// The image, committed or not.
        close_image, c"CimCloseImage" in Writer: fn(ImageHandle);
        /// The image.
        commit_image, c"CimCommitImage" in Writer: fn(ImageHandle) -> Hresult;
        /// The image, path, metadata, stream.
        create_file, c"CimCreateFile" in Writer:
            fn(ImageHandle, Pcwstr, *const FileMetadata, *mut StreamHandle) -> Hresult;
        /// The image, `path:name`, size, stream.
        create_alternate_stream, c"CimCreateAlternateStream" in Writer:
            fn(ImageHandle, Pcwstr, u64, *mut StreamHandle) -> Hresult;
        /// The stream, bytes, how many.
        write_stream, c"CimWriteStream" in Writer: fn(StreamHandle, *const c_void, u32) -> Hresult;
        /// The stream. Returns nothing, whatever bindings of other languages say.
        close_stream, c"CimCloseStream" in Writer: fn(StreamHandle);
        /// The image, path.
        delete_path, c"CimDeletePath" in Writer: fn(ImageHandle, Pcwstr) -> Hresult;
        /// The image, new path, existing path.
        create_hard_link, c"CimCreateHardLink" in Writer: fn(ImageHandle, Pcwstr, Pcwstr) -> Hresult;
        /// The image, path.
        tombstone_file, c"CimTombstoneFile" in Writer: fn(ImageHandle, Pcwstr) -> Hresult;
        /// The image, new path, existing path.
        create_merge_link, c"CimCreateMergeLink" in Writer: fn(ImageHandle, Pcwstr, Pcwstr) -> Hresult;
        /// The merged image, name of the image to add.
        add_fs_to_merged_image, c"CimAddFsToMergedImage" in Writer: fn(ImageHandle, Pcwstr) -> Hresult;
        /// The merged image, container and name of the image to add, flags.
        add_fs_to_merged_image2, c"CimAddFsToMergedImage2" in Writer: fn(ImageHandle, Pcwstr, u32) -> Hresult;
        /// Container, size of the hash, size of the fixed header, hash.
        seal_image, c"CimSealImage" in Writer: fn(Pcwstr, *mut u64, *mut u64, *mut u8) -> Hresult;
        /// Container, whether sealed, size of the hash, of the signature, of the fixed header, hash, signature?.
        get_verification_information, c"CimGetVerificationInformation" in Writer:
            fn(Pcwstr, *mut u32, *mut u64, *mut u64, *mut u64, *mut u8, *mut u8) -> Hresult;
        /// Directory or container, name, flags, volume.
        mount_image, c"CimMountImage" in Cimfs: fn(Pcwstr, Pcwstr, u32, *const RawGuid) -> Hresult;
        /// Volume.
        dismount_image, c"CimDismountImage" in Cimfs: fn(*const RawGuid) -> Hresult;
        /// How many images, images, flags, volume.
        merge_mount_image, c"CimMergeMountImage" in Cimfs:
            fn(u32, *const ImagePath, u32, *const RawGuid) -> Hresult;
        /// Container, name, flags, volume, size of the hash, hash.
        mount_verified_image, c"CimMountVerifiedImage" in Cimfs:
            fn(Pcwstr, Pcwstr, u32, *const RawGuid, u16, *const u8) -> Hresult;
        /// How many images, images, flags, volume, size of the hash, hash.
        merge_mount_verified_image, c"CimMergeMountVerifiedImage" in Cimfs:
            fn(u32, *const ImagePath, u32, *const RawGuid, u16, *const u8) -> Hresult;
        /// Image, file, offset, buffer, its size, how many bytes were read, how many remain.
        read_file, c"CimReadFile" in Cimfs:
            fn(Pcwstr, Pcwstr, u64, *mut c_void, u64, *mut u64, *mut u64) -> Hresult;
        /// Image, file, information.
        get_file_stat, c"CimGetFileStatBasicInformation" in Cimfs:
            fn(Pcwstr, Pcwstr, *mut FileStatBasicInformation) -> Hresult;
        /// Container, name, directory of the new image.
        convert_block_image, c"CimConvertBlockImage" in Cimfs: fn(Pcwstr, Pcwstr, Pcwstr) -> Hresult;
    }
}

functions! {
    /// The functions of the offline registry that merge hives. They return Win32 error codes, 0 for success.
    OffregTable {
        /// File, key.
        open_hive, c"OROpenHive" in Offreg: fn(Pcwstr, *mut RegistryHandle) -> u32;
        /// Keys, how many, key of the result.
        merge_hives, c"ORMergeHives" in Offreg: fn(*const RegistryHandle, u32, *mut RegistryHandle) -> u32;
        /// Key, file, major and minor version of the system it is for.
        save_hive, c"ORSaveHive" in Offreg: fn(RegistryHandle, Pcwstr, u32, u32) -> u32;
        /// Key.
        close_hive, c"ORCloseHive" in Offreg: fn(RegistryHandle) -> u32;
        /// Key.
        create_hive, c"ORCreateHive" in Offreg: fn(*mut RegistryHandle) -> u32;
    }
}
