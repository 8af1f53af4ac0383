//! Access control lists and their entries.

use layer_model::{Error, ErrorKind, Result};

use super::{MAX_LEN, Sid, further, invalid};
use crate::{Guid, le};

/// `ACL_REVISION`, which every list has that needs no other.
const REVISION: u8 = 2;
/// `ACL_REVISION_DS`, which a list needs for entries about objects.
const REVISION_DS: u8 = 4;
/// Revision, size and number of entries.
const HEADER_LEN: usize = 8;
/// Type, flags and size.
const ACE_HEADER_LEN: usize = 4;

bitflags::bitflags! {
    /// How an entry is handed down, and when it is audited.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct AceFlags: u8 {
        /// Files inside take it (`OI`).
        const OBJECT_INHERIT = 0x1;
        /// Directories inside take it (`CI`).
        const CONTAINER_INHERIT = 0x2;
        /// What takes it does not hand it on (`NP`).
        const NO_PROPAGATE_INHERIT = 0x4;
        /// It is there to be handed down only (`IO`).
        const INHERIT_ONLY = 0x8;
        /// It was handed down (`ID`).
        const INHERITED = 0x10;
        /// It must not be taken away (`CR`).
        const CRITICAL = 0x20;
        /// Success is audited (`SA`).
        const SUCCESSFUL_ACCESS = 0x40;
        /// Failure is audited (`FA`).
        const FAILED_ACCESS = 0x80;
    }
}

/// The types of entries whose inside is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AceKind {
    /// Lets somebody do something (`A`).
    Allowed = 0,
    /// Keeps somebody from doing something (`D`).
    Denied = 1,
    /// Has something audited (`AU`).
    Audit = 2,
    /// Raises an alarm (`AL`).
    Alarm = 3,
    /// [`AceKind::Allowed`], for a property or a kind of child (`OA`).
    ObjectAllowed = 5,
    /// [`AceKind::Denied`], for a property or a kind of child (`OD`).
    ObjectDenied = 6,
    /// [`AceKind::Audit`], for a property or a kind of child (`OU`).
    ObjectAudit = 7,
    /// [`AceKind::Alarm`], for a property or a kind of child (`OL`).
    ObjectAlarm = 8,
    /// An integrity label (`ML`).
    MandatoryLabel = 0x11,
}

impl AceKind {
    pub(super) const ALL: [AceKind; 9] = [
        Self::Allowed,
        Self::Denied,
        Self::Audit,
        Self::Alarm,
        Self::ObjectAllowed,
        Self::ObjectDenied,
        Self::ObjectAudit,
        Self::ObjectAlarm,
        Self::MandatoryLabel,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether entries of this type have room for two GUIDs.
    pub fn is_object(self) -> bool {
        matches!(self, Self::ObjectAllowed | Self::ObjectDenied | Self::ObjectAudit | Self::ObjectAlarm)
    }
}

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ace {
    /// What it does.
    pub kind: AceKind,
    /// How it is handed down.
    pub flags: AceFlags,
    /// Which rights it is about.
    pub mask: u32,
    /// The property or kind of child that it is about; for object types only.
    pub object: Option<Guid>,
    /// The kind of child that takes it; for object types only.
    pub inherited_object: Option<Guid>,
    /// Whom it is about; of a label, the level.
    pub sid: Sid,
}

impl Ace {
    /// Reads one entry, all of `bytes`. [`None`] for a type whose inside is not known.
    fn read(bytes: &[u8]) -> Result<Option<Self>> {
        let ends = || invalid("an entry of a list is too short for what is in it");
        let [kind, flags, _, _] = le::array(bytes, 0).ok_or_else(ends)?;
        let Some(kind) = AceKind::from_byte(kind) else { return Ok(None) };
        let mask = le::u32(bytes, ACE_HEADER_LEN).ok_or_else(ends)?;
        let (mut object, mut inherited_object, mut at) = (None, None, ACE_HEADER_LEN + 4);
        if kind.is_object() {
            let present = le::u32(bytes, at).ok_or_else(ends)?;
            at += 4;
            for (bit, field) in [(1, &mut object), (2, &mut inherited_object)] {
                if present & bit != 0 {
                    *field = Some(Guid::from_mixed(le::array(bytes, at).ok_or_else(ends)?));
                    at += 16;
                }
            }
        }
        let sid = Sid::read(bytes.get(at..).unwrap_or_default());
        let (sid, _) = sid.map_err(|error| further(&error, at))?;
        Ok(Some(Self { kind, flags: AceFlags::from_bits_retain(flags), mask, object, inherited_object, sid }))
    }

