//! What changed between two snapshots of a volume, or since one.

use super::{Context, Store};
use crate::catalog::records::SnapshotRecord;
use crate::chain::Diff;
use crate::error::{Error, Noun, Result};
use crate::name::Name;
use crate::units::BLOCK_SIZE;
use std::ops::Range;

/// Sizes of the two sides of a diff, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffSizes {
    /// Of the first side.
    pub a: u64,
    /// Of the second.
    pub b: u64,
}

impl Store {
    /// Gives every byte range in which snapshot `b` of a volume (or, without it, the volume as it is now) may differ from
    /// snapshot `a`, by offset, none touching the next, none beyond the larger size. From the maps alone, so a range may
    /// hold bytes that are equal; bytes outside of all ranges are equal, those beyond the end of the smaller side
    /// counting as zeros. A change of size alone is no range: it is told by the sizes that are returned.
    ///
    /// What is written to the volume meanwhile may be in it or not. `Unrelated` if the two have no layer in common.
    pub fn diff(
        &self,
        volume: &Name,
        a: &Name,
        b: Option<&Name>,
        give: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<DiffSizes> {
        let context = self.context()?;
        // No merge moves blocks meanwhile: the floors that a chain begins with stay right.
        let _still = context.upkeep_lock.lock();
        let open = |set: &Name| {
            let ids = chain_of(context, volume, set)?;
            context.chain(&ids)
        };
        let size = |chain: &crate::chain::Chain| chain.last().map_or(0, |layer| layer.header().size);
        let unrelated = || Error::Unrelated { a: a.to_string(), b: b.map_or_else(|| volume.to_string(), Name::to_string) };
        let of_a = open(a)?;
        let mut clipped = |end: u64, blocks: Range<u64>| {
            let bytes = blocks.start * BLOCK_SIZE..(blocks.end * BLOCK_SIZE).min(end);
            if bytes.is_empty() { Ok(()) } else { give(bytes) }
        };
        if let Some(b) = b {
            let of_b = open(b)?;
            let sizes = DiffSizes { a: size(&of_a), b: size(&of_b) };
            let diff = Diff::new(&of_a, &of_b, None).ok_or_else(unrelated)?;
            diff.each(&mut |blocks| clipped(sizes.a.max(sizes.b), blocks))?;
            return Ok(sizes);
        }
        let live = self.volume(volume)?.live();
        let sizes = DiffSizes { a: size(&of_a), b: live.head.size() };
        let diff = Diff::new(&of_a, &live.chain, Some(&live.head)).ok_or_else(unrelated)?;
        diff.each(&mut |blocks| clipped(sizes.a.max(sizes.b), blocks))?;
        Ok(sizes)
    }
}

/// The layers of a volume's snapshot, root first: by the volume's present name, or the one that it had then.
fn chain_of(context: &Context, volume: &Name, set: &Name) -> Result<Vec<crate::ids::LayerId>> {
    let record = record_of(context, volume, set)?;
    Ok(context.catalog.read().chain(record.layer))
}

/// A volume's snapshot: by the volume's present name, or the one that it had then.
pub(super) fn record_of(context: &Context, volume: &Name, set: &Name) -> Result<SnapshotRecord> {
    let state = context.catalog.read();
    let own = state.volume_named(volume).and_then(|record| state.snapshots_of(record.id).find(|record| record.set == *set));
    let found = own.or_else(|| state.snapshot_named(set, volume));
    let missing = || Error::NotFound { noun: Noun::Snapshot, name: format!("{set}/{volume}") };
    found.cloned().ok_or_else(missing)
}
