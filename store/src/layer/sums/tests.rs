//! Sums on a real layer: put, read back, damaged, lost, removed.
#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use crate::layer::{self, NewLayer};
use crate::store::StoreOptions;
use std::fs::OpenOptions;

fn sealed(path: &std::path::Path) -> (Arc<Disk>, Arc<Layer>) {
    let (disk, _) = Disk::open(path, &StoreOptions { create: true, ..StoreOptions::default() }).unwrap();
    let id = LayerId::new();
    let new =
        NewLayer { id, parent: None, size: 64 << 20, data_blocks: 0, inexact: false, atime_ns: 0, mtime_ns: 0, ctime_ns: 0 };
    layer::create(&disk, &new).unwrap();
    let layer = Layer::open(&disk, id).unwrap();
    layer.seal().unwrap();
    (disk, layer)
}

fn flip(layer: &Layer, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(layer.dir.join(FILE)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn ten(from: u32) -> Vec<Option<u32>> {
    (from..from + 10).map(|sum| (sum % 3 != 0).then_some(sum)).collect()
}

#[test]
fn sums_are_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = sealed(dir.path());
    assert_eq!(layer.sums().get(500..510).unwrap(), vec![None; 10]);
    assert!(!layer.sums().exist());
    // Over the edge of a chunk.
    layer.sums().put(507, &ten(1)).unwrap();
    layer.sums().sync().unwrap();
    let want: Vec<_> = [None].into_iter().chain(ten(1)).chain([None]).collect();
    for layer in [Arc::clone(&layer), Layer::open(&disk, layer.id).unwrap()] {
        assert_eq!(layer.sums().get(506..518).unwrap(), want);
        assert_eq!(layer.sums().try_chunk(1).unwrap().get(1), want[7]);
        // Behind the end of the file.
        assert_eq!(layer.sums().get(16_000..16_001).unwrap(), [None]);
        assert_eq!(layer.sums().try_chunk(31).unwrap().get(0), None);
    }
    let golden = include_bytes!("../../../tests/golden/sums-header-1.bin");
    assert_eq!(header(LayerId::from_bytes(std::array::from_fn(|i| 0x20 + i as u8))), *golden);
    let file = std::fs::read(layer.dir.join(FILE)).unwrap();
    assert_eq!((file.len(), &file[..512]), (4096 + 2 * 2560, &header(layer.id)[..]));
}

#[test]
fn what_was_cached_is_not_believed_after_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let (_, layer) = sealed(dir.path());
    layer.sums().put(0, &[Some(1), Some(2)]).unwrap();
    assert_eq!(layer.sums().get(0..2).unwrap(), [Some(1), Some(2)]);
    layer.sums().put(1, &[Some(3)]).unwrap();
    assert_eq!(layer.sums().get(0..2).unwrap(), [Some(1), Some(3)]);
    layer.sums().put(0, &[None]).unwrap();
    assert_eq!(layer.sums().get(0..2).unwrap(), [None, Some(3)]);
    layer.sums().remove().unwrap();
    assert_eq!(layer.sums().get(0..2).unwrap(), [None, None]);
    assert!(!layer.dir.join(FILE).exists());
    layer.sums().put(0, &[Some(9)]).unwrap();
    layer.sums().sync().unwrap();
    assert_eq!(layer.sums().get(0..2).unwrap(), [Some(9), None]);
}

#[test]
fn taking_a_sum_away_ends_completeness_first() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = sealed(dir.path());
    layer.sums().put(0, &[Some(1), Some(2)]).unwrap();
    layer.sums().sync().unwrap();
    layer.sums().set_complete(true).unwrap();
    assert!(Layer::open(&disk, layer.id).unwrap().sums().are_complete());
    layer.sums().put(0, &[Some(7)]).unwrap();
    assert!(layer.sums().are_complete());
    layer.sums().put(0, &[Some(7), None]).unwrap();
    assert!(!Layer::open(&disk, layer.id).unwrap().sums().are_complete());
}

