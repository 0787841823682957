//! The import's pipeline: read, find zeros, hash, store.
//!
//! One thread reads, finds the zeros and stores; another hashes, since SHA-256 costs more than all the rest. They
//! share a few large buffers. Holes are not read, only hashed. Memory is constant, whatever the size.

use super::Progress;
use super::input::block_floor;
use super::source::{ExtentKind, Source};
use crate::error::{Error, Result};
use crate::units::BLOCK_SIZE;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Where blocks go: a layer that is being written.
pub(crate) trait BlockSink {
    /// Stores whole blocks from number `block` on; each call is behind the last.
    fn write(&mut self, block: u64, data: &[u8]) -> Result<()>;
}

/// Bytes read at once. The largest cluster of qcow2, and aligned to it, so that none is decompressed twice.
const WINDOW: u64 = 2 << 20;

/// Windows on their way at once.
const WINDOWS_MAX: u64 = 4;

/// A hole of fewer bytes, with data around it, is read rather than sought: one large read beats many small ones.
const HOLE_WORTH_SKIPPING: u64 = 64 << 10;

/// The longest that a wait goes on without asking whether to stop.
const TICK: Duration = Duration::from_millis(100);

/// What a hole is hashed as, and zero blocks are compared with.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// One thing to hash, in order.
enum Piece {
    Data(Arc<Vec<u8>>, usize),
    Zeros(u64),
}

/// Copies all of `source` to `sink`, leaving zero blocks out; gives the SHA-256 of the virtual content.
pub(super) fn copy(source: &mut dyn Source, sink: &mut dyn BlockSink, progress: &dyn Progress) -> Result<[u8; 32]> {
    let hashed = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let (pieces, to_hash) = channel();
    let (finished, done) = channel();
    let digest = std::thread::scope(|scope| {
        let (hashed, stop) = (&hashed, &stop);
        let hasher = scope.spawn(move || hash(&to_hash, &finished, hashed, stop));
        let mut copier = Copier { source: &mut *source, sink, progress, pieces, done, sent: 0, finished: 0, stored: 0, hashed };
        let result = copier.run();
        stop.store(result.is_err(), Ordering::Relaxed);
        drop(copier);
        let digest = hasher.join();
        result.map(|()| digest)
    })?;
    // Only a broken invariant in there could panic; the caller's own panic handling takes it from here.
    let digest = digest.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    source.check_unchanged()?;
    Ok(digest)
}

fn hash(pieces: &Receiver<Piece>, finished: &Sender<()>, hashed: &AtomicU64, stop: &AtomicBool) -> [u8; 32] {
    let mut sha = Sha256::new();
    let mut feed = |bytes: &[u8]| {
        sha.update(bytes);
        hashed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    for piece in pieces {
        match piece {
            Piece::Data(buffer, length) => feed(&buffer[..length]),
            Piece::Zeros(mut length) => {
                while length > 0 && !stop.load(Ordering::Relaxed) {
                    let part = length.min(ZEROS.len() as u64);
                    feed(&ZEROS[..part as usize]);
                    length -= part;
                }
            }
        }
        // The copier may have gone; then nobody needs to know.
        let _ = finished.send(());
    }
    sha.finalize().into()
}

struct Copier<'a> {
    source: &'a mut dyn Source,
    sink: &'a mut dyn BlockSink,
    progress: &'a dyn Progress,
    pieces: Sender<Piece>,
    done: Receiver<()>,
    /// Pieces sent to the hasher, and finished by it.
    sent: u64,
    finished: u64,
    /// Bytes of the virtual disk that are dealt with, but for the hash.
    stored: u64,
    hashed: &'a AtomicU64,
}

