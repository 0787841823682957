//! Durations, counted by size.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The bounds of the buckets, in nanoseconds: 25 µs (the page cache) to 10 s (a disk in distress). What is longer is in one more.
pub const BOUNDS_NS: [u64; 14] = [
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    50_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Two additions a duration. The number of all durations is the sum of the buckets.
#[derive(Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(super) fn add(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    pub(super) fn read(&self) -> Durations {
        Durations {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Relaxed)).to_vec(),
            sum_ns: self.sum_ns.load(Relaxed),
        }
    }
}

/// What a histogram holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durations {
    /// How many durations are at most each of [`BOUNDS_NS`] and more than the one before; last, how many are longer than all.
    pub buckets: Vec<u64>,
    /// All of them together, in nanoseconds.
    pub sum_ns: u64,
}

impl Durations {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for ns in [0, 25_000, 25_001, 10_000_000_000, 10_000_000_001] {
            histogram.add(Duration::from_nanos(ns));
        }
        let read = histogram.read();
        let filled: Vec<_> = read.buckets.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &2), (1, &1), (13, &1), (14, &1)]);
        assert_eq!((read.count(), read.sum_ns), (5, 20_000_050_002));
        assert!(BOUNDS_NS.is_sorted());
    }
}
