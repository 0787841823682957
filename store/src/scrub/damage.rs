//! Blocks that were found not to fit their sums: counted, told, and remembered in `damage.json` until they are found good.
//!
//! The file is for people only. Nothing depends on it: without it a bad block is found again by who reads it.

use crate::disk::{document, durable};
use crate::error::{Error, Result};
use crate::ids::{LayerId, VolumeId};
use crate::store::{Context, EventKind};
use crate::units::BLOCK_SIZE;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file's name, in the store's directory.
const FILE: &str = "damage.json";
/// Blocks remembered. Of a disk with more, one need not know each.
const BLOCKS_MAX: usize = 4096;
/// Newly found blocks that are told one by one in each [`WINDOW`]; of more only the number.
const TOLD_MAX: u64 = 20;
/// See [`TOLD_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// A block that doesn't fit its sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadBlock {
    /// The layer that has it.
    pub layer: LayerId,
    /// Its number.
    pub block: u64,
    /// The sum that it was sealed with, in hex.
    pub expected: String,
    /// The sum that it has, in hex.
    pub found: String,
    /// When it was found first, in nanoseconds since 1970.
    pub since_ns: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    blocks: Vec<BadBlock>,
}

/// What was found damaged in a store.
pub(crate) struct Damage {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocks: BTreeMap<(LayerId, u64), BadBlock>,
    /// Reads of each volume (and its snapshots) that were answered with an error, since the open.
    reads: HashMap<VolumeId, u64>,
    /// Whether the file is older than this.
    changed: bool,
    window: Option<Instant>,
    told: u64,
}

/// Whether to tell of a block one by one.
enum Tell {
    No,
    This,
    /// This, and that so many before were not told.
    ThisAndMore(u64),
}

impl Damage {
    /// What the file in the store `dir` remembers; nothing, if it is missing or damaged itself.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let content: Content = match std::fs::read(&path) {
            Ok(bytes) => document::decode(&path, "damage", &bytes).unwrap_or_else(|error| {
                tracing::warn!("{error}; it only lists what was found before, and is begun anew");
                Content::default()
            }),
            Err(_) => Content::default(),
        };
        let blocks = content.blocks.into_iter().map(|bad| ((bad.layer, bad.block), bad)).collect();
        Self { path, state: Mutex::new(State { blocks, ..State::default() }) }
    }

    /// Blocks that are known to be bad, by layer and number.
    pub fn blocks(&self) -> Vec<BadBlock> {
        self.state.lock().blocks.values().cloned().collect()
    }

    /// Reads of a volume and its snapshots that were answered with an error, since the open.
    pub fn failed_reads(&self, volume: VolumeId) -> u64 {
        self.state.lock().reads.get(&volume).copied().unwrap_or(0)
    }

    /// Says that of these blocks of a layer only the `bad` ones are.
    pub fn settle(&self, layer: LayerId, blocks: std::ops::Range<u64>, bad: &BTreeSet<u64>) {
        let mut state = self.state.lock();
        let before = state.blocks.len();
        state.blocks.retain(|(of, block), _| *of != layer || !blocks.contains(block) || bad.contains(block));
        state.changed |= state.blocks.len() != before;
    }

    /// Writes the file, if something changed. What is of layers that `is_there` denies is forgotten.
    pub fn save(&self, is_there: impl Fn(LayerId) -> bool) -> Result<()> {
        let mut state = self.state.lock();
        if !state.changed {
            return Ok(());
        }
        state.blocks.retain(|(layer, _), _| is_there(*layer));
        let content = Content { blocks: state.blocks.values().take(BLOCKS_MAX).cloned().collect() };
        state.changed = false;
        drop(state);
        if content.blocks.is_empty() {
            return durable::remove_all(std::slice::from_ref(&self.path));
        }
        durable::replace(&self.path, &document::encode(&self.path, "damage", &content)?)
    }

    fn note(&self, bad: BadBlock, reader: Option<VolumeId>) -> Tell {
        let mut state = self.state.lock();
        if let Some(reader) = reader {
            *state.reads.entry(reader).or_default() += 1;
        }
        if state.blocks.len() >= BLOCKS_MAX || state.blocks.contains_key(&(bad.layer, bad.block)) {
            return Tell::No;
        }
        state.blocks.insert((bad.layer, bad.block), bad);
        state.changed = true;
        let mut unsaid = 0;
        if state.window.is_none_or(|begun| begun.elapsed() > WINDOW) {
            unsaid = state.told.saturating_sub(TOLD_MAX);
            (state.window, state.told) = (Some(Instant::now()), 0);
        }
        state.told += 1;
        match (state.told <= TOLD_MAX, unsaid) {
            (false, _) => Tell::No,
            (true, 0) => Tell::This,
            (true, unsaid) => Tell::ThisAndMore(unsaid),
        }
    }
}

