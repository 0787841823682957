//! Tables for people: no borders, sizes in binary units, times in the local time zone.

use super::schedules;
use super::space;
use crate::operations::Reply;
use crate::operations::removed::RemovedView;
use crate::operations::views::{DiffView, DoctorView, ImageView, SnapshotView, SpaceView, StatusView, VolumeView};
use crate::size::human;
use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Stands for what there is none of.
pub(super) const NONE: &str = "-";

/// The events that `status` shows.
const EVENTS_SHOWN: usize = 10;

/// An answer as text: empty where there is nothing to tell.
pub fn of(reply: &Reply) -> String {
    match reply {
        Reply::Done | Reply::Detached { .. } => String::new(),
        Reply::Volumes(views) => volumes(views),
        Reply::Volume(view) => volume(view),
        Reply::Snapshots(views) => snapshots(views),
        Reply::Removed(views) => removed(views),
        Reply::Diff(view) => diff(view),
        Reply::Images(views) => images(views),
        Reply::Image(view) => image(view),
        Reply::Jobs(views) => super::jobs::jobs(views),
        Reply::Job(view) => super::jobs::job(view),
        Reply::Status(view) => status(view),
        Reply::Space(view) => space::of(view),
        Reply::Metrics(text) => text.clone(),
        Reply::Doctor(view) => doctor(view),
        Reply::Scrub(view) => super::scrub::scrub(view),
        Reply::Schedules(views) => schedules::list(views),
        Reply::Schedule(view) => schedules::one(view),
        Reply::ScheduleRun(view) => schedules::run(view),
    }
}

fn volumes(views: &[VolumeView]) -> String {
    let rows = views.iter().map(|view| {
        [
            view.name.clone().unwrap_or_else(|| format!("({})", view.id)),
            if view.state == "deleted" { NONE.to_owned() } else { human(view.size) },
            view.data.map_or_else(|| NONE.to_owned(), human),
            view.image.clone().unwrap_or_else(|| NONE.to_owned()),
            view.snapshots.to_string(),
            view.state.clone(),
            local(&view.created),
        ]
    });
    table(["NAME", "SIZE", "DATA", "IMAGE", "SNAPSHOTS", "STATE", "CREATED"], &[1, 2, 4], rows)
}

fn volume(view: &VolumeView) -> String {
    let mut rows = vec![
        ("name", view.name.clone().unwrap_or_else(|| NONE.to_owned())),
        ("id", view.id.clone()),
        ("state", view.fault.as_ref().map_or_else(|| view.state.clone(), |fault| format!("{}: {fault}", view.state))),
        ("size", both(view.size)),
        ("data", view.data.map_or_else(|| NONE.to_owned(), both)),
    ];
    if view.all_frees.is_none() && view.taken.alone.is_none() {
        rows.push(("in the head", view.head.map_or_else(|| NONE.to_owned(), both)));
    } else {
        rows.extend(space::of_one(&view.taken));
        rows.push(("with its snapshots", view.all_frees.map_or_else(|| NONE.to_owned(), both)));
    }
    rows.extend(view.sums.iter().map(|sums| ("verified", super::scrub::of_volume(sums))));
    rows.extend([
        ("image", view.image.clone().unwrap_or_else(|| NONE.to_owned())),
        ("snapshots", view.snapshots.to_string()),
        ("mode, owner", format!("{} {}:{}", view.mode, view.uid, view.gid)),
        ("created", local(&view.created)),
        ("layers", view.layers.len().to_string()),
    ]);
    rows.extend(view.layers.iter().map(|layer| ("", layer.clone())));
    pairs(&rows)
}

fn snapshots(views: &[SnapshotView]) -> String {
    let rows = views
        .iter()
        .map(|view| [view.name.clone(), view.volume.clone(), human(view.size), labels(&view.labels), local(&view.created)]);
    table(["NAME", "VOLUME", "SIZE", "LABELS", "CREATED"], &[2], rows)
}

fn removed(views: &[RemovedView]) -> String {
    let rows = views.iter().map(|view| {
        [
            view.id.to_string(),
            view.kind.clone(),
            view.volume.clone().unwrap_or_else(|| format!("({})", view.volume_id)),
            view.snapshot.clone().unwrap_or_else(|| NONE.to_owned()),
            human(view.size),
            local(&view.removed),
            if view.open { format!("{} (open)", local(&view.until)) } else { local(&view.until) },
        ]
    });
    table(["ID", "KIND", "VOLUME", "SNAPSHOT", "SIZE", "REMOVED", "UNTIL"], &[0, 4], rows)
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    // Those that only programs understand are in --json.
    let given: Vec<_> = labels.iter().filter(|(key, _)| !key.starts_with(outcrop_store::schedule::RESERVED)).collect();
    if given.is_empty() {
        return NONE.to_owned();
    }
    given.into_iter().map(|(key, value)| format!("{}={}", plain(key), plain(value))).collect::<Vec<_>>().join(",")
}

fn images(views: &[ImageView]) -> String {
    let rows = views.iter().map(|view| {
        [
            view.name.clone(),
            human(view.size),
            human(view.data),
            view.format.clone(),
            view.users.len().to_string(),
            local(&view.created),
        ]
    });
    table(["NAME", "SIZE", "DATA", "FORMAT", "USERS", "CREATED"], &[1, 2, 4], rows)
}

