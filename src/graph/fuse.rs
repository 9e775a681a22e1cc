//! Two nodes as one, where an op knows how: what the first gives then never goes through memory.

use std::collections::HashMap;

use super::{Graph, Node, Source, Value};
use crate::gpu::Caps;

impl Graph {
    /// The graph as a plan that keeps `keep` runs it: a node whose op [joins](super::Op::after) that of the node before it does the work of both.
    /// Only where nobody else reads what goes between them, gradients included, and nothing changes meanwhile what the first reads.
    /// Values and nodes keep their numbers; a first node is then one that nobody needs.
    pub(super) fn fused(&self, keep: &[Value], caps: Caps) -> Graph {
        let live = self.live_nodes(keep);
        let readers = self.readers(&live);
        let mut fused = self.clone();
        for index in live {
            let node = &self.nodes[index];
            let Some(between) = node.inputs.first() else { continue };
            let Source::Node { node: before, output: 0 } = *self.source(*between) else { continue };
            let first = &self.nodes[before];
            let changes = |n: &Node| n.op.in_place().iter().any(|&i| first.inputs.contains(&n.inputs[i]));
            if readers[between] > 1 || keep.contains(between) || self.nodes[before + 1..index].iter().any(changes) {
                continue;
            }
            if let Some(op) = node.op.after(first.op.as_ref(), caps) {
                let inputs = [&first.inputs, &node.inputs[1..]].concat();
                fused.nodes[index] = Node { op, inputs, outputs: node.outputs.clone() };
            }
        }
        fused
    }

    /// What a plan that keeps `keep` runs, in order: two nodes that it joins are one.
    pub fn passes(&self, keep: &[Value], caps: Caps) -> Vec<Node> {
        let fused = self.fused(keep, caps);
        fused.live_nodes(keep).into_iter().map(|index| fused.nodes[index].clone()).collect()
    }

    /// How often `nodes` read each value.
    pub(super) fn readers(&self, nodes: &[usize]) -> HashMap<Value, usize> {
        let mut readers = HashMap::new();
        for v in nodes.iter().flat_map(|n| &self.nodes[*n].inputs) {
            *readers.entry(*v).or_default() += 1;
        }
        readers
    }
}
