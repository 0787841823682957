//! What all operations of a store share: the disk, the catalog, the layers and volumes that are open.

use super::bell::Bell;
use super::metrics::{Counters, data_blocks};
use super::registry::{Follower, Registry};
use super::{Event, EventKind, StoreOptions};
use crate::catalog::Catalog;
use crate::catalog::records::{Change, VolumeRecord};
use crate::chain::{Chain, ChunkCache};
use crate::disk::Disk;
use crate::error::{Error, Noun, Result};
use crate::ids::{LayerId, VolumeId};
use crate::jobs::Jobs;
use crate::layer::head::{Proof, Repaired};
use crate::layer::{Head, Layer};
use crate::merge::Merging;
use crate::name::Name;
use crate::scrub::Damage;
use crate::volume::{Attributes, Snapshot, Volume};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Events kept in memory.
const EVENTS_MAX: usize = 1000;

/// The open parts of a store.
pub(crate) struct Context {
    pub disk: Arc<Disk>,
    pub catalog: Catalog,
    pub options: StoreOptions,
    pub jobs: Jobs,
    /// What was found damaged.
    pub damage: Damage,
    cache: Arc<ChunkCache>,
    pub counters: Counters,
    layers: Mutex<HashMap<LayerId, Weak<Layer>>>,
    volumes: Mutex<HashMap<VolumeId, Arc<Volume>>>,
    /// Layers that are no longer in the forest; their files go when nobody has them open.
    dropping: Mutex<Vec<LayerId>>,
    /// Held while files are removed, so that whoever asks for it finds it done.
    removing: Mutex<()>,
    pub pressure: super::pressure::Pressure,
    pub unlinked: super::unlinked::Unlinked,
    /// What the operation that is just being committed has not proved yet.
    unproven: Mutex<Option<Arc<Proof>>>,
    events: Mutex<VecDeque<Event>>,
    closed: AtomicBool,
    flush_bell: Bell,
    /// Wakes the upkeep thread.
    pub upkeep_bell: Bell,
    /// Held for each step of merging, summing or scrubbing: these exclude each other.
    pub upkeep_lock: Mutex<()>,
    /// Everything open that reads through a chain.
    pub registry: Registry,
    pub merging: Merging,
}

/// Gives the proof when it is dropped, whatever happens: a failure after the commit must not keep syncs waiting for ever.
pub(crate) struct Unproven<'a> {
    context: &'a Context,
    pub proof: Arc<Proof>,
}

impl Drop for Unproven<'_> {
    fn drop(&mut self) {
        *self.context.unproven.lock() = None;
        self.proof.give();
    }
}

impl Context {
    pub fn new(disk: Arc<Disk>, catalog: Catalog, options: StoreOptions) -> Arc<Self> {
        let context = Arc::new(Self {
            damage: Damage::open(&disk.path),
            cache: Arc::new(ChunkCache::new(options.cache_bytes / 2)),
            counters: Counters::default(),
            disk,
            catalog,
            options,
            jobs: Jobs::default(),
            layers: Mutex::default(),
            volumes: Mutex::default(),
            dropping: Mutex::default(),
            removing: Mutex::default(),
            pressure: super::pressure::Pressure::default(),
            unlinked: super::unlinked::Unlinked::default(),
            unproven: Mutex::default(),
            events: Mutex::default(),
            closed: AtomicBool::new(false),
            flush_bell: Bell::default(),
            upkeep_bell: Bell::default(),
            upkeep_lock: Mutex::new(()),
            registry: Registry::default(),
            merging: Merging::default(),
        });
        let weak = Arc::downgrade(&context);
        context.disk.tell_damage_to(Box::new(move |message| {
            if let Some(context) = weak.upgrade() {
                context.event(EventKind::Damage, message);
            }
        }));
        context
    }

