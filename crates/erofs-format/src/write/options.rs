//! What a caller can choose about an image.

use std::{cmp::Reverse, collections::HashMap};

use crate::{
    error::Result,
    raw::{
        superblock::{MAX_BLOCK_BITS, MIN_BLOCK_BITS},
        xattr::{INFIX_MAX, LONG_PREFIX_MAX, base_prefix, split_name},
    },
    tree::unrepresentable,
    types::Timestamp,
};

/// The oldest kernel that has to read an image. Writers refuse what it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Target {
    /// Linux 5.4: flat files only.
    Linux5_4,
    /// Linux 5.16: chunk-based files, extra devices.
    Linux5_16,
    /// Linux 6.4: long xattr prefixes, blocks below 4096 bytes.
    #[default]
    Linux6_4,
    /// Linux 6.15: 48-bit images.
    Linux6_15,
}

/// What happens to modification times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Times {
    /// They are kept.
    #[default]
    Keep,
    /// All become this one. With the epoch set to it, every inode can be compact.
    All(Timestamp),
    /// Later ones become this one (`SOURCE_DATE_EPOCH`).
    AtMost(Timestamp),
}

/// Which inodes are compact, 32 bytes instead of 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InodeForm {
    /// Those that lose nothing.
    #[default]
    Auto,
    /// All; what does not fit is refused.
    Compact,
    /// None.
    Extended,
}

/// How to write an image. The same tree, content and options always give the same bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WriteOptions {
    pub(crate) block_bits: u8,
    pub(crate) target: Target,
    pub(crate) inline_data: bool,
    pub(crate) chunk_bits: Option<u8>,
    pub(crate) data_by_token: bool,
    pub(crate) small_chunk_maps: bool,
    pub(crate) inodes: InodeForm,
    pub(crate) large: bool,
    pub(crate) epoch: i64,
    pub(crate) epoch_from_files: bool,
    pub(crate) build_time: i64,
    pub(crate) times: Times,
    pub(crate) whole_seconds: bool,
    pub(crate) uuid: [u8; 16],
    pub(crate) label: Vec<u8>,
    pub(crate) checksum: bool,
    pub(crate) share_xattrs: Option<u32>,
    pub(crate) xattr_filter: bool,
    pub(crate) prefixes: Vec<(u8, Vec<u8>)>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            block_bits: 12,
            target: Target::default(),
            inline_data: true,
            chunk_bits: None,
            data_by_token: false,
            small_chunk_maps: false,
            inodes: InodeForm::Auto,
            large: false,
            epoch: 0,
            epoch_from_files: false,
            build_time: 0,
            times: Times::Keep,
            whole_seconds: false,
            uuid: [0; 16],
            label: Vec::new(),
            checksum: true,
            share_xattrs: Some(2),
            xattr_filter: true,
            prefixes: Vec::new(),
        }
    }
}

impl WriteOptions {
    /// The defaults: blocks of 4096 bytes, inline data, everything that Linux 6.4 knows, epoch 0, no UUID.
    pub fn new() -> Self {
        Self::default()
    }

    /// The block size in bytes, a power of two from 512 to 65536. The kernel mounts blocks up to its page size.
    ///
    /// # Errors
    /// `Unrepresentable` for other sizes.
    pub fn block_size(mut self, bytes: u32) -> Result<Self> {
        let bits = bytes.trailing_zeros() as u8;
        if !bytes.is_power_of_two() || !(MIN_BLOCK_BITS..=MAX_BLOCK_BITS).contains(&bits) {
            return Err(unrepresentable("superblock", format!("blocks of {bytes} bytes")));
        }
        self.block_bits = bits;
        Ok(self)
    }

    /// The oldest kernel that has to read the image.
    #[must_use]
    pub fn target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// Whether the last part of a regular file goes next to its inode if it fits. Saves half a block a file;
    /// images to be merged, mapped or deduplicated by blocks cannot have it.
    #[must_use]
    pub fn inline_data(self, inline_data: bool) -> Self {
        Self { inline_data, ..self }
    }

