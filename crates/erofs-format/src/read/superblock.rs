//! The superblock and the tables that it points to, interpreted and checked.

use crate::{
    error::{Error, ErrorKind, Result},
    hash,
    raw::{
        self, NID_IN_METABOX, compress, device,
        superblock::{
            self as sb, EXT_SLOT_SIZE, MAX_BLOCK_BITS, MIN_BLOCK_BITS, OFFSET, SuperblockExt, compat,
            incompat,
        },
    },
    source::ReadAt,
    types::Nid,
};

use super::meta::structure;

/// What the superblock says, with the parts of split fields joined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Superblock {
    /// The block size as a power of two.
    pub block_bits: u8,
    /// [`compat`] bits, unknown ones included.
    pub feature_compat: u32,
    /// [`incompat`] bits, all known.
    pub feature_incompat: u32,
    /// The root directory.
    pub root: Nid,
    /// How many inodes there are, as the image claims.
    pub inodes: u64,
    /// How many blocks the primary image has, as it claims.
    pub blocks: u64,
    /// Seconds that the times of compact inodes start from.
    pub epoch: i64,
    /// Nanoseconds of the times of compact inodes.
    pub fixed_nsec: u32,
    /// When the image was built, in seconds since 1970.
    pub build_time: i64,
    /// Where nid 0 is, in bytes.
    pub meta_start: u64,
    /// Where shared xattr 0 is, in bytes (of the metabox, if shared xattrs are there).
    pub xattr_start: u64,
    /// The UUID, in RFC 4122 byte order.
    pub uuid: [u8; 16],
    /// The label, without padding.
    pub volume_name: Vec<u8>,
    /// The inode with the fragments of compressed files.
    pub packed: Option<Nid>,
    /// The inode with metadata as content.
    pub metabox: Option<Nid>,
    /// The checksum, if there is one.
    pub checksum: Option<u32>,
    /// Algorithms of compressed data, one bit each as in [`raw::superblock::Superblock::u1`].
    pub algorithms: u16,
    /// The size of the superblock with its extensions and algorithm records, in bytes from 1024.
    pub size: u64,
    pub(super) extra_devices: u16,
    pub(crate) device_table: u64,
    pub(super) prefix_count: u8,
    pub(super) prefix_start: u64,
    pub(super) filter_usable: bool,
}

impl Superblock {
    /// The block size in bytes.
    pub fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// Whether all these [`incompat`] bits are set.
    pub fn has(&self, bits: u32) -> bool {
        self.feature_incompat & bits == bits
    }

    /// Whether all these [`compat`] bits are set.
    pub fn has_compat(&self, bits: u32) -> bool {
        self.feature_compat & bits == bits
    }

