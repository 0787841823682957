//! What monitoring is told, beside what was really done.
#![expect(clippy::unwrap_used, reason = "a test may")]

use outcrop_tests::{Metrics, TestStore, read_direct, require_mount};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;

const BLOCK: usize = 4096;

/// Memory that direct I/O takes: filled, and aligned to a block.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0x5a; length + BLOCK];
        let at = memory.as_ptr().align_offset(BLOCK);
        Self(memory, at)
    }

    fn bytes(&self, length: usize) -> &[u8] {
        &self.0[self.1..self.1 + length]
    }
}

fn metrics(store: &TestStore) -> Metrics {
    Metrics::parse(&store.run(["metrics"]))
}

/// What an HTTP server answers to a GET: the head and the body.
fn get(mut stream: impl Read + Write, path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: outcrop\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn operation<'a>(volume: &'a str, operation: &'a str) -> [(&'a str, &'a str); 2] {
    [("volume", volume), ("operation", operation)]
}

fn count(metrics: &Metrics, volume: &str, what: &str) -> f64 {
    metrics.get("outcrop_volume_operation_duration_seconds_count", &operation(volume, what))
}

fn bytes(metrics: &Metrics, volume: &str, what: &str) -> f64 {
    metrics.get("outcrop_volume_operation_bytes_total", &operation(volume, what))
}

fn errors(metrics: &Metrics, volume: &str, what: &str) -> f64 {
    metrics.get("outcrop_volume_operation_errors_total", &operation(volume, what))
}

#[test]
fn each_operation_is_counted_with_its_bytes_and_time() {
    require_mount!();
    let store = TestStore::mounted("metrics-operations");
    let direct = |name: &str| {
        let flags = OFlags::DIRECT.bits().cast_signed();
        File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(store.file(name)).unwrap()
    };
    let (db, other) = (direct("db"), direct("other"));
    let data = Aligned::new(16 * BLOCK);
    for write in 0..37 {
        db.write_all_at(data.bytes(16 * BLOCK), write * 16 * BLOCK as u64).unwrap();
    }
    for write in 0..5 {
        other.write_all_at(data.bytes(BLOCK), write * BLOCK as u64).unwrap();
    }
    for _ in 0..3 {
        db.sync_all().unwrap();
    }
    db.sync_data().unwrap();
    assert_eq!(read_direct(&store.file("other")).len(), 5 * BLOCK);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&db, punch, 0, 64 * BLOCK as u64).unwrap();
    fallocate(&db, FallocateFlags::ZERO_RANGE, 0, BLOCK as u64).unwrap();
    fallocate(&other, FallocateFlags::KEEP_SIZE, 1 << 20, 8 * BLOCK as u64).unwrap();
    let refused = fallocate(&other, FallocateFlags::empty(), 64 << 40, BLOCK as u64);
    assert_eq!(refused, Err(Errno::FBIG));

    let found = metrics(&store);
    assert_eq!((count(&found, "db", "write"), bytes(&found, "db", "write")), (37.0, (37 * 16 * BLOCK) as f64));
    assert_eq!((count(&found, "other", "write"), bytes(&found, "other", "write")), (5.0, (5 * BLOCK) as f64));
    assert_eq!((count(&found, "db", "fsync"), count(&found, "other", "fsync")), (4.0, 0.0));
    assert!(found.get("outcrop_volume_operation_duration_seconds_sum", &operation("db", "fsync")) > 0.0);
    assert_eq!((count(&found, "db", "discard"), bytes(&found, "db", "discard")), (2.0, (65 * BLOCK) as f64));
    assert_eq!((count(&found, "other", "allocate"), bytes(&found, "other", "allocate")), (1.0, (8 * BLOCK) as f64));
    assert_eq!((errors(&found, "other", "allocate"), errors(&found, "db", "write")), (1.0, 0.0));
    assert!(count(&found, "other", "read") >= 1.0);
    assert_eq!((bytes(&found, "other", "read"), count(&found, "db", "read")), ((5 * BLOCK) as f64, 0.0));
    assert_eq!(found.find("outcrop_volume_operation_bytes_total", &operation("db", "fsync")), None, "an fsync moves nothing");
    assert!(found.get("outcrop_open_handles", &[]) >= 2.0);

    // The snapshot's reads are told apart; a buffered read comes in pieces, but its bytes are whole.
    store.snapshot_all("monday");
    assert_eq!(fs::read(store.set("monday").join("other")).unwrap().len(), 5 * BLOCK);
    let found = metrics(&store);
    assert_eq!(bytes(&found, "other", "read_snapshot"), (5 * BLOCK) as f64);
    assert_eq!(bytes(&found, "other", "read"), (5 * BLOCK) as f64);
    for (name, value) in
        [("size_bytes", 37 * 16 * BLOCK), ("data_bytes", (37 * 16 - 64) * BLOCK), ("layers", 2), ("snapshots", 1)]
    {
        assert_eq!(found.get(&format!("outcrop_volume_{name}"), &[("volume", "db")]), value as f64, "{name}");
    }
    assert!(found.get("outcrop_chunk_cache_misses_total", &[]) >= 1.0);
    assert!(found.get("outcrop_chunk_cache_hits_total", &[]) >= 1.0);
    drop((db, other));
    store.umount();
}

