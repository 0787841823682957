//! Images that are refused, each for a reason that the message gives.

use super::*;
use crate::error::Error;
use crate::image::qcow2::DEPTH_MAX;
use std::os::unix::fs::symlink;

/// A bench with `image`, a qcow2 file of the sample.
fn bench() -> Option<Bench> {
    let bench = Bench::new()?;
    bench.sample("a.raw");
    bench.qemu_img("convert -f raw -O qcow2 a.raw image");
    Some(bench)
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

#[test]
fn nothing_and_no_file() {
    let Some(bench) = bench() else { return };
    fs::write(bench.path("empty"), "").unwrap();
    assert_says(&bench.refusal("empty"), &["empty"]);
    assert_says(&bench.refusal("."), &["directory"]);
    assert!(matches!(bench.import("missing"), Err(Error::Io { .. })));
    run(bench.dir.path(), "mkfifo", "pipe");
    assert_says(&bench.refusal("pipe"), &["neither a regular file nor"]);
    bench.qemu_img("create -f qcow2 size-0 0");
    assert_says(&bench.refusal("size-0"), &["empty"]);
}

#[test]
fn encrypted() {
    let Some(bench) = bench() else { return };
    for (name, options) in [
        ("luks", "--object secret,id=s,data=key -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
        ("aes", "--object secret,id=s,data=key -o encrypt.format=aes,encrypt.key-secret=s"),
    ] {
        bench.qemu_img(&format!("create -f qcow2 {options} {name} 1M"));
        assert_says(&bench.refusal(name), &["encrypted"]);
    }
    // Under an overlay, too.
    bench.qemu_img("create -f qcow2 -u -b luks -F qcow2 over 1M");
    assert_says(&bench.refusal("over"), &["luks", "encrypted"]);
}

#[test]
fn dirty_or_corrupt() {
    let Some(bench) = bench() else { return };
    bench.patch("image", 79, &[1]);
    assert_says(&bench.refusal("image"), &["dirty", "qemu-img check -r all"]);
    bench.patch("image", 79, &[2]);
    assert_says(&bench.refusal("image"), &["corrupt", "qemu-img check -r all"]);
}

#[test]
fn unknown_features() {
    let Some(bench) = bench() else { return };
    bench.patch("image", 72, &[0x80]);
    assert_says(&bench.refusal("image"), &["unknown features", "63"]);
    bench.patch("image", 72, &[0]);
    bench.patch("image", 4, &[0, 0, 0, 4]);
    assert_says(&bench.refusal("image"), &["version 4"]);
}

#[test]
fn absurd_sizes() {
    let Some(bench) = bench() else { return };
    bench.patch("image", 24, &(1u64 << 60).to_be_bytes());
    let message = bench.refusal("image");
    assert!(message.contains("1152921504606846976") || message.contains("L1 table"), "{message}");
    // With an L1 table of the right length for it.
    bench.qemu_img("create -f qcow2 -o cluster_size=2M big 1P");
    assert_says(&bench.refusal("big"), &["1125899906842624", "at most"]);
    let huge = File::create(bench.path("huge")).unwrap();
    if huge.set_len((64 << 40) + 1).is_ok() {
        assert_says(&bench.refusal("huge"), &["at most"]);
    }
}

#[test]
fn truncated() {
    let Some(bench) = bench() else { return };
    // So that the last cluster is needed to its end.
    bench.cut("a.raw", 5 << 20);
    bench.patch("a.raw", (5 << 20) - 1, b"x");
    for (name, options) in
        [("plain", ""), ("zlib", "-c"), ("zstd", "-c -o compression_type=zstd"), ("extended", "-o extended_l2=on")]
    {
        bench.qemu_img(&format!("convert -f raw -O qcow2 {options} a.raw {name}"));
        let length = fs::metadata(bench.path(name)).unwrap().len();
        for cut in [513, 70_000, length - 40, length - 65_536, length - 300] {
            fs::copy(bench.path(name), bench.path("cut")).unwrap();
            bench.cut("cut", length - cut);
            let Err(e) = bench.import("cut") else { panic!("{name} less {cut} was imported") };
            let message = e.to_string();
            assert!(message.contains("truncated") || message.contains("ends within"), "{name} less {cut}: {message}");
        }
    }
}

#[test]
fn a_short_data_file() {
    let Some(bench) = bench() else { return };
    bench.qemu_img("convert -f raw -O qcow2 -o data_file=data.bin a.raw tables");
    bench.cut("data.bin", 1 << 20);
    assert_says(&bench.refusal("tables"), &["data.bin", "truncated"]);
    fs::remove_file(bench.path("data.bin")).unwrap();
    assert_says(&bench.refusal("tables"), &["data.bin", "missing"]);
}

#[test]
fn missing_backing_file() {
    let Some(bench) = bench() else { return };
    bench.qemu_img("create -f qcow2 -u -b gone.qcow2 -F qcow2 over 1M");
    assert_says(&bench.refusal("over"), &["gone.qcow2", "missing"]);
}

#[test]
fn names_that_lead_elsewhere() {
    let Some(bench) = bench() else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = elsewhere.path().join("secret");
    fs::write(&secret, vec![1; 1 << 20]).unwrap();
    symlink(&secret, bench.path("innocent")).unwrap();
    fs::create_dir(bench.path("sub")).unwrap();
    fs::copy(&secret, bench.path("sub/secret")).unwrap();
    let relative = format!("../{}/secret", elsewhere.path().file_name().unwrap().to_str().unwrap());
    for name in [secret.to_str().unwrap(), "innocent", relative.as_str(), "sub/secret"] {
        bench.qemu_img(&format!("create -f qcow2 -u -b {name} -F raw over 1M"));
        assert_says(&bench.refusal("over"), &["outside"]);
    }
    bench.qemu_img(&format!("create -f qcow2 -o data_file={} tables 1M", secret.display()));
    assert_says(&bench.refusal("tables"), &["data file", "outside"]);

    // Allowed by name, it is read (qemu-img has just made an empty data file of it).
    fs::write(&secret, vec![1; 1 << 20]).unwrap();
    bench.qemu_img(&format!("create -f qcow2 -u -b {} -F raw over 1M", secret.display()));
    let allow = |dir: &Path| ImportOptions { allow_backing_in: vec![dir.to_owned()], ..ImportOptions::default() };
    let import = |dir| import_with(&bench.path("over"), &allow(dir), &bench.workshop(), &Silent);
    assert!(import(elsewhere.path()).unwrap().content() == vec![1; 1 << 20]);
    assert!(import(&bench.path("sub")).is_err());
}

#[test]
fn names_that_are_no_files() {
    let Some(bench) = bench() else { return };
    for name in ["json:{\"driver\":\"null-co\"}", "nbd:127.0.0.1:1", "nbd+unix:///x", "file:a.raw", "fat:/etc"] {
        bench.qemu_img(&format!("create -f qcow2 -u -b {name} -F raw over 1M"));
        assert_says(&bench.refusal("over"), &["only plain files"]);
    }
    // Special files beside the image.
    symlink("/dev/zero", bench.path("zero")).unwrap();
    bench.qemu_img("create -f qcow2 -u -b zero -F raw over 1M");
    assert_says(&bench.refusal("over"), &["outside"]);
    run(bench.dir.path(), "mkfifo", "pipe");
    bench.qemu_img("create -f qcow2 -u -b pipe -F raw over 1M");
    assert_says(&bench.refusal("over"), &["neither a regular file"]);
}

#[test]
fn chains_without_end() {
    let Some(bench) = bench() else { return };
    bench.qemu_img("create -f qcow2 -u -b two -F qcow2 one 1M");
    bench.qemu_img("create -f qcow2 -u -b one -F qcow2 two 1M");
    assert_says(&bench.refusal("one"), &["stands on itself"]);
    bench.qemu_img("create -f qcow2 -u -b me -F qcow2 self 1M");
    symlink("self", bench.path("me")).unwrap();
    assert_says(&bench.refusal("self"), &["stands on itself"]);

    bench.qemu_img("create -f qcow2 n0 1M");
    for n in 1..=DEPTH_MAX {
        bench.qemu_img(&format!("create -f qcow2 -u -b n{} -F qcow2 n{n} 1M", n - 1));
    }
    assert!(bench.import(&format!("n{}", DEPTH_MAX - 1)).is_ok());
    assert!(matches!(bench.import(&format!("n{DEPTH_MAX}")), Err(Error::Limit { .. })));
}

#[test]
fn a_table_that_panics_the_reader() {
    let Some(bench) = bench() else { return };
    // The feature name table is the first extension of what qemu-img makes.
    let header = fs::read(bench.path("image")).unwrap();
    let at = header.windows(4).position(|w| w == [0x68, 0x03, 0xf8, 0x57]).unwrap() as u64;
    for length in [1u32, 49, 97] {
        bench.patch("image", at + 4, &length.to_be_bytes());
        assert_says(&bench.refusal("image"), &["feature name table"]);
    }
}

#[test]
fn backing_formats_for_qemu_only() {
    let Some(bench) = bench() else { return };
    bench.qemu_img("convert -f raw -O vmdk a.raw base.vmdk");
    bench.qemu_img("create -f qcow2 -b base.vmdk -F vmdk over");
    assert_says(&bench.refusal("over"), &["vmdk", "qemu-img convert"]);
    for format in ["qed", "qcow"] {
        bench.qemu_img(&format!("create -f {format} -b a.raw -F raw over"));
        assert_says(&bench.refusal("over"), &["backing file", "a.raw", "qemu-img convert"]);
    }
}

#[test]
fn vmdk_that_names_other_files() {
    let Some(bench) = bench() else { return };
    bench.qemu_img("convert -f raw -O vmdk -o subformat=monolithicFlat a.raw flat.vmdk");
    assert_says(&bench.refusal("flat.vmdk"), &["descriptor"]);
    bench.qemu_img("convert -f raw -O vmdk a.raw base.vmdk");
    bench.qemu_img("create -f vmdk -b base.vmdk -F vmdk over.vmdk");
    assert_says(&bench.refusal("over.vmdk"), &["backing file"]);
    // A sparse header of no capacity makes qemu read the descriptor in it, and open what that names.
    bench.patch("base.vmdk", 12, &[0; 8]);
    assert_says(&bench.refusal("base.vmdk"), &["names other files"]);
}

#[test]
fn not_unpacked() {
    let Some(bench) = bench() else { return };
    run(bench.dir.path(), "gzip", "-k image");
    assert_says(&bench.refusal("image.gz"), &["gzip", "decompress"]);
}

#[test]
fn without_qemu_img() {
    let Some(bench) = bench() else { return };
    bench.qemu_img("convert -f raw -O qcow2 -c -o compression_type=zstd a.raw zstd");
    bench.qemu_img("convert -f raw -O vdi a.raw vdi");
    let workshop = Workshop { qemu_img: "/nonexistent/qemu-img".into(), ..bench.workshop() };
    for name in ["zstd", "vdi"] {
        let result = import_with(&bench.path(name), &ImportOptions::default(), &workshop, &Silent);
        let message = result.err().unwrap().to_string();
        assert_says(&message, &[name, "qemu-utils"]);
    }
}

#[test]
fn a_conversion_stops_at_the_floor_and_when_cancelled() {
    struct Cancelled;
    impl Progress for Cancelled {
        fn advance(&self, _done: u64, _total: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let Some(bench) = bench() else { return };
    bench.qemu_img("convert -f raw -O vdi a.raw vdi");
    let result = import_with(&bench.path("vdi"), &ImportOptions::default(), &bench.workshop(), &Cancelled);
    assert!(matches!(result, Err(Error::Interrupted)));
    // So large a program output that it can't have ended by the first look.
    let slow = bench.path("slow-qemu-img");
    fs::write(&slow, "#!/bin/sh\n[ \"$1\" = info ] && exec qemu-img \"$@\"\nexec sleep 1000\n").unwrap();
    run(bench.dir.path(), "chmod", "755 slow-qemu-img");
    let workshop = Workshop { floor: u64::MAX, qemu_img: slow.into(), ..bench.workshop() };
    let result = import_with(&bench.path("vdi"), &ImportOptions::default(), &workshop, &Silent);
    assert!(matches!(result, Err(Error::DiskFull { .. })));
    assert_eq!(fs::read_dir(bench.scratch.path()).unwrap().count(), 0);
}

#[test]
fn another_sha256() {
    let Some(bench) = bench() else { return };
    let right = sha256(&bench.reference("image"));
    let import = |text: &str| {
        let options = ImportOptions { sha256: Some(text.to_owned()), ..ImportOptions::default() };
        import_with(&bench.path("image"), &options, &bench.workshop(), &Silent)
    };
    assert_eq!(import(&right.to_uppercase()).unwrap().sha256, right);
    assert!(matches!(import(&"0".repeat(64)), Err(Error::Sha256Mismatch { found, .. }) if found == right));
    for malformed in ["", "abc", &"g".repeat(64), &right[1..]] {
        assert!(matches!(import(malformed), Err(Error::InvalidSha256 { .. })), "{malformed}");
    }
}
