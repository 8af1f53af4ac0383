//! Security descriptors as text: the Security Descriptor Definition Language.
//!
//! Archives of the first Windows containers carry descriptors this way. Names of SIDs that only a domain can resolve,
//! and entries with conditions, are [`ErrorKind::NotSupported`]: guessing would change who may do what.
//!
//! ```
//! use cim_writer_abstraction::security::sddl;
//!
//! # fn main() -> layer_model::Result<()> {
//! let descriptor = sddl::parse("O:BAG:SYD:P(A;OICI;FA;;;SY)(A;;0x1200a9;;;S-1-5-32-545)")?;
//! assert_eq!(sddl::format(&descriptor)?, "O:BAG:SYD:P(A;OICI;FA;;;SY)(A;;0x1200a9;;;BU)");
//! # Ok(()) }
//! ```

use layer_model::{Error, ErrorKind, Result};

use super::{
    Ace, AceFlags, AceKind, Acl, AclField, Control, Parts, SecurityDescriptor, invalid, quoted,
    sddl_rights as rights, sddl_sids as sids,
};
use crate::Guid;

/// What stands in place of a list that is not there on purpose.
const NULL_ACL: &str = "NO_ACCESS_CONTROL";

const KINDS: [(&str, AceKind); 9] = [
    ("A", AceKind::Allowed),
    ("D", AceKind::Denied),
    ("AU", AceKind::Audit),
    ("AL", AceKind::Alarm),
    ("OA", AceKind::ObjectAllowed),
    ("OD", AceKind::ObjectDenied),
    ("OU", AceKind::ObjectAudit),
    ("OL", AceKind::ObjectAlarm),
    ("ML", AceKind::MandatoryLabel),
];

/// Types that are known to exist: conditions, resource attributes, policies, labels of trust, filters.
const KINDS_ELSEWHERE: [&str; 8] = ["XA", "XD", "XU", "ZA", "RA", "SP", "TL", "FL"];

const FLAGS: [(&str, AceFlags); 8] = [
    ("OI", AceFlags::OBJECT_INHERIT),
    ("CI", AceFlags::CONTAINER_INHERIT),
    ("NP", AceFlags::NO_PROPAGATE_INHERIT),
    ("IO", AceFlags::INHERIT_ONLY),
    ("ID", AceFlags::INHERITED),
    ("CR", AceFlags::CRITICAL),
    ("SA", AceFlags::SUCCESSFUL_ACCESS),
    ("FA", AceFlags::FAILED_ACCESS),
];

const DACL_FLAGS: [(&str, Control); 3] = [
    ("P", Control::DACL_PROTECTED),
    ("AR", Control::DACL_AUTO_INHERIT_REQ),
    ("AI", Control::DACL_AUTO_INHERITED),
];

const SACL_FLAGS: [(&str, Control); 3] = [
    ("P", Control::SACL_PROTECTED),
    ("AR", Control::SACL_AUTO_INHERIT_REQ),
    ("AI", Control::SACL_AUTO_INHERITED),
];

/// Reads a descriptor, laid out as [`SecurityDescriptor::from_parts`] does.
///
/// # Errors
/// [`ErrorKind::InvalidArchive`] for what is no SDDL or makes too large a descriptor, [`ErrorKind::NotSupported`] for
/// names that need a domain and for entries with conditions.
pub fn parse(text: &str) -> Result<SecurityDescriptor> {
    let mut parts = Parts::default();
    let mut rest = text;
    while !rest.is_empty() {
        let mut chars = rest.chars();
        let (Some(letter), Some(':')) = (chars.next(), chars.next()) else {
            return Err(invalid(&format!("{} stands where a part of SDDL text begins", quoted(rest))));
        };
        let (value, after) = cut(chars.as_str());
        rest = after;
        let again = match letter.to_ascii_uppercase() {
            'O' => parts.owner.replace(sids::parse(value)?).is_some(),
            'G' => parts.group.replace(sids::parse(value)?).is_some(),
            'D' => set(&mut parts.dacl, list(value, &mut parts.control, &DACL_FLAGS)?),
            'S' => set(&mut parts.sacl, list(value, &mut parts.control, &SACL_FLAGS)?),
            _ => return Err(invalid(&format!("{letter:?} is no part of SDDL text"))),
        };
        if again {
            return Err(invalid(&format!("{letter:?} comes twice in SDDL text")));
        }
    }
    SecurityDescriptor::from_parts(&parts)
}

/// Sets a list; whether there was one.
fn set(field: &mut AclField, list: AclField) -> bool {
    std::mem::replace(field, list).is_present()
}

/// Parts the text before the letter of the next part: the one in front of the next colon outside parentheses.
fn cut(text: &str) -> (&str, &str) {
    let mut inside = false;
    let mut before = 0;
    for (at, char) in text.char_indices() {
        match char {
            '(' => inside = true,
            ')' => inside = false,
            ':' if !inside => return text.split_at(before),
            _ => {}
        }
        before = at;
    }
    (text, "")
}

