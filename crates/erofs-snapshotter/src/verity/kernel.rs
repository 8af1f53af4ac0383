//! The two requests of fs-verity, which no library wraps. The only unsafe code of the crate.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use rustix::{
    io::Errno,
    ioctl::{Setter, Updater, ioctl, opcode},
};

/// `struct fsverity_enable_arg` of `linux/fsverity.h`.
#[repr(C)]
#[derive(Default)]
struct EnableArg {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// `struct fsverity_digest`, whose last field has any length: the number of the request is made of the two
/// first.
#[repr(C)]
pub(super) struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; MAX_DIGEST],
}

/// That of SHA-512, the longest hash.
const MAX_DIGEST: usize = 64;

const SHA256: u16 = 1;
const BLOCK_SIZE: u32 = 4096;

const ENABLE: rustix::ioctl::Opcode = opcode::write::<EnableArg>(b'f', 133);
const MEASURE: rustix::ioctl::Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);

const _: () = assert!(size_of::<EnableArg>() == 128 && size_of::<Measured>() == 4 + MAX_DIGEST);

impl Measured {
    /// The digest, if it is one of SHA-256.
    pub(super) fn sha256(&self) -> Option<&[u8]> {
        (self.algorithm == SHA256).then(|| self.digest.get(..usize::from(self.size))).flatten()
    }
}

/// Builds the Merkle tree of a file that nobody has open for writing, and protects it.
pub(super) fn enable(file: impl AsFd) -> Result<(), Errno> {
    let arg = EnableArg {
        version: 1,
        hash_algorithm: SHA256.into(),
        block_size: BLOCK_SIZE,
        ..EnableArg::default()
    };
    // SAFETY: the number is that of FS_IOC_ENABLE_VERITY, which reads a `struct fsverity_enable_arg`; `EnableArg` has its
    // layout, and both pointers in it are null, with lengths of 0.
    unsafe { ioctl(file, Setter::<ENABLE, EnableArg>::new(arg)) }
}

/// The digest that the kernel checks the file against.
pub(super) fn measure(file: impl AsFd) -> Result<Measured, Errno> {
    let mut measured = Measured { algorithm: 0, size: MAX_DIGEST as u16, digest: [0; MAX_DIGEST] };
    // SAFETY: the number is that of FS_IOC_MEASURE_VERITY, which takes a `struct fsverity_digest`, reads from it how many
    // bytes of digest there is room for, and writes at most that many behind it: `digest` has them.
    unsafe { ioctl(file, Updater::<MEASURE, Measured>::new(&mut measured))? };
    Ok(measured)
}
