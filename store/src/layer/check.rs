//! Looking at a layer's files without changing them: for doctor.

use super::Layer;
use super::states::State;
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::LayerId;
use crate::units::{BLOCK_SIZE, CHUNK_BLOCKS, blocks_of};
use std::sync::Arc;

/// How many findings of one layer are told: more would be more of the same.
const FINDINGS_MAX: usize = 8;

/// What is wrong with a layer: records that can't be read, states beyond its end, data that its file doesn't have.
///
/// `sealed` says whether the layer is a sealed one by the catalog. A head that is being written may be looked at: its
/// map is ahead of nothing.
pub(crate) fn check(disk: &Arc<Disk>, id: LayerId, sealed: bool) -> Vec<String> {
    let mut findings = Vec::new();
    if let Err(error) = look(disk, id, sealed, &mut findings) {
        findings.push(error.to_string());
    }
    findings
}

fn look(disk: &Arc<Disk>, id: LayerId, sealed: bool, findings: &mut Vec<String>) -> Result<()> {
    let layer = Layer::open(disk, id)?;
    let header = layer.header();
    if sealed && !header.sealed {
        findings.push(format!("layer {id} is not sealed, though it is a snapshot's or an image's"));
    }
    findings.extend(layer.sums().check(FINDINGS_MAX)?);
    let length = layer.data.length()?;
    let end = blocks_of(header.size);
    let mut next = layer.map.next_written(0)?;
    while let Some(chunk) = next {
        if findings.len() >= FINDINGS_MAX {
            findings.push(format!("layer {id}: there is more, not told"));
            return Ok(());
        }
        match layer.map.read_chunk(chunk) {
            Err(error) => findings.push(error.to_string()),
            Ok(states) => {
                let last_of = |state| (0..CHUNK_BLOCKS as usize).rfind(move |index| states.get(*index) == state);
                if let Some(last) = last_of(State::Data) {
                    let last = chunk * CHUNK_BLOCKS + last as u64;
                    if (last + 1) * BLOCK_SIZE > length {
                        findings.push(format!("layer {id}: block {last} is data, but the data ends at byte {length}"));
                    }
                    if last >= end && !header.trim {
                        findings.push(format!("layer {id}: block {last} is data beyond the end at byte {}", header.size));
                    }
                }
            }
        }
        next = layer.map.next_written(chunk + 1)?;
    }
    Ok(())
}
