//! The slow truth: a graph run on the CPU in f64, by each op's own oracle.

use std::collections::{BTreeMap, HashMap};

use super::{Elem, Graph, Shape, Source, Value};

/// A tensor of the oracle. u32 values are held exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, and the element type that it has on the GPU.
    pub shape: Shape,
    /// The elements, the last extent's index running fastest.
    pub data: Vec<f64>,
}

/// Values set by name before a run.
pub type Scalars = BTreeMap<&'static str, f64>;

impl Tensor {
    /// A tensor of these elements. Panics if they do not fill `shape`.
    pub fn new(shape: Shape, data: Vec<f64>) -> Tensor {
        assert_eq!(shape.len(), data.len(), "a tensor's data must fill its shape {shape}");
        Tensor { shape, data }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: Shape) -> Tensor {
        let n = shape.len();
        Tensor { shape, data: vec![0.0; n] }
    }

    /// The bytes a GPU buffer holds for it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self.shape.elem {
            Elem::F32 => self.data.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
            Elem::U32 => self.data.iter().flat_map(|x| (*x as u32).to_le_bytes()).collect(),
        }
    }

    /// The tensor a GPU buffer's bytes hold.
    pub fn from_bytes(shape: Shape, bytes: &[u8]) -> Tensor {
        let words = bytes.chunks_exact(4).take(shape.len()).map(|b| [b[0], b[1], b[2], b[3]]);
        let data = match shape.elem {
            Elem::F32 => words.map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            Elem::U32 => words.map(|b| f64::from(u32::from_le_bytes(b))).collect(),
        };
        Tensor::new(shape, data)
    }

    /// ||self - reference|| / ||reference||, the error used throughout; the plain norm where the reference is zero.
    pub fn relative_error(&self, reference: &Tensor) -> f64 {
        let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|d| d * d).sum::<f64>().sqrt();
        let diff = norm(&mut self.data.iter().zip(&reference.data).map(|(a, b)| a - b));
        let size = norm(&mut reference.data.iter().copied());
        let error = if size > 0.0 { diff / size } else { diff };
        if error.is_nan() { f64::INFINITY } else { error }
    }
}

/// Runs a whole graph in f64. Variables keep their values between runs, as on the GPU.
pub struct Interpreter<'g> {
    graph: &'g Graph,
    values: HashMap<Value, Tensor>,
    /// What ops read by name; to be set before a run.
    pub scalars: Scalars,
}

impl<'g> Interpreter<'g> {
    /// An interpreter of `graph`, with nothing set.
    pub fn new(graph: &'g Graph) -> Interpreter<'g> {
        Interpreter { graph, values: HashMap::new(), scalars: Scalars::new() }
    }

    /// Sets an input or a variable.
    pub fn set(&mut self, value: Value, tensor: Tensor) {
        assert_eq!(*self.graph.shape(value), tensor.shape, "{}", self.graph.name(value));
        self.values.insert(value, tensor);
    }

    /// The tensor of `value` after a run.
    pub fn get(&self, value: Value) -> &Tensor {
        &self.values[&value]
    }

    /// Runs every node in order; panics when an input is unset (this is a tool of tests and of the self-test).
    pub fn run(&mut self) {
        for node in self.graph.nodes() {
            let inputs: Vec<&Tensor> = node
                .inputs
                .iter()
                .map(|v| self.values.get(v).unwrap_or_else(|| panic!("{} is not set", self.graph.name(*v))))
                .collect();
            let mut results = node.op.oracle(&inputs, &self.scalars);
            let updated = results.split_off(node.outputs.len());
            for (v, t) in node.outputs.iter().zip(results) {
                debug_assert_eq!(*self.graph.shape(*v), t.shape, "{}", node.op.name());
                self.values.insert(*v, t);
            }
            for (&i, t) in node.op.in_place().iter().zip(updated) {
                debug_assert_eq!(*self.graph.source(node.inputs[i]), Source::Variable);
                self.values.insert(node.inputs[i], t);
            }
        }
    }
}
