//! Changes that wait to be given, and the one that is lent out.

use std::{io, sync::Arc};

use layer_model::{
    Action, Change, Content, Entry, EntryKind, Error, ErrorKind, LayerPathBuf, LayerTree, Node, NodeKind,
    ReadAt, Result,
};

use crate::pair::Pair;

/// A change that is complete but for its content.
pub(crate) struct Ready {
    pub(crate) path: LayerPathBuf,
    pub(crate) what: Emit,
}

pub(crate) enum Emit {
    Remove,
    Opaque,
    Upsert { node: Node, content: Payload },
    Link { node: Node, target: LayerPathBuf },
}

/// Where the content of a file comes from.
pub(crate) enum Payload {
    /// There is none.
    Empty,
    /// It was read ahead.
    Bytes(Vec<u8>),
    /// Only its length is told.
    Announced,
    /// From the file of this name, which is opened when its turn comes.
    File { pair: Arc<Pair>, name: Box<[u8]> },
}

/// A change that was given; the caller borrows it from here.
pub(crate) struct Lent {
    ready: Ready,
    file: Option<Guarded>,
}

impl Ready {
    /// Opens what the change needs.
    pub(crate) fn open(self, view: &dyn LayerTree) -> Result<Lent> {
        let file = match &self.what {
            Emit::Upsert { node, content: Payload::File { pair, name } } => {
                let NodeKind::File { size } = node.kind else { return Ok(Lent { ready: self, file: None }) };
                let open = || {
                    let file = pair.open_new(name, node, view)?;
                    Guarded { file, size, path: self.path.clone() }.checked()
                };
                Some(open().map_err(|error| error.at(self.path.as_path()))?)
            }
            _ => None,
        };
        Ok(Lent { ready: self, file })
    }
}

impl Lent {
    /// The change.
    pub(crate) fn change(&self) -> Result<Change<'_>> {
        let path = self.ready.path.as_path();
        let entry = match &self.ready.what {
            Emit::Remove => return Ok(Change::remove(path)),
            Emit::Opaque => return Ok(Change::opaque(path)),
            Emit::Link { node, target } => {
                let kind = EntryKind::HardLink { target: target.as_path() };
                Entry::new(kind, node.metadata).with_xattrs(&node.xattrs)
            }
            Emit::Upsert { node, content } => {
                let kind = match &node.kind {
                    NodeKind::Directory => EntryKind::Directory,
                    NodeKind::File { size } => EntryKind::File(match (&self.file, content) {
                        (Some(file), _) => Content::from_range(file, 0, file.size),
                        (None, Payload::Announced) => Content::from_range(&Unread, 0, *size),
                        (None, Payload::Bytes(bytes)) => Content::from_bytes(bytes),
                        (None, _) => Content::empty(),
                    }),
                    NodeKind::Symlink { target } => EntryKind::Symlink { target },
                    NodeKind::CharDevice(device) => EntryKind::CharDevice(*device),
                    NodeKind::BlockDevice(device) => EntryKind::BlockDevice(*device),
                    NodeKind::Fifo => EntryKind::Fifo,
                    NodeKind::Socket | NodeKind::Whiteout => {
                        return Err(Error::new(ErrorKind::Unrepresentable, "no layer carries this").at(path));
                    }
                };
                Entry::new(kind, node.metadata).with_xattrs(&node.xattrs)
            }
        };
        Ok(Change::new(path, Action::Upsert(entry)))
    }

    /// Whether the file behind the change still has the size that was announced.
    pub(crate) fn check_size(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.check(),
            None => Ok(()),
        }
    }
}

/// The content of a file that was not opened.
struct Unread;

impl ReadAt for Unread {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the changes were asked for without content"))
    }

    fn len(&self) -> io::Result<u64> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the changes were asked for without content"))
    }
}

/// A file that says so when it ends before the size that it was announced with.
struct Guarded {
    file: Box<dyn ReadAt>,
    size: u64,
    path: LayerPathBuf,
}

impl Guarded {
    fn checked(self) -> Result<Self> {
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        match self.file.len() {
            Ok(len) if len == self.size => Ok(()),
            Ok(_) => Err(Error::changed_size(self.size).at(self.path.as_path())),
            Err(error) => Err(Error::io("stat file", error).at(self.path.as_path())),
        }
    }
}

impl ReadAt for Guarded {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.file.read_at(buf, offset)? {
            0 if !buf.is_empty() && offset < self.size => {
                Err(Error::changed_size(self.size).at(self.path.as_path()).into())
            }
            n => Ok(n),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    #[cfg(unix)]
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.file.as_fd()
    }
}
