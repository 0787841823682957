//! The end of a layer: snapshots deleted and renamed with file tools and commands, and what can be restored.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_bytes, read_direct, require_mount, run, seconds, sh, wait_until};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Names in `.snapshots`, sorted.
fn sets(store: &TestStore) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(store.mount_point().join(".snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn removed(store: &TestStore) -> Vec<Value> {
    store.json(["snapshot", "list", "--undo"]).as_array().unwrap().clone()
}

#[test]
fn snapshots_are_deleted_and_renamed_with_file_tools() {
    require_mount!();
    let store = TestStore::mounted("filetools");
    for name in ["a", "b"] {
        fs::write(store.file(name), format!("{name}1")).unwrap();
    }
    for name in ["one", "two", "three", "four"] {
        store.snapshot_all(name);
    }
    // Before: the kernel knows the names, some of them for an hour.
    let stat_all = |set: &str| ["a", "b"].map(|file| fs::metadata(store.set(set).join(file)).unwrap().ino());
    let inodes = stat_all("two");
    stat_all("one");

    // rmdir takes the directory with what is in it.
    fs::remove_dir(store.set("one")).unwrap();
    assert_eq!(errno(fs::metadata(store.set("one").join("a"))), Some(libc::ENOENT));
    assert_eq!(sets(&store), ["four", "three", "two"]);
    // mv renames it; the files are the same ones.
    fs::rename(store.set("two"), store.set("zwei")).unwrap();
    assert_eq!(stat_all("zwei"), inodes, "a rename leaves inodes as they are");
    assert_eq!(errno(fs::metadata(store.set("two"))), Some(libc::ENOENT));
    assert_eq!(fs::read(store.set("zwei").join("a")).unwrap(), b"a1");
    // rm takes one file, and leaves the directory, even an empty one.
    fs::remove_file(store.set("zwei").join("a")).unwrap();
    assert_eq!(errno(fs::metadata(store.set("zwei").join("a"))), Some(libc::ENOENT));
    fs::remove_file(store.set("zwei").join("b")).unwrap();
    assert_eq!(fs::read_dir(store.set("zwei")).unwrap().count(), 0);
    // Which gives way to another, as rename(2) says.
    fs::rename(store.set("three"), store.set("zwei")).unwrap();
    assert_eq!(fs::read_dir(store.set("zwei")).unwrap().count(), 2);
    run(Command::new("rm").arg("-r").arg(store.set("zwei")));
    assert_eq!(sets(&store), ["four"]);
    store.remount();
    assert_eq!(sets(&store), ["four"]);
    assert_eq!(store.json(["snapshot", "list"]).as_array().unwrap().len(), 2);
    store.check();
}

#[test]
fn what_cant_be_done_in_snapshots_is_refused_as_on_any_file_system() {
    require_mount!();
    let store = TestStore::mounted("refused");
    fs::write(store.file("a"), b"a1").unwrap();
    store.snapshot_all("s");
    store.snapshot_all("t");
    let (inside, root) = (store.set("s").join("a"), store.mount_point().to_owned());
    let rename = |from: &Path, to: &Path| errno(fs::rename(from, to));
    assert_eq!(rename(&store.set("s"), &store.set("t")), Some(libc::ENOTEMPTY));
    assert_eq!(rename(&store.set("none"), &store.set("u")), Some(libc::ENOENT));
    // Never EXDEV: mv would copy, and then delete the snapshot.
    assert_eq!(rename(&inside, &root.join("stolen")), Some(libc::EROFS));
    assert_eq!(rename(&inside, &store.set("t").join("b")), Some(libc::EROFS));
    assert_eq!(rename(&inside, &store.set("s").join("b")), Some(libc::EROFS));
    assert_eq!(rename(&store.file("a"), &store.set("s").join("b")), Some(libc::EROFS));
    assert_eq!(rename(&store.file("a"), &store.set("new")), Some(libc::EPERM));
    assert_eq!(rename(&store.set("s"), &root.join("s")), Some(libc::EPERM));
    assert_eq!(rename(&root.join(".snapshots"), &root.join("x")), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_dir(root.join(".snapshots"))), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_dir(store.set("none"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::remove_dir(&inside)), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::remove_file(store.set("s"))), Some(libc::EISDIR));
    assert_eq!(errno(fs::remove_file(store.set("s").join("none"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::write(&inside, b"x")), Some(libc::EROFS));
    let old = store.set("s");
    let exists =
        rustix::fs::renameat_with(rustix::fs::CWD, &old, rustix::fs::CWD, store.set("t"), rustix::fs::RenameFlags::NOREPLACE);
    assert_eq!(exists, Err(rustix::io::Errno::EXIST));
    assert_eq!(fs::read(&inside).unwrap(), b"a1", "and nothing of it changed anything");
    assert_eq!(sets(&store), ["s", "t"]);

    // The command line says what is wrong, and what to do.
    let refused = store.fails(["snapshot", "rename", "s", "t"]);
    assert!(refused.contains("'t'") && refused.contains("exists"), "{refused}");
    let refused = store.fails(["snapshot", "delete", "a", "s", "none"]);
    assert!(refused.contains("none") && refused.contains("hint:"), "{refused}");
    assert_eq!(sets(&store), ["s", "t"], "all or nothing");
    store.fails(["snapshot", "delete", "nothing", "s"]);
    store.fails(["snapshot", "delete", "--all", "none"]);
    store.fails(["snapshot", "delete", "a"]);
    let refused = store.fails(["undo", "never-was"]);
    assert!(refused.contains("never-was") && refused.contains("--undo"), "{refused}");
    store.fails(["volume", "revert", "a", "none"]);
    store.fails(["volume", "revert", "none", "s"]);
    store.fails(["volume", "clone", "a", "a"]);
    store.fails(["volume", "clone", "a@none", "b"]);
    store.fails(["volume", "clone", "none", "b"]);
    store.check();
}

#[test]
fn commands_and_the_mount_see_each_others_changes_at_once() {
    require_mount!();
    let store = TestStore::mounted("both-ways");
    for name in ["a", "b"] {
        fs::write(store.file(name), format!("{name}1")).unwrap();
    }
    for name in ["one", "two", "three"] {
        store.snapshot_all(name);
    }
    let there = |set: &str, file: &str| fs::metadata(store.set(set).join(file)).is_ok();
    for set in ["one", "two", "three"] {
        assert!(there(set, "a") && there(set, "b"));
    }
    store.run(["snapshot", "delete", "a", "one"]);
    assert!(!there("one", "a") && there("one", "b"), "one file of it");
    store.run(["snapshot", "delete", "b", "one"]);
    assert!(!sets(&store).contains(&"one".to_owned()), "the last one takes the directory along");
    store.run(["snapshot", "rename", "two", "zwei"]);
    assert!(!there("two", "a") && there("zwei", "a"));
    store.run(["snapshot", "delete", "--all", "zwei", "three"]);
    assert!(!there("zwei", "a") && !there("three", "b"));
    assert_eq!(sets(&store), [""; 0]);
    store.run(["undo", "three"]);
    assert!(there("three", "a") && there("three", "b"));
    fs::remove_dir(store.set("three")).unwrap();
    assert_eq!(store.json(["snapshot", "list"]).as_array().unwrap().len(), 0);
    store.run(["volume", "clone", "a", "c"]);
    assert_eq!(fs::read(store.file("c")).unwrap(), b"a1");
    store.run(["volume", "delete", "c"]);
    assert_eq!(errno(fs::metadata(store.file("c"))), Some(libc::ENOENT));
    store.run(["undo", "c"]);
    assert_eq!(fs::read(store.file("c")).unwrap(), b"a1");
    store.check();
}

#[test]
fn an_open_snapshot_is_read_on_whatever_is_deleted() {
    require_mount!();
    let store = TestStore::mounted("open");
    let mut rng = Rng::new(7);
    let mut expected = rng.bytes(3 << 20);
    fs::write(store.file("v"), &expected).unwrap();
    let volume = File::options().write(true).open(store.file("v")).unwrap();
    let mut snapshots = Vec::new();
    for i in 0..8 {
        store.snapshot_all(&format!("s{i}"));
        let open = File::open(store.set(&format!("s{i}")).join("v")).unwrap();
        snapshots.push((open, expected.clone()));
        let (offset, length) = (rng.below(2 << 20) as usize, rng.range(1, 1 << 20) as usize);
        let bytes = rng.bytes(length);
        volume.write_all_at(&bytes, offset as u64).unwrap();
        expected[offset..offset + length].copy_from_slice(&bytes);
    }
    let check = |open: &File, bytes: &[u8], what: &str| {
        let mut found = vec![0; bytes.len()];
        open.read_exact_at(&mut found, 0).unwrap();
        assert_same_bytes(&found, bytes, what);
        // Past what the kernel has: a handle of its own, by way of /proc, as the name is gone.
        assert_same_bytes(&read_direct(Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd()))), bytes, what);
    };
    for order in [3_usize, 0, 7, 4] {
        if order % 2 == 0 {
            store.run(["snapshot", "delete", "--all", "--now", &format!("s{order}")]);
        } else {
            fs::remove_file(store.set(&format!("s{order}")).join("v")).unwrap();
        }
        for (i, (open, bytes)) in snapshots.iter().enumerate() {
            check(open, bytes, &format!("snapshot {i} after s{order} was deleted"));
        }
        assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "the volume");
    }
    assert_eq!(snapshots[3].0.metadata().unwrap().nlink(), 0, "it has no name any more");
    assert_eq!(snapshots[7].0.metadata().unwrap().size(), 3 << 20);
    drop(snapshots);
    drop(volume);
    store.remount();
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "the volume, mounted again");
    store.check();
}

