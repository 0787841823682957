//! What an open does before anybody may use the catalog: compares labels with it, ends what was committed, undoes what was
//! not, and puts aside what nothing refers to.

use super::Catalog;
use super::db::{Batch, Db, Ledger, Opened};
use super::operation::Owed;
use super::rebuild::{LayerEvidence, rebuild};
use super::records::Member;
use super::state::State;
use crate::disk::{Disk, durable};
use crate::error::Result;
use crate::ids::LayerId;
use crate::label::{self, Label, Labels};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// What an open found and did.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// What was repaired, a line each.
    pub repaired: Vec<String>,
    /// What needs a person, a line each.
    pub damage: Vec<String>,
    /// The catalog was made again from the labels: nothing is removed or put aside in this open.
    pub rebuilt: bool,
    /// Layers whose files are to be removed; then [`Change::Dropped`](super::records::Change::Dropped) is committed.
    pub dropping: Vec<LayerId>,
    /// Names in `layers/` that nothing refers to, left in place since a rebuild.
    pub stray: Vec<String>,
}

pub(super) fn open(disk: &Arc<Disk>, again: bool, evidence: &dyn Fn(LayerId) -> LayerEvidence) -> Result<(Catalog, Recovery)> {
    let mut recovery = Recovery::default();
    let labels = label::read_all(disk)?;
    let opened = if again { Opened::Bad("a rebuild was asked for".to_owned()) } else { Db::open(disk)? };
    let (db, state, ledger) = match opened {
        Opened::Good(good) => match stale(&labels, &good.1, &good.2) {
            None => *good,
            Some(reason) => {
                drop(good);
                remake(disk, &labels, evidence, &reason, &mut recovery)?
            }
        },
        Opened::Missing if is_new(disk, &labels)? => {
            let (state, ledger) = (State::new(), Ledger::default());
            (Db::make(disk, &state, &ledger)?, state, ledger)
        }
        Opened::Missing => remake(disk, &labels, evidence, "it was missing", &mut recovery)?,
        Opened::Bad(reason) => remake(disk, &labels, evidence, &reason, &mut recovery)?,
    };
    reconcile(disk, &labels, &state, &ledger, &mut recovery)?;
    bad_labels(disk, &labels, &state, &mut recovery)?;
    if !ledger.operations.is_empty() {
        let mut batch = Batch::default();
        ledger.operations.iter().for_each(|operation| batch.forget_operation(*operation));
        db.commit(&batch)?;
    }
    layers(disk, &state, &ledger, &mut recovery)?;
    recovery.dropping = state.dropping.iter().copied().collect();
    let catalog =
        Catalog { disk: Arc::clone(disk), db, state: RwLock::new(state), owed: Mutex::new(Owed::default()), kept: ledger.kept };
    Ok((catalog, recovery))
}

/// Whether nothing was ever done in this store.
fn is_new(disk: &Disk, labels: &Labels) -> Result<bool> {
    Ok(labels.good.is_empty() && labels.bad.is_empty() && durable::names_in(&disk.layers_dir())?.is_empty())
}

/// Whether the catalog knows less than the labels: then why.
fn stale(labels: &Labels, state: &State, ledger: &Ledger) -> Option<String> {
    labels.good.iter().find_map(|label| {
        let entry = label.current.as_ref()?;
        match state.stamp(label.member) {
            Some(known) if entry.stamp.generation > known.generation => Some(format!(
                "it is older than the label of {} (generation {}, the label has {})",
                label.shown(),
                known.generation,
                entry.stamp.generation
            )),
            Some(known) if entry.stamp.generation == known.generation && entry.stamp.operation != known.operation => {
                Some(format!("it and the label of {} tell of different changes", label.shown()))
            }
            Some(_) => None,
            None if label.next.as_ref().is_some_and(|next| ledger.operations.contains(&next.stamp.operation)) => None,
            None => Some(format!("it does not know {}, which has a label", label.shown())),
        }
    })
}

/// Puts the catalog that is there aside and makes it again.
fn remake(
    disk: &Disk,
    labels: &Labels,
    evidence: &dyn Fn(LayerId) -> LayerEvidence,
    reason: &str,
    recovery: &mut Recovery,
) -> Result<(Db, State, Ledger)> {
    let rebuilt = rebuild(labels, evidence);
    let mut message = format!("the catalog was made again from {} labels: {reason}", labels.good.len());
    if let Some(aside) = put_aside(disk)? {
        message.push_str(&format!("; what was there is kept in {}", aside.display()));
    }
    let mut ledger = Ledger { operations: rebuilt.believed, ..Ledger::default() };
    for name in durable::names_in(&disk.layers_dir())? {
        if !is_known(&name, &rebuilt.state) {
            ledger.kept.insert(name);
        }
    }
    let db = Db::make(disk, &rebuilt.state, &ledger)?;
    recovery.rebuilt = true;
    recovery.repaired.push(message);
    recovery.repaired.extend(rebuilt.notes);
    Ok((db, rebuilt.state, ledger))
}

fn put_aside(disk: &Disk) -> Result<Option<PathBuf>> {
    let dir = disk.catalog_dir();
    if !dir.exists() || durable::names_in(&dir)?.is_empty() {
        return Ok(None);
    }
    let mut n = 1;
    let aside = loop {
        let aside = disk.path.join(format!("catalog.bad-{n}"));
        if !aside.exists() {
            break aside;
        }
        n += 1;
    };
    durable::rename(&dir, &aside)?;
    Ok(Some(aside))
}

