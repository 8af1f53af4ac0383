//! How inputs of more than one file are packed into the one that a fuzzer mutates.

use std::{collections::BTreeMap, io, sync::Arc, sync::Mutex};

use cim_writer_abstraction::stdcim::{ImageFiles, raw};
use layer_model::ReadAt;
use zerocopy::{FromBytes, IntoBytes};

/// The files of a standard CIM: each a length of 16 bits and its bytes.
///
/// The first is the file-system file, then come the regions in the order that they are opened, whatever their names.
/// The first region goes on with an upcase table, so that the 128 KiB of it need not be in the input.
pub struct Pack {
    files: Vec<Arc<[u8]>>,
    opened: Mutex<Vec<String>>,
}

impl Pack {
    pub fn new(mut data: &[u8]) -> Self {
        let mut files = Vec::new();
        while let [low, high, rest @ ..] = data {
            let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
            let (file, rest) = rest.split_at(len);
            let mut file = file.to_vec();
            if files.len() == 1 {
                file.extend(upcase_table());
            }
            files.push(file.into());
            data = rest;
        }
        Self { files, opened: Mutex::default() }
    }

    /// Packs the image `name` of `files`, whose upcase table is moved to the end of its first region.
    pub fn pack(files: &BTreeMap<String, Arc<[u8]>>, name: &str) -> Vec<u8> {
        let mut image = files[name].to_vec();
        let (header, rest) = raw::ImageHeader::mut_from_prefix(&mut image).expect("an image has a header");
        let count = usize::from(header.parent_count.get());
        let parents =
            <[raw::RegionSet]>::ref_from_prefix_with_elems(rest, count).expect("it has its parents").0;
        let sets: Vec<raw::RegionSet> = parents.iter().copied().chain([header.regions]).collect();
        let mut regions: Vec<Vec<u8>> = sets
            .iter()
            .flat_map(|set| (0..set.count.get()).map(|index| set.region_name(index)))
            .map(|region| files[&region].to_vec())
            .collect();
        let mut at = header.file_system;
        let system =
            raw::FileSystem::read_from_prefix(&regions[usize::from(at.region())][at.byte() as usize..])
                .expect("an image has its file system")
                .0;
        let (table, size) = (system.upcase.byte() as usize, 2 * raw::UPCASE_LENGTH);
        assert_eq!(system.upcase.region(), 0);
        regions[0].drain(table..table + size);
        if at.region() == 0 && at.byte() as usize > table {
            at = raw::RegionOffset::new(0, at.byte() - size as u64);
            header.file_system = at;
        }
        let end = regions[0].len() as u64;
        let (system, _) =
            raw::FileSystem::mut_from_prefix(&mut regions[usize::from(at.region())][at.byte() as usize..])
                .expect("it is still there");
        system.upcase = raw::RegionOffset::new(0, end);

        let mut packed = Vec::new();
        for file in [image].iter().chain(&regions) {
            packed.extend(u16::try_from(file.len()).expect("seeds are small").to_le_bytes());
            packed.extend(file.as_bytes());
        }
        packed
    }
}

/// The upcase table of ASCII.
fn upcase_table() -> impl Iterator<Item = u8> {
    (0..=u16::MAX)
        .map(|unit| if (0x61..=0x7a).contains(&unit) { unit - 0x20 } else { unit })
        .flat_map(u16::to_le_bytes)
}

impl ImageFiles for Pack {
    fn open(&self, name: &str) -> io::Result<Box<dyn ReadAt>> {
        let mut opened = self.opened.lock().expect("nothing panics while it is locked");
        let at = opened.iter().position(|known| known == name).unwrap_or_else(|| {
            opened.push(name.to_owned());
            opened.len() - 1
        });
        match self.files.get(at) {
            Some(file) => Ok(Box::new(file.clone())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
