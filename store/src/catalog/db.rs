//! sled, and nowhere else: the durable form of [`State`].
//!
//! One function commits. It is durable on return: sled's own `flush` ends in `sync_file_range`, which leaves the data
//! in the disk's cache, so the file is synced here as well. After any failure nothing more is committed: what the disk
//! holds is not known until the next open reads it.

use super::records::{Change, Member, Stamp};
use super::state::State;
use crate::disk::{Disk, durable};
use crate::error::{Error, Result};
use crate::ids::{LayerId, OperationId};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Version of the keys and values.
const FORMAT: u32 = 1;

/// sled's own cache. All records are in memory anyway.
const CACHE_BYTES: u64 = 16 << 20;

/// A larger value would go to a file of its own, which sled does not sync.
const VALUE_MAX: usize = 32 << 10;

/// The longest wait for the last holder of sled's lock. Ours is held already, so that it is a process that just ended.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Changes put into one transaction when a whole state is written.
const WRITE_CHUNK: usize = 1000;

/// Written last when a state is written whole: without it the catalog is unfinished.
const KEY_FORMAT: &[u8] = b"meta/format";
const KEY_SERIAL: &[u8] = b"meta/next-serial";

/// What is in the catalog besides the state.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Operations that were committed, but whose labels may not have been promoted.
    pub operations: BTreeSet<OperationId>,
    /// Names in `layers/` that were unknown when the catalog was rebuilt: never touched by the program.
    pub kept: BTreeSet<String>,
}

/// How an open found the catalog.
pub(super) enum Opened {
    Good(Box<(Db, State, Ledger)>),
    /// There is none, or one whose first writing was cut short.
    Missing,
    /// There is one, but it can't be read.
    Bad(String),
}

/// The open database.
pub(super) struct Db {
    tree: sled::Db,
    /// sled's `db`, opened once more to sync it.
    pub(super) file: File,
    dir: PathBuf,
    failed: Mutex<Option<String>>,
}

/// Inserts and removals that happen together.
#[derive(Debug, Default)]
pub(super) struct Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>);

#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    stamp: Stamp,
    record: T,
}

impl Batch {
    fn put<T: Serialize>(&mut self, key: Vec<u8>, value: &T) -> Result<()> {
        let value = serde_json::to_vec(value).map_err(|e| Error::io("encoding", "catalog", e))?;
        if value.len() > VALUE_MAX {
            return Err(Error::Limit { what: "the size of a catalog record in bytes", limit: VALUE_MAX as u64 });
        }
        self.0.push((key, Some(value)));
        Ok(())
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.0.push((key, None));
    }

    /// What the changes put and remove. Members' records are not among it: see [`Batch::member`].
    pub fn changes(&mut self, changes: &[Change]) -> Result<()> {
        for change in changes {
            match change {
                // With their stamps, by `member`.
                Change::PutVolume(_) | Change::PutImage(_) => {}
                Change::DeleteVolume(id) => self.remove(key(b"volume/", &id.to_bytes())),
                Change::DeleteImage(id) => self.remove(key(b"image/", &id.to_bytes())),
                Change::PutSnapshot(snapshot) => {
                    self.put(snapshot_key(snapshot.volume.to_bytes(), snapshot.set.as_bytes()), snapshot)?;
                }
                Change::DeleteSnapshot { set, volume } => self.remove(snapshot_key(volume.to_bytes(), set.as_bytes())),
                Change::PutRemoved(removed) => self.put(removed_key(removed.serial), removed)?,
                Change::DeleteRemoved { serial, .. } => self.remove(removed_key(*serial)),
                Change::PutSet(set) => self.put(key(b"set/", set.name.as_bytes()), set)?,
                Change::DeleteSet(name) => self.remove(key(b"set/", name.as_bytes())),
                Change::PutLayer(layer) => self.put(key(b"layer/", &layer.id.to_bytes()), layer)?,
                Change::DropLayer(id) => {
                    self.remove(key(b"layer/", &id.to_bytes()));
                    self.put(key(b"dropping/", &id.to_bytes()), id)?;
                }
                Change::Dropped(id) => self.remove(key(b"dropping/", &id.to_bytes())),
                Change::PutJob(job) => self.put(key(b"job/", &job.id.0.to_be_bytes()), job)?,
                Change::DeleteJob(id) => self.remove(key(b"job/", &id.0.to_be_bytes())),
            }
        }
        Ok(())
    }

    /// A member's record with its stamp, from the state that is to be.
    pub fn member(&mut self, member: Member, stamp: Stamp, state: &State) -> Result<()> {
        match member {
            Member::Volume(id) => match state.volumes.get(&id) {
                Some(record) => self.put(key(b"volume/", &id.to_bytes()), &Stamped { stamp, record }),
                None => Ok(()),
            },
            Member::Image(id) => match state.images.get(&id) {
                Some(record) => self.put(key(b"image/", &id.to_bytes()), &Stamped { stamp, record }),
                None => Ok(()),
            },
        }
    }

