//! Schedules: their records, the snapshots that they take, and which of these have had their time.
//!
//! A run, as its caller does it: hooks → [`Store::snapshot_scheduled`] → hooks → [`Store::expired`] → deleting →
//! [`Store::schedule_ran`]. Each is durable by itself; a crash between the first and the last has the run made again, which
//! takes one snapshot too many and loses none.

use super::snapshots::{Taking, check_labels};
use super::{Context, EventKind, Keep, SnapshotInfo, Store};
use crate::catalog::records::SnapshotRecord;
use crate::catalog::state::State;
use crate::disk::now_ns;
use crate::error::{Error, Noun, Result};
use crate::name::Name;
use crate::schedule::file::ScheduleFile;
use crate::schedule::{LABEL, Run, SCHEDULES_MAX, Schedule, ScheduleChange, Taken};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names that are tried for a snapshot when one with this second's is there.
const NAMES_TRIED: u32 = 1000;

/// The open schedules, or why they could not be read.
pub(super) struct Schedules(Mutex<Result<ScheduleFile>>);

impl Schedules {
    /// Reads them. A store whose schedules can't be read is open without them.
    pub fn open(context: &Context) -> Self {
        let opened = ScheduleFile::open(&context.disk).map(|(file, told)| {
            if let Some(told) = told {
                context.event(EventKind::Damage, told);
            }
            file
        });
        if let Err(error) = &opened {
            context.event(EventKind::Damage, format!("schedules can't be read, and none runs: {error}"));
        }
        Self(Mutex::new(opened))
    }
}

/// A snapshot that was taken for a schedule.
#[derive(Debug)]
pub struct ScheduledSnapshot {
    /// Its name; none if there was no volume to snapshot.
    pub name: Option<Name>,
    /// Its files.
    pub files: Vec<SnapshotInfo>,
    /// Volumes that were to be in it and are not, and why.
    pub left_out: Vec<(Name, Error)>,
}

impl Store {
    /// Every schedule, by name.
    pub fn schedules(&self) -> Result<Vec<Schedule>> {
        self.with_schedules(|file, _| Ok(file.schedules().to_vec()))
    }

    /// One schedule.
    pub fn schedule(&self, name: &Name) -> Result<Schedule> {
        self.with_schedules(|file, _| find(file.schedules(), name).cloned())
    }

    /// A new schedule: durable on return.
    pub fn add_schedule(&self, name: &Name, asked: ScheduleChange, zone: &TimeZone) -> Result<Schedule> {
        self.with_schedules(|file, context| {
            if find(file.schedules(), name).is_ok() {
                return Err(Error::Exists { noun: Noun::Schedule, name: name.to_string() });
            }
            if file.schedules().len() >= SCHEDULES_MAX {
                return Err(Error::Limit { what: "the number of schedules", limit: SCHEDULES_MAX as u64 });
            }
            let schedule = asked.make(name.clone(), now_ns())?;
            check(&schedule, zone)?;
            let mut all = file.schedules().to_vec();
            all.push(schedule.clone());
            file.replace(&context.disk, all)?;
            Ok(schedule)
        })
    }

    /// Changes a schedule: durable on return.
    pub fn change_schedule(&self, name: &Name, asked: ScheduleChange, zone: &TimeZone) -> Result<Schedule> {
        self.update(name, |schedule| {
            asked.apply(schedule, now_ns())?;
            check(schedule, zone)
        })
    }

    /// Removes a schedule: durable on return. Its snapshots stay, and are nobody's but the user's from now on.
    pub fn remove_schedule(&self, name: &Name) -> Result<()> {
        self.with_schedules(|file, context| {
            let id = find(file.schedules(), name)?.id;
            let rest = file.schedules().iter().filter(|schedule| schedule.id != id).cloned().collect();
            file.replace(&context.disk, rest)
        })
    }

    /// Takes down how a run went: durable on return. One that was due is handled with it.
    pub fn schedule_ran(&self, name: &Name, run: Run) -> Result<Schedule> {
        if let Some(error) = &run.error {
            self.context()?.event(EventKind::Schedule, format!("schedule '{name}': {error}"));
        }
        self.update(name, |schedule| {
            schedule.ran(run);
            Ok(())
        })
    }

    /// Takes down that the clock was set back: what is due is counted from `now` on.
    pub fn schedule_set_back(&self, name: &Name, now: Timestamp) -> Result<Schedule> {
        let now = u64::try_from(now.as_nanosecond()).unwrap_or(0);
        self.update(name, |schedule| {
            schedule.handled_ns = now;
            Ok(())
        })
    }

    /// The name that a snapshot of the schedule gets at `now`: one that is free.
    pub fn schedule_snapshot_name(&self, schedule: &Schedule, now: Timestamp) -> Result<Name> {
        let context = self.context()?;
        let state = context.catalog.read();
        for again in 0..NAMES_TRIED {
            let name = schedule.snapshot_name(now, again)?;
            if !state.sets.contains_key(&name) {
                return Ok(name);
            }
        }
        Err(Error::Exists { noun: Noun::Snapshot, name: schedule.snapshot_name(now, NAMES_TRIED)?.to_string() })
    }

    /// The volumes that a schedule is of at present, missing ones included.
    pub fn schedule_volumes(&self, schedule: &Schedule) -> Result<Vec<Name>> {
        let context = self.context()?;
        let mut all = || context.catalog.read().live_volumes().filter_map(|record| record.name.clone()).collect::<Vec<_>>();
        let mut volumes = schedule.volumes.clone().unwrap_or_else(&mut all);
        volumes.sort();
        Ok(volumes)
    }

