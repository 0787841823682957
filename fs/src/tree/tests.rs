//! The tree without a kernel, over a real store.

#![expect(clippy::unwrap_used, reason = "a test may")]

use super::node::ROOT;
use super::*;
use outcrop_store::{DeleteVolume, Keep, Name, RenameMode, StoreOptions};
use tempfile::TempDir;

const ME: Caller = Caller { uid: 1000, gid: 100 };
const READ_WRITE: OpenFlags = OpenFlags(libc::O_RDWR);

struct Bench {
    tree: Tree,
    store: Store,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(read_only: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions { create: true, ..StoreOptions::default() }).unwrap();
        Self { tree: Tree::new(store.clone(), read_only, ME).unwrap(), store, _dir: dir }
    }

    fn create(&self, name: &str) -> (u64, Arc<File>) {
        let (found, file) = self.tree.create(ROOT, name.as_bytes(), 0o640, READ_WRITE, ME).unwrap();
        self.tree.remember(&found);
        (found.attr.ino, file)
    }

    fn lookup(&self, parent: u64, name: &str) -> Result<Attr> {
        let found = self.tree.lookup(parent, name.as_bytes())?;
        self.tree.remember(&found);
        Ok(found.attr)
    }

    fn names(&self, ino: u64) -> Vec<String> {
        let listing = self.tree.open_directory(ino).unwrap();
        let entries = self.tree.read_directory(&listing, 0).unwrap();
        entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect()
    }
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

#[test]
fn inode_numbers_stay_through_renames_and_opens() {
    let bench = Bench::new();
    let (ino, file) = bench.create("a");
    assert_eq!(bench.lookup(ROOT, "a").unwrap().ino, ino);
    bench.tree.rename(ROOT, b"a", ROOT, b"b", RenameFlags(0)).unwrap();
    assert_eq!(bench.lookup(ROOT, "b").unwrap().ino, ino);
    assert_eq!(bench.lookup(ROOT, "a").unwrap_err(), Errno::NOENT);
    drop(file);
    let again = Tree::new(bench.store.clone(), false, ME).unwrap();
    assert_eq!(again.lookup(ROOT, b"b").unwrap().attr.ino, ino, "and are the same in the next mount");
}

#[test]
fn a_new_volume_has_the_callers_owner_and_the_given_mode() {
    let bench = Bench::new();
    let (ino, _file) = bench.create("a");
    let attr = bench.tree.attributes(ino).unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid, attr.size, attr.links), (0o640, 1000, 100, 0, 1));
}

#[test]
fn an_inode_is_known_until_it_is_forgotten_as_often_as_looked_up() {
    let bench = Bench::new();
    let (ino, _file) = bench.create("a");
    bench.lookup(ROOT, "a").unwrap();
    bench.tree.forget(ino, 1);
    assert!(bench.tree.attributes(ino).is_ok());
    bench.tree.forget(ino, 1);
    assert_eq!(bench.tree.attributes(ino).unwrap_err(), Errno::STALE);
    // What was found but never told to the kernel leaves nothing behind.
    drop(bench.tree.lookup(ROOT, b"a").unwrap());
    assert_eq!(bench.tree.attributes(ino).unwrap_err(), Errno::STALE);
}

#[test]
fn a_deleted_volume_is_served_while_a_handle_is_open() {
    let bench = Bench::new();
    let (ino, file) = bench.create("a");
    bench.tree.write(&file, b"hello", 0, READ_WRITE, ME).unwrap();
    let id = bench.tree.register(Handle::File(file));
    bench.tree.unlink(ROOT, b"a").unwrap();
    assert_eq!(bench.lookup(ROOT, "a").unwrap_err(), Errno::NOENT);
    let attr = bench.tree.attributes(ino).unwrap();
    assert_eq!((attr.links, attr.size), (0, 5));
    let mut buf = [0; 8];
    assert_eq!(bench.tree.file(id).unwrap().read(&mut buf, 0).unwrap(), 5);
    bench.tree.change(ino, None, &Change { size: Some(2), ..Change::default() }).unwrap();
    assert_eq!(bench.tree.attributes(ino).unwrap().size, 2);
    bench.tree.release(id);
    assert!(bench.tree.file(id).is_err());
    assert!(bench.tree.close(std::time::Duration::from_secs(60)));
    assert_eq!(bench.tree.attributes(ino).unwrap_err(), Errno::STALE);
}

