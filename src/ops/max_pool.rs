//! The largest of each window's pixels. Shader: `shaders/max_pool.wgsl`.

use super::{Case, Fill};
use crate::graph::{
    Backward, Bind, Graph, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, Value, groups,
};
use crate::kernel::KernelId;

/// Windows of `kernel` x `kernel` pixels, `stride` apart; padding never wins.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Height and width of a window, pixels.
    pub kernel: usize,
    /// From one window to the next, pixels.
    pub stride: usize,
    /// Padding on each side of the image, pixels; at most half of `kernel`.
    pub pad: usize,
}

/// x [N, H, W, C] -> y [N, H', W', C], H' = (H + 2 pad - kernel) / stride + 1, and of each maximum its place in the window, ky kernel + kx:
/// u32 [N, H', W', C]. Of equal ones the first in the window's order counts, as in PyTorch.
#[derive(Debug)]
pub struct MaxPool(pub Window);

/// gy [N, H', W', C], place -> gx [N, height, width, C]: each maximum gets its window's gradient.
#[derive(Debug)]
pub struct MaxPoolGrad {
    /// The forward pass's.
    pub window: Window,
    /// Height of x, pixels.
    pub height: usize,
    /// Width of x, pixels.
    pub width: usize,
}

impl Window {
    /// The windows along an extent of the image; `None` where there are none, or some that hold padding alone.
    fn count(&self, extent: usize) -> Option<usize> {
        let Window { kernel, stride, pad } = *self;
        let fits = kernel > 0 && stride > 0 && 2 * pad <= kernel && extent > 0;
        let last = (extent + 2 * pad).checked_sub(kernel).filter(|_| fits)?;
        Some(last / stride + 1)
    }

    /// A launch over all of `items`, x of extents `x` and y of extents `y`.
    fn launch(&self, entry: &'static str, bind: Vec<Bind>, x: &Shape, y: &Shape, items: usize) -> Lowered {
        let extents = [
            ("items", items),
            ("ih", x.dims[1]),
            ("iw", x.dims[2]),
            ("oh", y.dims[1]),
            ("ow", y.dims[2]),
            ("c4", x.last() / 4),
            ("kernel", self.kernel),
            ("stride", self.stride),
            ("pad", self.pad),
        ];
        Launch {
            kernel: KernelId::new("max_pool", entry),
            bind,
            params: extents.map(|(name, n)| (name, Param::U32(n as u32))).to_vec(),
            groups: groups(items, 64),
        }
        .into()
    }

    /// Calls `f` with (y index, place, x index) for each pixel of each window, in the window's order: the definition, for the oracles.
    fn each_pixel(&self, x: &Shape, y: &Shape, mut f: impl FnMut(usize, usize, usize)) {
        let inside = |o: usize, k: usize, extent: usize| (o * self.stride + k).checked_sub(self.pad).filter(|&i| i < extent);
        let [_, oh, ow, c] = [0, 1, 2, 3].map(|i| y.dims[i]);
        let [ih, iw] = [x.dims[1], x.dims[2]];
        for yi in 0..y.len() {
            let (n, oy, ox) = (yi / (oh * ow * c), yi / (ow * c) % oh, yi / c % ow);
            for place in 0..self.kernel * self.kernel {
                let Some(iy) = inside(oy, place / self.kernel, ih) else { continue };
                let Some(ix) = inside(ox, place % self.kernel, iw) else { continue };
                f(yi, place, ((n * ih + iy) * iw + ix) * c + yi % c);
            }
        }
    }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let got = || inputs.iter().map(Shape::to_string).collect::<Vec<_>>().join(", ");
        let fail = |why: String| Err(GraphError::Shape { op: self.name(), why });
        let [x] = inputs else { return fail(format!("takes one input, got {}", got())) };
        let &[n, h, w, c] = &x.dims[..] else { return fail(format!("takes [N, H, W, C], got {x}")) };
        if n == 0 || c == 0 || !c.is_multiple_of(4) {
            return fail(format!("takes [N, H, W, C] with C a multiple of 4, got {x}"));
        }
        let (Some(oh), Some(ow)) = (self.0.count(h), self.0.count(w)) else {
            return fail(format!("{:?} does not fit an image of {h}x{w}", self.0));
        };
        let dims = [n, oh, ow, c];
        Ok(vec![Shape::f32(&dims), Shape::u32(&dims)])
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let bind = vec![("x", Slot::In(0)), ("y", Slot::Out(0)), ("first", Slot::Out(1))];
        self.0.launch("take", bind, &l.inputs[0], &l.outputs[0], l.outputs[0].len() / 4)
    }

    fn backward(&self, g: &mut Graph, b: &Backward) -> Result<Vec<Option<Value>>, GraphError> {
        let (Some(gy), &[_, height, width, _]) = (b.grads[0], &g.shape(b.inputs[0]).dims[..]) else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(MaxPoolGrad { window: self.0, height, width }, &[gy, b.outputs[1]])?[0])])
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let x = inputs[0];
        #[expect(clippy::expect_used, reason = "a graph refuses shapes that do not fit before an oracle sees them")]
        let shapes = self.outputs(std::slice::from_ref(&x.shape)).expect("shapes were checked when the graph was built");
        let mut y = vec![f64::NEG_INFINITY; shapes[0].len()];
        let mut first = vec![0.0; y.len()];
        self.0.each_pixel(&x.shape, &shapes[0], |yi, place, xi| {
            if x.data[xi] > y[yi] {
                (y[yi], first[yi]) = (x.data[xi], place as f64);
            }
        });
        shapes.into_iter().zip([y, first]).map(|(shape, data)| Tensor::new(shape, data)).collect()
    }
}

