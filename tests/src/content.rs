//! Comparing what was read.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Asserts equality, telling where the first difference is instead of printing megabytes.
#[track_caller]
pub fn assert_same_bytes(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if let Some(at) = found.iter().zip(expected).position(|(a, b)| a != b) {
        let same_again = found.iter().zip(expected).skip(at).position(|(a, b)| a == b).map_or(found.len(), |n| at + n);
        panic!(
            "{what}: byte {at} (block {}) is {:#04x}, expected {:#04x}; wrong up to byte {same_again}",
            at / 4096,
            found[at],
            expected[at]
        );
    }
}

/// Asserts that two files have the same bytes.
#[track_caller]
pub fn assert_same_file(found: &Path, expected: &Path) {
    let read = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let (mut a, mut b) = (read(found), read(expected));
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut left), fill(&mut b, &mut right));
        assert_same_bytes(
            &left[..n],
            &right[..m],
            &format!("{} against {}, from byte {offset}", found.display(), expected.display()),
        );
        if n == 0 {
            return;
        }
        offset += n;
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).unwrap_or_else(|error| panic!("reading: {error}")) {
            0 => break,
            n => filled += n,
        }
    }
    filled
}

/// Reads a whole file past the kernel's cache (`O_DIRECT`).
#[track_caller]
pub fn read_direct(path: &Path) -> Vec<u8> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT, Mode::empty());
    let mut file = File::from(file.unwrap_or_else(|error| panic!("opening {}: {error}", path.display())));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()));
    bytes
}
