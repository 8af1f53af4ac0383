//! Any bytes as a tar: listing and changes agree, nothing panics, memory stays small.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| layer_tar::testing::check_tar(data));
