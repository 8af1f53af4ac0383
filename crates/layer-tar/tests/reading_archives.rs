//! What the reader makes of archives, rule by rule: the same as Go's `archive/tar`, but where it says so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Read;

use layer_model::{ErrorKind, Profile};
use layer_tar::{ReadOptions, TarReader};
use support::{END, Raw, extension, file, list, list_with, pax, record};

fn entries(tar: &[u8]) -> Vec<String> {
    let (lines, error) = list(tar);
    assert_eq!(error, None, "{lines:?}");
    lines
}

fn refused(tar: &[u8]) -> ErrorKind {
    list(tar).1.expect("the archive is refused")
}

fn contents(tar: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = TarReader::new(tar, ReadOptions::default());
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Vec::new();
        entry.into_content().unwrap().into_reader().read_to_end(&mut content).unwrap();
        all.push(content);
    }
    all
}

#[test]
fn archives_may_end_without_an_end() {
    assert!(entries(b"").is_empty());
    assert!(entries(&END).is_empty());
    assert_eq!(entries(&file("f", b"x")), ["0 f 1"]);
    assert_eq!(entries(&[file("f", b"x"), vec![0; 512]].concat()), ["0 f 1"]);
    // The padding of the last payload may be missing, too.
    assert_eq!(entries(&file("f", b"x")[..513]), ["0 f 1"]);
}

#[test]
fn one_zero_block_between_entries_is_refused() {
    let (lines, error) = list(&[file("f", b"x"), vec![0; 512], file("g", b"y"), END.to_vec()].concat());
    assert_eq!((lines, error), (vec!["0 f 1".to_owned()], Some(ErrorKind::InvalidArchive)));
}

#[test]
fn what_follows_the_end_is_not_parsed() {
    let tar = [file("f", b"x"), END.to_vec(), file("g", b"y"), END.to_vec(), b"junk".to_vec()].concat();
    assert_eq!(entries(&tar), ["0 f 1"]);
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    while reader.next_entry().unwrap().is_some() {}
    assert_eq!(reader.position(), 2048);
    reader.drain().unwrap();
    assert_eq!(reader.position(), tar.len() as u64);
}

#[test]
fn an_archive_cut_inside_a_header_or_payload_is_truncated() {
    assert_eq!(refused(&file("f", b"x")[..300]), ErrorKind::Truncated);
    let tar = Raw::new(b'0', b"f", 600).block();
    let tar = [&tar[..], &[7; 512]].concat();
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    let entry = reader.next_entry().unwrap().unwrap();
    let error = entry.into_content().unwrap().write_to(&mut Vec::new()).unwrap_err();
    assert_eq!((error.kind(), error.byte_offset()), (&ErrorKind::Truncated, Some(1024)));
    let error = reader.next_entry().unwrap_err();
    assert_eq!(
        (error.kind(), error.entry_path(), error.entry_index()),
        (&ErrorKind::Truncated, Some(&b"f"[..]), Some(0))
    );
    assert_eq!(reader.next_entry().unwrap_err().kind(), &ErrorKind::FailedPrecondition);
}

#[test]
fn every_cut_of_an_archive_is_an_error_or_a_clean_prefix() {
    let tar = [
        file("a", &[1; 700]),
        pax(&[("path", "long"), ("size", "5")]),
        Raw::new(b'0', b"b", 0).block(),
        b"12345".to_vec(),
        vec![0; 507],
        END.to_vec(),
    ]
    .concat();
    let whole = entries(&tar);
    for end in (0..tar.len()).step_by(128) {
        let (lines, error) = list(&tar[..end]);
        assert!(whole.starts_with(&lines), "{end}");
        assert!(error.is_none() || error == Some(ErrorKind::Truncated), "{end}: {error:?}");
    }
}

#[test]
fn a_wrong_checksum_is_refused_with_its_offset() {
    let mut tar = [file("a", b""), file("b", b""), END.to_vec()].concat();
    tar[512] = b'c';
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    reader.next_entry().unwrap();
    let error = reader.next_entry().unwrap_err();
    assert_eq!(
        (error.kind(), error.byte_offset(), error.entry_index()),
        (&ErrorKind::InvalidArchive, Some(512), Some(1))
    );
}

