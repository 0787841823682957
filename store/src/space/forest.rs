//! The forest of layers as it will be when every merge that waits is done: the *settled* forest.
//!
//! A layer without a name goes: with no child it is dropped, with one it is merged into it, with more it stays. So a
//! settled layer is a run of layers, of which only the topmost has names or several children, and a settled layer
//! without a name has at least two children.

/// A layer, as this module needs to know it. Layers and names are numbers, from 0, without gaps.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its parent's number; a parent comes before its children.
    pub parent: Option<usize>,
    /// The block from which on absent means zero, and no parent is asked.
    pub floor: u64,
    /// The names it has: heads, snapshots, images, what undo keeps.
    pub names: Vec<usize>,
}

/// A layer of the settled forest.
#[derive(Debug, Clone)]
pub(super) struct Settled {
    /// The layers it will be made of, topmost first.
    pub parts: Vec<usize>,
    pub parent: Option<usize>,
    pub children: Vec<usize>,
    pub names: Vec<usize>,
    /// One past the last settled layer that stands on it: they are numbered parents first, each subtree in a row.
    pub end: usize,
    /// Names in the subtree, and all of them xored: with one name, that is its number.
    pub names_below: (usize, usize),
}

/// A forest, and what it settles to.
#[derive(Debug)]
pub(super) struct Forest {
    pub nodes: Vec<Node>,
    pub settled: Vec<Settled>,
    /// Of each layer: the settled one that it goes into, and its place among that one's parts. None for those that
    /// nobody needs.
    pub goes_into: Vec<Option<(usize, usize)>>,
    /// Layers with a parent, by floor.
    pub floors: Vec<(u64, usize)>,
    pub name_count: usize,
}

impl Forest {
    pub fn new(nodes: Vec<Node>) -> Self {
        let name_count = nodes.iter().map(|node| node.names.len()).sum();
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        // Children first, so that a layer knows which of its children stay.
        for (number, node) in nodes.iter().enumerate().rev() {
            let needed = !node.names.is_empty() || !children[number].is_empty();
            if needed && let Some(parent) = node.parent {
                children[parent].push(number);
            }
        }
        let mut forest = Self {
            settled: Vec::with_capacity(nodes.len()),
            goes_into: vec![None; nodes.len()],
            floors: nodes.iter().enumerate().filter(|(_, n)| n.parent.is_some()).map(|(i, n)| (n.floor, i)).collect(),
            name_count,
            nodes,
        };
        forest.floors.sort_unstable();
        for root in 0..forest.nodes.len() {
            let needed = !forest.nodes[root].names.is_empty() || !children[root].is_empty();
            if forest.nodes[root].parent.is_none() && needed {
                forest.settle(root, &children);
            }
        }
        forest.sum_up();
        forest
    }

    /// Numbers the settled layers from `root` on, parents first, each subtree in a row. (Chains have thousands of layers:
    /// no recursion.)
    fn settle(&mut self, root: usize, children: &[Vec<usize>]) {
        let mut open = vec![(root, None)];
        while let Some((bottom, parent)) = open.pop() {
            let mut parts = vec![bottom];
            let mut top = bottom;
            while self.nodes[top].names.is_empty()
                && let [only] = children[top][..]
            {
                parts.push(only);
                top = only;
            }
            parts.reverse();
            let number = self.settled.len();
            for (place, part) in parts.iter().enumerate() {
                self.goes_into[*part] = Some((number, place));
            }
            if let Some(parent) = parent {
                let parent: &mut Settled = &mut self.settled[parent];
                parent.children.push(number);
            }
            open.extend(children[top].iter().map(|child| (*child, Some(number))));
            let names = self.nodes[top].names.clone();
            self.settled.push(Settled { parts, parent, children: Vec::new(), names, end: number + 1, names_below: (0, 0) });
        }
    }

    fn sum_up(&mut self) {
        for number in (0..self.settled.len()).rev() {
            let layer = &mut self.settled[number];
            layer.names_below.0 += layer.names.len();
            layer.names_below.1 = layer.names.iter().fold(layer.names_below.1, |all, name| all ^ name);
            let (end, (count, xor)) = (layer.end, layer.names_below);
            if let Some(parent) = layer.parent {
                let parent = &mut self.settled[parent];
                parent.end = parent.end.max(end);
                parent.names_below = (parent.names_below.0 + count, parent.names_below.1 ^ xor);
            }
        }
    }

    /// The settled layer that has a name.
    pub fn layer_of(&self) -> Vec<usize> {
        let mut layers = vec![0; self.name_count];
        for (number, layer) in self.settled.iter().enumerate() {
            layer.names.iter().for_each(|name| layers[*name] = number);
        }
        layers
    }

    /// The layer that has each name.
    pub fn name_nodes(&self) -> Vec<usize> {
        let mut nodes = vec![0; self.name_count];
        for (number, node) in self.nodes.iter().enumerate() {
            node.names.iter().for_each(|name| nodes[*name] = number);
        }
        nodes
    }

    /// Whether something waits for a merge or to be dropped.
    pub fn is_waiting(&self) -> bool {
        self.settled.len() != self.nodes.len()
    }
}
