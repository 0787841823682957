//! What `volume show` tells of a volume's sums.

use crate::error::Result;
use crate::ids::VolumeId;
use crate::store::Store;
use crate::units::BLOCK_SIZE;

/// How a volume and its snapshots stand to their sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Bytes in sealed layers that have no sum yet (or lost it).
    pub unsummed: u64,
    /// Blocks known to be damaged.
    pub bad_blocks: u64,
    /// Reads that were answered with an error for that, since the store was opened.
    pub failed_reads: u64,
}

impl Store {
    /// How a volume and its snapshots stand to their sums. Reads the maps of the layers that are not summed completely.
    pub fn integrity(&self, volume: VolumeId) -> Result<Integrity> {
        let context = self.context()?;
        let layers = context.catalog.read().lineage(volume);
        let bad = context.damage.blocks();
        let mut found = Integrity { failed_reads: context.damage.failed_reads(volume), ..Integrity::default() };
        for record in layers {
            found.bad_blocks += bad.iter().filter(|bad| bad.layer == record.id).count() as u64;
            let layer = context.layer(record.id)?;
            if layer.header().sealed && !layer.sums().are_complete() {
                let (data, summed) = layer.sums().count()?;
                found.unsummed += (data - summed) * BLOCK_SIZE;
            }
        }
        Ok(found)
    }
}
