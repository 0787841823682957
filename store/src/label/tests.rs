//! Label files of format version 1, as `FORMAT.md` gives them. The files were made by hand, not by this program.
#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use crate::catalog::records::Change;

fn golden(name: &str, kind: &str) -> (PathBuf, Label, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let bytes = fs::read(&path).unwrap();
    let label = document::decode(&path, kind, &bytes).unwrap();
    (path, label, bytes)
}

#[test]
fn a_volume_s_label_is_as_format_md_says() {
    let (path, label, bytes) = golden("volume-1.json", "volume");
    assert_eq!(read(&path, label.member).unwrap(), label);
    let entry = label.current.as_ref().unwrap();
    let Record::Volume(volume) = &entry.record else { panic!("{entry:?}") };
    assert_eq!(volume.name.as_ref().unwrap().as_bytes(), "db \u{1} größe".as_bytes());
    assert_eq!((volume.mode, volume.serial, entry.stamp.generation), (0o644, 17, 2));
    assert_eq!(entry.layers.iter().map(|layer| layer.revision).collect::<Vec<_>>(), [3, 0, 0]);
    assert_eq!(entry.snapshots[0].layer, entry.layers[1].id);
    let next = label.next.as_ref().unwrap();
    assert_eq!(next.layers().map(|layer| layer.parent).collect::<Vec<_>>(), [volume.head]);
    assert_eq!(next.changes.len(), 4);
    assert_eq!(label.encode(&path).unwrap(), bytes);
}

#[test]
fn an_image_s_label_is_as_format_md_says() {
    let (path, label, bytes) = golden("image-1.json", "image");
    let Record::Image(image) = &label.current.as_ref().unwrap().record else { panic!("{label:?}") };
    assert_eq!((image.size, image.format.as_str()), (4_294_967_297, "qcow2"));
    let next = label.next.as_ref().unwrap();
    assert_eq!((&next.deleted, &next.changes), (&vec![label.member], &vec![Change::DeleteImage(image.id)]));
    assert_eq!(label.encode(&path).unwrap(), bytes);
}

#[test]
fn the_label_of_an_import_is_as_format_md_says() {
    let (path, label, bytes) = golden("importing-1.json", "image");
    assert!(label.current.is_none() && label.next.is_none());
    assert_eq!(label.importing.unwrap().to_string(), "01900000-0000-7000-8000-000000000040");
    assert_eq!(label.encode(&path).unwrap(), bytes);
}

#[test]
fn the_label_of_a_deleted_volume_is_as_format_md_says() {
    let (path, label, bytes) = golden("removed-1.json", "volume");
    let entry = label.current.as_ref().unwrap();
    let kinds: Vec<_> = entry.removed.iter().map(|removed| (removed.serial, removed.group, removed.what.shown())).collect();
    let of = |serial: u64, shown: &str| (serial, 20, shown.to_owned());
    assert_eq!(kinds, [of(20, "volume 'db'"), of(21, "snapshot 'monday/db'"), of(22, "volume 'db'")]);
    assert_eq!(entry.removed[1].layer, entry.layers[0].id);
    let changes = &label.next.as_ref().unwrap().changes;
    assert!(matches!(changes[0], Change::DeleteRemoved { serial: 21, .. }) && matches!(changes[2], Change::PutRemoved(_)));
    assert_eq!(label.encode(&path).unwrap(), bytes);
}
