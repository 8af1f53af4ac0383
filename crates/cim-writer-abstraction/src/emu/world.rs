//! What the emulated functions work on: directories and containers, open images, volumes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

use layer_model::{Error, ErrorKind, ReadAt as _, Result};
use sha2::{Digest as _, Sha256};

use super::Fault;
use crate::{
    CimKind, CimName, CimOp, CimPath, CimSink as _, FileMeta, Guid,
    content::MemoryBlobs,
    model::{self, EntryRef, ImageTree, Rules, View},
    op::{CreateFlags, MergeFlags, MountFlags},
    path::{upcase, utf16},
    record::Recorder,
    table::{HResult, raw::FileStatBasicInformation},
    vhd::Footer,
};

/// What the emulator returns for an image that does not have its root digest: a code of nobody else. Windows has
/// another one, which is not public.
pub(super) const INTEGRITY_VIOLATION: HResult = HResult(0xa0c1_0001_u32 as i32);

/// The result of a call: a code for what went wrong.
pub(super) type Called<T = ()> = Result<T, HResult>;

/// Handles of all worlds differ, so that one that is left over from another world is nothing here.
static NEXT_HANDLE: AtomicUsize = AtomicUsize::new(0x1000);

fn new_handle() -> usize {
    NEXT_HANDLE.fetch_add(16, Ordering::Relaxed)
}

/// A path of the host or a name, by which it is found.
type Key = Vec<u16>;

pub(super) struct World {
    rules: Rules,
    pub(super) calls: u64,
    faults: BTreeMap<u64, Fault>,
    places: BTreeMap<Key, Place>,
    open: HashMap<usize, Open>,
    /// The image of each open stream.
    streams: HashMap<usize, usize>,
    volumes: BTreeMap<Guid, Volume>,
    pub(super) hives: HashMap<usize, Vec<u8>>,
}

/// A directory of standard CIMs, or a container.
struct Place {
    path: String,
    /// Empty for a directory.
    storage: CreateFlags,
    verified: bool,
    images: BTreeMap<Key, Committed>,
    root: Option<[u8; 32]>,
    tampered: bool,
    footer: Option<Footer>,
    beside: BTreeMap<String, String>,
}

struct Committed {
    name: CimName,
    tree: ImageTree,
    /// Of a merged image, its sources, topmost first.
    sources: Vec<ImageTree>,
    journal: Vec<u8>,
}

struct Open {
    place: Key,
    name: CimName,
    flags: CreateFlags,
    /// [`None`] once it is committed.
    recorder: Option<Recorder<Vec<u8>, MemoryBlobs>>,
    sources: Vec<ImageTree>,
    /// Something else than sources was put into it.
    written: bool,
    stream: Option<usize>,
}

struct Volume {
    images: Vec<(Key, Key)>,
}

/// What the tree says, as a code.
fn code(error: &Error) -> HResult {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::DanglingMergedLink => HResult::PATH_NOT_FOUND,
        ErrorKind::Busy => HResult::SHARING_VIOLATION,
        ErrorKind::IsDirectory => HResult::ACCESS_DENIED,
        ErrorKind::ConflictingEntries | ErrorKind::AlreadyExists => HResult::FILE_EXISTS,
        ErrorKind::SizeMismatch { .. } => HResult::HANDLE_EOF,
        ErrorKind::LimitExceeded { .. } => HResult::win32(8), // ERROR_NOT_ENOUGH_MEMORY
        _ => HResult::INVALID_ARGUMENT,
    }
}

fn key(text: &str) -> Key {
    let path = text.replace('/', "\\");
    utf16(path.trim_end_matches('\\').as_bytes()).into_iter().map(upcase).collect()
}

const STORAGE: CreateFlags = CreateFlags::SINGLE_FILE.union(CreateFlags::BLOCK_DEVICE);

