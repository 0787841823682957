//! Volumes are files: what cp, dd, truncate, fallocate, rsync, tar and the system calls do to them.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Rng, TestStore, assert_same_bytes, assert_same_file, fails, require_mount, run, sh};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom, fallocate, renameat_with, seek};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// The data extents of a file, as `SEEK_DATA` and `SEEK_HOLE` tell them.
fn extents(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => {
                at = seek(&file, SeekFrom::Hole(data)).unwrap();
                found.push((data, at));
            }
            Err(error) => {
                assert_eq!(error, Errno::NXIO);
                return found;
            }
        }
    }
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn cp_dd_and_truncate_make_the_file_that_they_say() {
    require_mount!();
    let store = TestStore::mounted("coreutils");
    let source = store.outside("source");
    fs::write(&source, Rng::new(1).bytes(3_000_001)).unwrap();
    let volume = store.file("v");
    run(Command::new("cp").arg(&source).arg(&volume));
    assert_same_file(&volume, &source);

    for (input, output) in [(&source, &volume), (&volume, &store.outside("back"))] {
        sh("dd if=\"$1\" of=\"$2\" bs=64k status=none conv=fsync", [input, output]);
        assert_same_file(output, input);
    }
    for file in [&source, &volume] {
        sh("printf patched | dd of=\"$1\" bs=1 seek=12345 conv=notrunc status=none", [file]);
        sh("truncate -s 1000000 \"$1\"; truncate -s +500001 \"$1\"", [file]);
    }
    assert_same_file(&volume, &source);
    store.remount();
    assert_same_file(&volume, &source);
    store.check();
}

#[test]
fn direct_writes_by_dd_are_the_same() {
    require_mount!();
    let store = TestStore::mounted("direct");
    let source = store.outside("source");
    fs::write(&source, Rng::new(2).bytes(8 << 20)).unwrap();
    for block in ["4k", "1M"] {
        let volume = store.file(block);
        sh(
            "dd if=\"$1\" of=\"$2\" bs=\"$3\" oflag=direct status=none",
            [source.as_os_str(), volume.as_os_str(), OsStr::new(block)],
        );
        sh(
            "dd if=\"$1\" bs=\"$3\" iflag=direct status=none | cmp - \"$2\"",
            [volume.as_os_str(), source.as_os_str(), OsStr::new(block)],
        );
    }
}

#[test]
fn fallocate_does_its_four_kinds_and_refuses_others() {
    require_mount!();
    let store = TestStore::mounted("fallocate");
    let path = store.file("v");
    let file = open(&path);
    let bytes = Rng::new(3).bytes(64 << 10);
    file.write_all_at(&bytes, 0).unwrap();

    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 5000, 20_000).unwrap();
    let mut expected = bytes.clone();
    expected[5000..25_000].fill(0);
    assert_same_bytes(&fs::read(&path).unwrap(), &expected, "punched");
    assert_eq!(extents(&path), [(0, 8192), (24_576, 65_536)], "the whole blocks of the punched range are a hole");
    assert_eq!(allocated(&path), (64 << 10) - 16_384);

    fallocate(&file, FallocateFlags::ZERO_RANGE, 60_000, 20_000).unwrap();
    expected.resize(80_000, 0);
    expected[60_000..].fill(0);
    assert_same_bytes(&fs::read(&path).unwrap(), &expected, "zeroed, growing");

    fallocate(&file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 79_000, 20_000).unwrap();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 200_000).unwrap();
    assert_same_bytes(&fs::read(&path).unwrap(), &expected, "sizes kept");

    fallocate(&file, FallocateFlags::empty(), 100_000, 50_000).unwrap();
    expected.resize(150_000, 0);
    assert_same_bytes(&fs::read(&path).unwrap(), &expected, "allocated, growing");

    for refused in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE] {
        assert_eq!(fallocate(&file, refused, 0, 4096), Err(Errno::OPNOTSUPP), "{refused:?}");
    }
    store.kill_and_mount();
    assert_same_bytes(&fs::read(&path).unwrap(), &expected, "after a kill");
}