    /// Notes an operation as committed and perhaps not promoted.
    pub fn operation(&mut self, id: OperationId) -> Result<()> {
        self.put(key(b"operation/", &id.to_bytes()), &id)
    }

    /// All labels of the operation are promoted.
    pub fn forget_operation(&mut self, id: OperationId) {
        self.remove(key(b"operation/", &id.to_bytes()));
    }

    /// The next serial.
    pub fn next_serial(&mut self, serial: u64) -> Result<()> {
        self.put(KEY_SERIAL.to_vec(), &serial)
    }
}

fn key(prefix: &[u8], id: &[u8]) -> Vec<u8> {
    [prefix, id].concat()
}

fn removed_key(serial: u64) -> Vec<u8> {
    key(b"removed/", &serial.to_be_bytes())
}

fn snapshot_key(volume: [u8; 16], set: &[u8]) -> Vec<u8> {
    [b"snapshot/", &volume[..], set].concat()
}

impl Db {
    /// Opens the catalog of `disk` as it is.
    pub fn open(disk: &Disk) -> Result<Opened> {
        let dir = disk.catalog_dir();
        if !dir.join("conf").exists() && !dir.join("db").exists() {
            return Ok(Opened::Missing);
        }
        let db = match Self::start(disk) {
            Ok(db) => db,
            Err(Error::Catalog { source: e @ (sled::Error::Corruption { .. } | sled::Error::ReportableBug(_)), .. }) => {
                return Ok(Opened::Bad(e.to_string()));
            }
            Err(Error::Catalog { source: sled::Error::Unsupported(reason), .. }) => return Ok(Opened::Bad(reason)),
            Err(e) => return Err(e),
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| db.load())).unwrap_or_else(|_| Ok(Err(Some("sled panicked".to_owned()))));
        match loaded? {
            Ok((state, ledger)) => Ok(Opened::Good(Box::new((db, state, ledger)))),
            Err(None) => Ok(Opened::Missing),
            Err(Some(reason)) => Ok(Opened::Bad(reason)),
        }
    }

    /// Makes a catalog of `state` in a directory that has none. Whole only once its format key is in it.
    pub fn make(disk: &Disk, state: &State, ledger: &Ledger) -> Result<Self> {
        let dir = disk.catalog_dir();
        durable::remove_tree(&dir)?;
        durable::make_dir(&dir)?;
        let db = Self::start(disk)?;
        for path in ["conf", "blobs", ""] {
            durable::sync_file(&dir.join(path))?;
        }
        let mut all = Batch::default();
        all.changes(&state.snapshots.values().cloned().map(Change::PutSnapshot).collect::<Vec<_>>())?;
        all.changes(&state.removed.values().cloned().map(Change::PutRemoved).collect::<Vec<_>>())?;
        all.changes(&state.sets.values().cloned().map(Change::PutSet).collect::<Vec<_>>())?;
        all.changes(&state.layers.values().copied().map(Change::PutLayer).collect::<Vec<_>>())?;
        for (member, stamp) in &state.stamps {
            all.member(*member, *stamp, state)?;
        }
        for operation in &ledger.operations {
            all.operation(*operation)?;
        }
        for name in &ledger.kept {
            all.put(key(b"kept/", name.as_bytes()), name)?;
        }
        all.next_serial(state.next_serial)?;
        while !all.0.is_empty() {
            let rest = all.0.split_off(all.0.len().min(WRITE_CHUNK));
            db.commit(&all)?;
            all.0 = rest;
        }
        let mut last = Batch::default();
        last.put(KEY_FORMAT.to_vec(), &FORMAT)?;
        db.commit(&last)?;
        Ok(db)
    }

    fn start(disk: &Disk) -> Result<Self> {
        let dir = disk.catalog_dir();
        remove_unfinished_snapshots(&dir)?;
        // sled can't be tried again after ENOSPC.
        disk.reserve.make_room()?;
        let config = sled::Config::new().path(&dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let begin = Instant::now();
        let tree = loop {
            // On some damage sled panics; that is an answer, too.
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
                .unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".to_owned())));
            match opened {
                Ok(tree) => break tree,
                Err(e) if is_locked(&e) && begin.elapsed() < LOCK_WAIT => thread::sleep(Duration::from_millis(20)),
                Err(source) => return Err(Error::Catalog { path: dir, source }),
            }
        };
        let path = dir.join("db");
        let file = File::open(&path).map_err(|e| Error::io("opening", &path, e))?;
        Ok(Self { tree, file, dir, failed: Mutex::new(None) })
    }

    /// An error if a commit failed: from then on nothing is known of what the disk holds.
    pub fn usable(&self) -> Result<()> {
        self.refuse_after(self.failed.lock().as_deref())
    }

    fn refuse_after(&self, failed: Option<&str>) -> Result<()> {
        match failed {
            None => Ok(()),
            Some(reason) => {
                Err(self.error(sled::Error::Unsupported(format!("a commit failed before ({reason}); open the store again"))))
            }
        }
    }

    /// The one way to change the catalog: all of the batch or nothing, durable on return.
    pub fn commit(&self, batch: &Batch) -> Result<()> {
        let mut failed = self.failed.lock();
        self.refuse_after(failed.as_deref())?;
        let done = self.commit_once(batch);
        if let Err(e) = &done {
            *failed = Some(e.to_string());
        }
        done.map_err(|e| self.error(e))
    }

    fn commit_once(&self, batch: &Batch) -> sled::Result<()> {
        let done = self.tree.transaction(|tree| {
            for (key, value) in &batch.0 {
                match value {
                    Some(value) => tree.insert(key.as_slice(), value.as_slice())?,
                    None => tree.remove(key.as_slice())?,
                };
            }
            Ok(())
        });
        match done {
            Ok(()) => {}
            Err(sled::transaction::TransactionError::Storage(e)) => return Err(e),
            Err(sled::transaction::TransactionError::Abort(())) => return Err(sled::Error::ReportableBug("aborted".to_owned())),
        }
        self.tree.flush()?;
        rustix::fs::fdatasync(&self.file).map_err(|e| sled::Error::Io(e.into()))
    }

    /// Reads everything. The inner error is the reason why it can't be believed; none if it was never finished.
    fn load(&self) -> Result<Result<(State, Ledger), Option<String>>> {
        let mut state = State::new();
        let mut ledger = Ledger::default();
        let mut format = None;
        for entry in self.tree.iter() {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(e @ sled::Error::Io(_)) => return Err(self.error(e)),
                Err(e) => return Ok(Err(Some(e.to_string()))),
            };
            if key.as_ref() == KEY_FORMAT {
                format = serde_json::from_slice::<u32>(&value).ok();
                continue;
            }
            if load_entry(&key, &value, &mut state, &mut ledger).is_none() {
                // A newer program may have keys of its own: its format says so.
                let shown = String::from_utf8_lossy(&key).into_owned();
                tracing::debug!(key = shown, "a catalog entry that this version does not know");
                if format.is_none_or(|f| f <= FORMAT) && self.format().is_none_or(|f| f <= FORMAT) {
                    return Ok(Err(Some(format!("entry '{}' can't be read", shown.escape_debug()))));
                }
            }
        }
        match format {
            None => Ok(Err(None)),
            Some(found) if found > FORMAT => Err(Error::NewerFormat { path: self.dir.clone(), found, supported: FORMAT }),
            Some(_) => Ok(Ok((state, ledger))),
        }
    }

    fn format(&self) -> Option<u32> {
        serde_json::from_slice(&self.tree.get(KEY_FORMAT).ok()??).ok()
    }

    fn error(&self, source: sled::Error) -> Error {
        Error::Catalog { path: self.dir.clone(), source }
    }
}

