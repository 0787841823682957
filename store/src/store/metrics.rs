//! Numbers about a store, for monitoring: cheap to ask for, however large the volumes are.

use super::{Context, EventKind, Store};
use crate::disk::gauge::DiskSpace;
use crate::error::Result;
use crate::ids::{LayerId, VolumeId};
use crate::jobs::{JobKind, JobState};
use crate::layer::{self, Layer, Scan};
use crate::name::Name;
use crate::units::BLOCK_SIZE;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted as it happens, since the store was opened.
#[derive(Default)]
pub(crate) struct Counters {
    events: Mutex<Vec<(EventKind, u64)>>,
    freed_blocks: AtomicU64,
    /// Blocks of layers that a merge has put into another layer: they are not freed when the layer is dropped.
    moved: Mutex<HashMap<LayerId, u64>>,
}

impl Counters {
    /// Counts an event. Events are rare.
    pub fn event(&self, kind: EventKind) {
        let mut events = self.events.lock();
        match events.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, count)) => *count += 1,
            None => events.push((kind, 1)),
        }
    }

    /// Counts blocks of data that were held, and that nobody holds any more.
    pub fn freed(&self, blocks: u64) {
        self.freed_blocks.fetch_add(blocks, Relaxed);
    }

    /// Notes blocks of a layer that another one has, too.
    pub fn moved(&self, layer: LayerId, blocks: u64) {
        *self.moved.lock().entry(layer).or_default() += blocks;
    }

    /// Counts a layer that was dropped, with so many blocks of data in its map.
    pub fn dropped(&self, layer: LayerId, blocks: u64) {
        let moved = self.moved.lock().remove(&layer).unwrap_or(0);
        self.freed(blocks.saturating_sub(moved));
    }
}

/// Numbers about a store. Sizes in bytes; what counts up does so since the store was opened.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    /// Every volume that has a name.
    pub volumes: Vec<VolumeFacts>,
    /// Images.
    pub images: u64,
    /// Layers of all volumes, snapshots and images.
    pub layers: u64,
    /// How often a lookup of blocks was answered from memory.
    pub cache_hits: u64,
    /// How often one had to be made from the maps.
    pub cache_misses: u64,
    /// Lookups that are in memory, of 2 MiB of a volume each.
    pub cache_chunks: u64,
    /// Data that was held, and is not since layers were dropped and merged. (What a merge had done before the store was
    /// opened counts as freed when it ends.)
    pub freed: u64,
    /// Blocks that are known not to fit their sums.
    pub damaged_blocks: u64,
    /// Jobs that are on record.
    pub jobs: Vec<(JobKind, JobState, u64)>,
    /// Events, by kind.
    pub events: Vec<(EventKind, u64)>,
    /// Size of the disk's file system.
    pub disk_total: u64,
    /// Free on it in all.
    pub disk_free: u64,
    /// Free on it for volumes' data.
    pub disk_available: u64,
    /// Free space at which data writes get ENOSPC.
    pub disk_floor: u64,
}

/// What is known of a volume without reading its maps.
#[derive(Debug, Clone)]
pub struct VolumeFacts {
    /// Identity.
    pub id: VolumeId,
    /// Name.
    pub name: Name,
    /// Snapshots it has.
    pub snapshots: u64,
    /// Reads of it and of its snapshots that were refused since the store was opened, because a block didn't fit its sum.
    pub damaged_reads: u64,
    /// Of the head; none where only snapshots are left.
    pub head: Option<HeadFacts>,
}

/// What is known of a live volume.
#[derive(Debug, Clone, Copy)]
pub struct HeadFacts {
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it shows as data; none while that is being counted after a crash.
    pub data: Option<u64>,
    /// Layers of its chain.
    pub layers: u64,
    /// Whether a flush failed, or its head can't be read.
    pub faulted: bool,
}

impl Store {
    /// Numbers for monitoring. Opens no volume, and reads no map but the first sector of those that are closed.
    pub fn metrics(&self) -> Result<StoreMetrics> {
        let context = self.context()?;
        let DiskSpace { total, free, available } = context.disk.gauge.space()?;
        let floor = context.disk.gauge.floor();
        let (cache_hits, cache_misses, cache_chunks) = context.cache_counts();
        let mut jobs: Vec<(JobKind, JobState, u64)> = Vec::new();
        for job in self.jobs() {
            match jobs.iter_mut().find(|(kind, state, _)| (*kind, *state) == (job.kind, job.state)) {
                Some((.., count)) => *count += 1,
                None => jobs.push((job.kind, job.state, 1)),
            }
        }
        let volumes = volumes(context);
        let state = context.catalog.read();
        Ok(StoreMetrics {
            volumes,
            images: state.images.len() as u64,
            layers: state.layers.len() as u64,
            cache_hits,
            cache_misses,
            cache_chunks,
            freed: context.counters.freed_blocks.load(Relaxed) * BLOCK_SIZE,
            damaged_blocks: context.damage.blocks().len() as u64,
            jobs,
            events: context.counters.events.lock().clone(),
            disk_total: total,
            disk_free: free,
            disk_available: available.saturating_sub(floor),
            disk_floor: floor,
        })
    }
}

fn volumes(context: &Arc<Context>) -> Vec<VolumeFacts> {
    let open: HashMap<VolumeId, _> = context.open_volumes().into_iter().map(|volume| (volume.id(), volume)).collect();
    let state = context.catalog.read();
    let mut found: Vec<_> = state
        .volumes
        .values()
        .filter_map(|volume| {
            let name = volume.name.clone()?;
            let layers = volume.head.map(|head| state.chain(head).len() as u64);
            Some((
                VolumeFacts {
                    id: volume.id,
                    name,
                    snapshots: state.snapshot_count(volume.id),
                    damaged_reads: context.damage.failed_reads(volume.id),
                    head: None,
                },
                volume.head,
                layers,
            ))
        })
        .collect();
    drop(state);
    for (facts, head, layers) in &mut found {
        let Some((head, layers)) = head.zip(*layers) else { continue };
        facts.head = Some(match open.get(&facts.id) {
            Some(volume) => {
                let (head, stat) = (volume.head(), volume.stat());
                let data = (!head.is_inexact()).then_some(stat.data);
                HeadFacts { size: stat.size, data, layers, faulted: head.is_faulted() }
            }
            None => closed(context, head, layers),
        });
    }
    found.into_iter().map(|(facts, ..)| facts).collect()
}

fn closed(context: &Context, head: LayerId, layers: u64) -> HeadFacts {
    let faulted = layer::is_faulted(&context.disk, head).unwrap_or(true);
    match layer::read_header(&context.disk, head) {
        Ok(header) => {
            let data = (!header.inexact).then_some(header.data_blocks * BLOCK_SIZE);
            HeadFacts { size: header.size, data, layers, faulted }
        }
        Err(_) => HeadFacts { size: 0, data: None, layers, faulted: true },
    }
}

/// Blocks of data in a layer's map; 0 where it can't be read.
pub(crate) fn data_blocks(context: &Context, id: LayerId) -> u64 {
    let count = || -> Result<u64> {
        let mut scan = Scan::new(&Layer::open(&context.disk, id)?, 1);
        let (mut blocks, mut chunk) = (0, 0);
        while let Some((at, states)) = scan.next(chunk)? {
            blocks += states.count_data();
            chunk = at + 1;
        }
        Ok(blocks)
    };
    count().unwrap_or(0)
}
