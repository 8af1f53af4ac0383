//! The properties that are fuzzed, on archives made by hand, on damaged ones, and on everything that was ever
//! found to break them (`tests/findings/`).

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use layer_tar::testing::{check_blob, check_round_trip, check_tar, check_windows, odd_tars};
use proptest::prelude::*;

fn check_all(data: &[u8]) {
    check_tar(data);
    check_round_trip(data);
    check_windows(data);
    check_blob(data);
}

#[test]
fn odd_archives_keep_the_properties() {
    for (_, tar) in odd_tars() {
        check_all(&tar);
        for end in (0..tar.len()).step_by(256) {
            check_tar(&tar[..end]);
        }
    }
}

#[test]
fn findings_stay_mended() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings");
    for finding in fs::read_dir(dir).unwrap() {
        check_all(&fs::read(finding.unwrap().path()).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn damaged_archives_keep_the_properties(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut tars = odd_tars();
        let (_, mut tar) = tars.swap_remove(which.index(tars.len()));
        for (at, byte) in damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        check_all(&tar);
    }
}