/// Puts one entry into the state; none if it can't be understood.
fn load_entry(key: &[u8], value: &[u8], state: &mut State, ledger: &mut Ledger) -> Option<()> {
    fn read<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
        serde_json::from_slice(value).ok()
    }
    let kind = key.split(|byte| *byte == b'/').next()?;
    match kind {
        b"volume" => {
            let Stamped { stamp, record } = read(value)?;
            let change = Change::PutVolume(record);
            state.stamps.insert(change.member()?, stamp);
            state.apply(&[change]);
        }
        b"image" => {
            let Stamped { stamp, record } = read(value)?;
            let change = Change::PutImage(record);
            state.stamps.insert(change.member()?, stamp);
            state.apply(&[change]);
        }
        b"snapshot" => state.apply(&[Change::PutSnapshot(read(value)?)]),
        b"removed" => state.apply(&[Change::PutRemoved(read(value)?)]),
        b"set" => state.apply(&[Change::PutSet(read(value)?)]),
        b"layer" => state.apply(&[Change::PutLayer(read(value)?)]),
        b"dropping" => {
            state.dropping.insert(read::<LayerId>(value)?);
        }
        b"operation" => {
            ledger.operations.insert(read(value)?);
        }
        // No reason to doubt the catalog: a job of a kind that a newer program has is left out.
        b"job" => state.apply(&read(value).map(Change::PutJob).into_iter().collect::<Vec<_>>()),
        b"kept" => {
            ledger.kept.insert(read(value)?);
        }
        b"meta" if key == KEY_SERIAL => state.next_serial = state.next_serial.max(read(value)?),
        _ => return None,
    }
    Some(())
}

/// A kill during an open can leave these, half-written, and the next open would trust them.
fn remove_unfinished_snapshots(dir: &Path) -> Result<()> {
    if !dir.exists() {
        durable::make_dir(dir)?;
    }
    for name in durable::names_in(dir)? {
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
        }
    }
    Ok(())
}

/// sled gives its lock's refusal as text only.
fn is_locked(e: &sled::Error) -> bool {
    matches!(e, sled::Error::Io(e) if e.kind() == io::ErrorKind::WouldBlock || e.to_string().contains("could not acquire lock"))
}
