//! When a schedule is due: a pure function of the time zone and the time.
//!
//! An interval is counted in UTC from Monday, 1970-01-05: every hour is on the hour, every quarter on the quarter, every
//! day at midnight UTC, every week on Monday, whatever the local clocks do. A cron expression is read on the local clock's
//! face, each time of it once a day: a time that is left out when clocks go forward is the moment at which they do, and
//! of one that comes twice when they go back only the first counts.

use crate::error::{Error, Result};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// 1970-01-05T00:00:00Z, a Monday.
const MONDAY_S: i64 = 4 * 24 * 3600;
/// The longest interval: a leap year.
const EVERY_MAX_S: u64 = 366 * 24 * 3600;

/// Bytes that a cron expression may have.
const CRON_MAX: usize = 1000;

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timing {
    /// Every so many seconds.
    EveryS(u64),
    /// At the times of a cron expression, on the local clock.
    Cron(String),
}

impl Timing {
    /// Refuses one that is never due, or too often for a snapshot's name (which has seconds).
    pub fn check(&self, zone: &TimeZone, now: Timestamp) -> Result<()> {
        let refuse = |what, given: String, reason: &str| Err(Error::InvalidSchedule { what, given, reason: reason.to_owned() });
        match self {
            Timing::EveryS(seconds) if (1..=EVERY_MAX_S).contains(seconds) => Ok(()),
            Timing::EveryS(seconds) => refuse("interval", format!("{seconds}s"), "it must be from one second to 366 days"),
            Timing::Cron(text) => {
                parse(text).map_err(|reason| Error::InvalidSchedule { what: "cron expression", given: shown(text), reason })?;
                match self.next_after(zone, now) {
                    Some(_) => Ok(()),
                    None => refuse("cron expression", shown(text), "there is no such time"),
                }
            }
        }
    }

