//! Schedules over a real store: what is kept where, whose snapshots are whose, and what has had its time.
#![expect(clippy::unwrap_used, reason = "a test may")]

use jiff::Timestamp;
use jiff::tz::TimeZone;
use outcrop_store::schedule::{Retention, Run, Schedule, ScheduleChange, Timing, Volumes};
use outcrop_store::{DeleteVolume, Error, Keep, Name, NewVolume, ScheduledSnapshot, Store, StoreOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn open(path: &Path) -> Store {
    Store::open(path, &StoreOptions { create: true, cache_bytes: 1 << 20, ..StoreOptions::default() }).unwrap()
}

fn volume(store: &Store, text: &str) {
    let new = NewVolume { size: Some(1 << 20), image: None, mode: 0o644, uid: 0, gid: 0 };
    store.create_volume(&name(text), &new).unwrap();
}

fn hourly() -> ScheduleChange {
    ScheduleChange { timing: Some(Timing::EveryS(3600)), ..ScheduleChange::default() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn sets(store: &Store) -> BTreeSet<String> {
    store.snapshot_sets().iter().map(|set| set.name.to_string()).collect()
}

fn take(store: &Store, schedule: &Schedule, time: &str) -> String {
    scheduled(store, schedule, time).name.unwrap().to_string()
}

fn scheduled(store: &Store, schedule: &Schedule, time: &str) -> ScheduledSnapshot {
    let name = store.schedule_snapshot_name(schedule, at(time)).unwrap();
    store.snapshot_scheduled(schedule, &name).unwrap()
}

#[test]
fn schedules_outlive_the_process_and_the_catalog() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    volume(&store, "v");
    let made = store.add_schedule(&name("h"), hourly(), &TimeZone::UTC).unwrap();
    assert!(matches!(store.add_schedule(&name("h"), hourly(), &TimeZone::UTC), Err(Error::Exists { .. })));
    let run = Run { due_ns: Some(5), begun_ns: 6, ended_ns: made.handled_ns + 7, ..Run::default() };
    let ran = store.schedule_ran(&name("h"), run).unwrap();
    assert_eq!(ran.handled_ns, made.handled_ns + 7);
    let taken = take(&store, &ran, "2026-11-24T03:00:00Z");
    store.close().unwrap();
    assert!(matches!(store.schedules(), Err(Error::Closed)));
    drop(store);

    let options = StoreOptions { rebuild_catalog: true, ..StoreOptions::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    assert_eq!(store.schedules().unwrap(), std::slice::from_ref(&ran));
    let own = store.snapshots_of_schedule(&ran).unwrap();
    assert_eq!(own.iter().map(|info| info.name.to_string()).collect::<Vec<_>>(), std::slice::from_ref(&taken));
    store.remove_schedule(&name("h")).unwrap();
    assert!(store.schedules().unwrap().is_empty());
    assert!(sets(&store).contains(&taken), "its snapshots stay");
    // One of the same name is another.
    let other = store.add_schedule(&name("h"), hourly(), &TimeZone::UTC).unwrap();
    assert!(store.snapshots_of_schedule(&other).unwrap().is_empty());
}

#[test]
fn damaged_schedules_are_put_aside_and_the_store_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_schedule(&name("h"), hourly(), &TimeZone::UTC).unwrap();
    drop(store);
    let file = dir.path().join("schedules.json");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    std::fs::write(dir.path().join("schedules.json.tmp"), b"half").unwrap();

    let store = open(dir.path());
    assert!(store.schedules().unwrap().is_empty());
    assert!(store.events().iter().any(|event| event.message.contains("schedules.json is damaged")), "{:?}", store.events());
    assert_eq!(std::fs::read(dir.path().join("lost+found/schedules.json-1")).unwrap(), bytes);
    assert!(dir.path().join("lost+found/schedules.json-1.reason").exists());
    store.add_schedule(&name("h"), hourly(), &TimeZone::UTC).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).schedules().unwrap().len(), 1);
}

#[test]
fn schedules_of_a_newer_program_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let newer = br#"{"outcrop":"schedules","format":9,"anything":1}"#;
    std::fs::write(dir.path().join("schedules.json"), newer).unwrap();
    let store = open(dir.path());
    assert!(matches!(store.schedules(), Err(Error::NewerFormat { found: 9, .. })));
    assert!(matches!(store.add_schedule(&name("h"), hourly(), &TimeZone::UTC), Err(Error::NewerFormat { .. })));
    assert_eq!(std::fs::read(dir.path().join("schedules.json")).unwrap(), newer);
}