    /// Tells the log and the list of events.
    pub fn event(&self, kind: EventKind, message: String) {
        match kind {
            EventKind::Repaired => tracing::info!("{message}"),
            EventKind::Space | EventKind::Schedule => tracing::warn!("{message}"),
            EventKind::Damage => tracing::error!("{message}"),
        }
        self.counters.event(kind);
        let mut events = self.events.lock();
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(Event { time_ns: crate::disk::now_ns(), kind, message });
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().iter().cloned().collect()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Says that the store is closing; whether somebody has said so before.
    pub fn set_closed(&self) -> bool {
        self.closed.swap(true, SeqCst)
    }

    /// A layer, open once whoever uses it.
    pub fn layer(&self, id: LayerId) -> Result<Arc<Layer>> {
        let mut layers = self.layers.lock();
        if let Some(layer) = layers.get(&id).and_then(Weak::upgrade) {
            return Ok(layer);
        }
        let layer = Layer::open(&self.disk, id)?;
        layers.insert(id, Arc::downgrade(&layer));
        Ok(layer)
    }

    /// Hits and misses of the cache of resolved chunks, and how many it holds.
    pub fn cache_counts(&self) -> (u64, u64, u64) {
        self.cache.counts()
    }

    /// A chain of open layers.
    pub fn chain(&self, ids: &[LayerId]) -> Result<Chain> {
        let layers = ids.iter().map(|id| self.layer(*id)).collect::<Result<Vec<_>>>()?;
        Ok(Chain::new(layers, &self.cache))
    }

    /// A live volume, opened if it isn't.
    pub fn volume(self: &Arc<Self>, id: VolumeId) -> Result<Arc<Volume>> {
        let mut volumes = self.volumes.lock();
        if let Some(volume) = volumes.get(&id) {
            return Ok(Arc::clone(volume));
        }
        // Again, if the end of a merge changes its chain in between: nobody has the volume yet.
        loop {
            let state = self.catalog.read();
            let not_found = || Error::NotFound { noun: Noun::Volume, name: id.to_string() };
            let record = state.volumes.get(&id).ok_or_else(not_found)?.clone();
            let head = record.head.ok_or_else(|| Error::Headless { name: shown(&record) })?;
            let ids = state.chain(head);
            drop(state);
            let volume = self.open_volume(&record, head, &ids)?;
            let follower: Weak<dyn Follower> = Arc::<Volume>::downgrade(&volume);
            let is_current = || {
                let state = self.catalog.read();
                let same = state.volumes.get(&id).is_some_and(|now| now.head == Some(head)) && state.chain(head) == ids;
                same && volume.live().chain.has_present_floors(true)
            };
            if self.registry.register(follower, is_current) {
                volumes.insert(id, Arc::clone(&volume));
                return Ok(volume);
            }
        }
    }

    fn open_volume(self: &Arc<Self>, record: &VolumeRecord, head: LayerId, ids: &[LayerId]) -> Result<Arc<Volume>> {
        let chain = self.chain(ids)?;
        let (head, repaired) = Head::open(self.layer(head)?)?;
        if let Some(proof) = &*self.unproven.lock() {
            head.wait_for(proof);
        }
        if repaired != Repaired::default() {
            self.event(EventKind::Repaired, repair_of(record, &repaired));
        }
        // A volume without a name can't have a head; if one had, its identity serves.
        let name = record.name.clone().map_or_else(|| Name::new(record.id.to_string()), Ok)?;
        let inexact = head.is_inexact();
        let volume = Arc::new(Volume::new(self, record, &name, chain, head));
        if repaired.unclean || inexact {
            self.wake_flusher();
        }
        Ok(volume)
    }

    /// A snapshot, open for reading.
    pub fn snapshot(self: &Arc<Self>, set: &Name, volume_name: &Name) -> Result<Arc<Snapshot>> {
        loop {
            let state = self.catalog.read();
            let not_found = || Error::NotFound { noun: Noun::Snapshot, name: format!("{set}/{volume_name}") };
            let record = state.snapshot_named(set, volume_name).cloned().ok_or_else(not_found)?;
            let ids = state.chain(record.layer);
            drop(state);
            let snapshot = Arc::new(Snapshot::open(self, &record, self.chain(&ids)?)?);
            let follower: Weak<dyn Follower> = Arc::<Snapshot>::downgrade(&snapshot);
            let is_current = || {
                let state = self.catalog.read();
                let now = state.snapshots.get(&(record.set.clone(), record.volume));
                let same = now.is_some_and(|now| now.serial == record.serial && now.layer == record.layer);
                same && state.chain(record.layer) == ids && snapshot.has_present_floors()
            };
            if self.registry.register(follower, is_current) {
                return Ok(snapshot);
            }
        }
    }

    /// The volume whose head is `layer`, opened if it isn't.
    pub fn volume_with_head(self: &Arc<Self>, layer: LayerId) -> Result<Option<Arc<Volume>>> {
        let id = self.catalog.read().volumes.values().find(|volume| volume.head == Some(layer)).map(|volume| volume.id);
        id.map(|id| self.volume(id)).transpose()
    }

    /// The volumes that are open.
    pub fn open_volumes(&self) -> Vec<Arc<Volume>> {
        self.volumes.lock().values().map(Arc::clone).collect()
    }

    /// Gives an open volume what a commit made of its record.
    pub fn renew(&self, record: &VolumeRecord) {
        if let Some(volume) = self.volumes.lock().get(&record.id) {
            volume.set_about(record);
        }
    }

    /// Takes a volume whose head a commit has dropped out of the open ones. Who has it keeps it.
    pub fn forget(&self, id: VolumeId) -> Option<Arc<Volume>> {
        let volume = self.volumes.lock().remove(&id);
        volume.inspect(|volume| volume.set_deleted())
    }

    /// Takes a volume whose head a commit has replaced out of the open ones: who asks for it gets a new one.
    pub fn forget_replaced(&self, id: VolumeId) {
        self.volumes.lock().remove(&id);
    }

    /// Before a commit that makes heads which it is not the only one to tell of: a head that is opened from now on is not
    /// flushed before the proof is given. See [`Proof`].
    pub fn unproven(&self) -> Unproven<'_> {
        let proof = Arc::<Proof>::default();
        *self.unproven.lock() = Some(Arc::clone(&proof));
        Unproven { context: self, proof }
    }

