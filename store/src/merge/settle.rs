//! Down, where the upper layer is a head: in the end the lower layer is the head.
//!
//! While the head holds much, it is sealed (a new, nameless layer below a new head), which is then merged down like any
//! other; what was written meanwhile is less each time. The rest is moved with writes stopped:
//!
//! 1. intents in the labels, durable — nothing has changed
//! 2. writes stopped, the head flushed; its blocks copied down, the lower layer's header made a head's, all durable — nobody
//!    sees the lower layer's blocks where the head has its own; an open that finds it like this seals it again
//! 3. **one catalog commit**: the lower layer is the head, the upper one is dropped
//! 4. chains swapped, writes go on into the lower layer; syncs wait for step 5
//! 5. one label promoted; then the others

use super::{Ended, Work};
use crate::catalog::records::{Change, LayerRecord, VolumeRecord};
use crate::error::{Error, Result};
use crate::layer::Head;
use crate::store::{EventKind, seal_head};
use crate::units::BLOCK_SIZE;
use crate::volume::{Paused, Sync, Volume};
use std::sync::Arc;
use std::time::Instant;

/// Blocks that are moved with writes stopped: 32 MiB, and more after some rounds, up to 256 MiB.
const LAST_MAX: u64 = if cfg!(test) { 24 } else { 8192 };
const GROWING_ROUNDS: u32 = 3;
/// After so many rounds whoever writes is faster than the merge: then everything goes up.
const ROUNDS_MAX: u32 = 8;

