//! The two-letter names of SIDs in SDDL.

use layer_model::{Error, ErrorKind, Result};

use super::{Sid, invalid, quoted};

/// A name, its authority and its numbers.
type Alias = (&'static str, u64, &'static [u32]);

/// The names that need no domain, from `sddl.h`.
const ALIASES: &[Alias] = &[
    ("WD", 1, &[0]),
    ("CO", 3, &[0]),
    ("CG", 3, &[1]),
    ("OW", 3, &[4]),
    ("NU", 5, &[2]),
    ("IU", 5, &[4]),
    ("SU", 5, &[6]),
    ("AN", 5, &[7]),
    ("ED", 5, &[9]),
    ("PS", 5, &[10]),
    ("AU", 5, &[11]),
    ("RC", 5, &[12]),
    ("SY", 5, &[18]),
    ("LS", 5, &[19]),
    ("NS", 5, &[20]),
    ("BA", 5, &[32, 544]),
    ("BU", 5, &[32, 545]),
    ("BG", 5, &[32, 546]),
    ("PU", 5, &[32, 547]),
    ("AO", 5, &[32, 548]),
    ("SO", 5, &[32, 549]),
    ("PO", 5, &[32, 550]),
    ("BO", 5, &[32, 551]),
    ("RE", 5, &[32, 552]),
    ("RU", 5, &[32, 554]),
    ("RD", 5, &[32, 555]),
    ("NO", 5, &[32, 556]),
    ("MU", 5, &[32, 558]),
    ("LU", 5, &[32, 559]),
    ("IS", 5, &[32, 568]),
    ("CY", 5, &[32, 569]),
    ("ER", 5, &[32, 573]),
    ("CD", 5, &[32, 574]),
    ("RA", 5, &[32, 575]),
    ("ES", 5, &[32, 576]),
    ("MS", 5, &[32, 577]),
    ("HA", 5, &[32, 578]),
    ("AA", 5, &[32, 579]),
    ("RM", 5, &[32, 580]),
    ("WR", 5, &[33]),
    ("UD", 5, &[84, 0, 0, 0, 0, 0]),
    ("AC", 15, &[2, 1]),
    ("LW", 16, &[4096]),
    ("ME", 16, &[8192]),
    ("MP", 16, &[8448]),
    ("HI", 16, &[12288]),
    ("SI", 16, &[16384]),
    ("AS", 18, &[1]),
    ("SS", 18, &[2]),
];

/// Reads a SID as SDDL has it: spelled out, or by its name.
pub(super) fn parse(text: &str) -> Result<Sid> {
    if let Some((_, authority, numbers)) = ALIASES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(text)) {
        return Sid::new(*authority, numbers);
    }
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        let what = format!("the SID {text:?} of SDDL text depends on a domain, or is not known");
        return Err(Error::new(ErrorKind::NotSupported, what));
    }
    text.parse().map_err(|error: Error| invalid(&format!("{} is not a SID", quoted(text))).cause(error))
}

/// The name of the SID, or what it is spelled.
pub(super) fn format(sid: &Sid) -> String {
    let known = |(_, authority, numbers): &&Alias| (*authority, *numbers) == (sid.authority(), sid.numbers());
    ALIASES.iter().find(known).map_or_else(|| sid.to_string(), |(name, ..)| (*name).to_owned())
}
