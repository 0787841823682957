//! Everything that is open and reads through a chain of layers: what a merge must take along.
//!
//! A merge moves blocks between two layers and then takes one of them out of the chains. It may do so only if every open
//! chain that has the one has the other too, and it must be followed by all of them. So nothing reads through a chain that
//! isn't registered here, and what registers shows, under the registry's lock, that its layers are still those of the
//! catalog: a merge's commit comes before its look at the registry.

use crate::error::Result;
use crate::ids::LayerId;
use parking_lot::Mutex;
use std::any::Any;
use std::sync::{Arc, Weak};

/// Reads through a chain of layers.
pub(crate) trait Follower: Send + Sync {
    /// The layers of its chain, root first.
    fn layers(&self) -> Vec<LayerId>;

    /// What it is, for messages.
    fn shown(&self) -> String;

    /// Forgets where the blocks of these chunks are. The maps say it durably by now.
    fn forget(&self, chunks: &[u64]);

    /// Begins a new turn: what was begun before holds the returned reference until it ends.
    fn turn(&self) -> Arc<dyn Any + Send + Sync>;

    /// Takes layers out of the chain, and looks at the floors of the others again.
    fn without(&self, gone: &[LayerId]) -> Result<()>;
}

/// The open chains of a store.
#[derive(Default)]
pub(crate) struct Registry {
    open: Mutex<Vec<Weak<dyn Follower>>>,
}

impl Registry {
    /// Registers, if `is_current` (asked under the lock) says that its layers are still the right ones.
    pub fn register(&self, follower: Weak<dyn Follower>, is_current: impl FnOnce() -> bool) -> bool {
        let mut open = self.open.lock();
        if !is_current() {
            return false;
        }
        // As many as there are dead ones at most are kept too long: room is made when the list would grow.
        if open.len() == open.capacity() {
            open.retain(|weak| weak.strong_count() > 0);
        }
        open.push(follower);
        true
    }

    /// Who has `layer` in the chain.
    pub fn with(&self, layer: LayerId) -> Vec<Arc<dyn Follower>> {
        let open: Vec<_> = self.open.lock().iter().filter_map(Weak::upgrade).collect();
        open.into_iter().filter(|follower| follower.layers().contains(&layer)).collect()
    }
}

/// Waits until everything that these followers began before this call has ended.
pub(crate) fn wait_for_earlier(followers: &[Arc<dyn Follower>], stop: &dyn Fn() -> bool) -> bool {
    let turns: Vec<_> = followers.iter().map(|follower| follower.turn()).collect();
    turns.iter().all(|turn| {
        let mut pause = std::time::Duration::from_micros(50);
        while Arc::strong_count(turn) > 1 {
            if stop() {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(std::time::Duration::from_millis(5));
        }
        true
    })
}