#[test]
fn a_damaged_record_costs_its_own_sums_and_stays_told() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = sealed(dir.path());
    layer.sums().put(0, &(0..512).map(Some).collect::<Vec<_>>()).unwrap();
    layer.sums().sync().unwrap();
    flip(&layer, 4096 + 512 + 200);
    let layer = Layer::open(&disk, layer.id).unwrap();
    let expect = |layer: &Layer, lost: Range<u32>| {
        let want: Vec<_> = (0..512).map(|sum| (!lost.contains(&sum)).then_some(sum)).collect();
        assert_eq!(layer.sums().get(0..512).unwrap(), want);
    };
    expect(&layer, 103..206);
    // A change beside it doesn't hide it.
    layer.sums().put(0, &[Some(0)]).unwrap();
    expect(&layer, 103..206);
    assert_eq!(layer.sums().read_chunk(0).unwrap().1, [(1, "checksum does not fit")]);
    // One in it makes it good, with what is known.
    layer.sums().put(103, &[Some(103)]).unwrap();
    expect(&layer, 104..206);
    assert!(layer.sums().read_chunk(0).unwrap().1.is_empty());
    assert_eq!(layer.sums().header_fault().unwrap(), None);
    flip(&layer, 9);
    assert!(layer.sums().header_fault().unwrap().is_some());
    expect(&Layer::open(&disk, layer.id).unwrap(), 104..206);
}

#[test]
fn a_file_that_was_being_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = sealed(dir.path());
    File::create(layer.dir.join(FILE)).unwrap();
    let layer = Layer::open(&disk, layer.id).unwrap();
    assert_eq!(layer.sums().get(0..1).unwrap(), [None]);
    let layer = Layer::open(&disk, layer.id).unwrap();
    layer.sums().put(0, &[Some(5)]).unwrap();
    assert_eq!(Layer::open(&disk, layer.id).unwrap().sums().get(0..1).unwrap(), [Some(5)]);
    assert_eq!(layer.sums().header_fault().unwrap(), None);
}

#[test]
fn a_head_has_no_sums() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = sealed(dir.path());
    layer.sums().put(0, &[Some(5)]).unwrap();
    layer.write_header(|header| header.sealed = false).unwrap();
    let (head, _) = crate::layer::Head::open(Layer::open(&disk, layer.id).unwrap()).unwrap();
    assert!(!layer.dir.join(FILE).exists());
    head.layer.sums().put(0, &[Some(5)]).unwrap();
    assert!(!layer.dir.join(FILE).exists());
    assert_eq!(head.layer.sums().get(0..1).unwrap(), [None]);
}

/// A layer with data in these blocks, written as an image's is, but without sums.
fn with_data(path: &std::path::Path, blocks: &[u64]) -> (Arc<Disk>, Arc<Layer>) {
    let (disk, layer) = sealed(path);
    for block in blocks {
        layer.data.write(&[&[(*block % 251) as u8 + 1; 4096]], block * 4096).unwrap();
        let chunk = block / CHUNK_BLOCKS;
        let mut record = layer.map.read_record(chunk / 3).unwrap();
        record.chunks[(chunk % 3) as usize].set((block % CHUNK_BLOCKS) as usize, crate::layer::states::State::Data);
        layer.map.write_record(chunk / 3, &record).unwrap();
    }
    layer.data.sync().unwrap();
    layer.map.sync().unwrap();
    (disk, layer)
}

const BLOCKS: [u64; 8] = [0, 1, 5, 511, 512, 2000, 2001, 15_000];

fn expect_all(layer: &Layer) {
    for block in BLOCKS {
        assert_eq!(
            layer.sums().get(block..block + 1).unwrap(),
            [Some(crc32c::crc32c(&[(block % 251) as u8 + 1; 4096]))],
            "{block}"
        );
    }
    assert_eq!(layer.sums().get(2..5).unwrap(), [None; 3]);
    assert_eq!(layer.sums().count().unwrap(), (8, 8));
    assert!(layer.sums().are_complete());
    assert_eq!(layer.sums().check(10).unwrap(), Vec::<String>::new());
}

