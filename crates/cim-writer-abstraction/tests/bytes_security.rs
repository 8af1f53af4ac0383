//! Security descriptors: bytes, parts and SDDL.

mod support;

use cim_writer_abstraction::{
    Guid,
    security::{
        Ace, AceFlags, AceKind, Acl, AclField, Control, MAX_LEN, Parts, SecurityDescriptor, Sid, sddl,
    },
};
use layer_model::ErrorKind;
use proptest::{collection::vec, option, prelude::*, sample};
use support::{digits, hex};

const BASE: &str = "O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)";
const BASE_BYTES: &str = "
    0100048014000000240000000000000030000000010200000000000520000000200200000101000000000005
    1200000002004c000300000000001800ff011f0001020000000000052000000020020000
    00001400ff011f0001010000000000051200000000001800a9001200010200000000000520000000 21020000";

#[test]
fn the_published_text_gives_the_published_bytes() {
    let descriptor = sddl::parse(BASE).unwrap();
    assert_eq!(digits(descriptor.as_bytes()), digits(&hex(BASE_BYTES)));
    assert_eq!(descriptor.as_bytes().len(), 124);
    assert_eq!(sddl::format(&descriptor).unwrap(), BASE);
    assert_eq!(SecurityDescriptor::from_bytes(hex(BASE_BYTES)).unwrap(), descriptor);
}

#[test]
fn a_descriptor_without_a_dacl_is_twenty_bytes() {
    let null = SecurityDescriptor::null_dacl();
    assert_eq!(digits(null.as_bytes()), "0100048000000000000000000000000000000000");
    assert_eq!(null.parts().unwrap().dacl, AclField::Null);
    assert_eq!(sddl::format(&null).unwrap(), "D:NO_ACCESS_CONTROL");
    assert_eq!(sddl::parse("D:NO_ACCESS_CONTROL").unwrap(), null);
    assert_eq!(SecurityDescriptor::from_bytes(null.as_bytes()).unwrap(), null);
}

#[test]
fn no_list_an_empty_list_and_the_absence_of_a_list_are_three_things() {
    let dacl = |text| sddl::parse(text).unwrap().parts().unwrap().dacl;
    assert_eq!(dacl("O:SY"), AclField::Absent);
    assert_eq!(dacl("D:"), AclField::List(Acl::default()));
    assert_eq!(dacl("D:PNO_ACCESS_CONTROL"), AclField::Null);
    let control = sddl::parse("D:PARAIS:PARAI").unwrap().control();
    assert_eq!(control, Control::from_bits_retain(0xbf14));
}

#[test]
fn every_name_that_needs_no_domain_is_known() {
    for (alias, spelled) in [
        ("WD", "S-1-1-0"),
        ("BA", "S-1-5-32-544"),
        ("BU", "S-1-5-32-545"),
        ("BG", "S-1-5-32-546"),
        ("SY", "S-1-5-18"),
        ("LS", "S-1-5-19"),
        ("NS", "S-1-5-20"),
        ("CO", "S-1-3-0"),
        ("CG", "S-1-3-1"),
        ("AU", "S-1-5-11"),
        ("AN", "S-1-5-7"),
        ("PS", "S-1-5-10"),
        ("OW", "S-1-3-4"),
        ("RC", "S-1-5-12"),
        ("AC", "S-1-15-2-1"),
        ("LW", "S-1-16-4096"),
        ("ME", "S-1-16-8192"),
        ("HI", "S-1-16-12288"),
        ("SI", "S-1-16-16384"),
        ("IU", "S-1-5-4"),
        ("NU", "S-1-5-2"),
        ("SU", "S-1-5-6"),
        ("PU", "S-1-5-32-547"),
        ("AO", "S-1-5-32-548"),
        ("SO", "S-1-5-32-549"),
        ("PO", "S-1-5-32-550"),
        ("BO", "S-1-5-32-551"),
        ("RE", "S-1-5-32-552"),
        ("RU", "S-1-5-32-554"),
        ("RD", "S-1-5-32-555"),
        ("NO", "S-1-5-32-556"),
    ] {
        let by_name = sddl::parse(&format!("O:{alias}G:{alias}D:(A;;GA;;;{alias})")).unwrap();
        let spelled = sddl::parse(&format!("O:{spelled}G:{spelled}D:(A;;GA;;;{spelled})")).unwrap();
        assert_eq!(by_name, spelled, "{alias}");
    }
}

#[test]
fn names_of_a_domain_and_conditions_are_left_to_others() {
    for text in [
        "O:DA",
        "G:DU",
        "D:(A;;FA;;;DD)",
        "O:LA",
        "D:(XA;;FX;;;S-1-1-0;(@User.Title==\"PM\"))",
        "D:(A;;FX;;;WD;(Member_of {SID(BA)}))",
        "S:(RA;;;;;WD;(\"Project\",TS,0,\"Windows\"))",
        "S:(TL;;0x1;;;WD)",
    ] {
        assert_eq!(sddl::parse(text).unwrap_err().kind(), &ErrorKind::NotSupported, "{text}");
    }
}

