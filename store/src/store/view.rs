//! One sealed view of a volume, for work that reads all of it: exports, images.
//!
//! A volume that is written is sealed for it: see `seal.rs`.

use super::Context;
use super::seal::seal_head;
use crate::catalog::records::SnapshotRecord;
use crate::error::Result;
use crate::name::Name;
use crate::volume::Snapshot;
use std::sync::Arc;

/// What volume `volume` is in `snapshot`, or, without it, at this instant.
pub(crate) fn open(context: &Arc<Context>, volume: &Name, snapshot: Option<&Name>) -> Result<Arc<Snapshot>> {
    match snapshot {
        None => seal(context, volume),
        Some(set) => {
            let record = super::diff::record_of(context, volume, set)?;
            context.snapshot(&record.set, &record.taken_as)
        }
    }
}

fn seal(context: &Arc<Context>, name: &Name) -> Result<Arc<Snapshot>> {
    let operation = context.catalog.begin();
    let state = operation.read();
    let (record, head) = super::volumes::live(&state, name)?;
    let (record, ids) = (record.clone(), state.chain(head));
    drop(state);
    let volume = context.volume(record.id)?;
    let about = SnapshotRecord {
        set: Name::new("(being read)")?,
        volume: record.id,
        taken_as: name.clone(),
        layer: head,
        serial: record.serial,
        created_ns: crate::disk::now_ns(),
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        labels: Default::default(),
    };
    seal_head(context, operation, &volume, record, || {
        // Open, and known to merges, before there is anything to merge.
        let view = Arc::new(Snapshot::open_uncounted(context, &about, context.chain(&ids)?)?);
        let follower = Arc::downgrade(&view);
        // The operation keeps the catalog as it is.
        context.registry.register(follower, || true);
        Ok(view)
    })
}
