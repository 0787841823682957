//! Layers: their files, those that are missing, those that nobody needs, and heads whose flush failed.

use super::{LayerLook, Report};
use crate::catalog::Catalog;
use crate::catalog::state::State;
use crate::disk::{Disk, durable};
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::label;
use std::collections::BTreeSet;

/// Each layer's map against its files. A layer that an operation took away meanwhile is passed over.
pub(super) fn maps(disk: &Disk, catalog: &Catalog, state: &State, look: &dyn LayerLook, report: &mut Report<'_>) {
    let heads: BTreeSet<LayerId> = state.volumes.values().filter_map(|volume| volume.head).collect();
    let is_gone = |id: &LayerId| !catalog.read().layers.contains_key(id);
    for id in state.layers.keys() {
        if !disk.layer_dir(*id).exists() {
            if !is_gone(id) {
                let users = state.needed_by(*id).join(", ");
                report.error(
                    format!("layer {id} is missing; it is needed by {users}"),
                    "put its directory back into layers/ (see lost+found/ and copies of this disk); without it they can't be read",
                );
            }
            continue;
        }
        let mut found = look.check(*id, !heads.contains(id));
        if !found.is_empty() {
            // A head may be sealed, and a sealed layer become a head (by a merge), while others are looked at.
            let is_head = catalog.read().volumes.values().any(|volume| volume.head == Some(*id));
            found = look.check(*id, !is_head);
        }
        for wrong in found {
            if is_gone(id) {
                break;
            }
            let users = state.needed_by(*id).join(", ");
            // It does right here.
            let wrong = wrong.trim_end_matches("; 'outcrop doctor' tells more");
            report.error(
                format!("{wrong} (layer {id} of {users})"),
                "copy what can be read of it to another volume; if the disk has errors, replace it",
            );
        }
    }
    if report.clean {
        report.ok(format!("the maps of all layers ({}) fit their files", state.layers.len()));
    }
}

/// Volumes whose flush failed.
pub(super) fn faults(state: &State, look: &dyn LayerLook, report: &mut Report<'_>) {
    let mut live = 0;
    for volume in state.live_volumes() {
        live += 1;
        let name = volume.name.as_ref().map_or_else(|| volume.id.to_string(), ToString::to_string);
        match volume.head.map(|head| look.is_faulted(head)) {
            Some(Ok(true)) => report.error(
                format!("volume '{name}' is faulted: a flush of it failed, and it takes no more writes"),
                "look into the kernel's log for errors of the disk; then 'outcrop doctor --clear-fault' goes on from the last good flush (blocks overwritten since may be old or new)",
            ),
            // A missing layer is told by another check.
            Some(Ok(false) | Err(Error::LayerMissing { .. })) | None => {}
            Some(Err(e)) => report.error(format!("whether volume '{name}' is faulted can't be told: {e}"), "check the disk"),
        }
    }
    if report.clean {
        report.ok(format!("no volume (of {live}) is faulted"));
    }
}

/// What lies in the store and belongs to nothing.
pub(super) fn orphans(disk: &Disk, catalog: &Catalog, state: &State, report: &mut Report<'_>) -> Result<()> {
    let mut own: BTreeSet<LayerId> = state.layers.keys().chain(&state.dropping).copied().collect();
    let names = durable::names_in(&disk.layers_dir())?;
    // Read after the directory, and operations under way name their layers before they make them.
    for label in label::read_all(disk)?.good {
        own.extend(label.importing);
        own.extend(label.next.iter().flat_map(|next| next.layers()).map(|layer| layer.id));
    }
    let now = catalog.read();
    own.extend(now.layers.keys().chain(&now.dropping));
    drop(now);
    for name in names {
        let known = name.parse::<LayerId>().is_ok_and(|id| own.contains(&id));
        // Dropped since.
        if known || !disk.layers_dir().join(&name).exists() {
            continue;
        }
        let (since, hint) = if catalog.kept().contains(&name) {
            (" since the catalog was made again", "if nothing is missed, remove it")
        } else {
            ("", "unmount and mount again: opening the store moves it to lost+found/")
        };
        report.warning(format!("nothing refers to layers/{name}{since}"), hint);
    }
    let lost = durable::names_in(&disk.lost_found_dir()).unwrap_or_default();
    let lost: Vec<&String> = lost.iter().filter(|name| !name.ends_with(".reason")).collect();
    if !lost.is_empty() {
        report.warning(
            format!("{} things are in {}: {}", lost.len(), disk.lost_found_dir().display(), shorten(&lost)),
            "read the .reason files beside them, and remove what is not missed",
        );
    }
    if report.clean {
        report.ok("nothing lies in the store without an owner".to_owned());
    }
    Ok(())
}

/// The first few names.
fn shorten(names: &[&String]) -> String {
    let mut text = names.iter().take(3).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if names.len() > 3 {
        text.push_str(", …");
    }
    text
}