#[test]
fn the_mark_of_a_schedule_can_not_be_forged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    volume(&store, "v");
    let schedule = store.add_schedule(&name("h"), hourly(), &TimeZone::UTC).unwrap();
    let labels = BTreeMap::from([("outcrop.schedule".to_owned(), schedule.id.to_string())]);
    let forged = [
        store.snapshot(&name("v"), &name("s"), &labels).map(drop),
        store.snapshot_all(&name("s"), &labels).map(drop),
        store.snapshot_some(&[name("v")], &name("s"), &labels).map(drop),
        store.add_schedule(&name("x"), ScheduleChange { labels: Some(labels), ..hourly() }, &TimeZone::UTC).map(drop),
    ];
    for outcome in forged {
        assert!(matches!(&outcome, Err(Error::InvalidLabel { .. })), "{outcome:?}");
    }
    // Whoever only has the name is not the schedule's.
    store.snapshot(&name("v"), &name("h-2026-11-24T03:00:00Z"), &BTreeMap::new()).unwrap();
    assert!(store.snapshots_of_schedule(&schedule).unwrap().is_empty());
    assert_eq!(take(&store, &schedule, "2026-11-24T03:00:00Z"), "h-2026-11-24T03:00:00Z-2");
    assert_eq!(take(&store, &schedule, "2026-11-24T03:00:00Z"), "h-2026-11-24T03:00:00Z-3");
}

#[test]
fn some_volumes_are_taken_at_one_instant_and_the_missing_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for volume_name in ["a", "b", "c"] {
        volume(&store, volume_name);
    }
    let files = store.snapshot_some(&[name("b"), name("a"), name("a")], &name("s"), &BTreeMap::new()).unwrap();
    assert_eq!(files.iter().map(|info| info.volume_name.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(store.snapshot_some(&[name("x")], &name("t"), &BTreeMap::new()), Err(Error::NotFound { .. })));

    let some = ScheduleChange { volumes: Some(Volumes::These(vec![name("b"), name("gone"), name("c")])), ..hourly() };
    let schedule = store.add_schedule(&name("some"), some, &TimeZone::UTC).unwrap();
    let taken = scheduled(&store, &schedule, "2026-11-24T03:00:00Z");
    assert_eq!(taken.files.iter().map(|info| info.volume_name.to_string()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(taken.left_out.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["gone"]);
    for volume_name in ["b", "c"] {
        store.delete_volume(&name(volume_name), DeleteVolume::Head, Keep::Now).unwrap();
    }
    let taken = scheduled(&store, &schedule, "2026-11-24T04:00:00Z");
    assert_eq!((taken.name, taken.left_out.len()), (None, 3), "nothing is no snapshot");
}

#[test]
fn only_its_own_snapshots_have_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    volume(&store, "a");
    volume(&store, "b");
    let keep = ScheduleChange { keep_last: Some(2), ..hourly() };
    let schedule = store.add_schedule(&name("h"), keep.clone(), &TimeZone::UTC).unwrap();
    let other = store.add_schedule(&name("other"), keep, &TimeZone::UTC).unwrap();
    assert_eq!(schedule.keep, Retention { last: 2, ..Retention::default() });
    store.snapshot_all(&name("by-hand"), &BTreeMap::new()).unwrap();
    for hour in 1..=4 {
        take(&store, &other, &format!("2026-11-24T0{hour}:00:00Z"));
        take(&store, &schedule, &format!("2026-11-24T0{hour}:00:00Z"));
    }
    let expired = |schedule| {
        let expired = store.expired(schedule, &TimeZone::UTC).unwrap();
        expired.iter().map(|info| format!("{}/{}", info.name, info.volume_name)).collect::<Vec<_>>()
    };
    let first_two = ["1", "2"].map(|hour| ["a", "b"].map(|volume| format!("h-2026-11-24T0{hour}:00:00Z/{volume}"))).concat();
    assert_eq!(expired(&schedule), first_two);
    assert_eq!(expired(&other).len(), 4);

    // One to which a user added a file keeps that.
    store.create_volume(&name("c"), &NewVolume { size: Some(1), image: None, mode: 0o600, uid: 0, gid: 0 }).unwrap();
    store.snapshot(&name("c"), &name("other-2026-11-24T01:00:00Z"), &BTreeMap::new()).unwrap();
    assert_eq!(store.expire(&other, &TimeZone::UTC).unwrap().len(), 4);
    assert!(store.expire(&other, &TimeZone::UTC).unwrap().is_empty());
    let left: Vec<_> = sets(&store).into_iter().filter(|set| set.starts_with("other")).collect();
    assert_eq!(left, ["1", "3", "4"].map(|hour| format!("other-2026-11-24T0{hour}:00:00Z")));
    assert_eq!(store.snapshots_in(&name("other-2026-11-24T01:00:00Z")).len(), 1);
    assert!(store.removed().is_empty(), "schedules make no undo");
    assert_eq!(expired(&schedule), first_two);

    // A volume that gets no more snapshots keeps those that it has.
    store.delete_volume(&name("b"), DeleteVolume::Head, Keep::Now).unwrap();
    for hour in 5..=8 {
        take(&store, &schedule, &format!("2026-11-24T0{hour}:00:00Z"));
    }
    let expired = expired(&schedule);
    assert_eq!(expired.iter().filter(|file| file.ends_with("/b")).count(), 2);
    assert_eq!(expired.iter().filter(|file| file.ends_with("/a")).count(), 6);
}
