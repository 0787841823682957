//! How an open volume follows a merge of layers in its chain.

use super::Volume;
use super::live::Live;
use crate::error::Result;
use crate::ids::LayerId;
use crate::store::Follower;
use std::any::Any;
use std::sync::Arc;

impl Follower for Volume {
    fn layers(&self) -> Vec<LayerId> {
        self.live().chain.ids()
    }

    fn shown(&self) -> String {
        let deleted = if self.is_deleted() { "deleted volume" } else { "volume" };
        format!("{deleted} '{}'", self.shown_name())
    }

    fn forget(&self, chunks: &[u64]) {
        let live = self.live();
        for chunk in chunks {
            // A resolution that was begun before the maps changed is cached by the time that its stripe is free.
            let _stripe = self.stripes.of(*chunk).lock();
            live.chain.forget(*chunk);
        }
    }

    fn turn(&self) -> Arc<dyn Any + Send + Sync> {
        let mut live = self.live.write();
        let next = Arc::new(Live { chain: live.chain.again(), head: Arc::clone(&live.head) });
        let before: Arc<Live> = std::mem::replace(&mut *live, next);
        before
    }

    fn without(&self, gone: &[LayerId]) -> Result<()> {
        // Marks are applied to what is cached for the chain that a writer has: none may be under way.
        let _gate = self.gate.write();
        let live = self.live();
        let chain = live.chain.without(gone, true);
        *self.live.write() = Arc::new(Live { chain, head: Arc::clone(&live.head) });
        Ok(())
    }
}
