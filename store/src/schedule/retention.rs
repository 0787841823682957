//! Retention: which of a schedule's snapshots have had their time.
//!
//! A pure function, with the rules that restic has. Snapshots are looked at from the newest made to the oldest, those of each volume for
//! themselves. `last` keeps the newest *n*. `hourly`, `daily`, `weekly`, `monthly` keep the newest of each hour, day, ISO week, month
//! (of the local clock) for the last *n* of them that have a snapshot at all; while such a rule has not found its *n*, it keeps the oldest
//! snapshot too. A snapshot that any rule keeps stays. Without a rule all stay.
//!
//! Newest is who was made last, not who has the largest time: a clock that was wrong for a while must not make the next
//! snapshots the oldest. With any rule the newest stays.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

/// How many snapshots are kept by each rule; a rule of 0 keeps none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// The newest.
    #[serde(skip_serializing_if = "is_zero")]
    pub last: u32,
    /// The newest of an hour.
    #[serde(skip_serializing_if = "is_zero")]
    pub hourly: u32,
    /// The newest of a day.
    #[serde(skip_serializing_if = "is_zero")]
    pub daily: u32,
    /// The newest of a week that begins on Monday.
    #[serde(skip_serializing_if = "is_zero")]
    pub weekly: u32,
    /// The newest of a month.
    #[serde(skip_serializing_if = "is_zero")]
    pub monthly: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A snapshot, as retention sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken<T> {
    /// When.
    pub time: Timestamp,
    /// Larger for one that was made later, whatever the clock said.
    pub serial: u64,
    /// Which.
    pub id: T,
}

/// An hour, day, week or month: equal for two times of the same. The hour that comes twice when clocks go back is two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Hour(i64),
    Date(Date),
    Month(i16, i8),
}

type Bucket = fn(&TimeZone, Timestamp) -> Period;

fn hour(zone: &TimeZone, time: Timestamp) -> Period {
    // Seconds are taken off as the local clock shows them: in some zones the hour begins at UTC's half.
    let clock = zone.to_datetime(time);
    Period::Hour(time.as_second() - i64::from(clock.minute()) * 60 - i64::from(clock.second()))
}

fn day(zone: &TimeZone, time: Timestamp) -> Period {
    Period::Date(zone.to_datetime(time).date())
}

fn week(zone: &TimeZone, time: Timestamp) -> Period {
    let date = zone.to_datetime(time).date();
    // Named by the day on which it begins.
    Period::Date(date.checked_sub(Span::new().days(date.weekday().to_monday_zero_offset())).unwrap_or(date))
}

fn month(zone: &TimeZone, time: Timestamp) -> Period {
    let date = zone.to_datetime(time).date();
    Period::Month(date.year(), date.month())
}

impl Retention {
    /// Whether there is a rule. Without one everything is kept.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// Of one volume's snapshots, those that no rule keeps, the oldest first.
    #[must_use]
    pub fn expired<T: Clone>(&self, snapshots: &[Taken<T>], zone: &TimeZone) -> Vec<T> {
        if !self.is_set() {
            return Vec::new();
        }
        let mut newest_first: Vec<&Taken<T>> = snapshots.iter().collect();
        newest_first.sort_by_key(|taken| std::cmp::Reverse(taken.serial));
        let mut rules = Rules::new(self, zone);
        let oldest = newest_first.len().saturating_sub(1);
        let mut expired = Vec::new();
        for (index, taken) in newest_first.into_iter().enumerate() {
            if !rules.keep(taken.time, index == oldest) {
                expired.push(taken.id.clone());
            }
        }
        expired.reverse();
        expired
    }
}

/// The rules with what each may still keep, and the period of the one that it kept last.
struct Rules<'a> {
    zone: &'a TimeZone,
    last: u32,
    buckets: [(u32, Bucket, Option<Period>); 4],
}

impl<'a> Rules<'a> {
    fn new(keep: &Retention, zone: &'a TimeZone) -> Self {
        let buckets: [(u32, Bucket, _); 4] =
            [(keep.hourly, hour, None), (keep.daily, day, None), (keep.weekly, week, None), (keep.monthly, month, None)];
        Self { zone, last: keep.last, buckets }
    }