impl Context {
    /// Notes that a block didn't fit its sum, for `reader` if a read met it: counted each time, told the first time.
    /// `error` says whose block it is.
    pub fn found_bad(&self, error: &Error, reader: Option<VolumeId>) {
        let Error::BadSum { layer, block, expected, found, .. } = error else { return };
        let bad = BadBlock {
            layer: *layer,
            block: *block,
            expected: format!("{expected:08x}"),
            found: format!("{found:08x}"),
            since_ns: crate::disk::now_ns(),
        };
        match self.damage.note(bad, reader) {
            Tell::No => {}
            Tell::This => self.event(EventKind::Damage, error.to_string()),
            Tell::ThisAndMore(more) => self.event(EventKind::Damage, format!("{error} ({more} more blocks before it)")),
        }
    }

    /// Writes down what was found damaged, if anything is new.
    pub fn save_damage(&self) {
        if !self.damage.state.lock().changed {
            return;
        }
        let layers: HashSet<LayerId> = self.catalog.read().layers.keys().copied().collect();
        if let Err(error) = self.damage.save(|layer| layers.contains(&layer)) {
            tracing::warn!("what was found damaged could not be written down: {error}");
        }
    }
}

impl BadBlock {
    /// The byte of the volume at which it is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.block.saturating_mul(BLOCK_SIZE)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;

    fn bad(layer: LayerId, block: u64) -> BadBlock {
        BadBlock { layer, block, expected: "00000001".into(), found: "00000002".into(), since_ns: 3 }
    }

    #[test]
    fn is_remembered_until_it_is_good_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (LayerId::new(), LayerId::new());
        let damage = Damage::open(dir.path());
        let volume = VolumeId::new();
        for block in [5, 5, 6] {
            damage.note(bad(a, block), Some(volume));
        }
        damage.note(bad(b, 5), None);
        assert_eq!(damage.failed_reads(volume), 3);
        damage.save(|_| true).unwrap();
        let damage = Damage::open(dir.path());
        assert_eq!(damage.failed_reads(volume), 0);
        let mut want = vec![bad(a, 5), bad(a, 6), bad(b, 5)];
        want.sort_by_key(|bad| (bad.layer, bad.block));
        assert_eq!(damage.blocks(), want);
        damage.settle(a, 0..7, &BTreeSet::from([6]));
        damage.save(|layer| layer == a).unwrap();
        assert_eq!(Damage::open(dir.path()).blocks(), [bad(a, 6)]);
        damage.settle(a, 6..7, &BTreeSet::new());
        damage.save(|_| true).unwrap();
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_flood_is_counted_but_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let damage = Damage::open(dir.path());
        let layer = LayerId::new();
        let told = (0..10_000).filter(|block| !matches!(damage.note(bad(layer, *block), None), Tell::No)).count();
        assert!(told as u64 <= 2 * TOLD_MAX, "{told}");
        assert_eq!(damage.blocks().len(), BLOCKS_MAX);
        std::fs::write(dir.path().join(FILE), b"{}").unwrap();
        assert!(Damage::open(dir.path()).blocks().is_empty());
    }
}