    /// Closes volumes that nobody uses and that have nothing to flush.
    pub fn close_idle(&self) {
        let mut volumes = self.volumes.lock();
        let ids: Vec<_> = volumes.keys().copied().collect();
        for id in ids {
            let Some(volume) = volumes.remove(&id) else { continue };
            if let Some(kept) = close_if_idle(volume) {
                volumes.insert(id, kept);
            }
        }
    }

    /// Closes all volumes; the first error, if any.
    pub fn close_volumes(&self) -> Result<()> {
        let volumes = std::mem::take(&mut *self.volumes.lock());
        let mut result = Ok(());
        for volume in volumes.into_values() {
            let closed = volume.close().inspect_err(|error| tracing::error!("closing volume '{}': {error}", volume.name()));
            result = result.and(closed);
        }
        result.and(self.close_unlinked())
    }

    /// Has the files of layers removed that a commit has dropped, as soon as nobody has them open.
    pub fn drop_layers(&self, ids: impl IntoIterator<Item = LayerId>) {
        self.dropping.lock().extend(ids);
        self.wake_flusher();
    }

    /// Removes the files of dropped layers that nobody has open. A crash at any point: the catalog still lists them.
    pub fn remove_dropped(&self) -> Result<()> {
        let _removing = self.removing.lock();
        let mut gone = Vec::new();
        let waiting = std::mem::take(&mut *self.dropping.lock());
        let mut result = Ok(());
        for id in waiting {
            let in_use = self.layers.lock().get(&id).is_some_and(|layer| layer.strong_count() > 0);
            let removed = if in_use || result.is_err() {
                false
            } else {
                let blocks = data_blocks(self, id);
                result = crate::layer::remove(&self.disk, id).inspect(|()| self.counters.dropped(id, blocks));
                result.is_ok()
            };
            if removed {
                self.layers.lock().remove(&id);
                gone.push(Change::Dropped(id));
            } else {
                self.dropping.lock().push(id);
            }
        }
        if !gone.is_empty() {
            self.catalog.begin().commit_unlabelled(gone)?;
        }
        result
    }

    /// Changes owner and mode: durable on return.
    pub fn set_attributes(&self, volume: &Volume, attributes: Attributes) -> Result<()> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let operation = self.catalog.begin();
        let record = operation.read().volumes.get(&volume.id()).cloned();
        volume.check_stale()?;
        let Some(mut record) = record.filter(|_| !volume.is_deleted()) else {
            // Deleted while open: nothing is left to make durable.
            return Ok(());
        };
        record.mode = attributes.mode.unwrap_or(record.mode);
        record.uid = attributes.uid.unwrap_or(record.uid);
        record.gid = attributes.gid.unwrap_or(record.gid);
        record.ctime_ns = crate::disk::now_ns();
        operation.prepare(vec![Change::PutVolume(record.clone())])?.commit()?.promote()?;
        volume.set_about(&record);
        Ok(())
    }

    /// Has the flusher look after the volumes now.
    pub fn wake_flusher(&self) {
        self.flush_bell.ring();
    }

    /// Waits until the flusher is woken, at most for `limit`; whether it was woken.
    pub fn wait_for_wake(&self, limit: Duration) -> bool {
        self.flush_bell.listen(limit)
    }
}

/// Closes a volume, unless somebody uses it, or it has something to do; gives it back where it stays open.
fn close_if_idle(volume: Arc<Volume>) -> Option<Arc<Volume>> {
    let head = volume.head();
    // One that was stopped is not opened anew: it would take writes again.
    if head.is_dirty() || head.is_inexact() || head.is_faulted() || volume.is_closed() {
        return Some(volume);
    }
    // Whoever has a weak reference (the mount has, of all inodes) no longer gets at a volume that is unwrapped: nobody is
    // left with one that is closed.
    let volume = match Arc::try_unwrap(volume) {
        Ok(volume) => volume,
        Err(used) => return Some(used),
    };
    match volume.close() {
        Ok(()) => None,
        Err(error) => {
            tracing::error!("closing volume '{}': {error}", volume.name());
            Some(Arc::new(volume))
        }
    }
}

/// How a volume is called in messages.
pub(super) fn shown(record: &VolumeRecord) -> String {
    record.name.as_ref().map_or_else(|| record.id.to_string(), Name::to_string)
}

fn repair_of(record: &VolumeRecord, repaired: &Repaired) -> String {
    let mut parts = Vec::new();
    if repaired.unclean {
        parts.push("it had not been closed".to_owned());
    }
    if repaired.marks > 0 {
        parts.push(format!("{} unflushed changes were taken over", repaired.marks));
    }
    if repaired.trimmed {
        parts.push("a shrink was finished".to_owned());
    }
    format!("volume '{}': {}", shown(record), parts.join("; "))
}