impl World {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            calls: 0,
            faults: BTreeMap::new(),
            places: BTreeMap::new(),
            open: HashMap::new(),
            streams: HashMap::new(),
            volumes: BTreeMap::new(),
            hives: HashMap::new(),
        }
    }

    pub(super) fn inject(&mut self, skip: u64, fault: Fault) {
        self.faults.insert(self.calls + skip, fault);
    }

    /// Counts a call. Says what goes wrong with it.
    pub(super) fn call(&mut self) -> Called<Option<usize>> {
        let this = self.calls;
        self.calls += 1;
        match self.faults.remove(&this) {
            Some(Fault::Fail(code)) => Err(code),
            Some(Fault::ShortWrite(len)) => Ok(Some(len)),
            None => Ok(None),
        }
    }

    pub(super) fn open_handles(&self) -> usize {
        self.open.len() + self.streams.len() + self.hives.len()
    }

    pub(super) fn create(
        &mut self,
        path: &str,
        flags: CreateFlags,
        existing: Option<&str>,
        new: Option<&str>,
    ) -> Called<usize> {
        let name = |text: &str| CimName::new(text).map_err(|_| HResult::INVALID_ARGUMENT);
        let (existing, new) = (existing.map(name).transpose()?, new.map(name).transpose()?);
        let storage = flags & STORAGE;
        let standard = storage.is_empty();
        let block_only = CreateFlags::CONSISTENT | CreateFlags::VERIFIED;
        if path.is_empty()
            || storage == STORAGE
            || !CreateFlags::all().contains(flags)
            || (standard && flags.intersects(block_only))
            || (!standard && (existing.is_some() || new.is_none()))
        {
            return Err(HResult::INVALID_ARGUMENT);
        }
        let place_key = key(path);
        if self.open.values().any(|open| open.place == place_key) {
            return Err(HResult::SHARING_VIOLATION);
        }
        let place = self.places.get(&place_key);
        if place
            .is_some_and(|place| place.storage != storage || place.root.is_some() || place.footer.is_some())
        {
            return Err(HResult::INVALID_ARGUMENT);
        }
        let there = |name: &CimName| place.and_then(|place| place.images.get(&key(name.as_str())));
        let kind = if standard { CimKind::Forked } else { CimKind::Block };
        let same = |a: &CimName, b: &CimName| key(a.as_str()) == key(b.as_str());
        let (name, tree) = match (&existing, &new) {
            (None, None) => return Err(HResult::INVALID_ARGUMENT),
            (None, Some(new)) => {
                if there(new).is_some() {
                    return Err(HResult::FILE_EXISTS);
                }
                (new, ImageTree::with_rules(kind, self.rules.clone()))
            }
            (Some(existing), new) => {
                let name = new.as_ref().unwrap_or(existing);
                if !same(existing, name) && there(name).is_some() {
                    return Err(HResult::FILE_EXISTS);
                }
                let from = there(existing).ok_or(HResult::FILE_NOT_FOUND)?;
                (name, from.tree.fork().under(self.rules.clone()))
            }
        };
        let mut recorder = Recorder::on(tree, Vec::new(), MemoryBlobs::default());
        let parent = existing.as_ref();
        let made = CimOp::CreateImage { kind, container: "", name, parent, flags };
        recorder.op(&made).map_err(|error| code(&error))?;
        self.places.entry(place_key.clone()).or_insert_with(|| Place::new(path, storage));
        let handle = new_handle();
        let name = name.clone();
        let (sources, recorder) = (Vec::new(), Some(recorder));
        let open = Open { place: place_key, name, flags, recorder, sources, written: false, stream: None };
        self.open.insert(handle, open);
        Ok(handle)
    }

    fn image(&mut self, handle: usize) -> Called<&mut Open> {
        self.open.get_mut(&handle).ok_or(HResult::INVALID_ARGUMENT)
    }

    pub(super) fn op(&mut self, handle: usize, op: &CimOp<'_>) -> Called {
        let open = self.image(handle)?;
        if !open.sources.is_empty() {
            // A merged image has what its sources have.
            return Err(HResult::INVALID_ARGUMENT);
        }
        open.op(op)?;
        open.written = true;
        Ok(())
    }

    pub(super) fn create_stream(&mut self, handle: usize, op: &CimOp<'_>) -> Called<usize> {
        self.op(handle, op)?;
        let stream = new_handle();
        self.image(handle)?.stream = Some(stream);
        self.streams.insert(stream, handle);
        Ok(stream)
    }

    pub(super) fn write(&mut self, stream: usize, bytes: &[u8], short: Option<usize>) -> Called {
        let handle = *self.streams.get(&stream).ok_or(HResult::INVALID_ARGUMENT)?;
        let open = self.image(handle)?;
        let recorder = open.recorder.as_mut().ok_or(HResult::INVALID_ARGUMENT)?;
        let taken = short.map_or(bytes, |len| &bytes[..len.min(bytes.len())]);
        recorder.write(taken).map_err(|error| code(&error))?;
        if taken.len() < bytes.len() { Err(HResult::HANDLE_EOF) } else { Ok(()) }
    }

    pub(super) fn close_stream(&mut self, stream: usize) {
        let Some(handle) = self.streams.remove(&stream) else { return };
        if let Ok(open) = self.image(handle) {
            open.stream = None;
            // There is nobody to tell; a stream that cannot be ended leaves an image that cannot be committed.
            let _ = open.op(&CimOp::EndStream);
        }
    }

    pub(super) fn add_source(&mut self, handle: usize, image: &str, flags: MergeFlags) -> Called {
        let (container, name) = image.rsplit_once('\\').ok_or(HResult::INVALID_ARGUMENT)?;
        let name = CimName::new(name).map_err(|_| HResult::INVALID_ARGUMENT)?;
        let open = self.image(handle)?;
        if open.written || (open.flags & STORAGE).is_empty() || merge_flags(open.flags) != flags {
            return Err(HResult::INVALID_ARGUMENT);
        }
        let place = self.places.get(&key(container)).ok_or(HResult::FILE_NOT_FOUND)?;
        let tree = place.images.get(&key(name.as_str())).ok_or(HResult::FILE_NOT_FOUND)?.tree.clone();
        // A merged image is no source of another.
        if flags != place.merge_flags() || !tree.sources().is_empty() {
            return Err(HResult::INVALID_ARGUMENT);
        }
        let open = self.image(handle)?;
        open.op(&CimOp::AddSource { container, name: &name, flags })?;
        open.sources.push(tree);
        Ok(())
    }

    pub(super) fn commit(&mut self, handle: usize) -> Called {
        let open = self.open.get(&handle).ok_or(HResult::INVALID_ARGUMENT)?;
        let name_key = key(open.name.as_str());
        let this = (open.place.clone(), name_key.clone());
        if open.stream.is_some() || self.volumes.values().any(|volume| volume.images.contains(&this)) {
            return Err(HResult::SHARING_VIOLATION);
        }
        if open.sources.len() == 1 {
            return Err(HResult::INVALID_ARGUMENT);
        }
        model::merge(&open.sources).map_err(|error| code(&error))?;
        let open = self.image(handle)?;
        open.op(&CimOp::Commit)?;
        let recorder = open.recorder.take().ok_or(HResult::INVALID_ARGUMENT)?;
        let recorded = recorder.finish().map_err(|error| code(&error))?;
        let mut tree = recorded.tree;
        tree.set_contents(Arc::new(recorded.blobs));
        let sources = std::mem::take(&mut open.sources);
        let committed = Committed { name: open.name.clone(), tree, sources, journal: recorded.journal };
        let flags = open.flags;
        let place = self.places.get_mut(&this.0).ok_or(HResult::INVALID_ARGUMENT)?;
        place.verified |= flags.contains(CreateFlags::VERIFIED);
        place.images.insert(name_key, committed);
        Ok(())
    }

    pub(super) fn close(&mut self, handle: usize) {
        let Some(open) = self.open.remove(&handle) else { return };
        if let Some(stream) = open.stream {
            self.streams.remove(&stream);
        }
        // A place in which nothing was ever committed is no more there than before.
        if self.places.get(&open.place).is_some_and(|place| place.images.is_empty()) {
            self.places.remove(&open.place);
        }
    }

    fn container(&mut self, path: &str) -> Called<&mut Place> {
        let key = key(path);
        if self.open.values().any(|open| open.place == key) {
            return Err(HResult::SHARING_VIOLATION);
        }
        let place = self.places.get_mut(&key).ok_or(HResult::FILE_NOT_FOUND)?;
        if place.storage.is_empty() { Err(HResult::INVALID_ARGUMENT) } else { Ok(place) }
    }

    pub(super) fn seal(&mut self, path: &str) -> Called<[u8; 32]> {
        let place = self.container(path)?;
        if !place.verified || place.footer.is_some() {
            return Err(HResult::INVALID_ARGUMENT);
        }
        let mut hash = Sha256::new();
        for image in place.images.values() {
            hash.update(&image.journal);
        }
        Ok(*place.root.insert(hash.finalize().into()))
    }

    pub(super) fn root(&mut self, path: &str) -> Called<Option<[u8; 32]>> {
        let place = self.container(path)?;
        if place.verified { Ok(place.root) } else { Err(HResult::INVALID_ARGUMENT) }
    }

    /// Mounts images: the plain call, and the merging one; `root` for those that verify.
    pub(super) fn mount(
        &mut self,
        images: &[(String, String)],
        flags: MountFlags,
        volume: Guid,
        root: Option<[u8; 32]>,
    ) -> Called {
        if self.volumes.contains_key(&volume) {
            return Err(HResult::ALREADY_EXISTS);
        }
        let mut keys = Vec::new();
        for (place, name) in images {
            let (place_key, name_key) = (key(place), key(name));
            let place = self.places.get(&place_key).ok_or(HResult::FILE_NOT_FOUND)?;
            if !place.images.contains_key(&name_key) {
                return Err(HResult::FILE_NOT_FOUND);
            }
            if flags & (MountFlags::SINGLE_FILE | MountFlags::BLOCK_DEVICE) != place.mount_flags() {
                return Err(HResult::INVALID_ARGUMENT);
            }
            keys.push((place_key, name_key));
        }
        let (place_key, name_key) = keys.first().ok_or(HResult::INVALID_ARGUMENT)?;
        let first = self.places.get(place_key).ok_or(HResult::FILE_NOT_FOUND)?;
        let plain_verified = flags.contains(MountFlags::VERIFIED);
        let wrong_call = match root {
            Some(_) => plain_verified || !first.verified,
            // A verified image is mounted as one, by the plain call with the flag.
            None => plain_verified != first.verified || (plain_verified && images.len() > 1),
        };
        if wrong_call || (first.verified && first.root.is_none()) {
            return Err(HResult::INVALID_ARGUMENT);
        }
        if root.is_some_and(|root| first.root != Some(root)) || (first.verified && first.tampered) {
            return Err(INTEGRITY_VIOLATION);
        }
        // The sources have to be those that were merged, in that order.
        let sources = first.images.get(name_key).map_or(0, |image| image.sources.len());
        if sources != images.len() - 1 {
            return Err(HResult::INVALID_ARGUMENT);
        }
        let merged_of = first.images.get(name_key).map(|image| image.tree.sources()).unwrap_or_default();
        for (source, mounted) in merged_of.iter().zip(&keys[1..]) {
            if (key(&source.container), key(source.name.as_str())) != *mounted {
                return Err(HResult::IMAGE_CORRUPT);
            }
        }
        self.volumes.insert(volume, Volume { images: keys });
        Ok(())
    }

    pub(super) fn dismount(&mut self, volume: Guid) -> Called {
        self.volumes.remove(&volume).map(drop).ok_or(HResult::FILE_NOT_FOUND)
    }

    fn committed(&self, place: &str, name: &str) -> Called<&Committed> {
        let place = self.places.get(&key(place)).ok_or(HResult::FILE_NOT_FOUND)?;
        place.images.get(&key(name)).ok_or(HResult::FILE_NOT_FOUND)
    }

    /// The image at `image`: a directory or container, and the name, in one path.
    fn view_at(&self, image: &str) -> Called<View> {
        let (place, name) = image.rsplit_once('\\').ok_or(HResult::INVALID_ARGUMENT)?;
        self.committed(place, name)?.view().map_err(|error| code(&error))
    }

    pub(super) fn read(
        &self,
        image: &str,
        path: &CimPath,
        offset: u64,
        into: &mut [u8],
    ) -> Called<(u64, u64)> {
        let view = self.view_at(image)?;
        let entry = view.lookup(path).ok_or(HResult::PATH_NOT_FOUND)?;
        let main = entry.main().ok_or(HResult::ACCESS_DENIED)?;
        let blob = view.open(entry, main).map_err(|error| code(&error))?;
        let left = blob.size().saturating_sub(offset);
        let wanted = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        blob.read_exact_at(&mut into[..wanted], offset).map_err(|_| HResult::IMAGE_CORRUPT)?;
        Ok((wanted as u64, left - wanted as u64))
    }

    pub(super) fn stat(&self, image: &str, path: &CimPath) -> Called<FileStatBasicInformation> {
        let view = self.view_at(image)?;
        let entry = view.lookup(path).ok_or(HResult::PATH_NOT_FOUND)?;
        let meta: &FileMeta = entry.meta().ok_or(HResult::PATH_NOT_FOUND)?;
        let links = match entry {
            EntryRef::File(_, id) => view.link_counts().get(&id).copied().unwrap_or(1),
            _ => 1,
        };
        let size = entry.main().map_or(0, |main| main.size as i64);
        Ok(FileStatBasicInformation {
            creation_time: meta.creation.0,
            last_access_time: meta.access.0,
            last_write_time: meta.write.0,
            change_time: meta.change.0,
            allocation_size: size,
            end_of_file: size,
            file_attributes: meta.attributes.bits(),
            reparse_tag: meta.reparse.first_chunk().map_or(0, |tag| u32::from_le_bytes(*tag)),
            number_of_links: links,
            ..FileStatBasicInformation::default()
        })
    }

    pub(super) fn images(&self) -> Vec<(String, CimName)> {
        let all = self.places.values();
        all.flat_map(|place| place.images.values().map(|image| (place.path.clone(), image.name.clone())))
            .collect()
    }

    pub(super) fn dump(&self, place: &str, name: &CimName) -> Result<String> {
        let image = self.committed(place, name.as_str()).map_err(|_| no_image(place))?;
        dump(&image.view()?)
    }

    pub(super) fn volume_dump(&self, volume: Guid) -> Result<String> {
        let mounted = self.volumes.get(&volume).and_then(|volume| volume.images.first());
        let image = mounted.and_then(|(place, name)| self.places.get(place)?.images.get(name));
        let nothing = || Error::new(ErrorKind::NotFound, "nothing is mounted there");
        dump(&image.ok_or_else(nothing)?.view()?)
    }

    pub(super) fn journal(&self, place: &str, name: &CimName) -> Option<Vec<u8>> {
        Some(self.committed(place, name.as_str()).ok()?.journal.clone())
    }

    pub(super) fn beside(&self, container: &str, name: &str) -> Option<String> {
        self.places.get(&key(container))?.beside.get(name).cloned()
    }

    pub(super) fn tamper(&mut self, container: &str) {
        if let Some(place) = self.places.get_mut(&key(container)) {
            place.tampered = true;
        }
    }

    fn place(&mut self, container: &str) -> Result<&mut Place> {
        self.places.get_mut(&key(container)).ok_or_else(|| no_image(container))
    }

    pub(super) fn size(&mut self, container: &str) -> Result<u64> {
        Ok(self.place(container)?.size())
    }

    pub(super) fn append_footer(&mut self, container: &str, len: u64, unique_id: [u8; 16]) -> Result<()> {
        let place = self.place(container)?;
        if place.footer.is_some() {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the container has a VHD footer").entry(container)
            );
        }
        if place.size() != len {
            let kind = ErrorKind::SizeMismatch { expected: len, got: place.size() };
            return Err(Error::new(kind, "the container was changed").entry(container));
        }
        place.footer = Some(Footer { size: len, unique_id });
        Ok(())
    }

    pub(super) fn write_beside(&mut self, container: &str, name: &str, text: &str) -> Result<()> {
        let place = self.place(container)?;
        if place.beside.contains_key(name) {
            let what = "the file beside the container is there already";
            return Err(Error::new(ErrorKind::AlreadyExists, what).entry(name));
        }
        place.beside.insert(name.to_owned(), text.to_owned());
        Ok(())
    }

    pub(super) fn new_hive(&mut self, bytes: Vec<u8>) -> usize {
        let handle = new_handle();
        self.hives.insert(handle, bytes);
        handle
    }
}

