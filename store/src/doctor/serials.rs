//! Serials: given once in the life of a store. They are inode numbers in every mount, where two things with one number are taken
//! for each other.

use super::Report;
use crate::catalog::state::State;
use crate::name::Name;
use std::collections::BTreeMap;

pub(super) fn check(state: &State, report: &mut Report<'_>) {
    let mut owners: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut add = |serial: u64, shown: String| owners.entry(serial).or_default().push(shown);
    for volume in state.volumes.values() {
        add(volume.serial, format!("volume '{}'", volume.name.as_ref().map_or_else(|| volume.id.to_string(), Name::to_string)));
    }
    for snapshot in state.snapshots.values() {
        add(snapshot.serial, format!("snapshot '{}/{}'", snapshot.set, snapshot.taken_as));
    }
    for set in state.sets.values() {
        add(set.serial, format!("the directory .snapshots/{}", set.name));
    }
    for image in state.images.values() {
        add(image.serial, format!("image '{}'", image.name));
    }
    for (serial, owners) in owners.iter().filter(|(_, owners)| owners.len() > 1) {
        report.error(
            format!(
                "serial {serial} is that of {}: a mount takes one for the other, and answers I/O errors",
                owners.join(" and of ")
            ),
            "copy one of them to a new name and delete it",
        );
    }
    let count = owners.len();
    if report.clean {
        report.ok(format!("no two things have one serial ({count})"));
    }
}
