//! The answer to "is there a backdoor?": yes, none found, or too little to say.

use serde::Serialize;

use super::evidence::{ClassEvidence, Finding, PooledEvidence};

/// With fewer images a trigger in a tenth of them often goes unseen (docs/method.md).
const FEW_IMAGES: usize = 1000;
/// Separation from which a set that stands out from the other classes' sets is worth a look.
const CURIOUS: f64 = 4.2;
/// So many times the next class's separation.
const CURIOUS_RATIO: f64 = 1.4;

/// What can be said of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// A backdoor was found.
    Backdoor,
    /// None was found, by a search that finds most.
    None,
    /// None was found, but this data does not let the search find much, or something is not clear.
    Unclear,
}

/// Why there is too little to say.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Doubt {
    /// So few images that a trigger often goes unseen.
    FewImages { images: usize, wanted: usize },
    /// Classes of fewer than twenty images, which were not looked at.
    SmallClasses { classes: Vec<u32> },
    /// A class's set stands out from the other classes' sets, but not by enough.
    StandsOut { class: u32 },
    /// Images of several classes are changed alike, but their labels fit.
    ChangedAlike { images: usize },
}

/// The answer, and why it is [`Answer::Unclear`].
pub(super) fn answer(
    flagged: bool,
    images: usize,
    classes: &[ClassEvidence],
    pooled: Option<&PooledEvidence>,
) -> (Answer, Vec<Doubt>) {
    if flagged {
        return (Answer::Backdoor, Vec::new());
    }
    let mut doubts = Vec::new();
    if images < FEW_IMAGES {
        doubts.push(Doubt::FewImages { images, wanted: FEW_IMAGES });
    }
    let small: Vec<u32> = classes.iter().filter(|c| c.finding == Finding::Small).map(|c| c.class).collect();
    if !small.is_empty() {
        doubts.push(Doubt::SmallClasses { classes: small });
    }
    let mut order: Vec<&ClassEvidence> = classes.iter().collect();
    order.sort_by(|a, b| b.separation.total_cmp(&a.separation));
    let next = order.get(1).map_or(0.0, |c| c.separation);
    let unconfirmed = classes.iter().filter(|c| c.finding == Finding::Unconfirmed);
    doubts.extend(unconfirmed.map(|c| Doubt::StandsOut { class: c.class }));
    let curious = |c: &&&ClassEvidence| c.separation >= CURIOUS && c.separation >= CURIOUS_RATIO * next;
    if let Some(first) = order.first().filter(curious).filter(|c| c.finding != Finding::Unconfirmed) {
        doubts.push(Doubt::StandsOut { class: first.class });
    }
    if let Some(pooled) = pooled.filter(|p| p.stands_out()) {
        doubts.push(Doubt::ChangedAlike { images: pooled.suspects });
    }
    (if doubts.is_empty() { Answer::None } else { Answer::Unclear }, doubts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(class: u32, separation: f64, finding: Finding) -> ClassEvidence {
        ClassEvidence {
            class,
            images: 500,
            suspects: 30,
            separation,
            within: 3.0,
            entropy: None,
            own: None,
            duplicates: 0,
            finding,
        }
    }

    fn of(images: usize, separations: [f64; 3]) -> (Answer, Vec<Doubt>) {
        let classes: Vec<ClassEvidence> = (0..3).map(|k| class(k, separations[k as usize], Finding::Nothing)).collect();
        answer(false, images, &classes, None)
    }

    #[test]
    fn nothing_that_stands_out_in_enough_images_is_none_found() {
        assert_eq!(of(1000, [3.4, 3.1, 2.0]), (Answer::None, Vec::new()));
        // Easy data: every class has a separate set, and none stands out.
        assert_eq!(of(1000, [7.2, 7.0, 6.8]).0, Answer::None);
    }

    #[test]
    fn few_images_small_classes_and_what_nearly_stands_out_are_too_little_to_say() {
        assert_eq!(of(999, [3.4, 3.1, 2.0]), (Answer::Unclear, vec![Doubt::FewImages { images: 999, wanted: 1000 }]));
        assert_eq!(of(5000, [2.0, 4.6, 3.1]), (Answer::Unclear, vec![Doubt::StandsOut { class: 1 }]));
        let small = [class(0, 3.0, Finding::Nothing), class(1, 0.0, Finding::Small)];
        assert_eq!(answer(false, 5000, &small, None), (Answer::Unclear, vec![Doubt::SmallClasses { classes: vec![1] }]));
        assert_eq!(answer(true, 30, &small, None), (Answer::Backdoor, Vec::new()));
    }
}
