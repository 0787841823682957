//! A disk: one directory of a store, and what is shared by all that lies in it.
//!
//! Owns the directory's identity, lock, layout, metadata reserve and the ways to change small files durably. Below it
//! is the file system. Invariant: nothing is written in a store, not even to repair it, before its lock is held.

pub(crate) mod document;
pub(crate) mod durable;
pub(crate) mod files;
pub(crate) mod gauge;
pub(crate) mod identity;
mod lock;
mod reserve;

use crate::error::{Error, Result};
use crate::ids::{DiskId, ImageId, LayerId, StoreId, VolumeId};
use crate::layer::SumsCache;
use crate::store::StoreOptions;
use files::FileCache;
use gauge::Gauge;
use identity::Found;
use lock::Lock;
pub(crate) use reserve::Reserve;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// An open disk.
pub(crate) struct Disk {
    /// Absolute path of its directory.
    pub path: PathBuf,
    pub id: DiskId,
    pub store: StoreId,
    pub gauge: Gauge,
    pub files: Arc<FileCache>,
    /// Sums of sealed layers, in memory.
    pub sums: SumsCache,
    /// Space for metadata on a full disk.
    pub reserve: Reserve,
    lock: Lock,
    /// Who is told of damage that is found, and got by with, deep down.
    damage: OnceLock<Box<dyn Fn(String) + Send + Sync>>,
}

impl Disk {
    /// Opens the disk in `path` and takes its lock, or makes it there if the options say so and the directory is missing
    /// or empty. Also gives what had to be repaired, a line each.
    pub fn open(path: &Path, options: &StoreOptions) -> Result<(Arc<Self>, Vec<String>)> {
        let path = locate(path, options.create)?;
        // Without the lock first, so that what is no store is left as it is.
        if let Found::Empty { .. } = identity::look(&path)?
            && !options.create
        {
            return Err(Error::NotAStore { path, reason: format!("it has no {}", identity::FILE) });
        }
        let lock = Lock::take(&path)?;
        let mut repaired = Vec::new();
        let identity = match identity::look(&path)? {
            Found::Store(identity) => identity,
            Found::Empty { begun } => {
                // The lock file of this very open counts as begun, too.
                let begun = begun && identity::DIRS.iter().any(|dir| *dir != "lost+found" && path.join(dir).exists());
                let identity = identity::make(&path)?;
                if begun {
                    repaired.push("the making of the store had been interrupted; it was finished".to_owned());
                }
                identity
            }
        };
        for dir in identity::DIRS {
            if dir != "catalog" && durable::make_dir(&path.join(dir))? {
                repaired.push(format!("directory {dir}/ was missing; it was made again, empty"));
            }
        }
        for dir in [&path, &path.join("volumes"), &path.join("images"), &path.join("lost+found")] {
            for name in durable::remove_unfinished(dir)? {
                repaired.push(format!("{} was left unfinished by a crash; it was removed", dir.join(name).display()));
            }
        }
        let reserve = Reserve::new(&path);
        reserve.restore()?;
        let disk = Self {
            gauge: Gauge::new(&path, options.floor_bytes)?,
            files: FileCache::new(options.open_files),
            sums: SumsCache::new(options.cache_bytes / 2),
            id: identity.disk,
            store: identity.store,
            reserve,
            lock,
            damage: OnceLock::new(),
            path,
        };
        Ok((Arc::new(disk), repaired))
    }

    /// Says who is told of damage: the first one who asks for it.
    pub fn tell_damage_to(&self, listener: Box<dyn Fn(String) + Send + Sync>) {
        let _ = self.damage.set(listener);
    }

    /// Tells of damage that the finder gets by with.
    pub fn tell_damage(&self, message: String) {
        match self.damage.get() {
            Some(listener) => listener(message),
            None => tracing::error!("{message}"),
        }
    }

    /// Lets others open the disk: all of it is closed.
    pub fn unlock(&self) {
        self.lock.release();
    }

    /// Where layers are.
    pub fn layers_dir(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// Where a layer's files are.
    pub fn layer_dir(&self, layer: LayerId) -> PathBuf {
        self.layers_dir().join(layer.to_string())
    }

    /// Where the labels of volumes are.
    pub fn volumes_dir(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// A volume's label.
    pub fn volume_file(&self, volume: VolumeId) -> PathBuf {
        self.volumes_dir().join(format!("{volume}.json"))
    }

    /// Where the labels of images are.
    pub fn images_dir(&self) -> PathBuf {
        self.path.join("images")
    }

    /// An image's label.
    pub fn image_file(&self, image: ImageId) -> PathBuf {
        self.images_dir().join(format!("{image}.json"))
    }

    /// Where the catalog is.
    pub fn catalog_dir(&self) -> PathBuf {
        self.path.join("catalog")
    }

    /// Where things go that nothing refers to.
    pub fn lost_found_dir(&self) -> PathBuf {
        self.path.join("lost+found")
    }

    /// Does a metadata write; on a full disk the reserve is given up and it is tried once more.
    pub fn with_reserve<T>(&self, op: impl Fn() -> Result<T>) -> Result<T> {
        self.reserve.with(op)
    }
}

/// The directory's absolute path; makes it if it may.
fn locate(path: &Path, create: bool) -> Result<PathBuf> {
    let refuse = |reason: &str| Err(Error::NotAStore { path: path.to_owned(), reason: reason.to_owned() });
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return refuse("it is not a directory"),
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => make_path(path)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return refuse("there is no such directory"),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return refuse("a part of the path is not a directory"),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return refuse("this user may not reach it"),
        Err(e) => return Err(Error::io("looking at", path, e)),
    }
    match fs::canonicalize(path).and_then(|path| fs::read_dir(&path).map(|_| path)) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => refuse("this user may not read it"),
        Err(e) => Err(Error::io("looking at", path, e)),
    }
}

/// Makes a directory and the missing ones above it, durably.
fn make_path(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
        && !parent.exists()
    {
        // Above the store anybody may pass, as after `mkdir -p`.
        make_path(parent)?;
        let _ = fs::set_permissions(parent, fs::Permissions::from_mode(0o755));
    }
    durable::make_dir(path).map(drop).map_err(|e| {
        let reason = match &e {
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "this user may not make it",
                io::ErrorKind::ReadOnlyFilesystem => "its file system is mounted read-only",
                _ => return e,
            },
            _ => return e,
        };
        Error::NotAStore { path: path.to_owned(), reason: reason.to_owned() }
    })
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
