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
