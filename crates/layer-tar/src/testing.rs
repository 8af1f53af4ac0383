//! Properties of this crate, as functions over any bytes: what the fuzz targets run, and the tests that replay
//! what they found.

use std::io::Cursor;

use layer_model::{
    Action, EntryKind, ErrorKind, LayerPathBuf, LayerSink, LayerSource, MediaType, Profile, Silent,
};

use crate::{
    BlobOptions, LayerBlob, ReadOptions, TarReader, TarSink, TarSource, WriteOptions,
    header::{BLOCK, Block, Field, field, padding, typeflag},
    pax,
};

/// Limits that keep a run short.
fn small() -> ReadOptions {
    ReadOptions::default().max_entries(1000).max_total_size(1 << 20).max_sparse_expansion(1 << 20)
}

/// The listing and the changes of `data` agree.
///
/// # Panics
/// When they do not.
pub fn check_tar(data: &[u8]) {
    for profile in [Profile::Spec, Profile::Containerd] {
        let options = small().profile(profile);
        let mut listed = Vec::new();
        let mut reader = TarReader::new(data, options.clone());
        let list_error = loop {
            match reader.next_entry() {
                Ok(Some(entry)) => {
                    let raw = entry.raw;
                    assert!(raw.header_offset < raw.data_offset && raw.data_offset <= data.len() as u64);
                    assert!(raw.is_sparse || raw.size == raw.stored_size);
                    listed.push((raw.index, raw.header_offset, raw.name.clone(), raw.size));
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let mut source = TarSource::new(data, options, &Silent);
        loop {
            match source.next_change() {
                Ok(Some(change)) => {
                    let at = usize::try_from(change.origin.index).expect("a listing fits into memory");
                    let (index, offset, name, size) = &listed[at];
                    assert_eq!((change.origin.index, change.origin.offset), (*index, Some(*offset)));
                    let cleaned = LayerPathBuf::clean(name).expect("a name with a NUL has no change");
                    match change.action {
                        Action::Upsert(entry) => {
                            assert_eq!(change.path, cleaned.as_path());
                            if let EntryKind::File(content) = entry.kind {
                                assert_eq!(content.len(), *size);
                                let mut read = 0;
                                let result = content.read_into(&mut |bytes| {
                                    read += bytes.len() as u64;
                                    Ok(())
                                });
                                assert!(result.is_err() || read == *size);
                            }
                        }
                        // The whiteout's directory, or something in it.
                        _ => assert!(
                            cleaned.as_path().parent().is_some_and(|dir| change.path.starts_with(dir))
                        ),
                    }
                }
                Ok(None) => {
                    assert!(list_error.is_none(), "the listing failed alone: {list_error:?}");
                    break;
                }
                Err(error) => {
                    assert!(error.byte_offset().is_some(), "no offset: {error:?}");
                    break;
                }
            }
        }
        assert!(source.next_change().is_ok_and(|change| change.is_none()) || source.next_change().is_err());
    }
}

/// What can be read from `data` and be written is read back the same.
///
/// # Panics
/// When it is not.
pub fn check_round_trip(data: &[u8]) {
    let options = || WriteOptions::default().nanoseconds(true).empty_xattrs(true);
    let rewrite = |tar: &[u8]| {
        let mut sink = TarSink::new(Vec::new(), options(), &Silent);
        let mut source = TarSource::new(tar, small(), &Silent);
        let mut paths = Vec::new();
        while let Some(change) = source.next_change().ok()? {
            let (path, root) = (change.path.to_owned(), change.path.is_root());
            let marker = !matches!(change.action, Action::Upsert(_));
            match sink.change(change) {
                // The root itself is not written.
                Ok(()) if root && !marker => {}
                Ok(()) => paths.push(path),
                Err(error) if error.kind() == &ErrorKind::Unrepresentable => {}
                Err(_) => return None,
            }
        }
        Some((sink.finish().ok()?.0, paths))
    };
    let Some((first, paths)) = rewrite(data) else { return };
    let (second, again) = rewrite(&first).expect("what the sink writes can be read");
    assert_eq!(paths, again);
    assert!(first == second, "writing what was read changed it");
}

/// What can be read from `data` as a layer of Windows and be written is read back the same.
///
/// # Panics
/// When it is not.
pub fn check_windows(data: &[u8]) {
    let rewrite = |tar: &[u8]| {
        let options = WriteOptions::default().windows(true).lossy(true);
        let mut sink = TarSink::new(Vec::new(), options, &Silent);
        let mut source = TarSource::new(tar, small().windows(true), &Silent);
        let mut written = Vec::new();
        loop {
            let change = match source.next_change() {
                Ok(Some(change)) => change,
                Ok(None) => break,
                Err(error) => return Err(error),
            };
            assert!(
                !change.path.is_root() || matches!(change.action, Action::Opaque),
                "the root is not given"
            );
            assert!(!change.path.as_bytes().contains(&b'\\'), "backslashes are separators");
            let metadata = match &change.action {
                Action::Upsert(entry) => {
                    Some((entry.kind.name(), entry.metadata.mtime, entry.xattrs.clone()))
                }
                _ => None,
            };
            let path = change.path.to_owned();
            match sink.change(change) {
                Ok(()) => written.push((path, metadata)),
                Err(error) if error.kind() == &ErrorKind::Unrepresentable => {}
                Err(error) => return Err(error),
            }
        }
        Ok((sink.finish()?.0, written))
    };
    match rewrite(data) {
        Err(error) => {
            assert!(error.byte_offset().is_some() || error.entry_path().is_some(), "no place: {error:?}")
        }
        Ok((first, written)) => {
            let (second, again) = rewrite(&first).expect("what the sink writes can be read");
            assert_eq!(written.len(), again.len());
            for ((path, metadata), (path_again, metadata_again)) in written.iter().zip(&again) {
                assert_eq!(path, path_again);
                let kind = |metadata: &Option<(&'static str, _, _)>| metadata.as_ref().map(|m| m.0);
                assert_eq!(kind(metadata), kind(metadata_again));
            }
            assert!(first == second, "writing what was read changed it");
        }
    }
}

/// `data` as a blob of any type gives the same with and without threads.
///
/// # Panics
/// When it does not.
pub fn check_blob(data: &[u8]) {
    let types =
        ["", "+gzip", "+zstd"].map(|suffix| format!("application/vnd.oci.image.layer.v1.tar{suffix}"));
    for media_type in types.iter().chain([&"application/vnd.docker.image.rootfs.diff.tar".to_owned()]) {
        let media_type: MediaType = media_type.parse().expect("these are media types");
        let options = BlobOptions::default().max_total_size(1 << 20).max_window(8 << 20);
        let read = |jobs| {
            LayerBlob::open(Cursor::new(data.to_vec()), &media_type, options.clone().jobs(jobs), &Silent)
                .and_then(LayerBlob::finish)
                .map_err(|error| error.kind().clone())
        };
        let alone = read(1);
        assert_eq!(alone, read(4));
        if let Ok(summary) = alone {
            assert_eq!(summary.size, data.len() as u64);
            assert!(summary.diff_size <= 1 << 20);
        }
        let blob = LayerBlob::open(Cursor::new(data.to_vec()), &media_type, options.clone().jobs(1), &Silent);
        if let Ok(mut source) = blob.and_then(|blob| blob.into_source(small())) {
            while let Ok(Some(_)) = source.next_change() {}
        }
    }
}

/// Archives that the sink would never write: every extension and sparse encoding, for a corpus.
pub fn odd_tars() -> Vec<(&'static str, Vec<u8>)> {
    let pax = |records: &[(&str, &str)]| {
        let mut text = Vec::new();
        for (key, value) in records {
            pax::append_record(&mut text, &[key.as_bytes()], value.as_bytes());
        }
        member(typeflag::PAX, b"x", &text, &[])
    };
    let file = |name: &[u8], content: &[u8]| member(typeflag::REGULAR, name, content, &[]);
    let gnu_magic = (Field { at: 257, len: 8 }, &b"ustar  \0"[..]);
    let sparse_01 =
        pax(&[("GNU.sparse.size", "100"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "10,3")]);
    let sparse_10 =
        pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "100")]);
    let map = [&b"1\n10\n3\n"[..], &[0; 505], b"abc"].concat();
    let old_sparse = member(
        typeflag::GNU_SPARSE,
        b"s",
        b"abc",
        &[
            gnu_magic,
            (field::GNU_SPARSE, b"00000000012\x0000000000003\0"),
            (field::GNU_REAL_SIZE, b"00000000144\0"),
        ],
    );
    let base_256 = (field::SIZE, &b"\x80\0\0\0\0\0\0\0\0\0\0\x03"[..]);
    let end = vec![0; 2 * BLOCK];
    [
        (
            "pax",
            vec![
                pax(&[("path", "a/b"), ("size", "3"), ("mtime", "1.5"), ("SCHILY.xattr.user.a", "b")]),
                file(b"f", b"abc"),
            ],
        ),
        ("global", vec![member(typeflag::PAX_GLOBAL, b"g", b"10 path=a\n", &[]), file(b"f", b"")]),
        (
            "gnu-long",
            vec![
                member(typeflag::GNU_LONG_NAME, b"L", &[b'n'; 120], &[]),
                member(typeflag::GNU_LONG_LINK, b"K", &[b't'; 120], &[]),
                member(typeflag::SYMLINK, b"f", b"", &[(field::LINKNAME, b"t")]),
            ],
        ),
        ("sparse-old", vec![old_sparse]),
        ("sparse-0.1", vec![sparse_01, file(b"f", b"abc")]),
        ("sparse-1.0", vec![sparse_10, file(b"f", &map)]),
        ("base-256", vec![member(typeflag::REGULAR, b"f", b"abc", &[gnu_magic, base_256])]),
        (
            "windows",
            vec![
                pax(&[
                    ("MSWINDOWS.fileattr", "32"),
                    ("MSWINDOWS.rawsd", "AQAEgAAAAAAAAAAAAAAAAAAAAAA="),
                    ("LIBARCHIVE.creationtime", "5.123"),
                    ("ctime", "-1.5"),
                ]),
                file(b"Files\\f", b"abc"),
                file(b"Files/f:s:$DATA", b"d"),
                file(b"Files/.wh.g", b""),
            ],
        ),
        ("whiteouts", vec![file(b".wh.a", b""), file(b"d/.wh..wh..opq", b""), file(b".wh..wh.aufs", b"")]),
    ]
    .map(|(name, parts)| (name, [&parts.concat()[..], &end].concat()))
    .into()
}

/// A member with some fields set by hand.
fn member(typeflag: u8, name: &[u8], content: &[u8], fields: &[(Field, &[u8])]) -> Vec<u8> {
    let mut block: Block = [0; BLOCK];
    let size = format!("{:011o}\0", content.len());
    block[field::TYPEFLAG.at] = typeflag;
    let basic: [(Field, &[u8]); 3] =
        [(field::NAME, name), (field::SIZE, size.as_bytes()), (Field { at: 257, len: 8 }, b"ustar\x0000")];
    for (field, bytes) in basic.iter().chain(fields) {
        block[field.at..field.at + bytes.len()].copy_from_slice(bytes);
    }
    field::CHECKSUM.of_mut(&mut block).fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = [&block[..], content].concat();
    // A payload in memory, so that its padding fits.
    out.resize(out.len() + padding(content.len() as u64) as usize, 0);
    out
}
