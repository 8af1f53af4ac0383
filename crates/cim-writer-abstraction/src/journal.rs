//! The journal: operations as lines of JSON, in one spelling only.
//!
//! A journal is what an import did, for people and for tests, and with the bytes of the streams beside it
//! ([`content`](crate::content)) it is the import itself: [`Replay`] drives any sink with it. One object a line, keys in
//! one order, no spaces; an operation has one spelling, so that equal journals are equal files and the digest of one
//! stands for what was done.
//!
//! | op | is |
//! |---|---|
//! | `create_image`, `add_source`, `commit`, `close`, `discard`, `seal` | the image itself |
//! | `create_file`, `create_stream`, `hard_link`, `merge_link`, `delete`, `tombstone` | what is in it |
//! | `data` | the bytes of the stream opened last, by size and SHA-256; none for an empty stream |
//! | `spool`, `merge_hive`, `add_merged_hive`, `vhd_footer`, `sidecar` | what is done beside it |
//!
//! Unpaired surrogates, which names of Windows can have and UTF-8 cannot, are escaped (`\ud800`).

mod line;
mod parse;
mod replay;
pub(crate) mod text;
mod write;

pub use line::Line;
pub use parse::{LINE_MAX, Parser};
pub use replay::{MergedHives, Replay, Replayed, read_tree};
pub use write::JournalSink;
pub(crate) use write::Lines;
