//! Any bytes as an image, checked: a report or an error, the same whatever the number of threads.
#![no_main]

use erofs_format::{CheckOptions, Memory, OpenOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = OpenOptions::new().lenient(true).open(Memory(data.to_vec())) else { return };
    let one = image.check(&CheckOptions::new());
    let two = image.check(&CheckOptions::new().jobs(2));
    match (one, two) {
        (Ok(one), Ok(two)) => assert_eq!(one.findings, two.findings),
        (one, two) => assert_eq!(one.is_err(), two.is_err()),
    }
});
