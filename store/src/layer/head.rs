//! A head: the writable layer of a volume.
//!
//! Place on the write path: the volume has written a block's bytes to `data`; [`Head::mark`] then makes that known:
//! in memory, and in `pending`, so that it survives the end of this process. A flush makes it durable.
//!
//! Invariant: a state never reaches the map before the bytes that it speaks of are durable.

use super::Layer;
use super::flush::Turn;
use super::marks::Marks;
use super::pending::{Entry, Left, Pending};
use super::ranges::RangeLock;
use super::states::{ChunkStates, State};
use crate::error::{Error, Result};
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, ZEROS};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

/// Chunks with marks at which the writer waits for a flush: 8 MiB of memory, 128 GiB of blocks.
const MARKED_CHUNKS_MAX: usize = 64 << 10;
/// Entries of `pending` that one call to [`Head::mark`] may need.
const ENTRIES_A_CALL: u64 = 64;

/// A run of blocks that get a state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub start: u64,
    pub count: u64,
    pub state: State,
}

/// What a change means besides its marks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Effect {
    /// The file is at least this large from now on.
    pub grow_to: u64,
    /// Change of the number of blocks that the chain shows as data.
    pub data_blocks: i64,
    /// The time of the change; none if nothing that anybody sees has changed.
    pub mtime_ns: Option<i64>,
}

/// What [`Head::mark`] could do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Marked {
    Done,
    /// No room for more marks until a flush has taken these.
    Full,
}

/// That a committed snapshot can be told from the labels alone. No head that it made is flushed before: else a rebuild
/// of a lost catalog could undo the snapshot, and with it what was synced into the new head.
#[derive(Default)]
pub(crate) struct Proof {
    given: Mutex<bool>,
    done: Condvar,
}

impl Proof {
    /// Lets the flushes go.
    pub fn give(&self) {
        *self.given.lock() = true;
        self.done.notify_all();
    }
}

/// The writable layer of one volume.
pub(crate) struct Head {
    pub layer: Arc<Layer>,
    /// Ranges of blocks that are being changed.
    pub ranges: RangeLock,
    pub(super) state: Mutex<HeadState>,
    pub(super) turn: Mutex<Turn>,
    pub(super) done: Condvar,
    pub(super) faulted: AtomicBool,
    /// Whether `pending` is there.
    begun: AtomicBool,
    /// What has to be durable before a flush of this head.
    proof: Mutex<Option<Arc<Proof>>>,
    // Mirrors of what `state` has, for readers that must not wait.
    size: AtomicU64,
    data_blocks: AtomicU64,
    atime_ns: AtomicI64,
    mtime_ns: AtomicI64,
    ctime_ns: AtomicI64,
}

pub(super) struct HeadState {
    /// Marks since the last flush took its set.
    pub marks: Marks,
    /// The set that a running flush took.
    pub taken: Marks,
    /// Made at the first change.
    pub pending: Option<Pending>,
    /// Pages of the map whose space is allocated.
    pub allocated: HashSet<u64>,
    /// Ranges whose zero states the next flush makes durable, to be punched then.
    pub punches: Vec<(u64, u64)>,
    pub size: u64,
    pub floor: u64,
    pub data_blocks: u64,
    pub atime_ns: i64,
    /// As the last header has it; an overwrite changes only its mirror.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    /// The header has to be written: size, or times that were set.
    pub header_changed: bool,
    /// `data_blocks` isn't known exactly: all of the file counts as data until it was counted.
    pub inexact: bool,
    /// While somebody counts: chunks that changed meanwhile.
    pub changed: Option<HashSet<u64>>,
}

/// What an open repaired.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// A committed shrink was finished.
    pub trimmed: bool,
    /// Marks of an earlier process that were taken over.
    pub marks: usize,
    /// The head wasn't closed: `data_blocks` is counted again.
    pub unclean: bool,
}

