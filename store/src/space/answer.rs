//! What the sums say of each name.

use super::Stays;
use super::forest::Forest;
use super::tally::Tally;

/// One name's part, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its view shows these as data.
    pub shown: u64,
    /// Of them, no other name needs these.
    pub alone: u64,
    /// What is free once it is deleted and all merges are done, less what would be free without that.
    pub frees: u64,
    /// Why that may be 0 though it holds something alone.
    pub stays: Stays,
}

/// Each name's part.
pub(super) fn parts(forest: &Forest, tally: &Tally) -> Vec<Part> {
    let shown = tally.shown(forest);
    let part = |(name, layer): (usize, &usize)| {
        let (frees, stays) = frees(forest, tally, *layer);
        Part { shown: blocks(shown[*layer]), alone: blocks(tally.alone[name]), frees: blocks(frees), stays }
    };
    forest.layer_of().iter().enumerate().map(part).collect()
}

/// What deleting a name of `layer` frees. The settled forest stays settled but for this layer and, if the layer is dropped,
/// the one below it.
fn frees(forest: &Forest, tally: &Tally, number: usize) -> (i64, Stays) {
    let layer = &forest.settled[number];
    if layer.names.len() > 1 {
        return (0, Stays::Named);
    }
    match layer.children[..] {
        // Merged into its child, which hides these.
        [child] => (tally.hides[child], Stays::Goes),
        [] => {
            let below = layer.parent.map(|parent| &forest.settled[parent]);
            let merged = below.filter(|below| below.names.is_empty() && below.children.len() == 2);
            let other = merged.and_then(|below| below.children.iter().find(|child| **child != number));
            (tally.held[number] + other.map_or(0, |other| tally.hides[*other]), Stays::Goes)
        }
        _ => (0, Stays::Under(layer.children.len() as u64)),
    }
}

fn blocks(sum: i64) -> u64 {
    // A head that is written between two looks at it can make a sum come out below nothing.
    u64::try_from(sum).unwrap_or(0)
}
