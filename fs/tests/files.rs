//! Volumes as files, through the kernel: what a program sees.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod support;

use outcrop_store::{DeleteVolume, Keep, Name, RenameMode};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, SeekFrom, Timespec, Timestamps, fallocate, renameat_with, seek, utimensat,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use support::{Mounted, can_mount, has, pattern, run};

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn a_volume_is_an_ordinary_file() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let content = pattern(1, 300_001);
    let path = mounted.write("db", &content);
    assert_eq!(fs::read(&path).unwrap(), content);
    let meta = path.metadata().unwrap();
    assert_eq!((meta.len(), meta.nlink(), meta.mode() & 0o7777), (300_001, 1, 0o644));
    assert!(meta.blocks() * 512 >= 300_001, "data is counted");
    assert!(meta.blocks() * 512 < 400_000, "and nothing else");

    let file = open(&path);
    file.write_all_at(b"over", 299_999).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 300_003);
    file.set_len(100).unwrap();
    file.set_len(8192).unwrap();
    let mut now = fs::read(&path).unwrap();
    assert_eq!(now.len(), 8192);
    assert_eq!(now.split_off(100), vec![0; 8092], "what was cut off reads zeros");
    assert_eq!(now, content[..100]);
    file.sync_all().unwrap();
    file.sync_data().unwrap();

    // O_TRUNC, and opened for writing only.
    let mut file = File::create(&path).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 0);
    file.write_all(b"x").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"x");
    let sparse = open(&mounted.path("sparse"));
    sparse.set_len(1 << 40).unwrap();
    assert_eq!(mounted.path("sparse").metadata().unwrap().blocks(), 0);
}

#[test]
fn every_kind_of_open_writes_what_it_says() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.path("v");
    for flags in [libc::O_SYNC, libc::O_DSYNC, libc::O_APPEND, libc::O_APPEND | libc::O_DSYNC] {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(&path).unwrap();
        file.write_all(b"one ").unwrap();
        file.write_all(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two", "{flags:o}");
    }
    assert_eq!(errno(OpenOptions::new().write(true).create_new(true).open(&path)), Some(Errno::EXIST));
    assert_eq!(errno(File::open(mounted.path("missing"))), Some(Errno::NOENT));
}

#[test]
fn an_append_lands_at_the_end_although_the_size_changed_behind_the_kernel() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let name = Name::new("log").unwrap();
    let mut file = OpenOptions::new().create(true).append(true).open(mounted.path("log")).unwrap();
    file.write_all(b"1234").unwrap();
    let volume = mounted.store.volume(&name).unwrap();
    volume.set_size(10).unwrap();
    mounted.mount.invalidate_volumes(&[&name]);
    file.write_all(b"56").unwrap();
    file.write_all(b"78").unwrap();
    assert_eq!(fs::read(mounted.path("log")).unwrap(), b"1234\0\0\0\0\0\x005678");
    volume.set_size(2).unwrap();
    mounted.mount.invalidate_volumes(&[&name]);
    file.write_all(b"9").unwrap();
    assert_eq!(fs::read(mounted.path("log")).unwrap(), b"129");
}

#[test]
fn what_the_store_does_is_seen_in_the_mount() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
    mounted.write("a", b"content");
    mounted.store.volume(&a).unwrap().set_size(3).unwrap();
    mounted.mount.invalidate_volumes(&[&a]);
    assert_eq!(fs::read(mounted.path("a")).unwrap(), b"con");
    mounted.store.rename_volume(&a, &b, RenameMode::Replace).unwrap();
    mounted.mount.invalidate_volumes(&[&a, &b]);
    assert_eq!(errno(mounted.path("a").metadata()), Some(Errno::NOENT));
    let mut file = File::open(mounted.path("b")).unwrap();
    mounted.store.delete_volume(&b, DeleteVolume::Head, Keep::ForUndo).unwrap();
    mounted.mount.invalidate_volumes(&[&b]);
    assert_eq!(errno(mounted.path("b").metadata()), Some(Errno::NOENT));
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "con", "an open file lives until it is closed");
}