#[test]
fn holes_stay_holes_through_cp_tar_and_rsync() {
    require_mount!("rsync", "tar");
    let store = TestStore::mounted("sparse");
    let path = store.file("sparse");
    let file = open(&path);
    file.set_len(1 << 30).unwrap();
    let bytes = Rng::new(4).bytes(8192);
    let places = [(0, 8192), (300 << 20, 8192), ((1 << 30) - 8192, 8192)];
    for (offset, _) in places {
        file.write_all_at(&bytes, offset).unwrap();
    }
    let expected: Vec<_> = places.iter().map(|&(offset, length)| (offset, offset + length)).collect();
    assert_eq!(extents(&path), expected);
    assert_eq!(allocated(&path), 3 * 8192);

    let copy = store.file("copy");
    run(Command::new("cp").arg("--sparse=auto").arg(&path).arg(&copy));
    assert_eq!(extents(&copy), expected);
    assert_eq!(allocated(&copy), 3 * 8192);

    let out = store.outside("out");
    fs::create_dir(&out).unwrap();
    sh("cd \"$1\" && tar -cSf - sparse | tar -xSf - -C \"$2\"", [store.mount_point(), &out]);
    assert_same_file(&out.join("sparse"), &path);
    assert!(allocated(&out.join("sparse")) <= 1 << 20, "tar saw the holes");

    // And in again, over a volume that has other things in it.
    fs::write(store.file("in"), Rng::new(5).bytes(100_000)).unwrap();
    sh("rsync -S --inplace \"$1\" \"$2\"", [out.join("sparse"), store.file("in")]);
    assert_same_file(&store.file("in"), &path);
    sh("rsync -a \"$1/sparse\" \"$2/\"", [&out, store.mount_point()]);
    assert_same_file(&store.file("sparse"), &out.join("sparse"));
    store.check();
}

#[test]
fn st_blocks_is_honest_through_overwrites_and_snapshots() {
    require_mount!();
    let store = TestStore::mounted("blocks");
    let path = store.file("v");
    let file = open(&path);
    file.set_len(1 << 20).unwrap();
    assert_eq!(allocated(&path), 0);
    file.write_all_at(b"x", 10_000).unwrap();
    assert_eq!(allocated(&path), 4096);
    file.write_all_at(&[1; 8192], 8192).unwrap();
    assert_eq!(allocated(&path), 8192);
    store.snapshot_all("s");
    assert_eq!(allocated(&path), 8192, "the whole chain counts");
    file.write_all_at(&[2; 4096], 8192).unwrap();
    assert_eq!(allocated(&path), 8192, "an overwritten block counts once");
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 4096).unwrap();
    assert_eq!(allocated(&path), 4096, "a punched block doesn't count, whatever the parent holds");
    assert_eq!(allocated(&store.set("s").join("v")), 8192);
    file.set_len(0).unwrap();
    assert_eq!(allocated(&path), 0);
    file.set_len(1 << 20).unwrap();
    assert_eq!((allocated(&path), extents(&path)), (0, vec![]), "growing again shows zeros, not the parent");
    drop(file);
    store.remount();
    assert_eq!(allocated(&path), 0);
}

#[test]
fn attributes_persist_over_a_remount() {
    require_mount!();
    let store = TestStore::mounted("attributes");
    let path = store.file("v");
    fs::write(&path, b"content").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    let (accessed, modified) =
        (UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789), UNIX_EPOCH + Duration::new(1_500_000_000, 987_654_321));
    File::open(&path).unwrap().set_times(FileTimes::new().set_accessed(accessed).set_modified(modified)).unwrap();
    let told = || {
        let meta = fs::metadata(&path).unwrap();
        (meta.mode(), meta.uid(), meta.gid(), meta.len(), meta.accessed().unwrap(), meta.modified().unwrap(), meta.ino())
    };
    let before = told();
    assert_eq!((before.0 & 0o7777, before.1, before.2, before.3), (0o640, 1234, 4321, 7));
    assert_eq!((before.4, before.5), (accessed, modified));
    File::open(&path).unwrap().sync_all().unwrap();
    store.remount();
    assert_eq!(told(), before, "after a remount");
    store.kill_and_mount();
    assert_eq!(told(), before, "after a kill");
}

