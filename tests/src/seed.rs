//! Randomness that can be had again.
//!
//! `OUTCROP_TEST_SEED=N` replays a run; `OUTCROP_TEST_SECONDS=N` makes the random suites run that long.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64): the same numbers everywhere for the same seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// From a number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From `OUTCROP_TEST_SEED` or the clock. Prints the command that replays the test (shown if it fails).
    pub fn announced() -> Self {
        let given = std::env::var("OUTCROP_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() as u64 % 1_000_000_000
        });
        let suite =
            std::env::current_exe().ok().and_then(|path| Some(path.file_name()?.to_str()?.rsplit_once('-')?.0.to_owned()));
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        println!(
            "seed {seed}; replay: OUTCROP_TEST_SEED={seed} cargo test -p outcrop-tests --test {} {test} -- --exact --nocapture",
            suite.unwrap_or_default()
        );
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit` (not 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit
    }

    /// A number in `from..to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Bytes without a zero byte, so that none of them looks like a hole.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend((self.any() | 0x0101_0101_0101_0101).to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// A generator of its own, for a thread.
    pub fn fork(&mut self) -> Self {
        Self(self.any())
    }
}

/// How long a random suite runs: `OUTCROP_TEST_SECONDS`, or `short`.
pub fn seconds(short: u64) -> Duration {
    Duration::from_secs(std::env::var("OUTCROP_TEST_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(short))
}
