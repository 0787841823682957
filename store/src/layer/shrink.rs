//! Shrinking a head.
//!
//! The order, and what a crash after each step leaves:
//!
//! 1. the block that the new end cuts is made data of this layer, with its content unchanged; flush — same view
//! 2. a header with the new size and floor and `trim` set, synced — **the commit point**: smaller
//! 3. states and data beyond the end are cut off, the tail of the last block zeroed, all synced — `trim` is still
//!    set, so the next open does this again
//! 4. a header without `trim`, not synced: before the file can grow again, so that an open after SIGKILL cuts off
//!    nothing that was written since. After power loss the old header may be there: then nothing beyond the end was
//!    flushed, since a flush writes the header, too

use super::Layer;
use super::head::Head;
use super::marks::Marks;
use super::states::State;
use crate::error::Result;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, ZEROS, blocks_of};

impl Layer {
    /// Step 3, also of a shrink that a crash interrupted. Durable on return.
    pub fn finish_shrink(&self) -> Result<()> {
        let size = self.header().size;
        let blocks = blocks_of(size);
        self.map.truncate(blocks)?;
        self.map.sync()?;
        self.data.truncate(blocks * BLOCK_SIZE)?;
        let used = size % BLOCK_SIZE;
        if used != 0 {
            let last = size / BLOCK_SIZE;
            if self.map.read_chunk(last / CHUNK_BLOCKS)?.get((last % CHUNK_BLOCKS) as usize) == State::Data {
                self.data.write(&[&ZEROS[used as usize..]], size)?;
                self.data.sync()?;
            }
        }
        Ok(())
    }
}

impl Head {
    /// Steps 2 to 4: makes the file smaller, durably. Everything before was flushed, nobody else changes the head,
    /// and the block at the new end, if it is cut, has a state in this layer.
    ///
    /// `data_blocks` is what the chain shows below `size`. A failure after the commit faults the volume: what the
    /// files hold is then settled by the next open.
    pub fn shrink(&self, size: u64, data_blocks: u64, now_ns: i64) -> Result<()> {
        self.between_flushes(|| {
            self.await_proof();
            if self.is_faulted() {
                return Err(self.fault_error());
            }
            self.try_shrink(size, data_blocks, now_ns).inspect_err(|error| self.fail(error))
        })
    }

    fn try_shrink(&self, size: u64, data_blocks: u64, now_ns: i64) -> Result<()> {
        let mut state = self.state.lock();
        let floor = state.floor.min(size);
        let inexact = state.inexact;
        // Readers first: whoever reads what is being cut off finds a new end, or a new chain, when it looks again.
        // Also if this fails: the end is not known then, and what is behind the new one is not believed.
        state.marks = Marks::default();
        state.allocated.clear();
        state.punches.clear();
        (state.size, state.floor, state.data_blocks) = (size, floor, data_blocks);
        (state.mtime_ns, state.ctime_ns) = (now_ns, now_ns);
        state.header_changed = true;
        self.mirror(&state);
        self.layer.write_header(|header| {
            (header.size, header.floor, header.data_blocks, header.inexact) = (size, floor, data_blocks, inexact);
            (header.mtime_ns, header.ctime_ns) = (now_ns, now_ns);
            header.trim = true;
        })?;
        self.layer.map.sync()?;
        self.layer.finish_shrink()?;
        self.layer.write_header(|header| header.trim = false)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::super::head::{Effect, Head, Run};
    use super::super::{Layer, NewLayer, create};
    use super::*;
    use crate::disk::Disk;
    use crate::ids::LayerId;
    use crate::store::StoreOptions;

    #[test]
    fn what_is_written_after_an_interrupted_shrink_was_finished_survives_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let (disk, _) = Disk::open(&dir.path().join("store"), &options).unwrap();
        let id = LayerId::new();
        let new =
            NewLayer { id, parent: None, size: 4096, data_blocks: 0, atime_ns: 0, mtime_ns: 0, ctime_ns: 0, inexact: false };
        create(&disk, &new).unwrap();
        // The power failed between steps 2 and 4.
        let layer = Layer::open(&disk, id).unwrap();
        layer.write_header(|header| header.trim = true).unwrap();
        layer.map.sync().unwrap();
        drop(layer);

        let (head, repaired) = Head::open(Layer::open(&disk, id).unwrap()).unwrap();
        assert!(repaired.trimmed);
        head.layer.data.write(&[&[7; 4096]], 100 * BLOCK_SIZE).unwrap();
        let run = Run { start: 100, count: 1, state: State::Data };
        head.mark(&[run], Effect { grow_to: 101 * BLOCK_SIZE, data_blocks: 1, mtime_ns: Some(1) }).unwrap();
        drop(head);

        let (head, repaired) = Head::open(Layer::open(&disk, id).unwrap()).unwrap();
        assert!(!repaired.trimmed && repaired.marks == 1);
        let mut found = [0; 4096];
        head.layer.data.read(&mut found, 100 * BLOCK_SIZE).unwrap();
        assert_eq!(found, [7; 4096]);
        assert_eq!(head.layer.map.read_chunk(0).unwrap().get(100), State::Data);
    }
}
