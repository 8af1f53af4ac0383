//! The check of a machine, on an emulated one: it passes, and it finds what is wrong.
#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use cim_writer_abstraction::{
    Capabilities, CimPath, Guid,
    emu::Emulator,
    self_test::{Listing, Volumes, self_test},
};
use layer_model::{Error, ErrorKind, Result};

/// The volumes of the emulator; what `change` does to a listing happens before it is seen.
struct Emulated<'e> {
    emulator: &'e Emulator,
    change: fn(&mut Listing),
}

impl Volumes for Emulated<'_> {
    fn list(&self, volume: Guid) -> Result<Listing> {
        let dump = self.emulator.volume_dump(volume)?;
        let mut listing = Listing::new();
        for line in dump.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let content = match line["type"].as_str().unwrap() {
                "dir" => None,
                "file" => Some(hex(line["sha256"].as_str().unwrap())),
                "stream" => continue,
                other => return Err(Error::new(ErrorKind::InvalidArgument, other)),
            };
            listing.insert(CimPath::new(line["path"].as_str().unwrap())?, content);
        }
        (self.change)(&mut listing);
        Ok(listing)
    }
}

fn hex(text: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}

fn run(change: fn(&mut Listing)) -> Result<Vec<String>> {
    let (emulator, dir) = (Emulator::new()?, tempfile::tempdir().unwrap());
    let volumes = Emulated { emulator: &emulator, change };
    self_test(&emulator.api(), &Capabilities::emulated(), &volumes, dir.path().to_str().unwrap())
}

#[test]
fn an_emulated_machine_passes() {
    let steps = run(|_| {}).unwrap();
    assert_eq!(steps.len(), 4, "{steps:#?}");
    assert!(steps.iter().all(|step| step.ends_with("paths as expected")), "{steps:#?}");
}

#[test]
fn what_differs_is_named() {
    let error = run(|listing| listing.retain(|path, _| path.as_bytes() != br"Files\kept")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains(r"missing: Files\kept"), "{error}");
    let other = run(|listing| listing.values_mut().for_each(|content| *content = content.map(|_| [0; 32])));
    assert!(other.unwrap_err().to_string().contains(r"another content: Files\kept"));
    let more = run(|listing| listing.extend([(CimPath::new("more").unwrap(), None)]));
    assert!(more.unwrap_err().to_string().contains("too much: more"));
}

#[test]
fn a_machine_without_cimfs_says_so() {
    let (emulator, dir) = (Emulator::new().unwrap(), tempfile::tempdir().unwrap());
    let volumes = Emulated { emulator: &emulator, change: |_| {} };
    let nothing = Capabilities::none("there is no CimFS");
    let error = self_test(&emulator.api(), &nothing, &volumes, dir.path().to_str().unwrap()).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::NotSupported);
}
