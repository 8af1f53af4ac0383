//! CimFS emulated: a table of functions that keep images in memory.
//!
//! For tests of everything above the table, on any system. The functions fail as Microsoft documents it, and as was
//! seen on Windows: one writer a directory, one stream an image, a commit over a mounted image refused, parents never
//! made on the way, a file created over another, bytes never written read as zeros. What nothing is known about
//! follows the policies of the [`model`](crate::model). On top of that, calls can be made to fail
//! ([`Emulator::inject`]), and functions to be missing ([`CimApi::without`]).
//!
//! A function of C has no place for a context. So there is a fixed number of worlds, and each has functions of its
//! own: an [`Emulator`] takes a world, and gives it back when it and every [`CimApi`] made from it are gone.
//!
//! The "root digest" of a sealed container is the SHA-256 of its images' journals, without the path of the container.
//! It is no digest that Windows would come to.
//!
//! `CimAddFsToMergedImage`, the oldest way to merge, and `CimConvertBlockImage` are missing: nobody tells what exactly
//! they do.
#![expect(unsafe_code, reason = "functions of C get pointers")]

mod functions;
mod offreg;
mod world;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use layer_model::{Error, ErrorKind, Result};

pub use functions::emulated_table;
pub use offreg::emulated_offreg;
use world::World;

use crate::{
    CimName, Guid,
    caps::OsVersion,
    model::Rules,
    table::{CimApi, CimTable, Containers, HResult, OfflineRegistry, OffregTable},
};

/// How many worlds there are.
pub const WORLDS: usize = 32;

/// The worlds. The first belongs to whoever loads the emulator as a DLL.
static WORLD: [Mutex<Option<World>>; WORLDS] = [const { Mutex::new(None) }; WORLDS];

fn world(number: usize) -> MutexGuard<'static, Option<World>> {
    // A test that panicked in here has failed already; the next one begins with a new world.
    WORLD[number].lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It does nothing and returns this code.
    Fail(HResult),
    /// If it writes, it takes only so many bytes, and returns `ERROR_HANDLE_EOF`; else it is as without a fault.
    ShortWrite(usize),
}

/// One world of the emulator. Clones share it.
#[derive(Clone)]
pub struct Emulator(Arc<Claim>);

/// Who has a world; dropped, the world is free again.
#[derive(Debug)]
struct Claim(usize);

impl Drop for Claim {
    fn drop(&mut self) {
        if self.0 != 0 {
            *world(self.0) = None;
        }
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Emulator").field(&self.0.0).finish()
    }
}

impl Emulator {
    /// A new, empty world.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] when all [`WORLDS`] are taken.
    pub fn new() -> Result<Self> {
        Self::with_rules(Rules::default())
    }

    /// A new, empty world, in which images follow these rules.
    ///
    /// # Errors
    /// As [`Emulator::new`].
    pub fn with_rules(rules: Rules) -> Result<Self> {
        for number in 1..WORLDS {
            let mut slot = world(number);
            if slot.is_none() {
                *slot = Some(World::new(rules));
                return Ok(Self(Arc::new(Claim(number))));
            }
        }
        let kind = ErrorKind::LimitExceeded { limit: "WORLDS" };
        Err(Error::new(kind, "too many emulators at a time"))
    }

    /// The world of the process: that of the functions that the emulator exports as a DLL.
    pub fn of_process() -> Self {
        world(0).get_or_insert_with(|| World::new(Rules::default()));
        Self(Arc::new(Claim(0)))
    }

    /// Its functions. They fail once the world is gone.
    pub fn table(&self) -> CimTable {
        emulated_table(self.0.0)
    }

    /// Its functions, to be called. Keeps the world.
    pub fn api(&self) -> CimApi {
        // SAFETY: the functions read what they are given as the documentation has it, keep no pointer, and know the
        // handles that they gave out by number: one that is closed, or from another world, is refused.
        unsafe { CimApi::new(self.table(), message, Arc::new(self.clone())) }
    }

    /// The functions of its offline registry.
    pub fn offreg_table(&self) -> OffregTable {
        emulated_offreg(self.0.0)
    }

    /// An offline registry that "merges" hives for a Windows of this version: the result is the concatenation of both
    /// behind a line that says so.
    pub fn offline_registry(&self, os: OsVersion) -> OfflineRegistry {
        // SAFETY: as for `api`; a call after the world is gone fails.
        unsafe { OfflineRegistry::new(self.offreg_table(), message, os) }
    }

    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut slot = world(self.0.0);
        look(slot.as_mut().expect("a world is there as long as it is claimed"))
    }

    /// Makes the call after `skip` others go wrong. Calls that close something cannot fail and do not count.
    pub fn inject(&self, skip: u64, fault: Fault) {
        self.with(|world| world.inject(skip, fault));
    }

    /// How many calls there were that could fail.
    pub fn calls(&self) -> u64 {
        self.with(|world| world.calls)
    }

    /// How many handles of images and streams are open.
    pub fn open_handles(&self) -> usize {
        self.with(|world| world.open_handles())
    }

    /// The committed images: where, and their names.
    pub fn images(&self) -> Vec<(String, CimName)> {
        self.with(|world| world.images())
    }

    /// What is to be seen of a committed image: the view dump.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without the image, [`ErrorKind::DanglingMergedLink`] for one whose merged links only a
    /// merge would resolve.
    pub fn dump(&self, container: &str, name: &CimName) -> Result<String> {
        self.with(|world| world.dump(container, name))
    }

    /// What is to be seen of a mounted volume: the view dump.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing is mounted there.
    pub fn volume_dump(&self, volume: Guid) -> Result<String> {
        self.with(|world| world.volume_dump(volume))
    }

    /// The journal of a committed image, without the path of its container.
    pub fn journal(&self, container: &str, name: &CimName) -> Option<Vec<u8>> {
        self.with(|world| world.journal(container, name))
    }

    /// A file that was written beside a container.
    pub fn beside(&self, container: &str, name: &str) -> Option<String> {
        self.with(|world| world.beside(container, name))
    }

    /// Damages the container, so that it has no longer the content that its root digest is of.
    pub fn tamper(&self, container: &str) {
        self.with(|world| world.tamper(container));
    }
}

impl Containers for Emulator {
    fn size(&self, container: &str) -> Result<Option<u64>> {
        self.with(|world| world.size(container)).map(Some)
    }

    fn append_footer(&self, container: &str, len: u64, unique_id: [u8; 16]) -> Result<()> {
        self.with(|world| world.append_footer(container, len, unique_id))
    }

    fn write_beside(&self, container: &str, name: &str, text: &str) -> Result<()> {
        self.with(|world| world.write_beside(container, name, text))
    }
}

/// What the emulator says about a code.
fn message(code: HResult) -> Option<String> {
    (code == world::INTEGRITY_VIOLATION).then(|| "the emulator has found an integrity violation".to_owned())
}