impl Open {
    fn op(&mut self, op: &CimOp<'_>) -> Called {
        let recorder = self.recorder.as_mut().ok_or(HResult::INVALID_ARGUMENT)?;
        recorder.op(op).map_err(|error| code(&error))
    }
}

impl Place {
    fn new(path: &str, storage: CreateFlags) -> Self {
        Self {
            path: path.to_owned(),
            storage,
            verified: false,
            images: BTreeMap::new(),
            root: None,
            tampered: false,
            footer: None,
            beside: BTreeMap::new(),
        }
    }

    fn merge_flags(&self) -> MergeFlags {
        let verified = if self.verified { CreateFlags::VERIFIED } else { CreateFlags::empty() };
        merge_flags(self.storage | verified)
    }

    fn mount_flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::SINGLE_FILE, self.storage.contains(CreateFlags::SINGLE_FILE));
        flags.set(MountFlags::BLOCK_DEVICE, self.storage.contains(CreateFlags::BLOCK_DEVICE));
        flags
    }

    /// What a container of these images could be: a header, and as much as their journals.
    fn size(&self) -> u64 {
        let journals: u64 = self.images.values().map(|image| image.journal.len() as u64).sum();
        (4096 + journals).next_multiple_of(4096) + if self.footer.is_some() { 512 } else { 0 }
    }
}

impl Committed {
    fn view(&self) -> Result<View> {
        if self.sources.is_empty() { Ok(View::of(&self.tree)) } else { model::merge(&self.sources) }
    }
}

fn merge_flags(create: CreateFlags) -> MergeFlags {
    let mut flags = MergeFlags::empty();
    flags.set(MergeFlags::SINGLE_FILE, create.contains(CreateFlags::SINGLE_FILE));
    flags.set(MergeFlags::BLOCK_DEVICE, create.contains(CreateFlags::BLOCK_DEVICE));
    flags.set(MergeFlags::VERIFIED, create.contains(CreateFlags::VERIFIED));
    flags
}

fn dump(view: &View) -> Result<String> {
    let mut out = Vec::new();
    view.dump(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn no_image(place: &str) -> Error {
    Error::new(ErrorKind::NotFound, "no such image").entry(place)
}
