//! The answer to "is there a backdoor?": yes, none found, or too little to say.

use serde::{Deserialize, Serialize};

use super::evidence::{ClassEvidence, Finding, PooledEvidence, SEPARATE};

/// With fewer images a trigger in a tenth of them often goes unseen (docs/method.md).
const FEW_IMAGES: usize = 1000;
/// Classes of fewer images are hardly looked at.
const FEW_OF_A_CLASS: usize = 40;
/// With fewer classes a set has too little to stand out from.
const FEW_CLASSES: usize = 3;
/// Separation from which a set that stands out from the other classes' sets is worth a look.
const CURIOUS: f64 = 4.2;
/// So many times the next class's separation.
const CURIOUS_RATIO: f64 = 1.25;
/// Separation that no clean data has shown.
const UNHEARD_OF: f64 = 10.0;

/// What can be said of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "what is counted is named")]
pub enum Doubt {
    /// So few images that a trigger often goes unseen.
    FewImages { images: usize, wanted: usize },
    /// Fewer than three classes.
    FewClasses { classes: usize },
    /// Classes of so few images that they were hardly looked at, or not at all.
    SmallClasses { classes: Vec<u32>, wanted: usize },
    /// A class's set stands out from everything else, but by too little or for another reason than a trigger.
    StandsOut { class: u32 },
    /// A class's set of near-duplicates is as separate from everything else as poison is.
    NearDuplicates { class: u32 },
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
    if classes.len() < FEW_CLASSES {
        doubts.push(Doubt::FewClasses { classes: classes.len() });
    }
    let small: Vec<u32> = classes.iter().filter(|c| c.images < FEW_OF_A_CLASS).map(|c| c.class).collect();
    if !small.is_empty() {
        doubts.push(Doubt::SmallClasses { classes: small, wanted: FEW_OF_A_CLASS });
    }
    let next = |class: u32| classes.iter().filter(|c| c.class != class).map(|c| c.separation).fold(0.0, f64::max);
    let stands_out = |c: &&ClassEvidence| {
        let above = c.separation >= CURIOUS && c.separation >= CURIOUS_RATIO * next(c.class);
        above || c.separation >= UNHEARD_OF || c.finding == Finding::Unconfirmed
    };
    doubts.extend(classes.iter().filter(stands_out).map(|c| Doubt::StandsOut { class: c.class }));
    let copies = classes.iter().filter(|c| c.duplicates_separation >= SEPARATE);
    doubts.extend(copies.map(|c| Doubt::NearDuplicates { class: c.class }));
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
            rest: 2.0,
            entropy: None,
            own: None,
            duplicates: 0,
            duplicates_separation: 0.0,
            transplant: None,
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
        assert_eq!(of(5000, [18.9, 18.8, 18.0]).1.len(), 3, "more than any clean data has");
        let mut small = [class(0, 3.0, Finding::Nothing), class(1, 0.0, Finding::Small), class(2, 3.0, Finding::Nothing)];
        small[1].images = 12;
        assert_eq!(answer(false, 5000, &small, None).1, [Doubt::SmallClasses { classes: vec![1], wanted: 40 }]);
        small[1].images = 500;
        small[1].duplicates_separation = 5.5;
        assert_eq!(answer(false, 5000, &small, None).1, [Doubt::NearDuplicates { class: 1 }]);
        assert_eq!(answer(false, 5000, &small[..1], None).1, [Doubt::FewClasses { classes: 1 }]);
        assert_eq!(answer(true, 30, &small, None), (Answer::Backdoor, Vec::new()));
    }
}
