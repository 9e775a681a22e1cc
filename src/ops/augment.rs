//! Bytes to normalised activations, with random crop and flip. Shader: `shaders/augment.wgsl`.

use super::{Case, Fill};
use crate::graph::{GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// pixels u32 [N, H, W] (R | G << 8 | B << 16) -> [N, H, W, 4], (byte / 255 - mean) / std and a fourth channel of 0.
///
/// `pad` > 0 crops at random from the image framed by that many black pixels, `flip` mirrors every other one, both as
/// torchvision does; the scalar "seed" (a u32) and the sample's place in the batch decide. Without either it is a plain
/// normalisation and there is no such scalar.
#[derive(Debug)]
pub struct Augment {
    /// Mean of red, green and blue, of pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, of pixels in 0..1.
    pub std: [f32; 3],
    /// Width of the black frame that is cropped from, pixels; 0: no crop.
    pub pad: u32,
    /// Whether images are mirrored left to right, each with probability 1/2.
    pub flip: bool,
}

impl Augment {
    fn random(&self) -> bool {
        self.pad > 0 || self.flip
    }
}

impl Op for Augment {
    fn name(&self) -> &'static str {
        "augment"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        match inputs {
            [pixels] if pixels.dims.len() == 3 && *pixels == Shape::u32(&pixels.dims) => {
                Ok(vec![Shape::f32(&[pixels.dims[0], pixels.dims[1], pixels.dims[2], 4])])
            }
            _ => {
                let got: Vec<String> = inputs.iter().map(|s| format!("{:?} {s}", s.elem)).collect();
                Err(GraphError::Shape { op: self.name(), why: format!("takes pixels U32 [N, H, W], got {}", got.join(", ")) })
            }
        }
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let pixels = &l.inputs[0];
        let extent = |i: usize| Param::U32(pixels.dims[i] as u32);
        let ([mean_r, mean_g, mean_b], [std_r, std_g, std_b]) = (self.mean.map(Param::F32), self.std.map(Param::F32));
        Launch {
            kernel: KernelId::new("augment", "augment"),
            bind: vec![("pixels", Slot::In(0)), ("y", Slot::Out(0))],
            params: vec![
                ("pixels", Param::U32(pixels.len() as u32)),
                ("height", extent(1)),
                ("width", extent(2)),
                ("pad", Param::U32(self.pad)),
                ("flip", Param::U32(u32::from(self.flip))),
                ("seed", if self.random() { Param::Scalar("seed") } else { Param::U32(0) }),
                ("mean_r", mean_r),
                ("mean_g", mean_g),
                ("mean_b", mean_b),
                ("std_r", std_r),
                ("std_g", std_g),
                ("std_b", std_b),
            ],
            groups: groups(pixels.len(), 64),
        }
        .into()
    }

    fn oracle(&self, inputs: &[&Tensor], scalars: &Scalars) -> Vec<Tensor> {
        let pixels = inputs[0];
        let [n, h, w] = [0, 1, 2].map(|i| pixels.shape.dims[i]);
        let seed = if self.random() { scalars["seed"] as u32 } else { 0 };
        let mut y = Tensor::zeros(Shape::f32(&[n, h, w, 4]));
        for sample in 0..n {
            let h0 = hash(seed ^ hash(sample as u32));
            let h1 = hash(h0);
            let mirrored = self.flip && hash(h1) >> 31 == 1;
            let places = 2 * self.pad + 1;
            let [dy, dx] = [h0, h1].map(|h| (h % places) as i64 - i64::from(self.pad));
            for i in 0..h {
                for j in 0..w {
                    let from_i = i as i64 + dy;
                    let from_j = if mirrored { w - 1 - j } else { j } as i64 + dx;
                    let inside = (0..h as i64).contains(&from_i) && (0..w as i64).contains(&from_j);
                    let at = (sample * h) as i64 * w as i64 + from_i * w as i64 + from_j;
                    let rgb = if inside { pixels.data[at as usize] as u32 } else { 0 };
                    for c in 0..3 {
                        let byte = f64::from(rgb >> (8 * c) & 255);
                        let value = (byte / 255.0 - f64::from(self.mean[c])) / f64::from(self.std[c]);
                        y.data[((sample * h + i) * w + j) * 4 + c] = value;
                    }
                }
            }
        }
        vec![y]
    }
}

/// The twin of `shaders/common/hash.wgsl`.
fn hash(x: u32) -> u32 {
    let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

pub(super) fn cases() -> Vec<Case> {
    let (mean, std) = ([0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]);
    let case = |dims: &[usize], pad, flip| {
        Case::new(&format!("{dims:?} pad {pad} flip {flip}"), Augment { mean, std, pad, flip }).u32(dims, Fill::Bits)
    };
    vec![
        case(&[3, 5, 7], 0, false),
        case(&[33, 5, 7], 0, true).scalar("seed", 1.0),
        case(&[9, 11, 8], 4, false).scalar("seed", 4_294_967_295.0),
        case(&[40, 6, 5], 7, true).scalar("seed", 123_456_789.0),
    ]
}
