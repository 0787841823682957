//! What monitoring is told: `GET /metrics` on the control socket (and, when asked, on a loopback port), and `outcrop metrics`.
//!
//! Everything here is read when somebody asks, out of counters that the mount and the store keep. What is counted from the maps
//! may take long for a large store, so it is counted in the background, and told as of then.

mod counting;
mod families;
mod text;

pub use text::CONTENT_TYPE;

use anyhow::Result;
use counting::Counting;
use outcrop_fs::Mount;
use outcrop_fs::meter::MountMetrics;
use outcrop_store::{SpaceReport, Store, StoreMetrics, VolumeId};
use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

/// What a daemon remembers to answer with.
pub struct Monitor {
    since: Instant,
    counting: Counting,
}

impl Monitor {
    /// Of a mount that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { since: Instant::now(), counting: Counting::default() }
    }

    /// What there is to tell now. Blocks on the disk.
    pub fn text(&self, store: &Store, mount: &Mount) -> Result<String> {
        let facts = store.metrics()?;
        let known: HashSet<VolumeId> = facts.volumes.iter().map(|volume| volume.id).collect();
        let counted = mount.metrics(&|volume| known.contains(&volume));
        let space = self.counting.report(store);
        Ok(render(&Sources { store: facts, mount: Some((counted, self.since.elapsed())), space }))
    }
}

/// All that there is to tell.
struct Sources {
    /// Of the store.
    pub store: StoreMetrics,
    /// Of the mount, and for how long it has been there.
    pub mount: Option<(MountMetrics, Duration)>,
    /// What was counted from the maps, and when.
    pub space: Option<(SpaceReport, SystemTime)>,
}

/// Of a store that is not mounted.
pub fn of_store(store: &Store) -> Result<String> {
    let space = (store.space_report()?, SystemTime::now());
    Ok(render(&Sources { store: store.metrics()?, mount: None, space: Some(space) }))
}

/// The text.
fn render(sources: &Sources) -> String {
    let mut text = text::Text::default();
    families::process(&mut text, sources.mount.as_ref().map(|(_, up)| *up));
    if let Some((mount, _)) = &sources.mount {
        families::operations(&mut text, &sources.store, mount);
        families::requests(&mut text, mount);
    }
    families::volumes(&mut text, &sources.store);
    families::damage(&mut text, &sources.store);
    families::store(&mut text, &sources.store);
    families::disk(&mut text, &sources.store);
    if let Some((space, at)) = &sources.space {
        families::space(&mut text, space, *at);
    }
    text.finish()
}