    pub(super) fn read(source: &dyn ReadAt, verify_checksum: bool) -> Result<Self> {
        let mut bytes = [0; size_of::<sb::Superblock>()];
        if source.size() < OFFSET + bytes.len() as u64 {
            return Err(not_erofs("is too short for an image"));
        }
        read(source, &mut bytes, OFFSET)?;
        let raw: sb::Superblock = structure(&bytes, "superblock", OFFSET)?;
        if raw.magic.get() != sb::MAGIC {
            return Err(not_erofs("has another magic number"));
        }
        let bits = raw.blkszbits;
        if !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&bits) {
            return Err(broken(12, format!("the block size 2^{bits} does not exist")));
        }
        let unknown = raw.feature_incompat.get() & !incompat::ALL;
        if unknown != 0 {
            let message = format!("unknown incompatible features {unknown:#x}");
            return Err(Error::unsupported("superblock", OFFSET + 80, message));
        }
        if raw.dirblkbits != 0 {
            return Err(Error::unsupported("superblock", OFFSET + 90, "directory blocks differ from blocks"));
        }
        if verify_checksum && raw.feature_compat.get() & compat::SB_CHKSUM != 0 {
            let computed = checksum(source, bits)?;
            if computed != raw.checksum.get() {
                let message = format!("checksum is {computed:#010x}, not {:#010x}", raw.checksum.get());
                return Err(Error::new(ErrorKind::ChecksumMismatch, "superblock", message).at(OFFSET + 4));
            }
        }
        Self::interpret(source, &raw)
    }

    fn interpret(source: &dyn ReadAt, raw: &sb::Superblock) -> Result<Self> {
        let block_size = 1u64 << raw.blkszbits;
        let features = raw.feature_incompat.get();
        let wide = features & incompat::FORMAT_48BIT != 0;
        let base_size = size_of::<sb::Superblock>() as u64;
        let mut size = base_size + u64::from(raw.sb_extslots) * EXT_SLOT_SIZE;
        if OFFSET + size > block_size.max(4096) || OFFSET + size > source.size() {
            return Err(broken(13, "the extension slots run out of the first block"));
        }
        let (root, blocks_hi) = match raw.rootnid_8b.get() {
            nid if wide && nid != 0 => (nid, u64::from(raw.rootnid_2b.get())),
            _ => (u64::from(raw.rootnid_2b.get()), 0),
        };
        let metabox =
            (features & incompat::METABOX != 0).then(|| Self::metabox_nid(source, raw)).transpose()?;
        let packed = raw.packed_nid.get();
        let packed = (features & incompat::FRAGMENTS != 0 && packed != 0).then_some(Nid(packed));
        if packed.is_some_and(Nid::in_metabox) {
            return Err(broken(96, "the packed inode is in the metabox"));
        }
        if raw.fixed_nsec.get() >= 1_000_000_000 {
            return Err(broken(32, "a second has fewer nanoseconds"));
        }
        let mut algorithms = 0;
        if features & incompat::COMPR_CFGS != 0 {
            algorithms = raw.u1.get();
            size = check_algorithms(source, algorithms, OFFSET + size, block_size)? - OFFSET;
        }
        let epoch = raw.epoch.get();
        let name_len = raw.volume_name.iter().position(|&b| b == 0).unwrap_or(raw.volume_name.len());
        let has_devices = features & incompat::DEVICE_TABLE != 0;
        let has_prefixes = features & incompat::XATTR_PREFIXES != 0;
        Ok(Self {
            block_bits: raw.blkszbits,
            feature_compat: raw.feature_compat.get(),
            feature_incompat: features,
            root: Nid(root),
            inodes: raw.inos.get(),
            blocks: blocks_hi << 32 | u64::from(raw.blocks_lo.get()),
            epoch,
            fixed_nsec: raw.fixed_nsec.get(),
            build_time: epoch.saturating_add(if wide { i64::from(raw.build_time.get()) } else { 0 }),
            meta_start: u64::from(raw.meta_blkaddr.get()) << raw.blkszbits,
            xattr_start: u64::from(raw.xattr_blkaddr.get()) << raw.blkszbits,
            uuid: raw.uuid,
            volume_name: raw.volume_name[..name_len].to_vec(),
            packed,
            metabox,
            checksum: (raw.feature_compat.get() & compat::SB_CHKSUM != 0).then(|| raw.checksum.get()),
            algorithms,
            size,
            extra_devices: if has_devices { raw.extra_devices.get() } else { 0 },
            device_table: u64::from(raw.devt_slotoff.get()) * device::SLOT_SIZE,
            prefix_count: if has_prefixes { raw.xattr_prefix_count } else { 0 },
            prefix_start: u64::from(raw.xattr_prefix_start.get()) * 4,
            filter_usable: raw.feature_compat.get() & compat::XATTR_FILTER != 0
                && raw.xattr_filter_reserved == 0,
        })
    }

    fn metabox_nid(source: &dyn ReadAt, raw: &sb::Superblock) -> Result<Nid> {
        if raw.sb_extslots == 0 {
            return Err(broken(13, "an image with a metabox has no extension slot"));
        }
        let mut bytes = [0; size_of::<SuperblockExt>()];
        read(source, &mut bytes, OFFSET + 128)?;
        let nid = structure::<SuperblockExt>(&bytes, "superblock", OFFSET + 128)?.metabox_nid.get();
        if nid == 0 || nid & NID_IN_METABOX != 0 {
            return Err(broken(128, "the metabox is not in the plain image"));
        }
        Ok(Nid(nid))
    }
}

/// An extra device, as the device table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// Free text, without its padding: a digest, a path, a UUID.
    pub tag: Vec<u8>,
    /// Size in blocks; some producers leave 0.
    pub blocks: u64,
    /// First block in the unified address space; 0: not mapped there.
    pub uniaddr: u64,
}