impl Work<'_> {
    /// Whether it is worth trying, and there is room for one more layer.
    pub(super) fn may_settle(&self) -> bool {
        let layers = self.context.catalog.read().chain(self.upper.id).len();
        self.rounds() < ROUNDS_MAX && layers < crate::units::MAX_LAYERS
    }

    fn rounds(&self) -> u32 {
        self.context.merging.rounds.lock().get(&self.lower.id).copied().unwrap_or(0)
    }

    /// Moves the head of `volume` into the lower layer, or, if it holds too much for that, seals it.
    pub(super) fn settle(&self, volume: &Arc<Volume>) -> Result<Ended> {
        // The layers in between are named in no record that this changes: they go first.
        if !self.drained.is_empty() {
            return Ok(Ended::Again);
        }
        volume.sync(Sync::All)?;
        let limit = LAST_MAX << self.rounds().min(GROWING_ROUNDS);
        if self.upper.count_data()? > limit {
            *self.context.merging.rounds.lock().entry(self.lower.id).or_default() += 1;
            seal(self, volume)?;
            return Ok(Ended::Again);
        }
        if !self.is_pair() {
            return Ok(Ended::Changed);
        }
        self.cut_lower()?;
        self.point()?;
        let _alone = self.context.upkeep_lock.lock();
        // As a head it has none. Before writes are stopped.
        self.lower.sums().remove()?;
        // Nor has it marks: what is there was left behind when it was sealed, or came back after power loss.
        self.lower.forget_marks()?;
        match self.swap(volume, limit) {
            Ok(ended) => {
                self.context.merging.rounds.lock().remove(&self.lower.id);
                Ok(ended)
            }
            Err(error) => {
                // Unless it is the head, or may be: then nobody seals it.
                if !volume.is_closed()
                    && self.context.catalog.read().volumes.get(&volume.id()).is_some_and(|now| now.head == Some(self.upper.id))
                {
                    self.lower.write_header(|header| header.sealed = true)?;
                    self.lower.map.sync()?;
                }
                Err(error)
            }
        }
    }

    fn swap(&self, volume: &Arc<Volume>, blocks: u64) -> Result<Ended> {
        let context = self.context;
        let operation = context.catalog.begin();
        let state = operation.read();
        let Some(record) = state.volumes.get(&volume.id()).filter(|record| record.head == Some(self.upper.id)).cloned() else {
            return Ok(Ended::Changed);
        };
        let Some(lower) = state.layers.get(&self.lower.id).copied() else { return Ok(Ended::Changed) };
        if !super::pairs::is_pair(&state, self.lower.id, self.upper.id, &[]) || volume.is_stale() {
            return Ok(Ended::Changed);
        }
        let mut changes = vec![
            Change::PutLayer(LayerRecord { revision: lower.revision + 1, ..lower }),
            Change::PutVolume(VolumeRecord { head: Some(lower.id), ..record.clone() }),
        ];
        let others = state.members_with(self.lower.id).into_iter().filter(|member| changes[1].member() != Some(*member));
        changes.extend(others.filter_map(|member| state.touched(member)).collect::<Vec<_>>());
        changes.push(Change::DropLayer(self.upper.id));
        drop(state);
        let prepared = operation.prepare(changes)?;

        let limit = context.options.snapshot_pause;
        let paused = volume.pause(Instant::now() + limit, u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))?;
        if paused.sealed().id != self.upper.id || self.upper.count_data()? > 2 * blocks {
            return Ok(Ended::Changed);
        }
        let head = self.take_place(lower.revision + 1)?;
        self.point()?;
        let chain = paused.chain().without(&[self.upper.id], false);
        let unproven = context.unproven();
        let committed = prepared.commit().inspect_err(|error| in_doubt(self, &paused, error))?;
        paused.replace(chain, head, &unproven.proof);
        if let Err(error) = committed.prove() {
            tracing::error!("a label of volume '{}' could not be promoted: {error}", volume.name());
        }
        drop(unproven);
        committed.promote()?;
        context.drop_layers([self.upper.id]);
        Ok(Ended::Settled)
    }

    /// Step 2, with writes stopped and everything flushed.
    fn take_place(&self, revision: u64) -> Result<Arc<Head>> {
        // It may have been shrunk since.
        let upper = self.upper.header();
        self.lower.write_header(|header| {
            (header.size, header.floor) = (upper.size, header.floor.min(upper.floor));
        })?;
        self.point()?;
        self.lower.map.truncate(crate::units::blocks_of(upper.floor))?;
        let mut at = 0;
        while let Some(from) = self.upper.map.next_written(at)? {
            let (moves, end) = self.gather_down(from, super::STEP_MAX)?;
            if !moves.chunks.is_empty() {
                self.copy_down(&moves)?;
                self.moved(&self.upper, &moves.data);
            }
            at = end;
        }
        self.lower.write_header(|header| {
            (header.data_blocks, header.inexact) = (upper.data_blocks, upper.inexact);
            (header.atime_ns, header.mtime_ns, header.ctime_ns) = (upper.atime_ns, upper.mtime_ns, upper.ctime_ns);
            header.revision = revision;
            // Last: a rebuild of a lost catalog takes it for the head by this.
            header.sealed = false;
        })?;
        self.lower.map.sync()?;
        self.point()?;
        let (head, _) = Head::open(Arc::clone(&self.lower))?;
        // What lies behind its end is not zeros by itself: another head's end was elsewhere.
        if !upper.size.is_multiple_of(BLOCK_SIZE) {
            head.clear_tail()?;
        }
        Ok(head)
    }
}

fn in_doubt(work: &Work<'_>, paused: &Paused<'_>, error: &Error) {
    paused.stop();
    let message = format!(
        "it is not known whether a merge into layer {} was committed ({error}); \
         its volume takes no more writes until the store is opened again",
        work.lower.id
    );
    work.context.event(EventKind::Damage, message);
}

/// Seals the head, if it still is the upper layer.
fn seal(work: &Work<'_>, volume: &Volume) -> Result<()> {
    let operation = work.context.catalog.begin();
    let record = operation.read().volumes.get(&volume.id()).filter(|record| record.head == Some(work.upper.id)).cloned();
    match record {
        Some(record) => seal_head(work.context, operation, volume, record, || Ok(())),
        None => Ok(()),
    }
}
