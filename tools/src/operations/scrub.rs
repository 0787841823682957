//! What a scrub found, and how a volume stands to its sums, as data.

use outcrop_store::scrub::{Integrity, Mismatch, ScrubReport};
use serde::{Deserialize, Serialize};

/// What `scrub` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScrubView {
    /// Layers looked at.
    pub layers: u64,
    /// Bytes that fit their sums.
    pub verified: u64,
    /// Bytes that could be read, but have no sum.
    pub unsummed: u64,
    /// Number of blocks that are not what they were sealed as.
    pub mismatches: u64,
    /// The first 1,000 of them.
    pub blocks: Vec<MismatchView>,
    /// Number of other things that are damaged or could not be read.
    pub errors: u64,
    /// The first 1,000 of them, a line each.
    pub messages: Vec<String>,
}

/// A block that is not what it was sealed as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MismatchView {
    /// Who needs it.
    pub users: Vec<String>,
    /// The layer that has it.
    pub layer: String,
    /// Its number.
    pub block: u64,
    /// The byte of the volume at which it begins.
    pub offset: u64,
    /// The sum that it was sealed with, in hex.
    pub expected: String,
    /// The sum that it has, in hex.
    pub found: String,
}

/// How a volume and its snapshots stand to their sums.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SumsView {
    /// Bytes in sealed layers that have no sum yet.
    pub unsummed: u64,
    /// Blocks known to be damaged.
    pub bad_blocks: u64,
    /// Reads that were answered with an error for that, since the store was opened.
    pub failed_reads: u64,
}

impl From<&ScrubReport> for ScrubView {
    fn from(report: &ScrubReport) -> Self {
        Self {
            layers: report.layers,
            verified: report.verified,
            unsummed: report.unsummed,
            mismatches: report.mismatch_count,
            blocks: report.mismatches.iter().map(MismatchView::from).collect(),
            errors: report.error_count,
            messages: report.errors.clone(),
        }
    }
}

impl From<&Mismatch> for MismatchView {
    fn from(bad: &Mismatch) -> Self {
        Self {
            users: bad.users.clone(),
            layer: bad.layer.to_string(),
            block: bad.block,
            offset: bad.block * outcrop_store::BLOCK_SIZE,
            expected: format!("{:08x}", bad.expected),
            found: format!("{:08x}", bad.found),
        }
    }
}

impl From<Integrity> for SumsView {
    fn from(found: Integrity) -> Self {
        Self { unsummed: found.unsummed, bad_blocks: found.bad_blocks, failed_reads: found.failed_reads }
    }
}
