//! Images that are read, and read right.

use super::*;

#[test]
fn raw_keeps_holes_and_any_size() {
    let Some(bench) = Bench::new() else { return };
    let content = bench.sample("a.raw");
    let imported = bench.compare("a.raw");
    assert_eq!(imported.format.as_str(), "raw");
    let data = content.chunks(4096).filter(|block| block.iter().any(|byte| *byte != 0)).count();
    assert_eq!(imported.blocks.blocks.len(), data);
    for size in [1u64, 511, 4095, 4097, (2 << 20) + 1] {
        bench.sample("a.raw");
        bench.cut("a.raw", size);
        let imported = bench.import("a.raw").unwrap();
        assert_eq!(imported.content(), content[..size as usize], "{size}");
        assert_eq!(imported.sha256, sha256(&content[..size as usize]));
    }
}

#[test]
fn raw_written_zeros_become_holes() {
    let Some(bench) = Bench::new() else { return };
    fs::write(bench.path("zeros"), vec![0; 3 << 20]).unwrap();
    let imported = bench.compare("zeros");
    assert_eq!(imported.blocks.blocks.len(), 0);
}

#[test]
fn a_huge_hole_costs_no_memory() {
    let Some(bench) = Bench::new() else { return };
    let file = File::create(bench.path("huge")).unwrap();
    file.set_len(4 << 30).unwrap();
    file.write_all_at(b"end", (4 << 30) - 3).unwrap();
    let imported = bench.import("huge").unwrap();
    assert_eq!(imported.blocks.blocks.keys().copied().collect::<Vec<_>>(), [(1 << 20) - 1]);
}

#[test]
fn a_luks_container_is_raw_ciphertext() {
    let Some(bench) = Bench::new() else { return };
    let mut content = vec![7; 10_000];
    content[..6].copy_from_slice(b"LUKS\xba\xbe");
    fs::write(bench.path("disk"), &content).unwrap();
    let imported = bench.import("disk").unwrap();
    assert_eq!((imported.format.as_str(), imported.content() == content), ("raw", true));
}

#[test]
fn the_name_does_not_tell_the_format() {
    let Some(bench) = Bench::new() else { return };
    bench.sample("a.raw");
    bench.qemu_img("convert -O qcow2 a.raw wrongly-named.raw");
    bench.sample("raw.qcow2");
    let imported = bench.import("wrongly-named.raw").unwrap();
    assert_eq!((imported.format.as_str(), imported.size), ("qcow2", (5 << 20) + 512));
    let imported = bench.import("raw.qcow2").unwrap();
    assert_eq!((imported.format.as_str(), imported.size), ("raw", (5 << 20) + 512));
}

#[test]
fn qcow2_of_every_kind() {
    let Some(bench) = Bench::new() else { return };
    let content = bench.sample("a.raw");
    for (name, options) in [
        ("plain", ""),
        ("old", "-o compat=0.10"),
        ("zlib", "-c"),
        ("zlib-old", "-c -o compat=0.10"),
        ("small-clusters", "-o cluster_size=512"),
        ("small-clusters-zlib", "-c -o cluster_size=512"),
        ("large-clusters", "-o cluster_size=2M"),
        ("large-clusters-zlib", "-c -o cluster_size=2M"),
        ("metadata", "-o preallocation=metadata"),
        ("falloc", "-o preallocation=falloc"),
        ("full", "-o preallocation=full,cluster_size=4k"),
        ("lazy", "-o lazy_refcounts=on"),
        ("refcounts-1", "-o refcount_bits=1"),
        ("refcounts-64", "-o refcount_bits=64"),
        ("no-holes", "-S 0"),
        ("data-file", "-o data_file=data.bin"),
        ("data-file-raw", "-o data_file=data-raw.bin,data_file_raw=on"),
        ("zstd", "-c -o compression_type=zstd"),
        ("extended", "-o extended_l2=on"),
        ("extended-zstd", "-c -o extended_l2=on,compression_type=zstd"),
        ("extended-data-file", "-o extended_l2=on,data_file=data-extended.bin"),
    ] {
        bench.qemu_img(&format!("convert -f raw -O qcow2 {options} a.raw {name}"));
        let imported = bench.compare(name);
        assert_eq!(imported.format.as_str(), "qcow2", "{name}");
        assert!(imported.content() == content, "{name}");
    }
}

