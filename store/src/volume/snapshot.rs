//! A snapshot: a chain of sealed layers, open for reading.

use super::Stat;
use super::view::View;
use crate::catalog::records::SnapshotRecord;
use crate::chain::{Chain, Chunk};
use crate::error::{Error, Result};
use crate::ids::{LayerId, VolumeId};
use crate::store::{Context, Follower};
use crate::units::BLOCK_SIZE;
use parking_lot::RwLock;
use std::any::Any;
use std::sync::Arc;

/// A snapshot, open for reading. Its content never changes.
pub struct Snapshot {
    context: Arc<Context>,
    /// Replaced as a whole when a merge changes what layers have.
    view: RwLock<Arc<Sealed>>,
    stat: Stat,
    volume: VolumeId,
    /// `SNAPSHOT/VOLUME`, for messages.
    shown: String,
}

struct Sealed {
    chain: Chain,
    size: u64,
}

impl View for Sealed {
    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn chunk(&self, chunk: u64) -> Result<Arc<Chunk>> {
        if let Some(found) = self.chain.cached(chunk) {
            return Ok(found);
        }
        let resolved = Arc::new(self.chain.resolve(chunk, None)?);
        self.chain.cache(chunk, &resolved);
        Ok(resolved)
    }

    fn try_chunk(&self, chunk: u64) -> Result<Option<Arc<Chunk>>> {
        if let Some(found) = self.chain.cached(chunk) {
            return Ok(Some(found));
        }
        let Some(resolved) = self.chain.try_resolve(chunk, None)? else { return Ok(None) };
        let resolved = Arc::new(resolved);
        self.chain.cache(chunk, &resolved);
        Ok(Some(resolved))
    }

    fn next_written(&self, chunk: u64) -> Result<Option<u64>> {
        self.chain.next_written(chunk)
    }
}

impl Snapshot {
    /// Opens the chain of a snapshot. A count that a crash left uncertain is made here.
    pub(crate) fn open(context: &Arc<Context>, record: &SnapshotRecord, chain: Chain) -> Result<Self> {
        let mut snapshot = Self::open_uncounted(context, record, chain)?;
        let Sealed { chain, size } = &*snapshot.view();
        if chain.last().is_some_and(|layer| layer.header().inexact) {
            // Counted before anybody follows merges: none of what is cached for that is used later.
            let counted = Sealed { chain: chain.afresh(), size: *size };
            snapshot.stat.data = counted.count_data(0)? * BLOCK_SIZE;
        }
        Ok(snapshot)
    }

    /// The same, without that count: what `stat` tells of data may be too much.
    pub(crate) fn open_uncounted(context: &Arc<Context>, record: &SnapshotRecord, chain: Chain) -> Result<Self> {
        let missing = Error::LayerMissing { layer: record.layer };
        let header = chain.last().ok_or(missing)?.header();
        let data_blocks = header.data_blocks;
        let view = Sealed { chain, size: header.size };
        let taken = record.created_ns.cast_signed();
        let stat = Stat {
            size: header.size,
            data: data_blocks * BLOCK_SIZE,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            atime_ns: taken,
            mtime_ns: taken,
            ctime_ns: taken,
            btime_ns: taken,
        };
        let shown = format!("{}/{}", record.set, record.taken_as);
        Ok(Self { context: Arc::clone(context), view: RwLock::new(Arc::new(view)), stat, volume: record.volume, shown })
    }

    /// See [`Chain::has_present_floors`].
    pub(crate) fn has_present_floors(&self) -> bool {
        self.view().chain.has_present_floors(false)
    }

    fn view(&self) -> Arc<Sealed> {
        Arc::clone(&self.view.read())
    }

    fn replace(&self, chain: impl FnOnce(&Chain) -> Chain) -> Arc<Sealed> {
        let mut view = self.view.write();
        let next = Arc::new(Sealed { chain: chain(&view.chain), size: view.size });
        std::mem::replace(&mut *view, next)
    }

    /// Of which volume it is.
    #[must_use]
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The layer that it shows.
    pub(crate) fn layer(&self) -> Option<LayerId> {
        self.view.read().chain.last().map(|layer| layer.id)
    }

    /// As [`super::Volume::stat`], at the time of the snapshot.
    #[must_use]
    pub fn stat(&self) -> Stat {
        self.stat
    }

    /// As [`super::Volume::read_at`].
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        loop {
            // Its chunks are shared with no other chain: there is no newer head.
            if let Some(read) = self.named(self.view().read(buf, offset))? {
                return Ok(read);
            }
        }
    }

    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::BadSum { of: None, layer, block, expected, found } => {
                let error = Error::BadSum { of: Some(format!("snapshot '{}'", self.shown)), layer, block, expected, found };
                self.context.found_bad(&error, Some(self.volume));
                error
            }
            error => error,
        })
    }

    /// As [`super::Volume::try_read_at`].
    pub fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        self.view().try_read(buf, offset)
    }

    /// As [`super::Volume::seek_data`].
    pub fn seek_data(&self, offset: u64) -> Result<u64> {
        self.view().seek_data(offset)
    }

    /// As [`super::Volume::seek_hole`].
    pub fn seek_hole(&self, offset: u64) -> Result<u64> {
        self.view().seek_hole(offset)
    }
}

impl Follower for Snapshot {
    fn layers(&self) -> Vec<LayerId> {
        self.view().chain.ids()
    }

    fn shown(&self) -> String {
        format!("open snapshot '{}'", self.shown)
    }

    fn forget(&self, _chunks: &[u64]) {
        // A resolution that is under way may be cached at any time: the next turn begins with nothing cached.
    }

    fn turn(&self) -> Arc<dyn Any + Send + Sync> {
        self.replace(Chain::afresh)
    }

    fn without(&self, gone: &[LayerId]) -> Result<()> {
        self.replace(|chain| chain.without(gone, false));
        Ok(())
    }
}
