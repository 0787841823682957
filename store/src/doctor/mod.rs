//! `outcrop doctor`: what is wrong with a store, as findings that name the thing and the next step.

use crate::error::Result;
use crate::store::Store;
use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Warning,
    /// Data or names are lost or at risk.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// Which check: `labels`, `maps`, `orphans`, `disk`, `space`, `faults`.
    pub check: String,
    /// How bad.
    pub severity: Severity,
    /// What is so, naming the thing.
    pub message: String,
    /// The next step, where there is one.
    pub hint: Option<String>,
}

impl Store {
    /// Looks at everything; changes nothing. Works while volumes are written.
    pub fn doctor(&self) -> Result<Vec<Finding>> {
        todo!()
    }
}