#[test]
fn sums_are_made_step_by_step_and_gone_on_with_after_a_kill_at_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = with_data(dir.path(), &BLOCKS);
    let mut chunk = 0;
    for kill in 0.. {
        // What a kill here leaves is what another process finds in the files.
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join("s");
        let status = std::process::Command::new("cp").arg("-a").arg(&disk.path).arg(&to).status().unwrap();
        assert!(status.success());
        let (other, _) = Disk::open(&to, &StoreOptions::default()).unwrap();
        let left = Layer::open(&other, layer.id).unwrap();
        assert!(!left.sums().are_complete());
        assert!(matches!(left.sums().make(0, u64::MAX, true), Ok(Step::Complete)));
        expect_all(&Layer::open(&other, layer.id).unwrap());
        match layer.sums().make(chunk, 1, true).unwrap() {
            Step::At(next) => chunk = next,
            Step::Complete => {
                assert!(kill >= 3, "{kill}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    expect_all(&layer);
}

#[test]
fn power_lost_while_sums_are_written_leaves_each_record_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = with_data(dir.path(), &BLOCKS);
    layer.sums().make(0, u64::MAX, true).unwrap();
    let file = std::fs::read(layer.dir.join(FILE)).unwrap();
    let records: Vec<usize> = (8..file.len() / 512).filter(|at| file[at * 512..][..512] != [0; 512]).collect();
    assert!(records.len() >= 5);
    for kept in 0..1 << records.len() {
        // Any of them may have reached the disk; the header, which was synced before, has; the flag has not.
        let mut torn = file.clone();
        for (index, at) in records.iter().enumerate().filter(|(index, _)| kept >> index & 1 == 0) {
            let _ = index;
            torn[at * 512..][..512].fill(0);
        }
        std::fs::write(layer.dir.join(FILE), torn).unwrap();
        Layer::open(&disk, layer.id).unwrap().sums().set_complete(false).unwrap();
        let layer = Layer::open(&disk, layer.id).unwrap();
        assert!(layer.sums().check(10).unwrap().is_empty());
        assert!(matches!(layer.sums().make(0, u64::MAX, true), Ok(Step::Complete)));
        expect_all(&layer);
    }
}

#[test]
fn what_a_damaged_record_was_of_is_not_summed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = with_data(dir.path(), &BLOCKS);
    layer.sums().make(0, u64::MAX, true).unwrap();
    flip(&layer, 4096 + 100);
    layer.sums().set_complete(false).unwrap();
    let layer = Layer::open(&disk, layer.id).unwrap();
    assert!(matches!(layer.sums().make(0, u64::MAX, true), Ok(Step::Complete)));
    assert_eq!(layer.sums().get(0..2).unwrap(), [None, None]);
    let found = layer.sums().check(10).unwrap();
    assert!(found.len() == 1 && found[0].contains("sums record 0"), "{found:?}");
    // A file that is gone, and records that are.
    std::fs::remove_file(layer.dir.join(FILE)).unwrap();
    let found = Layer::open(&disk, layer.id).unwrap().sums().check(10).unwrap();
    assert!(found.len() == 1 && found[0].contains("are missing"), "{found:?}");
    File::create(layer.dir.join(FILE)).unwrap();
    let found = Layer::open(&disk, layer.id).unwrap().sums().check(10).unwrap().join("; ");
    assert!(found.contains("8 blocks of layer"), "{found}");
}

/// A merge between two steps brings blocks without sums, behind where the next step goes on.
#[test]
fn blocks_that_come_behind_a_step_are_summed_before_the_layer_is_called_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (_disk, layer) = with_data(dir.path(), &[0, 600, 1200, 1800]);
    let Step::At(chunk) = layer.sums().make(0, 1, true).unwrap() else { panic!("it is done already") };
    assert!(chunk > 0);
    layer.data.write(&[&[9; 4096]], 4096).unwrap();
    layer.data.sync().unwrap();
    layer.sums().put(1, &[None]).unwrap();
    layer.change_states(&[0], |_, states| states.set(1, crate::layer::states::State::Data)).unwrap();
    let mut step = layer.sums().make(chunk, u64::MAX, true).unwrap();
    while let Step::At(chunk) = step {
        assert!(!layer.sums().are_complete());
        step = layer.sums().make(chunk, u64::MAX, true).unwrap();
    }
    assert!(matches!(step, Step::Complete), "{step:?}");
    assert_eq!(layer.sums().count().unwrap(), (5, 5));
}

/// A kill between making the file and its header leaves this: it is as none. Where there are records, a header is missing.
#[test]
fn a_file_without_a_header_is_damage_only_if_it_had_one() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, layer) = with_data(dir.path(), &BLOCKS);
    std::fs::File::create(layer.dir.join(FILE)).unwrap();
    let found = Layer::open(&disk, layer.id).unwrap();
    assert!(found.sums().exist());
    assert_eq!(found.sums().check(10).unwrap(), Vec::<String>::new());
    assert!(matches!(found.sums().make(0, u64::MAX, true), Ok(Step::Complete)));
    expect_all(&found);
    let file = OpenOptions::new().write(true).open(layer.dir.join(FILE)).unwrap();
    file.write_all_at(&[0; RECORD_BYTES], 0).unwrap();
    let found = Layer::open(&disk, layer.id).unwrap();
    assert!(found.sums().check(10).unwrap()[0].contains("header"), "its header is gone");
}