#[test]
fn modes_are_enforced_for_others() {
    require_mount!("setpriv");
    let store = TestStore::mounted("modes");
    fs::write(store.file("secret"), b"mine").unwrap();
    fs::write(store.file("open"), b"ours").unwrap();
    fs::set_permissions(store.file("secret"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(store.file("open"), Permissions::from_mode(0o644)).unwrap();
    let nobody = |file: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(file);
        command
    };
    assert_eq!(run(&mut nobody(&store.file("open"))), "ours");
    assert!(fails(&mut nobody(&store.file("secret"))).contains("Permission denied"));
}

#[test]
fn append_truncate_and_sync_flags_of_open_work() {
    require_mount!();
    let store = TestStore::mounted("flags");
    let path = store.file("v");
    let mut one = File::options().append(true).create(true).open(&path).unwrap();
    let mut two = File::options().append(true).open(&path).unwrap();
    for _ in 0..50 {
        one.write_all(b"one,").unwrap();
        two.write_all(b"two,").unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "one,two,".repeat(50));
    drop(File::options().write(true).truncate(true).open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    for flag in [libc::O_SYNC, libc::O_DSYNC] {
        let file = File::options().write(true).custom_flags(flag).open(&path).unwrap();
        file.write_all_at(&[7; 5000], 100).unwrap();
    }
    store.kill_and_mount();
    assert_eq!(fs::read(&path).unwrap()[100..], [7; 5000]);
    assert!(File::create_new(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists));
}

#[test]
fn appends_from_many_processes_lose_nothing() {
    require_mount!();
    let store = TestStore::mounted("append");
    let path = store.file("log");
    fs::write(&path, b"").unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).open(path).unwrap();
                (0..200).for_each(|i| file.write_all(format!("{writer}:{i:07}\n").as_bytes()).unwrap());
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1600);
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 1600, "no line overwrote another");
}

#[test]
fn rename_replaces_exchanges_and_refuses() {
    require_mount!();
    let store = TestStore::mounted("rename");
    let (a, b, c) = (store.file("a"), store.file("b"), store.file("c"));
    for path in [&a, &b] {
        fs::write(path, path.as_os_str().as_bytes()).unwrap();
    }
    let inode = fs::metadata(&a).unwrap().ino();
    let text = fs::read(&a).unwrap();
    assert_eq!(renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE), Err(Errno::EXIST));
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(&b).unwrap(), text);
    assert_eq!(fs::metadata(&b).unwrap().ino(), inode, "a rename carries identity");
    fs::rename(&b, &c).unwrap();
    fs::rename(&c, &a).unwrap();
    assert_eq!((fs::read(&a).unwrap(), b.exists(), c.exists()), (text.clone(), false, false));
    store.kill_and_mount();
    assert_eq!((fs::read(&a).unwrap(), b.exists(), c.exists()), (text, false, false));
    assert_eq!(fs::rename(&b, &c).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    store.check();
}

#[test]
fn a_volume_removed_while_open_lives_until_it_is_closed() {
    require_mount!();
    let store = TestStore::mounted("unlink");
    let path = store.file("v");
    let bytes = Rng::new(6).bytes(100_000);
    let mut file = open(&path);
    file.write_all(&bytes).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!path.exists());
    file.write_all_at(b"still here", 50_000).unwrap();
    let mut expected = bytes;
    expected[50_000..50_010].copy_from_slice(b"still here");
    let mut found = vec![0; expected.len()];
    file.rewind().unwrap();
    file.read_exact_at(&mut found, 0).unwrap();
    assert_same_bytes(&found, &expected, "the removed volume");
    fs::write(&path, b"another").unwrap();
    file.read_exact_at(&mut found, 0).unwrap();
    assert_same_bytes(&found, &expected, "the removed volume, beside one of its name");
    assert_eq!(fs::read(&path).unwrap(), b"another");
    drop(file);
    store.remount();
    assert_eq!(fs::read(&path).unwrap(), b"another");
    store.check();
}

#[test]
fn names_are_any_but_the_snapshots_directory() {
    require_mount!();
    let store = TestStore::mounted("names");
    let long = "n".repeat(255);
    let odd: [&[u8]; 8] =
        [long.as_bytes(), b"\xff\xfe\x80", b"with space", b"line\nbreak", b"-rf", "größe".as_bytes(), b"back\\slash", b".hidden"];
    for name in odd {
        fs::write(store.file(OsStr::from_bytes(name)), name).unwrap();
    }
    store.snapshot_all("s");
    store.remount();
    let listed = |directory: &Path| {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != ".snapshots");
        names.sort();
        names
    };
    let mut expected: Vec<_> = odd.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect();
    expected.sort();
    assert_eq!(listed(store.mount_point()), expected);
    assert_eq!(listed(&store.set("s")), expected);
    for name in odd {
        assert_eq!(fs::read(store.file(OsStr::from_bytes(name))).unwrap(), name);
        assert_eq!(fs::read(store.set("s").join(OsStr::from_bytes(name))).unwrap(), name);
    }
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(fs::write(store.file("n".repeat(256)), b"")), Some(libc::ENAMETOOLONG));
    assert_eq!(errno(fs::write(store.file(".snapshots"), b"")), Some(libc::EISDIR));
    assert!(fs::rename(store.file(&long), store.file(".snapshots")).is_err());
    assert!(fs::create_dir(store.file("directory")).is_err(), "the mount is flat");
    assert!(std::os::unix::fs::symlink("x", store.file("link")).is_err());
    store.check();
}

