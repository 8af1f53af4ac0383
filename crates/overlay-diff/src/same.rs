//! When two things of one path count as the same (continuity `fs/diff.go`, `sameFile`).
//!
//! The rule is made for times that an archive has cut to seconds: where both sides have no nanoseconds the
//! content decides, where they have equal ones it is not read.

use std::sync::atomic::{AtomicBool, Ordering};

use layer_model::{Error, ErrorKind, IoContext, Node, NodeKind, Profile, ReadAt, Result};

/// How much is compared at once: large enough that two reads cost little beside the comparison.
const CHUNK: usize = 64 * 1024;

/// The outcome of looking at two nodes without their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that a layer carries differs.
    Same,
    /// Something does.
    Different,
    /// The bytes of the two files, this many each, have to be compared.
    Content(u64),
}

/// Compares two nodes whose attributes are filtered already.
pub(crate) fn compare(new: &Node, old: &Node, profile: Profile) -> Verdict {
    use Verdict::{Content, Different, Same};
    if new.inode.is_some() && new.inode == old.inode && new.content_id() == old.content_id() {
        return Same;
    }
    let (a, b) = (&new.metadata, &old.metadata);
    let meta_same = (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid) && new.xattrs == old.xattrs;
    let size = match (&new.kind, &old.kind) {
        _ if !meta_same => return Different,
        (NodeKind::Directory, NodeKind::Directory) => return Same,
        (NodeKind::File { size: a }, NodeKind::File { size: b }) if a == b => *a,
        (NodeKind::Symlink { target: a }, NodeKind::Symlink { target: b }) if length(a) == length(b) => {
            length(a)
        }
        (NodeKind::CharDevice(a), NodeKind::CharDevice(b))
        | (NodeKind::BlockDevice(a), NodeKind::BlockDevice(b))
            if a == b =>
        {
            0
        }
        (NodeKind::Fifo, NodeKind::Fifo) | (NodeKind::Socket, NodeKind::Socket) => 0,
        _ => return Different,
    };
    if a.mtime.secs != b.mtime.secs {
        return Different;
    }
    // The target of a link is at hand, so that only the reference's own bytes are a reason to ignore it.
    let targets = || new.kind == old.kind;
    let is_link = matches!(new.kind, NodeKind::Symlink { .. });
    match (a.mtime.nanos, b.mtime.nanos) {
        (0, 0) if size == 0 => Same,
        (0, 0) if is_link => {
            if targets() {
                Same
            } else {
                Different
            }
        }
        (0, 0) if new.content_id().is_some() && new.content_id() == old.content_id() => Same,
        (0, 0) => Content(size),
        (x, y) if x != y => Different,
        _ if is_link && profile == Profile::Spec && !targets() => Different,
        _ => Same,
    }
}

/// The size of a symbolic link.
fn length(target: &[u8]) -> u64 {
    target.len() as u64
}

/// Compares directories as containerd's upper walk does: mode and time, one cut time being equal to any
/// (continuity `fs/diff.go`, `DiffDirChanges`; the size of a directory is not known here).
pub(crate) fn reference_directories(new: &Node, old: &Node) -> bool {
    let (a, b) = (new.metadata, old.metadata);
    let (x, y) = (a.mtime, b.mtime);
    a.mode == b.mode && x.secs == y.secs && (x.nanos == y.nanos || x.nanos == 0 || y.nanos == 0)
}