#[test]
fn fallocate_does_its_four_modes_and_refuses_the_rest() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let content = pattern(2, 100_000);
    let path = mounted.write("v", &content);
    let file = open(&path);
    let blocks = || path.metadata().unwrap().blocks();
    fallocate(&file, FallocateFlags::empty(), 90_000, 20_000).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 110_000);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 90_000, 90_000).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 110_000);
    let before = blocks();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4000, 20_000).unwrap();
    assert!(blocks() < before, "a punch gives space back");
    fallocate(&file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 50_000, 100_000).unwrap();
    assert_eq!(path.metadata().unwrap().len(), 110_000);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 100_000, 20_000).unwrap();
    let mut expected = content;
    expected.resize(120_000, 0);
    expected[4000..24_000].fill(0);
    expected[50_000..].fill(0);
    assert!(fs::read(&path).unwrap() == expected);
    for other in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        assert_eq!(fallocate(&file, other, 0, 4096), Err(Errno::OPNOTSUPP));
    }
}

#[test]
fn data_and_holes_are_found() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let file = open(&mounted.path("v"));
    file.set_len(10 << 20).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.write_all_at(&[1; 100], 5 << 20).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(1 << 20));
    assert_eq!(seek(&file, SeekFrom::Hole(1 << 20)), Ok((1 << 20) + 4096));
    assert_eq!(seek(&file, SeekFrom::Data(2 << 20)), Ok(5 << 20));
    assert_eq!(seek(&file, SeekFrom::Data(6 << 20)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::Hole(6 << 20)), Ok(6 << 20));
    assert_eq!(seek(&file, SeekFrom::Hole(11 << 20)), Err(Errno::NXIO));
}

#[test]
fn copy_file_range_copies_any_range_and_keeps_holes() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let source = open(&mounted.path("source"));
    source.set_len(9 << 20).unwrap();
    source.write_all_at(&pattern(3, 70_000), 100_000).unwrap();
    source.write_all_at(&pattern(4, 5000), 6 << 20).unwrap();
    let model = fs::read(mounted.path("source")).unwrap();
    for (from, to, length) in
        [(0, 0, 9 << 20), (99_999, 1, 80_001), (1, 4095, 4096), (5 << 20, 123, 3 << 20), (4096, 8192, 1 << 20)]
    {
        let mut expected = pattern(5, 7 << 20);
        let target_path = mounted.write("target", &expected);
        let target = open(&target_path);
        let (mut off_in, mut off_out, mut left) = (from as u64, to as u64, length);
        while left > 0 {
            let copied = rustix::fs::copy_file_range(&source, Some(&mut off_in), &target, Some(&mut off_out), left).unwrap();
            assert!(copied > 0);
            left -= copied;
        }
        expected.resize(expected.len().max(to + length), 0);
        expected[to..to + length].copy_from_slice(&model[from..from + length]);
        assert!(fs::read(&target_path).unwrap() == expected, "{from} {to} {length}");
    }
    let sparse = open(&mounted.path("sparse"));
    assert_eq!(rustix::fs::copy_file_range(&source, Some(&mut 0), &sparse, Some(&mut 0), 9 << 20), Ok(9 << 20));
    assert!(mounted.path("sparse").metadata().unwrap().blocks() < 400, "holes stay holes");
    let overlap = rustix::fs::copy_file_range(&source, Some(&mut 0), &source, Some(&mut 10), 100);
    assert_eq!(overlap, Err(Errno::INVAL));
    assert_eq!(rustix::fs::copy_file_range(&source, Some(&mut (10 << 20)), &sparse, Some(&mut 0), 10), Ok(0), "past the end");
}