#[test]
fn what_is_no_sddl_is_refused() {
    let long = format!("O:{}", "x".repeat(1 << 20));
    for text in [
        "X:BA",
        "O",
        "O:",
        "O:BAO:SY",
        "D:D:",
        "O:BA G:SY",
        "O:S-1-5-32-544-",
        "D:Q",
        "D:(A;;FA;;;BA",
        "D:(A;;FA;;;BA)x",
        "D:(A;;FA;;BA)",
        "D:(Q;;FA;;;BA)",
        "D:(A;XX;FA;;;BA)",
        "D:(A;O;FA;;;BA)",
        "D:(A;;FAX;;;BA)",
        "D:(A;;0x;;;BA)",
        "D:(A;;0x100000000;;;BA)",
        "D:(A;;017;;;BA)",
        "D:(A;;-1;;;BA)",
        "D:(A;;FA;;;)",
        "D:(A;;FA;6ba7b810-9dad-11d1-80b4-00c04fd430c8;;BA)",
        "D:(OA;;FA;6ba7b810;;BA)",
        "D:NO_ACCESS_CONTROL(A;;FA;;;BA)",
        "\u{e9}:BA",
        &long,
    ] {
        let error = sddl::parse(text).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{text}");
        assert!(error.message().len() < 200, "{}", error.message());
    }
    let large = format!("D:{}", "(A;;FA;;;BA)".repeat(3000));
    assert_eq!(sddl::parse(&large).unwrap_err().kind(), &ErrorKind::InvalidArchive);
}

#[test]
fn rights_are_names_or_numbers() {
    let mask = |rights: &str| {
        let text = format!("D:(A;;{rights};;;WD)");
        match sddl::parse(&text).unwrap().parts().unwrap().dacl {
            AclField::List(acl) => acl.entries[0].mask,
            other => panic!("{other:?}"),
        }
    };
    for (rights, expected) in [
        ("GA", 0x1000_0000),
        ("GRGWGX", 0xe000_0000),
        ("RCSDWDWO", 0xf_0000),
        ("CCDCLCSWRPWPDTLOCR", 0x1ff),
        ("FA", 0x1f_01ff),
        ("frfwfx", 0x12_01bf),
        ("KAKRKWKX", 0xf_003f),
        ("0x1200A9", 0x12_00a9),
        ("1179817", 0x12_00a9),
        ("0", 0),
        ("", 0),
    ] {
        assert_eq!(mask(rights), expected, "{rights}");
    }
}

#[test]
fn entries_of_all_types_come_back() {
    for text in [
        "D:(OA;CIIO;CCDC;6ba7b810-9dad-11d1-80b4-00c04fd430c8;;AU)",
        "D:(OD;;0x3;6ba7b810-9dad-11d1-80b4-00c04fd430c8;6ba7b811-9dad-11d1-80b4-00c04fd430c8;AU)",
        "D:PAI(D;OICINPIOID;GA;;;AN)(A;;FR;;;S-1-5-21-1-2-3-500)",
        "S:ARAI(AU;SAFA;FA;;;WD)(AL;;GA;;;WD)(ML;;NWNRNX;;;HI)(OU;SA;WD;;;WD)",
    ] {
        let descriptor = sddl::parse(text).unwrap();
        let again = sddl::parse(&sddl::format(&descriptor).unwrap()).unwrap();
        assert_eq!(again, descriptor, "{text}");
    }
    // An entry about an object needs the later revision of lists.
    let revision = |text| sddl::parse(text).unwrap().as_bytes()[20];
    assert_eq!((revision("D:(A;;GA;;;WD)"), revision("D:(OA;;GA;;;WD)")), (2, 4));
}

/// The base descriptor with some bytes replaced.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut base = hex(BASE_BYTES);
    base[at..at + bytes.len()].copy_from_slice(bytes);
    base
}

#[test]
fn descriptors_that_do_not_hold_together_are_refused() {
    for (what, bytes, offset) in [
        ("short", hex(BASE_BYTES)[..19].to_vec(), 19),
        ("empty", vec![], 0),
        ("revision", with(0, &[2]), 0),
        ("not self-relative", with(2, &[4, 0]), 2),
        ("owner outside", with(4, &[124, 0, 0, 0]), 124),
        ("owner far outside", with(4, &[0xff; 4]), 4),
        ("group in the header", with(8, &[16, 0, 0, 0]), 8),
        ("dacl cut off", with(16, &[120, 0, 0, 0]), 120),
        ("sacl that is a SID", with(12, &[20, 0, 0, 0]), 20),
        ("owner's revision", with(20, &[9]), 20),
        ("owner of 16 numbers", with(21, &[16]), 21),
        ("size of the dacl", with(50, &[0x4d, 0]), 50),
        ("tiny dacl", with(50, &[7, 0]), 50),
        ("one entry more", with(52, &[4]), 124),
        ("entry without room for its header", with(58, &[3, 0]), 56),
        ("entry past its list", with(58, &[0x45, 0]), 56),
        ("entry whose SID is too long", with(65, &[4]), 72),
        ("one byte less", hex(BASE_BYTES)[..123].to_vec(), 50),
    ] {
        let error = SecurityDescriptor::from_bytes(bytes).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InvalidArchive, "{what}");
        assert_eq!(error.byte_offset(), Some(offset), "{what}: {error}");
    }
    let mut long = hex(BASE_BYTES);
    long.resize(MAX_LEN, 0);
    assert!(SecurityDescriptor::from_bytes(long.clone()).is_ok());
    long.push(0);
    assert!(SecurityDescriptor::from_bytes(long).is_err());
}

