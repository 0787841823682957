//! Revert, clone, resize and copy: volumes that become something else, and who has them open meanwhile.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{
    FileSystem, LoopMount, Rng, TestStore, assert_same_bytes, assert_same_file, require_loop, require_mount, run, seconds,
};
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_revert_goes_back_at_once_and_every_snapshot_stays() {
    require_mount!();
    let store = TestStore::mounted("revert");
    let mut rng = Rng::new(1);
    let versions: Vec<Vec<u8>> = (1..=3).map(|i| rng.bytes(300_000 * i + 7)).collect();
    for (i, bytes) in versions.iter().enumerate() {
        fs::write(store.file("v"), bytes).unwrap();
        store.snapshot_all(&format!("s{i}"));
    }
    fs::write(store.file("v"), b"broken").unwrap();
    for i in [1, 0, 2, 0] {
        store.run(["volume", "revert", "v", &format!("s{i}")]);
        assert_eq!(fs::metadata(store.file("v")).unwrap().len(), versions[i].len() as u64, "stat sees the size at once");
        assert_same_bytes(&fs::read(store.file("v")).unwrap(), &versions[i], &format!("reverted to s{i}"));
        read_write(&store.file("v")).write_all_at(b"changed", 5).unwrap();
        for (i, bytes) in versions.iter().enumerate() {
            assert_same_bytes(&fs::read(store.set(&format!("s{i}")).join("v")).unwrap(), bytes, &format!("snapshot s{i}"));
        }
    }
    let inode = fs::metadata(store.file("v")).unwrap().ino();
    store.run(["volume", "revert", "v", "s1", "--now"]);
    assert_eq!(fs::metadata(store.file("v")).unwrap().ino(), inode, "it is the same volume");
    store.kill_and_mount();
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &versions[1], "after a kill");
    store.check();
}

#[test]
fn a_revert_is_refused_while_it_is_open_and_says_by_whom() {
    require_loop!("mkfs.ext4");
    let store = TestStore::mounted("busy");
    File::create_new(store.file("v")).unwrap().set_len(64 << 20).unwrap();
    FileSystem::Ext4.make(&store.file("v"));
    fs::write(store.file("other"), b"x").unwrap();
    store.snapshot_all("s");
    // Others that are open are nobody's business.
    let _other = File::open(store.file("other")).unwrap();

    let open = read_write(&store.file("v"));
    let output = store.cli(["volume", "revert", "v", "s"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())) && said.contains("hint:"), "{said}");
    assert!(!said.contains("other"), "{said}");
    drop(open);
    store.run(["volume", "revert", "v", "s"]);

    let mounted = LoopMount::new(&store.file("v"), "");
    let said = store.fails(["volume", "revert", "v", "s"]);
    assert!(said.contains(mounted.device().to_str().unwrap()), "{said}");
    assert!(said.contains(mounted.path().to_str().unwrap()), "where it is mounted: {said}");
    // Also after its name changed behind the loop device's back.
    store.run(["volume", "rename", "v", "w"]);
    let said = store.fails(["volume", "revert", "w", "s"]);
    assert!(said.contains(mounted.device().to_str().unwrap()), "{said}");
    store.run(["volume", "rename", "w", "v"]);
    fs::write(mounted.join("file"), b"still works").unwrap();
    mounted.umount();
    store.run(["volume", "revert", "v", "s"]);
    store.check();
}

