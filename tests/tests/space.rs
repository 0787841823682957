//! What `outcrop space` says on a mount, beside a recount of the map files by the format's own words, and beside what
//! is really free after each deletion.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Metrics, Rng, TestStore, require_mount, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Bytes in state data in every map of a store's directory: two bits a block, 128 bytes from byte 128 of each record of 512, from
/// byte 8192 on.
fn recount(store: &Path) -> u64 {
    let mut blocks = 0;
    for layer in fs::read_dir(store.join("layers")).unwrap().flatten() {
        // One that is dropped at this moment has none.
        let Ok(map) = fs::read(layer.path().join("map")) else { continue };
        for record in map.get(8192..).unwrap_or_default().chunks(512).filter(|record| record.starts_with(b"OCMR")) {
            let states = record[128..512].iter().flat_map(|byte| [byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6]);
            blocks += states.filter(|state| *state == 1).count() as u64;
        }
    }
    blocks * BLOCK
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} in {value}"))
}

/// The report, which must add up.
fn space(store: &TestStore) -> Value {
    let report = store.json(["space"]);
    let parts: u64 = ["alone", "shared", "unseen", "merging", "dropping"].iter().map(|part| number(&report, part)).sum();
    assert_eq!(parts, number(&report, "held"), "{report}");
    let names = report["names"].as_array().unwrap();
    let alone: u64 = names.iter().map(|name| number(name, "alone")).sum();
    assert_eq!(alone, number(&report, "alone"), "{report}");
    for name in names {
        assert_eq!(number(name, "data"), number(name, "alone") + number(name, "shared"), "{name}");
    }
    assert_eq!(report["unreadable"], Value::Array(Vec::new()));
    report
}

/// The report when nothing is left to merge or to drop; checked against the recount.
fn settled(store: &TestStore) -> Value {
    let mut report = Value::Null;
    wait_until("merges and drops to be done", || {
        report = space(store);
        number(&report, "merging") + number(&report, "merges") + number(&report, "dropping") == 0
    });
    store.run(["flush"]);
    assert_eq!(number(&report, "held"), recount(store.store()), "{report}");
    report
}

fn of(report: &Value, name: &str, snapshot: Option<&str>) -> Value {
    let names = report["names"].as_array().unwrap();
    let is = |found: &&Value| found["name"] == name && found["snapshot"] == snapshot.map_or(Value::Null, Value::from);
    names.iter().find(is).unwrap_or_else(|| panic!("{name} {snapshot:?} in {report}")).clone()
}

fn write(store: &TestStore, volume: &str, offset: u64, length: u64) {
    let file = File::options().write(true).create(true).truncate(false).open(store.file(volume)).unwrap();
    file.write_all_at(&Rng::new(offset).bytes(usize::try_from(length).unwrap()), offset).unwrap();
}

#[test]
fn tables_and_fields_tell_what_volumes_snapshots_and_images_hold() {
    require_mount!();
    let store = TestStore::mounted("space-tables");
    let image = store.outside("image.raw");
    fs::write(&image, Rng::new(3).bytes((2 * MIB) as usize)).unwrap();
    store.run(["image", "import", "base", image.to_str().unwrap(), "--progress", "none"]);
    for volume in ["vm1", "vm2"] {
        store.run(["volume", "create", volume, "--image", "base", "--size", "16M"]);
    }
    write(&store, "vm1", 0, MIB);
    write(&store, "db", 0, 4 * MIB);
    store.snapshot_all("monday");
    write(&store, "db", MIB, MIB);

    let report = settled(&store);
    // vm1, vm2 and their snapshots all need the image's second half; vm2 and its own the first.
    assert_eq!((number(&report, "held"), number(&report, "shared")), (8 * MIB, 2 * MIB + MIB + 3 * MIB));
    let base = of(&report, "base", None);
    assert_eq!((number(&base, "alone"), number(&base, "frees"), number(&base, "under")), (0, 0, 2));
    let db = of(&report, "db", None);
    assert_eq!((number(&db, "data"), number(&db, "alone"), number(&db, "frees")), (4 * MIB, MIB, MIB));
    let monday = of(&report, "db", Some("monday"));
    assert_eq!((number(&monday, "shared"), number(&monday, "frees")), (3 * MIB, MIB));

    let table = store.run(["space"]);
    let line = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {table}"));
    assert!(line("base").ends_with("2 stand on it"), "{table}");
    assert!(line("db@monday").contains("1.0 MiB"), "{table}");
    assert!(line("held").contains("8.0 MiB"), "{table}");
    let shown = store.json(["volume", "show", "db"]);
    assert_eq!((number(&shown, "alone"), number(&shown, "frees"), number(&shown, "all_frees")), (MIB, MIB, 5 * MIB));
    assert!(store.run(["volume", "show", "db"]).contains("deleting frees"));

    // The same without the daemon.
    store.umount();
    let (here, there) = (space(&store), report);
    assert_eq!((&here["names"], &here["held"]), (&there["names"], &there["held"]));
}

