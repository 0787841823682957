//! What there is to be counted: the catalog's names and layers, and the files beside them.

use super::report::{NameSpace, Owner};
use super::tree::{Member, Tree};
use crate::catalog::records::Removed;
use crate::catalog::state::State;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::layer::{Head, Layer};
use crate::store::{Context, data_blocks};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// All names, and the trees they are in.
pub(super) struct Gathered {
    /// Without what they take.
    pub names: Vec<NameSpace>,
    pub trees: Vec<Tree>,
    /// Layers that wait to be merged.
    pub merges: u64,
    /// Trees that are left out, and why.
    pub unreadable: Vec<String>,
    /// Whether it is because a layer is gone: merged or dropped a moment ago, mostly.
    missing: bool,
}

/// A layer, as the catalog has it.
struct Record {
    revision: u64,
    parent: Option<LayerId>,
    names: Vec<usize>,
    head: bool,
}

/// How often the catalog is looked at again because a layer that it named was gone when it was opened.
const TRIES_MAX: usize = 5;

/// Looks at the catalog, and opens what it names.
pub(super) fn gather(context: &Arc<Context>) -> Result<Gathered> {
    let mut tries = 1;
    loop {
        let gathered = gather_once(context)?;
        if !gathered.missing || tries == TRIES_MAX {
            return Ok(gathered);
        }
        tries += 1;
    }
}

fn gather_once(context: &Arc<Context>) -> Result<Gathered> {
    // Opened first: what a crash left in a head is repaired then. One that can't be is told of by its layers.
    let live: Vec<_> = context.catalog.read().live_volumes().map(|record| record.id).collect();
    let heads: HashMap<LayerId, Arc<Head>> = live
        .into_iter()
        .filter_map(|id| context.volume(id).ok())
        // Deleted, kept for undo, and still written by who has them open.
        .chain(context.unlinked_volumes())
        .map(|volume| volume.head())
        .map(|head| (head.layer.id, head))
        .collect();
    let state = context.catalog.read();
    let mut records: BTreeMap<LayerId, Record> = state.layers.values().map(|layer| (layer.id, Record::of(layer))).collect();
    let (mut names, tops) = names(&state);
    for (name, top) in tops.iter().enumerate() {
        if let Some(record) = records.get_mut(top) {
            record.names.push(name);
            record.head |= matches!(names[name].owner, Owner::Volume { .. }) || heads.contains_key(top);
        }
    }
    drop(state);
    let mut gathered = Gathered { names: Vec::new(), trees: Vec::new(), merges: 0, unreadable: Vec::new(), missing: false };
    for ids in in_order(&records) {
        match tree(context, &ids, &records, &heads) {
            Ok(tree) => gathered.trees.push(tree),
            Err(Error::Closed) => return Err(Error::Closed),
            Err(error) => {
                gathered.missing |= matches!(error, Error::LayerMissing { .. });
                gathered.unreadable.push(error.to_string());
            }
        }
    }
    let waits = |tree: &Tree| tree.forest.settled.iter().map(|layer| layer.parts.len() as u64 - 1).sum::<u64>();
    gathered.merges = gathered.trees.iter().map(waits).sum();
    for tree in &gathered.trees {
        for (name, number) in tree.names.iter().zip(tree.forest.name_nodes()) {
            names[*name].size = match heads.get(&tree.members[number].layer.id) {
                Some(head) => head.size(),
                None => tree.members[number].layer.header().size,
            };
        }
    }
    gathered.names = names;
    Ok(gathered)
}

impl Record {
    fn of(layer: &crate::catalog::records::LayerRecord) -> Self {
        Self { revision: layer.revision, parent: layer.parent, names: Vec::new(), head: false }
    }
}

