//! Room on the disk: for data, for metadata, and for what the volumes promise.

use super::{LayerLook, Report};
use crate::catalog::state::State;
use crate::disk::{Disk, Reserve};
use crate::error::Result;

/// Use of a disk, in percent, at which it is told.
const USE_WARN: u64 = 90;

pub(super) fn check(disk: &Disk, state: &State, look: &dyn LayerLook, report: &mut Report<'_>) -> Result<()> {
    let space = disk.gauge.space()?;
    let floor = disk.gauge.floor();
    let used = percent(space.total.saturating_sub(space.available), space.total);
    let free = format!("{} of {} are free ({used} % in use)", mib(space.available), mib(space.total));
    if space.available <= floor {
        report.error(
            format!("{free}; writes get 'no space' below {}", mib(floor)),
            "delete what is not needed, in the store or beside it, or make the file system larger",
        );
    } else if used >= USE_WARN {
        report.warning(free, "delete what is not needed, or make the file system larger");
    } else {
        report.ok(free);
    }
    let promised: u64 = state.live_volumes().filter_map(|volume| volume.head).filter_map(|head| look.size(head).ok()).sum();
    if promised > space.total {
        report.warning(
            format!("the volumes promise {}, more than the disk has ({})", mib(promised), mib(space.total)),
            "writers get 'no space' when it is full: watch its use",
        );
    }
    let (held, wanted) = (disk.reserve.held(), Reserve::wanted(space));
    if held >= wanted {
        report.ok(format!("{} are put by for metadata", mib(held)));
    } else if space.available < 2 * wanted {
        report.warning(
            format!("only {} of {} are put by for metadata", mib(held), mib(wanted)),
            "it is made again when twice as much is free",
        );
    } else {
        report.warning(
            format!("nothing is put by for metadata, though there is room ({} wanted)", mib(wanted)),
            "file systems without fallocate can't: keep the disk from filling up",
        );
    }
    Ok(())
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

fn mib(bytes: u64) -> String {
    match bytes {
        0 => "0 bytes".to_owned(),
        b if b < 10 << 20 => format!("{} KiB", b >> 10),
        b if b < 10 << 30 => format!("{} MiB", b >> 20),
        b if b < 10 << 40 => format!("{} GiB", b >> 30),
        b => format!("{} TiB", b >> 40),
    }
}
