//! A disk: one directory of a store, and what is shared by all that lies in it.

pub(crate) mod files;
pub(crate) mod gauge;

use crate::ids::{DiskId, LayerId, StoreId};
use files::FileCache;
use gauge::Gauge;
use std::path::PathBuf;
use std::sync::Arc;

/// An open disk.
pub(crate) struct Disk {
    /// Absolute path of its directory.
    pub path: PathBuf,
    pub id: DiskId,
    pub store: StoreId,
    pub gauge: Gauge,
    pub files: Arc<FileCache>,
}

impl Disk {
    /// Where a layer's files are.
    pub fn layer_dir(&self, layer: LayerId) -> PathBuf {
        self.path.join("layers").join(layer.to_string())
    }
}
