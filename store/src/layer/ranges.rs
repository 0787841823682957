//! Range locks: overlapping changes of a head take turns, others don't meet.

use parking_lot::{Condvar, Mutex};
use std::ops::Range;

/// The ranges of blocks that are being changed. A handful at a time, so a list is enough.
#[derive(Default)]
pub(crate) struct RangeLock {
    held: Mutex<Vec<Range<u64>>>,
    released: Condvar,
}

/// A locked range; dropping it unlocks.
pub(crate) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    range: Range<u64>,
}

impl RangeLock {
    /// Waits until no overlapping range is held, and takes this one.
    pub fn lock(&self, range: Range<u64>) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while overlaps(&held, &range) {
            self.released.wait(&mut held);
        }
        held.push(range.clone());
        RangeGuard { lock: self, range }
    }

    /// Takes the range if nobody holds any part of it. The list itself is never held for long, so it is waited for.
    pub fn try_lock(&self, range: Range<u64>) -> Option<RangeGuard<'_>> {
        let mut held = self.held.lock();
        if overlaps(&held, &range) {
            return None;
        }
        held.push(range.clone());
        Some(RangeGuard { lock: self, range })
    }
}

fn overlaps(held: &[Range<u64>], range: &Range<u64>) -> bool {
    held.iter().any(|other| other.start < range.end && range.start < other.end)
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(at) = held.iter().position(|range| *range == self.range) {
            held.swap_remove(at);
        }
        drop(held);
        self.lock.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_overlapping_ranges_exclude_each_other() {
        let lock = RangeLock::default();
        let first = lock.lock(10..20);
        assert!(lock.try_lock(19..21).is_none());
        assert!(lock.try_lock(5..11).is_none());
        let beside = lock.try_lock(20..30);
        assert!(beside.is_some());
        drop(first);
        assert!(lock.try_lock(19..20).is_some());
    }
}
