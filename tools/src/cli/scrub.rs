//! `outcrop scrub`.

use super::args::Scrub;
use super::{session, volume_of};
use crate::locate;
use crate::operations::{Reply, Request};
use crate::output;
use crate::output::progress::Meter;
use anyhow::Result;
use std::path::Path;

/// Scrubs, and prints what was found; the exit code says whether that was anything.
pub fn run(store: Option<&Path>, scrub: &Scrub) -> Result<u8> {
    let (store, volume) = match &scrub.volume {
        Some(argument) => {
            let (store, name) = volume_of(store, argument)?;
            (store, Some(name))
        }
        None => (locate::store(store)?, None),
    };
    let meter = Meter::new("scrubbing", scrub.progress);
    let reply = session::call(&store, Request::Scrub { volume, rate: scrub.rate }, meter)?;
    output::reply(&reply, scrub.output.json)?;
    let found = matches!(&reply, Reply::Scrub(view) if view.mismatches + view.errors > 0);
    Ok(u8::from(found))
}
