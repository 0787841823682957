//! The families: names, units and help texts as Prometheus' conventions have them (base units, `_total` for what only goes up).

use super::text::{Kind, Text};
use outcrop_fs::meter::{BOUNDS_NS, MountMetrics, Operation, OperationMetrics};
use outcrop_store::{EventKind, Owner, SpaceReport, StoreMetrics, VolumeFacts, VolumeId};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The program, and how long it has run.
pub fn process(text: &mut Text, up: Option<Duration>) {
    text.family("outcrop_build_info", Kind::Gauge, "The version that runs; its value is always 1.")
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    if let Some(up) = up {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(up);
        text.family("outcrop_uptime_seconds", Kind::Gauge, "How long the mount has been there.").seconds(&[], up.as_nanos());
        text.family("outcrop_start_time_seconds", Kind::Gauge, "When the mount was made, in seconds since 1970.")
            .seconds(&[], started.as_nanos());
    }
}

/// What was done to each volume.
pub fn operations(text: &mut Text, store: &StoreMetrics, mount: &MountMetrics) {
    let names: HashMap<VolumeId, String> = store.volumes.iter().map(|volume| (volume.id, volume.name.to_string())).collect();
    // Without a name, as a deleted one that is still open, a volume has no series.
    let mut volumes: Vec<_> = mount.volumes.iter().filter_map(|volume| Some((names.get(&volume.volume)?, volume))).collect();
    volumes.sort_by_key(|(name, _)| *name);
    let all: Vec<(&str, &OperationMetrics)> =
        volumes.iter().flat_map(|(name, volume)| volume.operations.iter().map(|operation| (name.as_str(), operation))).collect();
    let help = "How long operations took that went well, from when the kernel's request was taken to when its answer was known.";
    let mut family = text.family("outcrop_volume_operation_duration_seconds", Kind::Histogram, help);
    for (name, metrics) in &all {
        let labels = [("volume", *name), ("operation", metrics.operation.name())];
        family.durations(&labels, &BOUNDS_NS, &metrics.durations.buckets, metrics.durations.sum_ns);
    }
    let help = "Bytes that operations moved, discarded or reserved.";
    let mut family = text.family("outcrop_volume_operation_bytes_total", Kind::Counter, help);
    for (name, metrics) in all.iter().filter(|(_, metrics)| metrics.operation != Operation::Fsync) {
        family.sample(&[("volume", name), ("operation", metrics.operation.name())], metrics.bytes);
    }
    let mut family = text.family("outcrop_volume_operation_errors_total", Kind::Counter, "Operations that failed.");
    for (name, metrics) in &all {
        family.sample(&[("volume", name), ("operation", metrics.operation.name())], metrics.failed);
    }
}

/// What the mount is at.
pub fn requests(text: &mut Text, mount: &MountMetrics) {
    text.gauge("outcrop_open_handles", "Files and directories that are open in the mount.", mount.handles);
    text.gauge("outcrop_pool_threads", "Threads that wait for the disk, busy or not.", mount.pool_threads);
    text.gauge("outcrop_pool_queue_requests", "Requests that wait for one of these threads.", mount.queue_requests);
    text.gauge("outcrop_pool_queue_bytes", "Bytes of writes that wait for one of these threads.", mount.queue_bytes);
    text.counter("outcrop_requests_timed_out_total", "Requests that were answered with a time-out.", mount.expired);
}

/// What each volume is.
pub fn volumes(text: &mut Text, store: &StoreMetrics) {
    let mut sorted: Vec<&VolumeFacts> = store.volumes.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut each = |name, help, value: &dyn Fn(&VolumeFacts) -> Option<u64>| {
        let mut family = text.family(name, Kind::Gauge, help);
        for volume in &sorted {
            if let Some(value) = value(volume) {
                family.sample(&[("volume", &volume.name.to_string())], value);
            }
        }
    };
    each("outcrop_volume_size_bytes", "Size of a live volume.", &|volume| Some(volume.head?.size));
    each("outcrop_volume_data_bytes", "What a live volume shows as data.", &|volume| volume.head?.data);
    each("outcrop_volume_layers", "Layers of a live volume's chain.", &|volume| Some(volume.head?.layers));
    each("outcrop_volume_snapshots", "Snapshots of a volume.", &|volume| Some(volume.snapshots));
    each("outcrop_volume_faulted", "Whether a volume takes no writes, because a flush failed or it can't be read.", &|volume| {
        Some(u64::from(volume.head?.faulted))
    });
}

/// What was found not to fit its sums.
pub fn damage(text: &mut Text, store: &StoreMetrics) {
    text.gauge("outcrop_damaged_blocks", "Blocks that are known not to fit their sums.", store.damaged_blocks);
    let help = "Reads of a volume and its snapshots that were refused because a block did not fit its sum.";
    let mut family = text.family("outcrop_volume_damaged_reads_total", Kind::Counter, help);
    for volume in &store.volumes {
        family.sample(&[("volume", &volume.name.to_string())], volume.damaged_reads);
    }
}

