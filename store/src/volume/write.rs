//! Writing.
//!
//! The order: range locked → partial blocks completed from the layers below → data written to the head → marked
//! (memory, then `pending`) → acknowledged. Killed before the mark: the old content. After it: the new.

use super::live::{Live, LiveView};
use super::view::View;
use super::{Volume, now_ns};
use crate::chain::{Chunk, blocks_touched, chunks};
use crate::error::{Error, Result};
use crate::layer::head::{Effect, Run};
use crate::layer::states::State;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, MAX_VOLUME_SIZE};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

/// The most bytes written under one range lock.
pub(super) const PIECE: usize = 4 << 20;

/// Between two tries to write to a disk that was full.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Where a write goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To this byte.
    At(u64),
    /// To this byte, if it is still the end of the file.
    AtEnd(u64),
    /// To this byte, but not beyond the end of the file.
    Inside(u64),
}

/// How a piece went.
#[derive(PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// It would have waited: nothing was written.
    WouldWait,
    /// The end of the file is elsewhere by now: nothing was written.
    EndMoved,
}

/// What a write needs to know of the blocks it touches.
struct Blocks {
    /// Blocks that are not data of this head yet, from the first to the last of them.
    new: Option<(u64, u64)>,
    /// How many of them there are.
    new_count: u64,
    /// How many are data nowhere.
    unseen: u64,
    first_place: u16,
    last_place: u16,
}

