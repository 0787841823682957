//! What is done before and after a snapshot: commands that fail or hang, and file systems that are thawed whatever happens.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::wait::LIMIT;
use outcrop_tests::{FileSystem, LoopDisk, LoopMount, TestStore, require_loop, require_mount, run, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

fn volume(store: &TestStore, name: &str, bytes: u64) -> PathBuf {
    File::create_new(store.file(name)).unwrap().set_len(bytes).unwrap();
    store.file(name)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn alive(pid: u32) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

#[test]
fn commands_are_run_around_a_snapshot_and_told_what_it_is() {
    require_mount!();
    let store = TestStore::mounted("hooks");
    volume(&store, "a", 1 << 20);
    volume(&store, "b", 1 << 20);
    let (before, after) = (store.outside("before"), store.outside("after"));
    let env = |file: &Path| format!("env > {}", file.display());
    let create = |name: &str, before: &str, after: &str| {
        let arguments = ["snapshot", "create", "--all", name, "--before", before, "--after", after, "--hook-timeout", "60s"];
        store.cli(arguments).stdin(Stdio::null()).output().unwrap()
    };
    assert!(create("one", &env(&before), &env(&after)).status.success());
    let told = |file: &Path, line: &str| {
        let all = fs::read_to_string(file).unwrap();
        assert!(all.lines().any(|found| found == line), "'{line}' is wanted in\n{all}");
    };
    told(&before, "OUTCROP_STAGE=before");
    told(&before, "OUTCROP_SNAPSHOT=one");
    told(&before, "OUTCROP_VOLUMES=a");
    told(&before, &format!("OUTCROP_STORE={}", store.store().display()));
    told(&before, &format!("OUTCROP_MOUNT={}", store.mount_point().display()));
    told(&after, "OUTCROP_STAGE=after");
    told(&after, "OUTCROP_RESULT=ok");

    // A command may write to the mount, and ask the daemon.
    let busy = "echo hello > $OUTCROP_MOUNT/a && $OUTCROP volume list > /dev/null";
    let program = store.cli(["x"]).get_program().to_owned();
    assert!(create("busy", &busy.replace("$OUTCROP ", &format!("{} ", program.display())), "true").status.success());
    assert!(fs::read(store.set("busy").join("a")).unwrap().starts_with(b"hello"));

    // A command before that fails: no snapshot, and the one after hears of it.
    let failed = create("two", "echo the database is busy >&2; exit 7", &env(&after));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("exit status: 7") && said.contains("the database is busy"), "{said}");
    assert_eq!(failed.status.code(), Some(1));
    assert!(!store.set("two").exists());
    told(&after, "OUTCROP_RESULT=failed");

    // One after that fails: the snapshot is there, and it is told.
    let failed = create("three", "true", "exit 9");
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("was taken") && said.contains("exit status: 9"), "{said}");
    assert!(store.set("three").is_dir());

    // A snapshot that fails: the one after is run.
    fs::remove_file(&after).unwrap();
    assert!(!create("three", "true", &env(&after)).status.success());
    told(&after, "OUTCROP_RESULT=failed");

    // What a command leaves running is not waited for.
    assert!(create("four", "sleep 1000 & echo $! > /dev/null; kill $!; sleep 0.1 &", "true").status.success());
    store.check();
    store.umount();
}

#[test]
fn a_command_that_hangs_is_killed_with_all_that_it_started() {
    require_mount!();
    let store = TestStore::mounted("hooks-hang");
    volume(&store, "v", 1 << 20);
    let pids = store.outside("pids");
    // One of them does not listen to SIGTERM.
    let hang =
        format!("(trap '' TERM; sleep 1000) & echo $! >> {0}; sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait", pids.display());
    let said = store.fails(["snapshot", "create", "v", "s", "--before", &hang, "--hook-timeout", "500ms"]);
    assert!(said.contains("longer than 500ms"), "{said}");
    assert!(!store.set("s").exists());
    let pids: Vec<u32> = fs::read_to_string(&pids).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    wait_until("all of them to end", || pids.iter().all(|pid| !alive(*pid)));
    store.run(["snapshot", "create", "v", "s"]);
    // One that never stops talking is no other, nor what one leaves behind that does.
    let said = store.fails(["snapshot", "create", "v", "x", "--before", "yes", "--hook-timeout", "500ms"]);
    assert!(said.contains("longer than 500ms"), "{said}");
    let pid = store.outside("pid");
    let leaves = format!("yes & echo $! > {}", pid.display());
    store.run(["snapshot", "create", "v", "talk", "--before", &leaves]);
    let pid: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    wait_until("it to end, as nobody listens", || !alive(pid));
    // The daemon ends while a hook runs: it is not waited for.
    let mut running =
        store.cli(["snapshot", "create", "v", "t", "--before", "sleep 1000", "--hook-timeout", "1h"]).spawn().unwrap();
    wait_until("the hook to run", || !running_hooks(&store).is_empty());
    store.umount();
    assert!(!running.wait().unwrap().success());
}