    fn append_to(&self, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(&[self.kind as u8, self.flags.bits(), 0, 0]);
        out.extend_from_slice(&self.mask.to_le_bytes());
        if self.kind.is_object() {
            let present = u32::from(self.object.is_some()) | u32::from(self.inherited_object.is_some()) << 1;
            out.extend_from_slice(&present.to_le_bytes());
            for guid in [self.object, self.inherited_object].into_iter().flatten() {
                out.extend_from_slice(&guid.to_mixed());
            }
        }
        self.sid.append_to(out);
        set_len(out, start)
    }
}

/// A list of entries. Their order counts: the first that says something about a right decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Acl {
    /// The entries.
    pub entries: Vec<Ace>,
}

impl Acl {
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let mut entries = Vec::new();
        walk(bytes, |at, ace| {
            let unknown = || {
                let what = format!("an entry of type {:#x} in a security descriptor", ace[0]);
                Error::new(ErrorKind::NotSupported, what).offset(at as u64)
            };
            entries.push(Ace::read(ace)?.ok_or_else(unknown)?);
            Ok(())
        })?;
        Ok(Self { entries })
    }

    pub(super) fn append_to(&self, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        let objects = self.entries.iter().any(|ace| ace.kind.is_object());
        let revision = if objects { REVISION_DS } else { REVISION };
        let count = u16::try_from(self.entries.len()).map_err(|_| invalid("a list has too many entries"))?;
        out.extend_from_slice(&[revision, 0, 0, 0]);
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        for ace in &self.entries {
            ace.append_to(out)?;
            if out.len() > MAX_LEN {
                return Err(invalid("it is longer than 65535 bytes"));
            }
        }
        set_len(out, start)
    }
}

/// Writes the length of what begins at `start` into it; lists and entries have it in the same place.
fn set_len(out: &mut [u8], start: usize) -> Result<()> {
    let len = u16::try_from(out.len() - start).map_err(|_| invalid("it is longer than 65535 bytes"))?;
    out[start + 2..start + 4].copy_from_slice(&len.to_le_bytes());
    Ok(())
}

/// Makes sure that the list which `bytes` begin with, and all its entries, hold together.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    walk(bytes, |at, ace| Ace::read(ace).map(|_| ()).map_err(|error| further(&error, at)))
}

/// Hands the entries of a list to `take`, each with where it begins.
fn walk(bytes: &[u8], mut take: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
    let head: [u8; HEADER_LEN] = le::array(bytes, 0).ok_or_else(|| invalid("it ends inside a list"))?;
    if !matches!(head[0], REVISION..=REVISION_DS) {
        return Err(invalid("the revision of a list is not 2, 3 or 4"));
    }
    let size = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let list = bytes.get(..size).filter(|list| list.len() >= HEADER_LEN);
    let list = list.ok_or_else(|| invalid("the size of a list is wrong").offset(2))?;
    let mut at = HEADER_LEN;
    for _ in 0..u16::from_le_bytes([head[4], head[5]]) {
        let wrong = || invalid("the size of an entry of a list is wrong").offset(at as u64);
        let size = usize::from(le::u16(list, at + 2).ok_or_else(wrong)?);
        let ace = list.get(at..at + size).filter(|ace| ace.len() >= ACE_HEADER_LEN).ok_or_else(wrong)?;
        take(at, ace)?;
        at += size;
    }
    Ok(())
}