#[test]
fn a_forced_revert_makes_old_handles_stale_for_ever() {
    require_mount!();
    let store = TestStore::mounted("stale");
    fs::write(store.file("v"), [1; 10_000]).unwrap();
    store.snapshot_all("s");
    fs::write(store.file("v"), [2; 20_000]).unwrap();
    let mut old = read_write(&store.file("v"));
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(store.file("v")).unwrap();
    old.write_all_at(&[3; 100], 15_000).unwrap();
    store.run(["volume", "revert", "v", "s", "--force"]);

    let stale = |result: std::io::Result<()>, what: &str| {
        assert_eq!(result.err().and_then(|error| error.raw_os_error()), Some(libc::ESTALE), "{what}");
    };
    let mut buf = [0; 4096];
    let check_all = |old: &mut File| {
        let mut buf = [0; 4096];
        stale(old.read_at(&mut buf, 0).map(drop), "read");
        stale(old.write_all_at(b"poison", 0), "write");
        stale(old.sync_all(), "fsync");
        stale(old.sync_data(), "fdatasync");
        stale(old.set_len(0), "ftruncate");
        stale(old.set_len(50_000), "ftruncate to more");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        stale(fallocate(&*old, punch, 0, 4096).map_err(Into::into), "punch");
        stale(fallocate(&*old, FallocateFlags::empty(), 0, 60_000).map_err(Into::into), "fallocate");
        stale(seek(&*old, SeekFrom::Data(0)).map(drop).map_err(Into::into), "SEEK_DATA");
        let from = File::open(store.set("s").join("v")).unwrap();
        stale(copy_file_range(&from, Some(&mut 0), &*old, Some(&mut 0), 100).map(drop).map_err(Into::into), "copy to it");
    };
    check_all(&mut old);
    stale(direct.read_at(&mut buf[..512], 0).map(drop), "a direct read");

    // Who opens it now has what it is now, and the old one doesn't get in the way.
    let new = read_write(&store.file("v"));
    assert_eq!(new.metadata().unwrap().len(), 10_000);
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &[1; 10_000], "reverted");
    new.write_all_at(&[4; 100], 0).unwrap();
    new.sync_all().unwrap();
    check_all(&mut old);
    let mut expected = vec![1; 10_000];
    expected[..100].fill(4);
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &expected, "only the new handle wrote");
    // And again, with the new one being an old one then.
    store.run(["volume", "revert", "v", "s", "--force"]);
    stale(new.write_all_at(b"x", 0), "the second");
    check_all(&mut old);
    drop((old, new, direct));
    store.remount();
    assert_same_bytes(&fs::read(store.file("v")).unwrap(), &[1; 10_000], "mounted again");
    store.check();
}

#[test]
fn a_forced_revert_under_a_mounted_file_system_stops_it_and_a_fresh_mount_has_the_old_content() {
    require_loop!("mkfs.ext4", "e2fsck");
    let store = TestStore::mounted("forced");
    File::create_new(store.file("v")).unwrap().set_len(128 << 20).unwrap();
    FileSystem::Ext4.make(&store.file("v"));
    let mounted = LoopMount::new(&store.file("v"), "");
    fs::write(mounted.join("kept"), Rng::new(5).bytes(2 << 20)).unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));
    store.snapshot_all("s");
    fs::write(mounted.join("later"), b"later").unwrap();
    run(Command::new("sync").arg("-f").arg(mounted.path()));

    store.run(["volume", "revert", "v", "s", "--force"]);
    // What the file system writes from now on goes nowhere: its next journal commit fails, and it stops.
    let _ = fs::write(mounted.join("lost"), Rng::new(6).bytes(1 << 20));
    let synced = File::open(mounted.join("kept")).and_then(|file| file.sync_all());
    let flushed = File::create(mounted.join("lost too")).and_then(|mut file| file.write_all(b"x").and_then(|()| file.sync_all()));
    assert!(flushed.is_err(), "an fsync after the revert must fail ({synced:?}, {flushed:?})");
    mounted.umount();

    let again = LoopMount::new(&store.file("v"), "");
    assert_same_bytes(&fs::read(again.join("kept")).unwrap(), &Rng::new(5).bytes(2 << 20), "the file of the snapshot");
    assert!(!again.join("later").exists() && !again.join("lost").exists());
    fs::write(again.join("new"), b"it can be written").unwrap();
    again.umount();
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(store.file("v")));
    store.check();
}