fn running_hooks(store: &TestStore) -> Vec<u32> {
    let daemon = store.pid().unwrap();
    let children = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let of = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
    children.map(of).flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// Processes that were started as `argv0` with `argument` among the rest.
fn processes(argv0: &str, argument: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let mut arguments = line.split(|&byte| byte == 0);
        if arguments.next() == Some(argv0.as_bytes()) && arguments.any(|found| found == argument.as_os_str().as_encoded_bytes()) {
            found.push(pid);
        }
    }
    found
}

fn watchdogs(path: &Path) -> Vec<u32> {
    processes("outcrop-freeze", path)
}

/// Something is written; on return it is done. A frozen file system lets nobody write.
#[track_caller]
fn can_be_written(directory: &Path) {
    let mut child = Command::new("sh").args(["-c", "echo x > \"$1/written\"", "sh"]).arg(directory).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("{} stays frozen", directory.display());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success(), "{} can't be written", directory.display());
}

/// Two file systems to be frozen: one that is, and one whose freeze takes as long as wanted, so that the first stays frozen
/// meanwhile. (The second lies in a file on a disk that is frozen. A FUSE daemon that was stopped would do, too, but would
/// stop every losetup and mkfs on this machine with it.)
struct Freezer {
    hung: Option<LoopMount>,
    below: LoopDisk,
    disk: LoopDisk,
    store: TestStore,
}

impl Freezer {
    fn new(name: &str) -> Self {
        let store = TestStore::mounted(name);
        volume(&store, "v", 1 << 20);
        let below = LoopDisk::new(FileSystem::Ext4, 48);
        let file = below.path().join("hung.img");
        File::create_new(&file).unwrap().set_len(32 << 20).unwrap();
        FileSystem::Ext4.make(&file);
        let hung = LoopMount::new(&file, "");
        Self { hung: Some(hung), below, disk: LoopDisk::new(FileSystem::Ext4, 32), store }
    }

    fn hung(&self) -> &Path {
        self.hung.as_ref().unwrap().path()
    }

    /// From now on the second one's disk takes nothing, until [`Freezer::go_on`].
    fn hang(&self) {
        let dirty = || fs::write(self.hung().join("dirty"), vec![1; 4 << 20]).unwrap();
        dirty();
        run(Command::new("fsfreeze").arg("-f").arg(self.below.path()));
        // Something that a freeze has to write, also if what was there has been written meanwhile.
        dirty();
    }

    fn go_on(&self) {
        run(Command::new("fsfreeze").arg("-u").arg(self.below.path()));
    }

    /// Begins a snapshot; on return the first is frozen, and the freeze of the second hangs.
    fn begin(&self, timeout: &str) -> Child {
        let mut command = self.store.cli(["snapshot", "create", "v", "s", "--hook-timeout", timeout]);
        command.arg("--fsfreeze").arg(self.disk.path()).arg("--fsfreeze").arg(self.hung());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // They are frozen in their order.
        wait_until("the second watchdog", || !watchdogs(self.hung()).is_empty());
        child
    }

