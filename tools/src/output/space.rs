//! The tables of `outcrop space`.

use super::tables::{NONE, both, disk, pairs, plain, table};
use crate::operations::space::{NameSpaceView, SpaceReportView, TakenView};
use crate::size::human;
use std::fmt::Write as _;

/// All of it: the disk, each name, and the sums.
pub fn of(view: &SpaceReportView) -> String {
    let mut out = pairs(&disk(&view.disk));
    if !view.names.is_empty() {
        out.push('\n');
        out.push_str(&table(
            ["NAME", "KIND", "SIZE", "DATA", "ALONE", "SHARED", "FREES", ""],
            &[2, 3, 4, 5, 6],
            view.names.iter().map(row),
        ));
    }
    out.push('\n');
    out.push_str(&pairs(&sums(view)));
    for reason in &view.waits {
        let _ = writeln!(out, "waiting: {}", plain(reason));
    }
    for reason in &view.unreadable {
        let _ = writeln!(out, "not counted: {}", plain(reason));
    }
    out
}

fn row(view: &NameSpaceView) -> [String; 8] {
    let name = view.snapshot.as_ref().map_or_else(|| view.name.clone(), |snapshot| format!("{}@{snapshot}", view.name));
    let taken = &view.taken;
    let [data, alone, shared, frees] =
        [view.data, taken.alone, taken.shared, taken.frees].map(|bytes| bytes.map_or_else(|| NONE.to_owned(), human));
    [name, view.kind.clone(), human(view.size), data, alone, shared, frees, note(taken)]
}

/// Why deleting it frees less than it holds alone.
fn note(taken: &TakenView) -> String {
    taken.under.map(|layers| format!("{layers} stand on it")).unwrap_or_default()
}

/// What it holds, alone and shared, and what deleting it frees: for `volume show`.
pub fn of_one(taken: &TakenView) -> Vec<(&'static str, String)> {
    let text = |bytes: Option<u64>| bytes.map_or_else(|| NONE.to_owned(), both);
    let why = if taken.under.is_some() { format!(": {}", note(taken)) } else { String::new() };
    vec![
        ("holds alone", text(taken.alone)),
        ("shares", text(taken.shared)),
        ("deleting frees", format!("{}{why}", text(taken.frees))),
    ]
}

fn sums(view: &SpaceReportView) -> Vec<(&'static str, String)> {
    let mut rows =
        vec![("held", both(view.held)), ("  by one name alone", both(view.alone)), ("  by several", both(view.shared))];
    // Mostly there is none of these.
    let mut also = |key, bytes: u64, note: &str| {
        if bytes > 0 {
            rows.push((key, format!("{}{note}", both(bytes))));
        }
    };
    also("  below clones, unseen", view.unseen, "");
    also("  waiting for merges", view.merging, &format!(" in {} layers", view.merges));
    also("  deleted, still open", view.dropping, "");
    also("kept for undo", view.undo, "");
    rows.push(("reserve", human(view.reserve)));
    rows.push(("catalog", human(view.catalog)));
    rows.push(("maps, sums, labels", human(view.metadata)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::views::SpaceView;

    fn name(kind: &str, snapshot: Option<&str>, frees: u64, under: Option<u64>) -> NameSpaceView {
        NameSpaceView {
            kind: kind.to_owned(),
            name: "db".to_owned(),
            snapshot: snapshot.map(str::to_owned),
            serial: None,
            id: "0193".to_owned(),
            size: 1 << 30,
            data: Some(8192),
            taken: TakenView { alone: Some(4096), shared: Some(4096), frees: Some(frees), under },
        }
    }

    #[test]
    fn a_name_that_stays_says_why() {
        let disk = SpaceView { disk: "/d".to_owned(), total: 10, available: 5, free: 5, floor: 1, used: 4, promised: 0 };
        let view = SpaceReportView {
            disk,
            held: 12288,
            alone: 8192,
            shared: 4096,
            unseen: 0,
            merging: 0,
            dropping: 0,
            undo: 0,
            merges: 0,
            reserve: 0,
            catalog: 0,
            metadata: 0,
            waits: Vec::new(),
            unreadable: vec!["bad\nmap".to_owned()],
            names: vec![name("volume", None, 4096, None), name("snapshot", Some("monday"), 0, Some(2))],
        };
        let text = of(&view);
        let line = text.lines().find(|line| line.starts_with("db@monday")).unwrap_or_default();
        assert!(line.ends_with("0 B  2 stand on it"), "{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{text:?}");
        assert!(text.ends_with("not counted: bad\\u{a}map\n"), "{text}");
        assert!(!text.contains("waiting for merges"), "{text}");
    }
}
