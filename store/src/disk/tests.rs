//! Opening a directory as a disk.
#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;

fn create() -> StoreOptions {
    StoreOptions { create: true, ..StoreOptions::default() }
}

fn reason(path: &Path, options: &StoreOptions) -> String {
    match Disk::open(path, options).map(drop).unwrap_err() {
        Error::NotAStore { reason, .. } => reason,
        e => panic!("{e:?}"),
    }
}

#[test]
fn makes_a_store_and_opens_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    assert_eq!(reason(&path, &StoreOptions::default()), "there is no such directory");
    let (disk, repaired) = Disk::open(&path, &create()).unwrap();
    assert_eq!(repaired, [""; 0]);
    let id = (disk.id, disk.store);
    drop(disk);
    let (disk, repaired) = Disk::open(&path, &StoreOptions::default()).unwrap();
    assert_eq!((disk.id, disk.store), id);
    assert_eq!(repaired, [""; 0]);
}

#[test]
fn a_second_opener_is_told_the_pid() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = Disk::open(dir.path(), &create()).unwrap();
    let error = Disk::open(dir.path(), &create()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error:?}");
}

#[test]
fn refuses_what_is_no_store_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    assert_eq!(reason(&file, &create()), "it is not a directory");
    assert_eq!(reason(&file.join("below"), &create()), "a part of the path is not a directory");
    assert!(reason(dir.path(), &create()).contains("but 'file'"));
    assert_eq!(durable::names_in(dir.path()).unwrap(), ["file"]);
    fs::remove_file(&file).unwrap();
    assert!(reason(dir.path(), &StoreOptions::default()).contains("no outcrop.json"));
    assert!(durable::names_in(dir.path()).unwrap().is_empty());
    // A fresh ext4 is empty.
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    assert_eq!(Disk::open(dir.path(), &create()).unwrap().1, [""; 0]);
}

#[test]
fn a_lost_identity_is_never_made_anew_over_volumes() {
    let dir = tempfile::tempdir().unwrap();
    drop(Disk::open(dir.path(), &create()).unwrap());
    fs::write(dir.path().join("volumes/x.json"), b"x").unwrap();
    fs::remove_file(dir.path().join("outcrop.json")).unwrap();
    assert!(reason(dir.path(), &create()).contains("volumes/x.json"));
}

#[test]
fn every_kill_while_a_store_is_made_is_repaired() {
    for steps in 0..=7 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("lock"), b"1234           \n").unwrap();
        for name in identity::DIRS.iter().take(steps) {
            fs::create_dir(path.join(name)).unwrap();
        }
        if steps > 5 {
            fs::write(path.join("outcrop.json.tmp"), b"{\"outc").unwrap();
        }
        if steps > 6 {
            identity::make(path).unwrap();
        }
        let (disk, _) = Disk::open(path, &create()).unwrap();
        drop(disk);
        assert_eq!(Disk::open(path, &StoreOptions::default()).unwrap().1, [""; 0], "{steps}");
    }
}

#[test]
fn refuses_a_newer_format_without_touching_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outcrop.json"), br#"{"outcrop":"store","format":2,"else":1}"#).unwrap();
    let error = Disk::open(dir.path(), &create()).map(drop).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }), "{error:?}");
    assert_eq!(durable::names_in(dir.path()).unwrap(), ["outcrop.json"]);
}

#[test]
fn leftovers_of_replacements_are_removed_and_told() {
    let dir = tempfile::tempdir().unwrap();
    drop(Disk::open(dir.path(), &create()).unwrap());
    fs::write(dir.path().join("volumes/x.json.tmp"), b"half").unwrap();
    let (_, repaired) = Disk::open(dir.path(), &create()).unwrap();
    assert_eq!(repaired.len(), 1);
    assert!(!dir.path().join("volumes/x.json.tmp").exists());
}

#[test]
fn the_identity_file_is_as_format_md_says() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/outcrop-1.json");
    let identity: identity::Identity = document::decode(&golden, "store", &fs::read(&golden).unwrap()).unwrap();
    assert_eq!(identity.store.to_string(), "01900000-0000-7000-8000-000000000001");
    assert_eq!(identity.disk.to_string(), "01900000-0000-7000-8000-000000000002");
    assert_eq!(identity.created_ns, 1_700_000_000_123_456_789);
    assert_eq!(document::encode(&golden, "store", &identity).unwrap(), fs::read(&golden).unwrap());
}
