//! The pipeline over made-up sources: every pattern of extents gives the same content.

use super::*;
use crate::error::Error;
use crate::image::copy::copy;
use crate::image::source::{Extent, ExtentKind, Source};
use std::sync::atomic::{AtomicU64, Ordering};

/// Content with extents of any bounds.
struct Patchwork {
    content: Vec<u8>,
    /// End of each extent, and whether it is a hole.
    extents: Vec<(u64, bool)>,
}

impl Patchwork {
    fn new(random: &mut Random, size: u64) -> Self {
        let mut content = vec![0; size as usize];
        let (mut extents, mut at) = (Vec::new(), 0);
        while at < size {
            let length = match random.below(4) {
                0 => 1 + random.below(5000),
                1 => 4096 * (1 + random.below(40)),
                2 => 512 * (1 + random.below(600)),
                _ => 1 + random.below(3 << 20),
            };
            let end = (at + length).min(size);
            let hole = random.below(2) == 0;
            if !hole && random.below(3) > 0 {
                content[at as usize..end as usize].iter_mut().for_each(|byte| *byte = random.next() as u8);
            }
            extents.push((end, hole));
            at = end;
        }
        Self { content, extents }
    }
}

impl Source for Patchwork {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn extent(&mut self, offset: u64) -> Result<Extent> {
        let (end, hole) = self.extents.iter().find(|(end, _)| *end > offset).unwrap();
        Ok(Extent { kind: if *hole { ExtentKind::Hole } else { ExtentKind::Data }, length: end - offset })
    }

    fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.copy_from_slice(&self.content[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn any_pattern_of_extents_gives_the_content() {
    let mut random = Random(7);
    for case in 0..40 {
        let size = match case % 4 {
            0 => 1 + random.below(10_000),
            1 => 4096 * (1 + random.below(2000)),
            _ => 1 + random.below(9 << 20),
        };
        let mut source = Patchwork::new(&mut random, size);
        let mut blocks = Blocks::default();
        let digest = copy(&mut source, &mut blocks, &Silent).unwrap();
        let sha256_found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let imported = Imported { format: "raw".to_owned(), size, sha256: sha256_found, blocks };
        assert!(imported.content() == source.content, "case {case}");
        assert_eq!(imported.sha256, sha256(&source.content), "case {case}");
    }
}

/// Cancels after some bytes; notes what it was told.
#[derive(Default)]
struct Watch {
    done: AtomicU64,
    stop_at: Option<u64>,
}

impl Progress for Watch {
    fn advance(&self, done: u64, total: u64) {
        assert!(done <= total);
        let before = self.done.swap(done, Ordering::Relaxed);
        assert!(before <= done, "progress went back from {before} to {done}");
    }

    fn cancelled(&self) -> bool {
        self.stop_at.is_some_and(|at| self.done.load(Ordering::Relaxed) >= at)
    }
}

#[test]
fn progress_ends_with_all() {
    let watch = Watch::default();
    let mut source = Patchwork::new(&mut Random(3), 7 << 20);
    copy(&mut source, &mut Blocks::default(), &watch).unwrap();
    assert_eq!(watch.done.load(Ordering::Relaxed), 7 << 20);
}

#[test]
fn cancelling_ends_a_hole_too_large_to_hash() {
    struct Hole;
    impl Source for Hole {
        fn size(&self) -> u64 {
            crate::units::MAX_VOLUME_SIZE
        }
        fn extent(&mut self, offset: u64) -> Result<Extent> {
            Ok(Extent { kind: ExtentKind::Hole, length: self.size() - offset })
        }
        fn read(&mut self, _buf: &mut [u8], _offset: u64) -> Result<()> {
            unreachable!("there is nothing to read")
        }
        fn check_unchanged(&self) -> Result<()> {
            Ok(())
        }
    }
    let watch = Watch { stop_at: Some(1 << 20), ..Watch::default() };
    assert!(matches!(copy(&mut Hole, &mut Blocks::default(), &watch), Err(Error::Interrupted)));
}

#[test]
fn a_failing_sink_ends_the_import() {
    struct Full;
    impl BlockSink for Full {
        fn write(&mut self, _block: u64, _data: &[u8]) -> Result<()> {
            Err(Error::DiskFull { path: "/".into(), free: 0, floor: 0 })
        }
    }
    let mut source = Patchwork::new(&mut Random(5), 9 << 20);
    assert!(matches!(copy(&mut source, &mut Full, &Silent), Err(Error::DiskFull { .. })));
}

#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    /// Writes to the image as soon as the import has begun.
    struct Meddler(PathBuf);
    impl BlockSink for Meddler {
        fn write(&mut self, _block: u64, _data: &[u8]) -> Result<()> {
            let file = OpenOptions::new().append(true).open(&self.0).unwrap();
            std::io::Write::write_all(&mut &file, b"more").unwrap();
            Ok(())
        }
    }
    let Some(bench) = Bench::new() else { return };
    bench.sample("a.raw");
    let path = bench.path("a.raw");
    let mut image = OpenImage::open(&path, &ImportOptions::default(), &bench.workshop(), &Silent).unwrap();
    let message = image.copy_to(&mut Meddler(path), &Silent).err().unwrap().to_string();
    assert!(message.contains("while it was imported"), "{message}");
}
