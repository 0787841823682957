//! Labels against the catalog: does the store survive the loss of its catalog?

use super::Report;
use crate::catalog::records::Member;
use crate::catalog::state::State;
use crate::disk::{Disk, durable};
use crate::error::Result;
use crate::label::{self, Label};
use std::collections::BTreeSet;

const REOPEN: &str = "unmount and mount again: opening a store writes its labels again from the catalog";

/// Called between operations.
pub(super) fn check(disk: &Disk, state: &State, report: &mut Report<'_>) -> Result<()> {
    let labels = label::read_all(disk)?;
    let mut seen: BTreeSet<Member> = BTreeSet::new();
    for label in &labels.good {
        seen.insert(label.member);
        let expected = Label::of(disk, label.member, state);
        if label.importing.is_some() {
            report.ok(format!("image {} is being imported", shown_id(label.member)));
        } else if label.next.is_some() {
            report.warning(format!("the label of {} carries a change that has not ended", label.shown()), REOPEN);
        } else if !same(label, &expected) {
            report.error(format!("the label of {} is not what the catalog says", label.shown()), REOPEN);
        }
    }
    for bad in &labels.bad {
        let known = bad.member.is_some_and(|member| state.has(member));
        seen.extend(bad.member);
        let hint = if known {
            REOPEN
        } else {
            "the volume or image is lost to the catalog: put a copy of the label in its place, or remove it"
        };
        report.error(format!("{} can't be believed: {}", bad.path.display(), bad.reason), hint);
    }
    let members = state.volumes.keys().copied().map(Member::Volume).chain(state.images.keys().copied().map(Member::Image));
    let mut count = 0;
    for member in members {
        count += 1;
        if !seen.contains(&member) {
            let shown = Label::of(disk, member, state).shown();
            report.error(format!("the label of {shown} is missing ({})", label::path_of(disk, member).display()), REOPEN);
        }
    }
    if report.clean {
        report.ok(format!("all labels ({count}) say what the catalog says"));
    }
    for name in durable::names_in(&disk.path)? {
        if name.starts_with("catalog.bad-") {
            report.warning(
                format!("{} was kept when the catalog was made again", disk.path.join(name).display()),
                "remove it when everything is where it should be",
            );
        }
    }
    Ok(())
}

/// Equal but for the serial, which counts what came later, too.
fn same(label: &Label, expected: &Label) -> bool {
    let (mut label, mut expected) = (label.clone(), expected.clone());
    for entry in [&mut label, &mut expected].into_iter().filter_map(|label| label.current.as_mut()) {
        entry.next_serial = 0;
    }
    label == expected
}

fn shown_id(member: Member) -> String {
    match member {
        Member::Volume(id) => id.to_string(),
        Member::Image(id) => id.to_string(),
    }
}
