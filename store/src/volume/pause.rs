//! A volume's part in a snapshot: writes stopped, everything flushed, then a new head on top.
//!
//! The order over all volumes of a snapshot is in `store/snapshots.rs`.

use super::Volume;
use super::live::Live;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::layer::head::Proof;
use crate::layer::{self, Head, Layer, NewLayer};
use crate::volume::Sync;
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;
use std::time::Instant;

/// Writes to a volume are stopped, and all that was written is durable. Dropping it lets writes go on.
pub(crate) struct Paused<'a> {
    volume: &'a Volume,
    _gate: RwLockWriteGuard<'a, ()>,
    live: Arc<Live>,
}

impl Volume {
    /// Beforehand, while writes go on: makes a layer that is to be a new head on the present one, and flushes what there is.
    /// Durable on return.
    pub(crate) fn prepare_head(&self, new: LayerId) -> Result<()> {
        let live = self.live();
        self.check_usable(&live)?;
        let disk = &self.context.disk;
        disk.with_reserve(|| layer::create(disk, &new_head(&live, new)))?;
        live.head.flush_times()
    }

    /// The layer under the head, if the volume shows at this moment exactly what that one does: then a clone can stand on
    /// it as well, and nothing has to be sealed.
    pub(crate) fn untouched(&self) -> Result<Option<Arc<Layer>>> {
        let live = self.live();
        self.check_usable(&live)?;
        let Some(parent) = live.chain.before_last() else { return Ok(None) };
        let (head, size) = (&live.head, parent.header().size);
        let floor = head.layer.header().floor;
        // Marks first: what a flush moves to the map in between is then found there.
        let is_empty = head.next_marked(0).is_none() && head.layer.map.next_written(0)?.is_none();
        let same = is_empty && head.size() == size && floor == size && parent.header().sealed;
        Ok(same.then(|| Arc::clone(parent)))
    }

    /// Stops writes, waits for those under way, and flushes.
    pub(crate) fn pause(&self, until: Instant, limit_ms: u64) -> Result<Paused<'_>> {
        let gate = self.gate.try_write_until(until).ok_or(Error::SnapshotTimeout { limit_ms })?;
        let live = self.live();
        self.check_usable(&live)?;
        // The layers above take what is behind the end for zeros.
        self.clean_tail_alone(&live)?;
        live.head.flush(Sync::Data)?;
        live.head.flush_times()?;
        Ok(Paused { volume: self, _gate: gate, live })
    }

    /// Stops writes for good: the head is to be replaced. Flushed if it is to be `kept`; a faulted one has nothing to
    /// flush.
    pub(crate) fn halt(&self, until: Instant, limit_ms: u64, kept: bool) -> Result<Paused<'_>> {
        if kept && !self.head().is_faulted() {
            return self.pause(until, limit_ms);
        }
        let gate = self.gate.try_write_until(until).ok_or(Error::SnapshotTimeout { limit_ms })?;
        let live = self.live();
        match self.check_usable(&live) {
            Ok(()) | Err(Error::Faulted { .. }) => Ok(Paused { volume: self, _gate: gate, live }),
            Err(error) => Err(error),
        }
    }
}

impl Paused<'_> {
    /// Brings the new head's header up to what the volume is now, durably, and opens it: what can fail, fails before
    /// the commit.
    pub fn settle(&self, new: LayerId) -> Result<Arc<Head>> {
        let layer = self.volume.context.layer(new)?;
        let now = new_head(&self.live, new);
        let header = layer.header();
        let made = (header.size, header.data_blocks, header.inexact, header.atime_ns, header.mtime_ns, header.ctime_ns);
        if made != (now.size, now.data_blocks, now.inexact, now.atime_ns, now.mtime_ns, now.ctime_ns) {
            layer.write_header(|header| {
                (header.size, header.floor, header.data_blocks, header.inexact) =
                    (now.size, now.size, now.data_blocks, now.inexact);
                (header.atime_ns, header.mtime_ns, header.ctime_ns) = (now.atime_ns, now.mtime_ns, now.ctime_ns);
            })?;
            layer.map.sync()?;
        }
        Head::open(layer).map(|(head, _)| head)
    }

    /// The layer that the snapshot seals.
    pub fn sealed(&self) -> Arc<Layer> {
        Arc::clone(&self.live.head.layer)
    }

    /// Puts the new head on top and lets writes go on; syncs of it wait for `proof`. The snapshot is committed.
    pub fn swap(self, head: Arc<Head>, proof: &Arc<Proof>) {
        head.wait_for(proof);
        let chain = self.live.chain.with_head(Arc::clone(&head.layer));
        *self.volume.live.write() = Arc::new(Live { chain, head });
    }

    /// Puts another chain in the place of the present one and lets writes go on, into its head; syncs of it wait for `proof`.
    /// The change is committed.
    pub fn replace(self, chain: Chain, head: Arc<Head>, proof: &Arc<Proof>) {
        head.wait_for(proof);
        *self.volume.live.write() = Arc::new(Live { chain, head });
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.live.head.size()
    }

    /// The chain as it is, with the head on top.
    pub fn chain(&self) -> &Chain {
        &self.live.chain
    }

    /// It is not known whether the snapshot was committed: the volume takes no more changes until the store is opened
    /// again, since they would go to a layer that may be the snapshot's.
    pub fn stop(&self) {
        self.volume.closed.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

fn new_head(live: &Live, id: LayerId) -> NewLayer {
    let (atime_ns, mtime_ns, ctime_ns) = live.head.times();
    let inexact = live.head.is_inexact();
    NewLayer {
        id,
        parent: Some(live.head.layer.id),
        size: live.head.size(),
        data_blocks: live.head.counted_data_blocks(),
        inexact,
        atime_ns,
        mtime_ns,
        ctime_ns,
    }
}