#[test]
fn entries_of_unknown_types_are_kept_but_not_shown() {
    // A condition: type 9.
    let descriptor = SecurityDescriptor::from_bytes(with(56, &[9])).unwrap();
    assert_eq!(sddl::format(&descriptor).unwrap_err().kind(), &ErrorKind::NotSupported);
}

fn sid() -> impl Strategy<Value = Sid> {
    let free = (0..1u64 << 48, vec(any::<u32>(), 0..=15));
    let known = (sample::select(vec![1u64, 3, 5]), vec(sample::select(vec![0, 18, 32, 544, 545]), 1..3));
    prop_oneof![free, known]
        .prop_map(|(authority, numbers)| Sid::new(authority, &numbers).expect("in bounds"))
}

fn ace() -> impl Strategy<Value = Ace> {
    let kinds = vec![
        AceKind::Allowed,
        AceKind::Denied,
        AceKind::Audit,
        AceKind::Alarm,
        AceKind::ObjectAllowed,
        AceKind::ObjectDenied,
        AceKind::ObjectAudit,
        AceKind::ObjectAlarm,
        AceKind::MandatoryLabel,
    ];
    let mask = prop_oneof![any::<u32>(), sample::select(vec![0x1f_01ff, 7, 1, 0x2_0019, 0x1000_0000])];
    let guid = || option::of(any::<[u8; 16]>().prop_map(Guid::from_mixed));
    (sample::select(kinds), any::<u8>(), mask, guid(), guid(), sid()).prop_map(
        |(kind, flags, mask, object, inherited_object, sid)| {
            let only = |guid: Option<Guid>| guid.filter(|_| kind.is_object());
            let (object, inherited_object) = (only(object), only(inherited_object));
            Ace { kind, flags: AceFlags::from_bits_retain(flags), mask, object, inherited_object, sid }
        },
    )
}

fn field() -> impl Strategy<Value = AclField> {
    prop_oneof![
        Just(AclField::Absent),
        Just(AclField::Null),
        vec(ace(), 0..6).prop_map(|entries| AclField::List(Acl { entries })),
    ]
}

fn parts() -> impl Strategy<Value = Parts> {
    (any::<u16>(), option::of(sid()), option::of(sid()), field(), field()).prop_map(
        |(control, owner, group, sacl, dacl)| {
            let mut control = Control::from_bits_retain(control & 0x3f00) | Control::SELF_RELATIVE;
            let dacl_flags =
                Control::DACL_PROTECTED | Control::DACL_AUTO_INHERITED | Control::DACL_AUTO_INHERIT_REQ;
            let sacl_flags =
                Control::SACL_PROTECTED | Control::SACL_AUTO_INHERITED | Control::SACL_AUTO_INHERIT_REQ;
            for (field, present, flags) in
                [(&dacl, Control::DACL_PRESENT, dacl_flags), (&sacl, Control::SACL_PRESENT, sacl_flags)]
            {
                control.set(present, *field != AclField::Absent);
                if *field == AclField::Absent {
                    control.remove(flags);
                }
            }
            Parts { control, owner, group, sacl, dacl }
        },
    )
}

proptest! {
    #[test]
    fn parts_bytes_and_text_come_back(parts in parts()) {
        let descriptor = SecurityDescriptor::from_parts(&parts).unwrap();
        prop_assert_eq!(&descriptor.parts().unwrap(), &parts);
        let text = sddl::format(&descriptor).unwrap();
        prop_assert_eq!(&sddl::parse(&text).unwrap(), &descriptor, "{}", text);
    }

    #[test]
    fn damaged_descriptors_are_an_error_or_hold_together(
        parts in parts(), damage in vec((any::<sample::Index>(), any::<u8>()), 1..4), cut in option::of(any::<sample::Index>()),
    ) {
        let mut bytes = SecurityDescriptor::from_parts(&parts).unwrap().into_bytes().into_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(descriptor) = SecurityDescriptor::from_bytes(bytes)
            && let Ok(text) = sddl::format(&descriptor)
        {
            // What it says survives, though the layout need not.
            let again = sddl::parse(&text).unwrap();
            prop_assert_eq!(sddl::format(&again).unwrap(), text);
        }
    }

    #[test]
    fn any_bytes_and_any_text_are_taken_without_a_panic(bytes in vec(any::<u8>(), 0..200), text in "([OGDS]:)?[ -~]{0,60}") {
        let _ = SecurityDescriptor::from_bytes(bytes);
        let _ = sddl::parse(&text);
    }
}