#[test]
fn create_opens_what_is_there_unless_it_must_be_new() {
    let bench = Bench::new();
    let (ino, file) = bench.create("a");
    bench.tree.write(&file, b"hello", 0, READ_WRITE, ME).unwrap();
    assert_eq!(bench.create("a").0, ino);
    assert_eq!(bench.tree.attributes(ino).unwrap().size, 5);
    let exclusive = OpenFlags(libc::O_RDWR | libc::O_EXCL);
    assert_eq!(bench.tree.create(ROOT, b"a", 0o600, exclusive, ME).err(), Some(Errno::EXIST));
    bench.tree.create(ROOT, b"a", 0o600, OpenFlags(libc::O_RDWR | libc::O_TRUNC), ME).unwrap();
    assert_eq!(bench.tree.attributes(ino).unwrap().size, 0);
}

#[test]
fn directories_list_what_is_there() {
    let bench = Bench::new();
    assert_eq!(bench.names(ROOT), [".", "..", ".snapshots"]);
    bench.create("a");
    bench.create("b");
    let set = bench.tree.make_directory(SNAPSHOTS, b"s").unwrap();
    bench.tree.remember(&set);
    bench.tree.unlink(ROOT, b"b").unwrap();
    assert_eq!(bench.names(ROOT), [".", "..", ".snapshots", "a"]);
    assert_eq!(bench.names(SNAPSHOTS), [".", "..", "s"]);
    assert_eq!(bench.names(set.attr.ino), [".", "..", "a", "b"]);
    assert_eq!(bench.lookup(ROOT, ".snapshots").unwrap().ino, SNAPSHOTS);
    // Offsets stand for the same entries, until it is read from the beginning.
    let listing = bench.tree.open_directory(ROOT).unwrap();
    let first = bench.tree.read_directory(&listing, 0).unwrap();
    bench.create("0");
    assert_eq!(bench.tree.read_directory(&listing, 3).unwrap(), first);
    assert_eq!(bench.tree.read_directory(&listing, 0).unwrap().len(), first.len() + 1);
    assert_eq!(bench.tree.open_directory(bench.lookup(ROOT, "a").unwrap().ino).err(), Some(Errno::NOTDIR));
}

#[test]
fn snapshot_files_take_no_change() {
    let bench = Bench::new();
    let (_, file) = bench.create("a");
    bench.tree.write(&file, b"old", 0, READ_WRITE, ME).unwrap();
    let set = bench.tree.make_directory(SNAPSHOTS, b"s").unwrap();
    bench.tree.remember(&set);
    bench.tree.write(&file, b"new", 0, READ_WRITE, ME).unwrap();
    let attr = bench.lookup(set.attr.ino, "a").unwrap();
    assert_eq!((attr.mode, attr.size, attr.lifetime), (0o440, 3, Lifetime::Long));
    assert_eq!(bench.tree.try_attributes(attr.ino), Some(Ok(attr)), "known without asking the disk");
    for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(bench.tree.open(attr.ino, OpenFlags(flags)).err(), Some(Errno::ROFS));
    }
    let old = bench.tree.open(attr.ino, OpenFlags(libc::O_RDONLY)).unwrap();
    let mut buf = [0; 3];
    old.read(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"old");
    assert_eq!(bench.tree.write(&old, b"x", 0, READ_WRITE, ME), Err(Errno::ROFS));
    assert_eq!(old.allocate(0, 0, 10), Err(Errno::ROFS));
    assert_eq!(file.copy(0, &old, 0, 3), Err(Errno::ROFS));
    assert_eq!(bench.tree.change(attr.ino, None, &Change { mode: Some(0o777), ..Change::default() }), Err(Errno::ROFS));
    let rename =
        |parent, name: &str, new_parent, flags| bench.tree.rename(parent, name.as_bytes(), new_parent, b"b", RenameFlags(flags));
    assert_eq!(rename(set.attr.ino, "a", ROOT, 0), Err(Errno::ROFS), "out of a snapshot");
    assert_eq!(rename(ROOT, "a", set.attr.ino, 0), Err(Errno::ROFS), "into one");
    assert_eq!(rename(set.attr.ino, "a", set.attr.ino, 0), Err(Errno::ROFS), "within one");
    assert_eq!(rename(SNAPSHOTS, "s", ROOT, 0), Err(Errno::PERM), "a snapshot is no volume");
    assert_eq!(rename(ROOT, "a", SNAPSHOTS, 0), Err(Errno::PERM), "nor the other way round");
    assert_eq!(bench.tree.remove_directory(SNAPSHOTS, b"missing"), Err(Errno::NOENT));
    assert_eq!(bench.tree.remove_directory(ROOT, b".snapshots"), Err(Errno::PERM));
    assert_eq!(bench.tree.remove_directory(ROOT, b"a"), Err(Errno::NOTDIR));
    assert_eq!(bench.tree.unlink(set.attr.ino, b"missing"), Err(Errno::NOENT));
    assert_eq!(bench.tree.make_directory(SNAPSHOTS, b"s").err(), Some(Errno::EXIST));
    assert_eq!(bench.tree.make_directory(ROOT, b"d").err(), Some(Errno::PERM));
}

