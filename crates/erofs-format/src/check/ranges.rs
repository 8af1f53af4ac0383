//! What uses which bytes of an image, and whether that is sound.

use std::{collections::HashSet, ops::Range};

use crate::{
    error::Result,
    read::{Inode, Space},
    types::Nid,
};

use super::Check;

/// The bytes that a structure takes.
pub(super) struct Metadata {
    range: Range<u64>,
    nid: Option<Nid>,
}

impl Metadata {
    pub(super) fn fixed(range: Range<u64>) -> Self {
        Self { range, nid: None }
    }

    /// An inode with its xattrs and its chunk map or inline data.
    pub(super) fn of(inode: &Inode) -> Self {
        let end = match inode.chunk_map() {
            Some(map) => map.end().unwrap_or(u64::MAX),
            None => inode.body_end() + inode.inline_size(),
        };
        Self { range: inode.position()..end, nid: Some(inode.nid()) }
    }
}

/// Everything in the primary image that something refers to.
pub(super) struct Used {
    pub(super) metadata: Vec<Metadata>,
    pub(super) data: Vec<Range<u64>>,
}

/// Sorts ranges and joins those that touch or overlap: data may be shared.
pub(super) fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len().min(1024));
    for range in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    *ranges = merged;
}

impl Check<'_> {
    /// Reports structures that overlap, and returns the inodes among them. Leaves the list sorted.
    pub(super) fn overlaps(&self, metadata: &mut [Metadata]) -> HashSet<Nid> {
        metadata.sort_unstable_by_key(|one| (one.range.start, one.range.end, one.nid));
        let mut overlapping = HashSet::new();
        let mut widest: Option<&Metadata> = None;
        for one in metadata.iter() {
            if let Some(before) = widest
                && one.range.start < before.range.end
            {
                let message = format!("overlaps what starts at {:#x}", before.range.start);
                self.error("inode", one.range.start, one.nid, message);
                overlapping.extend(one.nid);
                overlapping.extend(before.nid);
            }
            if widest.is_none_or(|before| one.range.end > before.range.end) {
                widest = Some(one);
            }
        }
        overlapping
    }

    /// Adds the shared xattrs, which may not overlap anything either.
    pub(super) fn shared_overlaps(&self, used: &mut Used, mut shared: Vec<Range<u64>>) {
        shared.sort_unstable_by_key(|range| range.start);
        for range in &shared {
            let next = used.metadata.partition_point(|one| one.range.end <= range.start);
            if used.metadata.get(next).is_some_and(|one| one.range.start < range.end) {
                self.error("xattr", range.start, None, "a shared xattr overlaps an inode");
            }
        }
        used.metadata.extend(shared.into_iter().map(Metadata::fixed));
        used.metadata.sort_unstable_by_key(|one| (one.range.start, one.range.end, one.nid));
    }

    /// Reports data that lies in metadata.
    pub(super) fn data_overlaps(&self, used: &Used) {
        for one in &used.metadata {
            let next = used.data.partition_point(|data| data.end <= one.range.start);
            if used.data.get(next).is_some_and(|data| data.start < one.range.end) {
                self.error("data", one.range.start, one.nid, "the data of a file overlaps this structure");
            }
        }
    }

    /// Reports bytes behind the superblock that nothing refers to, and that are not zero.
    pub(super) fn unused_space(&self, used: &Used) -> Result<()> {
        let mut all: Vec<_> = used.metadata.iter().map(|one| one.range.clone()).collect();
        all.extend(used.data.iter().cloned());
        if self.image.superblock().metabox.is_some() || self.image.superblock().packed.is_some() {
            // Their data would have to be known too.
            return Ok(());
        }
        merge(&mut all);
        let sb = self.image.superblock();
        let end = self.image.size().min(sb.blocks.saturating_mul(sb.block_size()));
        let mut at = crate::raw::superblock::OFFSET;
        for range in all.into_iter().chain(std::iter::once(end..end)) {
            while at < range.start.min(end) {
                let len = (range.start.min(end) - at).min(32 << 10);
                let bytes = self.image.meta(Space::Image, at, len as usize, "unused space")?;
                if let Some(index) = bytes.iter().position(|&byte| byte != 0) {
                    self.warn("unused space", at + index as u64, None, "is not zero");
                    at = range.start;
                } else {
                    at += len;
                }
            }
            at = at.max(range.end);
        }
        Ok(())
    }
}
