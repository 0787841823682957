//! A scrub's findings for people.

use super::tables::{both, plain};
use crate::operations::scrub::{ScrubView, SumsView};
use std::fmt::Write as _;

pub(super) fn scrub(view: &ScrubView) -> String {
    let mut out = String::new();
    for bad in &view.blocks {
        let _ = writeln!(
            out,
            "damaged  {}: block {} (byte {}) of layer {}: its sum is {}, expected {}",
            plain(&bad.users.join(", ")),
            bad.block,
            bad.offset,
            bad.layer,
            bad.found,
            bad.expected
        );
    }
    for message in &view.messages {
        let _ = writeln!(out, "error    {}", plain(message));
    }
    let _ = writeln!(out, "verified  {} in {} layers", both(view.verified), view.layers);
    if view.unsummed > 0 {
        let _ = writeln!(
            out,
            "unsummed  {}: read, but with nothing to compare it with (heads; layers sealed just now)",
            both(view.unsummed)
        );
    }
    let _ = writeln!(out, "damaged   {} blocks, {} other errors", view.mismatches, view.errors);
    out
}

/// One line of `volume show`.
pub(super) fn of_volume(sums: &SumsView) -> String {
    let mut text = match sums.unsummed {
        0 => "all that is sealed".to_owned(),
        bytes => format!("all that is sealed but {}", both(bytes)),
    };
    if sums.bad_blocks > 0 || sums.failed_reads > 0 {
        let _ = write!(text, "; {} BLOCKS ARE DAMAGED ({} reads failed)", sums.bad_blocks, sums.failed_reads);
    }
    text
}
