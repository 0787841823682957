//! What a look at the clock means for a schedule: due or not, and when next.
//!
//! All that is remembered is `handled`: everything due up to that moment has had its run. However much is due between then
//! and now, it is one run: after downtime, after a suspend, after a jump of the clock forward. When the clock was set back
//! so that `handled` lies in the future, nothing is due until it is reached again, but never for longer than a schedule
//! waits anyway: a clock that was years ahead for a moment must not stop it for years.

use super::Timing;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clockwork {
    /// The first moment at which it was due and had no run; none if it isn't due.
    pub due: Option<Timestamp>,
    /// When it is due next, after now; none if there is no more.
    pub next: Option<Timestamp>,
    /// What to remember from now on instead, since the clock was set back.
    pub set_back: Option<Timestamp>,
}

impl Clockwork {
    /// Looks at the clock.
    #[must_use]
    pub fn look(timing: &Timing, zone: &TimeZone, handled: Timestamp, now: Timestamp) -> Self {
        let after = |moment| timing.next_after(zone, moment);
        let next = after(now);
        if handled > now {
            let awaited = after(handled);
            // The turn after the next is the longest that one run too many is avoided for.
            let limit = next.and_then(after);
            return if awaited.is_none() || limit.is_some_and(|limit| awaited > Some(limit)) {
                Self { due: None, next, set_back: Some(now) }
            } else {
                Self { due: None, next: awaited, set_back: None }
            };
        }
        Self { due: after(handled).filter(|due| *due <= now), next, set_back: None }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    /// A machine with a clock: looks every `tick`, runs what is due.
    struct Machine {
        timing: Timing,
        handled: Timestamp,
        now: Timestamp,
        runs: Vec<String>,
    }

    impl Machine {
        fn new(timing: Timing, now: &str) -> Self {
            let now = now.parse().unwrap();
            Self { timing, handled: now, now, runs: Vec::new() }
        }

        fn look(&mut self) -> Clockwork {
            let look = Clockwork::look(&self.timing, &TimeZone::UTC, self.handled, self.now);
            self.handled = look.set_back.unwrap_or(self.handled);
            if look.due.is_some() {
                self.runs.push(self.now.to_string());
                self.handled = self.now;
            }
            look
        }

        /// Runs on for some seconds.
        fn go(&mut self, seconds: i64) -> usize {
            let before = self.runs.len();
            for _ in 0..seconds / 60 {
                self.now += SignedDuration::from_secs(60);
                self.look();
            }
            self.runs.len() - before
        }

        /// The clock jumps, or nobody looks for so long.
        fn jump(&mut self, seconds: i64) -> usize {
            let before = self.runs.len();
            self.now += SignedDuration::from_secs(seconds);
            self.look();
            self.look();
            self.runs.len() - before
        }
    }

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn hourly() -> Machine {
        Machine::new(Timing::EveryS(3600), "2026-11-24T10:30:00Z")
    }

    fn nightly() -> Machine {
        Machine::new(Timing::Cron("0 3 * * *".to_owned()), "2026-11-24T10:30:00Z")
    }

    #[test]
    fn a_day_of_hours_has_24_runs_on_the_hour() {
        let mut machine = hourly();
        assert_eq!(machine.go(DAY), 24);
        assert_eq!(machine.runs[0], "2026-11-24T11:00:00Z");
    }

    #[test]
    fn downtime_is_caught_up_once() {
        for away in [HOUR, 5 * HOUR, 300 * DAY] {
            let mut machine = hourly();
            assert_eq!(machine.jump(away), 1, "{away}");
            assert_eq!(machine.go(DAY), 24, "{away}");
        }
        let mut machine = nightly();
        assert_eq!(machine.jump(10 * HOUR), 0, "nothing was missed");
        assert_eq!(machine.jump(10 * HOUR), 1);
        assert_eq!(machine.look().due, None);
        assert_eq!(machine.go(DAY), 1, "the next one is at its own time");
        assert_eq!(machine.runs, ["2026-11-25T06:30:00Z", "2026-11-26T03:00:00Z"]);
    }

    #[test]
    fn a_small_step_back_repeats_nothing() {
        let mut machine = nightly();
        assert_eq!(machine.go(17 * HOUR), 1);
        for back in [1, 20, 1800, 3 * HOUR] {
            let mut machine = Machine { runs: Vec::new(), timing: machine.timing.clone(), ..machine };
            assert_eq!(machine.jump(-HOUR / 2 - back), 0, "{back}");
            assert_eq!(machine.go(4 * HOUR), 0, "{back}: the night's run was made");
            assert_eq!(machine.go(24 * HOUR), 1, "{back}");
        }
    }

    #[test]
    fn a_clock_that_was_far_ahead_for_a_moment_costs_at_most_one_turn() {
        for ahead in [2 * HOUR, 3 * DAY, 3650 * DAY] {
            let mut machine = hourly();
            assert_eq!(machine.jump(ahead), 1, "one run, however much lies between");
            assert_eq!(machine.jump(-ahead), 0);
            assert!(machine.go(2 * HOUR) >= 1, "{ahead}");
            assert_eq!(machine.go(DAY), 24, "{ahead}");
        }
    }

    #[test]
    fn a_schedule_without_a_next_time_ends() {
        let timing = Timing::Cron("0 0 1 1 *".to_owned());
        let last: Timestamp = "9999-06-01T00:00:00Z".parse().unwrap();
        let look = Clockwork::look(&timing, &TimeZone::UTC, last, last);
        assert_eq!(look, Clockwork { due: None, next: None, set_back: None });
    }
}
