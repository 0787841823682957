//! How a store is opened.

use crate::image::Reader;
use std::sync::Arc;
use std::time::Duration;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Make the store if the directory is missing or empty.
    pub create: bool,
    /// Memory for finding blocks and for their sums, half each, in bytes (default 256 MiB).
    pub cache_bytes: u64,
    /// The most layer files held open at once; files with unflushed writes come on top.
    pub open_files: usize,
    /// Time between background flushes (default 5 s).
    pub flush_interval: Duration,
    /// The longest that a snapshot may stop writes (default 5 s).
    pub snapshot_pause: Duration,
    /// Free bytes at which data writes get ENOSPC (default 64 MiB, at most 1/16 of the disk).
    pub floor_bytes: u64,
    /// How long what is deleted (or left by a revert) can be restored (default 24 h; zero: not at all).
    pub undo: Duration,
    /// The longest that a write to a full disk waits for what was deleted to give its space back (default 10 s).
    pub space_wait: Duration,
    /// Reads the files of images, where this process must not: none, and it does it itself.
    pub image_reader: Option<Arc<dyn Reader>>,
    /// Throw the catalog away (it is kept aside) and make it again from the labels.
    pub rebuild_catalog: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            create: false,
            cache_bytes: 256 << 20,
            open_files: 512,
            flush_interval: Duration::from_secs(5),
            snapshot_pause: Duration::from_secs(5),
            floor_bytes: 64 << 20,
            undo: Duration::from_secs(24 * 3600),
            space_wait: Duration::from_secs(10),
            image_reader: None,
            rebuild_catalog: false,
        }
    }
}
