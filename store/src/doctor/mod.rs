//! `outcrop doctor`: what is wrong with a store, as findings that name the thing and the next step.
//!
//! It looks at everything and changes nothing (but for a scratch file that it times syncs with). Every check gives at
//! least one finding, so that a report says what was looked at.

mod disk;
mod labels;
mod layers;
mod schedules;
mod serials;
mod space;
mod sums;
#[cfg(test)]
mod tests;

use crate::catalog::Catalog;
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::LayerId;
use crate::store::{Context, EventKind, Store};
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
    /// Which check: `labels`, `serials`, `maps`, `faults`, `orphans`, `space`, `disk`, `sums`; `repairs` is what was repaired since the open.
    pub check: String,
    /// How bad.
    pub severity: Severity,
    /// What is so, naming the thing.
    pub message: String,
    /// The next step, where there is one.
    pub hint: Option<String>,
}

/// How layers are looked into: the layers' own code, kept apart so that the checks can be tried on damage made by hand.
pub(crate) trait LayerLook {
    /// What is wrong in a layer's files; `sealed` says what its header must say.
    fn check(&self, layer: LayerId, sealed: bool) -> Vec<String>;
    /// Whether a flush of this head failed and nobody has cleared that.
    fn is_faulted(&self, layer: LayerId) -> Result<bool>;
    /// Size in bytes, by the header.
    fn size(&self, layer: LayerId) -> Result<u64>;
}

/// The findings of one check.
struct Report<'a> {
    check: &'static str,
    findings: &'a mut Vec<Finding>,
    clean: bool,
}

impl<'a> Report<'a> {
    fn of(check: &'static str, findings: &'a mut Vec<Finding>) -> Self {
        Self { check, findings, clean: true }
    }

    fn add(&mut self, severity: Severity, message: String, hint: Option<&str>) {
        self.clean &= severity == Severity::Ok;
        self.findings.push(Finding { check: self.check.to_owned(), severity, message, hint: hint.map(str::to_owned) });
    }

    fn ok(&mut self, message: String) {
        self.add(Severity::Ok, message, None);
    }

    fn warning(&mut self, message: String, hint: &str) {
        self.add(Severity::Warning, message, Some(hint));
    }

    fn error(&mut self, message: String, hint: &str) {
        self.add(Severity::Error, message, Some(hint));
    }
}

/// All checks.
pub(crate) fn examine(disk: &Disk, catalog: &Catalog, layers: &dyn LayerLook) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    // Between operations: then labels and catalog are equal, and what a snapshot seals is sealed.
    let operation = catalog.begin();
    labels::check(disk, &operation.read(), &mut Report::of("labels", &mut findings))?;
    // The rest looks at this state, while operations go on.
    let state = operation.read().clone();
    drop(operation);
    serials::check(&state, &mut Report::of("serials", &mut findings));
    layers::maps(disk, catalog, &state, layers, &mut Report::of("maps", &mut findings));
    layers::faults(&state, layers, &mut Report::of("faults", &mut findings));
    layers::orphans(disk, catalog, &state, &mut Report::of("orphans", &mut findings))?;
    space::check(disk, &state, layers, &mut Report::of("space", &mut findings))?;
    disk::check(disk, &mut Report::of("disk", &mut findings));
    Ok(findings)
}

impl Store {
    /// Looks at everything; changes nothing. Works while volumes are written.
    pub fn doctor(&self) -> Result<Vec<Finding>> {
        let context = self.context()?;
        let mut findings = examine(&context.disk, &context.catalog, &Files(context))?;
        sums::known(context, &mut Report::of("sums", &mut findings));
        // Also what this very open repaired: who asks doctor wants to know.
        let mut report = Report::of("repairs", &mut findings);
        for event in self.events().into_iter().filter(|event| event.kind == EventKind::Repaired) {
            report.ok(event.message);
        }
        schedules::check(self, &mut Report::of("schedules", &mut findings));
        Ok(findings)
    }
}

/// Layers as they are on the disk.
struct Files<'a>(&'a Context);

impl LayerLook for Files<'_> {
    fn check(&self, layer: LayerId, sealed: bool) -> Vec<String> {
        // Between the steps of merges and summing, in which a layer is neither what it was nor what it will be.
        let _still = self.0.upkeep_lock.lock();
        crate::layer::check::check(&self.0.disk, layer, sealed)
    }

    fn is_faulted(&self, layer: LayerId) -> Result<bool> {
        crate::layer::is_faulted(&self.0.disk, layer)
    }

    fn size(&self, layer: LayerId) -> Result<u64> {
        crate::layer::read_header(&self.0.disk, layer).map(|header| header.size)
    }
}
