//! Copying blocks between layers: to the same place, without passing through this process where the kernel can.

use crate::error::Result;
use crate::layer::Layer;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use std::ops::Range;

/// Copies the bytes of `blocks`, which are data in `from`. On a full disk the reserve is used.
pub(crate) fn bytes(from: &Layer, to: &Layer, blocks: &[Range<u64>]) -> Result<()> {
    for run in blocks {
        let (offset, length) = (run.start * BLOCK_SIZE, (run.end - run.start) * BLOCK_SIZE);
        to.disk.with_reserve(|| to.data.copy_from(&from.data, offset, length))?;
    }
    Ok(())
}

/// Takes the sums of blocks away that are about to be overwritten, durably.
pub(super) fn clear_sums(of: &Layer, blocks: &[Range<u64>]) -> Result<()> {
    let sums = of.sums();
    if !sums.exist() {
        return Ok(());
    }
    let mut changed = false;
    for run in blocks {
        if sums.get(run.clone())?.iter().any(Option::is_some) {
            sums.put(run.start, &vec![None; count(run)])?;
            changed = true;
        }
    }
    if changed { sums.sync() } else { Ok(()) }
}

/// Gives blocks the sums that they have in the layer that they come from: what was damaged there is seen here.
pub(super) fn sums(from: &Layer, to: &Layer, blocks: &[Range<u64>]) -> Result<()> {
    if !from.sums().exist() && !to.sums().exist() {
        // Nothing to carry along; but what gets blocks without sums has no longer a sum of each.
        return if blocks.is_empty() { Ok(()) } else { to.sums().set_complete(false) };
    }
    for run in blocks {
        let known = if from.sums().exist() { from.sums().get(run.clone())? } else { vec![None; count(run)] };
        to.sums().put(run.start, &known)?;
    }
    to.sums().sync()
}

/// Gives the space of whole chunks back, which nobody reads from this layer any more. What can't be given back now goes with
/// the layer.
pub(super) fn punch(layer: &Layer, chunks: &[u64]) {
    for together in chunks.chunk_by(|a, b| a + 1 == *b) {
        let (offset, length) = (together[0] * CHUNK_BLOCKS * BLOCK_SIZE, together.len() as u64 * CHUNK_BLOCKS * BLOCK_SIZE);
        if let Err(error) = layer.data.punch(offset, length) {
            tracing::warn!(layer = %layer.id, "a merge could not give space back yet: {error}");
        }
    }
}

/// Gives the space of blocks back that read zeros now.
pub(super) fn punch_zeros(layer: &Layer, blocks: &[Range<u64>]) {
    for run in blocks {
        if let Err(error) = layer.data.punch(run.start * BLOCK_SIZE, (run.end - run.start) * BLOCK_SIZE) {
            tracing::warn!(layer = %layer.id, "zeros keep their space: {error}");
        }
    }
}

fn count(run: &Range<u64>) -> usize {
    (run.end - run.start) as usize
}

/// Adds a block to a list of runs that grows at its end.
pub(super) fn add(runs: &mut Vec<Range<u64>>, block: u64) {
    match runs.last_mut() {
        Some(run) if run.end == block => run.end += 1,
        _ => runs.push(block..block + 1),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::ids::LayerId;
    use crate::layer::{NewLayer, create};
    use crate::store::StoreOptions;

    /// An empty layer has a sum of each of its blocks, and no file of them.
    #[test]
    fn a_layer_that_gets_blocks_without_sums_is_not_called_summed_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let (disk, _) = Disk::open(&dir.path().join("store"), &options).unwrap();
        let layer = || {
            let id = LayerId::new();
            let new =
                NewLayer { id, parent: None, size: 8192, data_blocks: 0, inexact: false, atime_ns: 0, mtime_ns: 0, ctime_ns: 0 };
            create(&disk, &new).unwrap();
            let layer = Layer::open(&disk, id).unwrap();
            layer.seal().unwrap();
            layer
        };
        let (from, to) = (layer(), layer());
        to.sums().set_complete(true).unwrap();
        sums(&from, &to, &[]).unwrap();
        assert!(to.sums().are_complete(), "it got none");
        sums(&from, &to, std::slice::from_ref(&(0..2))).unwrap();
        assert!(!to.sums().are_complete());
        assert!(!to.map.read_header().unwrap().summed, "on the disk, too");
    }
}