impl Copier<'_> {
    fn run(&mut self) -> Result<()> {
        let size = self.source.size();
        let mut buffers: Vec<_> = (0..WINDOWS_MAX).map(|_| Arc::new(Vec::new())).collect();
        while self.stored < size {
            self.tick()?;
            let (kind, end) = self.next_range(size)?;
            if kind == ExtentKind::Hole {
                self.send(Piece::Zeros(end - self.stored))?;
                self.stored = end;
                continue;
            }
            self.wait_for_room()?;
            // Every piece takes the next buffer's turn, so that with room for one more its buffer is free.
            let slot = &mut buffers[(self.sent % WINDOWS_MAX) as usize];
            let mut buffer = Arc::try_unwrap(std::mem::take(slot)).unwrap_or_default();
            let length = (end - self.stored) as usize;
            buffer.resize(length.next_multiple_of(BLOCK_SIZE as usize), 0);
            self.source.read(&mut buffer[..length], self.stored)?;
            // The tail of the last block is zeros.
            buffer[length..].fill(0);
            let buffer = Arc::new(buffer);
            *slot = Arc::clone(&buffer);
            self.send(Piece::Data(Arc::clone(&buffer), length))?;
            self.store(&buffer)?;
            self.stored = end;
        }
        while self.finished < self.sent {
            self.wait()?;
        }
        self.tick()
    }

    /// The next range to deal with as one: from the present position (at a block's start) to a block's or the disk's end.
    fn next_range(&mut self, size: u64) -> Result<(ExtentKind, u64)> {
        let start = self.stored;
        let window_end = (start - start % WINDOW + WINDOW).min(size);
        let mut end = start;
        while end < window_end {
            let extent = self.source.extent(end)?;
            let extent_end = end.saturating_add(extent.length.max(1)).min(size);
            if extent.kind == ExtentKind::Hole {
                // Whole blocks only: what shares a block with data is read.
                let first = end.next_multiple_of(BLOCK_SIZE);
                let last = if extent_end == size { size } else { block_floor(extent_end) };
                if end == start && last > start {
                    return Ok((ExtentKind::Hole, last));
                }
                if last > first && (last - first >= HOLE_WORTH_SKIPPING || last == size) {
                    return Ok((ExtentKind::Data, first));
                }
            }
            end = extent_end;
        }
        Ok((ExtentKind::Data, end.next_multiple_of(BLOCK_SIZE).min(window_end)))
    }

    /// Stores the blocks of `buffer` that are not zero, in runs.
    fn store(&mut self, buffer: &[u8]) -> Result<()> {
        let first = self.stored / BLOCK_SIZE;
        let block_size = BLOCK_SIZE as usize;
        let mut run = 0..0;
        for (index, block) in buffer.chunks_exact(block_size).enumerate() {
            if *block == ZEROS[..block_size] {
                continue;
            }
            if run.end != index {
                self.store_run(first, &run, buffer)?;
                run = index..index;
            }
            run.end = index + 1;
        }
        self.store_run(first, &run, buffer)
    }

    fn store_run(&mut self, first: u64, run: &std::ops::Range<usize>, buffer: &[u8]) -> Result<()> {
        if run.is_empty() {
            return Ok(());
        }
        let block_size = BLOCK_SIZE as usize;
        self.sink.write(first + run.start as u64, &buffer[run.start * block_size..run.end * block_size])
    }

    fn send(&mut self, piece: Piece) -> Result<()> {
        self.wait_for_room()?;
        self.sent += 1;
        // The hasher ends only when this end is dropped; if it panicked, joining it tells.
        self.pieces.send(piece).map_err(|_| Error::Interrupted)
    }

    fn wait_for_room(&mut self) -> Result<()> {
        while self.sent - self.finished >= WINDOWS_MAX {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits for the hasher, but not for long.
    fn wait(&mut self) -> Result<()> {
        match self.done.recv_timeout(TICK) {
            Ok(()) => self.finished += 1,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Interrupted),
        }
        self.tick()
    }

    fn tick(&self) -> Result<()> {
        if self.progress.cancelled() {
            return Err(Error::Interrupted);
        }
        self.progress.advance(self.stored.min(self.hashed.load(Ordering::Relaxed)), self.source.size());
        Ok(())
    }
}
