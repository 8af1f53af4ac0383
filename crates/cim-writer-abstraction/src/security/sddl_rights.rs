//! The two-letter names of rights in SDDL.

use layer_model::Result;

use super::{AceKind, invalid, quoted, sid::number};

/// Rights by name, from `sddl.h`. Of names with the same value the first is the one that is shown.
const RIGHTS: &[(&str, u32)] = &[
    ("GA", 0x1000_0000),
    ("GR", 0x8000_0000),
    ("GW", 0x4000_0000),
    ("GX", 0x2000_0000),
    ("FA", 0x1f_01ff),
    ("FR", 0x12_0089),
    ("FW", 0x12_0116),
    ("FX", 0x12_00a0),
    ("KA", 0xf_003f),
    ("KR", 0x2_0019),
    ("KW", 0x2_0006),
    ("KX", 0x2_0019),
    ("SD", 0x1_0000),
    ("RC", 0x2_0000),
    ("WD", 0x4_0000),
    ("WO", 0x8_0000),
    ("CC", 0x1),
    ("DC", 0x2),
    ("LC", 0x4),
    ("SW", 0x8),
    ("RP", 0x10),
    ("WP", 0x20),
    ("DT", 0x40),
    ("LO", 0x80),
    ("CR", 0x100),
];

/// What an integrity label keeps from lower levels.
const LABEL_RIGHTS: &[(&str, u32)] = &[("NW", 0x1), ("NR", 0x2), ("NX", 0x4)];

/// Reads rights: names without anything between, or a number. Nothing is no right.
pub(super) fn parse(text: &str) -> Result<u32> {
    let refuse = || invalid(&format!("{} are no rights of SDDL text", quoted(text)));
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        // Windows would take a leading zero for octal: nobody means that.
        let octal = text.len() > 1 && text.starts_with('0') && !text[1..].starts_with(['x', 'X']);
        return number(text).filter(|_| !octal).and_then(|mask| u32::try_from(mask).ok()).ok_or_else(refuse);
    }
    let mut mask = 0;
    for pair in text.as_bytes().chunks(2) {
        let mut all = RIGHTS.iter().chain(LABEL_RIGHTS);
        let (_, bits) =
            all.find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(pair)).ok_or_else(refuse)?;
        mask |= bits;
    }
    Ok(mask)
}

/// The name of the rights where there is one, else the number.
pub(super) fn format(kind: AceKind, mask: u32) -> String {
    if kind == AceKind::MandatoryLabel && mask != 0 && mask & !0x7 == 0 {
        return LABEL_RIGHTS.iter().filter(|(_, bit)| mask & bit != 0).map(|(name, _)| *name).collect();
    }
    match RIGHTS.iter().find(|(_, bits)| *bits == mask) {
        Some((name, _)) => (*name).to_owned(),
        None => format!("{mask:#x}"),
    }
}
