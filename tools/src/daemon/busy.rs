//! A volume that is open can't be reverted: who has it open.

use crate::failure::{Failure, exit};
use crate::operations::{Reply, Request};
use anyhow::Result;
use outcrop_fs::{Holder, Mount};
use outcrop_store::{Error as StoreError, Name, Noun};
use std::time::Duration;

/// A file that was closed counts as open until the kernel has told the daemon so, which it does a little later: where nobody is
/// seen to hold it, it is tried again, this often.
const RETRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// Tries what needs a volume that nobody has open; a refusal names who has.
pub fn unless_held(mount: &Mount, request: &Request, attempt: impl Fn(Request) -> Result<Reply>) -> Result<Reply> {
    let mut tries = 0;
    loop {
        let error = match attempt(request.clone()) {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        let Some(volume) = busy_volume(&error) else { return Err(error) };
        let holders = mount.holders_of(&volume);
        if holders.is_empty() && tries < RETRIES {
            tries += 1;
            std::thread::sleep(PAUSE);
            continue;
        }
        return Err(refusal(&volume, &holders, matches!(request, Request::VolumeRevert { .. })).into());
    }
}

fn busy_volume(error: &anyhow::Error) -> Option<Name> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(StoreError::Busy { noun: Noun::Volume, name }) => Name::parse(name).ok(),
        _ => None,
    })
}

fn refusal(volume: &Name, holders: &[Holder], may_force: bool) -> Failure {
    let by: Vec<String> = holders.iter().map(ToString::to_string).collect();
    let by = if by.is_empty() { "somebody (who can't be seen; try as root)".to_owned() } else { by.join("; ") };
    Failure::new(format!("volume '{volume}' is open, by {by}"))
        .hint(if may_force {
            "unmount and detach (losetup -d) or end what has it open; or --force: it then gets 'Stale file handle' for ever"
        } else {
            "unmount and detach (losetup -d) or end what has it open, then try again"
        })
        .code(exit::BUSY)
}