#[test]
fn the_size_of_pax_counts_in_both_directions() {
    // CVE-2025-62518: a reader that takes the header's size sees the entries inside the payload.
    let inner = [file("inner", b"x"), vec![]].concat();
    let smuggled = [
        pax(&[("size", "1024")]),
        Raw::new(b'0', b"f", 0).block(),
        inner.clone(),
        file("after", b""),
        END.to_vec(),
    ];
    assert_eq!(entries(&smuggled.concat()), ["0 f 1024", "0 after 0"]);
    // CVE-2026-33055: the reverse.
    let hidden = [
        pax(&[("size", "0")]),
        Raw::new(b'0', b"f", 1024).block(),
        file("evil", b"x"),
        file("after", b""),
        END.to_vec(),
    ];
    assert_eq!(entries(&hidden.concat()), ["0 f 0", "0 evil 1", "0 after 0"]);
}

#[test]
fn types_without_content_have_no_payload_whatever_their_size() {
    for typeflag in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let tar = [Raw::new(typeflag, b"d", 1024).link(b"t").block(), file("f", b""), END.to_vec()].concat();
        assert_eq!(entries(&tar), [format!("{} d 0", char::from(typeflag)), "0 f 0".to_owned()]);
    }
}

#[test]
fn records_override_the_header_by_their_last_value_unless_that_is_empty() {
    let ustar = Raw::new(b'0', b"ustar", 0).block();
    for (records, want) in [
        (&[("path", "")][..], "0 ustar 0"),
        (&[("path", "a"), ("path", "b")], "0 b 0"),
        (&[("path", "a"), ("path", "")], "0 ustar 0"),
        (&[("size", ""), ("uid", ""), ("mtime", "")], "0 ustar 0"),
        (&[("GNU.sparse.name", "spn")], "0 ustar 0"),
        (&[("GNU.sparse.major", "3"), ("GNU.sparse.name", "spn")], "0 ustar 0"),
        (&[("SCHILY.xattr.user.overlay.origin", "")], "0 ustar 0"),
    ] {
        assert_eq!(entries(&[pax(records), ustar.clone(), END.to_vec()].concat()), [want], "{records:?}");
    }
}

#[test]
fn a_second_extended_header_replaces_the_first() {
    let tar = [
        pax(&[("path", "a"), ("uid", "5")]),
        pax(&[("path", "b")]),
        Raw::new(b'0', b"f", 0).block(),
        END.to_vec(),
    ]
    .concat();
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!((&entry.raw.name[..], entry.raw.uid), (&b"b"[..], 0));
    assert_eq!(entry.raw.header_offset, 0);
}

#[test]
fn gnu_names_win_over_pax_names_and_sizes_belong_to_the_entry() {
    let long = extension(b'L', b"gnuname\0");
    let ustar = Raw::new(b'0', b"f", 0).block();
    for parts in [[pax(&[("path", "paxname")]), long.clone()], [long.clone(), pax(&[("path", "paxname")])]] {
        assert_eq!(entries(&[parts.concat(), ustar.clone(), END.to_vec()].concat()), ["0 gnuname 0"]);
    }
    let tar = [pax(&[("size", "512")]), long, ustar, vec![7; 512], file("after", b""), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["0 gnuname 512", "0 after 0"]);
    let linked = [extension(b'K', &[b't'; 200]), Raw::new(b'2', b"l", 0).link(b"short").block()].concat();
    let mut reader = TarReader::new(&linked[..], ReadOptions::default());
    assert_eq!(reader.next_entry().unwrap().unwrap().raw.link_name, [b't'; 200]);
}

#[test]
fn extension_state_ends_with_its_entry() {
    let tar = [
        pax(&[("path", "a"), ("size", "1"), ("SCHILY.xattr.user.a", "1")]),
        extension(b'K', b"target"),
        Raw::new(b'0', b"f", 0).block(),
        support::padded(b"x"),
        file("plain", b""),
        END.to_vec(),
    ]
    .concat();
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    reader.next_entry().unwrap();
    let raw = reader.next_entry().unwrap().unwrap().raw.clone();
    assert_eq!(
        (&raw.name[..], raw.link_name.len(), raw.pax.len(), raw.header_offset),
        (&b"plain"[..], 0, 0, 2560 + 512)
    );
}

