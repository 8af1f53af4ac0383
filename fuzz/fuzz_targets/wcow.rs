//! Any bytes as the archive of a Windows layer: errors say where, what is read holds together, and comes out the same
//! when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    layer_tar::testing::check_windows(data);
    cim_writer_abstraction::testing::check_layer(data);
});