/// Reads the device table, slot 1 first.
pub(super) fn read_devices(source: &dyn ReadAt, sb: &Superblock) -> Result<Vec<Device>> {
    let count = u64::from(sb.extra_devices);
    let end = sb.device_table + count * device::SLOT_SIZE;
    if count > 0 && end > source.size() {
        return Err(Error::corrupt("device table", sb.device_table, "runs out of the image"));
    }
    let mut table = vec![0; (count * device::SLOT_SIZE) as usize];
    read(source, &mut table, sb.device_table)?;
    let mut devices = Vec::with_capacity(table.len() / device::SLOT_SIZE as usize);
    for (slot, bytes) in table.chunks_exact(device::SLOT_SIZE as usize).enumerate() {
        let at = sb.device_table + slot as u64 * device::SLOT_SIZE;
        let raw: device::DeviceSlot = structure(bytes, "device slot", at)?;
        let join = |hi: raw::U16, lo: raw::U32| {
            let hi = if sb.has(incompat::FORMAT_48BIT) { u64::from(hi.get()) } else { 0 };
            hi << 32 | u64::from(lo.get())
        };
        let tag_len = raw.tag.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        devices.push(Device {
            tag: raw.tag[..tag_len].to_vec(),
            blocks: join(raw.blocks_hi, raw.blocks_lo),
            uniaddr: join(raw.uniaddr_hi, raw.uniaddr_lo),
        });
    }
    let mut ranges: Vec<_> =
        devices.iter().filter(|d| d.uniaddr != 0).map(|d| (d.uniaddr, d.blocks)).collect();
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return Err(Error::corrupt(
            "device table",
            sb.device_table,
            "devices overlap in the unified address space",
        ));
    }
    Ok(devices)
}

/// Checks the algorithm records and returns where they end.
fn check_algorithms(source: &dyn ReadAt, algorithms: u16, mut at: u64, block_size: u64) -> Result<u64> {
    const WHAT: &str = "algorithm record";
    if algorithms >> 4 != 0 {
        return Err(Error::unsupported(WHAT, OFFSET + 84, format!("unknown algorithms {algorithms:#x}")));
    }
    for bit in (0..4u8).filter(|bit| algorithms >> bit & 1 != 0) {
        at = at.next_multiple_of(4);
        let mut length = [0; 2];
        let mut body = [0; 14];
        let least = if bit < 2 { 14 } else { 6 };
        if source.size() < at + 2 + least {
            return Err(Error::corrupt(WHAT, at, "runs out of the image"));
        }
        read(source, &mut length, at)?;
        read(source, &mut body[..least as usize], at + 2)?;
        let length = match u16::from_le_bytes(length) {
            0 => 1 << 16,
            length => u64::from(length),
        };
        let wrong = match bit {
            _ if length < least => Some("is too short"),
            0 => {
                let config: compress::Lz4Config = structure(&body, WHAT, at)?;
                let most = u64::from(config.max_pclusterblks.get()) * block_size;
                (most > 1 << 20).then_some("clusters exceed 1 MiB")
            }
            1 => {
                let config: compress::LzmaConfig = structure(&body, WHAT, at)?;
                let sound = (4096..=8 << 20).contains(&config.dict_size.get()) && config.format.get() == 0;
                (!sound).then_some("the dictionary size or the format is not one that exists")
            }
            2 => (body[0] > 15).then_some("the window exceeds 32 KiB"),
            _ => (body[0] != 0 || body[1] > 10).then_some("the window exceeds 1 MiB"),
        };
        if let Some(wrong) = wrong {
            return Err(Error::corrupt(WHAT, at, wrong));
        }
        at += 2 + length;
    }
    if at > source.size() {
        return Err(Error::corrupt(WHAT, at, "runs out of the image"));
    }
    Ok(at)
}

/// The checksum that the superblock should have.
fn checksum(source: &dyn ReadAt, block_bits: u8) -> Result<u32> {
    let block_size = 1usize << block_bits;
    let len = if block_size > OFFSET as usize { block_size - OFFSET as usize } else { block_size };
    if source.size() < OFFSET + len as u64 {
        return Err(broken(4, "the image ends inside the block that the checksum covers"));
    }
    let mut block = vec![0; len];
    read(source, &mut block, OFFSET)?;
    block[4..8].fill(0);
    Ok(hash::crc32c(&[&block]))
}

fn read(source: &dyn ReadAt, buf: &mut [u8], offset: u64) -> Result<()> {
    source.read_exact_at(buf, offset).map_err(|error| Error::io("read image", error).at(offset))
}

fn not_erofs(message: &'static str) -> Error {
    Error::new(ErrorKind::NotErofs, "superblock", message).at(OFFSET)
}

fn broken(field: u64, message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt("superblock", OFFSET + field, message)
}