/// Every name, and the layer that it names: each volume before its snapshots, those from the oldest on.
fn names(state: &State) -> (Vec<NameSpace>, Vec<LayerId>) {
    let mut names = Vec::new();
    let mut tops = Vec::new();
    let mut add = |owner, top| {
        names.push(NameSpace { owner, size: 0, taken: None });
        tops.push(top);
    };
    let headless = state.volumes.values().filter(|volume| volume.head.is_none());
    for volume in state.live_volumes().chain(headless) {
        if let (Some(name), Some(head)) = (volume.name.clone(), volume.head) {
            add(Owner::Volume { id: volume.id, name }, head);
        }
        let mut snapshots: Vec<_> = state.snapshots_of(volume.id).collect();
        snapshots.sort_by_key(|snapshot| snapshot.serial);
        for snapshot in snapshots {
            let (set, taken_as) = (snapshot.set.clone(), snapshot.taken_as.clone());
            add(Owner::Snapshot { set, taken_as, volume: snapshot.volume }, snapshot.layer);
        }
    }
    let mut images: Vec<_> = state.images.values().collect();
    images.sort_by(|a, b| a.name.cmp(&b.name));
    for image in images {
        add(Owner::Image { id: image.id, name: image.name.clone() }, image.layer);
    }
    for removed in state.removed.values() {
        let (volume_name, set) = match &removed.what {
            Removed::Snapshot(snapshot) => (Some(snapshot.taken_as.clone()), Some(snapshot.set.clone())),
            Removed::Volume(volume) | Removed::Revert(volume) => (volume.name.clone(), None),
        };
        add(Owner::Removed { serial: removed.serial, volume_name, set, volume: removed.volume }, removed.layer);
    }
    (names, tops)
}

/// The trees, each with its layers parents first. What hangs in a circle, in a damaged catalog, is in none.
fn in_order(records: &BTreeMap<LayerId, Record>) -> Vec<Vec<LayerId>> {
    let mut children: HashMap<LayerId, Vec<LayerId>> = HashMap::new();
    let mut roots = Vec::new();
    for (id, record) in records {
        match record.parent.filter(|parent| records.contains_key(parent)) {
            Some(parent) => children.entry(parent).or_default().push(*id),
            None => roots.push(*id),
        }
    }
    let tree = |root| {
        let mut ids = vec![root];
        let mut at = 0;
        while let Some(id) = ids.get(at) {
            ids.extend(children.get(id).into_iter().flatten());
            at += 1;
        }
        ids
    };
    roots.into_iter().map(tree).collect()
}

fn tree(
    context: &Context,
    ids: &[LayerId],
    records: &BTreeMap<LayerId, Record>,
    heads: &HashMap<LayerId, Arc<Head>>,
) -> Result<Tree> {
    let places: HashMap<LayerId, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut members = Vec::with_capacity(ids.len());
    let (mut parents, mut names) = (Vec::new(), Vec::new());
    for id in ids {
        let Some(record) = records.get(id) else { continue };
        let layer: Arc<Layer> = context.layer(*id)?;
        // One that is no head any more was flushed when it was sealed. Else marks come before the map is read.
        let marks = heads.get(id).map(|head| head.overlays()).unwrap_or_default();
        members.push(Member { layer, revision: record.revision, head: record.head, marks });
        parents.push(record.parent.and_then(|parent| places.get(&parent)).copied());
        names.push(record.names.clone());
    }
    Ok(Tree::new(members, &parents, &names))
}

/// Blocks of layers that are deleted, and whose files are still there.
pub(super) fn dropping(context: &Context) -> u64 {
    let ids: Vec<LayerId> = context.catalog.read().dropping.iter().copied().collect();
    // One that goes at this moment has nothing left.
    ids.into_iter().map(|id| data_blocks(context, id)).sum()
}

/// Bytes of the files that are not volumes' data.
pub(super) struct Files {
    pub catalog: u64,
    pub metadata: u64,
}

/// Adds up the lengths of files, holes counted: a bound from above, but for what a file system adds.
pub(super) fn files(disk: &Disk) -> Files {
    let labels = lengths(&disk.volumes_dir(), &|_| true) + lengths(&disk.path.join("images"), &|_| true);
    let layers = std::fs::read_dir(disk.layers_dir()).into_iter().flatten().flatten();
    let layers: u64 = layers.map(|layer| lengths(&layer.path(), &|name| !name.starts_with("data."))).sum();
    Files { catalog: lengths(&disk.path.join("catalog"), &|_| true), metadata: labels + layers }
}

fn lengths(dir: &Path, which: &dyn Fn(&str) -> bool) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let length = |entry: std::fs::DirEntry| {
        let metadata = entry.metadata().ok()?;
        let counted = metadata.is_file() && which(&entry.file_name().to_string_lossy());
        Some(if counted {
            metadata.len()
        } else if metadata.is_dir() {
            lengths(&entry.path(), which)
        } else {
            0
        })
    };
    entries.flatten().filter_map(length).sum()
}
