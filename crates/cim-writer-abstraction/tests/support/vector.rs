//! A small image, byte for byte, which the reader that hcsshim once had takes.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{collections::BTreeMap, sync::Arc};

/// The files of an image by name.
pub(crate) type Files = BTreeMap<String, Arc<[u8]>>;

/// The name of the image.
pub(crate) const NAME: &str = "a.cim";
/// What its regions are named by.
pub(crate) const GUID: &str = "01020304-0506-0708-090a-0b0c0d0e0f10";
/// When `d` was made, as a `FILETIME`.
pub(crate) const TIME: i64 = 133_444_736_000_000_000;

/// `a.cim`.
const IMAGE: &str = "\
    63696d66696c65304800000000000000020000000000000000000000000000000403020106050807090a0b0c0d0e0f10\
    030000000000000040020200000000000000000000000000";

/// Region 0 up to the upcase table.
const METADATA_HEAD: &str = "\
    63696d66696c653028000000010000000200000000000000000000000000000000000000000000002000000002000000\
    0200000004000000180000001c0000000100640001007300140001000480000000000000000000000000000000000000\
    30000000020000000300000003000000180000002c0000000900480065006c006c006f002e0074007800740001007a00\
    1c000c0000a0140000000000020004000200010000006200000062000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000280000000000000020000000000001004800000000000000\
    0000000000000000000000000000000000000000000000000100000000000000000000000000000000006dc64717da01\
    01006dc64717da0102006dc64717da0103006dc64717da01600000000000000030000000000001004800000000000000\
    0000000000000000000000000000000000000000000000000100000000000000090000000000000000006dc64717da01\
    01006dc64717da0102006dc64717da0103006dc64717da01280000000000020009000000000000004800000000000000\
    0000000000000000000000000000000000000000000000000200000000000000000000000c0000a000006dc64717da01\
    01006dc64717da0102006dc64717da0103006dc64717da01000000000000000000000000000000004800000000000000\
    0000000000000000900000000000000000000000000000000100000000000000b0000000000000000400600000000000";

/// Region 0 behind the upcase table: the file-system object.
const METADATA_TAIL: &str = "\
    400200000000000030020000000000000100000001000000";

/// Region 1, which is empty.
const DATA: &str = "\
    63696d66696c65302800000001000000020000000000000000000000000000000100010000000000";

/// Region 2: `hello cim`.
const SMALL_DATA: &str = "\
    63696d66696c6530280000000100000002000000000000000000000000000000020002000000000068656c6c6f2063696d";

/// An upcase table that knows the letters of ASCII.
pub(crate) fn ascii_upcase() -> Vec<u8> {
    let upper = |unit: u16| if (0x61..=0x7a).contains(&unit) { unit - 0x20 } else { unit };
    (0..=u16::MAX).flat_map(|unit| upper(unit).to_le_bytes()).collect()
}

/// All files of the image.
pub(crate) fn files() -> Files {
    let metadata = [unhex(METADATA_HEAD), ascii_upcase(), unhex(METADATA_TAIL)].concat();
    let region = |index| format!("region_{GUID}_{index}");
    [
        (NAME.to_owned(), unhex(IMAGE)),
        (region(0), metadata),
        (region(1), unhex(DATA)),
        (region(2), unhex(SMALL_DATA)),
    ]
    .into_iter()
    .map(|(name, bytes)| (name, bytes.into()))
    .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    let digit = |b: u8| char::from(b).to_digit(16).expect("hexadecimal digits") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