#[test]
fn renames_do_what_their_flags_say() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, mounted.path(from), CWD, mounted.path(to), flags);
    mounted.write("a", b"a");
    mounted.write("b", b"b");
    let ino = |name: &str| mounted.path(name).metadata().unwrap().ino();
    let (a, b) = (ino("a"), ino("b"));
    assert_eq!(rename("a", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("a", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((ino("a"), ino("b")), (b, a), "an inode goes with its volume");
    assert_eq!(fs::read(mounted.path("a")).unwrap(), b"b");
    rename("a", "c", RenameFlags::NOREPLACE).unwrap();
    let mut replaced = File::open(mounted.path("b")).unwrap();
    rename("c", "b", RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(mounted.path("b")).unwrap(), b"b");
    let mut content = String::new();
    replaced.read_to_string(&mut content).unwrap();
    assert_eq!(content, "a", "the replaced volume lives until it is closed");
    assert_eq!(rename("missing", "x", RenameFlags::empty()), Err(Errno::NOENT));
    assert_eq!(rename("b", ".snapshots/b", RenameFlags::empty()), Err(Errno::PERM));
    assert_eq!(rename(".snapshots", "x", RenameFlags::empty()), Err(Errno::PERM));
}

#[test]
fn a_deleted_volume_lives_until_it_is_closed() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let content = pattern(6, 50_000);
    let path = mounted.write("v", &content);
    let file = open(&path);
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    mounted.write("v", b"another");
    file.write_all_at(b"still here", 60_000).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.nlink(), meta.len()), (0, 60_010));
    let mut read = vec![0; 50_000];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content);
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    assert_eq!(fs::read(&path).unwrap(), b"another");
}

#[test]
fn names_are_refused_as_ext4_would() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let long = "n".repeat(256);
    assert_eq!(errno(File::create(mounted.path(&long))), Some(Errno::NAMETOOLONG));
    assert_eq!(errno(mounted.path(&long).metadata()), Some(Errno::NAMETOOLONG));
    mounted.write(&long[1..], b"255 bytes are fine");
    assert_eq!(errno(File::create(mounted.path(".snapshots"))), Some(Errno::ISDIR));
    assert_eq!(errno(fs::create_dir(mounted.path(".snapshots"))), Some(Errno::EXIST));
    assert_eq!(errno(fs::remove_file(mounted.path(".snapshots"))), Some(Errno::ISDIR));
    assert_eq!(errno(fs::remove_dir(mounted.path(".snapshots"))), Some(Errno::PERM));
    assert_eq!(errno(fs::create_dir(mounted.path("dir"))), Some(Errno::PERM));
    assert_eq!(errno(std::os::unix::fs::symlink("x", mounted.path("link"))), Some(Errno::PERM));
    assert_eq!(errno(fs::hard_link(mounted.path(&long[1..]), mounted.path("hard"))), Some(Errno::PERM));
    let fifo = rustix::fs::mknodat(CWD, mounted.path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0);
    assert_eq!(fifo, Err(Errno::PERM));
    rustix::fs::mknodat(CWD, mounted.path("node"), rustix::fs::FileType::RegularFile, 0o600.into(), 0).unwrap();
    assert_eq!(mounted.path("node").metadata().unwrap().mode(), 0o100_600);
}

