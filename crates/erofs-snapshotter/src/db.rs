//! The records: kept in one file, changed in transactions that are whole and on disk, or have not been.

use std::{os::fd::OwnedFd, path::Path};

use layer_model::{Error, ErrorKind, Result};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use crate::{
    info::Record,
    sys::{self, failed, named},
};

/// The name of the file.
pub(crate) const FILE: &str = "snapshots.redb";
/// containerd's, which holds other records of the same kind of directories.
const CONTAINERD: &str = "metadata.db";

/// Snapshots by key or name.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Keys of children, by their parent's id and their own.
const CHILDREN: TableDefinition<'_, (u64, u64), &str> = TableDefinition::new("children");
/// Numbers.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const VERSION: &str = "version";
const NEXT_ID: &str = "next id";

/// The version of the records.
const CURRENT: u64 = 1;

/// Snapshots are few: this keeps all of them in memory.
const CACHE: usize = 4 << 20;

/// More parents than overlayfs can have lower layers; no chain that is longer has been made here.
const MAX_DEPTH: usize = 4096;

#[derive(Debug)]
pub(crate) struct Db(Database);

/// The error of a database operation.
fn database(operation: &str) -> impl Fn(redb::Error) -> Error {
    move |error| match error {
        redb::Error::Io(error) => Error::io(operation, error),
        redb::Error::DatabaseAlreadyOpen => {
            Error::new(ErrorKind::Unavailable, "the snapshots are open elsewhere, in this process or another")
        }
        error => Error::new(ErrorKind::Io(None), operation).cause(error),
    }
}

macro_rules! try_db {
    ($operation:literal, $result:expr) => {
        $result.map_err(|error| database($operation)(redb::Error::from(error)))
    };
}

impl Db {
    /// Opens the records in `root`, made if they are not there and nothing else is.
    pub(crate) fn open(root: &OwnedFd, path: &Path) -> Result<Self> {
        let stat =
            |name: &str| sys::stat(root, name).map_err(|error| failed("stat", &path.join(name), error));
        if stat(CONTAINERD)?.is_some() {
            let message = "the directory belongs to a snapshotter of containerd";
            return Err(named(Error::new(ErrorKind::FailedPrecondition, message), path));
        }
        let file = path.join(FILE);
        if stat(FILE)?.is_none() {
            if stat("snapshots")?.is_some() {
                let message = "there are snapshots, and no records of them";
                return Err(named(Error::new(ErrorKind::FailedPrecondition, message), path));
            }
            Self::create(root, path).map_err(|error| named(error, &file))?;
        }
        let opened = try_db!(
            "open records",
            // A file that somebody damaged is an error then, and no surprise later.
            Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).open(&file)
        );
        let db = Self(opened.map_err(|error| named(error, &file))?);
        match db.read()?.number(VERSION)? {
            Some(CURRENT) => Ok(db),
            other => {
                let message = format!("records of version {other:?}, where {CURRENT} is known");
                Err(named(Error::new(ErrorKind::NotSupported, message), &file))
            }
        }
    }

    /// Makes a file without records. It gets its name when it is complete: whoever is faster has made the same.
    fn create(root: &OwnedFd, path: &Path) -> Result<()> {
        let temporary = format!("{FILE}.tmp-{}", sys::unique());
        let at = |error| failed("make records", path, error);
        sys::remove_unlocked(root, &format!("{FILE}.tmp-")).map_err(at)?;
        let made = || -> Result<()> {
            let db = Self(try_db!("make records", Database::create(path.join(&temporary)))?);
            let changes = db.write()?;
            changes.set_number(VERSION, CURRENT)?;
            drop(try_db!("make records", changes.0.open_table(RECORDS))?);
            drop(try_db!("make records", changes.0.open_table(CHILDREN))?);
            changes.commit()?;
            drop(db);
            match sys::rename_new(root, &temporary, FILE) {
                Ok(()) => sys::sync(root).map_err(at),
                Err(rustix::io::Errno::EXIST) => sys::unlink(root, &temporary).map_err(at),
                Err(error) => Err(at(error)),
            }
        };
        let made = made();
        if made.is_err() {
            let _ = sys::unlink(root, &temporary);
        }
        made
    }

    pub(crate) fn read(&self) -> Result<Reader> {
        try_db!("read records", self.0.begin_read()).map(Reader)
    }

    /// Begins a change of the records. There is one at a time; dropped, it has not been.
    pub(crate) fn write(&self) -> Result<Changes> {
        try_db!("change records", self.0.begin_write()).map(Changes)
    }
}

/// The records as they were at one moment.
pub(crate) struct Reader(ReadTransaction);

/// A change of the records under way.
pub(crate) struct Changes(WriteTransaction);

/// What can be asked of both.
pub(crate) trait Records {
    /// The record of a snapshot.
    fn find(&self, key: &str) -> Result<Option<Record>>;

    /// The record of a snapshot that has to be there.
    fn get(&self, key: &str) -> Result<Record> {
        let missing = || error(ErrorKind::NotFound, key, "there is no such snapshot");
        self.find(key)?.ok_or_else(missing)
    }