#[test]
fn read_only_attributes_tell_what_a_volume_is() {
    require_mount!();
    let store = TestStore::mounted("xattr");
    let path = store.file("v");
    fs::write(&path, b"x").unwrap();
    let list = |path: &Path| {
        let mut buffer = vec![0; 4096];
        let length = rustix::fs::listxattr(path, &mut buffer[..]).unwrap();
        let names = buffer[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
        names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    let names = list(&path);
    assert!(names.iter().any(|name| name == "user.outcrop.id"), "{names:?}");
    assert!(names.iter().any(|name| name == "user.outcrop.layers"), "{names:?}");
    for name in &names {
        let mut buffer = vec![0; 65_536];
        assert!(rustix::fs::getxattr(&path, name.as_str(), &mut buffer[..]).unwrap() > 0, "{name} is empty");
    }
    assert!(rustix::fs::setxattr(&path, "user.outcrop.id", b"mine", rustix::fs::XattrFlags::empty()).is_err());
    let missing = rustix::fs::getxattr(&path, "user.other", &mut [0; 16][..]);
    assert_eq!(missing, Err(Errno::NODATA));
}

#[test]
fn sizes_go_up_to_the_limit_and_no_further() {
    require_mount!();
    let store = TestStore::mounted("limit");
    let file = open(&store.file("v"));
    file.set_len(64 << 40).unwrap();
    file.write_all_at(b"end", (64 << 40) - 3).unwrap();
    assert_eq!(file.set_len((64 << 40) + 1).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    assert_eq!(file.write_all_at(b"x", 64 << 40).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    assert_eq!(fs::metadata(store.file("v")).unwrap().len(), 64 << 40);
}

#[test]
fn copy_file_range_copies_between_volumes() {
    require_mount!();
    let store = TestStore::mounted("cfr");
    let bytes = Rng::new(8).bytes(3 << 20);
    fs::write(store.file("a"), &bytes).unwrap();
    let (from, to) = (File::open(store.file("a")).unwrap(), open(&store.file("b")));
    let (mut input, mut output) = (1000_u64, 500_u64);
    while input < bytes.len() as u64 {
        let n = rustix::fs::copy_file_range(&from, Some(&mut input), &to, Some(&mut output), bytes.len()).unwrap();
        assert!(n > 0);
    }
    let mut expected = vec![0; 500];
    expected.extend(&bytes[1000..]);
    assert_same_bytes(&fs::read(store.file("b")).unwrap(), &expected, "copied");
}

#[test]
fn parallel_direct_writes_of_fio_verify() {
    require_mount!("fio");
    let store = TestStore::mounted("fio");
    let volume = store.file("v");
    // FACTS about another FUSE export: deep queues of large direct writes came out corrupt there.
    for (name, arguments) in [
        ("small", "--bs=4k --iodepth=32 --ioengine=libaio --direct=1 --rw=randwrite --size=24M"),
        ("large", "--bs=1M --iodepth=16 --ioengine=libaio --direct=1 --rw=write --size=64M"),
        (
            "odd",
            "--bsrange=512-64k --bs_unaligned=1 --ioengine=psync --rw=randwrite --size=16M --numjobs=2 --offset_increment=16M",
        ),
    ] {
        let line = format!(
            "fio --name={name} --filename=\"$1\" {arguments} --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --output=/dev/null 2>&1"
        );
        sh(&line, [&volume]);
    }
    store.check();
}

#[test]
fn statfs_is_the_disks_truth() {
    require_mount!();
    let store = TestStore::mounted("statfs");
    let (volume, disk) = (rustix::fs::statvfs(store.mount_point()).unwrap(), rustix::fs::statvfs(store.store()).unwrap());
    assert_eq!(volume.f_blocks * volume.f_frsize, disk.f_blocks * disk.f_frsize);
    assert!(volume.f_bavail * volume.f_frsize <= disk.f_bavail * disk.f_frsize);
    assert_eq!(volume.f_namemax, 255);
}
