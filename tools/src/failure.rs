//! How an operation fails: what is printed, what travels over the control socket, and the exit code.

use outcrop_store::{Error as StoreError, Noun};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Exit codes, as the manual gives them.
pub mod exit {
    /// The operation failed.
    pub const FAILED: u8 = 1;
    /// The command line makes no sense.
    pub const USAGE: u8 = 2;
    /// Something is in use: the mount has open files, or another process has the store.
    pub const BUSY: u8 = 3;
    /// `mount.outcrop` failed (what mount(8) expects).
    pub const MOUNT: u8 = 32;
    /// Interrupted by SIGINT.
    pub const INTERRUPTED: u8 = 130;
}

/// A failure, ready to be shown. It is what crosses the control socket, so that both sides say the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, then each cause.
    pub chain: Vec<String>,
    /// The next step, where there is one.
    pub hint: Option<String>,
    /// Exit code.
    pub code: u8,
}

impl Failure {
    /// A failure of its own, without a cause below.
    pub fn new(message: impl Into<String>) -> Self {
        Self { chain: vec![message.into()], hint: None, code: exit::FAILED }
    }

    /// With the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With another exit code than 1.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// What an error of any kind comes to.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let mut failure = Failure { chain: Vec::new(), hint: None, code: exit::FAILED };
        for cause in error.chain() {
            if let Some(inner) = cause.downcast_ref::<Failure>() {
                failure.chain.extend(inner.chain.iter().cloned());
                failure.code = inner.code;
                failure.hint = failure.hint.or_else(|| inner.hint.clone());
                continue;
            }
            if let Some(store) = cause.downcast_ref::<StoreError>() {
                failure.code = code_of(store);
                failure.hint = hint_for(store);
            }
            let text = cause.to_string();
            // Some errors repeat their cause in their own text; it is said once.
            if failure.chain.last().is_none_or(|last| !last.contains(&text)) {
                failure.chain.push(text);
            }
        }
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(": "))
    }
}

impl std::error::Error for Failure {}

fn code_of(error: &StoreError) -> u8 {
    match error {
        StoreError::Locked { .. } | StoreError::ImageInUse { .. } | StoreError::Busy { .. } => exit::BUSY,
        StoreError::Interrupted => exit::INTERRUPTED,
        _ => exit::FAILED,
    }
}

fn hint_for(error: &StoreError) -> Option<String> {
    let hint = match error {
        StoreError::NotFound { noun: Noun::Removed, .. } => {
            "'outcrop snapshot list --undo' shows what can be restored; what was deleted with --now can't be".to_owned()
        }
        StoreError::NotFound { noun, .. } => format!("'outcrop {noun} list' shows every {noun}"),
        StoreError::Headless { name } => {
            format!("'outcrop snapshot list {name}' shows its snapshots; copying one back as a file makes it a volume again")
        }
        StoreError::Locked { pid: Some(pid), .. } => format!("'ps -p {pid}' shows that process; 'outcrop umount' ends a mount"),
        StoreError::JobRefused { id, .. } => format!("'outcrop job show {id}' tells what it is"),
        StoreError::DiskFull { .. } => "delete volumes, punch holes in them (fstrim), or free space on the disk".to_owned(),
        StoreError::NotAStore { .. } => {
            "'outcrop mount STORE MOUNTPOINT' makes a new store in a missing or empty directory".to_owned()
        }
        StoreError::Sha256Mismatch { .. } => {
            "the file is not what you expect, or was damaged on its way: fetch it again".to_owned()
        }
        StoreError::Catalog { .. } => {
            "'outcrop doctor --rebuild-catalog' makes the catalog again from the disk's labels".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, anyhow};

    #[test]
    fn the_chain_is_said_once_and_keeps_hint_and_code() {
        let error = anyhow!(Failure::new("the mount is in use").hint("close it").code(exit::BUSY));
        let shown = Failure::of(&error.context("unmounting /mnt"));
        assert_eq!(shown.to_string(), "unmounting /mnt: the mount is in use");
        assert_eq!((shown.hint.as_deref(), shown.code), (Some("close it"), exit::BUSY));
    }

    #[test]
    fn a_store_error_brings_its_hint() {
        let missing = StoreError::NotFound { noun: outcrop_store::Noun::Volume, name: "db".to_owned() };
        let error = Err::<(), _>(missing).context("resizing");
        let shown = Failure::of(&error.expect_err("it is one"));
        assert_eq!(shown.to_string(), "resizing: there is no volume 'db'");
        assert!(shown.hint.is_some_and(|hint| hint.contains("outcrop volume list")));
    }
}
