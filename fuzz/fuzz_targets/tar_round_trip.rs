//! What is read from any tar and can be written is read back the same, and written back to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| layer_tar::testing::check_round_trip(data));
