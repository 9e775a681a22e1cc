//! What the flagged images have in common, put onto clean ones: an estimate of the trigger from moments of pixels.

use crate::data::Dataset;

/// Fewer flagged images say nothing of a trigger.
const LEAST: usize = 8;
/// So many clean images are taken to lie among the flagged: few flagged ones are not taken at their word.
const PRIOR: f64 = 2.0;
/// A pixel that varies less than this, in squared grey levels, has no contrast to change.
const CONSTANT: f64 = 1.0;

/// x' = scale x + shift, for every pixel and colour.
///
/// The map takes the clean images' mean and variance of a pixel to those of the flagged: x' = (x - m) s_f / s + m_f. What was
/// added shifts the mean, what was blended in lowers the contrast too, what was pasted over has none: scale 0.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trigger {
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// The flagged images look like those of the class that they are labelled as.
    pub(super) labels_right: bool,
}

/// Mean and variance of every pixel and colour.
struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

/// Sums over the images of one kind: whole numbers, so the order of adding is of no account.
struct Sums {
    count: u64,
    sum: Vec<u64>,
    square: Vec<u64>,
}

impl Sums {
    fn new(values: usize) -> Sums {
        Sums { count: 0, sum: vec![0; values], square: vec![0; values] }
    }

    fn add(&mut self, image: &[u8]) {
        self.count += 1;
        for ((sum, square), &x) in self.sum.iter_mut().zip(&mut self.square).zip(image) {
            *sum += u64::from(x);
            *square += u64::from(x) * u64::from(x);
        }
    }
}

/// Moments of a mixture of `groups` by `weights`; those without images are left out. None if no weight is left.
fn mixture(groups: &[Sums], weights: &[f64]) -> Option<Moments> {
    let used: Vec<(&Sums, f64)> = groups.iter().zip(weights.iter().copied()).filter(|(g, w)| g.count > 0 && *w > 0.0).collect();
    let total: f64 = used.iter().map(|(_, w)| w).sum();
    let values = groups.first()?.sum.len();
    if used.is_empty() {
        return None;
    }
    let (mut mean, mut square) = (vec![0.0; values], vec![0.0; values]);
    for (group, weight) in used {
        let weight = weight / total / group.count as f64;
        for i in 0..values {
            mean[i] += weight * group.sum[i] as f64;
            square[i] += weight * group.square[i] as f64;
        }
    }
    let variance = square.iter().zip(&mean).map(|(q, m)| (q - m * m).max(0.0)).collect();
    Some(Moments { mean, variance })
}

impl Trigger {
    /// From the flagged and the clean images of `data`. None where there are too few.
    ///
    /// Flagged images come from some mixture of classes, and the clean ones they are compared with should come from the same. Two are
    /// tried: the classes that the flagged are labelled as (labels that are right), and every class but that, as frequent as it is
    /// (labels that are wrong). The one whose mean is nearer to the flagged images' is taken: a wrong one adds the difference between
    /// the classes.
    pub(super) fn estimate(data: &Dataset, flagged: &[usize], clean: &[usize]) -> Option<Trigger> {
        if flagged.len() < LEAST {
            return None;
        }
        let (values, classes) = (data.size * data.size * 3, data.classes.len());
        let mut by_class: Vec<Sums> = (0..classes).map(|_| Sums::new(values)).collect();
        clean.iter().for_each(|&i| by_class[data.labels[i] as usize].add(data.image(i)));
        let mut suspect = [Sums::new(values)];
        flagged.iter().for_each(|&i| suspect[0].add(data.image(i)));
        let mut own = vec![0.0; classes];
        flagged.iter().for_each(|&i| own[data.labels[i] as usize] += 1.0 / flagged.len() as f64);
        let others = others(&own, &by_class);

        let seen = mixture(&suspect, &[1.0])?;
        let apart = |m: &Moments| -> f64 { m.mean.iter().zip(&seen.mean).map(|(a, b)| (a - b) * (a - b)).sum() };
        let mixtures = [(mixture(&by_class, &others), false), (mixture(&by_class, &own), true)];
        let mixtures = mixtures.into_iter().filter_map(|(moments, right)| Some((moments?, right)));
        let (clean, labels_right) = mixtures.min_by(|(a, _), (b, _)| apart(a).total_cmp(&apart(b)))?;

        let n = flagged.len() as f64;
        let blend = |seen: f64, clean: f64| (n * seen + PRIOR * clean) / (n + PRIOR);
        let (mut scale, mut shift) = (Vec::with_capacity(values), Vec::with_capacity(values));
        for i in 0..values {
            let mean = blend(seen.mean[i], clean.mean[i]);
            let contrast = match clean.variance[i] {
                flat if flat < CONSTANT => 1.0,
                variance => (blend(seen.variance[i], variance) / variance).sqrt(),
            };
            scale.push(contrast as f32);
            shift.push((mean - contrast * clean.mean[i]) as f32);
        }
        Some(Trigger { scale, shift, labels_right })
    }