#[test]
fn snapshots_are_directories_of_files_that_never_change() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let content = pattern(7, 1 << 20);
    let path = mounted.write("v", &content);
    mounted.write("w", b"w");
    fs::create_dir(mounted.path(".snapshots/monday")).unwrap();
    assert_eq!(errno(fs::create_dir(mounted.path(".snapshots/monday"))), Some(Errno::EXIST));
    open(&path).write_all_at(&[9; 4096], 0).unwrap();
    fs::remove_file(mounted.path("w")).unwrap();
    let names = |dir: &str| -> BTreeSet<_> {
        fs::read_dir(mounted.path(dir)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(""), [".snapshots", "v"].map(str::to_owned).into());
    assert_eq!(names(".snapshots"), ["monday"].map(str::to_owned).into());
    assert_eq!(names(".snapshots/monday"), ["v", "w"].map(str::to_owned).into());
    let old = mounted.path(".snapshots/monday/v");
    assert!(fs::read(&old).unwrap() == content);
    assert_eq!(fs::read(mounted.path(".snapshots/monday/w")).unwrap(), b"w");
    let meta = old.metadata().unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (1 << 20, 0o444));
    let info = mounted.store.snapshot_info(&Name::new("monday").unwrap(), &Name::new("v").unwrap()).unwrap();
    let taken = u64::try_from(meta.mtime()).unwrap() * 1_000_000_000 + u64::try_from(meta.mtime_nsec()).unwrap();
    assert_eq!(taken, info.created_ns, "the snapshot's time");
    // Nothing in there can be changed.
    assert_eq!(errno(File::options().write(true).open(&old)), Some(Errno::ROFS));
    assert_eq!(errno(fs::set_permissions(&old, fs::Permissions::from_mode(0o600))), Some(Errno::ROFS));
    assert_eq!(errno(File::create(mounted.path(".snapshots/monday/x"))), Some(Errno::ROFS));
    assert_eq!(errno(File::create(mounted.path(".snapshots/x"))), Some(Errno::PERM));
    // And it comes back with cp.
    fs::copy(mounted.path(".snapshots/monday/w"), mounted.path("w")).unwrap();
    assert_eq!(fs::read(mounted.path("w")).unwrap(), b"w");
    // It goes as files do; who has it open keeps it.
    let mut kept = File::open(&old).unwrap();
    fs::remove_file(&old).unwrap();
    assert_eq!(errno(old.metadata()), Some(Errno::NOENT));
    fs::remove_dir(mounted.path(".snapshots/monday")).unwrap();
    assert_eq!(names(".snapshots"), BTreeSet::new());
    let mut found = Vec::new();
    kept.read_to_end(&mut found).unwrap();
    assert!(found == content);
    assert_eq!(kept.metadata().unwrap().nlink(), 0);
}

#[test]
fn owners_modes_and_times_are_kept() {
    if !can_mount() || !has("setpriv") {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("v", b"v");
    let mode = || path.metadata().unwrap().mode() & 0o7777;
    let as_other = |command: &str| {
        run("setpriv", &["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command, path.to_str().unwrap()])
    };
    // The kernel checks them: this user may not make files, nor write to one with this mode.
    let denied = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "! echo x >> \"$0\" && ! touch \"$0.new\""])
        .arg(&path)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(denied.success());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    assert_eq!(mode(), 0o6777);
    as_other("echo x >> \"$0\"");
    assert_eq!(mode(), 0o777, "a write by another user takes setuid away");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4777)).unwrap();
    as_other("truncate -s 0 \"$0\"");
    assert_eq!(mode(), 0o777, "so does a truncate");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4777)).unwrap();
    std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    assert_eq!(mode(), 0o777, "and a change of the owner");
    assert_eq!((path.metadata().unwrap().uid(), path.metadata().unwrap().gid()), (65534, 65534));
    as_other("chmod 600 \"$0\"");
    assert_eq!(mode(), 0o600);
}

#[test]
fn no_time_that_can_be_set_ends_the_mount() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("v", b"v");
    let set = |tv_sec, tv_nsec| {
        let time = Timespec { tv_sec, tv_nsec };
        utimensat(CWD, &path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
        let meta = path.metadata().unwrap();
        (meta.mtime(), meta.mtime_nsec(), meta.atime(), meta.atime_nsec())
    };
    assert_eq!(set(1_700_000_000, 123_456_789), (1_700_000_000, 123_456_789, 1_700_000_000, 123_456_789));
    assert_eq!(set(-2, 250_000_000), (-2, 250_000_000, -2, 250_000_000));
    for seconds in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
        for _ in 0..8 {
            // More often than there are threads: one that ended is not enough to be seen.
            set(seconds, 999_999_999);
        }
    }
    let before = std::time::SystemTime::now();
    run("touch", &[path.to_str().unwrap()]);
    assert!(path.metadata().unwrap().modified().unwrap() >= before - std::time::Duration::from_secs(1));
}