#[test]
fn global_headers_change_nothing() {
    let global = extension(b'g', &record("path", b"global"));
    let tar = [global.clone(), Raw::new(b'0', b"ustar", 0).block(), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["g extension 0", "0 ustar 0"]);
    // As in Go, records in front of a global header are lost.
    let tar = [pax(&[("path", "a")]), global, Raw::new(b'0', b"ustar", 0).block(), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["g extension 0", "0 ustar 0"]);
}

#[test]
fn malformed_records_and_numbers_are_refused() {
    let ustar = Raw::new(b'0', b"f", 0).block();
    for payload in [
        &b"99 path=a\n"[..],
        b"10 path=aX",
        b"+10 path=a\n",
        b"5 =a\n",
        b"12 path=a\0b\n",
        b"16 linkpath=a\0b\n",
    ] {
        let tar = [extension(b'x', payload), ustar.clone(), END.to_vec()].concat();
        assert_eq!(refused(&tar), ErrorKind::InvalidArchive, "{payload:?}");
    }
    for (key, value) in
        [("size", "x"), ("uid", "1x"), ("gid", ""), ("gid", " 1"), ("mtime", "now"), ("size", "-1")]
    {
        let tar = [pax(&[(key, value)]), ustar.clone(), END.to_vec()].concat();
        let want = (!value.is_empty()).then_some(ErrorKind::InvalidArchive);
        assert_eq!(list(&tar).1, want, "{key}={value}");
    }
}

#[test]
fn a_plus_sign_is_a_number_to_containerd_only() {
    let tar = [pax(&[("size", "+1")]), Raw::new(b'0', b"f", 0).block(), support::padded(b"x"), END.to_vec()]
        .concat();
    assert_eq!(refused(&tar), ErrorKind::InvalidArchive);
    let (lines, error) = list_with(&tar, ReadOptions::default().profile(Profile::Containerd));
    assert_eq!((&lines[..], error), (&["0 f 1".to_owned()][..], None));
}

#[test]
fn extension_headers_have_a_limit() {
    let limit = ErrorKind::LimitExceeded { limit: "max_extension_size" };
    for typeflag in [b'x', b'g', b'L', b'K'] {
        let tar = [Raw::new(typeflag, b"x", (1 << 20) + 1).block(), vec![0; 4096]].concat();
        assert_eq!(refused(&tar), limit, "{typeflag}");
    }
    let value = vec![b'v'; (1 << 20) - 20];
    let tar = [extension(b'x', &record("comment", &value)), file("f", b""), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["0 f 0"]);
}

#[test]
fn a_v7_name_with_a_slash_is_a_directory() {
    let v7 = |typeflag, name: &[u8]| Raw::new(typeflag, name, 0).with(257, &[0; 8]).block();
    let tar = [v7(0, b"d/"), v7(0, b"f"), Raw::new(b'0', b"e/", 0).block(), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["5 d/ 0", "0 f 0", "0 e/ 0"]);
    // Without a magic there is no prefix.
    let tar =
        [Raw::new(b'0', b"f", 0).with(257, &[0; 8]).with(345, b"prefix").block(), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["0 f 0"]);
}

#[test]
fn prefixes_are_read_in_every_dialect_that_has_one() {
    let odd_version = Raw::new(b'0', b"f", 0).with(263, b"9z").with(345, b"p");
    let star = Raw::new(b'0', b"f", 0).with(345, b"p").with(508, b"tar\0");
    let gnu = Raw::new(b'0', b"f", 0).gnu().with(345, b"00000000001\0");
    let old_go = Raw::new(b'0', b"f", 0).gnu().with(345, b"dir/name");
    let tar = [odd_version.block(), star.block(), gnu.block(), old_go.block(), END.to_vec()].concat();
    assert_eq!(entries(&tar), ["0 p/f 0", "0 p/f 0", "0 f 0", "0 dir/name/f 0"]);
}

