//! The data of a planned image, for who writes it himself.

use crate::tree::{Data, Node};

use super::{
    ImagePlan,
    data::{HOLE, sparse_ranges},
};

/// A part of a file's content, and its place in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// What the contents know the file by.
    pub token: u64,
    /// Where the part begins in the file, in bytes.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// Where it belongs in the image.
    pub position: u64,
}

impl ImagePlan {
    /// All parts of files whose data comes from [`Contents`](super::Contents), in the order of their positions. With
    /// [`WriteOptions::data_by_token`](super::WriteOptions::data_by_token) that is the order of the tokens, too.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.data.iter().flat_map(move |&id| {
            let node = &self.tree.nodes[id as usize];
            let token = self.tree.token(id);
            let found: Box<dyn Iterator<Item = Piece>> = match (token, node.data()) {
                (Some(token), Data::Source { .. }) => {
                    let position = self.data_position(node.small);
                    Box::new(std::iter::once(Piece { token, offset: 0, len: node.size, position }))
                }
                (Some(token), Data::Sparse { start }) => Box::new(self.sparse_pieces(token, node, start)),
                _ => Box::new(std::iter::empty()),
            };
            found
        })
    }

    fn data_position(&self, block: u32) -> u64 {
        (self.data_start + u64::from(block)) << self.options.block_bits
    }

    /// The ranges of a sparse file, cut at the borders of its chunks.
    fn sparse_pieces(&self, token: u64, node: &Node, start: u64) -> impl Iterator<Item = Piece> {
        let chunk = 1u64 << (node.bits + self.options.block_bits);
        let first = node.small as usize;
        let ranges = sparse_ranges(&self.tree, start).filter(|(_, len)| *len > 0);
        ranges.flat_map(move |(offset, len)| {
            let end = offset + len;
            (offset / chunk..end.div_ceil(chunk)).filter_map(move |number| {
                let (from, to) = (offset.max(number * chunk), end.min((number + 1) * chunk));
                let block = self.local[first + number as usize];
                let position = self.data_position(block) + from % chunk;
                (block != HOLE).then_some(Piece { token, offset: from, len: to - from, position })
            })
        })
    }
}