/// The store's own numbers.
pub fn store(text: &mut Text, store: &StoreMetrics) {
    text.gauge("outcrop_images", "Backing images.", store.images);
    text.gauge("outcrop_layers", "Layers of all volumes, snapshots and images.", store.layers);
    text.counter("outcrop_chunk_cache_hits_total", "Lookups of blocks that were answered from memory.", store.cache_hits);
    text.counter("outcrop_chunk_cache_misses_total", "Lookups of blocks that were made from the maps.", store.cache_misses);
    text.gauge("outcrop_chunk_cache_chunks", "Lookups that are in memory, of 2 MiB of a volume each.", store.cache_chunks);
    text.counter("outcrop_freed_bytes_total", "Data of layers that were dropped or merged away.", store.freed);
    let mut family = text.family("outcrop_jobs", Kind::Gauge, "Jobs on record, by kind and state.");
    for (kind, state, count) in &store.jobs {
        family.sample(&[("kind", &kind.to_string()), ("state", &state.to_string())], *count);
    }
    let mut family = text.family("outcrop_events_total", Kind::Counter, "What happened since the store was opened, by kind.");
    for kind in EventKind::ALL {
        let count = store.events.iter().find(|(other, _)| *other == kind).map_or(0, |(_, count)| *count);
        family.sample(&[("kind", event(kind))], count);
    }
}

fn event(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Repaired => "repaired",
        EventKind::Damage => "damage",
        EventKind::Space => "space",
        EventKind::Schedule => "schedule",
    }
}

/// The disk.
pub fn disk(text: &mut Text, store: &StoreMetrics) {
    text.gauge("outcrop_disk_size_bytes", "Size of the disk's file system.", store.disk_total);
    text.gauge("outcrop_disk_free_bytes", "Free on it in all.", store.disk_free);
    text.gauge("outcrop_disk_available_bytes", "Free on it for volumes' data.", store.disk_available);
    text.gauge("outcrop_disk_floor_bytes", "Free space at which data writes get ENOSPC.", store.disk_floor);
}

/// What was counted from the maps.
pub fn space(text: &mut Text, report: &SpaceReport, at: SystemTime) {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.family(
        "outcrop_space_counted_timestamp_seconds",
        Kind::Gauge,
        "When the space below was counted, in seconds since 1970.",
    )
    .seconds(&[], at.as_nanos());
    text.gauge("outcrop_promised_bytes", "Sizes of all live volumes together.", report.disk.promised);
    let help = "Data that all layers hold, by who needs it: one name alone, several, nobody (below clones), \
                nobody once merges are done, somebody who has a deleted volume open.";
    let mut family = text.family("outcrop_held_bytes", Kind::Gauge, help);
    for (part, bytes) in [
        ("alone", report.alone),
        ("shared", report.shared),
        ("unseen", report.unseen),
        ("merging", report.merging),
        ("dropping", report.dropping),
    ] {
        family.sample(&[("part", part)], bytes);
    }
    text.gauge("outcrop_undo_bytes", "What would be free if undo gave up all that it keeps.", report.undo);
    text.gauge("outcrop_merges_waiting", "Layers without a name that wait to be merged.", report.merges);
    // A volume's snapshots in one sum: a series for each would be without bound.
    let mut alone: Vec<(String, &str, u64)> = Vec::new();
    let heads: HashMap<VolumeId, String> = report
        .names
        .iter()
        .filter_map(|name| if let Owner::Volume { id, name } = &name.owner { Some((*id, name.to_string())) } else { None })
        .collect();
    let mut snapshots: HashMap<VolumeId, u64> = heads.keys().map(|id| (*id, 0)).collect();
    for name in &report.names {
        let Some(taken) = name.taken else { continue };
        match &name.owner {
            Owner::Volume { name, .. } => alone.push((name.to_string(), "volume", taken.alone)),
            Owner::Image { name, .. } => alone.push((name.to_string(), "image", taken.alone)),
            Owner::Snapshot { volume, .. } => *snapshots.entry(*volume).or_default() += taken.alone,
            Owner::Removed { .. } => {}
        }
    }
    alone.extend(snapshots.into_iter().filter_map(|(id, bytes)| Some((heads.get(&id)?.clone(), "snapshots", bytes))));
    alone.sort();
    let help = "What a volume's head, its snapshots (each alone, in one sum) and an image hold that no other name needs.";
    let mut family = text.family("outcrop_name_alone_bytes", Kind::Gauge, help);
    for (name, kind, bytes) in &alone {
        family.sample(&[("name", name), ("kind", kind)], *bytes);
    }
}