#[test]
fn numbers_may_be_base_256_but_sizes_not_negative() {
    let five = Raw::new(b'0', b"f", 0).gnu().with(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x05").block();
    assert_eq!(contents(&[five, support::padded(b"12345"), END.to_vec()].concat()), [b"12345"]);
    for size in [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x80\0\0\x01\0\0\0\0\0\0\0\0"] {
        let tar = [Raw::new(b'0', b"f", 0).gnu().with(124, size).block(), END.to_vec()].concat();
        assert_eq!(refused(&tar), ErrorKind::InvalidArchive);
    }
}

#[test]
fn names_are_bytes() {
    let tar = [extension(b'x', &record("path", b"\xff\xfe")), Raw::new(b'0', b"f", 0).block(), END.to_vec()]
        .concat();
    assert_eq!(entries(&tar), [r"0 \xff\xfe 0"]);
}

#[test]
fn unknown_types_are_listed_and_their_payload_skipped() {
    for typeflag in [b'V', b'M', b'N', b'D', b'X', b'A', b'7'] {
        let tar =
            [Raw::new(typeflag, b"v", 5).block(), support::padded(b"12345"), file("f", b""), END.to_vec()]
                .concat();
        assert_eq!(entries(&tar), [format!("{} v 5", char::from(typeflag)), "0 f 0".to_owned()]);
    }
}

/// A file of 100 bytes with `ab` at 10 and `c` at 50.
fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; 100];
    content[10..12].copy_from_slice(b"ab");
    content[50] = b'c';
    content
}

#[test]
fn every_sparse_encoding_gives_the_dense_file() {
    let octal = |n: u64| format!("{n:011o}\0").into_bytes();
    let slots = |list: &[(u64, u64)]| {
        list.iter().flat_map(|(at, len)| [octal(*at), octal(*len)].concat()).collect::<Vec<_>>()
    };
    let data = support::padded(b"abc");
    let old = [
        Raw::new(b'S', b"f", 3).gnu().with(386, &slots(&[(10, 2), (50, 1)])).with(483, &octal(100)).block(),
        data.clone(),
    ]
    .concat();
    let v00 = {
        let records = [
            ("GNU.sparse.size", "100"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "10"),
            ("GNU.sparse.numbytes", "2"),
            ("GNU.sparse.offset", "50"),
            ("GNU.sparse.numbytes", "1"),
        ];
        [pax(&records), Raw::new(b'0', b"f", 3).block(), data.clone()].concat()
    };
    let v01 = {
        let records = [
            ("GNU.sparse.name", "f"),
            ("GNU.sparse.size", "100"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.map", "10,2,50,1"),
        ];
        [pax(&records), Raw::new(b'0', b"GNUSparseFile.1/f", 3).block(), data].concat()
    };
    let v10 = {
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "f"),
            ("GNU.sparse.realsize", "100"),
        ];
        let payload = [support::padded(b"2\n10\n2\n50\n1\n"), b"abc".to_vec()].concat();
        let header = Raw::new(b'0', b"GNUSparseFile.1/f", payload.len() as u64).block();
        [pax(&records), header, support::padded(&payload)].concat()
    };
    for (form, archive) in [("old", old), ("0.0", v00), ("0.1", v01), ("1.0", v10)] {
        let tar = [archive, file("after", b"x"), END.to_vec()].concat();
        let (lines, error) = list(&tar);
        assert_eq!(error, None, "{form}");
        assert_eq!((&lines[0][1..], &lines[1][..]), (" f 100", "0 after 1"), "{form}");
        assert_eq!(contents(&tar), [sparse_content(), b"x".to_vec()], "{form}");
    }
}

#[test]
fn old_sparse_maps_go_on_in_extension_blocks() {
    let octal = |n: u64| format!("{n:011o}\0").into_bytes();
    let slot = |n: u64| [octal(n * 1000), octal(1)].concat();
    let head: Vec<u8> = (0..4).flat_map(slot).collect();
    let tail: Vec<u8> = (4..30).flat_map(slot).collect();
    let mut tar =
        Raw::new(b'S', b"f", 30).gnu().with(386, &head).with(482, b"\x01").with(483, &octal(30_000)).block();
    for (part, more) in [(&tail[..504], 1), (&tail[504..], 0)] {
        let mut block = [0; 512];
        block[..part.len()].copy_from_slice(part);
        block[504] = more;
        tar.extend_from_slice(&block);
    }
    tar.extend_from_slice(&support::padded(&[b'x'; 30]));
    tar.extend_from_slice(&END);
    let content = &contents(&tar)[0];
    assert_eq!(content.len(), 30_000);
    assert!(content.iter().enumerate().all(|(at, byte)| *byte == if at % 1000 == 0 { b'x' } else { 0 }));
    // A chain without end (CVE-2026-32288) meets the limit, and one that is cut is truncated.
    let head = Raw::new(b'S', b"f", 30).gnu().with(482, b"\x01").with(483, &octal(30)).block();
    let mut link = [0; 512];
    link[504] = 1;
    let endless = [head.clone(), link.repeat(4000)].concat();
    assert!(matches!(refused(&endless), ErrorKind::LimitExceeded { .. }));
    assert_eq!(refused(&head), ErrorKind::Truncated);
}

