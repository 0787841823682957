//! One sealed view of a volume, for work that reads all of it: exports, images.

use super::Context;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::volume::Snapshot;
use std::sync::Arc;

/// What volume `volume` is in `snapshot`, or, without it, at this instant.
pub(crate) fn open(context: &Arc<Context>, volume: &Name, snapshot: Option<&Name>) -> Result<Arc<Snapshot>> {
    let Some(set) = snapshot else {
        return Err(Error::NotSupported { what: "exporting a volume that is written, without a snapshot," });
    };
    let record = super::diff::record_of(context, volume, set)?;
    let ids = context.catalog.read().chain(record.layer);
    Ok(Arc::new(Snapshot::open(context, &record, context.chain(&ids)?)?))
}
