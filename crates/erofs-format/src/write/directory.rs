//! The content of directories: entries sorted, cut into blocks, each block entries first and names after.

use zerocopy::IntoBytes;

use crate::{
    raw::dirent::Dirent,
    tree::{NONE, Tree},
};

/// Stands for "." among the sorted entries of a directory.
const DOT: u32 = NONE - 1;

/// Stands for "..".
const DOT_DOT: u32 = NONE - 2;

const ENTRY: u64 = size_of::<Dirent>() as u64;

/// A directory as it will be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    pub(super) node: u32,
    pub(super) parent: u32,
    /// Its part of the sorted entries.
    start: u32,
    end: u32,
    /// Where its last block starts in the sorted entries.
    last: u32,
    /// The first of its blocks that are not inline.
    pub(super) block: u64,
    /// How many blocks are not inline.
    pub(super) blocks: u32,
}

impl Directory {
    /// Its part of all entries.
    pub(super) fn entries(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// All directories, breadth first, and their entries in order.
#[derive(Debug, Default)]
pub(super) struct Directories {
    pub(super) list: Vec<Directory>,
    sorted: Vec<u32>,
}

impl Directories {
    /// Appends a directory, its entries sorted.
    pub(super) fn push(&mut self, tree: &Tree, node: u32, parent: u32) {
        let start = self.sorted.len();
        self.sorted.extend([DOT, DOT_DOT]);
        self.sorted.extend(tree.dir_entries(node));
        let names = &mut self.sorted[start..];
        // Most comparisons end in the first eight bytes: keep these at hand instead of looking the names up.
        let mut keyed: Vec<(u64, u32)> = names.iter().map(|&entry| (key(name(tree, entry)), entry)).collect();
        keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| name(tree, a.1).cmp(name(tree, b.1))));
        for (slot, (_, entry)) in names.iter_mut().zip(keyed) {
            *slot = entry;
        }
        let end = self.sorted.len();
        let directory = Directory {
            node,
            parent,
            start: start as u32,
            end: end as u32,
            last: start as u32,
            block: 0,
            blocks: 0,
        };
        self.list.push(directory);
    }

    /// How many entries all directories have so far.
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The file of an entry; `None` for "." and "..".
    pub(super) fn child(&self, tree: &Tree, at: usize) -> Option<u32> {
        let entry = self.sorted[at];
        (entry < DOT_DOT).then(|| tree.entry_node(entry))
    }

    /// Cuts directory `index` into blocks; returns its size and the bytes of its last block.
    pub(super) fn measure(&mut self, tree: &Tree, index: usize, block: u64) -> (u64, u64) {
        let Directory { start, end, .. } = self.list[index];
        let (mut full, mut used, mut last) = (0, 0, start);
        for at in start..end {
            let need = ENTRY + name(tree, self.sorted[at as usize]).len() as u64;
            if used + need > block {
                full += 1;
                used = 0;
                last = at;
            }
            used += need;
        }
        self.list[index].last = last;
        (full * block + used, used)
    }

    /// The last block, not padded.
    pub(super) fn last_block(
        &self,
        tree: &Tree,
        directory: &Directory,
        slots: impl Fn(u32) -> u64,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let entries = &self.sorted[directory.last as usize..directory.end as usize];
        write_block(tree, directory, entries, &slots, &mut out);
        out
    }

    /// The blocks before the inline one, or all of them, each padded.
    pub(super) fn write_blocks(
        &self,
        tree: &Tree,
        directory: &Directory,
        block: u64,
        slots: impl Fn(u32) -> u64,
        out: &mut Vec<u8>,
    ) {
        let mut at = directory.start as usize;
        for _ in 0..directory.blocks {
            let from = at;
            let mut used = 0;
            while at < directory.end as usize {
                used += ENTRY + name(tree, self.sorted[at]).len() as u64;
                if used > block {
                    break;
                }
                at += 1;
            }
            let begin = out.len();
            write_block(tree, directory, &self.sorted[from..at], &slots, out);
            out.resize(begin + block as usize, 0);
        }
    }
}

fn write_block(
    tree: &Tree,
    dir: &Directory,
    entries: &[u32],
    slots: &impl Fn(u32) -> u64,
    out: &mut Vec<u8>,
) {
    let mut name_at = entries.len() as u64 * ENTRY;
    for &entry in entries {
        let node = match entry {
            DOT => dir.node,
            DOT_DOT => dir.parent,
            entry => tree.entry_node(entry),
        };
        let dirent = Dirent {
            nid: slots(node).into(),
            nameoff: (name_at as u16).into(),
            file_type: tree.nodes[node as usize].file_type().dirent_type(),
            reserved: 0,
        };
        out.extend_from_slice(dirent.as_bytes());
        name_at += name(tree, entry).len() as u64;
    }
    for &entry in entries {
        out.extend_from_slice(name(tree, entry));
    }
}

fn name(tree: &Tree, entry: u32) -> &[u8] {
    match entry {
        DOT => b".",
        DOT_DOT => b"..",
        entry => tree.name(entry),
    }
}

/// The first eight bytes of a name, ordered as the names are.
fn key(name: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = name.len().min(8);
    bytes[..len].copy_from_slice(&name[..len]);
    u64::from_be_bytes(bytes)
}
