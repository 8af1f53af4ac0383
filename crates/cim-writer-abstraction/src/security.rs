//! Security descriptors: checked, taken apart, put together.
//!
//! A layer's archive gives a descriptor as the bytes that Windows keeps on disk, or, from older tools, as SDDL text
//! ([`sddl`]). Both come from strangers, and what is written into a CIM is trusted by the file system of every
//! container that mounts it: nothing is let through that does not hold together.

mod acl;
pub mod sddl;
mod sddl_rights;
mod sddl_sids;
mod sid;

use layer_model::{Error, ErrorKind, Result};

pub use acl::{Ace, AceFlags, AceKind, Acl};
pub use sid::Sid;

use crate::{FileMeta, le};

/// The longest descriptor: files keep its length in 16 bits.
pub const MAX_LEN: usize = 0xffff;
/// The fixed part: revision, control and four offsets.
const HEADER_LEN: usize = 20;

bitflags::bitflags! {
    /// `SECURITY_DESCRIPTOR_CONTROL`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Control: u16 {
        /// The owner was filled in by default.
        const OWNER_DEFAULTED = 0x1;
        /// The group was filled in by default.
        const GROUP_DEFAULTED = 0x2;
        /// There is a DACL; without one at its offset, everybody may do everything.
        const DACL_PRESENT = 0x4;
        /// The DACL was filled in by default.
        const DACL_DEFAULTED = 0x8;
        /// There is a SACL.
        const SACL_PRESENT = 0x10;
        /// The SACL was filled in by default.
        const SACL_DEFAULTED = 0x20;
        /// The DACL is to be handed down to what is inside (`AR`).
        const DACL_AUTO_INHERIT_REQ = 0x100;
        /// The SACL is to be handed down to what is inside.
        const SACL_AUTO_INHERIT_REQ = 0x200;
        /// The DACL was handed down (`AI`).
        const DACL_AUTO_INHERITED = 0x400;
        /// The SACL was handed down.
        const SACL_AUTO_INHERITED = 0x800;
        /// The DACL takes nothing from above (`P`).
        const DACL_PROTECTED = 0x1000;
        /// The SACL takes nothing from above.
        const SACL_PROTECTED = 0x2000;
        /// The reserved byte of the header means something to a resource manager.
        const RM_CONTROL_VALID = 0x4000;
        /// All parts are in one buffer, found by offsets.
        const SELF_RELATIVE = 0x8000;

        const _ = !0;
    }
}

/// A list of a descriptor, which may be missing in two ways.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum AclField {
    /// The descriptor says nothing.
    #[default]
    Absent,
    /// The descriptor says that there is no list: a DACL of this kind lets everybody do everything.
    Null,
    /// A list; an empty DACL lets nobody do anything.
    List(Acl),
}

impl AclField {
    fn is_present(&self) -> bool {
        *self != Self::Absent
    }

    fn list(&self) -> Option<&Acl> {
        match self {
            Self::List(acl) => Some(acl),
            Self::Absent | Self::Null => None,
        }
    }
}

/// A self-relative security descriptor, known to hold together: every offset, SID, list and entry lies inside.
///
/// Equality is of the bytes: two orders of the same parts are different descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecurityDescriptor(Box<[u8]>);

/// What a descriptor says, without its layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Parts {
    /// Flags; those that follow from the other fields are set and cleared as these need it.
    pub control: Control,
    /// Whose it is.
    pub owner: Option<Sid>,
    /// The primary group, which only POSIX programs look at.
    pub group: Option<Sid>,
    /// What is audited, and integrity labels.
    pub sacl: AclField,
    /// Who may do what.
    pub dacl: AclField,
}

impl SecurityDescriptor {
    /// The descriptor without a DACL: everybody may do everything.
    pub fn null_dacl() -> Self {
        Self(FileMeta::NULL_DACL.into())
    }