#[test]
fn directories_keep_times_but_no_owner() {
    let bench = Bench::new();
    let change = |change: Change| bench.tree.change(ROOT, None, &change);
    assert_eq!(change(Change { mtime: Some(SetTime::At(5)), ..Change::default() }).unwrap().mtime_ns, 5);
    assert!(change(Change { mode: Some(0o40755), uid: Some(ME.uid), ..Change::default() }).is_ok(), "nothing new");
    assert_eq!(change(Change { mode: Some(0o700), ..Change::default() }), Err(Errno::PERM));
    assert_eq!(change(Change { uid: Some(7), ..Change::default() }), Err(Errno::PERM));
    assert_eq!(change(Change { size: Some(0), ..Change::default() }), Err(Errno::ISDIR));
}

#[test]
fn a_read_only_tree_refuses_every_change() {
    let bench = Bench::with(true);
    assert_eq!(bench.tree.create(ROOT, b"a", 0o600, READ_WRITE, ME).err(), Some(Errno::ROFS));
    assert_eq!(bench.tree.unlink(ROOT, b"a"), Err(Errno::ROFS));
    assert_eq!(bench.tree.rename(ROOT, b"a", ROOT, b"b", RenameFlags(0)), Err(Errno::ROFS));
    assert_eq!(bench.tree.make_directory(SNAPSHOTS, b"s").err(), Some(Errno::ROFS));
}

#[test]
fn what_happens_behind_the_tree_is_found_by_id() {
    let bench = Bench::new();
    let (ino, file) = bench.create("a");
    drop(file);
    bench.store.rename_volume(&name("a"), &name("b"), RenameMode::Replace).unwrap();
    assert_eq!(bench.tree.attributes(ino).unwrap().ino, ino, "the kernel still has it under its old name");
    assert_eq!(bench.tree.changed_behind(&name("b")), Some(ino));
    bench.store.delete_volume(&name("b"), DeleteVolume::Head, Keep::ForUndo).unwrap();
    assert!(bench.tree.close(std::time::Duration::from_secs(60)));
    assert_eq!(bench.tree.attributes(ino).err(), Some(Errno::STALE));
    assert_eq!(bench.tree.open(ino, READ_WRITE).err(), Some(Errno::STALE));
}

#[test]
fn inodes_follow_a_snapshot_through_renames_from_anywhere() {
    let bench = Bench::new();
    let (_, file) = bench.create("a");
    bench.tree.write(&file, b"old", 0, READ_WRITE, ME).unwrap();
    let set = bench.tree.make_directory(SNAPSHOTS, b"s").unwrap();
    bench.tree.remember(&set);
    let old = bench.lookup(set.attr.ino, "a").unwrap();
    bench.tree.rename(SNAPSHOTS, b"s", SNAPSHOTS, b"t", RenameFlags(0)).unwrap();
    bench.store.rename_snapshots(&name("t"), &name("u")).unwrap();
    assert_eq!(bench.names(SNAPSHOTS), [".", "..", "u"]);
    assert_eq!(bench.names(set.attr.ino), [".", "..", "a"]);
    assert_eq!(bench.lookup(set.attr.ino, "a").unwrap(), old);
    assert!(bench.tree.open(old.ino, OpenFlags(libc::O_RDONLY)).is_ok());
    // One of the same name made since is another.
    let other = bench.tree.make_directory(SNAPSHOTS, b"s").unwrap();
    assert_ne!(other.attr.ino, set.attr.ino);
}

#[test]
fn a_deleted_snapshot_is_served_while_a_handle_is_open() {
    let bench = Bench::new();
    let (_, file) = bench.create("a");
    bench.tree.write(&file, b"old", 0, READ_WRITE, ME).unwrap();
    let set = bench.tree.make_directory(SNAPSHOTS, b"s").unwrap();
    bench.tree.remember(&set);
    let attr = bench.lookup(set.attr.ino, "a").unwrap();
    let open = |ino| bench.tree.open(ino, OpenFlags(libc::O_RDONLY));
    let old = open(attr.ino).unwrap();
    bench.tree.remove_directory(SNAPSHOTS, b"s").unwrap();
    assert_eq!(bench.lookup(SNAPSHOTS, "s").unwrap_err(), Errno::NOENT);
    assert_eq!(bench.lookup(set.attr.ino, "a").unwrap_err(), Errno::NOENT, "its directory is gone");
    assert_eq!(bench.tree.attributes(attr.ino).unwrap().links, 0);
    let again = open(attr.ino).unwrap();
    for file in [&old, &again] {
        let mut buf = [0; 8];
        assert_eq!(file.read(&mut buf, 0).unwrap(), 3);
        assert_eq!(&buf[..3], b"old");
    }
    drop((old, again));
    assert!(bench.tree.close(std::time::Duration::from_secs(60)));
    assert_eq!(open(attr.ino).err(), Some(Errno::STALE), "nobody has it any more");
}