#[test]
fn other_formats_through_qemu_img() {
    let Some(bench) = Bench::new() else { return };
    bench.sample("a.raw");
    for (format, options) in [
        ("vmdk", ""),
        ("vmdk", "-o subformat=streamOptimized"),
        ("vdi", ""),
        ("vhdx", ""),
        ("vpc", ""),
        ("vpc", "-o subformat=fixed"),
        ("qed", ""),
        ("qcow", ""),
        ("parallels", ""),
    ] {
        bench.qemu_img(&format!("convert -f raw -O {format} {options} a.raw image"));
        let imported = bench.import("image").unwrap_or_else(|e| panic!("{format} {options}: {e}"));
        assert_eq!(imported.format.as_str(), format);
        bench.qemu_img(&format!("convert -f {format} -O raw image reference"));
        assert!(imported.content() == fs::read(bench.path("reference")).unwrap(), "{format} {options}");
    }
}

#[test]
fn overlays_show_what_lies_under_them() {
    let Some(bench) = Bench::new() else { return };
    bench.sample("base.raw");
    bench.qemu_img("convert -f raw -O qcow2 -c base.raw base.qcow2");
    for (name, backing, format) in [("over-raw", "base.raw", "raw"), ("over-qcow2", "base.qcow2", "qcow2")] {
        bench.qemu_img(&format!("create -f qcow2 -o cluster_size=4k -b {backing} -F {format} {name} 7M"));
        bench.qemu_io(name, &["write -P 17 1M 128k", "write -z 3M 64k", "write -P 18 6M 10k", "write -P 19 5M 100k"]);
        bench.compare(name);
    }
    // Smaller than what it stands on; of version 2; of extended entries; and on top of one another.
    bench.qemu_img("create -f qcow2 -o compat=0.10 -b over-qcow2 -F qcow2 small 1M");
    bench.qemu_io("small", &["write -P 20 70k 3k"]);
    bench.compare("small");
    bench.qemu_img("create -f qcow2 -o extended_l2=on -b small -F qcow2 mixed 4M");
    bench.qemu_io("mixed", &["write -P 21 1k 3k", "write -z 64k 2k", "write -P 22 2M 9k"]);
    bench.compare("mixed");
    // A raw base that looks like qcow2 is raw, when the overlay says so.
    bench.qemu_img("create -f qcow2 -b base.qcow2 -F raw literal");
    assert!(bench.import("literal").unwrap().content().starts_with(b"QFI\xfb"));
}

#[test]
fn a_file_may_end_with_its_compressed_data() {
    let Some(bench) = Bench::new() else { return };
    for options in ["", "-o compression_type=zstd"] {
        bench.sample("a.raw");
        bench.qemu_img(&format!("create -f qcow2 {options} image 1M"));
        // Ends the file at any byte, where qemu-img convert fills the sector.
        bench.qemu_io("image", &["write -c -s a.raw 256k 64k", "write -c -P 6 64k 64k"]);
        let length = fs::metadata(bench.path("image")).unwrap().len();
        assert_ne!(length % 512, 0);
        bench.compare("image");
        for cut in 1..20 {
            bench.cut("image", length - cut);
            let Err(e) = bench.import("image") else { panic!("{options} less {cut} was imported") };
            assert!(e.to_string().contains("truncated"), "{e}");
        }
    }
}

#[test]
fn internal_snapshots_are_not_the_active_state() {
    let Some(bench) = Bench::new() else { return };
    bench.sample("a.raw");
    bench.qemu_img("convert -f raw -O qcow2 a.raw image");
    bench.qemu_img("snapshot -c before image");
    bench.qemu_io("image", &["write -P 9 0 1M"]);
    let imported = bench.compare("image");
    assert!(imported.content().starts_with(&[9; 4096]));
}

#[test]
fn block_devices_are_read_whole() {
    let Some(bench) = Bench::new() else { return };
    bench.sample("a.raw");
    bench.qemu_img("convert -f raw -O qcow2 a.raw a.qcow2");
    for (file, format) in [("a.raw", "raw"), ("a.qcow2", "qcow2")] {
        let output = Command::new("losetup").args(["-r", "-f", "--show"]).arg(bench.path(file)).output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "there is no loop device to be had");
            eprintln!("SKIPPED: there is no loop device to be had");
            return;
        };
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let result = import_with(Path::new(&device), &ImportOptions::default(), &bench.workshop(), &Silent);
        run(bench.dir.path(), "losetup", &format!("-d {device}"));
        let imported = result.unwrap();
        assert_eq!(imported.format.as_str(), format);
        assert!(imported.content() == bench.reference("a.raw"), "{format}");
    }
}
