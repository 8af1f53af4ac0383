//! Extended attributes, reparse data and VHD footers, byte for byte.

mod support;

use std::{
    fs::File,
    io::{Read, Seek, Write},
};

use cim_writer_abstraction::{
    ea::{self, Ea},
    reparse::{self, Link},
    vhd::{FOOTER_LEN, Footer, UniqueId},
};
use layer_model::{Digest, ErrorKind};
use proptest::{collection::vec, prelude::*, sample};
use support::{digits, hex};

#[test]
fn one_attribute_is_padded_at_its_end() {
    let chain = ea::encode(&[Ea::new(b"A", b"xyz")]).unwrap();
    assert_eq!(digits(&chain), "0000000000010300410078797a000000");
    assert!(ea::encode(&[]).unwrap().is_empty());
}

#[test]
fn attributes_are_sorted_by_upper_cased_name() {
    let chain = ea::encode(&[Ea::new(b"b", b"2"), Ea::new(b"C", b""), Ea::new(b"A", b"1")]).unwrap();
    let names: Vec<_> = ea::entries(&chain).map(|ea| ea.unwrap().name).collect();
    assert_eq!(names, [b"A", b"b", b"C"]);
    assert_eq!(digits(&chain[..12]), "0c0000000001010041003100");
}

#[test]
fn attributes_that_no_chain_can_hold_are_refused() {
    let kind = |attributes: &[Ea<'_>]| ea::encode(attributes).unwrap_err().kind().clone();
    let (name, value) = ([b'n'; 255], vec![0; 0x1_0000]);
    assert_eq!(kind(&[Ea::new(b"", b"")]), ErrorKind::InvalidArchive);
    assert_eq!(kind(&[Ea::new(b"a\0b", b"")]), ErrorKind::InvalidArchive);
    assert_eq!(kind(&[Ea::new(b"a", b""), Ea::new(b"A", b"")]), ErrorKind::ConflictingEntries);
    assert_eq!(kind(&[Ea::new(&name, b"")]), ErrorKind::LimitExceeded { limit: "ea_name" });
    assert_eq!(kind(&[Ea::new(b"a", &value)]), ErrorKind::LimitExceeded { limit: "ea_value" });
    assert_eq!(kind(&[Ea::new(b"a", &value[1..])]), ErrorKind::LimitExceeded { limit: "ea_total" });
    assert!(ea::encode(&[Ea::new(&name[1..], &value[..1000])]).is_ok());
    // 0xfffc is the most that is a multiple of four.
    assert_eq!(ea::encode(&[Ea::new(b"a", &value[..0xfffc - 10])]).unwrap().len(), 0xfffc);
    assert!(ea::encode(&[Ea::new(b"a", &value[..0xfffc - 9])]).is_err());
}

#[test]
fn chains_that_do_not_hold_together_are_refused() {
    let read = |text: &str| ea::entries(&hex(text)).map(|ea| ea.map(|_| ())).collect::<Result<Vec<_>, _>>();
    assert_eq!(read("").unwrap().len(), 0);
    assert_eq!(read("0000000000010300410078797a").unwrap().len(), 1);
    assert_eq!(read("0c0000000001010041003100 0000000000010100420032").unwrap().len(), 2);
    for (what, text, at) in [
        ("ends in the header", "00000000000103", 0),
        ("ends in the name", "000000000005030041", 0),
        ("ends at the terminator", "000000000001000041", 0),
        ("ends in the value", "0000000000010300410078", 0),
        ("no terminator", "0000000000010300414178797a000000", 0),
        ("no name", "0000000000000300 0078797a00", 0),
        ("goes on", "0000000000010300410078797a00000000", 0),
        ("points to itself", "040000000001010041003100", 0),
        ("points nowhere", "0c0000000001010041003100", 0),
        ("points past", "100000000001010041003100 0000000000010100420032", 0),
        ("second is cut", "0c0000000001010041003100 00000000000101", 12),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!((error.kind(), error.byte_offset()), (&ErrorKind::InvalidArchive, Some(at)), "{what}");
    }
}

#[test]
fn links_are_the_published_bytes() {
    let symlink = Link::new(b"b", false).encode().unwrap();
    assert_eq!(digits(&symlink), "0c0000a0140000000000020004000200010000006200000062000000");
    assert!(reparse::is_relative(&symlink));
    let junction = Link::new(br"C:\data", true).encode().unwrap();
    let expected = "030000a0300000000000160018000e005c003f003f005c0043003a005c006400610074006100000043003a005c0064006100740061000000";
    assert_eq!(digits(&junction), expected);
}

/// The name that the kernel follows.
fn substitute(buffer: &[u8]) -> String {
    let start = if reparse::tag(buffer) == Some(reparse::TAG_JUNCTION) { 16 } else { 20 };
    let len = usize::from(u16::from_le_bytes([buffer[10], buffer[11]]));
    let units: Vec<u16> =
        buffer[start..start + len].as_chunks().0.iter().map(|u| u16::from_le_bytes(*u)).collect();
    String::from_utf16(&units).expect("paired surrogates")
}

#[test]
fn absolute_targets_get_the_name_that_the_kernel_follows() {
    for (target, name, is_relative) in [
        ("../b/c", r"..\b\c", true),
        (r"\rooted", r"\rooted", true),
        (r"C:\x", r"\??\C:\x", false),
        ("z:", r"\??\z:", false),
        (r"\\server\share", r"\??\UNC\server\share", false),
        (r"\\?\Volume{1}\x", r"\??\Volume{1}\x", false),
        ("1:x", "1:x", true),
    ] {
        let buffer = Link::new(target.as_bytes(), false).encode().unwrap();
        assert_eq!(substitute(&buffer), name);
        assert_eq!(reparse::is_relative(&buffer), is_relative, "{target}");
        let back = Link::parse(&buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&back.target), target.replace('/', "\\"));
    }
}