#[test]
fn sparse_maps_that_make_no_sense_are_refused() {
    for map in ["10,2,11,1", "50,1,10,2", "99,2,100,1", "10,2,50,2", "10,2", "0,18446744073709551615,1,1"] {
        let count = (map.split(',').count() / 2).to_string();
        let records = [("GNU.sparse.size", "100"), ("GNU.sparse.numblocks", &count), ("GNU.sparse.map", map)];
        let tar =
            [pax(&records), Raw::new(b'0', b"f", 3).block(), support::padded(b"abc"), END.to_vec()].concat();
        assert_eq!(refused(&tar), ErrorKind::InvalidArchive, "{map}");
    }
    let records = [("GNU.sparse.numblocks", "0"), ("GNU.sparse.map", "0,0")];
    let tar = [pax(&records), Raw::new(b'5', b"d", 0).block(), END.to_vec()].concat();
    assert_eq!(refused(&tar), ErrorKind::InvalidArchive);
    // star's header has another layout.
    assert_eq!(refused(&[Raw::new(b'S', b"f", 0).block(), END.to_vec()].concat()), ErrorKind::InvalidArchive);
}

#[test]
fn limits_on_entries_and_sizes_are_kept() {
    let limited = |options: ReadOptions, tar: &[u8]| list_with(tar, options).1;
    let two = [file("a", b"12345"), file("b", b"12345"), END.to_vec()].concat();
    let options = ReadOptions::default();
    for (options, want) in [
        (options.clone().max_entries(2), None),
        (options.clone().max_entries(1), Some("max_entries")),
        (options.clone().max_entry_size(5), None),
        (options.clone().max_entry_size(4), Some("max_entry_size")),
        (options.clone().max_total_size(9), Some("max_total_size")),
    ] {
        assert_eq!(limited(options, &two), want.map(|limit| ErrorKind::LimitExceeded { limit }));
    }
    let records = [("GNU.sparse.size", "99999999999"), ("GNU.sparse.numblocks", "0"), ("GNU.sparse.map", "")];
    let records = [&records[..], &[("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")]].concat();
    let holes = [pax(&records), Raw::new(b'0', b"f", 0).block(), END.to_vec()].concat();
    assert_eq!(limited(options.clone(), &holes), None);
    let want = ErrorKind::LimitExceeded { limit: "max_sparse_expansion" };
    assert_eq!(limited(options.max_sparse_expansion(1 << 30), &holes), Some(want));
}

#[test]
fn a_declared_pebibyte_is_refused_before_it_is_read() {
    let tar =
        [pax(&[("size", "1125899906842624")]), Raw::new(b'0', b"huge", 0).block(), vec![0; 4096]].concat();
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    let error = reader.next_entry().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::LimitExceeded { limit: "max_entry_size" });
    assert_eq!((error.entry_path(), error.byte_offset()), (Some(&b"huge"[..]), Some(1024)));
}

#[test]
fn offsets_say_where_headers_and_data_are() {
    let tar = [pax(&[("path", "a")]), file("x", b"data"), file("b", b"more"), END.to_vec()].concat();
    let mut reader = TarReader::new(&tar[..], ReadOptions::default());
    let mut offsets = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let raw = entry.raw;
        offsets.push((raw.index, raw.header_offset, raw.data_offset, raw.stored_size));
    }
    assert_eq!(offsets, [(0, 0, 1536, 4), (1, 2048, 2560, 4)]);
    assert_eq!(&tar[2560..2564], b"more");
}
