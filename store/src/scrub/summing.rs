//! Making sums in the background: the oldest sealed layer first, a step at a time.
//!
//! Layers that nothing names and one layer stands on are left out: they are about to be merged away, and of what their child
//! shadows only the merge knows what it is.

use crate::catalog::state::State;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::layer::sums::Step;
use crate::store::{Context, EventKind};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Bytes that a step reads, about.
const STEP_BYTES: u64 = 16 << 20;
/// How long a layer is left alone after an error.
const RETRY: Duration = Duration::from_secs(60);
/// Bytes of sums that a step may write, about.
const STEP_SUMS_BYTES: u64 = 1 << 20;
/// Chunks that could not be read that are told.
const TOLD_MAX: usize = 20;

/// What the upkeep's thread knows of summing.
#[derive(Default)]
pub(crate) struct Summing {
    known: BTreeMap<LayerId, Known>,
    /// As of when: [`crate::layer::SumsCache::lost`].
    lost: u64,
    /// What was told of.
    told: BTreeSet<(LayerId, u64)>,
}

/// What is known of a layer.
enum Known {
    Complete,
    /// It goes on at this chunk; whether some before it could not be read.
    At(u64, bool),
    /// It is left alone for a while.
    Failed(Instant),
}

impl Summing {
    /// One step, of the oldest layer that needs it; whether there is more to do. The caller has the upkeep's lock.
    pub fn step(&mut self, context: &Context) -> bool {
        let lost = context.disk.sums.lost();
        if lost != self.lost {
            // A merge took sums away somewhere.
            self.lost = lost;
            self.known.retain(|_, known| !matches!(known, Known::Complete));
        }
        let layers = sealed_layers(&context.catalog.read());
        self.known.retain(|layer, _| layers.contains(layer));
        for layer in layers {
            let (chunk, skipped) = match self.known.get(&layer) {
                Some(Known::Complete) => continue,
                Some(Known::Failed(when)) if when.elapsed() < RETRY => continue,
                Some(Known::At(chunk, skipped)) => (*chunk, *skipped),
                Some(Known::Failed(_)) | None => (0, false),
            };
            let known = match self.sum(context, layer, chunk, skipped) {
                Ok(Some(known)) => known,
                // Its snapshot is just being taken.
                Ok(None) => continue,
                Err(error) => {
                    // A full disk is told by others.
                    if error.errno() != Errno::NOSPC {
                        self.tell(context, (layer, u64::MAX), &error);
                    }
                    Known::Failed(Instant::now())
                }
            };
            let worked = matches!(known, Known::At(..));
            self.known.insert(layer, known);
            if worked {
                return true;
            }
        }
        false
    }

    fn sum(&mut self, context: &Context, id: LayerId, chunk: u64, skipped: bool) -> Result<Option<Known>> {
        let layer = context.layer(id)?;
        let sums = layer.sums();
        if !layer.header().sealed {
            return Ok(None);
        }
        if sums.are_complete() {
            return Ok(Some(Known::Complete));
        }
        // What makes them is not to be what fills the disk.
        context.disk.gauge.take(STEP_SUMS_BYTES)?;
        Ok(Some(match sums.make(chunk, STEP_BYTES, !skipped)? {
            Step::At(chunk) => Known::At(chunk, skipped),
            Step::Complete => Known::Complete,
            Step::Done => Known::Failed(Instant::now()),
            Step::Failed { chunk, error } => {
                self.tell(context, (id, chunk), &error);
                Known::At(chunk + 1, true)
            }
        }))
    }

    /// Once for each chunk of a layer.
    fn tell(&mut self, context: &Context, place: (LayerId, u64), error: &Error) {
        if self.told.len() < TOLD_MAX && self.told.insert(place) {
            context.event(EventKind::Damage, format!("making the sums of layer {}: {error}", place.0));
        }
    }
}

/// Layers that may have sums, the oldest first.
fn sealed_layers(state: &State) -> Vec<LayerId> {
    let named = state.named_layers();
    let heads: BTreeSet<_> = state.volumes.values().filter_map(|volume| volume.head).collect();
    let may = |id: &&LayerId| !heads.contains(id) && (named.contains(id) || state.child_count(**id) > 1);
    // Their ids are in the order of their making.
    state.layers.keys().filter(may).copied().collect()
}