fn diff(view: &DiffView) -> String {
    let rows = view.ranges.iter().map(|range| [range.offset.to_string(), range.length.to_string()]);
    let mut out = table(["OFFSET", "LENGTH"], &[0, 1], rows);
    let _ = writeln!(out, "{} in {} ranges", both(view.bytes), view.ranges.len());
    if view.size_a != view.size_b {
        let _ = writeln!(out, "size: {}, then {}", both(view.size_a), both(view.size_b));
    }
    out
}

fn image(view: &ImageView) -> String {
    pairs(&[
        ("name", view.name.clone()),
        ("id", view.id.clone()),
        ("size", both(view.size)),
        ("data", both(view.data)),
        ("format", view.format.clone()),
        ("sha256", view.sha256.clone()),
        ("layer", view.layer.clone()),
        ("users", if view.users.is_empty() { NONE.to_owned() } else { view.users.join(", ") }),
        ("created", local(&view.created)),
    ])
}

pub(super) fn disk(view: &SpaceView) -> Vec<(&'static str, String)> {
    let percent = |part: u64| if view.total == 0 { 0 } else { u128::from(part) * 100 / u128::from(view.total) };
    let promised = if view.promised > view.total { " (more than the disk has)" } else { "" };
    vec![
        ("disk", view.disk.clone()),
        ("total", human(view.total)),
        ("available", format!("{} ({}%)", human(view.available), percent(view.available))),
        ("free", human(view.free)),
        ("kept free", human(view.floor)),
        ("used", human(view.used)),
        ("promised", format!("{}{promised}", human(view.promised))),
    ]
}

fn status(view: &StatusView) -> String {
    let mut rows = vec![("store", view.store.clone()), ("id", view.id.clone())];
    match &view.mount {
        Some(mount) => {
            rows.push(("mounted on", mount.target.clone()));
            rows.push(("since", local(&mount.since)));
            rows.push(("daemon", format!("process {}, version {}", mount.pid, mount.version)));
            rows.push(("log", mount.log.clone().unwrap_or_else(|| "stderr (in the foreground)".to_owned())));
        }
        None => rows.push(("mounted on", NONE.to_owned())),
    }
    rows.push(("volumes", view.volumes.to_string()));
    rows.push(("snapshots", view.snapshots.to_string()));
    rows.push(("images", view.images.to_string()));
    rows.extend(disk(&view.space));
    let mut out = pairs(&rows);
    let skipped = view.events.len().saturating_sub(EVENTS_SHOWN);
    if !view.events.is_empty() {
        out.push_str("\nevents since the store was opened");
        if skipped > 0 {
            let _ = write!(out, " ({skipped} older ones: --json)");
        }
        out.push('\n');
        for event in &view.events[skipped..] {
            let _ = writeln!(out, "  {}  {:<8}  {}", local(&event.time), event.kind, plain(&event.message));
        }
    }
    out
}

fn doctor(view: &DoctorView) -> String {
    let mut out = String::new();
    for finding in &view.findings {
        let _ = writeln!(out, "{:<7}  {:<8}  {}", finding.severity, finding.check, plain(&finding.message));
        if let Some(hint) = &finding.hint {
            let _ = writeln!(out, "{:17}  hint: {}", "", plain(hint));
        }
    }
    let count = |number: u64, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let _ = writeln!(out, "{}, {}", count(view.errors, "error"), count(view.warnings, "warning"));
    out
}

/// Text that others wrote, on one line and without a terminal's control codes.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// A size for people, and exactly.
pub(super) fn both(bytes: u64) -> String {
    if bytes < 1024 { human(bytes) } else { format!("{} ({bytes} bytes)", human(bytes)) }
}

/// A time of a view in the local time zone.
pub(super) fn local(time: &str) -> String {
    time.parse::<Timestamp>()
        .map_or_else(|_| time.to_owned(), |time| time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
}

pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut out, (key, value)| {
        let _ = writeln!(out, "{key:<width$}  {value}");
        out
    })
}

pub(super) fn table<const N: usize>(header: [&str; N], numbers: &[usize], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if numbers.contains(&column.index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::space::TakenView;

    fn view(name: &str, size: u64) -> VolumeView {
        VolumeView {
            id: "0193".to_owned(),
            name: Some(name.to_owned()),
            state: "live".to_owned(),
            fault: None,
            size,
            data: Some(4096),
            head: Some(0),
            taken: TakenView::default(),
            all_frees: None,
            sums: None,
            image: None,
            snapshots: 2,
            layers: vec!["a".to_owned(), "b".to_owned()],
            mode: "0644".to_owned(),
            uid: 0,
            gid: 0,
            created: "2023-11-14T22:13:20.123Z".to_owned(),
        }
    }

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_space() {
        let text = of(&Reply::Volumes(vec![view("db", 20 << 30), view("a much longer name", 512)]));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("NAME"), "{text}");
        assert!(lines.iter().all(|line| line.trim_end() == *line), "{text:?}");
        assert_eq!(lines[1].find("20.0 GiB").map(|at| at + 8), lines[2].find("512 B").map(|at| at + 5), "{text}");
        assert!(of(&Reply::Volumes(Vec::new())).starts_with("NAME"));
    }

    #[test]
    fn text_of_others_stays_on_its_line() {
        let labels = labels(&BTreeMap::from([("k".to_owned(), "a\n\u{1b}[31m".to_owned())]));
        assert!(!labels.contains('\n') && !labels.contains('\u{1b}'), "{labels}");
    }
}