#[test]
fn links_without_a_name_for_people_are_read_by_the_other() {
    for (substitute, target) in [
        (r"\??\C:\x", r"C:\x"),
        (r"\??\UNC\s\d", r"\\s\d"),
        (r"\??\Volume{1}\", r"\\?\Volume{1}\"),
        ("x", "x"),
    ] {
        let name: Vec<u8> = substitute.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut buffer = reparse::TAG_JUNCTION.to_le_bytes().to_vec();
        for number in [8 + name.len(), 0, 0, name.len(), name.len(), 0] {
            buffer.extend_from_slice(&(number as u16).to_le_bytes());
        }
        buffer.extend_from_slice(&name);
        assert_eq!(&*Link::parse(&buffer).unwrap().target, target.as_bytes());
    }
}

#[test]
fn links_to_nowhere_and_too_far_are_refused() {
    let kind = |target: &[u8]| Link::new(target, false).encode().unwrap_err().kind().clone();
    assert_eq!(kind(b""), ErrorKind::InvalidArchive);
    assert_eq!(kind(b"a\0"), ErrorKind::InvalidArchive);
    assert_eq!(kind(b"a\xff"), ErrorKind::InvalidArchive);
    // 20 bytes, and twice the name and its terminator in units of two.
    let longest = (reparse::MAX_LEN - 20) / 4 - 1;
    assert_eq!(Link::new(&vec![b'x'; longest], false).encode().unwrap().len(), reparse::MAX_LEN);
    assert_eq!(kind(&vec![b'x'; longest + 1]), ErrorKind::LimitExceeded { limit: "reparse_size" });
    assert_eq!(kind(&vec![b'x'; 1 << 20]), ErrorKind::LimitExceeded { limit: "reparse_size" });
}

#[test]
fn reparse_data_that_does_not_hold_together_is_refused() {
    let good = Link::new(b"b", false).encode().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Link::parse(&bytes).unwrap_err().kind().clone()
    };
    assert_eq!(with(0, 0x1d), ErrorKind::NotSupported); // the link of a Linux subsystem
    for (at, byte) in [(4, 0x15), (8, 8), (10, 3), (10, 20), (12, 1), (12, 0xff), (14, 0x80)] {
        assert_eq!(with(at, byte), ErrorKind::InvalidArchive, "{at}");
    }
    for cut in 0..good.len() {
        assert_eq!(Link::parse(&good[..cut]).unwrap_err().kind(), &ErrorKind::InvalidArchive);
    }
}

#[test]
fn a_footer_is_the_published_bytes() {
    let footer = Footer { size: 1_048_576, unique_id: [0; 16] };
    let bytes = footer.to_bytes();
    assert_eq!(bytes[64..68], 0xffff_f47b_u32.to_be_bytes());
    let expected = "caad961dcb85b5d61db8bc47f2b869a8f2baa9f3d63c07fd977414147b114dec";
    assert_eq!(Digest::sha256(bytes).to_string(), format!("sha256:{expected}"));
    assert_eq!(Footer::parse(&bytes).unwrap(), footer);
}

#[test]
fn every_damage_to_a_footer_shows() {
    let bytes = Footer { size: 1 << 40, unique_id: [7; 16] }.to_bytes();
    for at in 0..FOOTER_LEN {
        let mut damaged = bytes;
        damaged[at] ^= 0x10;
        assert_eq!(Footer::parse(&damaged).unwrap_err().kind(), &ErrorKind::CorruptImage, "{at}");
    }
    // Two wrongs make a right sum, but not a fixed disk.
    let mut dynamic = bytes;
    (dynamic[63], dynamic[11]) = (3, 1);
    assert_eq!(Footer::parse(&dynamic).unwrap_err().byte_offset(), Some(60));
}

fn container(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("written");
    file
}

#[test]
fn a_container_gets_one_footer_wherever_its_handle_stands() {
    let mut file = container(&[1; 1000]);
    file.rewind().unwrap();
    assert_eq!(Footer::find(&file).unwrap(), None);
    let footer = Footer::append(&mut file, [9; 16]).unwrap();
    assert_eq!(footer, Footer { size: 1000, unique_id: [9; 16] });
    assert_eq!(Footer::find(&file).unwrap(), Some(footer));
    assert_eq!(file.metadata().unwrap().len(), 1512);

    let error = Footer::append(&mut file, [8; 16]).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::AlreadyExists);
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [&[1; 1000][..], &footer.to_bytes()].concat());
}