/// Deletes, and compares what comes back with what was said.
fn deletion_frees(store: &TestStore, name: &str, snapshot: Option<&str>, delete: impl FnOnce()) {
    let before = settled(store);
    let said = number(&of(&before, name, snapshot), "frees");
    delete();
    let after = settled(store);
    assert_eq!(number(&before, "held") - number(&after, "held"), said, "{name} {snapshot:?}\nbefore: {before}\nafter: {after}");
}

#[test]
fn deleting_a_snapshot_a_volume_or_a_clone_frees_what_was_said() {
    require_mount!();
    let store = TestStore::new("space-frees").with(&["-o", "undo=0"]);
    store.mount();
    write(&store, "db", 0, 8 * MIB);
    for (at, snapshot) in ["mon", "tue", "wed"].into_iter().enumerate() {
        store.snapshot_all(snapshot);
        write(&store, "db", at as u64 * MIB, 2 * MIB);
    }
    for clone in ["one", "two"] {
        store.run(["volume", "clone", "db@tue", clone]);
        write(&store, clone, 0, 4 * MIB);
    }
    let remove = |path: &str| fs::remove_file(store.file(path)).unwrap();
    // Two clones and the next snapshot stand on it: not a byte, though nobody else sees all of it.
    let tuesday = of(&settled(&store), "db", Some("tue"));
    assert_eq!((number(&tuesday, "frees"), number(&tuesday, "under")), (0, 3));
    deletion_frees(&store, "db", Some("tue"), || remove(".snapshots/tue/db"));
    deletion_frees(&store, "db", Some("mon"), || fs::remove_dir(store.set("mon")).unwrap());
    deletion_frees(&store, "one", None, || remove("one"));
    deletion_frees(&store, "db", Some("wed"), || {
        store.run(["snapshot", "delete", "db", "wed", "--now"]);
    });
    deletion_frees(&store, "two", None, || remove("two"));
    deletion_frees(&store, "db", None, || remove("db"));
    assert_eq!(number(&settled(&store), "held"), 0);
    let freed = Metrics::parse(&store.run(["metrics"])).get("outcrop_freed_bytes_total", &[]);
    assert_eq!(freed, (8 * MIB + 3 * 2 * MIB + 2 * 4 * MIB) as f64, "all that was ever held by several layers");
    store.umount();
}

#[test]
fn who_holds_what_waits_for_a_merge_is_named_and_undo_has_its_share() {
    require_mount!();
    let store = TestStore::mounted("space-waits");
    write(&store, "db", 0, 4 * MIB);
    for snapshot in ["mon", "tue"] {
        store.snapshot_all(snapshot);
        write(&store, "db", 0, 3 * MIB);
    }
    fs::remove_dir(store.set("mon")).unwrap();
    let report = settled(&store);
    assert_eq!((number(&report, "undo"), number(&report, "held")), (3 * MIB, 10 * MIB));
    let removed = report["names"].as_array().unwrap().iter().find(|name| name["kind"] == "removed").unwrap();
    assert_eq!((&removed["snapshot"], number(removed, "frees")), (&Value::from("mon"), 3 * MIB));
    assert!(store.run(["space"]).contains("kept for undo"));

    // What is open and deleted for good waits for who has it open.
    let open = File::open(store.set("tue").join("db")).unwrap();
    store.run(["snapshot", "delete", "db", "tue", "--now"]);
    let mut waits = String::new();
    wait_until("the holder to be named", || {
        let report = space(&store);
        waits = report["waits"].to_string();
        waits.contains("tue/db")
    });
    let report = space(&store);
    assert_eq!((number(&report, "merging"), number(&report, "merges"), number(&report, "undo")), (3 * MIB, 1, 3 * MIB));
    assert!(store.run(["space"]).contains("waiting: "), "{waits}");
    drop(open);
    assert_eq!(number(&settled(&store), "held"), 7 * MIB);
    store.umount();
}

#[test]
fn what_is_written_and_discarded_is_seen_at_once_and_after_a_kill() {
    require_mount!();
    let store = TestStore::mounted("space-discard");
    write(&store, "v", 0, 8 * MIB);
    assert_eq!(number(&of(&space(&store), "v", None), "alone"), 8 * MIB);
    outcrop_tests::run(Command::new("fallocate").args(["--punch-hole", "-o", "1M", "-l", "3M"]).arg(store.file("v")));
    assert_eq!(number(&of(&space(&store), "v", None), "alone"), 5 * MIB);
    settled(&store);
    fs::write(store.file("v"), [1]).unwrap();
    assert_eq!(number(&settled(&store), "held"), BLOCK);
    store.kill_and_mount();
    assert_eq!(number(&settled(&store), "held"), BLOCK);
}