/// Whether two files of `size` bytes each have the same bytes.
///
/// # Errors
/// [`ErrorKind::FileChanged`] when one is shorter, [`ErrorKind::Cancelled`] when `stop` is set meanwhile,
/// and those of reading: a file that cannot be read is not "different".
pub(crate) fn same_content(new: &dyn ReadAt, old: &dyn ReadAt, size: u64, stop: &AtomicBool) -> Result<bool> {
    let len = CHUNK.min(usize::try_from(size).unwrap_or(CHUNK));
    let (mut a, mut b) = (vec![0; len], vec![0; len]);
    let mut at = 0;
    while at < size {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::cancelled());
        }
        let want = len.min(usize::try_from(size - at).unwrap_or(len));
        for (file, buf) in [(new, &mut a), (old, &mut b)] {
            file.read_exact_at(&mut buf[..want], at).during("compare content").map_err(
                |error| match error.kind() {
                    ErrorKind::Truncated => {
                        Error::new(ErrorKind::FileChanged, "file shrank while it was compared")
                    }
                    _ => error,
                },
            )?;
        }
        if a[..want] != b[..want] {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use layer_model::{Device, Metadata, Timestamp, tree::InodeId};

    use super::{Verdict::*, *};

    fn file(size: u64, secs: i64, nanos: u32) -> Node {
        let mut node = Node::new(NodeKind::File { size }, Metadata::file(0o644));
        node.metadata.mtime = Timestamp::new(secs, nanos);
        node
    }

    fn link(target: &str, nanos: u32) -> Node {
        let mut node =
            Node::new(NodeKind::Symlink { target: target.as_bytes().into() }, Metadata::file(0o777));
        node.metadata.mtime.nanos = nanos;
        node
    }

    fn edited(mut node: Node, edit: impl FnOnce(&mut Node)) -> Node {
        edit(&mut node);
        node
    }

    #[test]
    fn the_rule_step_by_step() {
        let inode = |ino| Some(InodeId { dev: 1, ino });
        let device = |minor| Node::new(NodeKind::CharDevice(Device::new(1, minor)), Metadata::file(0o600));
        let cases = [
            ("nothing differs, times cut", file(3, 5, 0), file(3, 5, 0), Content(3)),
            ("nothing differs, times whole", file(3, 5, 7), file(3, 5, 7), Same),
            ("empty, times cut", file(0, 5, 0), file(0, 5, 0), Same),
            ("only one time is cut", file(3, 5, 0), file(3, 5, 7), Different),
            ("nanoseconds", file(3, 5, 6), file(3, 5, 7), Different),
            ("seconds", file(3, 5, 0), file(3, 6, 0), Different),
            ("size", file(3, 5, 7), file(4, 5, 7), Different),
            ("mode", edited(file(3, 5, 7), |n| n.metadata.mode = 0o600), file(3, 5, 7), Different),
            ("owner", edited(file(3, 5, 7), |n| n.metadata.uid = 1), file(3, 5, 7), Different),
            ("group", edited(file(3, 5, 7), |n| n.metadata.gid = 1), file(3, 5, 7), Different),
            (
                "attribute",
                edited(file(3, 5, 7), |n| drop(n.xattrs.insert(*b"user.a", *b"1"))),
                file(3, 5, 7),
                Different,
            ),
            (
                "one inode",
                edited(file(3, 5, 0), |n| n.inode = inode(9)),
                edited(file(3, 5, 0), |n| n.inode = inode(9)),
                Same,
            ),
            (
                "content of one inode",
                edited(file(3, 5, 0), |n| (n.inode, n.data) = (inode(1), inode(9))),
                edited(file(3, 5, 0), |n| n.inode = inode(9)),
                Same,
            ),
            ("type", file(0, 0, 0), link("", 0), Different),
            ("link targets, times cut", link("a", 0), link("b", 0), Different),
            ("link targets, times whole", link("a", 5), link("b", 5), Different),
            ("equal links", link("a", 5), link("a", 5), Same),
            ("device numbers", device(3), device(4), Different),
            ("equal devices", device(3), device(3), Same),
        ];
        for (name, new, old, want) in cases {
            assert_eq!(compare(&new, &old, Profile::Spec), want, "{name}");
        }
        assert_eq!(
            compare(&link("a", 5), &link("b", 5), Profile::Containerd),
            Same,
            "as the reference has it"
        );
    }

    #[test]
    fn directories_differ_by_metadata_alone() {
        let dir = |mode, secs| {
            edited(Node::new(NodeKind::Directory, Metadata::file(mode)), |n| {
                n.metadata.mtime = Timestamp::from_secs(secs);
            })
        };
        assert_eq!(compare(&dir(0o755, 1), &dir(0o755, 2), Profile::Spec), Same);
        assert_eq!(compare(&dir(0o755, 1), &dir(0o700, 1), Profile::Spec), Different);
        assert!(reference_directories(&dir(0o755, 1), &dir(0o755, 1)));
        assert!(!reference_directories(&dir(0o755, 1), &dir(0o755, 2)));
        let nanos = |nanos| edited(dir(0o755, 1), |n| n.metadata.mtime.nanos = nanos);
        assert!(reference_directories(&nanos(0), &nanos(5)), "a cut time equals any");
        assert!(!reference_directories(&nanos(4), &nanos(5)));
    }

    #[test]
    fn content_is_compared_to_the_last_byte() {
        let go = AtomicBool::new(false);
        let a = vec![7; CHUNK * 2 + 1];
        let mut b = a.clone();
        assert!(same_content(&a, &b, a.len() as u64, &go).unwrap());
        *b.last_mut().unwrap() = 8;
        assert!(!same_content(&a, &b, a.len() as u64, &go).unwrap());
        b.pop();
        let error = same_content(&a, &b, a.len() as u64, &go).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::FileChanged);
        let error = same_content(&a, &a, a.len() as u64, &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Cancelled);
    }
}