    fn keep(&mut self, time: Timestamp, oldest: bool) -> bool {
        let mut keep = self.last > 0;
        self.last = self.last.saturating_sub(1);
        for (left, bucket, seen) in &mut self.buckets {
            if *left == 0 {
                continue;
            }
            let period = bucket(self.zone, time);
            if oldest || *seen != Some(period) {
                *seen = Some(period);
                *left -= 1;
                keep = true;
            }
        }
        keep
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn taken(times: &[&str]) -> Vec<Taken<String>> {
        let one =
            |(serial, time): (usize, &&str)| Taken { time: time.parse().unwrap(), serial: serial as u64, id: (*time).to_owned() };
        times.iter().enumerate().map(one).collect()
    }

    fn every(step_s: i64, count: usize, from: &str) -> Vec<Taken<String>> {
        let from: Timestamp = from.parse().unwrap();
        let one = |index: usize| {
            let time = from + SignedDuration::from_secs(step_s * index as i64);
            Taken { time, serial: index as u64, id: time.to_string() }
        };
        (0..count).map(one).collect()
    }

    fn kept(keep: &Retention, snapshots: &[Taken<String>], zone: &TimeZone) -> Vec<String> {
        let expired: BTreeSet<_> = keep.expired(snapshots, zone).into_iter().collect();
        snapshots.iter().map(|taken| taken.id.clone()).filter(|id| !expired.contains(id)).collect()
    }

    #[test]
    fn without_a_rule_all_stay_and_with_one_the_newest() {
        let snapshots = every(3600, 10, "2026-11-24T00:00:00Z");
        assert!(Retention::default().expired(&snapshots, &TimeZone::UTC).is_empty());
        assert!(Retention { last: 3, ..Retention::default() }.expired::<String>(&[], &TimeZone::UTC).is_empty());
        assert_eq!(
            kept(&Retention { last: 3, ..Retention::default() }, &snapshots, &TimeZone::UTC),
            ["2026-11-24T07:00:00Z", "2026-11-24T08:00:00Z", "2026-11-24T09:00:00Z"]
        );
    }

    #[test]
    fn a_day_keeps_its_newest_and_only_days_with_snapshots_count() {
        let snapshots = taken(&[
            "2026-11-01T10:00:00Z",
            "2026-11-02T09:00:00Z",
            "2026-11-02T10:00:00Z",
            "2026-11-20T09:00:00Z",
            "2026-11-20T10:00:00Z",
            "2026-11-24T10:00:00Z",
        ]);
        let daily = |number| kept(&Retention { daily: number, ..Retention::default() }, &snapshots, &TimeZone::UTC);
        assert_eq!(daily(1), ["2026-11-24T10:00:00Z"]);
        assert_eq!(daily(3), ["2026-11-02T10:00:00Z", "2026-11-20T10:00:00Z", "2026-11-24T10:00:00Z"]);
        assert_eq!(daily(4).len(), 4);
        assert_eq!(daily(40).len(), 4);
        // While days are left, the oldest stays, too.
        assert_eq!(
            kept(&Retention { daily: 4, ..Retention::default() }, &snapshots[1..], &TimeZone::UTC).first().unwrap(),
            "2026-11-02T09:00:00Z"
        );
        assert_eq!(
            kept(&Retention { daily: 3, ..Retention::default() }, &snapshots[1..], &TimeZone::UTC).first().unwrap(),
            "2026-11-02T10:00:00Z"
        );
    }

    #[test]
    fn rules_add_up() {
        let snapshots = every(3600, 24 * 400, "2025-10-20T00:00:00Z");
        let keep = Retention { last: 2, hourly: 24, daily: 7, weekly: 4, monthly: 12 };
        let kept = kept(&keep, &snapshots, &TimeZone::UTC);
        // 24 hours, of which two are the last and the newest is the day's, the week's and the month's.
        let mut expected: BTreeSet<String> = snapshots.iter().rev().take(24).map(|taken| taken.id.clone()).collect();
        let newest = snapshots.last().unwrap().time;
        for day in 0..7 {
            expected.insert(
                (TimeZone::UTC.to_datetime(newest).date() - Span::new().days(day))
                    .at(23, 0, 0, 0)
                    .in_tz("UTC")
                    .unwrap()
                    .timestamp()
                    .to_string(),
            );
        }
        expected.extend(["2026-11-22", "2026-11-15", "2026-11-08"].map(|sunday| format!("{sunday}T23:00:00Z")));
        for end in [
            "2026-10-31",
            "2026-09-30",
            "2026-08-31",
            "2026-07-31",
            "2026-06-30",
            "2026-05-31",
            "2026-04-30",
            "2026-03-31",
            "2026-02-28",
            "2026-01-31",
            "2025-12-31",
        ] {
            expected.insert(format!("{end}T23:00:00Z"));
        }
        assert_eq!(newest.to_string(), "2026-11-23T23:00:00Z", "a Monday: its week is the first of four");
        assert_eq!(kept.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn a_week_belongs_to_the_year_that_iso_says() {
        // The Thursday before and the Friday after a new year are of one week.
        let snapshots = taken(&["2026-12-27T12:00:00Z", "2026-12-31T12:00:00Z", "2027-01-01T12:00:00Z", "2027-01-04T12:00:00Z"]);
        assert_eq!(
            kept(&Retention { weekly: 2, ..Retention::default() }, &snapshots, &TimeZone::UTC),
            ["2027-01-01T12:00:00Z", "2027-01-04T12:00:00Z"]
        );
        // A year apart, the weeks have one number.
        let apart = taken(&["2025-11-25T12:00:00Z", "2026-11-24T12:00:00Z"]);
        assert_eq!(kept(&Retention { weekly: 2, ..Retention::default() }, &apart, &TimeZone::UTC).len(), 2);
    }

    #[test]
    fn days_and_hours_are_those_of_the_local_clock() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let snapshots = taken(&["2026-11-23T22:30:00Z", "2026-11-23T23:30:00Z", "2026-11-24T22:30:00Z"]);
        assert_eq!(kept(&Retention { daily: 9, ..Retention::default() }, &snapshots[1..], &TimeZone::UTC).len(), 2);
        assert_eq!(
            kept(&Retention { daily: 2, ..Retention::default() }, &snapshots, &berlin),
            ["2026-11-23T22:30:00Z", "2026-11-24T22:30:00Z"]
        );
        // The hour from two to three comes twice.
        let night = every(1800, 6, "2026-10-24T23:30:00Z");
        assert_eq!(
            kept(&Retention { hourly: 3, ..Retention::default() }, &night, &berlin),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"]
        );
        // Half past is the full hour's clock in Kathmandu.
        let kathmandu = TimeZone::get("Asia/Kathmandu").unwrap();
        let quarters = taken(&["2026-11-24T10:00:00Z", "2026-11-24T10:10:00Z", "2026-11-24T10:20:00Z"]);
        assert_eq!(
            kept(&Retention { hourly: 2, ..Retention::default() }, &quarters, &kathmandu),
            ["2026-11-24T10:10:00Z", "2026-11-24T10:20:00Z"]
        );
    }

    #[test]
    fn a_clock_that_was_wrong_makes_nothing_new_old() {
        let mut snapshots = taken(&["2099-01-01T00:00:00Z", "2099-01-01T01:00:00Z", "2099-01-01T02:00:00Z"]);
        snapshots.push(Taken { time: "2026-11-24T12:00:00Z".parse().unwrap(), serial: 3, id: "right".to_owned() });
        for keep in [Retention { last: 2, ..Retention::default() }, Retention { daily: 1, ..Retention::default() }] {
            assert!(kept(&keep, &snapshots, &TimeZone::UTC).contains(&"right".to_owned()), "{keep:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_stays_kept(
            mut times in proptest::collection::vec(0i64..20_000_000, 1..200),
            last in 0u32..5, hourly in 0u32..5, daily in 0u32..5, weekly in 0u32..5, monthly in 0u32..5,
        ) {
            times.sort_unstable();
            let keep = Retention { last, hourly, daily, weekly, monthly };
            let zone = TimeZone::get("America/Sao_Paulo").unwrap();
            let start = 1_700_000_000;
            let one = |(serial, second): (usize, &i64)| {
                let time = Timestamp::from_second(start + second).unwrap();
                Taken { time, serial: serial as u64, id: serial.to_string() }
            };
            let snapshots: Vec<_> = times.iter().enumerate().map(one).collect();
            let left = kept(&keep, &snapshots, &zone);
            if keep.is_set() {
                let most = (last + hourly + daily + weekly + monthly) as usize;
                prop_assert!(left.len() <= most, "{} of at most {most}", left.len());
                prop_assert!(left.contains(&snapshots.last().unwrap().id), "the newest stays");
                // Applied again, nothing more goes.
                let again: Vec<_> = snapshots.iter().filter(|taken| left.contains(&taken.id)).cloned().collect();
                prop_assert_eq!(kept(&keep, &again, &zone), left.clone());
                // Whatever order they are given in.
                let mut shuffled = snapshots.clone();
                shuffled.reverse();
                let other: BTreeSet<_> = kept(&keep, &shuffled, &zone).into_iter().collect();
                prop_assert_eq!(other, left.into_iter().collect::<BTreeSet<_>>());
            } else {
                prop_assert_eq!(left.len(), snapshots.len());
            }
        }
    }
}
