//! Any bytes as a blob: every decoder keeps its limits, and threads make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| layer_tar::testing::check_blob(data));