    /// The parents of a snapshot, nearest first, with their names.
    fn parents(&self, record: &Record) -> Result<Vec<(String, Record)>> {
        let mut all: Vec<(String, Record)> = Vec::new();
        let mut next = record.parent.clone();
        while let Some(name) = next {
            if all.len() == MAX_DEPTH {
                return Err(Error::new(ErrorKind::LimitExceeded { limit: "parents" }, "too many parents"));
            }
            let record = self.get(&name)?;
            next = record.parent.clone();
            all.push((name, record));
        }
        Ok(all)
    }
}

/// An error about a snapshot.
pub(crate) fn error(kind: ErrorKind, key: &str, message: impl Into<String>) -> Error {
    Error::new(kind, message).entry(key.as_bytes())
}

fn decode(key: &str, bytes: &[u8]) -> Result<Record> {
    serde_json::from_slice(bytes).map_err(|cause| {
        error(ErrorKind::Io(None), key, "the record of the snapshot is damaged").cause(cause)
    })
}

fn decode_all(table: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Vec<(String, Record)>> {
    let mut all = Vec::new();
    for entry in try_db!("read records", table.iter())? {
        let (key, value) = try_db!("read records", entry)?;
        all.push((key.value().to_owned(), decode(key.value(), value.value())?));
    }
    Ok(all)
}

impl Reader {
    /// All snapshots, by key.
    pub(crate) fn all(&self) -> Result<Vec<(String, Record)>> {
        decode_all(&try_db!("read records", self.0.open_table(RECORDS))?)
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let table = try_db!("read records", self.0.open_table(NUMBERS))?;
        let found = try_db!("read records", table.get(name))?;
        Ok(found.map(|value| value.value()))
    }
}

impl Records for Reader {
    fn find(&self, key: &str) -> Result<Option<Record>> {
        let table = try_db!("read record", self.0.open_table(RECORDS))?;
        let found = try_db!("read record", table.get(key))?;
        found.map(|value| decode(key, value.value())).transpose()
    }
}

impl Records for Changes {
    fn find(&self, key: &str) -> Result<Option<Record>> {
        let table = try_db!("read record", self.0.open_table(RECORDS))?;
        let found = try_db!("read record", table.get(key))?;
        found.map(|value| decode(key, value.value())).transpose()
    }
}

impl Changes {
    /// All snapshots, by key.
    pub(crate) fn all(&self) -> Result<Vec<(String, Record)>> {
        decode_all(&try_db!("read records", self.0.open_table(RECORDS))?)
    }

    /// Writes the record of a snapshot, and its parent's link to it.
    pub(crate) fn put(&self, key: &str, record: &Record) -> Result<()> {
        let parent = record.parent.as_deref().map(|parent| self.get(parent)).transpose()?;
        let bytes = serde_json::to_vec(record)
            .map_err(|cause| error(ErrorKind::Io(None), key, "write record").cause(cause))?;
        let mut table = try_db!("write record", self.0.open_table(RECORDS))?;
        try_db!("write record", table.insert(key, &*bytes))?;
        if let Some(parent) = parent {
            let mut children = try_db!("write record", self.0.open_table(CHILDREN))?;
            try_db!("write record", children.insert((parent.id, record.id), key))?;
        }
        Ok(())
    }

    /// Takes the record of a snapshot away, and its parent's link to it.
    pub(crate) fn remove(&self, key: &str, record: &Record) -> Result<()> {
        let parent = record.parent.as_deref().map(|parent| self.get(parent)).transpose()?;
        let mut table = try_db!("remove record", self.0.open_table(RECORDS))?;
        try_db!("remove record", table.remove(key))?;
        if let Some(parent) = parent {
            let mut children = try_db!("remove record", self.0.open_table(CHILDREN))?;
            try_db!("remove record", children.remove((parent.id, record.id)))?;
        }
        Ok(())
    }

    /// The key of one child of a snapshot, if it has any.
    pub(crate) fn child(&self, record: &Record) -> Result<Option<String>> {
        let children = try_db!("read records", self.0.open_table(CHILDREN))?;
        let mut range = try_db!("read records", children.range((record.id, 0)..=(record.id, u64::MAX)))?;
        match range.next() {
            Some(entry) => Ok(Some(try_db!("read records", entry)?.1.value().to_owned())),
            None => Ok(None),
        }
    }

    /// A number that no snapshot has had.
    pub(crate) fn new_id(&self) -> Result<u64> {
        let mut table = try_db!("write record", self.0.open_table(NUMBERS))?;
        let next = try_db!("read record", table.get(NEXT_ID))?.map_or(1, |value| value.value());
        try_db!("write record", table.insert(NEXT_ID, next.saturating_add(1)))?;
        Ok(next)
    }

    fn set_number(&self, name: &str, value: u64) -> Result<()> {
        let mut table = try_db!("write record", self.0.open_table(NUMBERS))?;
        try_db!("write record", table.insert(name, value)).map(drop)
    }

    /// Makes the changes last.
    pub(crate) fn commit(self) -> Result<()> {
        try_db!("change records", self.0.commit())
    }
}