    /// The first moment after `after` at which it is due; none if there is no more.
    #[must_use]
    pub fn next_after(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        match self {
            Timing::EveryS(seconds) => {
                let step = i64::try_from(*seconds).ok().filter(|step| *step > 0)?;
                let begun = (after.as_second() - i64::from(after.subsec_nanosecond() < 0) - MONDAY_S).div_euclid(step);
                Timestamp::from_second(begun.checked_add(1)?.checked_mul(step)?.checked_add(MONDAY_S)?).ok()
            }
            Timing::Cron(text) => next_on_the_clock(&parse(text).ok()?, zone, after),
        }
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Timing::EveryS(seconds) => {
                const UNITS: [(u64, &str); 5] = [(7 * 86400, "w"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s")];
                let (length, unit) = UNITS.into_iter().find(|(length, _)| seconds % length == 0).unwrap_or((1, "s"));
                write!(f, "every {}{unit}", seconds / length)
            }
            Timing::Cron(text) => write!(f, "cron {text}"),
        }
    }
}

fn shown(text: &str) -> String {
    crate::name::escape(text.as_bytes())
}

fn parse(text: &str) -> Result<Cron, String> {
    if text.len() > CRON_MAX || text.chars().any(char::is_control) {
        return Err(format!("it must be one line of at most {CRON_MAX} bytes"));
    }
    CronParser::builder().seconds(Seconds::Optional).build().parse(text).map_err(|error| error.to_string())
}

/// Clock times in their order are moments in their order, so the first one that is later than `after` is it.
fn next_on_the_clock(cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut face = zone.to_datetime(after).with().subsec_nanosecond(0).build().ok()?;
    loop {
        face = cron.find_next_occurrence(&face, false).ok()?;
        let moment = moment(zone, face)?;
        if moment > after {
            return Some(moment);
        }
    }
}

fn moment(zone: &TimeZone, face: DateTime) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(face);
    match ambiguous.offset() {
        // The later reading of a time that is left out lies behind the moment at which it was.
        AmbiguousOffset::Gap { .. } => {
            let behind = ambiguous.later().ok()?;
            zone.preceding(behind.checked_add(SignedDuration::from_nanos(1)).ok()?).next().map(|change| change.timestamp())
        }
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use jiff::ToSpan as _;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn times(timing: &Timing, zone: &TimeZone, from: &str, count: usize) -> Vec<String> {
        let mut moment = at(from);
        let mut times = Vec::new();
        for _ in 0..count {
            moment = timing.next_after(zone, moment).unwrap();
            times.push(moment.to_string());
        }
        times
    }

    #[test]
    fn intervals_are_aligned() {
        let every = |seconds, from| times(&Timing::EveryS(seconds), &zone("America/New_York"), from, 1).remove(0);
        assert_eq!(every(3600, "2026-11-24T10:59:59.9Z"), "2026-11-24T11:00:00Z");
        assert_eq!(every(3600, "2026-11-24T11:00:00Z"), "2026-11-24T12:00:00Z");
        assert_eq!(every(900, "2026-11-24T11:14:00Z"), "2026-11-24T11:15:00Z");
        assert_eq!(every(86_400, "2026-11-24T11:14:00Z"), "2026-11-25T00:00:00Z");
        assert_eq!(every(7 * 86_400, "2026-11-24T11:14:00Z"), "2026-11-30T00:00:00Z", "a Monday");
        assert_eq!(every(60, "1969-12-31T23:59:30.5Z"), "1970-01-01T00:00:00Z");
        assert_eq!(every(1, "1969-12-31T23:59:58.5Z"), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn cron_is_on_the_local_clock() {
        let nightly = Timing::Cron("0 3 * * *".to_owned());
        assert_eq!(times(&nightly, &zone("Europe/Berlin"), "2026-11-24T12:00:00Z", 1), ["2026-11-25T02:00:00Z"]);
        assert_eq!(times(&nightly, &zone("Europe/Berlin"), "2026-07-24T12:00:00Z", 1), ["2026-07-25T01:00:00Z"]);
        assert_eq!(
            times(&nightly, &TimeZone::UTC, "2026-11-25T02:59:59.999Z", 2),
            ["2026-11-25T03:00:00Z", "2026-11-26T03:00:00Z"]
        );
    }

    #[test]
    fn a_clock_time_that_is_left_out_runs_once() {
        // 02:00 becomes 03:00 at 01:00Z.
        let berlin = zone("Europe/Berlin");
        let half_past_two = Timing::Cron("30 2 * * *".to_owned());
        assert_eq!(
            times(&half_past_two, &berlin, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        for quarter in ["*/15 * * * *", "*/15 0-4 * * *"] {
            assert_eq!(
                times(&Timing::Cron(quarter.to_owned()), &berlin, "2026-03-29T00:30:00Z", 3),
                ["2026-03-29T00:45:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"]
            );
        }
        // A list of hours is no other than one hour.
        assert_eq!(
            times(&Timing::Cron("30 2,14 * * *".to_owned()), &berlin, "2026-03-28T20:00:00Z", 1),
            ["2026-03-29T01:00:00Z"]
        );
        // Samoa left out a whole day, 2011-12-30.
        assert_eq!(
            times(&Timing::Cron("0 12 * * *".to_owned()), &zone("Pacific/Apia"), "2011-12-29T00:00:00Z", 3),
            ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"]
        );
    }

    #[test]
    fn a_clock_time_that_comes_twice_runs_once() {
        // 03:00 becomes 02:00 at 01:00Z.
        let berlin = zone("Europe/Berlin");
        assert_eq!(
            times(&Timing::Cron("30 2 * * *".to_owned()), &berlin, "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            times(&Timing::Cron("0 * * * *".to_owned()), &berlin, "2026-10-24T23:30:00Z", 2),
            ["2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"]
        );
        // Asked within the second pass.
        assert_eq!(times(&Timing::Cron("30 2 * * *".to_owned()), &berlin, "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let now = at("2026-11-24T12:00:00Z");
        for bad in ["", "x", "61 * * * *", "* * * *", "0 0 30 2 *", "0 0 * * * * * *", "0 0 1 1 \n *"] {
            let error = Timing::Cron(bad.to_owned())
                .check(&TimeZone::UTC, now)
                .map_or_else(|error| error.to_string(), |()| format!("{bad:?} is taken"));
            assert!(error.contains("cron expression") && !error.contains('\n'), "{bad:?}: {error}");
        }
        for good in ["* * * * *", "*/5 * * * * *", "@daily", "0 3 * * MON-FRI", "0 0 29 2 *", "0 0 L * *"] {
            Timing::Cron(good.to_owned()).check(&TimeZone::UTC, now).unwrap();
        }
        for bad in [0, EVERY_MAX_S + 1, u64::MAX] {
            assert!(Timing::EveryS(bad).check(&TimeZone::UTC, now).is_err());
        }
    }

    #[test]
    fn the_next_time_is_later_and_none_is_left_out() {
        // Against the definition: every clock time that matches, made a moment, in order.
        for name in ["America/Sao_Paulo", "Australia/Lord_Howe"] {
            let zone = zone(name);
            let timing = Timing::Cron("47 */2 * * *".to_owned());
            let mut expected: Vec<Timestamp> = Vec::new();
            for day in jiff::civil::date(2018, 1, 1).series(1.day()).take(365) {
                expected.extend((0..24).step_by(2).map(|hour| moment(&zone, day.at(hour, 47, 0, 0)).unwrap()));
            }
            expected.dedup();
            let mut now = expected[0].checked_sub(SignedDuration::from_nanos(1)).unwrap();
            for wanted in &expected {
                now = timing.next_after(&zone, now).unwrap();
                assert_eq!(now, *wanted, "{name}");
            }
        }
    }

    #[test]
    fn an_interval_is_shown_in_its_largest_unit() {
        for (seconds, text) in
            [(90, "every 90s"), (3600, "every 1h"), (7200, "every 2h"), (604_800, "every 1w"), (120, "every 2m")]
        {
            assert_eq!(Timing::EveryS(seconds).to_string(), text);
        }
    }
}
