//! Reverse-mode differentiation as graph rewriting: gradients are nodes like any other.

use std::collections::HashMap;

use super::{Backward, Graph, GraphError, Source, Value};
use crate::ops::Add;

impl Graph {
    /// Adds the nodes that compute the gradients of `wrt`, given gradients of some values (`seeds`), such as a loss's with
    /// respect to its logits; several seeds of one value add up. A value that nothing depends on has no entry.
    ///
    /// # Errors
    /// A path through an op without a gradient.
    pub fn backward(&mut self, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<HashMap<Value, Value>, GraphError> {
        // Forward: which values lie on a path from `wrt`.
        let mut needed = vec![false; self.values.len()];
        for v in wrt {
            needed[v.index()] = true;
        }
        for node in &self.nodes {
            if node.inputs.iter().any(|v| needed[v.index()]) {
                for v in &node.outputs {
                    needed[v.index()] = true;
                }
            }
        }
        // What is added from here on, the sums of seeds included, is gradient.
        let forward = self.nodes.len();
        let mut grads: HashMap<Value, Value> = HashMap::new();
        for (value, grad) in seeds {
            self.accumulate(&mut grads, *value, *grad)?;
        }
        for index in (0..forward).rev() {
            let node = self.nodes[index].clone();
            let out_grads: Vec<Option<Value>> = node.outputs.iter().map(|v| grads.get(v).copied()).collect();
            let need: Vec<bool> = node.inputs.iter().map(|v| needed[v.index()]).collect();
            if out_grads.iter().all(Option::is_none) || !need.contains(&true) {
                continue;
            }
            let b = Backward { inputs: &node.inputs, outputs: &node.outputs, grads: &out_grads, need: &need };
            let in_grads = node.op.backward(self, &b)?;
            for ((value, grad), need) in node.inputs.iter().zip(in_grads).zip(&need) {
                if let (Some(grad), true) = (grad, need) {
                    self.accumulate(&mut grads, *value, grad)?;
                }
            }
        }
        Ok(grads)
    }

    fn accumulate(&mut self, grads: &mut HashMap<Value, Value>, value: Value, grad: Value) -> Result<(), GraphError> {
        let sum = match grads.get(&value) {
            // The later one first: what made it can add the other on its way out.
            Some(earlier) => self.apply(Add, &[grad, *earlier])?[0],
            None => grad,
        };
        grads.insert(value, sum);
        Ok(())
    }

    /// Nodes that `keep` needs, and those that change variables and whose inputs exist anyway; in order.
    pub(crate) fn live_nodes(&self, keep: &[Value]) -> Vec<usize> {
        let mut wanted = vec![false; self.values.len()];
        for v in keep {
            wanted[v.index()] = true;
        }
        let mut live = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let updates = !node.op.in_place().is_empty();
            if updates || node.outputs.iter().any(|v| wanted[v.index()]) {
                for v in &node.inputs {
                    if matches!(self.source(*v), Source::Node { .. }) {
                        wanted[v.index()] = true;
                    }
                }
                live.push(index);
            }
        }
        live.reverse();
        live
    }
}