    /// Takes the bytes of a self-relative descriptor.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] with the offset of the part that does not hold together.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Result<Self> {
        let descriptor = Self(bytes.into());
        descriptor.check()?;
        Ok(descriptor)
    }

    /// Lays the parts out: owner, group, SACL, DACL behind the header, each in 4-byte units and nothing between.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArchive`] when they need more than [`MAX_LEN`] bytes.
    pub fn from_parts(parts: &Parts) -> Result<Self> {
        let mut control = parts.control | Control::SELF_RELATIVE;
        control.set(Control::DACL_PRESENT, parts.dacl.is_present());
        control.set(Control::SACL_PRESENT, parts.sacl.is_present());
        let mut bytes = vec![0; HEADER_LEN];
        bytes[0] = 1;
        bytes[2..4].copy_from_slice(&control.bits().to_le_bytes());
        for (field, sid) in [(4, &parts.owner), (8, &parts.group)] {
            if let Some(sid) = sid {
                point(&mut bytes, field)?;
                sid.append_to(&mut bytes);
            }
        }
        for (field, acl) in [(12, &parts.sacl), (16, &parts.dacl)] {
            if let Some(acl) = acl.list() {
                point(&mut bytes, field)?;
                acl.append_to(&mut bytes)?;
            }
        }
        Self::from_bytes(bytes)
    }

    /// What the descriptor says.
    ///
    /// # Errors
    /// [`ErrorKind::NotSupported`] for entries of a type whose inside is not known here.
    pub fn parts(&self) -> Result<Parts> {
        let sid = |field| Ok::<_, Error>(self.part(field).map(Sid::read).transpose()?.map(|(sid, _)| sid));
        let control = self.control();
        let acl = |field, present| {
            Ok::<_, Error>(match self.part(field) {
                _ if !control.contains(present) => AclField::Absent,
                None => AclField::Null,
                Some(bytes) => AclField::List(Acl::read(bytes)?),
            })
        };
        Ok(Parts {
            control,
            owner: sid(4)?,
            group: sid(8)?,
            sacl: acl(12, Control::SACL_PRESENT)?,
            dacl: acl(16, Control::DACL_PRESENT)?,
        })
    }

    /// The flags.
    pub fn control(&self) -> Control {
        Control::from_bits_retain(le::u16(&self.0, 2).unwrap_or_default())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, as [`FileMeta::security`] takes them.
    pub fn into_bytes(self) -> Box<[u8]> {
        self.0
    }

    /// What the offset in the header at `field` leads to, up to the end of the descriptor.
    fn part(&self, field: usize) -> Option<&[u8]> {
        let offset = le::u32(&self.0, field).filter(|offset| *offset != 0)?;
        self.0.get(usize::try_from(offset).ok()?..)
    }

    fn check(&self) -> Result<()> {
        let bytes = &*self.0;
        let refuse = |what: &str, at: usize| Err(invalid(what).offset(at as u64));
        if bytes.len() > MAX_LEN {
            return refuse("it is longer than 65535 bytes", MAX_LEN);
        }
        if bytes.len() < HEADER_LEN {
            return refuse("it ends inside its header", bytes.len());
        }
        if bytes[0] != 1 {
            return refuse("its revision is not 1", 0);
        }
        if !self.control().contains(Control::SELF_RELATIVE) {
            return refuse("it is not self-relative", 2);
        }
        for field in [4, 8, 12, 16] {
            let offset = le::u32(bytes, field).map_or(0, |offset| offset as usize); // as in the header: 32 bits
            if offset == 0 {
                continue;
            }
            let Some(part) = bytes.get(offset..).filter(|_| offset >= HEADER_LEN) else {
                return refuse("an offset leads outside", field);
            };
            let checked = if field < 12 { Sid::read(part).map(|_| ()) } else { acl::check(part) };
            checked.map_err(|error| further(&error, offset))?;
        }
        Ok(())
    }
}

/// Writes the end of `bytes` into the header field.
fn point(bytes: &mut [u8], field: usize) -> Result<()> {
    let end = bytes.len();
    let offset = u32::try_from(end).map_err(|_| invalid("it is longer than 65535 bytes"))?;
    bytes[field..field + 4].copy_from_slice(&offset.to_le_bytes());
    Ok(())
}

fn invalid(what: &str) -> Error {
    let message = match what.strip_prefix("security descriptor: ") {
        Some(_) => what.to_owned(),
        None => format!("security descriptor: {what}"),
    };
    Error::new(ErrorKind::InvalidArchive, message)
}

/// An error of a part that begins at `at` in the whole.
fn further(error: &Error, at: usize) -> Error {
    invalid(error.message()).offset(at as u64 + error.byte_offset().unwrap_or_default())
}

/// The beginning of the text, for messages.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{:?}...", &text[..at]),
        None => format!("{text:?}"),
    }
}
