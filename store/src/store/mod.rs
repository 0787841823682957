//! A store: what is open, and everything that can be done by name.
//!
//! `open` puts the parts together and repairs what a crash left; `volumes`, `snapshots` and `images` are the operations
//! on names; `context` is what they share; `flusher` works in the background.

mod bell;
mod clone;
mod clone_open;
mod context;
mod deleting;
mod diff;
mod find;
mod flusher;
pub(crate) mod images;
mod info;
mod keep;
mod metrics;
mod open;
mod options;
mod pressure;
mod registry;
mod revert;
mod schedules;
mod seal;
mod snapshots;
mod space;
pub(crate) mod undo;
mod unlinked;
mod upkeep;
pub(crate) mod view;
mod volumes;

pub use clone_open::Opened;
pub(crate) use context::Context;
pub use diff::DiffSizes;
pub use find::SnapshotFile;
pub use info::{
    CloneSource, DeleteVolume, Event, EventKind, ImageInfo, Keep, NewVolume, RemovedInfo, RemovedKind, RenameMode, Revert,
    SnapshotInfo, SnapshotSelector, SnapshotSetInfo, Space, VolumeInfo, VolumeSpace,
};
pub(crate) use metrics::data_blocks;
pub use metrics::{HeadFacts, StoreMetrics, VolumeFacts};
pub use options::StoreOptions;
pub(crate) use registry::{Follower, wait_for_earlier};
pub use schedules::ScheduledSnapshot;
pub(crate) use seal::seal_head;

use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::image::{ImportOptions, Progress};
use crate::name::Name;
use crate::volume::Sync;
use flusher::Flusher;
use parking_lot::Mutex;
use schedules::Schedules;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a close waits for jobs to end: they look often whether they should.
const JOBS_END_WAIT: Duration = Duration::from_secs(30);

/// An open store. Clones are the same store; the last one dropped closes it, [`Store::close`] tells how that went.
///
/// All methods may block on the disk. They take `&self` and may be called from any thread.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    context: Arc<Context>,
    flusher: Flusher,
    schedules: Schedules,
    /// What was counted of sealed layers.
    counted: Mutex<crate::space::Cache>,
}

impl Store {
    /// Opens the store in `path`, repairs what a crash left, and takes its lock.
    ///
    /// What was repaired is in [`Store::events`].
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Store> {
        let context = open::open(path, options)?;
        let schedules = Schedules::open(&context);
        let flusher = Flusher::start(&context)?;
        Ok(Store { shared: Arc::new(Shared { context, flusher, schedules, counted: Mutex::default() }) })
    }

    /// Flushes everything and closes: durable on return. Later calls answer `Closed`.
    pub fn close(&self) -> Result<()> {
        self.shared.close()
    }

    /// Flushes every volume: all that was written before is durable on return.
    pub fn flush(&self) -> Result<()> {
        let context = self.context()?;
        context.open_volumes().iter().try_for_each(|volume| volume.sync(Sync::All))
    }

    /// The store's identity.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.shared.context.disk.store
    }

    /// The directory, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.context.disk.path
    }

    /// What happened since the open, oldest first; the newest 1,000 are kept. Also sent to the log.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.shared.context.events()
    }

    /// Every image, by name.
    #[must_use]
    pub fn images(&self) -> Vec<ImageInfo> {
        self.context().map_or_else(|_| Vec::new(), |context| images::list(&context.catalog))
    }

    /// One image.
    pub fn image_info(&self, name: &Name) -> Result<ImageInfo> {
        images::info(&self.context()?.catalog, name)
    }

    /// Imports the image file `path` as `name`: durable on return, and nothing of it is left on an error.
    pub fn import_image(&self, name: &Name, path: &Path, options: &ImportOptions, progress: &dyn Progress) -> Result<ImageInfo> {
        images::import(self.context()?, name, path, options, progress)
    }

    /// Makes image `name` of what `volume` is in `snapshot` or, without it, at this instant: durable on return, and nothing of it
    /// is left on an error.
    pub fn create_image(
        &self,
        name: &Name,
        volume: &Name,
        snapshot: Option<&Name>,
        progress: &dyn Progress,
    ) -> Result<ImageInfo> {
        images::from_volume(self.context()?, name, volume, snapshot, progress)
    }

    /// Deletes an image: durable on return; `ImageInUse` names its users.
    pub fn delete_image(&self, name: &Name) -> Result<()> {
        images::delete(self.context()?, name)
    }

    /// What operations work on, as long as the store is open.
    pub(crate) fn context(&self) -> Result<&Arc<Context>> {
        let context = &self.shared.context;
        if context.is_closed() { Err(Error::Closed) } else { Ok(context) }
    }
}

impl Shared {
    fn close(&self) -> Result<()> {
        if self.context.set_closed() {
            return Ok(());
        }
        self.context.jobs.close();
        self.flusher.stop();
        crate::merge::let_go(&self.context);
        // Workers clean up after themselves, under our lock.
        self.context.jobs.shut(JOBS_END_WAIT);
        let result = self.context.close_volumes();
        self.context.save_damage();
        // A snapshot that is being finished has layers to seal and labels to promote under our lock.
        drop(self.context.catalog.begin());
        self.context.disk.unlock();
        result
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!("closing the store: {error}");
        }
    }
}
