//! The two system calls of loop devices, and the only unsafe code of the crate.
#![expect(unsafe_code, reason = "ioctls are the only way to loop devices")]

use std::{
    ffi::c_void,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use rustix::{
    io,
    ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl},
};

// Numbers of <linux/loop.h>. They are older than the encoding of direction and size, and the same everywhere.
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);
const _: () = assert!(std::mem::offset_of!(LoopInfo, file_name) == 56);

struct GetFree;

// SAFETY: the call takes no argument, touches no memory of ours, and returns a number or an error.
unsafe impl Ioctl for GetFree {
    type Output = u32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> io::Result<u32> {
        u32::try_from(out).map_err(|_| io::Errno::RANGE)
    }
}

/// The number of a loop device that nobody uses at this moment. `control` is `/dev/loop-control`.
pub(crate) fn free_number(control: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: see `GetFree`. Drivers other than the one of /dev/loop-control do not know the number.
    unsafe { ioctl(control, GetFree) }
}

/// Binds the loop device to a file, in blocks of `block_size` bytes, until its last user is gone. `name` is what
/// listings show, as far as it fits.
pub(crate) fn configure(
    device: BorrowedFd<'_>,
    file: impl AsFd,
    block_size: u32,
    read_only: bool,
    name: &Path,
) -> io::Result<()> {
    let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(|_| io::Errno::BADF)?;
    let mut file_name = [0; 64];
    // The last byte stays a NUL.
    let shown = name.as_os_str().as_encoded_bytes();
    let len = shown.len().min(file_name.len() - 1);
    file_name[..len].copy_from_slice(&shown[..len]);
    let info = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        // Direct I/O stays off: what layers read is read through the page cache of the file, once.
        flags: LO_FLAGS_AUTOCLEAR | if read_only { LO_FLAGS_READ_ONLY } else { 0 },
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let config = LoopConfig { fd, block_size, info, reserved: [0; 8] };
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config` from the pointer and writes nothing to it; the layout
    // is asserted above, and the descriptor in it is open as long as `file` is borrowed.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}
