//! Values and nodes. No GPU here but in `plan`.

mod autograd;
mod fuse;
mod halves;
mod layout;
mod memory;
mod op;
mod oracle;
mod plan;
mod shape;

use std::sync::Arc;

pub(crate) use halves::choose;
pub use halves::into_half;
pub use layout::{Footprint, launches};
pub use memory::{Assignment, Lifetime, assign};
pub use op::{Backward, Bind, Half, Launch, Left, Lowered, Lowering, MOMENT_ROWS, Op, Param, Slot, groups, moments};
pub use oracle::{Interpreter, Scalars, Tensor};
pub use plan::{Plan, Timing, Variables};
pub use shape::{Elem, Shape};

use thiserror::Error;

/// What a graph or its plan can refuse.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum GraphError {
    #[error("{op}: {why}")]
    Shape { op: &'static str, why: String },
    #[error("{0} has no gradient")]
    NoGradient(&'static str),
    #[error("{kernel}: {why}")]
    Bindings { kernel: String, why: String },
    #[error("the plan needs the variable \"{0}\", which was not given")]
    NoVariable(String),
    #[error("the plan has no scalar called \"{0}\"")]
    NoScalar(String),
    #[error("the scalar \"{0}\" was never set")]
    UnsetScalar(String),
    #[error("\"{value}\" holds {expected} elements, got {found}")]
    Length { value: String, expected: usize, found: usize },
    #[error("{what} needs {needed} in one buffer; {adapter} allows {allowed}")]
    TooLarge { what: String, needed: String, allowed: String, adapter: String },
    #[error("{0}")]
    Kernel(#[from] crate::kernel::KernelError),
    #[error("{0}")]
    Gpu(#[from] crate::gpu::GpuError),
}

/// A tensor of the graph, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(u32);

impl Value {
    /// Its place in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Written by the caller before a run.
    Input,
    /// Lives outside the plan, under its name: weights, running statistics, momenta.
    Variable,
    /// A node computes it.
    Node {
        /// Index into [`Graph::nodes`].
        node: usize,
        /// Index into [`Node::outputs`].
        output: usize,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct ValueInfo {
    pub name: String,
    pub shape: Shape,
    pub source: Source,
}

/// One application of an op.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes; clones of the graph share it.
    pub op: Arc<dyn Op>,
    /// In the order that the op takes them.
    pub inputs: Vec<Value>,
    /// In the order that the op gives them.
    pub outputs: Vec<Value>,
}

/// A straight-line program: nodes in the order they run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
}

impl Graph {
    /// A graph without values or nodes.
    pub fn new() -> Graph {
        Graph::default()
    }

    fn value(&mut self, name: String, shape: Shape, source: Source) -> Value {
        self.values.push(ValueInfo { name, shape, source });
        Value((self.values.len() - 1) as u32)
    }

    /// A value that the caller writes before each run.
    pub fn input(&mut self, name: &str, shape: Shape) -> Value {
        self.value(name.to_string(), shape, Source::Input)
    }

    /// A value that outlives runs; one per name.
    pub fn variable(&mut self, name: &str, shape: Shape) -> Value {
        let known = self.values.iter().position(|v| v.source == Source::Variable && v.name == name);
        match known {
            Some(i) => Value(i as u32),
            None => self.value(name.to_string(), shape, Source::Variable),
        }
    }

    /// Applies `op`, giving its outputs.
    ///
    /// # Errors
    /// Shapes that the op does not take.
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Value]) -> Result<Vec<Value>, GraphError> {
        self.apply_arc(Arc::new(op), inputs)
    }

    /// `apply` for an op that is already shared.
    pub fn apply_arc(&mut self, op: Arc<dyn Op>, inputs: &[Value]) -> Result<Vec<Value>, GraphError> {
        let shapes: Vec<Shape> = inputs.iter().map(|v| self.shape(*v).clone()).collect();
        let out_shapes = op.outputs(&shapes)?;
        let node = self.nodes.len();
        let outputs: Vec<Value> = out_shapes
            .into_iter()
            .enumerate()
            .map(|(output, shape)| self.value(format!("{}#{node}.{output}", op.name()), shape, Source::Node { node, output }))
            .collect();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Extents and element type of a value of this graph.
    pub fn shape(&self, v: Value) -> &Shape {
        &self.values[v.index()].shape
    }

    /// What its maker called it; an output of a node is called `OP#NODE.OUTPUT`.
    pub fn name(&self, v: Value) -> &str {
        &self.values[v.index()].name
    }

    /// Where a value of this graph comes from.
    pub fn source(&self, v: Value) -> &Source {
        &self.values[v.index()].source
    }

    /// All nodes, in the order they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values, in the order they were made.
    pub fn values(&self) -> impl Iterator<Item = Value> + use<> {
        (0..self.values.len() as u32).map(Value)
    }

    /// The variable of that name, if the graph has it.
    pub fn find_variable(&self, name: &str) -> Option<Value> {
        self.values().find(|v| *self.source(*v) == Source::Variable && self.name(*v) == name)
    }
}
