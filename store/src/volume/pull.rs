//! Pulling blocks up from a layer that is being merged into the head: a copy-up that nobody asked for.

use super::Volume;
use super::live::LiveView;
use super::view::View;
use crate::chain::runs;
use crate::error::Result;
use crate::ids::LayerId;
use crate::layer::Layer;
use crate::layer::head::{Effect, Run};
use crate::layer::states::State;
use crate::units::blocks_of;
use std::ops::Range;

impl Volume {
    /// Makes the blocks of `chunk` that `lower` has and the head does not the head's own, content and times unchanged:
    /// `data` and `zeros` are the runs of blocks in these states there. Known on return as after a write, not durable. Gives
    /// the blocks that were copied; none at all if `head` isn't the head any more.
    pub(crate) fn pull_up(
        &self,
        lower: &Layer,
        head: LayerId,
        chunk: u64,
        data: &[Range<u64>],
        zeros: &[Range<u64>],
    ) -> Result<Option<Vec<Range<u64>>>> {
        let _gate = self.gate.read();
        let live = self.live();
        if live.head.layer.id != head {
            return Ok(None);
        }
        self.check_usable(&live)?;
        live.head.begin()?;
        let Some(place) = live.chain.place_of(lower.id) else { return Ok(None) };
        let view = LiveView { volume: self, live: &live };
        let mut copied = Vec::new();
        for wanted in data {
            let _range = live.head.ranges.lock(wanted.clone());
            let resolved = view.chunk(chunk)?;
            for run in runs(&resolved, wanted.clone()).filter(|run| run.place == place) {
                let blocks = run.block..run.block + run.count;
                crate::merge::copy_bytes(lower, &live.head.layer, std::slice::from_ref(&blocks))?;
                view.mark(Some(Run { start: run.block, count: run.count, state: State::Data }), Effect::default())?;
                copied.push(blocks);
            }
        }
        // Behind the end there are zeros anyway, and states have no place there.
        let end = blocks_of(live.head.size());
        for zero in zeros.iter().map(|zero| zero.start..zero.end.min(end)).filter(|zero| !zero.is_empty()) {
            let _range = live.head.ranges.lock(zero.clone());
            let resolved = view.chunk(chunk)?;
            for run in runs(&resolved, zero.clone()).filter(|run| run.place == 0) {
                view.mark(Some(Run { start: run.block, count: run.count, state: State::Zero }), Effect::default())?;
            }
        }
        Ok(Some(copied))
    }
}
