//! How a long call talks to its caller: progress out, warnings out, cancellation in.

use std::fmt;

use crate::{LayerPath, path::Printable};

/// Watches a long call. All methods may be called from several threads, often; they must be cheap.
///
/// Every method has a default that does nothing, so that [`Silent`] costs nothing.
pub trait Monitor: Sync {
    /// `n` more bytes of the input were worked through.
    fn bytes(&self, n: u64) {
        let _ = n;
    }

    /// One more entry is being worked on.
    fn entry(&self, path: LayerPath<'_>) {
        let _ = path;
    }

    /// Something was lost, repaired or left out. The result is still usable.
    fn warn(&self, warning: &Warning<'_>) {
        let _ = warning;
    }

    /// Whether the call should end as soon as it can, with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). Asked between entries and between pieces of content.
    fn should_stop(&self) -> bool {
        false
    }
}

/// A [`Monitor`] that hears nothing and never stops anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {}

impl<M: Monitor + ?Sized> Monitor for &M {
    fn bytes(&self, n: u64) {
        (**self).bytes(n);
    }

    fn entry(&self, path: LayerPath<'_>) {
        (**self).entry(path);
    }

    fn warn(&self, warning: &Warning<'_>) {
        (**self).warn(warning);
    }

    fn should_stop(&self) -> bool {
        (**self).should_stop()
    }
}

/// Something that was lost, repaired or left out at one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning<'a> {
    /// What happened.
    pub kind: WarningKind,
    /// Where.
    pub path: LayerPath<'a>,
    /// The attribute, name or number concerned, for people; may be empty.
    pub detail: &'a [u8],
}

impl<'a> Warning<'a> {
    /// A warning at `path`.
    pub fn new(kind: WarningKind, path: LayerPath<'a>) -> Self {
        Self { kind, path, detail: b"" }
    }

    /// The same warning, naming the attribute, name or number concerned.
    #[must_use]
    pub fn detail(mut self, detail: &'a [u8]) -> Self {
        self.detail = detail;
        self
    }
}

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.kind.sentence())?;
        if !self.detail.is_empty() {
            write!(f, " ({})", Printable(self.detail))?;
        }
        Ok(())
    }
}

macro_rules! warning_kinds {
    ($($(#[$doc:meta])* $name:ident => $sentence:literal,)*) => {
        /// What a [`Warning`] is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum WarningKind {
            $($(#[$doc])* $name,)*
        }

        impl WarningKind {
            /// The stable name of the kind, as the command prints it in JSON.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }
        }
    };
}

warning_kinds! {
    /// The same path came twice in one layer; the last one counts.
    DuplicateEntry => "came twice, the last one counts",
    /// An extended attribute was not written.
    XattrDropped => "extended attribute left out",
    /// An extended attribute without a value was not written, as no tar carries it.
    EmptyXattrDropped => "empty extended attribute left out",
    /// A file capability counts for the root of another user namespace than the layer's, and was kept so.
    ForeignCapability => "file capability of another user namespace kept as it is",
    /// A socket was left out: no layer carries one.
    SocketDropped => "socket left out",
    /// A device node was left out, or made as an empty file.
    DeviceSkipped => "device node not made",
    /// A character device 0:0, which overlayfs takes as a whiteout.
    CharZeroDevice => "character device 0:0 is a whiteout to overlayfs",
    /// An entry that is no directory was at the root, and was left out.
    RootIgnored => "an entry that would replace the root was left out",
    /// The bookkeeping of AUFS was left out.
    AufsMetadata => "bookkeeping of AUFS left out",
    /// Extension headers at the end of an archive that belong to no entry.
    DanglingExtension => "extension headers without an entry",
    /// The media type says another compression than the bytes.
    MediaTypeMismatch => "media type and compression differ",
    /// An opaque root was written as one whiteout a name, as overlayfs ignores it there.
    RootOpaque => "opaque root written as whiteouts",
    /// Two names that differ for the archive are one for the file system.
    NameCollision => "two names are one on this file system",
    /// Not all names of a hard-linked file are known; those in the layer are.
    IncompleteLinks => "not all hard links are known",
    /// A whiteout of a layer that has nothing below it.
    NeedlessWhiteout => "whiteout in a base layer",
    /// An owner was not set, as the caller may not.
    OwnerSkipped => "owner not set",
    /// A file may have been cut by a crash of the machine that wrote it.
    VolatileUpper => "upper directory was mounted volatile",
    /// A time that the target cannot hold was set to another.
    TimeClamped => "time out of range set to the epoch",
    /// A name of Windows that ends in a space or a dot: backups carry such names, Windows itself cannot open them.
    UntidyName => "ends in a space or a dot, which Windows itself cannot open",
    /// A path of Windows that begins with none of `Files`, `UtilityVM` and `Hives`.
    UnusualTopLevel => "not in Files, UtilityVM or Hives",
    /// A link or a deletion outside of the files of Windows and of its utility VM.
    OutsideFiles => "link or deletion outside of Files and UtilityVM/Files",
    /// A record of Windows that is not known here.
    UnknownRecord => "record without a known meaning left out",
    /// Labels, times or verity of a stored blob could not be set.
    StoreDegraded => "stored blob lacks labels, times or verity",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_sentence() {
        let path = LayerPath::new(b"etc/f").unwrap();
        let warning = Warning::new(WarningKind::XattrDropped, path).detail(b"trusted.x");
        assert_eq!(warning.to_string(), "etc/f: extended attribute left out (trusted.x)");
        assert_eq!(warning.kind.name(), "XattrDropped");
    }
}
