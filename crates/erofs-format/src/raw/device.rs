//! The table of extra devices.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U16, U32, layout};

/// The size of a slot; the table's position is counted in slots.
pub const SLOT_SIZE: u64 = 128;

/// One extra device. Slots count from 1.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceSlot {
    /// Free text, NUL padded: a digest, a path, a UUID. Not interpreted by ordinary mounts.
    pub tag: [u8; 64],
    /// Size of the device in blocks.
    pub blocks_lo: U32,
    /// First block of the device in the unified address space; 0: it is not mapped there.
    pub uniaddr_lo: U32,
    /// Bits 32 to 47 of `blocks`, 48-bit images only.
    pub blocks_hi: U16,
    /// Bits 32 to 47 of `uniaddr`, 48-bit images only.
    pub uniaddr_hi: U16,
    /// Reserved.
    pub reserved: [u8; 52],
}

impl Default for DeviceSlot {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

impl std::fmt::Debug for DeviceSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceSlot")
            .field("tag", &self.tag.escape_ascii().to_string())
            .field("blocks", &(u64::from(self.blocks_hi.get()) << 32 | u64::from(self.blocks_lo.get())))
            .field("uniaddr", &(u64::from(self.uniaddr_hi.get()) << 32 | u64::from(self.uniaddr_lo.get())))
            .finish_non_exhaustive()
    }
}

layout!(DeviceSlot, size 128, blocks_lo at 64, uniaddr_lo at 68, blocks_hi at 72, uniaddr_hi at 74);
