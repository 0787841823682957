//! Scrubbing: every block that the layers hold is read from the disk and compared with its sum.
//!
//! What is read is what lies on the disk, past the page cache. It goes on after what it finds. Blocks without a sum (of heads,
//! and of layers that are still being summed) are read too, so that what can't be read is found, and counted apart.
//!
//! Of a layer that nothing names and one layer stands on, what that one shadows is passed over: a merge may be in the middle
//! of moving it. The upkeep's lock is held for each chunk, so that no merge moves what is being compared.

use super::direct::Direct;
use crate::catalog::state::State;
use crate::error::{Error, Noun, Result};
use crate::ids::{LayerId, VolumeId};
use crate::image::Progress;
use crate::jobs::{Both, Job, JobKind, Task};
use crate::layer::Layer;
use crate::layer::states::{ChunkStates, State as BlockState};
use crate::name::Name;
use crate::store::{Context, Store};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Findings of a kind that are listed; of more only the number is known.
const LISTED_MAX: usize = 1000;
/// The longest that it sleeps without asking whether to stop.
const SLEEP: Duration = Duration::from_millis(100);

/// What a scrub looks at.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// One volume with its snapshots and its image; everything, when not given.
    pub volume: Option<Name>,
    /// Bytes a second that are read at most.
    pub rate: Option<u64>,
}

/// A block that isn't what it was sealed as.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// Who needs it, in the shown form: `volume 'db'`.
    pub users: Vec<String>,
    /// The layer that has it.
    pub layer: LayerId,
    /// Its number.
    pub block: u64,
    /// The sum that it was sealed with.
    pub expected: u32,
    /// The sum that it has.
    pub found: u32,
}

/// What a scrub found. Sizes in bytes.
#[derive(Debug, Clone, Default)]
pub struct ScrubReport {
    /// Layers looked at.
    pub layers: u64,
    /// Compared with sums, and equal.
    pub verified: u64,
    /// Read, but without a sum to compare it with.
    pub unsummed: u64,
    /// Blocks that aren't what they were sealed as; the first 1,000.
    pub mismatches: Vec<Mismatch>,
    /// How many such blocks there are.
    pub mismatch_count: u64,
    /// What could not be read, or is damaged otherwise, a line each; the first 1,000.
    pub errors: Vec<String>,
    /// How many such things there are.
    pub error_count: u64,
}

impl ScrubReport {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.mismatch_count == 0 && self.error_count == 0
    }

    fn error(&mut self, line: String) {
        self.error_count += 1;
        if self.errors.len() < LISTED_MAX {
            self.errors.push(line);
        }
    }
}

impl Store {
    /// Verifies everything, or one volume with its snapshots and its image, as a job. `Ok` also if damage was found: the report
    /// says so, and doctor lists it from then on. A cancel is `Interrupted`; what was found before is remembered.
    pub fn scrub(&self, options: &ScrubOptions, progress: &dyn Progress) -> Result<ScrubReport> {
        let context = self.context()?;
        scope(&context.catalog.read(), options.volume.as_ref())?;
        let subject = options.volume.as_ref().map_or_else(|| "everything".to_owned(), |name| format!("volume '{name}'"));
        let task = Task::Scrub { volume: options.volume.clone(), rate: options.rate };
        let job = context.begin_job(JobKind::Scrub, subject, Some(task))?;
        run(context, job, options, progress)
    }
}

/// Scrubs as a job that has begun.
pub(crate) fn run(context: &Arc<Context>, job: Job, options: &ScrubOptions, progress: &dyn Progress) -> Result<ScrubReport> {
    let both = Both { job: &job, progress };
    let outcome = Scrub::new(context, options, &both).and_then(Scrub::run);
    context.save_damage();
    match &outcome {
        Ok(report) if !report.is_clean() => {
            job.fail(&Error::ScrubFound { mismatches: report.mismatch_count, errors: report.error_count });
        }
        _ => job.end_with(&outcome),
    }
    outcome
}

/// The layers that are looked at, the oldest first.
fn scope(state: &State, volume: Option<&Name>) -> Result<Vec<LayerId>> {
    let Some(name) = volume else { return Ok(state.layers.keys().copied().collect()) };
    let not_found = || Error::NotFound { noun: Noun::Volume, name: name.to_string() };
    let id: VolumeId = state.volume_named(name).ok_or_else(not_found)?.id;
    Ok(state.lineage(id).into_iter().map(|layer| layer.id).collect())
}

struct Scrub<'a> {
    context: &'a Arc<Context>,
    layers: Vec<LayerId>,
    rate: Option<u64>,
    progress: &'a dyn Progress,
    report: ScrubReport,
    done: u64,
    total: u64,
    read: u64,
    begun: Instant,
    buf: super::direct::Buffer,
}

impl<'a> Scrub<'a> {
    fn new(context: &'a Arc<Context>, options: &ScrubOptions, progress: &'a dyn Progress) -> Result<Self> {
        let layers = scope(&context.catalog.read(), options.volume.as_ref())?;
        let mut total = 0;
        for id in &layers {
            // What can't be read is told when it is its turn.
            total += context.layer(*id).and_then(|layer| layer.count_data()).unwrap_or(0) * BLOCK_SIZE;
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
        }
        Ok(Self {
            context,
            layers,
            rate: options.rate,
            progress,
            report: ScrubReport::default(),
            done: 0,
            total,
            read: 0,
            begun: Instant::now(),
            buf: super::direct::Buffer::new((CHUNK_BLOCKS * BLOCK_SIZE) as usize),
        })
    }

