//! The states of a job, and which leads to which: a pure function.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a job is in its life. Never derived from how much is done: a job that has read every byte is still in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Waits for its turn.
    Pending,
    /// Somebody works on it.
    InProgress,
    /// All of it is done, durably.
    Completed,
    /// It ended without being done; the record says why.
    Error,
    /// Somebody did not want it any more.
    Cancelled,
}

/// What happens to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The work begins.
    Start,
    /// The work is done.
    Complete,
    /// The work failed, or was found without its worker.
    Fail,
    /// The work was given up because somebody asked for that.
    Cancel,
    /// An ended job is done anew.
    Resume,
    /// Found at an open, of a kind that goes on by itself.
    Requeue,
}

impl JobState {
    /// The state after a step; none where the step makes no sense.
    pub(crate) fn after(self, step: Step) -> Option<JobState> {
        use JobState::{Cancelled, Completed, Error, InProgress, Pending};
        match (self, step) {
            (Pending, Step::Start) => Some(InProgress),
            (InProgress, Step::Complete) => Some(Completed),
            (Pending | InProgress, Step::Fail) => Some(Error),
            (Pending | InProgress, Step::Cancel) => Some(Cancelled),
            (Pending | InProgress, Step::Requeue) | (Error | Cancelled, Step::Resume) => Some(Pending),
            _ => None,
        }
    }

    /// Whether nobody works on it any more, nor will by itself.
    #[must_use]
    pub fn is_ended(self) -> bool {
        match self {
            JobState::Pending | JobState::InProgress => false,
            JobState::Completed | JobState::Error | JobState::Cancelled => true,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JobState::Pending => "pending",
            JobState::InProgress => "in progress",
            JobState::Completed => "completed",
            JobState::Error => "error",
            JobState::Cancelled => "cancelled",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::JobState::{Cancelled, Completed, Error, InProgress, Pending};
    use super::*;

    const STATES: [JobState; 5] = [Pending, InProgress, Completed, Error, Cancelled];

    fn next(step: Step) -> [Option<JobState>; 5] {
        STATES.map(|state| state.after(step))
    }

    #[test]
    fn every_step_from_every_state() {
        // From:                         pending           in progress      completed  error          cancelled
        assert_eq!(next(Step::Start), [Some(InProgress), None, None, None, None]);
        assert_eq!(next(Step::Complete), [None, Some(Completed), None, None, None]);
        assert_eq!(next(Step::Fail), [Some(Error), Some(Error), None, None, None]);
        assert_eq!(next(Step::Cancel), [Some(Cancelled), Some(Cancelled), None, None, None]);
        assert_eq!(next(Step::Resume), [None, None, None, Some(Pending), Some(Pending)]);
        assert_eq!(next(Step::Requeue), [Some(Pending), Some(Pending), None, None, None]);
    }

    #[test]
    fn what_has_ended_goes_on_only_by_a_resume() {
        for state in STATES.into_iter().filter(|state| state.is_ended()) {
            for step in [Step::Start, Step::Complete, Step::Fail, Step::Cancel, Step::Requeue] {
                assert_eq!(state.after(step), None, "{state} after {step:?}");
            }
        }
    }
}