#[test]
fn clones_are_on_their_own_whatever_is_deleted_in_any_order() {
    require_mount!();
    let mut rng = Rng::announced();
    for round in 0..4 {
        let store = TestStore::mounted("clones");
        let mut names: Vec<(String, Vec<u8>)> = vec![("v".to_owned(), rng.bytes(500_000))];
        fs::write(store.file("v"), &names[0].1).unwrap();
        let mut snapshots: Vec<(String, String, Vec<u8>)> = Vec::new();
        for i in 0..8 {
            let from = rng.below(names.len() as u64) as usize;
            let (name, bytes) = names[from].clone();
            let new = format!("c{i}");
            if rng.one_in(2) {
                let set = format!("s{i}");
                store.run(["snapshot", "create", &name, &set]);
                snapshots.push((set.clone(), name.clone(), bytes.clone()));
                // The clone is of the snapshot, not of what comes after it.
                read_write(&store.file(&name)).write_all_at(b"after", 1000).unwrap();
                names[from].1[1000..1005].copy_from_slice(b"after");
                store.run(["volume", "clone", &format!("{name}@{set}"), &new]);
            } else {
                store.run(["volume", "clone", &name, &new]);
            }
            names.push((new.clone(), bytes));
            let (offset, text) = (rng.below(400_000), rng.bytes(5000));
            read_write(&store.file(&new)).write_all_at(&text, offset).unwrap();
            names.last_mut().unwrap().1[offset as usize..offset as usize + 5000].copy_from_slice(&text);
        }
        let check = |names: &[(String, Vec<u8>)], snapshots: &[(String, String, Vec<u8>)]| {
            for (name, bytes) in names {
                assert_same_bytes(&fs::read(store.file(name)).unwrap(), bytes, &format!("round {round}: {name}"));
            }
            for (set, name, bytes) in snapshots {
                let path = store.set(set).join(name);
                assert_same_bytes(&fs::read(&path).unwrap(), bytes, &format!("round {round}: {}", path.display()));
            }
        };
        check(&names, &snapshots);
        while names.len() + snapshots.len() > 1 {
            let at = rng.below((names.len() + snapshots.len()) as u64) as usize;
            if at < names.len() {
                let (name, _) = names.swap_remove(at);
                if rng.one_in(2) {
                    fs::remove_file(store.file(&name)).unwrap();
                } else {
                    store.run(["volume", "delete", "--now", &name]);
                }
            } else {
                let (set, name, _) = snapshots.swap_remove(at - names.len());
                if rng.one_in(2) {
                    fs::remove_file(store.set(&set).join(name)).unwrap();
                } else {
                    store.run(["snapshot", "delete", "--now", &name, &set]);
                }
            }
            if rng.one_in(4) {
                store.remount();
            }
            check(&names, &snapshots);
        }
        store.check();
    }
}

/// Each of them happens whole or not at all, whenever the daemon is killed.
#[test]
fn a_kill_amid_reverts_clones_and_undo_leaves_old_or_new() {
    require_mount!();
    let mut rng = Rng::announced();
    let store = TestStore::mounted("kill-revert");
    let mut content = rng.bytes(200_000);
    fs::write(store.file("v"), &content).unwrap();
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    let begun = std::time::Instant::now();
    for round in 0.. {
        if round > 0 && begun.elapsed() > seconds(8) {
            break;
        }
        let set = format!("s{round}");
        store.snapshot_all(&set);
        snapshots.push((set, content.clone()));
        let (offset, bytes) = (rng.below(150_000), rng.bytes(30_000));
        read_write(&store.file("v")).write_all_at(&bytes, offset).unwrap();
        content[offset as usize..offset as usize + 30_000].copy_from_slice(&bytes);
        let (set, old) = rng.pick(&snapshots).clone();
        let delay = std::time::Duration::from_micros(rng.below(120_000));
        let undo = rng.one_in(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let run = |arguments: &[&str]| store.cli(arguments).output().is_ok_and(|output| output.status.success());
                run(&["volume", "clone", "v", "copy"]);
                if run(&["volume", "revert", "v", &set]) && undo {
                    run(&["undo", "v"]);
                }
                run(&["volume", "clone", &format!("v@{set}"), "old"]);
            });
            std::thread::sleep(delay);
            store.kill();
        });
        store.mount();
        let now = fs::read(store.file("v")).unwrap();
        assert!(now == content || now == old, "round {round}: neither what it was nor what it was reverted to");
        for (name, expected) in [("copy", &content), ("old", &old)] {
            if let Ok(found) = fs::read(store.file(name)) {
                assert_same_bytes(&found, expected, &format!("round {round}: clone {name}"));
                store.run(["volume", "delete", "--now", name]);
            }
        }
        for (set, bytes) in &snapshots {
            assert_same_bytes(&fs::read(store.set(set).join("v")).unwrap(), bytes, &format!("round {round}: {set}"));
        }
        content = now;
    }
    store.check();
}

