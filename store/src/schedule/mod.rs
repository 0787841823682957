//! Schedules: when snapshots are taken without anybody asking, of what, and which of them are kept.
//!
//! Owns the records, and all that can be decided about them without doing anything: [`Timing`] says when a schedule is due,
//! [`Clockwork`] what a look at the clock means after a jump of it or after downtime, [`Retention`] which snapshots have had
//! their time. These are pure functions of what they are given; who calls them has the clock. Below is the `file` that
//! holds the records: the truth about them, since they belong to the store and to no volume. Nothing here runs a hook or takes a snapshot.

mod clockwork;
pub(crate) mod file;
mod record;
mod retention;
mod timing;

pub use clockwork::Clockwork;
pub(crate) use record::moment;
pub use record::{Hooks, Run, Schedule, ScheduleChange, Volumes};
pub use retention::{Retention, Taken};
pub use timing::Timing;

/// The label that a schedule's snapshots carry, with the schedule's id: only they are ever deleted by it. No user can give
/// a label that begins with [`RESERVED`].
pub const LABEL: &str = "outcrop.schedule";

/// How labels begin that only the program gives.
pub const RESERVED: &str = "outcrop.";

/// Schedules that a store may have.
pub const SCHEDULES_MAX: usize = 256;

/// Bytes that a schedule's name may have: its snapshots' names are this and a time.
pub const SCHEDULE_NAME_MAX: usize = 200;
