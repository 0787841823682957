//! Counts what is done to each volume, and how long its callers wait.
//!
//! On the way of a request there are only a few additions to atomic numbers: no lock, no allocation, and no system call but
//! one more look at the clock. A file finds its volume's meter when it is opened. Numbers are since the mount was made.

mod histogram;

pub use histogram::{BOUNDS_NS, Durations};

use crate::tree::Result;
use histogram::Histogram;
use outcrop_store::VolumeId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading the volume.
    Read,
    /// Reading a snapshot of it.
    ReadSnapshot,
    /// Writing; with what a file opened with `O_SYNC` makes durable.
    Write,
    /// `fsync`, `fdatasync`.
    Fsync,
    /// Punching holes and zeroing ranges: what discards become.
    Discard,
    /// Reserving space.
    Allocate,
    /// `copy_file_range` into the volume.
    Copy,
}

impl Operation {
    /// All of them, in a fixed order.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::ReadSnapshot, Self::Write, Self::Fsync, Self::Discard, Self::Allocate, Self::Copy];

    /// How it is called in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadSnapshot => "read_snapshot",
            Self::Write => "write",
            Self::Fsync => "fsync",
            Self::Discard => "discard",
            Self::Allocate => "allocate",
            Self::Copy => "copy",
        }
    }
}

/// The numbers of one operation of one volume. Apart from others' in memory, so that two that are busy don't get in each
/// other's way.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    durations: Histogram,
    bytes: AtomicU64,
    failed: AtomicU64,
}

/// One volume's numbers.
#[derive(Default)]
pub(crate) struct Meter([Counts; Operation::ALL.len()]);

impl Meter {
    /// Counts an operation that was taken from the kernel at `since` and has ended with `outcome`; `bytes` is what it moved if it
    /// went well.
    pub(crate) fn note<T>(&self, what: Operation, since: Instant, outcome: &Result<T>, bytes: impl FnOnce(&T) -> u64) {
        let counts = &self.0[what as usize];
        match outcome {
            Ok(value) => {
                counts.durations.add(since.elapsed());
                let bytes = bytes(value);
                if bytes > 0 {
                    counts.bytes.fetch_add(bytes, Relaxed);
                }
            }
            Err(_) => {
                counts.failed.fetch_add(1, Relaxed);
            }
        }
    }

    /// Like [`Meter::note`], for one that may not have been done yet: then nothing is counted.
    pub(crate) fn note_tried<T>(
        &self,
        what: Operation,
        since: Instant,
        outcome: &Result<Option<T>>,
        bytes: impl FnOnce(&T) -> u64,
    ) {
        match outcome {
            Ok(Some(value)) => self.note(what, since, &Ok(value), |value| bytes(value)),
            Ok(None) => {}
            Err(errno) => self.note(what, since, &Err::<T, _>(*errno), bytes),
        }
    }
}

/// The meters of all volumes that were open since the mount was made.
#[derive(Default)]
pub(crate) struct Meters(Mutex<HashMap<VolumeId, Arc<Meter>>>);

impl Meters {
    /// A volume's meter, made if it is new.
    pub(crate) fn of(&self, volume: VolumeId) -> Arc<Meter> {
        Arc::clone(self.0.lock().entry(volume).or_default())
    }

    /// What they show. Those of volumes that `exists` does not know are forgotten.
    pub(crate) fn read(&self, exists: &dyn Fn(VolumeId) -> bool) -> Vec<VolumeMetrics> {
        let mut meters = self.0.lock();
        meters.retain(|volume, _| exists(*volume));
        let read = |(volume, meter): (&VolumeId, &Arc<Meter>)| {
            let operation = |what: Operation| {
                let counts = &meter.0[what as usize];
                OperationMetrics {
                    operation: what,
                    durations: counts.durations.read(),
                    bytes: counts.bytes.load(Relaxed),
                    failed: counts.failed.load(Relaxed),
                }
            };
            VolumeMetrics { volume: *volume, operations: Operation::ALL.map(operation).to_vec() }
        };
        meters.iter().map(read).collect()
    }
}

/// What a mount counted.
#[derive(Debug, Clone)]
pub struct MountMetrics {
    /// Volumes that were opened since the mount was made, and still exist.
    pub volumes: Vec<VolumeMetrics>,
    /// Files and directories that are open.
    pub handles: u64,
    /// Threads that wait for the disk.
    pub pool_threads: u64,
    /// Requests that wait for one of them.
    pub queue_requests: u64,
    /// Bytes of writes that do.
    pub queue_bytes: u64,
    /// Requests that were answered with a time-out.
    pub expired: u64,
}

/// What was done to one volume.
#[derive(Debug, Clone)]
pub struct VolumeMetrics {
    /// Which.
    pub volume: VolumeId,
    /// In the order of [`Operation::ALL`].
    pub operations: Vec<OperationMetrics>,
}

/// What was done of one kind.
#[derive(Debug, Clone)]
pub struct OperationMetrics {
    /// The kind.
    pub operation: Operation,
    /// How long each took that went well, from when the request was taken from the kernel to when its answer was known.
    pub durations: Durations,
    /// Bytes that were moved.
    pub bytes: u64,
    /// How many failed.
    pub failed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn what_went_well_what_failed_and_what_was_put_off_are_told_apart() {
        let meters = Meters::default();
        let volume = VolumeId::new();
        let meter = meters.of(volume);
        let since = Instant::now();
        meter.note(Operation::Read, since, &Ok(4096), |bytes| *bytes);
        meter.note(Operation::Read, since, &Ok(0), |bytes| *bytes);
        meter.note_tried(Operation::Read, since, &Ok(Some(512)), |bytes| *bytes);
        meter.note_tried(Operation::Read, since, &Ok(None), |bytes: &u64| *bytes);
        meter.note_tried(Operation::Write, since, &Err(Errno::NOSPC), |bytes: &u64| *bytes);
        let read = meters.read(&|_| true);
        let of = |what: Operation| &read[0].operations[what as usize];
        assert_eq!((of(Operation::Read).durations.count(), of(Operation::Read).bytes, of(Operation::Read).failed), (3, 4608, 0));
        assert_eq!((of(Operation::Write).durations.count(), of(Operation::Write).failed), (0, 1));
        for (number, what) in Operation::ALL.iter().enumerate() {
            assert_eq!((*what as usize, of(*what).operation), (number, *what));
        }
        assert!(meters.read(&|other| other != volume).is_empty());
        assert!(meters.read(&|_| true).is_empty(), "one that is gone is forgotten");
    }
}
