//! Which images of a class go where: every choice here is per class, so classes keep their shares.

use crate::rng::{shuffle, stream};

/// The places of each class's images: `[classes]` of ascending indices.
fn members(labels: &[u32], classes: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); classes];
    for (i, &label) in labels.iter().enumerate() {
        members[label as usize].push(i);
    }
    members
}

/// At most `n` places of each class, chosen by `seed`, ascending. A smaller `n` chooses among a larger one's.
pub(super) fn choose_per_class(labels: &[u32], classes: usize, n: usize, seed: u64) -> Vec<usize> {
    let mut rng = stream(seed, "limit per class");
    let mut chosen = Vec::new();
    for mut class in members(labels, classes) {
        shuffle(&mut rng, &mut class);
        chosen.extend(class.into_iter().take(n));
    }
    chosen.sort_unstable();
    chosen
}

/// Splits places into (training, test), both ascending, `test_of(n)` of a class's n images being test images. These lie
/// evenly among the others: image j of n is one if floor(k (j+1) / n) > floor(k j / n), k = test_of(n). No seed: the
/// split of a dataset is one and the same in every run.
pub(super) fn hold_out(labels: &[u32], classes: usize, test_of: impl Fn(usize) -> usize) -> (Vec<usize>, Vec<usize>) {
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for class in members(labels, classes) {
        let (n, k) = (class.len(), test_of(class.len()));
        for (j, i) in class.into_iter().enumerate() {
            let part = if k * (j + 1) / n > k * j / n { &mut test } else { &mut train };
            part.push(i);
        }
    }
    train.sort_unstable();
    test.sort_unstable();
    (train, test)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Dataset;
    use super::*;
    use proptest::prelude::*;
    use rand::RngExt;

    /// `n` images of seeded noise, labels drawn at random; image i comes from path "#i".
    pub fn noise(n: usize, size: usize, classes: usize, seed: u64) -> Dataset {
        let mut rng = stream(seed, "noise");
        Dataset {
            name: "noise".into(),
            size,
            classes: (0..classes).map(|c| format!("class {c}")).collect(),
            pixels: (0..n * size * size * 3).map(|_| rng.random()).collect(),
            labels: (0..n).map(|_| rng.random_range(0..classes as u32)).collect(),
            paths: (0..n).map(|i| format!("#{i}")).collect(),
        }
    }

    proptest! {
        #[test]
        fn a_split_gives_each_image_to_one_part_and_each_class_its_share(
            labels in prop::collection::vec(0u32..4, 0..200), fifth in 2usize..6
        ) {
            let (train, test) = hold_out(&labels, 4, |n| n / fifth);
            let mut all: Vec<_> = train.iter().chain(&test).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for class in 0..4 {
                let of_class = |part: &[usize]| part.iter().filter(|&&i| labels[i] == class).count();
                prop_assert_eq!(of_class(&test), (of_class(&train) + of_class(&test)) / fifth);
            }
        }
    }
}
