//! `outcrop.json`: which store and which disk a directory is. Written last when a store is made, so that it is the
//! point from which the store exists.

use super::document;
use super::durable;
use crate::error::{Error, Result};
use crate::ids::{DiskId, StoreId};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

/// Name of the file.
pub(crate) const FILE: &str = "outcrop.json";

/// Its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub store: StoreId,
    pub disk: DiskId,
    pub created_ns: u64,
}

/// What a directory is, seen from here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Store(Identity),
    /// Nothing in it, or what a kill left while a store was made.
    Empty {
        /// Whether a part of a store is there.
        begun: bool,
    },
}

/// Directories of a store, in the order in which they are made.
pub(crate) const DIRS: [&str; 5] = ["layers", "volumes", "images", "catalog", "lost+found"];

/// What else may be in a directory in which a store was begun.
const BEGUN_FILES: [&str; 3] = ["lock", "reserve", "outcrop.json.tmp"];

/// Looks what `dir` is; changes nothing.
pub(crate) fn look(dir: &Path) -> Result<Found> {
    let file = dir.join(FILE);
    match fs::read(&file) {
        Ok(bytes) => return document::decode(&file, "store", &bytes).map(Found::Store),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::io("reading", &file, e)),
    }
    let refuse = |reason: String| Err(Error::NotAStore { path: dir.to_owned(), reason });
    let mut begun = false;
    for name in durable::names_in(dir)? {
        if BEGUN_FILES.contains(&name.as_str()) {
            begun = true;
        } else if DIRS.contains(&name.as_str()) {
            // A new ext4 has a lost+found of its own, which only root may list.
            let Some(first) = fs::read_dir(dir.join(&name)).ok().and_then(|mut entries| entries.next()) else {
                begun |= name != "lost+found";
                continue;
            };
            let first = first.map(|e| e.file_name().to_string_lossy().into_owned()).unwrap_or_default();
            return refuse(format!(
                "it has no {FILE}, but {name}/{first}; put {FILE} back (every label names its store and disk)"
            ));
        } else {
            return refuse(format!("it is neither a store nor empty: it has no {FILE}, but '{name}'"));
        }
    }
    Ok(Found::Empty { begun })
}

/// Makes the directories and then `outcrop.json`; goes on where a kill stopped it. Durable on return.
pub(crate) fn make(dir: &Path) -> Result<Identity> {
    for name in DIRS {
        durable::make_dir(&dir.join(name))?;
    }
    let identity = Identity { store: StoreId::new(), disk: DiskId::new(), created_ns: super::now_ns() };
    let file = dir.join(FILE);
    durable::replace(&file, &document::encode(&file, "store", &identity)?)?;
    Ok(identity)
}