    /// Stores regular files in chunks of so many bytes, equal ones once, zeros not at all. A power of two, at
    /// least a block. Costs 8 bytes of image and about 50 of memory a chunk.
    ///
    /// # Errors
    /// `Unrepresentable` for other sizes.
    pub fn chunk_size(mut self, bytes: u32) -> Result<Self> {
        if !bytes.is_power_of_two() {
            return Err(unrepresentable("chunk map", format!("chunks of {bytes} bytes")));
        }
        self.chunk_bits = Some(bytes.trailing_zeros() as u8);
        Ok(self)
    }

    /// Whether the data of files that come from [`Contents`](crate::Contents) lies in the order of their tokens, not of
    /// their inodes: for contents that can only be had in one order. Not with inline data, nor with equal chunks found.
    #[must_use]
    pub fn data_by_token(self, on: bool) -> Self {
        Self { data_by_token: on, ..self }
    }

    /// Uses chunk map entries of 4 bytes where nothing needs 8. User-space readers up to erofs-utils 1.9 do
    /// not know holes in them, so files with holes keep 8.
    #[must_use]
    pub fn small_chunk_maps(self, small_chunk_maps: bool) -> Self {
        Self { small_chunk_maps, ..self }
    }

    /// Which inodes are compact.
    #[must_use]
    pub fn inodes(self, inodes: InodeForm) -> Self {
        Self { inodes, ..self }
    }

    /// Makes a 48-bit image: addresses beyond `2^32` blocks, times in compact inodes. Takes Linux 6.15.
    #[must_use]
    pub fn large(self, large: bool) -> Self {
        Self { large, ..self }
    }

    /// The time that compact inodes count from, in seconds since 1970. Except in 48-bit images it is the only
    /// time that they can have.
    #[must_use]
    pub fn epoch(self, seconds: i64) -> Self {
        Self { epoch: seconds, ..self }
    }

    /// Takes the epoch from the files: the time that most of them have, or of the first that a
    /// [`StreamWriter`](crate::StreamWriter) writes. Their inodes are then half as large, which for images whose times
    /// were all set to one makes the difference. Means nothing for 48-bit images.
    #[must_use]
    pub fn epoch_from_files(self, on: bool) -> Self {
        Self { epoch_from_files: on, ..self }
    }

    /// When the image was built, in seconds since 1970. Only 48-bit images store it apart from the epoch.
    #[must_use]
    pub fn build_time(self, seconds: i64) -> Self {
        Self { build_time: seconds, ..self }
    }

    /// What happens to modification times.
    #[must_use]
    pub fn times(self, times: Times) -> Self {
        Self { times, ..self }
    }

    /// Drops nanoseconds, so that more inodes are compact.
    #[must_use]
    pub fn whole_seconds(self, whole_seconds: bool) -> Self {
        Self { whole_seconds, ..self }
    }

    /// The UUID, in RFC 4122 byte order. See also [`uuid_from_url`](crate::uuid_from_url).
    #[must_use]
    pub fn uuid(self, uuid: [u8; 16]) -> Self {
        Self { uuid, ..self }
    }

    /// The label, at most 15 bytes.
    ///
    /// # Errors
    /// `Unrepresentable` for longer ones, and for NUL.
    pub fn label(mut self, label: impl Into<Vec<u8>>) -> Result<Self> {
        self.label = label.into();
        if self.label.len() > 15 || self.label.contains(&0) {
            return Err(unrepresentable("superblock", "the label has more than 15 bytes or contains NUL"));
        }
        Ok(self)
    }

    /// Whether the superblock gets a checksum.
    #[must_use]
    pub fn checksum(self, checksum: bool) -> Self {
        Self { checksum, ..self }
    }

    /// From how many uses on an xattr is stored once for all; `None`: never.
    #[must_use]
    pub fn share_xattrs(self, uses: Option<u32>) -> Self {
        Self { share_xattrs: uses, ..self }
    }