#[test]
fn deleting_beside_fio_never_harms_what_is_written() {
    require_mount!("fio");
    let mut rng = Rng::announced();
    let store = TestStore::mounted("fio");
    File::create_new(store.file("v")).unwrap().set_len(48 << 20).unwrap();
    fs::write(store.file("still"), rng.bytes(1 << 20)).unwrap();
    let expected = fs::read(store.file("still")).unwrap();
    let stop = AtomicBool::new(false);
    let (begun, length) = (Instant::now(), seconds(8).max(Duration::from_secs(4)));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for round in 0.. {
                sh(
                    "fio --name=w --filename=\"$1\" --rw=randwrite --bsrange=512-64k --size=48m --io_size=24m --ioengine=psync --numjobs=1 \
                     --randseed=\"$2\" --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --output=/dev/null 2>&1",
                    [store.file("v").to_str().unwrap(), &format!("{round}")],
                );
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let mut alive = Vec::new();
        for i in 0.. {
            if begun.elapsed() > length || writing.is_finished() {
                break;
            }
            let name = format!("s{i}");
            store.snapshot_all(&name);
            alive.push(name);
            while alive.len() > 5 || (!alive.is_empty() && rng.one_in(3)) {
                // The newest one too: the live head's own parent.
                let name = alive.remove(rng.below(alive.len() as u64) as usize);
                match rng.below(3) {
                    0 => fs::remove_dir(store.set(&name)).unwrap(),
                    1 => drop(store.run(["snapshot", "delete", "--all", "--now", &name])),
                    _ => drop(store.run(["snapshot", "delete", "v", &name])),
                }
            }
            if let Some(name) = alive.first() {
                assert_same_bytes(&fs::read(store.set(name).join("still")).unwrap(), &expected, name);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.remount();
    store.check();
}

#[test]
fn what_was_deleted_comes_back_with_one_command() {
    require_mount!();
    let store = TestStore::mounted("undo");
    for name in ["a", "b"] {
        fs::write(store.file(name), format!("{name}1")).unwrap();
    }
    store.snapshot_all("monday");
    fs::write(store.file("a"), b"a2").unwrap();

    // A snapshot of all, by the mount.
    fs::remove_dir(store.set("monday")).unwrap();
    let list = removed(&store);
    assert_eq!(list.len(), 2, "{list:?}");
    for entry in &list {
        assert_eq!(
            (&entry["kind"], &entry["snapshot"], &entry["size"]),
            (&"snapshot".into(), &"monday".into(), &2.into()),
            "{entry}"
        );
        let (when, until) = (entry["removed"].as_str().unwrap(), entry["until"].as_str().unwrap());
        assert!(when < until, "{entry}");
    }
    let table = store.run(["snapshot", "list", "--undo"]);
    assert!(table.contains("monday") && table.starts_with(char::is_whitespace) || table.contains("KIND"), "{table}");
    store.run(["undo", "monday"]);
    assert_eq!(fs::read(store.set("monday").join("a")).unwrap(), b"a1");
    assert_eq!(fs::read(store.set("monday").join("b")).unwrap(), b"b1");
    assert_eq!(removed(&store).len(), 0);

    // Also one by one.
    run(Command::new("rm").arg("-r").arg(store.set("monday")));
    store.run(["undo", "monday"]);
    assert_eq!(fs::read(store.set("monday").join("a")).unwrap(), b"a1");
    assert_eq!(fs::read(store.set("monday").join("b")).unwrap(), b"b1");

    // One file of it, by its number and under another name.
    fs::remove_file(store.set("monday").join("b")).unwrap();
    let id = removed(&store)[0]["id"].as_u64().unwrap().to_string();
    let restored = store.json(["undo", &id, "--as", "other"]);
    assert_eq!((&restored[0]["snapshot"], &restored[0]["volume"]), (&"other".into(), &"b".into()), "{restored}");
    assert_eq!(fs::read(store.set("other").join("b")).unwrap(), b"b1");

    // A volume. Its name is taken by then, so another is needed.
    fs::remove_file(store.file("a")).unwrap();
    fs::write(store.file("a"), b"new").unwrap();
    let refused = store.fails(["undo", "a"]);
    assert!(refused.contains("exists"), "{refused}");
    store.run(["undo", "a", "--as", "a-again"]);
    assert_eq!(fs::read(store.file("a-again")).unwrap(), b"a2");
    assert_eq!(fs::read(store.file("a")).unwrap(), b"new");

    // Not while somebody still has it open.
    let open = File::options().append(true).open(store.file("a-again")).unwrap();
    fs::remove_file(store.file("a-again")).unwrap();
    let refused = store.fails(["undo", "a-again"]);
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    (&open).write_all(b"+").unwrap();
    drop(open);
    store.run(["undo", "a-again"]);
    assert_eq!(fs::read(store.file("a-again")).unwrap(), b"a2+");

    // With all of its snapshots.
    store.run(["volume", "delete", "--snapshots", "b"]);
    assert_eq!(errno(fs::metadata(store.set("other"))), Some(libc::ENOENT));
    store.run(["undo", "b"]);
    assert_eq!(fs::read(store.file("b")).unwrap(), b"b1");
    assert_eq!(fs::read(store.set("other").join("b")).unwrap(), b"b1");

    // What a volume held before a revert, and that again.
    fs::write(store.file("b"), b"b2").unwrap();
    store.run(["volume", "revert", "b", "other"]);
    assert_eq!(fs::read(store.file("b")).unwrap(), b"b1");
    store.run(["undo", "b"]);
    assert_eq!(fs::read(store.file("b")).unwrap(), b"b2");
    store.run(["undo", "b"]);
    assert_eq!(fs::read(store.file("b")).unwrap(), b"b1");

    // With --now, nothing is kept, and the list survives the mount.
    store.run(["snapshot", "delete", "b", "other"]);
    let before = removed(&store).len();
    store.run(["volume", "delete", "b", "--now"]);
    assert_eq!(removed(&store).len(), before);
    let refused = store.fails(["undo", "nothing-like-it"]);
    assert!(refused.contains("hint:"), "{refused}");
    store.umount();
    assert_eq!(removed(&store).len(), before);
    store.run(["undo", "b@other"]);
    store.mount();
    assert_eq!(fs::read(store.set("other").join("b")).unwrap(), b"b1");
    store.check();
}

#[test]
fn undo_can_be_switched_off() {
    require_mount!();
    let store = TestStore::new("no-undo").with(&["-o", "undo=0"]);
    store.mount();
    fs::write(store.file("a"), b"a1").unwrap();
    store.snapshot_all("s");
    fs::remove_dir(store.set("s")).unwrap();
    fs::remove_file(store.file("a")).unwrap();
    assert_eq!(removed(&store).len(), 0);
    store.fails(["undo", "a"]);
    store.check();
}

#[test]
fn many_snapshots_go_in_one_command() {
    require_mount!();
    let store = TestStore::mounted("many");
    let volume = File::create_new(store.file("v")).unwrap();
    let names: Vec<String> = (0..300).map(|i| format!("s{i}")).collect();
    for (i, name) in names.iter().enumerate() {
        volume.write_all_at(&[i as u8; 4096], (i % 50 * 4096) as u64).unwrap();
        store.snapshot_all(name);
    }
    let expected = fs::read(store.file("v")).unwrap();
    let mut command = vec!["snapshot", "delete", "v"];
    command.extend(names.iter().map(String::as_str).filter(|name| *name != "s150"));
    let deleted = store.json(&command);
    assert_eq!(deleted.as_array().unwrap().len(), 299);
    assert_eq!(sets(&store), ["s150"]);
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "the volume");
    let old = fs::read(store.set("s150").join("v")).unwrap();
    for (block, bytes) in old.chunks(4096).enumerate() {
        let last = (0..=150).rev().find(|i| i % 50 == block).unwrap();
        assert_same_bytes(bytes, &[last as u8; 4096], &format!("block {block} of the one left"));
    }
    store.check();
}

#[test]
fn deleting_gives_the_space_back() {
    require_mount!();
    let store = TestStore::mounted("space");
    let mut rng = Rng::new(11);
    let layers = || fs::read_dir(store.store().join("layers")).unwrap().count();
    // What the files of all layers take on the disk.
    let taken = || {
        let list = run(Command::new("du").args(["-s", "-B1"]).arg(store.store().join("layers")));
        list.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let mut expected = Vec::new();
    for name in ["a", "b"] {
        fs::write(store.file(name), rng.bytes(4 << 20)).unwrap();
        expected.push(fs::read(store.file(name)).unwrap());
    }
    for i in 0..10 {
        store.snapshot_all(&format!("s{i}"));
        for (n, name) in ["a", "b"].into_iter().enumerate() {
            let bytes = rng.bytes(2 << 20);
            let at = rng.below(2 << 20);
            File::options().write(true).open(store.file(name)).unwrap().write_all_at(&bytes, at).unwrap();
            expected[n][at as usize..at as usize + (2 << 20)].copy_from_slice(&bytes);
        }
    }
    store.run(["volume", "clone", "a", "c"]);
    expected.push(expected[0].clone());
    assert!(taken() > 40 << 20, "every snapshot holds something: {}", taken());
    let names: Vec<String> = (0..10).map(|i| format!("s{i}")).collect();
    let mut command = vec!["snapshot", "delete", "--all", "--now"];
    command.extend(names.iter().map(String::as_str));
    store.run(&command);
    // What is left: two volumes' data, one of them shared by two. The layers above are merged into one by and by.
    let limit = (8 << 20) + (1 << 20);
    wait_until("the layers to be merged", || layers() <= 4 && taken() <= limit + 3 * (1 << 20) + (1 << 16));
    for (name, bytes) in ["a", "b", "c"].iter().zip(&expected) {
        assert_same_bytes(&fs::read(store.file(name)).unwrap(), bytes, name);
    }
    let space = store.json(["space"]);
    assert_eq!(space["held"], 8 << 20, "{space}");

    // An open handle keeps what was deleted, and gives it back in the end.
    let open = File::open(store.file("b")).unwrap();
    for name in ["a", "b", "c"] {
        store.run(["volume", "delete", "--now", name]);
    }
    wait_until("what nobody has open to go", || layers() <= 1);
    let mut found = vec![0; 4 << 20];
    open.read_exact_at(&mut found, 0).unwrap();
    assert_same_bytes(&found, &expected[1], "the open one");
    drop(open);
    wait_until("everything to go", || layers() == 0);
    assert_eq!(store.json(["space"])["held"], 0);
    store.check();
}

/// Every name that is left has what it had, whenever the daemon is killed.
#[test]
fn a_kill_amid_deletes_leaves_every_other_name_as_it_was() {
    require_mount!();
    let mut rng = Rng::announced();
    let store = TestStore::mounted("kill");
    const SIZE: usize = 1 << 20;
    let mut content = rng.bytes(SIZE);
    fs::write(store.file("v"), &content).unwrap();
    let mut known: Vec<(String, Vec<u8>)> = Vec::new();
    let (begun, length) = (Instant::now(), seconds(10).max(Duration::from_secs(3)));
    let mut round = 0;
    while begun.elapsed() < length {
        round += 1;
        for i in 0..6 {
            let (offset, length) = (rng.below(SIZE as u64 / 2) as usize, rng.range(1, 200_000) as usize);
            let bytes = rng.bytes(length);
            File::options().write(true).open(store.file("v")).unwrap().write_all_at(&bytes, offset as u64).unwrap();
            content[offset..offset + length].copy_from_slice(&bytes);
            let name = format!("r{round}-{i}");
            store.snapshot_all(&name);
            known.push((name, content.clone()));
        }
        // Deletes go on while the daemon is killed: each of these names may be there afterwards, or not.
        let doomed: Vec<String> = (0..5).map(|_| known.swap_remove(rng.below(known.len() as u64) as usize).0).collect();
        let delay = Duration::from_micros(rng.below(60_000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for name in &doomed {
                    let _ = store.cli(["snapshot", "delete", "--all", "--now", name]).output();
                    let _ = fs::remove_dir(store.set(name));
                }
            });
            std::thread::sleep(delay);
            store.kill();
            // Commands find no daemon then and open the store for themselves: they are let end first.
        });
        store.mount();
        let there = sets(&store);
        for (name, bytes) in &known {
            assert!(there.contains(name), "round {round}: {name} was not deleted");
            assert_same_bytes(&fs::read(store.set(name).join("v")).unwrap(), bytes, &format!("round {round}: {name}"));
        }
        assert_same_bytes(&fs::read(store.file("v")).unwrap(), &content, &format!("round {round}: the volume"));
        for name in there.iter().filter(|name| !known.iter().any(|(kept, _)| kept == *name)) {
            fs::remove_dir(store.set(name)).unwrap();
        }
    }
    store.check();
}

#[test]
fn everything_works_without_a_mount_too() {
    require_mount!();
    let store = TestStore::mounted("down");
    fs::write(store.file("a"), b"a1").unwrap();
    store.snapshot_all("s");
    fs::write(store.file("a"), b"a2").unwrap();
    store.snapshot_all("t");
    store.umount();
    store.run(["snapshot", "rename", "s", "old"]);
    store.run(["volume", "clone", "a@old", "b"]);
    store.run(["volume", "clone", "a", "c"]);
    store.run(["volume", "revert", "a", "old"]);
    store.run(["snapshot", "delete", "a", "t"]);
    store.run(["snapshot", "delete", "--all", "old"]);
    store.run(["undo", "old"]);
    store.run(["volume", "delete", "c"]);
    store.run(["undo", "c"]);
    store.mount();
    for (name, bytes) in [("a", b"a1"), ("b", b"a1"), ("c", b"a2")] {
        assert_eq!(fs::read(store.file(name)).unwrap(), bytes, "{name}");
    }
    assert_eq!(sets(&store), ["old"]);
    assert_eq!(fs::read(store.set("old").join("a")).unwrap(), b"a1");
    store.check();
}
