//! Making sums in the background: the oldest sealed layer first, a step at a time.
//!
//! Layers that nothing names and one layer stands on are left out: they are about to be merged away, and of what their child
//! shadows only the merge knows what it is.

use crate::catalog::state::State;
use crate::error::Result;
use crate::ids::LayerId;
use crate::layer::sums::Step;
use crate::store::{Context, EventKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Bytes that a step reads, about.
const STEP_BYTES: u64 = 16 << 20;
/// How long a layer is left alone after an error.
const RETRY: Duration = Duration::from_secs(60);

/// What the upkeep's thread knows of summing.
#[derive(Default)]
pub(crate) struct Summing {
    known: BTreeMap<LayerId, Known>,
    /// As of when: [`crate::layer::SumsCache::lost`].
    lost: u64,
}

/// What is known of a layer.
enum Known {
    Complete,
    /// It goes on at this chunk.
    At(u64),
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
            let chunk = match self.known.get(&layer) {
                Some(Known::Complete) => continue,
                Some(Known::Failed(when)) if when.elapsed() < RETRY => continue,
                Some(Known::At(chunk)) => *chunk,
                Some(Known::Failed(_)) | None => 0,
            };
            let known = match sum(context, layer, chunk) {
                Ok(Some(known)) => known,
                // Its snapshot is just being taken.
                Ok(None) => continue,
                Err(error) => {
                    context.event(EventKind::Damage, format!("making the sums of layer {layer}: {error}"));
                    Known::Failed(Instant::now())
                }
            };
            let worked = matches!(known, Known::At(_));
            self.known.insert(layer, known);
            if worked {
                return true;
            }
        }
        false
    }
}

/// Layers that may have sums, the oldest first.
fn sealed_layers(state: &State) -> Vec<LayerId> {
    let named = state.named_layers();
    let heads: std::collections::BTreeSet<_> = state.volumes.values().filter_map(|volume| volume.head).collect();
    let may = |id: &&LayerId| !heads.contains(id) && (named.contains(id) || state.child_count(**id) > 1);
    // Their ids are in the order of their making.
    state.layers.keys().filter(may).copied().collect()
}

fn sum(context: &Context, id: LayerId, chunk: u64) -> Result<Option<Known>> {
    let layer = context.layer(id)?;
    let sums = layer.sums();
    if !layer.header().sealed {
        return Ok(None);
    }
    if sums.are_complete() {
        return Ok(Some(Known::Complete));
    }
    Ok(Some(match sums.make(chunk, STEP_BYTES)? {
        Step::At(chunk) => Known::At(chunk),
        Step::Complete => Known::Complete,
    }))
}
