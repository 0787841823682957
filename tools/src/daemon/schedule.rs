//! The thread that runs schedules when they are due, one after the other.
//!
//! It looks at the clock when the next one is due, when a schedule was changed, and every few seconds: a clock that was set, or
//! a machine that slept, is noticed by then. What a look means is for [`Clockwork`] to say. A run that can't be taken down (the disk is
//! full) is remembered here, so that it is not made again and again.

use super::requests::Changes;
use super::serve::Daemon;
use crate::schedule::{self, Made, Making};
use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use outcrop_store::schedule::{Clockwork, Schedule};
use outcrop_store::{Error as StoreError, ScheduleId, Store};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The longest time between two looks at the clock.
const LOOK: Duration = Duration::from_secs(10);

/// Wakes the thread: a schedule was changed, or the daemon ends.
#[derive(Default)]
pub struct Alarm {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Alarm {
    /// Wakes it.
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.bell.notify_one();
    }

    fn wait(&self, limit: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.bell.wait_for(&mut rung, limit);
        }
        *rung = false;
    }
}

/// Starts the thread. It ends when the daemon is closing and the alarm rings.
pub fn start(daemon: &Arc<Daemon>) -> Result<JoinHandle<()>> {
    let daemon = Arc::clone(daemon);
    let body = move || {
        let mut runner = Runner::default();
        while !daemon.is_closing() {
            let making = Making {
                store: daemon.store(),
                mount: Some(daemon.mounted_on()),
                now: &Timestamp::now,
                cancelled: &|| daemon.is_closing(),
            };
            let next = runner.look(&making, &TimeZone::system(), &|made| {
                Changes::of_snapshots(made.changed.iter().cloned().collect()).tell(daemon.mount());
            });
            let left = next.and_then(|next| Duration::try_from(next.duration_since(Timestamp::now())).ok());
            // A little later than due, as a clock may be read a little too early.
            daemon.alarm().wait(left.map_or(LOOK, |left| (left + Duration::from_millis(1)).min(LOOK)));
        }
    };
    std::thread::Builder::new().name("schedules".to_owned()).spawn(body).context("starting the thread for schedules")
}

/// What is remembered between two looks.
#[derive(Default)]
struct Runner {
    /// How far schedules have come, where their records could not be told: what they say, and what is so.
    handled: HashMap<ScheduleId, (Timestamp, Timestamp)>,
    told: String,
}

impl Runner {
    /// Runs what is due; gives when something is due next.
    fn look(&mut self, making: &Making<'_>, zone: &TimeZone, tell: &dyn Fn(&Made)) -> Option<Timestamp> {
        let schedules = match making.store.schedules() {
            Ok(schedules) => schedules,
            Err(StoreError::Closed) => return None,
            Err(error) => {
                let error = error.to_string();
                if self.told != error {
                    tracing::error!("no schedule runs: {error}");
                    self.told = error;
                }
                return None;
            }
        };
        let mut earliest: Option<Timestamp> = None;
        for schedule in schedules.iter().filter(|schedule| schedule.enabled) {
            if (making.cancelled)() {
                return None;
            }
            // Asked for again: it may have been changed or removed while others ran.
            let Some(schedule) = current(making.store, schedule) else { continue };
            let look = Clockwork::look(&schedule.timing, zone, self.handled(&schedule), (making.now)());
            if let Some(now) = look.set_back {
                tracing::warn!("schedule '{}': the clock was set back; it goes on from now", schedule.name);
                self.remember(&schedule, now);
                if let Err(error) = making.store.schedule_set_back(&schedule.name, now) {
                    tracing::error!("schedule '{}': {error}", schedule.name);
                }
            }
            let next = match look.due {
                None => look.next,
                Some(due) => {
                    // A panic must not end all schedules, nor have this one tried again and again.
                    match catch_unwind(AssertUnwindSafe(|| schedule::run(making, &schedule, Some(due)))) {
                        Ok(made) => tell(&made),
                        Err(_) => tracing::error!("schedule '{}': its run panicked", schedule.name),
                    }
                    let ended = (making.now)().max(due);
                    self.remember(&schedule, ended);
                    schedule.timing.next_after(zone, ended)
                }
            };
            earliest = earliest.into_iter().chain(next).min();
        }
        earliest
    }

    fn handled(&self, schedule: &Schedule) -> Timestamp {
        match self.handled.get(&schedule.id) {
            // Its record is as it was: the note was not written.
            Some((record, so)) if *record == schedule.handled() => *so,
            _ => schedule.handled(),
        }
    }

    fn remember(&mut self, schedule: &Schedule, handled: Timestamp) {
        self.handled.insert(schedule.id, (schedule.handled(), handled));
    }
}