    /// Snapshots a schedule's volumes at one instant as `name` (a new one), marked as its own: durable on return. A
    /// volume that is not there, or that can't be written, is left out: it must not keep the others from theirs.
    pub fn snapshot_scheduled(&self, schedule: &Schedule, name: &Name) -> Result<ScheduledSnapshot> {
        let mut taken = ScheduledSnapshot { name: None, files: Vec::new(), left_out: Vec::new() };
        let mut volumes = Vec::new();
        for volume_name in self.schedule_volumes(schedule)? {
            match self.volume(&volume_name) {
                Ok(volume) if volume.head().is_faulted() => {
                    taken.left_out.push((volume_name.clone(), Error::Faulted { volume: volume_name.to_string() }));
                }
                Ok(volume) => volumes.push(volume),
                // Deleted since it was listed: nobody has named it.
                Err(Error::NotFound { .. } | Error::Headless { .. }) if schedule.volumes.is_none() => {}
                Err(error) => taken.left_out.push((volume_name, error)),
            }
        }
        if volumes.is_empty() {
            return Ok(taken);
        }
        taken.files = self.take(volumes, name, &marked(schedule), Taking::Scheduled)?;
        taken.name = (!taken.files.is_empty()).then(|| name.clone());
        Ok(taken)
    }

    /// The snapshots of a schedule, the oldest first: those that it took and that still have the name it gave them.
    pub fn snapshots_of_schedule(&self, schedule: &Schedule) -> Result<Vec<SnapshotInfo>> {
        let records = own(&self.context()?.catalog.read(), schedule);
        Ok(records.iter().map(|record| self.sized(record)).collect())
    }

    /// Of a schedule's snapshots those that its rules don't keep, each volume for itself, the oldest first.
    pub fn expired(&self, schedule: &Schedule, zone: &TimeZone) -> Result<Vec<SnapshotInfo>> {
        let records = expired(&self.context()?.catalog.read(), schedule, zone);
        Ok(records.iter().map(|record| self.sized(record)).collect())
    }

    /// Deletes a schedule's snapshots that its rules don't keep, for good, and the directories that are empty then: durable on
    /// return. Gives what was deleted. Nobody can put something of his own into their place meanwhile.
    pub fn expire(&self, schedule: &Schedule, zone: &TimeZone) -> Result<Vec<SnapshotInfo>> {
        self.delete_selected(Keep::Now, |state| {
            let records = expired(state, schedule, zone);
            let mut sets: BTreeMap<&Name, usize> = BTreeMap::new();
            for record in &records {
                *sets.entry(&record.set).or_default() += 1;
            }
            let emptied = sets.into_iter().filter(|(set, gone)| state.snapshots_in(set).count() == *gone);
            let emptied = emptied.map(|(set, _)| set.clone()).collect();
            Ok((records, emptied))
        })
    }

    fn update(&self, name: &Name, change: impl FnOnce(&mut Schedule) -> Result<()>) -> Result<Schedule> {
        self.with_schedules(|file, context| {
            let id = find(file.schedules(), name)?.id;
            let mut all = file.schedules().to_vec();
            let missing = || Error::NotFound { noun: Noun::Schedule, name: name.to_string() };
            let schedule = all.iter_mut().find(|schedule| schedule.id == id).ok_or_else(missing)?;
            change(schedule)?;
            let changed = schedule.clone();
            file.replace(&context.disk, all)?;
            Ok(changed)
        })
    }

    fn with_schedules<T>(&self, act: impl FnOnce(&mut ScheduleFile, &Arc<Context>) -> Result<T>) -> Result<T> {
        let context = self.context()?;
        let mut schedules = self.shared.schedules.0.lock();
        match &mut *schedules {
            Ok(file) => act(file, context),
            // It may be readable by now.
            Err(_) => {
                let (file, _) = ScheduleFile::open(&context.disk)?;
                *schedules = Ok(file);
                match &mut *schedules {
                    Ok(file) => act(file, context),
                    Err(_) => Err(Error::Closed),
                }
            }
        }
    }
}

/// The labels of its snapshots.
fn marked(schedule: &Schedule) -> BTreeMap<String, String> {
    let mut labels = schedule.labels.clone();
    labels.insert(LABEL.to_owned(), schedule.id.to_string());
    labels
}

/// The snapshots of a schedule, the oldest first.
fn own(state: &State, schedule: &Schedule) -> Vec<SnapshotRecord> {
    let id = schedule.id.to_string();
    let own = |record: &&SnapshotRecord| record.labels.get(LABEL) == Some(&id) && schedule.gave(&record.set);
    let mut records: Vec<_> = state.snapshots.values().filter(own).cloned().collect();
    records.sort_by_key(|record| record.serial);
    records
}

fn expired(state: &State, schedule: &Schedule, zone: &TimeZone) -> Vec<SnapshotRecord> {
    let mut volumes: BTreeMap<_, Vec<Taken<SnapshotRecord>>> = BTreeMap::new();
    for record in own(state, schedule) {
        let time = crate::schedule::moment(record.created_ns);
        volumes.entry(record.volume).or_default().push(Taken { time, serial: record.serial, id: record });
    }
    let mut expired: Vec<_> = volumes.values().flat_map(|taken| schedule.keep.expired(taken, zone)).collect();
    expired.sort_by_key(|record| record.serial);
    expired
}

fn find<'a>(schedules: &'a [Schedule], name: &Name) -> Result<&'a Schedule> {
    let missing = || Error::NotFound { noun: Noun::Schedule, name: name.to_string() };
    schedules.iter().find(|schedule| schedule.name == *name).ok_or_else(missing)
}

fn check(schedule: &Schedule, zone: &TimeZone) -> Result<()> {
    check_labels(&schedule.labels, Taking::Some)?;
    check_labels(&marked(schedule), Taking::Scheduled)?;
    schedule.timing.check(zone, Timestamp::now())
}