impl MaxPoolGrad {
    fn x(&self, gy: &Shape) -> Shape {
        Shape::f32(&[gy.dims[0], self.height, self.width, gy.last()])
    }
}

impl Op for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max_pool_grad"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        let windows = (self.window.count(self.height), self.window.count(self.width));
        match inputs {
            [gy, place]
                if gy.dims.len() == 4
                    && gy.last().is_multiple_of(4)
                    && place.dims == gy.dims
                    && windows == (Some(gy.dims[1]), Some(gy.dims[2])) =>
            {
                Ok(vec![self.x(gy)])
            }
            _ => {
                let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
                let why = format!(
                    "takes gy and place [N, H', W', C] of {:?} on images of {}x{}, C a multiple of 4, got {}",
                    self.window,
                    self.height,
                    self.width,
                    got.join(", ")
                );
                Err(GraphError::Shape { op: self.name(), why })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let bind = vec![("gy", Slot::In(0)), ("tap", Slot::In(1)), ("gx", Slot::Out(0))];
        self.window.launch("give", bind, &l.outputs[0], &l.inputs[0], l.outputs[0].len() / 4)
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let (gy, place) = (inputs[0], inputs[1]);
        let mut gx = Tensor::zeros(self.x(&gy.shape));
        let shape = gx.shape.clone();
        self.window.each_pixel(&shape, &gy.shape, |yi, at, xi| {
            if place.data[yi] == at as f64 {
                gx.data[xi] += gy.data[yi];
            }
        });
        vec![gx]
    }
}

/// A stem's, on odd and even extents, one of a single window; windows that do not overlap; all with many equal pixels, too.
const STEM: Window = Window { kernel: 3, stride: 2, pad: 1 };
const SIZES: [(Window, [usize; 4]); 4] =
    [(STEM, [2, 8, 6, 8]), (STEM, [3, 7, 9, 12]), (STEM, [5, 1, 2, 4]), (Window { kernel: 2, stride: 2, pad: 0 }, [2, 5, 8, 20])];

pub(super) fn cases() -> Vec<Case> {
    let fills = [("", Fill::Normal { mean: -3.0, std: 1.0 }), (", ties", Fill::Index { below: 3 })];
    let each = |(kind, fill): (&str, Fill)| {
        SIZES.map(|(window, dims)| Case::new(&format!("{dims:?} {window:?}{kind}"), MaxPool(window)).f32(&dims, fill))
    };
    fills.into_iter().flat_map(each).collect()
}

pub(super) fn grad_cases() -> Vec<Case> {
    let each = |(window, [n, height, width, c]): (Window, [usize; 4])| {
        let dims = [n, window.count(height).unwrap_or(0), window.count(width).unwrap_or(0), c];
        let places = Fill::Index { below: (window.kernel * window.kernel) as u32 };
        Case::new(&format!("{:?} {window:?}", [n, height, width, c]), MaxPoolGrad { window, height, width })
            .f32(&dims, Fill::NORMAL)
            .u32(&dims, places)
            .terms(window.kernel * window.kernel)
    };
    SIZES.into_iter().map(each).collect()
}
