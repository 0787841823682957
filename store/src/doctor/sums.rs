//! Blocks that reads and scrubs found not to be what they were sealed as.

use super::Report;
use crate::store::Context;

/// How many are told one by one.
const TOLD_MAX: usize = 20;

/// What is remembered of them. Nothing is read for this: that is `outcrop scrub`'s work.
pub(super) fn known(context: &Context, report: &mut Report<'_>) {
    let state = context.catalog.read();
    let bad: Vec<_> = context.damage.blocks().into_iter().filter(|bad| state.layers.contains_key(&bad.layer)).collect();
    let hint = "copy the rest of it to another volume, or go back to a copy or snapshot that has the block; writing the whole block makes a volume good again; check the disk";
    for bad in bad.iter().take(TOLD_MAX) {
        let users = state.needed_by(bad.layer).join(", ");
        report.error(
            format!(
                "{users}: block {} (byte {}) of layer {} is damaged: its sum is {}, expected {}",
                bad.block,
                bad.offset(),
                bad.layer,
                bad.found,
                bad.expected
            ),
            hint,
        );
    }
    if bad.len() > TOLD_MAX {
        report.error(format!("{} more blocks are damaged", bad.len() - TOLD_MAX), hint);
    }
    if report.clean {
        report.ok("no read and no scrub has found a damaged block".to_owned());
    }
}