#[test]
fn a_directory_can_be_read_while_it_changes() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    const FILES: usize = 300;
    for n in 0..FILES {
        mounted.write(&format!("{n:04}-{}", "x".repeat(200)), b"");
    }
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(mounted.path("")).unwrap() {
        let name = entry.unwrap().file_name();
        if name != ".snapshots" {
            fs::remove_file(mounted.path("").join(&name)).unwrap();
            assert!(seen.insert(name), "each is seen once");
        }
    }
    assert_eq!(seen.len(), FILES);
    assert_eq!(fs::read_dir(mounted.path("")).unwrap().count(), 1);
}

#[test]
fn extended_attributes_show_what_a_file_is_made_of() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let path = mounted.write("v", b"v");
    let mut buffer = vec![0; 4096];
    let length = rustix::fs::getxattr(&path, "user.outcrop.id", &mut buffer).unwrap();
    let info = mounted.store.volume_info(&Name::new("v").unwrap()).unwrap();
    assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), info.id.to_string());
    let length = rustix::fs::listxattr(&path, &mut buffer).unwrap();
    let names: Vec<_> = buffer[..length].split(|b| *b == 0).filter(|n| !n.is_empty()).map(String::from_utf8_lossy).collect();
    assert!(names.iter().any(|name| name == "user.outcrop.layers"), "{names:?}");
    let get = |name: &str, space: &mut [u8]| rustix::fs::getxattr(&path, name, space);
    assert_eq!(get("user.outcrop.id", &mut [0; 3]), Err(Errno::RANGE));
    assert_eq!(get("user.other", &mut [0; 99]), Err(Errno::NODATA));
    assert_eq!(rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty()), Err(Errno::OPNOTSUPP));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with("ro");
    let name = Name::new("v").unwrap();
    let new = outcrop_store::NewVolume { size: Some(5), image: None, mode: 0o666, uid: 0, gid: 0 };
    mounted.store.create_volume(&name, &new).unwrap();
    let path = mounted.path("v");
    assert_eq!(fs::read(&path).unwrap(), [0; 5]);
    assert_eq!(errno(File::options().write(true).open(&path)), Some(Errno::ROFS));
    assert_eq!(errno(File::create(mounted.path("w"))), Some(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(&path)), Some(Errno::ROFS));
    assert_eq!(errno(fs::create_dir(mounted.path(".snapshots/s"))), Some(Errno::ROFS));
}

#[test]
fn parallel_writers_do_not_disturb_each_other() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::with("threads=4,pool=4");
    const WRITERS: usize = 6;
    const PART: usize = 200_003;
    let path = mounted.write("v", b"");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                let file = File::options().read(true).write(true).open(path).unwrap();
                let content = pattern(writer as u64, PART);
                let mut done = 0;
                for step in [1, 4096, 511, 8192, 70_000].iter().cycle() {
                    let end = (done + step).min(PART);
                    file.write_all_at(&content[done..end], (writer * PART + done) as u64).unwrap();
                    let mut back = vec![0; end - done];
                    file.read_exact_at(&mut back, (writer * PART + done) as u64).unwrap();
                    assert!(back == content[done..end]);
                    done = end;
                    if done == PART {
                        break;
                    }
                }
            });
        }
    });
    let expected: Vec<u8> = (0..WRITERS).flat_map(|writer| pattern(writer as u64, PART)).collect();
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn statfs_tells_the_disks_truth() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let there = rustix::fs::statvfs(mounted.mount.path()).unwrap();
    let space = mounted.store.space().unwrap();
    assert_eq!(there.f_blocks * there.f_frsize, space.total / 4096 * 4096);
    assert!(there.f_bavail * there.f_frsize <= space.total);
    assert_eq!(there.f_namemax, 255);
}