#[test]
fn a_deleted_volume_has_no_series_and_a_renamed_one_takes_its_own_along() {
    require_mount!();
    let store = TestStore::mounted("metrics-names");
    let odd = "a\"b\\c\nd";
    for name in [odd, "gone", "before"] {
        fs::write(store.file(name), [1; BLOCK]).unwrap();
    }
    let shown = r#"a"b\\c\x0ad"#;
    let found = metrics(&store);
    for name in [shown, "gone", "before"] {
        assert_eq!(bytes(&found, name, "write"), BLOCK as f64, "{name}");
    }
    fs::rename(store.file("before"), store.file("after")).unwrap();
    let open = File::open(store.file("gone")).unwrap();
    fs::remove_file(store.file("gone")).unwrap();
    assert_eq!(open.metadata().unwrap().len(), BLOCK as u64);
    let found = metrics(&store);
    assert_eq!(bytes(&found, "after", "write"), BLOCK as f64);
    assert_eq!(found.values_of("volume").into_iter().collect::<Vec<_>>(), [shown, "after"]);
    drop(open);
    store.umount();
}

#[test]
fn the_socket_the_port_and_the_command_tell_the_same() {
    require_mount!();
    let store = TestStore::new("metrics-http").with(&["-o", "metrics=127.0.0.1:0"]);
    store.mount();
    fs::write(store.file("db"), [1; BLOCK]).unwrap();
    let address = store.json(["status"])["mount"]["metrics"].as_str().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    let over_port = get(TcpStream::connect(&address).unwrap(), "/metrics");
    let over_socket = get(UnixStream::connect(store.store().join("control.sock")).unwrap(), "/metrics");
    let names = |text: &str| Metrics::parse(text).names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    for (head, body) in [&over_port, &over_socket] {
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert_eq!(names(body), names(&store.run(["metrics"])));
    }
    // Nothing else is to be had there.
    for path in ["/", "/v1/operation", "/metrics/"] {
        let (head, _) = get(TcpStream::connect(&address).unwrap(), path);
        assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
    }
    // Whoever comes second to a port is told.
    let second = TestStore::new("metrics-http-2").with(&["-o", &format!("metrics={address}")]);
    let mut mount = second.cli(["mount", "-o", &format!("metrics={address}")]);
    let said = outcrop_tests::fails(mount.arg(second.store()).arg(second.mount_point()));
    assert!(said.contains(&address) && said.contains("another port"), "{said}");
    store.umount();
    assert!(TcpStream::connect(&address).is_err(), "it ends with the mount");
}

#[test]
fn other_addresses_than_loopback_are_refused_before_anything_is_mounted() {
    let store = TestStore::new("metrics-refused");
    for address in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:80", "9090", "localhost:9090"] {
        let mut mount = store.cli(["mount", "-o", &format!("metrics={address}")]);
        let said = outcrop_tests::fails(mount.arg(store.store()).arg(store.mount_point()));
        assert!(said.contains("metrics") && said.contains(address), "{said}");
    }
    assert!(!store.store().exists());
}

#[test]
fn without_a_mount_the_stores_own_numbers_are_told() {
    let store = TestStore::new("metrics-unmounted");
    store.run(["volume", "create", "db", "--size", "1G"]);
    let found = metrics(&store);
    assert_eq!(found.get("outcrop_volume_size_bytes", &[("volume", "db")]), f64::from(1 << 30));
    for part in ["alone", "shared", "unseen", "merging", "dropping"] {
        assert_eq!(found.get("outcrop_held_bytes", &[("part", part)]), 0.0);
    }
    assert_eq!(found.get("outcrop_events_total", &[("kind", "damage")]), 0.0);
    assert_eq!(found.find("outcrop_uptime_seconds", &[]), None);
    assert_eq!(found.kinds["outcrop_freed_bytes_total"], "counter");
}

#[test]
fn the_example_s_alerts_ask_for_what_is_told() {
    require_mount!();
    let store = TestStore::mounted("metrics-example");
    fs::write(store.file("db"), [1; BLOCK]).unwrap();
    let found = metrics(&store);
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/prometheus.yml")).unwrap();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let asked: Vec<&str> = example.split(|c| !is_part(c)).filter(|word| word.starts_with("outcrop_")).collect();
    assert!(asked.len() >= 7, "{asked:?}");
    for name in asked {
        assert!(found.names().contains(name), "{name} is asked for by an alert, but not told");
    }
    store.umount();
}