    /// Both can be written, and no watchdog is left.
    fn end(mut self) {
        can_be_written(self.disk.path());
        wait_until("the watchdogs to end", || watchdogs(self.hung()).is_empty() && watchdogs(self.disk.path()).is_empty());
        can_be_written(self.hung());
        self.hung.take().unwrap().umount();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(self.below.path()).stderr(Stdio::null()).status();
    }
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

fn frozen(directory: &Path) -> bool {
    let tried = Command::new("fsfreeze").arg("-f").arg(directory).output().unwrap();
    if tried.status.success() {
        let _ = Command::new("fsfreeze").arg("-u").arg(directory).output();
    }
    !tried.status.success()
}

#[test]
fn a_frozen_file_system_is_thawed_when_the_daemon_is_killed() {
    require_loop!("mkfs.ext4", "fsfreeze");
    let freezer = Freezer::new("freeze-kill");
    freezer.hang();
    let child = freezer.begin("1h");
    assert!(frozen(freezer.disk.path()));
    freezer.store.kill();
    can_be_written(freezer.disk.path());
    wait_until("its watchdog to end", || watchdogs(freezer.disk.path()).is_empty());
    said(child);
    freezer.go_on();
    freezer.store.mount();
    assert!(!freezer.store.set("s").exists());
    freezer.store.umount();
    freezer.end();
}

#[test]
fn a_frozen_file_system_is_thawed_at_the_time_out_while_another_hangs() {
    require_loop!("mkfs.ext4", "fsfreeze");
    let freezer = Freezer::new("freeze-late");
    freezer.hang();
    let child = freezer.begin("1s");
    let said = said(child);
    assert!(said.contains("took too long") && said.contains(freezer.hung().to_str().unwrap()), "{said}");
    can_be_written(freezer.disk.path());
    // The daemon goes on.
    fs::write(freezer.store.file("v"), b"x").unwrap();
    freezer.store.run(["snapshot", "create", "v", "t"]);
    assert!(!freezer.store.set("s").exists());
    freezer.go_on();
    freezer.store.check();
    freezer.store.umount();
    freezer.end();
}

#[test]
fn a_frozen_file_system_is_thawed_when_its_watchdog_is_ended_or_killed() {
    require_loop!("mkfs.ext4", "fsfreeze");
    for (ending, told) in [(Signal::TERM, "thawed before the snapshot was complete"), (Signal::KILL, "was killed")] {
        let freezer = Freezer::new("freeze-watchdog");
        freezer.hang();
        let child = freezer.begin("1h");
        assert!(frozen(freezer.disk.path()));
        let watchdog = watchdogs(freezer.disk.path());
        assert_eq!(watchdog.len(), 1);
        signal(watchdog[0], ending);
        wait_until("it to end", || !alive(watchdog[0]));
        if ending == Signal::TERM {
            can_be_written(freezer.disk.path());
        }
        freezer.go_on();
        let said = said(child);
        assert!(said.contains("was taken, but") && said.contains(told), "{said}");
        can_be_written(freezer.disk.path());
        freezer.store.umount();
        freezer.end();
    }
}

#[test]
fn a_file_system_on_a_volume_of_the_daemon_that_is_killed_is_let_go() {
    require_loop!("mkfs.ext4", "fsfreeze");
    let freezer = Freezer::new("freeze-own");
    let own = volume(&freezer.store, "own", 64 << 20);
    FileSystem::Ext4.make(&own);
    let own = LoopMount::new(&own, "");
    fs::write(own.join("dirty"), vec![1; 1 << 20]).unwrap();
    freezer.hang();
    let mut command = freezer.store.cli(["snapshot", "create", "v", "s", "--hook-timeout", "1h"]);
    command.arg("--fsfreeze").arg(own.path()).arg("--fsfreeze").arg(freezer.hung());
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the second watchdog", || !watchdogs(freezer.hung()).is_empty());
    assert!(frozen(own.path()));
    freezer.store.kill();
    said(child);
    wait_until("its watchdog to end", || watchdogs(own.path()).is_empty());
    // What it was on is dead, but it is not frozen: it can be unmounted, and after a new mount it is whole.
    drop(own);
    freezer.store.mount();
    let again = LoopMount::new(&freezer.store.file("own"), "");
    assert_eq!(fs::read(again.join("dirty")).unwrap(), vec![1; 1 << 20]);
    again.umount();
    freezer.go_on();
    freezer.store.check();
    freezer.store.umount();
    freezer.end();
}

#[test]
fn what_can_not_be_frozen_is_refused_and_no_snapshot_is_taken() {
    require_loop!("mkfs.ext4", "fsfreeze");
    let disk = LoopDisk::new(FileSystem::Ext4, 200);
    let store = TestStore::on(disk.path().join("store"), "freeze-refused");
    store.mount();
    volume(&store, "v", 1 << 20);
    let other = LoopDisk::new(FileSystem::Ext4, 32);
    let nowhere = store.outside("nowhere");
    fs::create_dir_all(&nowhere).unwrap();
    let held = store.outside("held");
    fs::create_dir_all(&held).unwrap();
    let refused = |path: &Path| {
        let said = store.fails(["snapshot", "create", "v", "s", "--fsfreeze", path.to_str().unwrap()]);
        assert!(!store.set("s").exists());
        said
    };
    assert!(refused(&nowhere).contains("nothing is mounted"));
    assert!(refused(Path::new("/no/such/place")).contains("nothing is mounted"));
    assert!(refused(store.mount_point()).contains("Outcrop mount"));
    assert!(refused(disk.path()).contains("holds the store itself"));
    assert!(refused(Path::new("/proc")).contains("can't be frozen"));
    // Frozen by somebody else: it is left so.
    assert!(Command::new("fsfreeze").arg("-f").arg(other.path()).status().unwrap().success());
    let said = refused(other.path());
    assert!(frozen(other.path()));
    assert!(Command::new("fsfreeze").arg("-u").arg(other.path()).status().unwrap().success());
    assert!(said.contains("frozen already"), "{said}");
    can_be_written(other.path());
    store.check();
    store.umount();
}
