//! What an op is: shapes, launches, gradient, oracle.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use super::{Graph, GraphError, Scalars, Shape, Tensor, Value};
use crate::gpu::Caps;
use crate::kernel::KernelId;

/// A differentiable (or not) function of values. One file under `ops/` each.
pub trait Op: Any + Debug + Send + Sync {
    /// The name in messages and tables; also its row in `OPS`.
    fn name(&self) -> &'static str;

    /// Shapes of the outputs.
    ///
    /// # Errors
    /// Input shapes that do not fit, with the numbers.
    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError>;

    /// Which inputs the op also writes (variables only: weights, running statistics).
    fn in_place(&self) -> &'static [usize] {
        &[]
    }

    /// Whether it takes inputs of one shape element by element, a vec4 an invocation, and gives no outputs: it then goes over their
    /// padding, too, and nodes of one such op ([`Graph::apply_arc`]) on values that lie side by side are one dispatch.
    fn elementwise(&self) -> bool {
        false
    }

    /// The class of shapes within which the adapter's stagings compare alike; `None` where they make no difference.
    fn tuning_class(&self, inputs: &[Shape]) -> Option<String> {
        let _ = inputs;
        None
    }

    /// The dispatches that compute it, and the scratch buffers they share.
    fn lower(&self, l: &Lowering) -> Lowered;

    /// As `lower`, and [`Slot::Moments`] gets the moments of the one output's rows, which must be given by channels: for a batch normalisation
    /// that reads it. `None` where that would be no cheaper than measuring them by themselves.
    fn lower_measuring(&self, l: &Lowering) -> Option<Lowered> {
        let _ = l;
        None
    }

    /// As `lower`, with the moments of input 0 in [`Slot::Moments`]. `None` where they are of no use.
    fn lower_measured(&self, l: &Lowering) -> Option<Lowered> {
        let _ = l;
        None
    }

    /// In which way it can leave output 0 in f16, where [`Lowering::left`] asks for it.
    fn leaves(&self, caps: Caps) -> Option<Half> {
        let _ = caps;
        None
    }

    /// The op that does `before`, whose one output is this one's input 0, and this one in one go, from `before`'s inputs and then this one's others:
    /// what goes between them is not written. A plan takes it in place of the two. `None` where there is none, or none that is faster.
    fn after(&self, before: &dyn Op, caps: Caps) -> Option<Arc<dyn Op>> {
        let _ = (before, caps);
        None
    }

    /// Adds the nodes of the gradient with respect to those inputs that `need` it, given the gradients of the outputs.
    ///
    /// # Errors
    /// An op without a gradient.
    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        let _ = (g, b);
        Err(GraphError::NoGradient(self.name()))
    }

    /// The plain-loop truth in f64: the outputs, then the new values of the `in_place` inputs.
    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor>;

    /// Floating-point operations of one run, for benches; 0 where bytes are what counts.
    fn flops(&self, inputs: &[Shape]) -> u64 {
        let _ = inputs;
        0
    }
}

/// What `Op::backward` is given.
pub struct Backward<'a> {
    /// The inputs of the node.
    pub inputs: &'a [Value],
    /// The outputs of the node.
    pub outputs: &'a [Value],
    /// A gradient an output; `None` where nothing depends on it.
    pub grads: &'a [Option<Value>],
    /// Whether anything wants the gradient of each input.
    pub need: &'a [bool],
}

/// What `Op::lower` may look at.
pub struct Lowering<'a> {
    /// Shapes of the inputs; where several nodes are one dispatch, of all of them and their padding together.
    pub inputs: &'a [Shape],
    /// Shapes of the outputs.
    pub outputs: &'a [Shape],
    /// What the adapter can do, with the staging that is to be used.
    pub caps: Caps,
    /// How output 0 is to be left; other than in f32 only where the op [can](Op::leaves).
    pub left: Left,
}

/// How a value lies in f16 for kernels that multiply such ([`Matrix::planes`](crate::gpu::Matrix) of these).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// As it is.
    Plain,
    /// Multiplied by a power of two that brings its largest absolute value, or a bound of it, to 2^14 .. 2^15.
    Scaled,
}

/// What an op makes of its output 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// f32, as all else.
    F32,
    /// The same, and [`Slot::HalfOut`].
    Both,
    /// [`Slot::HalfOut`] alone.
    Half,
}

impl Left {
    /// The constants of a kernel that leaves output 0 so, in so many planes of f16, and calls it `f32`: `bind` loses that where it is not
    /// written, and gets `half`. None for what all kernels do.
    pub fn consts(self, planes: u32, f32: &'static str, bind: &mut Vec<Bind>) -> Vec<(&'static str, u32)> {
        if self == Left::F32 {
            return Vec::new();
        }
        if self == Left::Half {
            bind.retain(|(name, _)| *name != f32);
        }
        bind.push(("half", Slot::HalfOut));
        vec![("F32", u32::from(self == Left::Both)), ("HALF", 1), ("PLANES", planes)]
    }
}

/// What a binding of a launch points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The input of this index.
    In(usize),
    /// The output of this index.
    Out(usize),
    /// The buffer of this index in [`Lowered::scratch`].
    Scratch(usize),
    /// What [`moments`] says of the shape that is measured.
    Moments,
    /// The input of this index in f16, in planes one after the other: whoever binds it has a plan make it.
    Half(usize),
    /// The power of two by which it was multiplied and that which undoes it, 2 f32: whoever binds it has [`Half::Scaled`].
    Scale(usize),
    /// Output 0 in f16.
    HalfOut,
    /// Its power of two, and that which undoes it.
    ScaleOut,
}

/// Rows of a chunk of [`Slot::Moments`].
pub const MOMENT_ROWS: usize = 64;

/// The moments of x [.., C], of each chunk of [`MOMENT_ROWS`] rows: by quads of channels their means and their sums of squares about
/// them, [chunks, C / 4, 2, 4].
pub fn moments(x: &Shape) -> Shape {
    Shape::f32(&[x.rows().div_ceil(MOMENT_ROWS), x.last() / 4, 8])
}

/// A WGSL variable's name and what it is bound to.
pub type Bind = (&'static str, Slot);

/// A member of `Params`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    /// A u32, fixed when the op is lowered.
    U32(u32),
    /// An f32, fixed when the op is lowered.
    F32(f32),
    /// Set by name before a run: a learning rate, the number of valid samples.
    Scalar(&'static str),
}

/// One dispatch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What runs.
    pub kernel: KernelId,
    /// A buffer for each storage binding that the entry point uses, and no others.
    pub bind: Vec<Bind>,
    /// Each member of the shader's `Params`, by name; empty where the entry point uses none.
    pub params: Vec<(&'static str, Param)>,
    /// Workgroups along x, y and z.
    pub groups: [u32; 3],
}

/// What an op becomes.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// Shapes of buffers that hold what one launch leaves to a later one; their contents do not outlive the op.
    pub scratch: Vec<Shape>,
    /// In the order they run.
    pub launches: Vec<Launch>,
}

impl From<Launch> for Lowered {
    fn from(launch: Launch) -> Lowered {
        Lowered { scratch: Vec::new(), launches: vec![launch] }
    }
}

/// A grid of `items / size` workgroups, rounded up, folded into two dimensions past 65,535, fewer than a row of these too many; the
/// shader's `linear_index` (common/index) unfolds it.
pub fn groups(items: usize, size: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    let n = items.div_ceil(size).max(1);
    let y = n.div_ceil(MAX);
    [n.div_ceil(y) as u32, y as u32, 1]
}