/// Brings the labels to what the catalog says. What an uncommitted operation made is removed before its intent, so that
/// a kill in between leaves the intent to tell of it.
fn reconcile(disk: &Disk, labels: &Labels, state: &State, ledger: &Ledger, recovery: &mut Recovery) -> Result<()> {
    let (mut write, mut remove): (Vec<Member>, Vec<Member>) = (Vec::new(), Vec::new());
    let mut seen: BTreeSet<Member> = labels.bad.iter().filter_map(|bad| bad.member).collect();
    for label in &labels.good {
        seen.insert(label.member);
        let known = state.stamp(label.member);
        let committed = label.next.as_ref().map(|next| {
            let operation = next.stamp.operation;
            ledger.operations.contains(&operation) || known.is_some_and(|stamp| stamp.operation == operation)
        });
        let current = label.current.as_ref().map(|entry| entry.stamp);
        let message = match committed {
            Some(true) => format!("a change of {} that a crash interrupted was finished", label.shown()),
            Some(false) => {
                let made = label.next.iter().flat_map(|next| next.layers());
                remove_layers(disk, made.map(|layer| layer.id), state, ledger)?;
                format!("a change of {} that a crash interrupted was undone", label.shown())
            }
            None if label.importing.is_some() => {
                remove_layers(disk, label.importing.into_iter(), state, ledger)?;
                "an import that a crash interrupted was undone".to_owned()
            }
            None if current != known => format!("the label of {} was out of date; it was written again", label.shown()),
            None => continue,
        };
        recovery.repaired.push(message);
        if state.has(label.member) { write.push(label.member) } else { remove.push(label.member) }
    }
    for member in state.stamps.keys().filter(|member| !seen.contains(member)) {
        let shown = Label::of(disk, *member, state).shown();
        recovery.repaired.push(format!("the label of {shown} was missing; it was written again"));
        write.push(*member);
    }
    let labels: Vec<Label> = write.iter().map(|member| Label::of(disk, *member, state)).collect();
    label::write(disk, &labels)?;
    label::remove(disk, &remove)
}

fn remove_layers(disk: &Disk, made: impl Iterator<Item = LayerId>, state: &State, ledger: &Ledger) -> Result<()> {
    for id in made {
        if !is_known(&id.to_string(), state) && !ledger.kept.contains(&id.to_string()) {
            durable::remove_tree(&disk.layer_dir(id))?;
        }
    }
    Ok(())
}

/// Labels that can't be read: made again where the catalog knows better, else left as they are.
fn bad_labels(disk: &Disk, labels: &Labels, state: &State, recovery: &mut Recovery) -> Result<()> {
    for bad in &labels.bad {
        let shown = bad.path.display();
        match bad.member {
            Some(member) if state.has(member) => {
                let aside = free_name(disk, &bad.path.file_name().unwrap_or_default().to_string_lossy());
                durable::rename(&bad.path, &aside)?;
                label::write(disk, &[Label::of(disk, member, state)])?;
                recovery.repaired.push(format!(
                    "label {shown} could not be read ({}): it was written again; the old one is {}",
                    bad.reason,
                    aside.display()
                ));
            }
            _ => recovery.damage.push(format!("label {shown} can't be read: {}; it was left as it is", bad.reason)),
        }
    }
    Ok(())
}

/// Puts aside what nothing refers to, and tells what is missing.
fn layers(disk: &Disk, state: &State, ledger: &Ledger, recovery: &mut Recovery) -> Result<()> {
    let mut there = BTreeSet::new();
    for name in durable::names_in(&disk.layers_dir())? {
        if is_known(&name, state) {
            there.insert(name);
        } else if ledger.kept.contains(&name) {
            recovery.stray.push(name);
        } else {
            let aside = free_name(disk, &name);
            let reason = format!("layers/{name} was moved here because no volume, snapshot or image refers to it.\n");
            let note = aside.with_file_name(format!("{}.reason", aside.file_name().unwrap_or_default().to_string_lossy()));
            // The reason first: it must not be missing beside what it explains.
            disk.with_reserve(|| durable::replace(&note, reason.as_bytes()))?;
            durable::rename(&disk.layers_dir().join(&name), &aside)?;
            recovery.repaired.push(format!("nothing refers to layers/{name}: it was moved to {}", aside.display()));
        }
    }
    if !recovery.stray.is_empty() {
        recovery.damage.push(format!(
            "{} layers were unknown when the catalog was made again, and are left in layers/: {}",
            recovery.stray.len(),
            recovery.stray.join(", ")
        ));
    }
    for id in state.layers.keys().filter(|id| !there.contains(&id.to_string())) {
        recovery.damage.push(format!("layer {id} is missing; it is needed by {}", state.needed_by(*id).join(", ")));
    }
    Ok(())
}

/// Whether the state has a layer that is the directory `name`.
fn is_known(name: &str, state: &State) -> bool {
    name.parse::<LayerId>().is_ok_and(|id| state.layers.contains_key(&id) || state.dropping.contains(&id))
}

/// A path in lost+found that nothing has.
fn free_name(disk: &Disk, name: &str) -> PathBuf {
    let dir = disk.lost_found_dir();
    let mut path = dir.join(name);
    let mut n = 1;
    while path.exists() {
        path = dir.join(format!("{name}.{n}"));
        n += 1;
    }
    path
}