#[test]
fn a_damaged_footer_is_no_place_for_another() {
    let mut bytes = Footer { size: 0, unique_id: [0; 16] }.to_bytes();
    bytes[100] = 1;
    let mut file = container(&bytes);
    assert_eq!(Footer::find(&file).unwrap_err().kind(), &ErrorKind::CorruptImage);
    assert_eq!(Footer::append(&mut file, [0; 16]).unwrap_err().kind(), &ErrorKind::AlreadyExists);

    let moved = container(&[&[0; 8][..], &Footer { size: 0, unique_id: [0; 16] }.to_bytes()].concat());
    let kind = ErrorKind::SizeMismatch { expected: 0, got: 8 };
    assert_eq!(Footer::find(&moved).unwrap_err().kind(), &kind);
}

#[test]
fn a_footer_that_cannot_be_written_leaves_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer.vhd");
    std::fs::write(&path, [1; 600]).unwrap();
    assert!(Footer::append(&mut File::open(&path).unwrap(), [0; 16]).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), [1; 600]);
}

#[test]
fn the_identifier_is_drawn_given_or_derived() {
    let digest = std::array::from_fn(|n| n as u8);
    assert_eq!(UniqueId::Random([3; 16]).resolve(None).unwrap(), [3; 16]);
    assert_eq!(UniqueId::Fixed([4; 16]).resolve(Some(&digest)).unwrap(), [4; 16]);
    assert_eq!(UniqueId::FromDigest.resolve(Some(&digest)).unwrap(), digest[..16]);
    assert_eq!(UniqueId::FromDigest.resolve(None).unwrap_err().kind(), &ErrorKind::InvalidArgument);
}

/// Attributes whose names are all different.
fn attributes() -> impl Strategy<Value = Vec<(String, u8, Vec<u8>)>> {
    let one = ("[a-zA-Z.$]{1,20}", any::<u8>(), vec(any::<u8>(), 0..40));
    vec(one, 0..6).prop_map(|mut all| {
        let mut seen = std::collections::HashSet::new();
        all.retain(|(name, ..)| seen.insert(name.to_ascii_uppercase()));
        all
    })
}

fn as_ea(attributes: &[(String, u8, Vec<u8>)]) -> Vec<Ea<'_>> {
    attributes.iter().map(|(name, flags, value)| Ea { flags: *flags, name: name.as_bytes(), value }).collect()
}

proptest! {
    #[test]
    fn attributes_come_back_sorted(attributes in attributes()) {
        let given = as_ea(&attributes);
        let chain = ea::encode(&given).unwrap();
        let back: Vec<Ea<'_>> = ea::entries(&chain).map(Result::unwrap).collect();
        let mut expected = given.clone();
        expected.sort_by_key(|ea| ea.name.to_ascii_uppercase());
        prop_assert_eq!(back, expected);
        prop_assert_eq!(ea::encode(&given.into_iter().rev().collect::<Vec<_>>()).unwrap(), chain);
    }

    #[test]
    fn damaged_chains_end(attributes in attributes(), damage in vec((any::<sample::Index>(), any::<u8>()), 1..4)) {
        let mut chain = ea::encode(&as_ea(&attributes)).unwrap();
        for (at, byte) in damage {
            if !chain.is_empty() {
                let at = at.index(chain.len());
                chain[at] = byte;
            }
        }
        prop_assert!(ea::entries(&chain).count() <= chain.len());
    }

    #[test]
    fn targets_come_back(target in "[^\0/]{1,30}", is_junction: bool) {
        let link = Link::new(target.as_bytes(), is_junction);
        prop_assert_eq!(Link::parse(&link.encode().unwrap()).unwrap(), link);
    }

    #[test]
    fn unpaired_surrogates_of_targets_come_back(units in vec(1u16.., 1..20)) {
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let mut buffer = reparse::TAG_JUNCTION.to_le_bytes().to_vec();
        for number in [8 + bytes.len(), 0, 0, 0, 0, bytes.len()] {
            buffer.extend_from_slice(&(number as u16).to_le_bytes());
        }
        buffer.extend_from_slice(&bytes);
        let link = Link::parse(&buffer).unwrap();
        prop_assert_eq!(Link::parse(&link.encode().unwrap()).unwrap(), link);
    }

    #[test]
    fn any_reparse_data_is_taken_without_a_panic(mut bytes in vec(any::<u8>(), 0..64), tag in 0..3usize) {
        if let (Some(head), Some(tag)) = (bytes.first_chunk_mut(), [reparse::TAG_JUNCTION, reparse::TAG_SYMLINK].get(tag)) {
            *head = tag.to_le_bytes();
        }
        let len = bytes.len().saturating_sub(8) as u8;
        if let Some(field) = bytes.get_mut(4..6) {
            field.copy_from_slice(&[len, 0]);
        }
        let _ = Link::parse(&bytes);
    }
}
