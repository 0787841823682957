//! The space report for monitoring: counted in the background, at most now and then, however often somebody asks.

use outcrop_store::{SpaceReport, Store};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How old a report may be that is told.
const FRESH: Duration = Duration::from_secs(30);

/// How long somebody who asks waits for a new one. A scraper's own limit is mostly 10 s.
const PATIENCE: Duration = Duration::from_secs(1);

/// The last report, and whether a new one is under way.
#[derive(Clone, Default)]
pub struct Counting(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    last: Option<(Arc<SpaceReport>, SystemTime, Instant)>,
    running: bool,
}

impl Counting {
    /// The last report and when it was made; begins a new one if it is old, and waits a moment for it.
    pub fn report(&self, store: &Store) -> Option<(SpaceReport, SystemTime)> {
        let mut state = self.0.state.lock();
        let is_fresh = |state: &State| state.last.as_ref().is_some_and(|(_, _, at)| at.elapsed() < FRESH);
        if !is_fresh(&state) && !state.running {
            let (counting, store) = (self.clone(), store.clone());
            state.running =
                std::thread::Builder::new().name("outcrop-count".to_owned()).spawn(move || counting.count(&store)).is_ok();
        }
        let until = Instant::now() + PATIENCE;
        while state.running && !is_fresh(&state) {
            if self.0.done.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.last.as_ref().map(|(report, at, _)| (SpaceReport::clone(report), *at))
    }

    fn count(&self, store: &Store) {
        let at = SystemTime::now();
        let report = store.space_report();
        let mut state = self.0.state.lock();
        match report {
            Ok(report) => state.last = Some((Arc::new(report), at, Instant::now())),
            Err(error) => tracing::debug!(%error, "space was not counted for metrics"),
        }
        state.running = false;
        drop(state);
        self.0.done.notify_all();
    }
}
