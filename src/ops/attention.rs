//! Attention transfer: what a student's activation lacks of a teacher's attention, and the gradient. Shader: `shaders/attention.wgsl`, which
//! has the formulas.

use super::{Case, Fill};
use crate::graph::{Bind, GraphError, Launch, Lowered, Lowering, Op, Param, Scalars, Shape, Slot, Tensor, groups};
use crate::kernel::KernelId;

/// Inputs the activations of a student [N, H, W, C] and a teacher [N, H, W, D] and weight [N]; outputs loss [N], beta times the mean squared
/// difference of the two maps of each image, not weighted, and grad [N, H, W, C] = d(sum_i weight_i loss_i) / d student, a seed for
/// `Graph::backward`.
///
/// A map is, at each pixel, the sum of squares over the channels, divided by the norm of all pixels' (Zagoruyko and Komodakis 2017, with
/// the norm + 1e-6 of the code of Li et al. 2021).
#[derive(Debug)]
pub struct Attention {
    /// What the mean squared difference is multiplied by.
    pub beta: f32,
}

/// Added to the norm of a map.
const LEAST: f64 = 1e-6;
/// Workgroups along an axis, one an image.
const MOST: usize = 65_535;

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn outputs(&self, inputs: &[Shape]) -> Result<Vec<Shape>, GraphError> {
        if let [student, teacher, weight] = inputs
            && let ([n, h, w, c], [m, height, width, d]) = (&student.dims[..], &teacher.dims[..])
            && (n, h, w) == (m, height, width)
            && c.is_multiple_of(4)
            && d.is_multiple_of(4)
            && !student.is_empty()
            && *n <= MOST
            && *weight == Shape::f32(&[*n])
        {
            return Ok(vec![weight.clone(), student.clone()]);
        }
        let got: Vec<String> = inputs.iter().map(Shape::to_string).collect();
        let takes = "student [N, H, W, C], teacher [N, H, W, D], weight [N] with C, D multiples of 4 and N at most 65535";
        Err(GraphError::Shape { op: self.name(), why: format!("takes {takes}, got {}", got.join(", ")) })
    }

    fn lower(&self, l: &Lowering) -> Lowered {
        let (n, pixels) = (l.inputs[2].len(), l.inputs[0].rows() / l.inputs[2].len());
        let launch = |entry, bind: &[Bind], channels: &Shape, groups| Launch {
            kernel: KernelId::new("attention", entry),
            bind: bind.to_vec(),
            params: vec![
                ("n", Param::U32(n as u32)),
                ("pixels", Param::U32(pixels as u32)),
                ("c4", Param::U32((channels.last() / 4) as u32)),
                ("beta", Param::F32(self.beta)),
            ],
            groups,
        };
        let rows = groups(n * pixels, 64);
        let map = |i| launch("map", &[("x", Slot::In(i)), ("attention", Slot::Scratch(i))], &l.inputs[i], rows);
        let pull = ("pull", Slot::Scratch(2));
        let compared =
            [("student", Slot::Scratch(0)), ("teacher", Slot::Scratch(1)), ("weight", Slot::In(2)), ("loss", Slot::Out(0)), pull];
        let compare = launch("compare", &compared, &l.inputs[0], [n as u32, 1, 1]);
        let spread_over = groups(l.inputs[0].len() / 4, 64);
        let spread = launch("spread", &[("x", Slot::In(0)), pull, ("gx", Slot::Out(1))], &l.inputs[0], spread_over);
        Lowered { scratch: vec![Shape::f32(&[n, pixels]); 3], launches: vec![map(0), map(1), compare, spread] }
    }

    fn oracle(&self, inputs: &[&Tensor], _: &Scalars) -> Vec<Tensor> {
        let [student, teacher, weight] = [0, 1, 2].map(|i| inputs[i]);
        let (n, c) = (weight.data.len(), student.shape.last());
        let pixels = student.shape.rows() / n;
        let map = |x: &Tensor, image: usize| -> (Vec<f64>, f64) {
            let c = x.shape.last();
            let rows = x.data[image * pixels * c..(image + 1) * pixels * c].chunks(c);
            let map: Vec<f64> = rows.map(|row| row.iter().map(|v| v * v).sum()).collect();
            let norm = map.iter().map(|a| a * a).sum::<f64>().sqrt();
            (map, norm)
        };
        let share = f64::from(self.beta) / pixels as f64;
        let mut loss = vec![0.0; n];
        let mut grad = vec![0.0; student.data.len()];
        for (image, loss) in loss.iter_mut().enumerate() {
            let [(mine, norm), (other, others_norm)] = [map(student, image), map(teacher, image)];
            let a: Vec<f64> = mine.iter().map(|v| v / (norm + LEAST)).collect();
            let d: Vec<f64> = a.iter().zip(&other).map(|(a, v)| a - v / (others_norm + LEAST)).collect();
            *loss = share * d.iter().map(|d| d * d).sum::<f64>();
            if weight.data[image] == 0.0 || norm == 0.0 {
                continue;
            }
            let along: f64 = d.iter().zip(&a).map(|(d, a)| d * a).sum();
            for p in 0..pixels {
                let pull = 2.0 * share * weight.data[image] * (d[p] - mine[p] / norm * along) / (norm + LEAST);
                let row = (image * pixels + p) * c;
                (row..row + c).for_each(|i| grad[i] = 2.0 * student.data[i] * pull);
            }
        }
        vec![Tensor::new(weight.shape.clone(), loss), Tensor::new(student.shape.clone(), grad)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let sizes = [([3, 4, 4, 8], 8), ([2, 7, 5, 12], 20), ([9, 1, 3, 4], 4), ([2, 33, 31, 16], 8)];
    let case = |([n, h, w, c], d): ([usize; 4], usize)| {
        // Half the weights are 0. Maps are sums of c squares; the sums over an image of positive numbers take few places more.
        Case::new(&format!("{:?} from {d} channels", [n, h, w, c]), Attention { beta: 500.0 })
            .f32(&[n, h, w, c], Fill::NORMAL)
            .f32(&[n, h, w, d], Fill::NORMAL)
            .f32(&[n], Fill::Index { below: 2 })
            .terms(h * w)
    };
    sizes.into_iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PyTorch in f64: `def at(x): a = x.abs().pow(2).sum(3, keepdim=True); return a / (a.norm(dim=(1, 2), keepdim=True) + 1e-6)`,
    /// `d = (at(s) - at(t)).pow(2)`, `500 * d.mean(dim=(1, 2, 3))`; `(500 * mse_loss(at(s), at(t))).backward()`, `s.grad`.
    #[test]
    fn the_loss_and_its_gradient_are_those_of_pytorch() {
        #[rustfmt::skip]
        let student = [
            0.5, -1.0, 0.0, 2.0, 1.5, 0.3, -0.2, 0.0, 0.0, 0.7, 1.1, -0.4,
            0.1, 0.2, 0.3, 0.4, -2.0, 0.5, 0.0, 1.0, 0.6, 0.0, -0.9, 0.8,
        ];
        #[rustfmt::skip]
        let teacher = [
            1.0, 0.0, 0.5, -0.5, 0.2, 0.9, 0.0, 1.4, -0.3, 0.8, 0.6, 0.0,
            0.7, -0.1, 0.4, 1.2, 0.0, 0.0, 1.3, 0.5, 2.0, -0.6, 0.3, 0.0,
        ];
        #[rustfmt::skip]
        let slopes = [
            7.144575757, -14.289151515, 0.0, 28.578303029, -42.511068547, -8.502213709, 5.668142473, 0.0,
            0.0, -2.847848298, -4.475190183, 1.627341885, -2.172302319, -4.344604639, -6.516906958, -8.689209277,
            -28.624944508, 7.156236127, 0.0, 14.312472254, -22.748138416, 0.0, 34.122207624, -30.330851221,
        ];
        let tensor = |dims: &[usize], data: &[f64]| Tensor::new(Shape::f32(dims), data.to_vec());
        let activations = [student, teacher, slopes].map(|data| tensor(&[2, 1, 3, 4], &data));
        // The mean over two images.
        let weight = tensor(&[2], &[0.5, 0.5]);
        let found = Attention { beta: 500.0 }.oracle(&[&activations[0], &activations[1], &weight], &Scalars::new());
        assert!(found[0].relative_error(&tensor(&[2], &[62.13823443570967, 119.50487217597865])) < 1e-12, "{:?}", found[0]);
        assert!(found[1].relative_error(&activations[2]) < 1e-9, "{:?}", found[1]);
    }

    #[test]
    fn refuses_maps_of_other_sizes() {
        let shapes = [Shape::f32(&[2, 4, 4, 8]), Shape::f32(&[2, 4, 2, 8]), Shape::f32(&[2])];
        let error = Attention { beta: 1.0 }.outputs(&shapes).expect_err("refused").to_string();
        assert!(error.ends_with("got [2, 4, 4, 8], [2, 4, 2, 8], [2]"), "{error}");
    }
}