    /// Whether inodes get a bloom filter of their xattr names, so that lookups of absent ones are cheap.
    #[must_use]
    pub fn xattr_filter(self, xattr_filter: bool) -> Self {
        Self { xattr_filter, ..self }
    }

    /// Adds a long prefix that xattr names may start with ("trusted.overlay."), which is then stored once.
    ///
    /// # Errors
    /// `Unrepresentable` if it does not start with one of the base prefixes, is too long, or is one too many.
    pub fn xattr_prefix(mut self, prefix: impl AsRef<[u8]>) -> Result<Self> {
        let prefix = prefix.as_ref();
        match split_name(prefix) {
            Some((index, infix))
                if !infix.is_empty() && infix.len() <= INFIX_MAX && self.prefixes.len() < LONG_PREFIX_MAX =>
            {
                self.prefixes.push((index, infix.to_vec()));
                Ok(self)
            }
            _ => Err(unrepresentable("xattr prefixes", format!("the prefix \"{}\"", prefix.escape_ascii()))),
        }
    }

    /// The block size in bytes.
    pub fn block(&self) -> u64 {
        1 << self.block_bits
    }

    /// Fixes the epoch, if it is to come from files, to the time that occurs most often, the earliest of several such.
    pub(crate) fn choose_epoch(&mut self, times: impl Iterator<Item = Timestamp>) {
        if !std::mem::take(&mut self.epoch_from_files) || self.large {
            return;
        }
        let mut counts = HashMap::<i64, u32>::new();
        for time in times.map(|time| self.time(time)).filter(|time| time.nanoseconds == 0) {
            let count = counts.entry(time.seconds).or_default();
            *count = count.saturating_add(1);
        }
        let most = counts.into_iter().max_by_key(|&(seconds, count)| (count, Reverse(seconds)));
        self.epoch = most.map_or(self.epoch, |(seconds, _)| seconds);
    }

    /// A file's time as the image will have it.
    pub(crate) fn time(&self, time: Timestamp) -> Timestamp {
        let mut time = match self.times {
            Times::Keep => time,
            Times::All(all) => all,
            Times::AtMost(most) => time.min(most),
        };
        if self.whole_seconds {
            time.nanoseconds = 0;
        }
        time
    }

    /// What a compact inode stores for a time, if it can.
    pub(crate) fn compact_time(&self, time: Timestamp) -> Option<u32> {
        if time.nanoseconds != 0 {
            return None;
        }
        let delta = time.seconds.checked_sub(self.epoch)?;
        if self.large { u32::try_from(delta).ok() } else { (delta == 0).then_some(0) }
    }

    /// The text of a long prefix.
    pub(crate) fn prefix_text(prefix: &(u8, Vec<u8>)) -> Vec<u8> {
        [base_prefix(prefix.0).unwrap_or_default(), &prefix.1].concat()
    }

    /// Refuses what the target does not know.
    pub(crate) fn check(&self) -> Result<()> {
        let need = |condition: bool, least: Target, what: &'static str| match condition && self.target < least
        {
            true => Err(unrepresentable("superblock", format!("{what} takes {least:?}"))),
            false => Ok(()),
        };
        need(self.block_bits < 12, Target::Linux6_4, "a block size below 4096")?;
        need(!self.prefixes.is_empty(), Target::Linux6_4, "a long xattr prefix")?;
        need(self.chunk_bits.is_some(), Target::Linux5_16, "a chunk-based file")?;
        need(self.large, Target::Linux6_15, "a 48-bit image")?;
        if self.chunk_bits.is_some_and(|bits| bits < self.block_bits || bits - self.block_bits > 31) {
            return Err(unrepresentable("chunk map", "chunks are smaller than blocks"));
        }
        if self.data_by_token && (self.inline_data || self.chunk_bits.is_some()) {
            return Err(unrepresentable("data", "inline or equal data cannot be in the order of tokens"));
        }
        if let (true, Err(_)) = (self.large, u32::try_from(self.build_time.saturating_sub(self.epoch).max(0)))
        {
            return Err(unrepresentable("superblock", "the build time is too long after the epoch"));
        }
        Ok(())
    }
}
