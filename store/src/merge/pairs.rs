//! What is to be merged, by the catalog's state, and what has to wait.

use super::Pair;
use crate::catalog::state::State;
use crate::error::Error;
use crate::ids::LayerId;
use crate::store::Context;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Why a pair waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Somebody has the lower layer open without the upper one.
    Holder(String),
    /// An attempt failed; the next one is made when the store is opened again.
    Error(String),
    /// There was no room, or writes could not be stopped in time, then: it is tried again after a while.
    Later(String, Instant),
}

/// Time until an attempt for which there was no room is made again.
const RETRY: Duration = Duration::from_secs(10);

impl Waiting {
    pub fn is_error(&self) -> bool {
        matches!(self, Waiting::Error(_) | Waiting::Later(..))
    }

    /// Whether only another open tries again.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Waiting::Error(_))
    }

    /// What an attempt's error means for the next one. After a failed sync nobody knows what the disk has.
    pub fn after(error: &Error) -> Self {
        let is_sync = matches!(error, Error::Io { attempt: "syncing", .. });
        match error.errno() {
            Errno::NOSPC | Errno::DQUOT | Errno::TIMEDOUT if !is_sync => Waiting::Later(error.to_string(), Instant::now()),
            _ => Waiting::Error(error.to_string()),
        }
    }

    /// Whether it has waited long enough for another attempt.
    fn is_over(&self) -> bool {
        matches!(self, Waiting::Later(_, since) if since.elapsed() >= RETRY)
    }
}

/// Runs of layers, lowest first: all but the last are nameless, and each is the only child of the one before.
pub(super) fn runs(state: &State) -> Vec<Vec<LayerId>> {
    let named = state.named_layers();
    let only_child = |layer: LayerId| if state.child_count(layer) == 1 { state.children(layer).next() } else { None };
    let mergeable = |layer: LayerId| !named.contains(&layer) && state.child_count(layer) == 1;
    let mut runs = Vec::new();
    for layer in state.layers.values() {
        let continues = layer.parent.is_some_and(mergeable);
        if !mergeable(layer.id) || continues {
            continue;
        }
        let mut run = vec![layer.id];
        let mut next = only_child(layer.id);
        while let Some(layer) = next {
            run.push(layer);
            next = only_child(layer).filter(|_| mergeable(layer));
        }
        runs.push(run);
    }
    runs
}

/// Whether `lower` is nameless and `upper` the one thing that stands on it, drained layers in between aside.
pub(super) fn is_pair(state: &State, lower: LayerId, upper: LayerId, drained: &[LayerId]) -> bool {
    let named = state.named_layers();
    let mut at = lower;
    loop {
        if named.contains(&at) || state.child_count(at) != 1 {
            return false;
        }
        let Some(child) = state.children(at).next() else { return false };
        if child == upper {
            return true;
        }
        if !drained.contains(&child) {
            return false;
        }
        at = child;
    }
}

/// Whether nobody has the lower layer of a pair open without the upper one; else the holder is noted.
pub(super) fn may_merge(context: &Context, pair: Pair) -> bool {
    let mut waiting = context.merging.waiting.lock();
    if waiting.get(&pair).is_some_and(|why| why.is_error() && !why.is_over()) {
        return false;
    }
    let holders = context.registry.with(pair.lower);
    let holder = holders.iter().find(|holder| !holder.layers().contains(&pair.upper)).map(|holder| holder.shown());
    let holder = holder.or_else(|| unsealed(context, pair));
    match holder {
        Some(holder) => {
            waiting.insert(pair, Waiting::Holder(holder));
            false
        }
        None => {
            waiting.remove(&pair);
            true
        }
    }
}

/// Why pairs wait, a line each, for people.
pub(crate) fn waiting(context: &Context) -> Vec<String> {
    let waiting = context.merging.waiting.lock().clone();
    let state = context.catalog.read();
    let line = |(pair, why): (&Pair, &Waiting)| {
        let above = state.named_as(pair.upper).unwrap_or_else(|| format!("layer {}", pair.upper));
        match why {
            Waiting::Holder(holder) => format!("a layer below {above} is held by {holder}"),
            Waiting::Error(error) | Waiting::Later(error, _) => format!("a layer below {above} could not be merged: {error}"),
        }
    };
    waiting.iter().map(line).collect()
}

/// Who has not sealed one of the two yet, other than a volume by being written.
fn unsealed(context: &Context, pair: Pair) -> Option<String> {
    let is_sealed = |id| context.layer(id).is_ok_and(|layer| layer.header().sealed);
    let is_head = || context.catalog.read().volumes.values().any(|volume| volume.head == Some(pair.upper));
    if !is_sealed(pair.lower) {
        Some("a snapshot that is being taken".to_owned())
    } else if !is_sealed(pair.upper) && !is_head() {
        Some("a deleted volume that is still open".to_owned())
    } else {
        None
    }
}
