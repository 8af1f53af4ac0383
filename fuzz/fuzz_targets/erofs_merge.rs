//! Two images cut from any bytes, merged and flattened: what comes out is a sound image.
#![no_main]

use erofs_format::{
    CheckOptions, Image, Memory, MergeOptions, OpenOptions, WriteOptions, flatten_layers, merge_layers,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (first, second) = data.split_at(data.len() / 2 & !511);
    let open = |bytes: &[u8]| OpenOptions::new().lenient(true).open(Memory(bytes.to_vec()));
    let layers: Vec<Image> = [first, second].into_iter().filter_map(|bytes| open(bytes).ok()).collect();
    let options = WriteOptions::new();
    for strip in [false, true] {
        let merge = MergeOptions::new().strip_markers(strip).pass_redirects(true);
        if let Ok(plan) = merge_layers(&layers, &merge, &options)
            && plan.size() < 64 << 20
        {
            let (image, _) = plan.write(Vec::new(), &()).expect("writing to memory does not fail");
            let image = Image::open(Memory(image)).expect("what is written can be read");
            image.walk().for_each(|entry| _ = entry.expect("what is written is sound"));
        }
        if let Ok((plan, contents)) = flatten_layers(&layers, &merge, &options)
            && plan.size() < 64 << 20
            && let Ok((image, _)) = plan.write(Vec::new(), &contents)
        {
            let image = Image::open(Memory(image)).expect("what is written can be read");
            let report = image.check(&CheckOptions::new()).expect("what is written can be checked");
            assert!(report.findings.is_empty(), "{:?}", report.findings);
        }
    }
});
