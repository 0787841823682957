//! What may differ between two chains, from the maps alone.
//!
//! Above their last common layer, every block with a state in any layer of either chain may differ. Where none has one,
//! both show what the common layers show, unless a floor hides it from one of them.

use super::Chain;
use crate::error::Result;
use crate::layer::Head;
use crate::layer::states::{ChunkStates, State};
use crate::units::CHUNK_BLOCKS;
use std::ops::Range;

/// Two chains with a common root.
pub(crate) struct Diff<'a> {
    common: Chain,
    /// The layers that only one of them has, with the head whose marks are not all in its map.
    apart: Vec<(&'a super::Link, Option<&'a Head>)>,
    /// The block from which on the common layers may be hidden.
    floor: u64,
}

impl<'a> Diff<'a> {
    /// `None` if they have no layer in common. `head` is the last layer of `b`, where that is a volume.
    pub fn new(a: &'a Chain, b: &'a Chain, head: Option<&'a Head>) -> Option<Self> {
        let shared = a.links.iter().zip(&b.links).take_while(|(a, b)| a.layer.id == b.layer.id).count();
        if shared == 0 {
            return None;
        }
        let of_a = a.links[shared..].iter().map(|link| (link, None));
        let last = b.links.len().saturating_sub(1);
        let of_b = b.links.iter().enumerate().skip(shared).map(|(at, link)| (link, head.filter(|_| at == last)));
        let mut apart: Vec<_> = of_a.chain(of_b).collect();
        // From the top: what a merge moves down meanwhile is then seen in the one or in the other.
        apart.reverse();
        let floor = apart.iter().map(|(link, _)| link.floor).min().unwrap_or(u64::MAX);
        let common = Chain { key: a.cache.new_key(), links: a.links[..shared].to_vec(), cache: a.cache.clone() };
        Some(Self { common, apart, floor })
    }

    /// Gives each run of blocks that may differ, by place, none touching the next.
    pub fn each(&self, give: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let mut run: Range<u64> = 0..0;
        let mut next = self.next(0)?;
        while let Some(chunk) = next {
            let changed = self.chunk(chunk)?;
            for index in (0..CHUNK_BLOCKS).filter(|index| changed[*index as usize]) {
                let block = chunk * CHUNK_BLOCKS + index;
                if block != run.end || run.is_empty() {
                    if !run.is_empty() {
                        give(run)?;
                    }
                    run = block..block;
                }
                run.end = block + 1;
            }
            next = self.next(chunk + 1)?;
        }
        if run.is_empty() { Ok(()) } else { give(run) }
    }

    /// The first chunk at or after `chunk` in which something may differ.
    fn next(&self, chunk: u64) -> Result<Option<u64>> {
        let mut next = None;
        let mut at_most = |found: Option<u64>| next = [next, found].into_iter().flatten().min();
        for (link, head) in &self.apart {
            // Marks first: what a flush moves to the map in between is then found there.
            at_most(head.and_then(|head| head.next_marked(chunk)));
            at_most(link.layer.map.next_written(chunk)?);
        }
        if self.floor != u64::MAX {
            at_most(self.common.next_written(chunk.max(self.floor / CHUNK_BLOCKS))?);
        }
        Ok(next)
    }

    fn chunk(&self, chunk: u64) -> Result<[bool; CHUNK_BLOCKS as usize]> {
        let mut changed = [false; CHUNK_BLOCKS as usize];
        let mut note = |states: &ChunkStates| {
            for (index, changed) in changed.iter_mut().enumerate() {
                *changed |= states.get(index) != State::Absent;
            }
        };
        for (link, head) in &self.apart {
            if let Some(marks) = head.and_then(|head| head.overlay(chunk)) {
                note(&marks);
            }
            let states = link.layer.map.read_chunk(chunk)?;
            if !states.is_absent() {
                note(&states);
            }
        }
        if self.floor < (chunk + 1) * CHUNK_BLOCKS {
            let shown = self.common.resolve(chunk, None)?;
            for (index, changed) in changed.iter_mut().enumerate() {
                *changed |= chunk * CHUNK_BLOCKS + index as u64 >= self.floor && shown.get(index) != 0;
            }
        }
        Ok(changed)
    }
}