fn current(store: &Store, schedule: &Schedule) -> Option<Schedule> {
    store.schedule(&schedule.name).ok().filter(|now| now.id == schedule.id && now.enabled)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use crate::schedule::ns;
    use outcrop_store::schedule::{ScheduleChange, Timing};
    use outcrop_store::{Name, NewVolume, StoreOptions};
    use std::cell::Cell;
    use std::path::Path;

    struct Machine {
        store: Store,
        runner: Runner,
        now: Cell<Timestamp>,
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    impl Machine {
        fn new(path: &Path) -> Self {
            let options = StoreOptions { create: true, cache_bytes: 1 << 20, ..StoreOptions::default() };
            let store = Store::open(path, &options).unwrap();
            let new = NewVolume { size: Some(1 << 20), image: None, mode: 0o644, uid: 0, gid: 0 };
            let _ = store.create_volume(&name("v"), &new);
            Self { store, runner: Runner::default(), now: Cell::new(Timestamp::now()) }
        }

        fn add(&self, text: &str, timing: Timing) {
            let asked = ScheduleChange { timing: Some(timing), ..ScheduleChange::default() };
            self.store.add_schedule(&name(text), asked, &TimeZone::UTC).unwrap();
        }

        /// Lets some hours go by at once, then looks; gives how many snapshots there are more.
        fn after(&mut self, hours: i64) -> usize {
            let before = self.store.snapshots().len();
            self.now.set(self.now.get() + jiff::SignedDuration::from_hours(hours));
            for _ in 0..3 {
                let now = || self.now.get();
                let making = Making { store: &self.store, mount: None, now: &now, cancelled: &|| false };
                self.runner.look(&making, &TimeZone::UTC, &|_| ());
            }
            self.store.snapshots().len() - before
        }
    }

    #[test]
    fn each_turn_has_one_run_whatever_the_clock_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(dir.path());
        machine.add("h", Timing::EveryS(3600));
        assert_eq!(machine.after(0), 0, "a new one waits for its time");
        assert_eq!((0..5).map(|_| machine.after(1)).collect::<Vec<_>>(), [1; 5]);
        assert_eq!(machine.after(1000), 1, "a jump is one run");
        assert_eq!(machine.after(-1000), 0, "nothing is repeated");
        assert!((0..3).map(|_| machine.after(1)).sum::<usize>() >= 1, "and it goes on");
        let last = machine.store.schedule(&name("h")).unwrap().last.unwrap();
        assert!(last.due_ns.is_some() && last.error.is_none() && last.volumes == 1, "{last:?}");
    }

    #[test]
    fn downtime_is_caught_up_once_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(dir.path());
        machine.add("a", Timing::EveryS(3600));
        machine.add("b", Timing::Cron("30 3 * * *".to_owned()));
        let now = machine.now.get();
        drop(machine);
        let mut machine = Machine::new(dir.path());
        machine.now.set(now);
        assert_eq!(machine.after(1000), 2, "one of each");
        assert_eq!(machine.after(0), 0);
        assert_eq!(machine.after(24), 2);
    }

    #[test]
    fn a_clock_that_is_set_back_during_a_run_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(dir.path());
        machine.add("h", Timing::EveryS(3600));
        let begun = machine.now.get() + jiff::SignedDuration::from_hours(1);
        let looks = Cell::new(0);
        // Each look at the clock finds it ten minutes earlier.
        let now = || {
            looks.set(looks.get() + 1);
            begun - jiff::SignedDuration::from_mins(10 * (looks.get() - 1))
        };
        let making = Making { store: &machine.store, mount: None, now: &now, cancelled: &|| false };
        machine.runner.look(&making, &TimeZone::UTC, &|_| ());
        assert_eq!(machine.store.snapshots().len(), 1);
        let handled = machine.store.schedule(&name("h")).unwrap().handled();
        machine.now.set(begun - jiff::SignedDuration::from_mins(40));
        assert_eq!((machine.after(0), machine.after(2)), (0, 1), "{handled}");
    }

    #[test]
    fn a_disabled_one_rests_and_catches_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(dir.path());
        machine.add("h", Timing::EveryS(3600));
        let switch = |machine: &Machine, enabled| {
            let asked = ScheduleChange { enabled: Some(enabled), ..ScheduleChange::default() };
            machine.store.change_schedule(&name("h"), asked, &TimeZone::UTC).unwrap();
        };
        switch(&machine, false);
        assert_eq!(machine.after(100), 0);
        // The store's clock is the real one: it is switched on at the machine's beginning.
        machine.now.set(Timestamp::now());
        switch(&machine, true);
        assert_eq!(machine.after(0), 0);
        assert_eq!(machine.after(1), 1);
    }

    #[test]
    fn a_run_that_can_not_be_noted_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut machine = Machine::new(dir.path());
        machine.add("h", Timing::EveryS(3600));
        // Nothing can be renamed over a directory that is not empty.
        let file = dir.path().join("schedules.json");
        let kept = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("x")).unwrap();
        assert_eq!((0..4).map(|_| machine.after(1)).collect::<Vec<_>>(), [1; 4]);
        std::fs::remove_dir_all(&file).unwrap();
        std::fs::write(&file, kept).unwrap();
        assert_eq!(machine.after(1), 1);
        let noted = machine.store.schedule(&name("h")).unwrap();
        assert_eq!(noted.handled_ns, ns(machine.now.get()));
    }
}
