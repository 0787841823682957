//! Counting the blocks that a volume shows, after a crash made the count uncertain.
//!
//! Writes go on meanwhile: chunks that change are counted again, the last few with writes stopped.

use super::Volume;
use super::live::LiveView;
use super::view::View;
use crate::error::Result;
use std::collections::BTreeMap;

/// Chunks that may be left for the pass with writes stopped.
const LAST_PASS_MAX: usize = 64;

impl Volume {
    /// Counts, if that is needed. `stop` is asked now and then.
    pub(crate) fn count(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        while self.live().head.is_inexact() && !stop() {
            if self.count_once(stop)? {
                break;
            }
        }
        Ok(())
    }

    /// One try; `false` if a snapshot or a shrink came in between.
    fn count_once(&self, stop: &dyn Fn() -> bool) -> Result<bool> {
        let live = self.live();
        let view = LiveView { volume: self, live: &live };
        live.head.start_counting();
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut next = view.next_written(0)?;
        while let Some(chunk) = next {
            if stop() {
                return Ok(true);
            }
            counts.insert(chunk, view.chunk(chunk)?.count_data());
            next = view.next_written(chunk + 1)?;
        }
        loop {
            let changed = live.head.take_changed();
            let last_pass = changed.len() <= LAST_PASS_MAX;
            // Marks are made under the gate: with it held, what has changed by now is all there is.
            let gate = last_pass.then(|| self.gate.write());
            let changed = changed.into_iter().chain(if last_pass { live.head.take_changed() } else { Default::default() });
            if !live.is_same(&self.live()) {
                return Ok(false);
            }
            for chunk in changed {
                counts.insert(chunk, view.chunk(chunk)?.count_data());
            }
            if last_pass {
                live.head.set_data_blocks(counts.values().sum());
                drop(gate);
                return Ok(true);
            }
        }
    }
}
