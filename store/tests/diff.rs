//! Diffs of snapshots: every byte that differs is in one, and what nobody touched is in none.

#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_store::{Allocate, Name, NewVolume, Store, StoreOptions};
use std::collections::BTreeMap;
use std::ops::Range;

/// The far region that no change touches.
const FAR: Range<u64> = 6 << 20..7 << 20;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn diff(store: &Store, a: &str, b: Option<&str>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    store
        .diff(&name("v"), &name(a), b.map(name).as_ref(), &mut |range| {
            assert!(!range.is_empty() && ranges.last().is_none_or(|last| last.end < range.start), "{range:?} after {ranges:?}");
            ranges.push(range);
            Ok(())
        })
        .unwrap();
    ranges
}

#[track_caller]
fn check(a: &[u8], b: &[u8], ranges: &[Range<u64>], far: bool) {
    let padded = |side: &[u8]| [side, &vec![0; a.len().max(b.len()) - side.len()]].concat();
    let (whole_a, whole_b) = (padded(a), padded(b));
    // Whole blocks first: byte by byte is slow.
    for (block, (of_a, of_b)) in whole_a.chunks(4096).zip(whole_b.chunks(4096)).enumerate().filter(|(_, (a, b))| a != b) {
        for (index, _) in of_a.iter().zip(of_b).enumerate().filter(|(_, (a, b))| a != b) {
            let at = (block * 4096 + index) as u64;
            assert!(ranges.iter().any(|range| range.contains(&at)), "byte {at} differs, but is not in {ranges:?}");
        }
    }
    assert!(ranges.iter().all(|range| range.end <= a.len().max(b.len()) as u64));
    assert!(!far || ranges.iter().all(|range| range.end <= FAR.start || range.start >= FAR.end), "{ranges:?}");
}

#[test]
fn every_pair_of_a_random_history_is_covered() {
    for seed in 1..=6_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        // Odd seeds shrink too, which may touch everything.
        let shrinks = seed % 2 == 1;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions { create: true, ..StoreOptions::default() }).unwrap();
        let new = NewVolume { size: Some(8 << 20), image: None, mode: 0o644, uid: 0, gid: 0 };
        let volume = store.create_volume(&name("v"), &new).unwrap();
        volume.write_at(&vec![9; 1 << 20], FAR.start).unwrap();
        let content = || {
            let mut all = vec![0; usize::try_from(volume.stat().size).unwrap()];
            assert_eq!(volume.read_at(&mut all, 0).unwrap(), all.len());
            all
        };
        let mut taken: Vec<Vec<u8>> = Vec::new();
        for number in 0..5 {
            for _ in 0..=next(4) {
                let (at, length) = (next(5 << 20), 1 + next(50_000));
                match next(4) {
                    0 => volume.allocate(Allocate::Punch, at, length).unwrap(),
                    1 if shrinks => volume.set_size(next(9 << 20)).unwrap(),
                    _ => volume.write_at(&vec![next(255) as u8 + 1; length as usize], at).unwrap(),
                }
            }
            store.snapshot(&name("v"), &name(&format!("s{number}")), &BTreeMap::new()).unwrap();
            taken.push(content());
        }
        // Not flushed: only the marks know it.
        volume.write_at(b"now", 12_345).unwrap();
        let now = content();
        for (a, of_a) in taken.iter().enumerate() {
            let a = format!("s{a}");
            for (b, of_b) in taken.iter().enumerate() {
                check(of_a, of_b, &diff(&store, &a, Some(&format!("s{b}"))), !shrinks);
            }
            assert_eq!(diff(&store, &a, Some(&a)), [], "seed {seed}");
            check(of_a, &now, &diff(&store, &a, None), !shrinks);
        }
        assert_eq!(diff(&store, "s4", None), vec![Range { start: 12_288, end: 16_384 }], "seed {seed}");
    }
}
