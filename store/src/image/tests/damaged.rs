//! Damage at random: never a panic that escapes, never an import without end, never content that differs from
//! what qemu-img reads where it reads anything.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends imports of what damage made very large.
struct Patience(AtomicU64);

impl Progress for Patience {
    fn advance(&self, done: u64, _total: u64) {
        self.0.store(done, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 64 << 20
    }
}

#[test]
fn damaged_qcow2_is_refused_or_read_right() {
    let Some(bench) = Bench::new() else { return };
    let seed = std::env::var("OUTCROP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_104);
    let cases = std::env::var("OUTCROP_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400u64);
    println!("seed {seed}; again with OUTCROP_SEED={seed} OUTCROP_CASES={cases} cargo test -p outcrop-store damaged_qcow2");
    bench.sample("a.raw");
    let kinds = [
        "-o cluster_size=4k",
        "-c -o cluster_size=4k",
        "-o compat=0.10,cluster_size=512",
        "-c",
        "-c -o compression_type=zstd,cluster_size=4k",
        "-o extended_l2=on,cluster_size=16k",
    ];
    for (index, options) in kinds.iter().enumerate() {
        bench.qemu_img(&format!("convert -f raw -O qcow2 {options} a.raw kind-{index}"));
    }
    bench.qemu_img("create -f qcow2 -o cluster_size=4k -b kind-0 -F qcow2 kind-6");
    bench.qemu_io("kind-6", &["write -P 3 1M 64k", "write -z 3M 64k"]);
    let originals: Vec<_> = (0..=6).map(|index| fs::read(bench.path(&format!("kind-{index}"))).unwrap()).collect();
    let mut random = Random(seed);
    let (mut refused, mut read) = (0, 0);
    for case in 0..cases {
        let mut bytes = originals[random.below(7) as usize].clone();
        damage(&mut bytes, &mut random);
        fs::write(bench.path("damaged"), &bytes).unwrap();
        let options = ImportOptions::default();
        match import_with(&bench.path("damaged"), &options, &bench.workshop(), &Patience(AtomicU64::new(0))) {
            Err(_) => refused += 1,
            Ok(imported) => {
                read += 1;
                // One that qemu can't open has no reference; what it reads, must be the same.
                let mut command = Command::new("qemu-img");
                command
                    .args(["convert", "-f", &imported.format, "-O", "raw", "damaged", "reference"])
                    .current_dir(bench.dir.path());
                if imported.size < 64 << 20 && command.output().unwrap().status.success() {
                    let mut reference = fs::read(bench.path("reference")).unwrap();
                    reference.resize(imported.size as usize, 0);
                    assert!(imported.content() == reference, "case {case} of seed {seed} was read wrongly");
                }
            }
        }
    }
    println!("{refused} refused, {read} read");
    assert!(refused > 0 && read > 0);
}

/// Changes a few bytes, mostly where the tables are.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let length = bytes.len() as u64;
    match random.below(8) {
        0 => bytes.truncate(random.below(length) as usize),
        kind => {
            let reach = match kind {
                1 | 2 => 120,
                3 | 4 => 1024,
                5 | 6 => 64 << 10,
                _ => length,
            };
            for _ in 0..1 + random.below(4) {
                let at = random.below(reach.min(length)) as usize;
                bytes[at] = match random.below(3) {
                    0 => bytes[at] ^ (1 << random.below(8)),
                    1 => random.next() as u8,
                    _ => [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
                };
            }
        }
    }
}
