//! Images that come from another process: here from another thread, over a real pipe.

#![expect(clippy::unwrap_used, reason = "a test may")]

use super::*;
use crate::error::Error;
use crate::name::Name;
use crate::store::{ImageInfo, Store, StoreOptions};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

#[derive(Debug)]
struct Silent;

impl Progress for Silent {
    fn advance(&self, _done: u64, _total: u64) {}
}

/// Reads as a process of its own would.
#[derive(Debug)]
struct OtherThread;

impl Reader for OtherThread {
    fn start<'a>(
        &self,
        path: &Path,
        options: &ImportOptions,
        surroundings: &Surroundings,
        _: &'a dyn Progress,
    ) -> io::Result<Box<dyn Read + 'a>> {
        let (stream, mut out) = io::pipe()?;
        let (path, options, surroundings) = (path.to_owned(), options.clone(), surroundings.clone());
        // An error: the other end has gone.
        std::thread::spawn(move || send(&path, &options, &surroundings, &mut out).map_err(|error| error.to_string()));
        Ok(Box::new(stream))
    }
}

/// Sends these bytes, whatever they mean.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Reader for Bytes {
    fn start<'a>(&self, _: &Path, _: &ImportOptions, _: &Surroundings, _: &'a dyn Progress) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(io::Cursor::new(self.0.clone())))
    }
}

fn store(dir: &Path, reader: Option<Arc<dyn Reader>>) -> Store {
    Store::open(&dir.join("store"), &StoreOptions { create: true, image_reader: reader, ..StoreOptions::default() }).unwrap()
}

fn import(store: &Store, name: &str, path: &Path, options: &ImportOptions) -> Result<ImageInfo> {
    store.import_image(&Name::new(name).unwrap(), path, options, &Silent)
}

fn no_options() -> ImportOptions {
    ImportOptions::default()
}

#[test]
fn what_another_process_reads_is_what_this_one_would() {
    let dir = tempfile::tempdir().unwrap();
    let mut content = vec![0; (9 << 20) + 77];
    content[5000..5_000_000].fill(1);
    content[8 << 20..].fill(2);
    let path = dir.path().join(std::ffi::OsString::from_vec(b"not text \xff".to_vec()));
    fs::write(&path, &content).unwrap();
    let here = {
        let store = store(dir.path(), None);
        import(&store, "here", &path, &no_options()).unwrap()
    };
    let store = store(dir.path(), Some(Arc::new(OtherThread)));
    let there = import(&store, "there", &path, &no_options()).unwrap();
    assert_eq!((there.size, there.data, &there.sha256, &there.format), (here.size, here.data, &here.sha256, &here.format));
    let new = crate::NewVolume { size: None, image: Some(Name::new("there").unwrap()), mode: 0o600, uid: 0, gid: 0 };
    let volume = store.create_volume(&Name::new("v").unwrap(), &new).unwrap();
    let mut found = vec![9; content.len()];
    assert_eq!(volume.read_at(&mut found, 0).unwrap(), content.len());
    assert!(found == content);
}

#[test]
fn its_errors_arrive_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let good = path("good", &[1; 9000]);
    let with = |sha256: &str| ImportOptions { sha256: Some(sha256.to_owned()), ..no_options() };
    let cases = [
        (dir.path().join("missing"), no_options()),
        (dir.path().to_owned(), no_options()),
        (path("empty", b""), no_options()),
        (path("bad.qcow2", b"QFI\xfb\0\0\0\x03 and nothing that makes sense"), no_options()),
        (good.clone(), with(&"ab".repeat(32))),
        (good, with("abc")),
    ];
    for (path, options) in cases {
        let here = import(&store(dir.path(), None), "i", &path, &options).unwrap_err();
        let there = import(&store(dir.path(), Some(Arc::new(OtherThread))), "i", &path, &options).unwrap_err();
        assert_eq!(format!("{there:?}"), format!("{here:?}"));
    }
    assert!(store(dir.path(), None).images().is_empty());
}

#[test]
fn a_stream_that_ends_or_makes_no_sense_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut content = vec![7u8; 3 << 20];
    content[1 << 20..2 << 20].fill(0);
    fs::write(&path, &content).unwrap();
    let surroundings = Surroundings { directory: dir.path().to_owned(), floor: 0 };
    let mut whole = Vec::new();
    send(&path, &no_options(), &surroundings, &mut whole).unwrap();
    let refused = |bytes: Vec<u8>| {
        let store = store(dir.path(), Some(Arc::new(Bytes(bytes))));
        let error = import(&store, "i", &path, &no_options()).unwrap_err();
        assert!(matches!(error, Error::Io { .. } | Error::BadImage { .. }), "{error:?}");
        assert!(store.images().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0);
    };
    for length in [0, 1, 16, 17, 19, 40, 60, whole.len() / 2, whole.len() - 64, whole.len() - 1] {
        refused(whole[..length].to_vec());
    }
    // A header's every byte, another one: a letter, a size, a block that is none of the image's.
    let first_blocks = whole.iter().position(|byte| *byte == BLOCKS).unwrap();
    for at in [0, 8, first_blocks, first_blocks + 3, first_blocks + 7, first_blocks + 9, first_blocks + 12] {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        refused(changed);
    }
    let store = store(dir.path(), Some(Arc::new(Bytes(whole))));
    import(&store, "i", &path, &no_options()).unwrap();
}