#[test]
fn what_was_open_before_a_forced_revert_is_stale_and_its_inode_is_what_the_volume_is_now() {
    let bench = Bench::new();
    let (ino, old) = bench.create("a");
    bench.tree.write(&old, b"old", 0, READ_WRITE, ME).unwrap();
    bench.tree.make_directory(SNAPSHOTS, b"s").unwrap();
    bench.tree.write(&old, b"newer", 0, READ_WRITE, ME).unwrap();
    let how = |force| outcrop_store::Revert { force, keep: Keep::Now };
    assert!(matches!(bench.store.revert(&name("a"), &name("s"), how(false)), Err(Error::Busy { .. })));
    bench.store.revert(&name("a"), &name("s"), how(true)).unwrap();
    let handle = bench.tree.register(Handle::File(old.clone()));
    let cut = Change { size: Some(0), ..Change::default() };
    assert_eq!(bench.tree.change(ino, Some(handle), &cut), Err(Errno::STALE), "ftruncate by the old handle");
    assert_eq!(bench.tree.write(&old, b"x", 0, READ_WRITE, ME), Err(Errno::STALE));
    assert_eq!(bench.tree.try_write(&old, b"x", 0, READ_WRITE, ME).err(), Some(Errno::STALE));
    assert_eq!(old.read(&mut [0; 4], 0), Err(Errno::STALE));
    assert_eq!(old.sync(outcrop_store::Sync::All), Err(Errno::STALE));
    assert_eq!(bench.tree.attributes(ino).unwrap().size, 3, "the inode is the volume's as it is");
    let new = bench.tree.open(ino, READ_WRITE).unwrap();
    let mut buf = [0; 8];
    assert_eq!(new.read(&mut buf, 0).unwrap(), 3);
    assert_eq!(&buf[..3], b"old");
    bench.tree.change(ino, None, &cut).unwrap();
    assert_eq!(bench.tree.attributes(ino).unwrap().size, 0);
}

#[test]
fn a_whole_file_is_cloned_and_what_is_not_is_copied() {
    let bench = Bench::new();
    let (_, source) = bench.create("a");
    let content: Vec<u8> = (0..5_u32 << 20).map(|n| (n / 4096 % 251 + 1) as u8).collect();
    bench.tree.write(&source, &content, 0, READ_WRITE, ME).unwrap();
    let length = content.len() as u64;
    let held = |name_of: &str| {
        bench.store.flush().unwrap();
        bench.store.volume_space(&name(name_of)).unwrap().head
    };
    let holds = |file: &File| {
        let mut found = vec![0; content.len() + 1];
        assert_eq!(file.read(&mut found, 0).unwrap(), content.len());
        assert!(found[..content.len()] == content);
    };
    let (_, cloned) = bench.create("cloned");
    assert_eq!(u64::from(bench.tree.copy(&source, 0, &cloned, 0, 1 << 40).unwrap()), length);
    holds(&cloned);
    assert_eq!(held("cloned"), 0);
    // Into what isn't empty, or less than all: copied.
    for (n, (whole, empty)) in [(false, true), (true, false)].into_iter().enumerate() {
        let (_, target) = bench.create(&format!("copied-{n}"));
        if !empty {
            bench.tree.write(&target, b"x", 0, READ_WRITE, ME).unwrap();
        }
        let asked = if whole { length } else { length - 1 };
        assert_eq!(u64::from(bench.tree.copy(&source, 0, &target, 0, asked).unwrap()), asked);
        assert_eq!(u64::from(bench.tree.copy(&source, asked, &target, asked, 10).unwrap()), length - asked);
        holds(&target);
        assert_eq!(held(&format!("copied-{n}")), length);
    }
    // What was deleted while it is open has no name to be cloned by.
    bench.tree.unlink(ROOT, b"a").unwrap();
    let (_, last) = bench.create("last");
    assert_eq!(u64::from(bench.tree.copy(&source, 0, &last, 0, length).unwrap()), length);
    holds(&last);
}
