//! `schedules.json`: the schedules of a store, and how far each has come.
//!
//! The file is the truth about them, not the catalog: schedules belong to no volume, so no label could tell of them when the catalog is
//! made again, and a second copy in the catalog could only differ. It is a document that checks itself and is replaced whole, after each change
//! and after each run; a crash leaves the old or the new one. A run is taken down after its snapshot is committed: a crash
//! between the two has the run made once more, and no crash leaves one out.

use super::Schedule;
use crate::disk::{Disk, document, durable};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Its name in the store.
const FILE: &str = "schedules.json";
const KIND: &str = "schedules";

/// Its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Content {
    store: StoreId,
    /// Counts the changes, from 1.
    generation: u64,
    schedules: Vec<Schedule>,
}

/// The schedules as they are on the disk.
#[derive(Debug)]
pub(crate) struct ScheduleFile {
    path: PathBuf,
    store: StoreId,
    generation: u64,
    schedules: Vec<Schedule>,
}

impl ScheduleFile {
    /// Reads it; a missing one has no schedules. `Damaged` if it is not whole, or of another store.
    pub fn read(disk: &Disk) -> Result<Self> {
        let path = path_of(&disk.path);
        let mut file = Self { path, store: disk.store, generation: 0, schedules: Vec::new() };
        let bytes = match fs::read(&file.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(file),
            Err(e) => return Err(Error::io("reading", &file.path, e)),
        };
        let content: Content = document::decode(&file.path, KIND, &bytes)?;
        if content.store != disk.store {
            let reason = format!("it is of store {}, not {}", content.store, disk.store);
            return Err(Error::Damaged { path: file.path, reason });
        }
        file.generation = content.generation;
        file.schedules = content.schedules;
        Ok(file)
    }

    /// Reads it; what is damaged is put into `lost+found`, and a line tells so.
    pub fn open(disk: &Disk) -> Result<(Self, Option<String>)> {
        match Self::read(disk) {
            Ok(file) => Ok((file, None)),
            Err(error @ Error::Damaged { .. }) => {
                let aside = put_aside(disk, &error.to_string())?;
                let told = format!("{error}; it was moved to {}, and there are no schedules now", aside.display());
                Ok((Self { path: path_of(&disk.path), store: disk.store, generation: 0, schedules: Vec::new() }, Some(told)))
            }
            Err(error) => Err(error),
        }
    }

    /// The schedules, by name.
    pub fn schedules(&self) -> &[Schedule] {
        &self.schedules
    }

    /// Makes the schedules what they are to be: durable on return, and unchanged if it fails.
    pub fn replace(&mut self, disk: &Disk, mut schedules: Vec<Schedule>) -> Result<()> {
        schedules.sort_by(|a, b| a.name.cmp(&b.name));
        let content = Content { store: self.store, generation: self.generation + 1, schedules };
        let bytes = document::encode(&self.path, KIND, &content)?;
        disk.with_reserve(|| durable::replace(&self.path, &bytes))?;
        self.generation = content.generation;
        self.schedules = content.schedules;
        Ok(())
    }
}

fn path_of(disk: &Path) -> PathBuf {
    disk.join(FILE)
}

fn put_aside(disk: &Disk, reason: &str) -> Result<PathBuf> {
    let dir = disk.lost_found_dir();
    let free = |name: &String| !dir.join(name).exists();
    let name = (1u32..).map(|number| format!("{FILE}-{number}")).find(free).unwrap_or_else(|| FILE.to_owned());
    let aside = dir.join(&name);
    durable::replace(&dir.join(format!("{name}.reason")), format!("{reason}\n").as_bytes())?;
    durable::rename(&path_of(&disk.path), &aside)?;
    Ok(aside)
}