#[test]
fn a_clone_of_a_volume_that_is_written_is_of_one_instant() {
    require_mount!();
    let store = TestStore::mounted("instant");
    fs::write(store.file("v"), vec![0; 8 * 4096]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = read_write(&store.file("v"));
            let mut count = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                count += 1;
                // One after the other: no clone may have a later one without an earlier one.
                (0..8).for_each(|block| file.write_all_at(&count.to_le_bytes(), block * 4096).unwrap());
            }
        });
        for i in 0..20 {
            store.run(["volume", "clone", "v", &format!("c{i}")]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for i in 0..20 {
        let bytes = fs::read(store.file(format!("c{i}"))).unwrap();
        let counts: Vec<u64> = bytes.chunks(4096).map(|block| u64::from_le_bytes(*block.first_chunk().unwrap())).collect();
        assert!(counts.is_sorted_by(|a, b| a >= b) && counts[0] - counts[7] <= 1, "c{i}: {counts:?}");
    }
    store.check();
}

#[test]
fn a_resize_is_seen_at_once() {
    require_loop!();
    let store = TestStore::mounted("resize");
    fs::write(store.file("v"), [7; 10_000]).unwrap();
    let mut open = read_write(&store.file("v"));
    let device = run(Command::new("losetup").args(["-f", "--show"]).arg(store.file("v")));
    let device = device.trim().to_owned();
    let detach = scopeguard(|| drop(Command::new("losetup").arg("-d").arg(&device).output()));
    for (size, shrink) in [(30_000_u64, false), (5000, true), (12_345, false), (12_346, false), (8 << 20, false)] {
        let size_text = size.to_string();
        let mut arguments = vec!["volume", "resize", "v", &size_text];
        arguments.extend(shrink.then_some("--shrink"));
        store.run(&arguments);
        assert_eq!(fs::metadata(store.file("v")).unwrap().len(), size);
        assert_eq!(open.metadata().unwrap().len(), size, "by the open handle");
        assert_eq!(open.seek(std::io::SeekFrom::End(0)).unwrap(), size);
        let mut rest = Vec::new();
        open.rewind().unwrap();
        open.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len() as u64, size, "reading ends where it ends");
        let kept = rest.iter().take_while(|byte| **byte == 7).count();
        assert!(kept == 10_000 || kept == 5000, "{kept}");
        assert!(rest[kept..].iter().all(|byte| *byte == 0), "what was cut off reads zeros");
    }
    // The file has kept its name all the time.
    let listed = run(Command::new("losetup").args(["-n", "-O", "BACK-FILE", &device]));
    assert!(!listed.contains("deleted"), "{listed}");
    run(Command::new("losetup").args(["-c", &device]));
    let blocks = run(Command::new("blockdev").args(["--getsize64", &device]));
    assert_eq!(blocks.trim(), (8 << 20).to_string());
    let refused = store.fails(["volume", "resize", "v", "1M"]);
    assert!(refused.contains("--shrink"), "{refused}");
    drop(detach);
    drop(open);
    // An appending writer goes on at the new end.
    let mut append = File::options().append(true).open(store.file("v")).unwrap();
    store.run(["volume", "resize", "v", "100", "--shrink"]);
    append.write_all(b"end").unwrap();
    assert_eq!(fs::metadata(store.file("v")).unwrap().len(), 103);
    store.check();
}

/// Runs something when dropped.
fn scopeguard<F: FnMut()>(f: F) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(f)
}

