//! Cloning between what is open, by identity: for a `copy_file_range`, whose files may have got other names, or none, by now.
//!
//! The order, and what a crash leaves, are those of [`super::clone`]: one catalog commit, before which the target is as it was.

use super::Store;
use super::clone::{Origin, put_on, stays};
use super::revert::{check_length, sealed_layer};
use crate::catalog::Operation;
use crate::catalog::records::VolumeRecord;
use crate::disk::now_ns;
use crate::error::{Error, Result};
use crate::ids::LayerId;
use crate::store::Context;
use crate::volume::{Handle, Snapshot, Volume};
use std::sync::Arc;

/// Something that is open.
#[derive(Clone, Copy)]
pub enum Opened<'a> {
    /// A volume: as it is at one instant.
    Volume(&'a Handle),
    /// A snapshot.
    Snapshot(&'a Snapshot),
}

/// It can't be shared, and has to be copied.
const COPY: Error = Error::NotSupported { what: "cloning this; copy it" };

impl Store {
    /// Gives the open volume `to`, if it is empty (size 0), the content and size of `from`, in place: who has it open goes on with
    /// it, and it takes no space. Owner, mode and name stay. Durable on return. Gives the size.
    ///
    /// `NotSupported`, with nothing changed, where that can't be: `to` isn't empty, `from` has more than `limit` bytes by then, one
    /// of them was deleted or reverted meanwhile, or what `from` stands on has no name any more. Then the bytes are to be copied.
    pub fn clone_open(&self, from: Opened<'_>, to: &Handle, limit: u64) -> Result<u64> {
        let context = self.context()?;
        // Nothing is deleted, reverted or merged away as long as this lasts.
        let operation = context.catalog.begin();
        let before = present(context, &operation, to)?;
        if to.stat().size > 0 {
            return Err(COPY);
        }
        let origin = match from {
            Opened::Snapshot(snapshot) => Origin::Layer(sealed_layer(context, named(&operation, snapshot.layer())?)?),
            Opened::Volume(volume) if volume.id() == to.id() => return Err(COPY),
            Opened::Volume(volume) => {
                let record = present(context, &operation, volume)?;
                let head = record.head.ok_or(COPY)?;
                match volume.untouched()?.filter(|layer| stays(&operation.read(), layer.id)) {
                    Some(layer) => Origin::Layer(layer),
                    None => {
                        check_length(operation.read().chain(head).len())?;
                        Origin::Volume { record, volume: Arc::clone(volume), head }
                    }
                }
            }
        };
        let image = operation.read().image_under(origin.layer());
        let record = VolumeRecord { head: Some(LayerId::new()), image, ctime_ns: now_ns(), ..before };
        let below = context.layer(origin.layer())?;
        if matches!(&origin, Origin::Layer(_)) && below.header().size > limit {
            return Err(COPY);
        }
        put_on(context, operation, origin, record, Some((to, limit)))?;
        Ok(below.header().size)
    }
}

/// The record of an open volume that still is what the store has under its identity.
fn present(context: &Arc<Context>, operation: &Operation<'_>, open: &Arc<Volume>) -> Result<VolumeRecord> {
    let record = operation.read().volumes.get(&open.id()).filter(|record| record.head.is_some()).cloned().ok_or(COPY)?;
    if open.is_stale() || open.is_deleted() || !Arc::ptr_eq(&context.volume(open.id())?, open) {
        return Err(COPY);
    }
    Ok(record)
}

/// A layer that stays as it is: one without a name may be half merged into the next.
fn named(operation: &Operation<'_>, layer: Option<LayerId>) -> Result<LayerId> {
    let state = operation.read();
    let layer = layer.filter(|layer| state.layers.contains_key(layer) && stays(&state, *layer)).ok_or(COPY)?;
    check_length(state.chain(layer).len())?;
    Ok(layer)
}