impl Volume {
    pub(super) fn write_pieces(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut offset = offset;
        for piece in data.chunks(PIECE) {
            self.write_piece(piece, Place::At(offset), true)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes a piece; with `wait` unset, only if no lock, no metadata and no space has to be waited for.
    pub(super) fn write_piece(&self, data: &[u8], place: Place, wait: bool) -> Result<Written> {
        match self.write_once(data, place, wait) {
            Err(error) if error.errno() == Errno::NOSPC => {
                if !wait {
                    return Ok(Written::WouldWait);
                }
                let bytes = data.len() as u64 + 2 * BLOCK_SIZE;
                self.when_there_is_space(bytes, error, || self.write_once(data, place, true))
            }
            done => done,
        }
    }

    /// Does `op` again as long as it fails for want of space and some may come, bounded. `error` is what it answered
    /// first. Neither it nor the caller holds the gate, a range or a chain meanwhile.
    pub(super) fn when_there_is_space<T>(&self, bytes: u64, mut error: Error, op: impl Fn() -> Result<T>) -> Result<T> {
        let until = Instant::now() + self.context.options.space_wait;
        while self.context.wait_for_space(bytes, until) {
            match op() {
                Err(again) if again.errno() == Errno::NOSPC && Instant::now() < until => error = again,
                done => return done,
            }
            // Others were faster, or a quota says so: not without a pause.
            thread::sleep(RETRY_PAUSE);
        }
        Err(error)
    }

    fn write_once(&self, data: &[u8], place: Place, wait: bool) -> Result<Written> {
        if wait {
            self.clean_tail()?;
        } else if self.tail_unknown.load(SeqCst) {
            return Ok(Written::WouldWait);
        }
        let Some(_gate) = (if wait { Some(self.gate.read()) } else { self.gate.try_read() }) else {
            return Ok(Written::WouldWait);
        };
        let live = self.live();
        let result = self.write_to(&live, data, place, wait);
        if wait && matches!(result, Err(Error::DiskFull { .. })) && live.head.has_punches() {
            // Discarded blocks give their space back with a flush.
            live.head.flush(crate::volume::Sync::Data)?;
            return self.named(self.write_to(&live, data, place, wait));
        }
        self.named(result)
    }

    fn write_to(&self, live: &Arc<Live>, data: &[u8], place: Place, wait: bool) -> Result<Written> {
        let (Place::At(offset) | Place::AtEnd(offset) | Place::Inside(offset)) = place;
        self.check_usable(live)?;
        // Nothing shrinks while we have the gate.
        let left = usize::try_from(live.head.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let data = if matches!(place, Place::Inside(_)) { &data[..data.len().min(left)] } else { data };
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_VOLUME_SIZE);
        let Some(end) = end else {
            return Err(Error::TooBig { size: offset.saturating_add(data.len() as u64), limit: MAX_VOLUME_SIZE });
        };
        if data.is_empty() {
            return Ok(Written::Done);
        }
        if !live.head.has_begun() {
            if !wait {
                return Ok(Written::WouldWait);
            }
            live.head.begin()?;
        }
        let blocks = blocks_touched(offset, data.len() as u64);
        let range = if wait { Some(live.head.ranges.lock(blocks.clone())) } else { live.head.ranges.try_lock(blocks.clone()) };
        let Some(_range) = range else { return Ok(Written::WouldWait) };
        let size = live.head.size();
        if matches!(place, Place::AtEnd(_)) && size != offset {
            return Ok(Written::EndMoved);
        }
        let view = LiveView { volume: self, live };
        let Some(known) = look_at(&view, blocks.clone(), wait)? else { return Ok(Written::WouldWait) };
        let grows = end > size;
        if !wait && (known.new.is_some() || grows) && !live.head.is_ready() {
            return Ok(Written::WouldWait);
        }
        let mine = live.chain.last_place();
        let mut edges = Edges::default();
        if !edges.complete(&view, &known, mine, offset..end, wait)? {
            return Ok(Written::WouldWait);
        }
        if known.new_count > 0 {
            self.context.disk.gauge.take(known.new_count * BLOCK_SIZE)?;
        }
        let written = live.head.layer.data.write(&[edges.before(), data, edges.after()], offset - edges.before().len() as u64);
        let now = now_ns();
        let done = written.and_then(|()| {
            if known.new.is_none() && !grows {
                live.head.touch(now);
                return Ok(());
            }
            let run = known.new.map(|(start, end)| Run { start, count: end - start, state: State::Data });
            let effect = Effect { grow_to: end, data_blocks: known.unseen.cast_signed(), mtime_ns: Some(now) };
            view.mark(run, effect)
        });
        if done.is_err() && grows {
            self.tail_unknown.store(true, SeqCst);
        }
        done.map(|()| Written::Done)
    }

    /// Zeros behind the end of the file, if a write that failed may have left something there. The caller doesn't have
    /// the gate: a write at the end that is under way must not be zeroed.
    pub(super) fn clean_tail(&self) -> Result<()> {
        if !self.tail_unknown.load(SeqCst) {
            return Ok(());
        }
        let _gate = self.gate.write();
        let live = self.live();
        self.check_usable(&live)?;
        self.clean_tail_alone(&live)
    }

    /// [`Volume::clean_tail`] for who has the gate alone.
    pub(super) fn clean_tail_alone(&self, live: &Live) -> Result<()> {
        if self.tail_unknown.load(SeqCst) {
            live.head.clear_tail()?;
            self.tail_unknown.store(false, SeqCst);
        }
        Ok(())
    }
}

/// Looks at all blocks of a write; `None` where that would wait.
fn look_at(view: &LiveView<'_>, blocks: std::ops::Range<u64>, wait: bool) -> Result<Option<Blocks>> {
    let mine = view.live.chain.last_place();
    let mut known = Blocks { new: None, new_count: 0, unseen: 0, first_place: 0, last_place: 0 };
    for (chunk, part) in chunks(blocks.clone()) {
        let resolved = if wait { Some(view.chunk(chunk)?) } else { view.try_chunk(chunk)? };
        let Some(resolved) = resolved else { return Ok(None) };
        for block in part {
            let place = place_of(&resolved, block);
            if place != mine {
                known.new = Some((known.new.map_or(block, |(start, _)| start), block + 1));
                known.new_count += 1;
                known.unseen += u64::from(place == 0);
            }
            if block == blocks.start {
                known.first_place = place;
            }
            known.last_place = place;
        }
    }
    Ok(Some(known))
}

fn place_of(resolved: &Chunk, block: u64) -> u16 {
    resolved.get((block % CHUNK_BLOCKS) as usize)
}

/// What completes the first and the last block of a write, where these aren't data of the head already.
#[derive(Default)]
struct Edges {
    first: Option<Box<[u8; BLOCK_SIZE as usize]>>,
    last: Option<Box<[u8; BLOCK_SIZE as usize]>>,
    /// Bytes of the first block before the write.
    head: usize,
    /// Byte of the last block where the write ends, or a whole block.
    tail: usize,
}

impl Edges {
    fn complete(
        &mut self,
        view: &LiveView<'_>,
        known: &Blocks,
        mine: u16,
        bytes: std::ops::Range<u64>,
        wait: bool,
    ) -> Result<bool> {
        let first = bytes.start / BLOCK_SIZE;
        let last = (bytes.end - 1) / BLOCK_SIZE;
        self.head = (bytes.start % BLOCK_SIZE) as usize;
        self.tail = ((bytes.end - 1) % BLOCK_SIZE + 1) as usize;
        if self.head != 0 && known.first_place != mine {
            let Some(block) = fetch(view, first, known.first_place, wait)? else { return Ok(false) };
            self.first = Some(block);
        }
        if self.tail != BLOCK_SIZE as usize && known.last_place != mine {
            let Some(block) = fetch(view, last, known.last_place, wait)? else { return Ok(false) };
            self.last = Some(block);
        }
        Ok(true)
    }

    fn before(&self) -> &[u8] {
        self.first.as_ref().map_or(&[], |block| &block[..self.head])
    }

    fn after(&self) -> &[u8] {
        self.last.as_ref().map_or(&[], |block| &block[self.tail..])
    }
}

/// A block as the layers below show it.
fn fetch(view: &LiveView<'_>, block: u64, place: u16, wait: bool) -> Result<Option<Box<[u8; BLOCK_SIZE as usize]>>> {
    let mut bytes = Box::new([0; BLOCK_SIZE as usize]);
    if wait {
        view.read_run(place, &mut bytes[..], block * BLOCK_SIZE)?;
    } else if !view.chain().try_read_run(place, &mut bytes[..], block * BLOCK_SIZE) {
        return Ok(None);
    }
    Ok(Some(bytes))
}