impl Head {
    /// Opens a layer as a head and repairs what a crash left. Durable on return, where something was repaired.
    pub fn open(layer: Arc<Layer>) -> Result<(Arc<Self>, Repaired)> {
        let mut repaired = Repaired::default();
        // Of a layer that was sealed once: its blocks are going to be overwritten.
        layer.sums().remove()?;
        let left = Pending::read(&layer.dir, layer.id)?;
        if left == Left::OtherBoot {
            // Of the last flush any part may be there. The count goes on being uncertain until it was made, whatever
            // happens to this process; and states behind the end are cut off below, since growing must show zeros.
            layer.write_header(|header| header.inexact = true)?;
        }
        repaired.trimmed = layer.header().trim;
        if repaired.trimmed || left == Left::OtherBoot {
            layer.finish_shrink()?;
        }
        if repaired.trimmed {
            // Before the file can grow again: the next open must not cut off what is written from here on.
            layer.write_header(|header| header.trim = false)?;
        }
        let header = layer.header();
        let head = Self {
            ranges: RangeLock::default(),
            turn: Mutex::default(),
            done: Condvar::new(),
            faulted: AtomicBool::new(left == Left::Fault),
            begun: AtomicBool::new(false),
            proof: Mutex::new(None),
            size: AtomicU64::new(0),
            data_blocks: AtomicU64::new(0),
            atime_ns: AtomicI64::new(0),
            mtime_ns: AtomicI64::new(0),
            ctime_ns: AtomicI64::new(0),
            state: Mutex::new(HeadState {
                marks: Marks::default(),
                taken: Marks::default(),
                pending: None,
                allocated: HashSet::new(),
                punches: Vec::new(),
                size: header.size,
                floor: header.floor,
                data_blocks: header.data_blocks,
                atime_ns: header.atime_ns,
                mtime_ns: header.mtime_ns,
                ctime_ns: header.ctime_ns,
                header_changed: false,
                // Without an entry nothing was acknowledged that the last flush didn't count.
                inexact: header.inexact || (left != Left::Nothing && left != Left::Entries(Vec::new())),
                changed: None,
            }),
            layer,
        };
        head.mirror(&head.state.lock());
        match left {
            Left::Nothing | Left::Fault => {}
            Left::OtherBoot => repaired.unclean = true,
            Left::Entries(entries) => {
                repaired.unclean = true;
                repaired.marks = entries.len();
                head.take_over(&entries)?;
            }
        }
        if repaired.unclean {
            Pending::remove(&head.layer.dir)?;
        }
        Ok((Arc::new(head), repaired))
    }

    /// Takes over the marks of a process that ended without closing: believed once their data is durable.
    fn take_over(&self, entries: &[Entry]) -> Result<()> {
        // An error here leaves everything to the next open; one of the sync itself is a fault: a second one would
        // succeed, with the data lost.
        self.layer.data.assume_dirty()?;
        let mut state = self.state.lock();
        for entry in entries {
            match *entry {
                Entry::Mark { start, count, state: mark, size, mtime_ns } => {
                    state.marks.set(start, u64::from(count), mark);
                    (state.size, state.mtime_ns) = (size, mtime_ns);
                }
                Entry::Times { atime_ns, size, mtime_ns } => {
                    (state.atime_ns, state.size, state.mtime_ns) = (atime_ns, size, mtime_ns);
                }
            }
        }
        state.header_changed = true;
        self.mirror(&state);
        drop(state);
        self.clear_tail()?;
        self.flush_once()
    }

    /// Makes what lies behind the end of the file zeros: an append that failed, or was killed before its mark, may have
    /// left bytes there, and growing must show zeros. Nobody else changes the head.
    pub fn clear_tail(&self) -> Result<()> {
        let size = self.size();
        let used = size % BLOCK_SIZE;
        let block = size / BLOCK_SIZE;
        if used == 0 {
            return Ok(());
        }
        let chunk = block / CHUNK_BLOCKS;
        let mut states = self.layer.map.read_chunk(chunk)?;
        if let Some(marks) = self.overlay(chunk) {
            states.overlay(&marks);
        }
        if states.get((block % CHUNK_BLOCKS) as usize) == State::Data {
            self.layer.data.write(&[&ZEROS[used as usize..]], size)?;
        }
        Ok(())
    }

    /// Copies what readers look at without the lock.
    pub(super) fn mirror(&self, state: &HeadState) {
        let data = if state.inexact { state.size.div_ceil(BLOCK_SIZE) } else { state.data_blocks };
        self.size.store(state.size, SeqCst);
        self.data_blocks.store(data, SeqCst);
        self.atime_ns.store(state.atime_ns, SeqCst);
        self.mtime_ns.store(state.mtime_ns, SeqCst);
        self.ctime_ns.store(state.ctime_ns, SeqCst);
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(SeqCst)
    }

