//! Imports of real images made by qemu-img, compared with what qemu-img reads in them.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod damaged;
mod pipeline;
mod read;
mod refused;

use super::{BlockSink, Content, ImportOptions, OpenImage, Progress, Workshop};
use crate::error::Result;
use crate::units::BLOCK_SIZE;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Watches nothing.
struct Silent;

impl Progress for Silent {
    fn advance(&self, _done: u64, _total: u64) {}
}

/// Blocks in memory, by number; checks the order that a layer needs.
#[derive(Default)]
struct Blocks {
    blocks: std::collections::BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl BlockSink for Blocks {
    fn write(&mut self, block: u64, data: &[u8]) -> Result<()> {
        assert!(block >= self.next && !data.is_empty() && data.len().is_multiple_of(BLOCK_SIZE as usize));
        for (index, data) in data.chunks(BLOCK_SIZE as usize).enumerate() {
            assert!(data.iter().any(|byte| *byte != 0), "block {} is all zero", block + index as u64);
            self.blocks.insert(block + index as u64, data.to_vec());
        }
        self.next = block + data.len() as u64 / BLOCK_SIZE;
        Ok(())
    }
}

/// What an import gave.
struct Imported {
    format: String,
    size: u64,
    sha256: String,
    blocks: Blocks,
}

impl Imported {
    /// The virtual content.
    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.size as usize];
        for (block, data) in &self.blocks.blocks {
            let at = (block * BLOCK_SIZE) as usize;
            let length = data.len().min(content.len() - at);
            content[at..at + length].copy_from_slice(&data[..length]);
            assert!(data[length..].iter().all(|byte| *byte == 0), "bytes past the end");
        }
        content
    }
}

fn import_with(path: &Path, options: &ImportOptions, workshop: &Workshop, progress: &dyn Progress) -> Result<Imported> {
    let mut image = OpenImage::open(path, options, workshop, progress)?;
    let mut blocks = Blocks::default();
    let sha256 = image.copy_to(&mut blocks, progress)?;
    Ok(Imported { format: image.format().to_owned(), size: image.size(), sha256, blocks })
}

/// A directory for images, and one for temporary files.
struct Bench {
    dir: TempDir,
    scratch: TempDir,
}

impl Bench {
    /// None, said loudly, where there is no qemu-img and nobody insists.
    fn new() -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "qemu-img is missing (package qemu-utils)");
            eprintln!("SKIPPED: qemu-img is missing (package qemu-utils)");
            return None;
        }
        Some(Self { dir: tempfile::tempdir().unwrap(), scratch: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn workshop(&self) -> Workshop {
        Workshop { qemu_img: "qemu-img".into(), directory: self.scratch.path().to_owned(), floor: 0 }
    }

    /// Imports; whatever comes of it, no temporary file may be left.
    fn import(&self, name: &str) -> Result<Imported> {
        let result = import_with(&self.path(name), &ImportOptions::default(), &self.workshop(), &Silent);
        assert_eq!(fs::read_dir(self.scratch.path()).unwrap().count(), 0, "a temporary file was left");
        result
    }

    /// The message of a refusal, which names the file.
    fn refusal(&self, name: &str) -> String {
        let message = match self.import(name) {
            Ok(_) => panic!("{name} was imported"),
            Err(e) => e.to_string(),
        };
        assert!(message.contains(&self.dir.path().display().to_string()), "{message}");
        message
    }

    fn qemu_img(&self, args: &str) {
        run(self.dir.path(), "qemu-img", args);
    }

    fn qemu_io(&self, name: &str, commands: &[&str]) {
        let mut command = Command::new("qemu-io");
        for line in commands {
            command.args(["-c", line]);
        }
        let output = command.arg(name).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What qemu-img reads in the image.
    fn reference(&self, name: &str) -> Vec<u8> {
        self.qemu_img(&format!("convert -O raw {name} reference.raw"));
        fs::read(self.path("reference.raw")).unwrap()
    }

    /// Imports the image and compares it with what qemu-img reads.
    fn compare(&self, name: &str) -> Imported {
        let imported = self.import(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (content, reference) = (imported.content(), self.reference(name));
        assert_eq!(content.len(), reference.len(), "{name}");
        if let Some(at) = content.iter().zip(&reference).position(|(a, b)| a != b) {
            panic!("{name} differs at byte {at}");
        }
        assert_eq!(imported.sha256, sha256(&reference), "{name}");
        imported
    }

    /// A raw file of 5 MiB and a bit with data of every kind of place: start, end, holes, zeros, odd bounds.
    fn sample(&self, name: &str) -> Vec<u8> {
        let mut content = vec![0u8; (5 << 20) + 512];
        let mut put = |at: usize, length: usize, seed: u64| {
            let mut random = Random(seed);
            content[at..at + length].iter_mut().for_each(|byte| *byte = random.next() as u8);
        };
        put(0, 4096, 1);
        put(65_536 - 700, 1400, 2);
        put(300_000, 200_000, 3);
        put((2 << 20) - 1, 2, 4);
        put(3 << 20, 300 << 10, 5);
        put((5 << 20) + 100, 412, 6);
        // Compressible, for the compressed kinds.
        content[1 << 20..(1 << 20) + 100_000].fill(b'x');
        let file = File::create(self.path(name)).unwrap();
        file.set_len(content.len() as u64).unwrap();
        for (index, block) in content.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
            file.write_all_at(block, index as u64 * 4096).unwrap();
        }
        content
    }

    /// Changes bytes of a file.
    fn patch(&self, name: &str, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(self.path(name)).unwrap().write_all_at(bytes, at).unwrap();
    }

    fn cut(&self, name: &str, length: u64) {
        OpenOptions::new().write(true).open(self.path(name)).unwrap().set_len(length).unwrap();
    }
}

fn run(dir: &Path, program: &str, args: &str) {
    let output = Command::new(program).args(args.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