    fn run(mut self) -> Result<ScrubReport> {
        self.progress.advance(0, self.total);
        for id in std::mem::take(&mut self.layers) {
            match self.layer(id) {
                Ok(()) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) if self.is_there(id) => {
                    let users = self.users(id);
                    self.report.error(format!("{users}: {error}"));
                }
                // Merged away or deleted meanwhile.
                Err(_) => {}
            }
        }
        self.progress.advance(self.total, self.total);
        Ok(self.report)
    }

    fn is_there(&self, id: LayerId) -> bool {
        self.context.catalog.read().layers.contains_key(&id)
    }

    fn users(&self, id: LayerId) -> String {
        let users = self.context.catalog.read().needed_by(id);
        if users.is_empty() { format!("layer {id}") } else { users.join(", ") }
    }

    fn layer(&mut self, id: LayerId) -> Result<()> {
        if !self.is_there(id) {
            return Ok(());
        }
        let layer = self.context.layer(id)?;
        let mut direct = Direct::new(&layer);
        self.report.layers += 1;
        let mut next = layer.map.next_written(0)?;
        while let Some(chunk) = next {
            if self.progress.cancelled() || self.context.is_closed() {
                return Err(Error::Interrupted);
            }
            if !self.is_there(id) {
                return Ok(());
            }
            match self.chunk(&layer, &mut direct, chunk) {
                // Of a damaged map record, other chunks may be readable.
                Err(error) if self.is_there(id) => {
                    let users = self.users(id);
                    self.report.error(format!("{users}: {error}"));
                }
                other => other?,
            }
            self.progress.advance(self.done.min(self.total), self.total);
            self.keep_to_rate()?;
            next = layer.map.next_written(chunk + 1)?;
        }
        Ok(())
    }

    fn chunk(&mut self, layer: &Arc<Layer>, direct: &mut Direct<'_>, chunk: u64) -> Result<()> {
        let context = Arc::clone(self.context);
        let _alone = context.upkeep_lock.lock();
        let states = layer.map.read_chunk(chunk)?;
        self.done += states.count_data() * BLOCK_SIZE;
        let shadow = self.shadow(layer.id, chunk)?;
        let is_ours = |index: usize| {
            states.get(index) == BlockState::Data && shadow.as_ref().is_none_or(|over| over.get(index) == BlockState::Absent)
        };
        let (sums, wrong) = layer.sums().read_chunk(chunk)?;
        for (index, reason) in wrong {
            let users = self.users(layer.id);
            self.report.error(format!("{users}: sums record {index} of layer {} is damaged: {reason}", layer.id));
        }
        let first = chunk * CHUNK_BLOCKS;
        let mut bad = BTreeSet::new();
        let mut index = 0;
        while index < CHUNK_BLOCKS as usize {
            let run = (index..CHUNK_BLOCKS as usize).take_while(|index| is_ours(*index)).count();
            let buf = self.buf.take(run * BLOCK_SIZE as usize);
            match direct.read(buf, (first + index as u64) * BLOCK_SIZE) {
                Ok(()) => {}
                // A head may have been cut off since its map was read.
                Err(_) if !layer.header().sealed && layer.map.read_chunk(chunk)? != states => return Ok(()),
                Err(error) => {
                    bad.extend((index..index + run).map(|index| first + index as u64));
                    let users = self.users(layer.id);
                    let (from, to) = (first + index as u64, first + (index + run) as u64 - 1);
                    self.report.error(format!("{users}: blocks {from} to {to} of layer {}: {error}", layer.id));
                    index += run;
                    continue;
                }
            }
            self.read += (run as u64) * BLOCK_SIZE;
            let found: Vec<(u64, Option<u32>, u32)> = (index..index + run)
                .zip(buf.chunks_exact(BLOCK_SIZE as usize))
                .map(|(index, bytes)| (first + index as u64, sums.get(index), crc32c::crc32c(bytes)))
                .collect();
            for (block, expected, found) in found {
                match expected {
                    None => self.report.unsummed += BLOCK_SIZE,
                    Some(expected) if expected == found => self.report.verified += BLOCK_SIZE,
                    Some(expected) => {
                        bad.insert(block);
                        self.mismatch(layer.id, block, expected, found);
                    }
                }
            }
            index += run.max(1);
        }
        self.context.damage.settle(layer.id, first..first + CHUNK_BLOCKS, &bad);
        Ok(())
    }

    /// The states of the one layer that stands on a layer that nothing names: what it has a state for is not believed here.
    fn shadow(&self, id: LayerId, chunk: u64) -> Result<Option<ChunkStates>> {
        let state = self.context.catalog.read();
        let child = match state.named_layers().contains(&id) {
            false if state.child_count(id) == 1 => state.children(id).next(),
            _ => None,
        };
        drop(state);
        // Of a head the map, too: a block is punched below only when that is durable.
        child.map(|child| self.context.layer(child)?.map.read_chunk(chunk)).transpose()
    }

    fn mismatch(&mut self, layer: LayerId, block: u64, expected: u32, found: u32) {
        self.report.mismatch_count += 1;
        let users = self.context.catalog.read().needed_by(layer);
        let of = (!users.is_empty()).then(|| users.join(", "));
        self.context.found_bad(&Error::BadSum { of, layer, block, expected, found }, None);
        if self.report.mismatches.len() < LISTED_MAX {
            self.report.mismatches.push(Mismatch { users, layer, block, expected, found });
        }
    }

    fn keep_to_rate(&self) -> Result<()> {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else { return Ok(()) };
        let due = Duration::from_secs_f64(self.read as f64 / rate as f64);
        while self.begun.elapsed() < due {
            if self.progress.cancelled() || self.context.is_closed() {
                return Err(Error::Interrupted);
            }
            std::thread::sleep((due.saturating_sub(self.begun.elapsed())).min(SLEEP));
        }
        Ok(())
    }
}