fn list(text: &str, control: &mut Control, names: &[(&str, Control)]) -> Result<AclField> {
    let (mut flags, mut aces) = text.split_at(text.find('(').unwrap_or(text.len()));
    let mut null = false;
    while !flags.is_empty() {
        if let Some(rest) = strip(flags, NULL_ACL) {
            (null, flags) = (true, rest);
            continue;
        }
        let mut known = names.iter().filter_map(|(name, bit)| Some((strip(flags, name)?, *bit)));
        let Some((rest, bit)) = known.next() else {
            return Err(invalid(&format!("{} are no flags of a list in SDDL text", quoted(flags))));
        };
        flags = rest;
        *control |= bit;
    }
    let mut entries = Vec::new();
    while !aces.is_empty() {
        let Some((ace, rest)) = aces.strip_prefix('(').and_then(|inside| inside.split_once(')')) else {
            return Err(invalid(&format!(
                "{} stands where an entry of a list begins in SDDL text",
                quoted(aces)
            )));
        };
        entries.push(entry(ace)?);
        aces = rest;
    }
    match (null, entries.is_empty()) {
        (true, false) => Err(invalid("a list that is not there has entries in SDDL text")),
        (true, true) => Ok(AclField::Null),
        (false, _) => Ok(AclField::List(Acl { entries })),
    }
}

/// One entry: `type;flags;rights;object;inherited object;SID`.
fn entry(text: &str) -> Result<Ace> {
    let mut fields = text.split(';');
    let kind = fields.next().unwrap_or_default();
    let unsupported =
        || Error::new(ErrorKind::NotSupported, format!("the entry {} in SDDL text", quoted(text)));
    if KINDS_ELSEWHERE.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        return Err(unsupported());
    }
    let refuse = || invalid(&format!("the entry {} in SDDL text", quoted(text)));
    let known = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
    let (_, kind) = *known.ok_or_else(refuse)?;
    let (Some(flags), Some(mask), Some(object), Some(inherited), Some(sid)) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(refuse());
    };
    if fields.next().is_some() {
        // A condition, or the data of a resource attribute.
        return Err(unsupported());
    }
    let guid = |text: &str| match text {
        "" => Ok(None),
        _ if !kind.is_object() => Err(refuse()),
        text => text.parse::<Guid>().map(Some).map_err(|error| refuse().cause(error)),
    };
    Ok(Ace {
        kind,
        flags: ace_flags(flags).ok_or_else(refuse)?,
        mask: rights::parse(mask)?,
        object: guid(object)?,
        inherited_object: guid(inherited)?,
        sid: sids::parse(sid)?,
    })
}

fn ace_flags(text: &str) -> Option<AceFlags> {
    let mut flags = AceFlags::empty();
    for pair in text.as_bytes().chunks(2) {
        flags |= FLAGS.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(pair))?.1;
    }
    Some(flags)
}

/// What follows `name`, whatever its case.
fn strip<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(name.len())?;
    head.eq_ignore_ascii_case(name).then_some(rest)
}

/// Writes a descriptor as text. SIDs and rights that have a name get it, other rights are hexadecimal.
///
/// What [`parse`] makes of it says the same; it has the same bytes when the descriptor was laid out as
/// [`SecurityDescriptor::from_parts`] does and no flags say what was filled in by default.
///
/// # Errors
/// [`ErrorKind::NotSupported`] for entries of a type whose inside is not known here.
pub fn format(descriptor: &SecurityDescriptor) -> Result<String> {
    let parts = descriptor.parts()?;
    let mut text = String::new();
    for (letter, sid) in [("O:", &parts.owner), ("G:", &parts.group)] {
        if let Some(sid) = sid {
            text.push_str(letter);
            text.push_str(&sids::format(sid));
        }
    }
    for (letter, field, names) in [("D:", &parts.dacl, &DACL_FLAGS), ("S:", &parts.sacl, &SACL_FLAGS)] {
        if !field.is_present() {
            continue;
        }
        text.push_str(letter);
        text.extend(names.iter().filter(|(_, bit)| parts.control.contains(*bit)).map(|(name, _)| *name));
        match field.list() {
            Some(acl) => text.extend(acl.entries.iter().map(entry_text)),
            None => text.push_str(NULL_ACL),
        }
    }
    Ok(text)
}

fn entry_text(ace: &Ace) -> String {
    let kind = KINDS.iter().find(|(_, kind)| *kind == ace.kind).map_or("", |(name, _)| name);
    let flags: String =
        FLAGS.iter().filter(|(_, bit)| ace.flags.contains(*bit)).map(|(name, _)| *name).collect();
    let guid = |guid: Option<Guid>| guid.map(|guid| guid.to_string()).unwrap_or_default();
    format!(
        "({kind};{flags};{};{};{};{})",
        rights::format(ace.kind, ace.mask),
        guid(ace.object),
        guid(ace.inherited_object),
        sids::format(&ace.sid)
    )
}
