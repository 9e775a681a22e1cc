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

/// Sets a share of each class aside, at least one image of a class of two or more, chosen by `seed`: (the rest, what is set aside),
/// both ascending.
pub(super) fn set_aside(labels: &[u32], classes: usize, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut rng = stream(seed, "set aside");
    let (mut rest, mut aside) = (Vec::new(), Vec::new());
    for mut class in members(labels, classes) {
        shuffle(&mut rng, &mut class);
        let count = ((share * class.len() as f64).round() as usize).max(1).min(class.len().saturating_sub(1));
        aside.extend_from_slice(&class[..count]);
        rest.extend_from_slice(&class[count..]);
    }
    rest.sort_unstable();
    aside.sort_unstable();
    (rest, aside)
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

    #[test]
    fn a_share_of_each_class_is_set_aside() {
        let labels: Vec<u32> = (0..203)
            .map(|i| {
                if i < 100 {
                    0
                } else if i < 140 {
                    1
                } else if i < 202 {
                    2
                } else {
                    3
                }
            })
            .collect();
        let (rest, aside) = set_aside(&labels, 5, 0.05, 7);
        let of = |part: &[usize]| (0..5).map(|class| part.iter().filter(|&&i| labels[i] == class).count()).collect::<Vec<_>>();
        assert_eq!((of(&aside), of(&rest)), (vec![5, 2, 3, 0, 0], vec![95, 38, 59, 1, 0]));
        let mut all = [rest, aside.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..203).collect::<Vec<_>>());
        assert_ne!(set_aside(&labels, 5, 0.05, 8).1, aside, "another seed sets others aside");
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