#[test]
fn copy_file_range_is_right_for_any_ranges() {
    require_mount!();
    let mut rng = Rng::announced();
    let store = TestStore::mounted("copy");
    const SIZE: usize = 400_000;
    let mut model: Vec<Vec<u8>> = (0..3)
        .map(|_| {
            let mut bytes = vec![0; SIZE];
            // Data in some places, holes in others.
            for _ in 0..4 {
                let (at, length) = (rng.below(SIZE as u64 - 50_000) as usize, rng.range(1, 50_000) as usize);
                let data = rng.bytes(length);
                bytes[at..at + length].copy_from_slice(&data);
            }
            bytes
        })
        .collect();
    let write_sparse = |path: &Path, bytes: &[u8]| {
        let file = File::create_new(path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (i, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
            file.write_all_at(block, i as u64 * 4096).unwrap();
        }
    };
    for (i, bytes) in model.iter().enumerate() {
        write_sparse(&store.file(format!("v{i}")), bytes);
    }
    store.snapshot_all("s");
    let snapshot = model.clone();
    for step in 0..150 {
        let (from, to) = (rng.below(3) as usize, rng.below(3) as usize);
        let old = rng.one_in(3);
        let source = if old { snapshot[from].clone() } else { model[from].clone() };
        let (at, target) = (rng.below(source.len() as u64 + 5000), rng.below(SIZE as u64 + 100_000));
        let length = rng.range(1, SIZE as u64) as usize;
        let path = if old { store.set("s").join(format!("v{from}")) } else { store.file(format!("v{from}")) };
        let (input, output) = (File::open(path).unwrap(), read_write(&store.file(format!("v{to}"))));
        let what = format!("step {step}: v{from}{} {at}+{length} to v{to} {target}", if old { "@s" } else { "" });
        let count = length.min(source.len().saturating_sub(at as usize));
        if !old && from == to && count > 0 && at.abs_diff(target) < count as u64 {
            let refused = copy_file_range(&input, Some(&mut at.clone()), &output, Some(&mut target.clone()), length);
            assert_eq!(refused, Err(Errno::INVAL), "{what}: it overlaps");
            continue;
        }
        // Beyond its own end a file grows as it is copied: then there is more to copy.
        let length = if !old && from == to { count } else { length };
        let (mut read_at, mut write_at) = (at, target);
        let mut left = length;
        while left > 0 {
            let copied = copy_file_range(&input, Some(&mut read_at), &output, Some(&mut write_at), left).unwrap();
            if copied == 0 {
                break;
            }
            left -= copied;
        }
        assert_eq!(length - left, count, "{what}");
        if count > 0 {
            let end = target as usize + count;
            if model[to].len() < end {
                model[to].resize(end, 0);
            }
            model[to][target as usize..end].copy_from_slice(&source[at as usize..at as usize + count]);
        }
        assert_same_bytes(&fs::read(store.file(format!("v{to}"))).unwrap(), &model[to], &what);
    }
    for (i, bytes) in snapshot.iter().enumerate() {
        assert_same_bytes(&fs::read(store.set("s").join(format!("v{i}"))).unwrap(), bytes, "the snapshot");
    }
    store.check();
}

#[test]
fn a_copy_of_a_whole_file_is_a_clone_with_its_handle_still_good() {
    require_mount!();
    let store = TestStore::mounted("whole");
    let bytes = Rng::new(9).bytes((24 << 20) + 123);
    fs::write(store.file("v"), &bytes).unwrap();
    store.snapshot_all("s");
    read_write(&store.file("v")).write_all_at(b"changed", 0).unwrap();
    let mut changed = bytes.clone();
    changed[..7].copy_from_slice(b"changed");
    for (from, expected) in [(store.set("s").join("v"), &bytes), (store.file("v"), &changed)] {
        let _ = fs::remove_file(store.file("w"));
        let (input, output) = (File::open(&from).unwrap(), File::create_new(store.file("w")).unwrap());
        let copied = copy_file_range(&input, None, &output, None, 1 << 30).unwrap();
        assert_eq!(copied, bytes.len());
        // It took no space of its own.
        store.run(["flush"]);
        let shown = store.json(["volume", "show", "w"]);
        assert_eq!(shown["head"], 0, "{shown}");
        // The handle that was open all the time, and a new one, go on with it.
        output.write_all_at(b"mine", 1 << 20).unwrap();
        output.sync_all().unwrap();
        let mut mine = expected.clone();
        mine[1 << 20..(1 << 20) + 4].copy_from_slice(b"mine");
        assert_same_bytes(&fs::read(store.file("w")).unwrap(), &mine, "the copy");
        assert_same_bytes(&fs::read(&from).unwrap(), expected, "what it was made of");
        assert_eq!(output.metadata().unwrap().len(), bytes.len() as u64);
        store.kill_and_mount_beside(output);
        assert_same_bytes(&fs::read(store.file("w")).unwrap(), &mine, "the copy, after a kill");
    }
    store.check();
}

trait KillBeside {
    fn kill_and_mount_beside(&self, open: File);
}

impl KillBeside for TestStore {
    /// SIGKILL while a file is open.
    fn kill_and_mount_beside(&self, open: File) {
        self.kill();
        drop(open);
        self.mount();
    }
}

#[test]
fn cp_makes_the_same_file_in_every_way() {
    require_mount!();
    let store = TestStore::mounted("cp");
    let file = File::create_new(store.file("v")).unwrap();
    file.set_len(40 << 20).unwrap();
    for i in 0..10_u64 {
        file.write_all_at(&Rng::new(i).bytes(70_001), i * (4 << 20) + 555).unwrap();
    }
    drop(file);
    fs::write(store.file("full"), Rng::new(20).bytes(3 << 20)).unwrap();
    store.snapshot_all("monday");
    for name in ["v", "full"] {
        for (i, option) in
            ["--reflink=auto", "--reflink=never", "--sparse=auto", "--sparse=always", "--sparse=never"].iter().enumerate()
        {
            for (j, from) in [store.file(name), store.set("monday").join(name)].iter().enumerate() {
                let to = store.file(format!("{name}-{i}-{j}"));
                run(Command::new("cp").arg(option).arg(from).arg(&to));
                assert_same_file(&to, from);
                if name == "v" && *option != "--sparse=never" {
                    let (is, was) = (fs::metadata(&to).unwrap().blocks(), fs::metadata(from).unwrap().blocks());
                    assert!(is <= was, "{option}: holes stay holes ({is} and {was} blocks)");
                }
                // Over what is there already.
                run(Command::new("cp").arg(option).arg(store.file("full")).arg(&to));
                assert_same_file(&to, &store.file("full"));
            }
        }
    }
    store.check();
}