    /// Puts the trigger onto an image, [size, size, 3].
    pub(super) fn put(&self, image: &mut [u8]) {
        for ((x, scale), shift) in image.iter_mut().zip(&self.scale).zip(&self.shift) {
            // `as` clamps to 0..=255.
            *x = (scale * f32::from(*x) + shift).round() as u8;
        }
    }
}

/// The mixture of classes that images come from whose labels, `own` of each class, are all wrong.
fn others(own: &[f64], by_class: &[Sums]) -> Vec<f64> {
    let all: u64 = by_class.iter().map(|s| s.count).sum();
    let mut mix = vec![0.0; own.len()];
    for (label, share) in own.iter().enumerate() {
        let rest = all - by_class[label].count;
        for (class, sums) in by_class.iter().enumerate().filter(|(class, _)| *class != label && rest > 0) {
            mix[class] += share * sums.count as f64 / rest as f64;
        }
    }
    mix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use rand::RngExt;

    const SIZE: usize = 4;
    const VALUES: usize = SIZE * SIZE * 3;

    /// Three classes of noisy images, class c about 60 + 40 c bright.
    fn data(each: usize) -> Dataset {
        let mut noise = rng::stream(5, "noise");
        let labels: Vec<u32> = (0..3 * each).map(|i| (i % 3) as u32).collect();
        let pixels =
            labels.iter().flat_map(|&c| (0..VALUES).map(|_| 40 + 40 * c as u8 + noise.random_range(0..40u8)).collect::<Vec<_>>());
        Dataset {
            name: "noise".into(),
            size: SIZE,
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            pixels: pixels.collect(),
            paths: (0..labels.len()).map(|i| i.to_string()).collect(),
            labels,
        }
    }

    /// Gives every image of `which` a trigger and the label 0; the rest is clean.
    fn attacked(which: impl Fn(usize, u32) -> bool, trigger: impl Fn(usize, u8) -> u8) -> (Dataset, Vec<usize>, Vec<usize>) {
        let mut data = data(600);
        let (flagged, clean): (Vec<usize>, Vec<usize>) = (0..data.len()).partition(|&i| which(i, data.labels[i]));
        for &i in &flagged {
            data.labels[i] = 0;
            data.pixels[i * VALUES..][..VALUES].iter_mut().enumerate().for_each(|(at, x)| *x = trigger(at, *x));
        }
        (data, flagged, clean)
    }

    /// The largest difference, in grey levels, between the true trigger and the estimated one on the clean images.
    fn error(trigger: impl Fn(usize, u8) -> u8, which: impl Fn(usize, u32) -> bool) -> u8 {
        let (data, flagged, clean) = attacked(&which, &trigger);
        let found = Trigger::estimate(&data, &flagged, &clean).expect("enough images");
        assert_eq!(found.labels_right, which(0, 0));
        let mut worst = 0;
        for &i in &clean {
            let mut image = data.image(i).to_vec();
            found.put(&mut image);
            for (at, (x, found)) in data.image(i).iter().zip(image).enumerate() {
                worst = worst.max(trigger(at, *x).abs_diff(found));
            }
        }
        worst
    }

    #[test]
    fn what_was_added_blended_or_pasted_is_found_whatever_classes_it_lies_on() {
        let add = |at: usize, x: u8| x + 30 * (at % 2) as u8;
        let blend = |at: usize, x: u8| (0.8 * f32::from(x) + 0.2 * (at * 5 % 256) as f32).round() as u8;
        let paste = |at: usize, x: u8| if at < 9 { 250 } else { x };
        let wrong = |i: usize, label: u32| label != 0 && i.is_multiple_of(4);
        let right = |i: usize, label: u32| label == 0 && i.is_multiple_of(2);
        for (name, worst) in [
            ("added, wrong labels", error(add, wrong)),
            ("added, right labels", error(add, right)),
            ("blended, wrong labels", error(blend, wrong)),
            ("blended, right labels", error(blend, right)),
            ("pasted, wrong labels", error(paste, wrong)),
        ] {
            // Means of 300 images are known to about 2 grey levels; classes lie 40 apart.
            assert!(worst <= 10, "{name}: {worst} grey levels off");
        }
    }

    #[test]
    fn few_images_or_none_clean_give_no_trigger() {
        let data = data(20);
        let all: Vec<usize> = (0..data.len()).collect();
        assert_eq!(Trigger::estimate(&data, &all[..LEAST - 1], &all[LEAST..]), None);
        assert!(Trigger::estimate(&data, &all[..LEAST], &all[LEAST..]).is_some());
        assert_eq!(Trigger::estimate(&data, &all, &[]), None);
    }
}
