//! Schedules in a daemon: they run by themselves, outlive it, and delete only their own.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{FileSystem, LoopMount, TestStore, require_loop, require_mount, run, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

fn volume(store: &TestStore, name: &str, bytes: u64) {
    File::create_new(store.file(name)).unwrap().set_len(bytes).unwrap();
}

fn shown(store: &TestStore, schedule: &str) -> Value {
    store.json(["schedule", "show", schedule])
}

/// Directories under `.snapshots`, as the mount shows them.
fn sets(store: &TestStore) -> BTreeSet<String> {
    let entries = fs::read_dir(store.mount_point().join(".snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Waits until a schedule has made a run that went well and began at `after` or later.
#[track_caller]
fn wait_for_run(store: &TestStore, schedule: &str, after: &str) -> Value {
    let mut last = Value::Null;
    wait_until(&format!("a good run of {schedule} after {after}"), || {
        last = shown(store, schedule)["last"].clone();
        last["outcome"] == "ok" && last["begun"].as_str() > Some(after)
    });
    last
}

#[test]
fn snapshots_are_taken_by_themselves_and_only_so_many_are_kept() {
    require_mount!();
    let store = TestStore::mounted("schedule-keep");
    volume(&store, "v", 1 << 20);
    store.run(["schedule", "add", "tick", "--every", "1s", "--keep-last", "3"]);
    store.run(["schedule", "add", "other", "--every", "1h", "--keep-last", "1"]);
    store.run(["schedule", "run", "other"]);
    store.run(["snapshot", "create", "v", "tick-2026-01-01T00:00:00Z"]);
    store.snapshot_all("by-hand");
    let others = sets(&store).into_iter().filter(|name| name.starts_with("other-")).collect::<BTreeSet<_>>();
    assert_eq!(others.len(), 1);
    let own = |store: &TestStore| {
        sets(store)
            .into_iter()
            .filter(|name| name.starts_with("tick-") && name != "tick-2026-01-01T00:00:00Z")
            .collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    wait_until("six runs", || {
        seen.extend(own(&store));
        seen.len() >= 6
    });
    store.run(["schedule", "disable", "tick"]);
    // A run may have been under way.
    let first = own(&store);
    assert!((3..=4).contains(&first.len()), "{first:?}");
    store.run(["schedule", "run", "tick"]);
    let kept = own(&store);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.last() >= seen.last(), "the newest are kept: {kept:?} of {seen:?}");
    // What others made is there, in the mount and in the list.
    let all = sets(&store);
    assert!(all.is_superset(&others) && all.contains("by-hand") && all.contains("tick-2026-01-01T00:00:00Z"), "{all:?}");
    let listed = store.json(["snapshot", "list"]);
    let listed: BTreeSet<String> =
        listed.as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, all);
    let undo = shown(&store, "tick");
    assert_eq!((undo["snapshots"].as_u64(), undo["enabled"].as_bool()), (Some(3), Some(false)));
    // One that is renamed is its owner's.
    fs::rename(store.set(&kept[0]), store.set("kept")).unwrap();
    for _ in 0..4 {
        store.run(["schedule", "run", "tick"]);
    }
    assert_eq!(own(&store).len(), 3);
    assert!(sets(&store).contains("kept"));
    store.run(["schedule", "remove", "tick"]);
    assert_eq!(own(&store).len(), 3, "its snapshots stay");
    store.check();
    store.umount();
}

#[test]
fn downtime_is_caught_up_by_one_run() {
    require_mount!();
    const EVERY_S: u64 = 2;
    let store = TestStore::mounted("schedule-down");
    volume(&store, "v", 1 << 20);
    store.run(["schedule", "add", "tick", "--every", "2s"]);
    wait_for_run(&store, "tick", "");
    store.kill();
    let begun = now_s();
    wait_until("some turns to be missed", || now_s() >= begun + 5 * EVERY_S);
    let before = store_sets_of_label(&store);
    let back = now_s();
    store.mount();
    wait_until("the catching up", || {
        shown(&store, "tick")["last"]["begun"].as_str().map(seconds).is_some_and(|begun| begun >= back)
    });
    store.run(["schedule", "disable", "tick"]);
    let until = now_s();
    let made = sets(&store).len() - before;
    let due = until / EVERY_S - back / EVERY_S;
    assert!(made >= 1 && made as u64 <= due + 1, "{made} runs, {due} were due since, and one was to be caught up");
    // Rested: what it missed meanwhile is not caught up.
    let disabled = now_s();
    wait_until("some turns to go by", || now_s() >= disabled + 2 * EVERY_S);
    let resting = sets(&store).len();
    assert_eq!(resting, sets(&store).len());
    let enabled = now_s();
    store.run(["schedule", "enable", "tick"]);
    let last = |field: &str| shown(&store, "tick")["last"][field].as_str().map(seconds);
    wait_until("a run", || last("begun") >= Some(enabled));
    let due = last("due").unwrap();
    assert!(due >= enabled, "what is past is not caught up");
    store.umount();
}

/// Snapshots there are while no daemon runs.
fn store_sets_of_label(store: &TestStore) -> usize {
    let listed = store.json(["snapshot", "list"]);
    listed.as_array().unwrap().iter().map(|view| view["name"].to_string()).collect::<BTreeSet<_>>().len()
}

/// A time of JSON in seconds since 1970.
fn seconds(time: &str) -> u64 {
    let said = run(Command::new("date").args(["-u", "+%s", "-d", time]));
    said.trim().parse().unwrap()
}

#[test]
fn a_daemon_that_is_killed_again_and_again_keeps_its_schedules() {
    require_mount!();
    const KEPT: usize = 2;
    let store = TestStore::mounted("schedule-kill");
    volume(&store, "v", 1 << 20);
    store.run(["schedule", "add", "tick", "--every", "1s", "--keep-last", &KEPT.to_string(), "--before", "true"]);
    let (mut rng, mut seen) = (outcrop_tests::Rng::announced(), BTreeSet::new());
    for _ in 0..6 {
        // Somewhere around a run.
        std::thread::sleep(std::time::Duration::from_millis(rng.range(0, 1300)));
        store.kill_and_mount();
        let now = sets(&store);
        assert!(now.last() >= seen.last(), "the newest stays: {now:?} after {seen:?}");
        seen.extend(now);
    }
    wait_for_run(&store, "tick", "");
    store.run(["schedule", "disable", "tick"]);
    store.run(["schedule", "run", "tick"]);
    assert_eq!(sets(&store).len(), KEPT);
    store.check();
    store.umount();
}

#[test]
fn some_volumes_are_taken_together_and_a_missing_one_is_told() {
    require_mount!();
    let store = TestStore::mounted("schedule-some");
    for name in ["a", "b", "c"] {
        volume(&store, name, 1 << 20);
    }
    let path = store.file("a");
    store.run([
        "schedule",
        "add",
        "some",
        "--cron",
        "@daily",
        "--volume",
        path.to_str().unwrap(),
        "--volume",
        "b",
        "--volume",
        "gone",
        "--label",
        "k=v",
    ]);
    let ran = store.json(["schedule", "run", "some"]);
    assert_eq!((ran["outcome"].as_str(), ran["volumes"].as_u64()), (Some("warning"), Some(2)));
    assert!(ran["warnings"][0].as_str().unwrap().contains("'gone'"), "{ran}");
    let set = ran["snapshot"].as_str().unwrap();
    let files: BTreeSet<_> = fs::read_dir(store.set(set)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, BTreeSet::from(["a".into(), "b".into()]));
    let listed = store.json(["snapshot", "list", "a"]);
    assert_eq!(listed[0]["labels"]["k"], "v");
    assert_eq!(listed[0]["labels"]["outcrop.schedule"], shown(&store, "some")["id"]);
    assert!(!store.run(["snapshot", "list"]).contains("outcrop.schedule"));

    fs::remove_file(store.file("a")).unwrap();
    fs::remove_file(store.file("b")).unwrap();
    let said = store.fails(["schedule", "run", "some"]);
    assert!(said.contains("none of its volumes"), "{said}");
    assert_eq!(shown(&store, "some")["last"]["outcome"], "failed");
    let events = store.json(["status"])["events"].to_string();
    assert!(events.contains("schedule 'some'"), "{events}");
    let findings = store.run(["doctor"]);
    assert!(findings.contains("'some': its last run failed") && findings.contains("of volume 'gone'"), "{findings}");
    // The next one of all volumes has what there is.
    store.run(["schedule", "edit", "some", "--all"]);
    assert_eq!(store.json(["schedule", "run", "some"])["volumes"], 1);
    store.umount();
}

#[test]
fn what_is_asked_of_schedules_is_checked_and_shown() {
    require_mount!();
    let store = TestStore::new("schedule-cli");
    store.mount();
    for mounted in [true, false] {
        let add =
            ["schedule", "add", "n", "--cron", "0 3 * * 1-5", "--keep-daily", "7", "--before", "true", "--hook-timeout", "5s"];
        store.run(add);
        assert!(store.fails(add).contains("exists already"));
        let view = shown(&store, "n");
        assert_eq!(
            (view["cron"].as_str(), view["every"].as_u64(), view["keep"]["daily"].as_u64()),
            (Some("0 3 * * 1-5"), None, Some(7))
        );
        assert_eq!(
            (view["before"].as_str(), view["hook_timeout_ms"].as_u64(), view["volumes"].is_null()),
            (Some("true"), Some(5000), true)
        );
        store.run(["schedule", "edit", "n", "--every", "15m", "--before", "", "--keep-daily", "0", "--keep-last", "4"]);
        let view = shown(&store, "n");
        assert_eq!((view["cron"].as_str(), view["every"].as_u64(), view["keep"]["last"].as_u64()), (None, Some(900), Some(4)));
        assert!(view["before"].is_null() && view["next"].is_string());
        assert!(seconds(view["next"].as_str().unwrap()).is_multiple_of(900));
        store.run(["schedule", "disable", "n"]);
        assert!(shown(&store, "n")["next"].is_null());
        let table = store.run(["schedule", "list"]);
        assert!(table.contains("every 15m") && table.contains("4 last") && table.contains("disabled"), "{table}");
        for (bad, why) in [
            (&["add", "x"][..], "--every"),
            (&["add", "x", "--every", "0s"], "interval"),
            (&["add", "x", "--every", "1"], "1h"),
            (&["add", "x", "--every", "1h", "--cron", "@daily"], "--cron"),
            (&["add", "x", "--cron", "0 0 31 2 *"], "no such time"),
            (&["add", "x", "--cron", "every day"], "cron expression"),
            (&["add", "x", "--every", "1h", "--label", "outcrop.schedule=1"], "outcrop."),
            (&["add", "x", "--every", "1h", "--hook-timeout", "0s"], "time-out"),
            (&["add", "a/b", "--every", "1h"], "'/'"),
            (&["edit", "n"], "--help"),
            (&["edit", "x", "--every", "1h"], "no schedule 'x'"),
            (&["show", "x"], "no schedule 'x'"),
            (&["run", "x"], "no schedule 'x'"),
            (&["remove", "x"], "no schedule 'x'"),
        ] {
            let said = store.fails(std::iter::once("schedule").chain(bad.iter().copied()));
            assert!(said.contains(why), "{bad:?}: {said}");
        }
        store.run(["schedule", "remove", "n"]);
        assert_eq!(store.json(["schedule", "list"]), Value::Array(Vec::new()));
        if mounted {
            store.umount();
        }
    }
}

/// Writes files and removes some, with a sync now and then, until told to stop.
fn work(directory: &Path, stop: &AtomicBool) {
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let file = directory.join(format!("f{}", i % 50));
        fs::write(&file, vec![b'x'; 10_000 + i % 7]).unwrap();
        if i % 10 == 0 {
            File::open(&file).unwrap().sync_all().unwrap();
        }
        if i % 3 == 0 {
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn a_file_system_that_is_written_mounts_clean_from_a_frozen_snapshot() {
    require_loop!("mkfs.ext4", "e2fsck", "dumpe2fs");
    let store = TestStore::mounted("schedule-freeze");
    volume(&store, "v", 128 << 20);
    FileSystem::Ext4.make(&store.file("v"));
    let mounted = LoopMount::new(&store.file("v"), "");
    let mount_point = mounted.path().to_str().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            for worker in 0..3 {
                let directory = mounted.join(&format!("d{worker}"));
                fs::create_dir(&directory).unwrap();
                let stop = &stop;
                scope.spawn(move || work(&directory, stop));
            }
            store.run(["schedule", "add", "tick", "--every", "1s", "--fsfreeze", &mount_point]);
            let mut last = String::new();
            for _ in 0..3 {
                last = wait_for_run(&store, "tick", &last)["begun"].as_str().unwrap().to_owned();
            }
            store.run(["schedule", "disable", "tick"]);
            store.snapshot_all("unfrozen");
        });
    }));
    finished.unwrap();
    let recovers = |set: &str| {
        let header = run(Command::new("dumpe2fs").arg("-h").arg(store.set(set).join("v")));
        header.contains("needs_recovery")
    };
    assert!(recovers("unfrozen"), "else this test shows nothing");
    let frozen: Vec<_> = sets(&store).into_iter().filter(|name| name.starts_with("tick-")).collect();
    assert!(frozen.len() >= 3);
    for set in &frozen {
        assert!(!recovers(set), "{set}");
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(store.set(set).join("v")));
        let old = LoopMount::new(&store.set(set).join("v"), "ro,noload");
        assert!(old.join("d0").is_dir());
        old.umount();
    }
    // It is not frozen any more.
    fs::write(mounted.join("after"), b"x").unwrap();
    mounted.umount();
    // Nothing is mounted there now: that is told, and the snapshot is taken.
    let ran = store.json(["schedule", "run", "tick"]);
    assert_eq!(ran["outcome"], "warning");
    assert!(ran["warnings"][0].as_str().unwrap().contains("nothing to freeze"), "{ran}");
    store.check();
    store.umount();
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