    /// Blocks that the chain shows as data. While that is being counted after a crash: all of them, so that no
    /// program takes the file for sparse.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks.load(SeqCst)
    }

    /// The count as it stands, also while it is uncertain.
    pub fn counted_data_blocks(&self) -> u64 {
        self.state.lock().data_blocks
    }

    /// Access, modification and change time.
    pub fn times(&self) -> (i64, i64, i64) {
        (self.atime_ns.load(SeqCst), self.mtime_ns.load(SeqCst), self.ctime_ns.load(SeqCst))
    }

    /// Whether `data_blocks` has to be counted.
    pub fn is_inexact(&self) -> bool {
        self.state.lock().inexact
    }

    /// Whether a flush failed.
    pub fn is_faulted(&self) -> bool {
        self.faulted.load(SeqCst)
    }

    /// The marks of a chunk that are not in the map. Must be taken *before* the map is read: what a flush moves to
    /// the map in between is then seen twice, never missed.
    pub fn overlay(&self, chunk: u64) -> Option<ChunkStates> {
        Self::overlay_of(&self.state.lock(), chunk)
    }

    /// Like [`Head::overlay`], without waiting.
    pub fn try_overlay(&self, chunk: u64) -> Option<Option<ChunkStates>> {
        Some(Self::overlay_of(&*self.state.try_lock()?, chunk))
    }

    fn overlay_of(state: &HeadState, chunk: u64) -> Option<ChunkStates> {
        match (state.taken.get(chunk), state.marks.get(chunk)) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (Some(older), Some(newer)) => {
                let mut both = older.clone();
                both.overlay(newer);
                Some(both)
            }
        }
    }

    /// All marks that are not in the map, by chunk. Must be taken before the map is read, as in [`Head::overlay`].
    pub fn overlays(&self) -> Vec<(u64, ChunkStates)> {
        let state = self.state.lock();
        let mut chunks: Vec<u64> = state.taken.sorted().iter().chain(&state.marks.sorted()).map(|(chunk, _)| *chunk).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks.into_iter().filter_map(|chunk| Some((chunk, Self::overlay_of(&state, chunk)?))).collect()
    }

    /// The first chunk at or after `chunk` with marks that are not in the map.
    pub fn next_marked(&self, chunk: u64) -> Option<u64> {
        let state = self.state.lock();
        [state.taken.next(chunk), state.marks.next(chunk)].into_iter().flatten().min()
    }

    /// Notes the time of an overwrite, which changes nothing else. Made durable with the next header, not by itself.
    pub fn touch(&self, mtime_ns: i64) {
        self.mtime_ns.store(mtime_ns, SeqCst);
        self.ctime_ns.store(mtime_ns, SeqCst);
    }

    /// Makes `runs` known, all or none: on return they survive the end of this process.
    pub fn mark(&self, runs: &[Run], effect: Effect) -> Result<Marked> {
        self.mark_locked(self.state.lock(), runs, effect)
    }

    fn mark_locked(&self, mut state: MutexGuard<'_, HeadState>, runs: &[Run], effect: Effect) -> Result<Marked> {
        let entries = runs.len().max(1) as u64;
        debug_assert!(entries <= ENTRIES_A_CALL);
        if !self.prepare(&mut state, entries, runs)? {
            return Ok(Marked::Full);
        }
        let size = state.size.max(effect.grow_to);
        let mtime_ns = effect.mtime_ns.unwrap_or_else(|| self.mtime_ns.load(SeqCst));
        let entry = |run: &Run| Entry::Mark {
            start: run.start,
            count: u32::try_from(run.count).unwrap_or(u32::MAX >> 2),
            state: run.state,
            size,
            mtime_ns,
        };
        if runs.is_empty() {
            state.append(&entry(&Run { start: 0, count: 0, state: State::Data }))?;
        }
        for run in runs {
            state.append(&entry(run))?;
        }
        for run in runs {
            if let Some(changed) = &mut state.changed {
                changed.extend(run.start / CHUNK_BLOCKS..=(run.start + run.count - 1) / CHUNK_BLOCKS);
            }
            state.marks.set(run.start, run.count, run.state);
            if run.state == State::Zero {
                state.punches.push((run.start, run.count));
            }
        }
        state.header_changed = true;
        state.size = size;
        state.data_blocks = state.data_blocks.saturating_add_signed(effect.data_blocks);
        // Without a time there is nothing to mirror, and an overwrite may just be setting one.
        if effect.mtime_ns.is_some() {
            (state.mtime_ns, state.ctime_ns) = (mtime_ns, mtime_ns);
            self.mirror(&state);
        }
        Ok(Marked::Done)
    }

    /// Sees to it that `entries` fit, that `pending` exists, and that the records of `runs` have space.
    fn prepare(&self, state: &mut HeadState, entries: u64, runs: &[Run]) -> Result<bool> {
        if state.marks.len() >= MARKED_CHUNKS_MAX {
            return Ok(false);
        }
        match &state.pending {
            Some(pending) if pending.room() < entries => return Ok(false),
            Some(_) => {}
            None => {
                let made = self.layer.disk.with_reserve(|| Pending::create(&self.layer.dir, self.layer.id))?;
                state.pending = Some(made);
                self.begun.store(true, SeqCst);
            }
        }
        for run in runs {
            for page in super::flush::pages(run.start, run.count) {
                if !state.allocated.contains(&page) {
                    self.layer.disk.with_reserve(|| self.layer.map.allocate(page))?;
                    state.allocated.insert(page);
                }
            }
        }
        Ok(true)
    }

    /// Before the first write: makes `pending`, so that the next open knows that there may be unsynced bytes, and bytes
    /// behind the end.
    pub fn begin(&self) -> Result<()> {
        if !self.has_begun() {
            self.prepare(&mut self.state.lock(), 0, &[])?;
        }
        Ok(())
    }

    /// Whether [`Head::begin`] has nothing to do.
    pub fn has_begun(&self) -> bool {
        self.begun.load(SeqCst)
    }

    /// Whether a change can be made without waiting: `pending` is there, has room, and nobody has the lock.
    pub fn is_ready(&self) -> bool {
        self.state.try_lock().is_some_and(|state| state.pending.as_ref().is_some_and(|pending| pending.room() > ENTRIES_A_CALL))
    }

    /// Whether a flush would give space back.
    pub fn has_punches(&self) -> bool {
        !self.state.lock().punches.is_empty()
    }

    /// Whether so many marks wait that a flush should begin.
    pub fn wants_flush(&self) -> bool {
        self.state.try_lock().is_some_and(|state| {
            let crowded = state.pending.as_ref().is_some_and(|p| p.room() < super::pending::HALF_ENTRIES / 2);
            crowded || state.marks.len() > MARKED_CHUNKS_MAX / 2
        })
    }

    /// Whether a flush would make anything durable that isn't, times included.
    pub fn is_dirty(&self) -> bool {
        let state = self.state.lock();
        let newer = self.mtime_ns.load(SeqCst) != state.mtime_ns;
        newer || state.header_changed || !state.marks.is_empty() || !state.taken.is_empty() || self.layer.data.is_dirty()
    }

    /// Sets times: survives the end of this process on return.
    pub fn set_times(&self, atime_ns: Option<i64>, mtime_ns: Option<i64>, now_ns: i64) -> Result<Marked> {
        let mut state = self.state.lock();
        if !self.prepare(&mut state, 1, &[])? {
            return Ok(Marked::Full);
        }
        let entry = Entry::Times {
            atime_ns: atime_ns.unwrap_or(state.atime_ns),
            size: state.size,
            mtime_ns: mtime_ns.unwrap_or_else(|| self.mtime_ns.load(SeqCst)),
        };
        state.append(&entry)?;
        let Entry::Times { atime_ns, mtime_ns, .. } = entry else { return Ok(Marked::Done) };
        (state.atime_ns, state.mtime_ns, state.ctime_ns) = (atime_ns, mtime_ns, now_ns);
        state.header_changed = true;
        self.mirror(&state);
        Ok(Marked::Done)
    }

    /// Lowers the floor, where nobody sees it: a merge has taken everything beyond it. Durable with the next flush.
    pub fn lower_floor(&self, floor: u64) {
        let mut state = self.state.lock();
        if floor < state.floor {
            state.floor = floor;
            state.header_changed = true;
        }
    }

    /// Begins to note which chunks change.
    pub fn start_counting(&self) {
        self.state.lock().changed = Some(HashSet::new());
    }

    /// The chunks that changed since the last call.
    pub fn take_changed(&self) -> HashSet<u64> {
        self.state.lock().changed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Gives the number of blocks that the chain shows, after it was counted.
    pub fn set_data_blocks(&self, blocks: u64) {
        let mut state = self.state.lock();
        state.changed = None;
        state.data_blocks = blocks;
        state.inexact = false;
        state.header_changed = true;
        // Not all mirrors: an overwrite may just be setting the time.
        self.data_blocks.store(blocks, SeqCst);
    }

    /// Makes flushes of this head wait for `proof`.
    pub fn wait_for(&self, proof: &Arc<Proof>) {
        *self.proof.lock() = Some(Arc::clone(proof));
    }

    pub(super) fn await_proof(&self) {
        let mut proof = self.proof.lock();
        if let Some(proof) = &*proof {
            let mut given = proof.given.lock();
            while !*given {
                proof.done.wait(&mut given);
            }
        }
        *proof = None;
    }

    /// The error that a faulted head answers.
    pub fn check_fault(&self, name: impl FnOnce() -> String) -> Result<()> {
        if self.is_faulted() { Err(Error::Faulted { volume: name() }) } else { Ok(()) }
    }

    /// Closes: all durable, and the next open has nothing to repair.
    pub fn close(&self) -> Result<()> {
        if self.is_faulted() {
            return Ok(());
        }
        self.flush_times()?;
        let mut state = self.state.lock();
        if !state.inexact {
            state.pending = None;
            Pending::remove(&self.layer.dir)?;
        }
        self.layer.map.slot().unpin();
        self.layer.data.unpin();
        Ok(())
    }
}

impl HeadState {
    fn append(&mut self, entry: &Entry) -> Result<()> {
        match &mut self.pending {
            Some(pending) => pending.append(entry),
            None => Ok(()),
        }
    }
}
