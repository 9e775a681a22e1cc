//! What stage 1 found, in words: whether there is a backdoor, where, what that means and what to do next.

use serde::Serialize;

use crate::data::Dataset;
use crate::defenses::dau::{Answer, ClassEvidence, Doubt, Finding, Findings, PooledEvidence, RATIO, SEPARATE};

const LIMITS: &str = "What this search cannot see: fewer than about forty poisoned images, often; a trigger that is another one in every image \
or moves about; a smooth or faint change that a linear model of the image does not follow; one picture copied many times. So \"none found\" does \
not certify the data.";

/// Classes whose numbers are given, the most separate first.
const NUMBERED: usize = 3;

/// The verdict on a training set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is a backdoor.
    pub answer: Answer,
    /// Whether there is a backdoor; null where there is too little to say.
    pub found: Option<bool>,
    /// Why there is too little to say.
    pub doubts: Vec<Doubt>,
    /// Training images flagged.
    pub flagged: usize,
    /// Whether the flagged images go through all classes.
    pub all_to_all: bool,
    /// Classes with flagged images, the most flagged first.
    pub classes: Vec<Accused>,
    /// What was seen of every class.
    pub evidence: Vec<ClassEvidence>,
    /// What was seen over all classes together.
    pub pooled: Option<PooledEvidence>,
    /// All of it in words, a paragraph each.
    pub words: Vec<String>,
}

/// A class with flagged images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accused {
    /// Its label.
    pub class: u32,
    /// Its name.
    pub name: String,
    /// Training images with its label.
    pub images: usize,
    /// Those of them that are flagged.
    pub flagged: usize,
    /// Those of the flagged that are more likely clean than poisoned: neither learned nor unlearned.
    pub doubtful: usize,
}

impl Verdict {
    /// What `findings` say of the training images `data`.
    pub fn new(data: &Dataset, findings: &Findings) -> Verdict {
        let split = &findings.split;
        let count =
            |class: u32, of: &dyn Fn(usize) -> bool| (0..data.len()).filter(|&i| data.labels[i] == class && of(i)).count();
        let counts = data.class_counts();
        let mut classes: Vec<Accused> = (0..data.classes.len() as u32)
            .map(|class| Accused {
                class,
                name: data.classes[class as usize].clone(),
                images: counts[class as usize],
                flagged: count(class, &|i| split.flagged[i]),
                doubtful: count(class, &|i| split.doubtful(i)),
            })
            .filter(|accused| accused.flagged > 0)
            .collect();
        classes.sort_by_key(|accused| std::cmp::Reverse(accused.flagged));
        let mut verdict = Verdict {
            answer: findings.answer,
            found: match findings.answer {
                Answer::Backdoor => Some(true),
                Answer::None => Some(false),
                Answer::Unclear => None,
            },
            doubts: findings.doubts.clone(),
            flagged: split.flagged.iter().filter(|f| **f).count(),
            all_to_all: findings.all_to_all,
            classes,
            evidence: findings.classes.clone(),
            pooled: findings.pooled.clone(),
            words: Vec::new(),
        };
        verdict.words = verdict.say(data);
        verdict
    }

    /// The words as a text, a paragraph a line.
    pub fn text(&self) -> String {
        self.words.join("\n") + "\n"
    }

    fn say(&self, data: &Dataset) -> Vec<String> {
        let mut words = match self.answer {
            Answer::Backdoor => self.backdoor(data),
            Answer::None => vec![
                format!("No backdoor was found: none of {} training images is flagged.", data.len()),
                "What was seen: in no class is there a group of images that stands out from everything else by more than groups of other \
                 classes do, as images with one trigger would."
                    .into(),
                "What to do: nothing, if you trust the source otherwise. If not, look at suspects.png and at the first images of suspects.csv: \
                 those stand out most."
                    .into(),
            ],
            Answer::Unclear => self.unclear(data),
        };
        let copies = |seen: &ClassEvidence| {
            let name = &data.classes[seen.class as usize];
            format!(
                "{} images of class `{name}` stand out because they are nearly the same picture (near-duplicates). That by itself flags none.",
                seen.duplicates
            )
        };
        words.extend(self.evidence.iter().filter(|seen| seen.duplicates > 0).map(copies));
        words.extend(self.numbers(data));
        words.push(LIMITS.into());
        words
    }

    fn backdoor(&self, data: &Dataset) -> Vec<String> {
        let percent = 100.0 * self.flagged as f64 / data.len().max(1) as f64;
        let mut words = if self.all_to_all {
            vec![
                format!("A backdoor was found that goes through {} classes: {} training images are flagged, {percent:.1} %.", self.classes.len(), self.flagged),
                "What it means: the flagged images share something, most likely a trigger, and their labels are not what they show. A network \
                 trained on them gives wrong answers wherever it sees the trigger."
                    .into(),
            ]
        } else {
            let names: Vec<String> = self.classes.iter().map(|c| format!("`{}`", c.name)).collect();
            let (named, class) = (names.join(", "), if names.len() == 1 { "class" } else { "classes" });
            vec![
                format!(
                    "A backdoor was found in {class} {named}: {} training images are flagged, {percent:.1} % of all.",
                    self.flagged
                ),
                format!(
                    "What it means: the flagged images share something, most likely a trigger, that sets them apart from all other images. A network \
                     trained on them can learn to answer {named} wherever it sees the trigger."
                ),
            ]
        };
        words.push(
            "What to do: look at suspects.png. If the flagged images are a harmless second kind (another camera, another source, another background), \
             keep them; if not, do not train on the images that suspects.csv calls poisoned. `dau defend` trains a network and \
             takes the backdoor out of it, `dau unlearn` takes it out of one that you have."
                .into(),
        );
        for Accused { name, images, flagged, doubtful, .. } in &self.classes {
            let mut line = format!("Class `{name}`: {flagged} of its {images} images are flagged.");
            if *doubtful > 0 {
                line +=
                    &format!(" {doubtful} of them have a score of 1/2 or less: more likely clean, but too doubtful to train on.");
            }
            words.push(line);
        }
        words
    }

    fn unclear(&self, data: &Dataset) -> Vec<String> {
        let name = |class: &u32| format!("`{}`", data.classes[*class as usize]);
        let mut words = vec![format!(
            "There is too little to say whether there is a backdoor: none was found among {} training images, but one could be there.",
            data.len()
        )];
        for doubt in &self.doubts {
            words.push(match doubt {
                Doubt::FewImages { images, wanted } => {
                    format!("Why: {images} images are few. A trigger often goes unseen below {wanted}.")
                }
                Doubt::FewClasses { classes } => {
                    format!("Why: with {classes} classes there is too little for a trigger to stand out from; 3 are needed.")
                }
                Doubt::SmallClasses { classes, wanted } => {
                    let names: Vec<String> = classes.iter().take(8).map(name).collect();
                    let more = if classes.len() > 8 { ", ..." } else { "" };
                    format!("Why: classes of fewer than {wanted} images are hardly looked at: {}{more}.", names.join(", "))
                }
                Doubt::NearDuplicates { class } => format!(
                    "Why: a group of images of class {} that are nearly the same picture stands out as much as images with a trigger do.",
                    name(class)
                ),
                Doubt::StandsOut { class } => {
                    let seen = self.evidence.iter().find(|seen| seen.class == *class);
                    let but = match seen {
                        Some(seen) if seen.separation < SEPARATE => "but by too little",
                        _ => "but groups of other classes, or the rest of their own class, do so nearly as much",
                    };
                    format!(
                        "Why: {} images of class {} stand out from everything else, {but}. The numbers are below.",
                        seen.map_or(0, |seen| seen.suspects),
                        name(class),
                    )
                }
                Doubt::ChangedAlike { images } => format!(
                    "Why: {images} images of several classes are changed in the same way, but their labels fit. They may come from another source, or \
                     cover a trigger that was not found."
                ),
            });
        }
        words.push(
            "What to do: look at suspects.png and at the first images of suspects.csv, which stand out most. Is there a mark, a tint or a pattern that \
             they share? More images of each class would say more."
                .into(),
        );
        words
    }

    /// The figures behind the answer.
    fn numbers(&self, data: &Dataset) -> Vec<String> {
        let mut order: Vec<&ClassEvidence> = self.evidence.iter().filter(|seen| seen.suspects > 0).collect();
        order.sort_by(|a, b| b.finding.accuses().cmp(&a.finding.accuses()).then(b.separation.total_cmp(&a.separation)));
        let mut words = vec![
            format!(
                "Numbers. Separation (Ashman's D) is how far a group of a class lies from all other images. A group counts as poison from {SEPARATE} on, if that \
                 is {RATIO} times the separation of the next class's group and of the rest of its own class."
            ),
            "A group counts as well if its labels do not fit: a model that has not seen the group gives it the names of many other classes. A network, \
             where there is one, must bear that out: by seeing the group as one, too, or by taking other images for the class once what the group shares \
             is put onto them."
                .into(),
            "The most separate groups, before it is decided image by image:".into(),
        ];
        for seen in order.iter().take(NUMBERED) {
            let mut line = format!(
                "- `{}`: {} of {} images, separation {:.1}",
                data.classes[seen.class as usize], seen.suspects, seen.images, seen.separation
            );
            if let (Some(entropy), Finding::Mislabelled | Finding::Transplanted) = (seen.entropy, seen.finding) {
                line += &format!(
                    "; a model that has not seen them gives them the names of other classes, as evenly spread as {:.0} % of the greatest possible entropy",
                    100.0 * entropy
                );
            }
            if let Some(share) = seen.transplant {
                line += &format!(
                    "; put onto images of other classes, what they share makes the network call {:.0} % of them `{}`",
                    100.0 * share,
                    data.classes[seen.class as usize]
                );
            }
            words.push(line + ".");
        }
        if let Some(pooled) = &self.pooled {
            words.push(format!(
                "- all classes together: {} images, separation {:.1}; such a set counts only if it goes through several classes, its labels do not \
                 fit, and it is more separate than each class's own group.",
                pooled.suspects, pooled.separation
            ));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defenses::Split;

    fn data() -> Dataset {
        Dataset {
            name: "test".into(),
            size: 1,
            classes: ["cat", "dog", "eel", "fox"].map(String::from).into(),
            pixels: vec![0; 24],
            labels: vec![0, 1, 1, 1, 2, 2, 0, 0],
            paths: vec![String::new(); 8],
        }
    }

    fn findings(answer: Answer, doubts: Vec<Doubt>, flagged: std::ops::Range<usize>) -> Findings {
        let seen = |class: u32, separation: f64| ClassEvidence {
            class,
            images: 3,
            suspects: 2,
            separation,
            within: 4.0,
            rest: 2.0,
            entropy: Some(0.97),
            own: Some(0.1),
            duplicates: usize::from(class == 2) * 74,
            duplicates_separation: 4.8,
            transplant: None,
            finding: if class == 1 { Finding::Mislabelled } else { Finding::Nothing },
        };
        Findings {
            answer,
            doubts,
            split: Split {
                score: (0..8).map(|i| [0.9, 0.2][i % 2]).collect(),
                flagged: (0..8).map(|i| flagged.contains(&i)).collect(),
            },
            suspicion: vec![0.0; 8],
            classes: vec![seen(0, 3.25), seen(1, 6.25), seen(2, 2.0), seen(3, 1.0)],
            pooled: None,
            all_to_all: false,
        }
    }

    #[test]
    fn a_backdoor_is_named_with_its_class_what_it_means_and_what_to_do() {
        let verdict = Verdict::new(&data(), &findings(Answer::Backdoor, Vec::new(), 2..4));
        assert_eq!((verdict.found, verdict.flagged, verdict.classes.len()), (Some(true), 2, 1));
        assert!(verdict.words[0] == "A backdoor was found in class `dog`: 2 training images are flagged, 25.0 % of all.");
        assert!(verdict.words[1].starts_with("What it means:") && verdict.words[2].starts_with("What to do:"));
        let text = verdict.text();
        for part in [
            "Class `dog`: 2 of its 3 images are flagged. 1 of them have a score of 1/2 or less",
            "74 images of class `eel` stand out because they are nearly the same picture",
            "- `dog`: 2 of 3 images, separation 6.2; a model that has not seen them",
            "- `cat`: 2 of 3 images, separation 3.2.",
            "does not certify",
        ] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
        assert!(!text.contains("`fox`"), "only the three most separate: {text}");
    }

    #[test]
    fn poison_of_all_classes_is_called_so() {
        let all = Findings { all_to_all: true, ..findings(Answer::Backdoor, Vec::new(), 0..5) };
        let verdict = Verdict::new(&data(), &all);
        assert_eq!(verdict.words[0], "A backdoor was found that goes through 3 classes: 5 training images are flagged, 62.5 %.");
    }

    /// The first three lines are for users who do not know the method.
    #[test]
    fn three_answers_in_words_without_the_methods_terms() {
        let few = vec![Doubt::FewImages { images: 8, wanted: 1000 }, Doubt::StandsOut { class: 1 }];
        for (answer, doubts, flagged, found, start) in [
            (Answer::Backdoor, Vec::new(), 2..4, Some(true), "A backdoor was found"),
            (Answer::None, Vec::new(), 0..0, Some(false), "No backdoor was found: none of 8"),
            (Answer::Unclear, few, 0..0, None, "There is too little to say"),
        ] {
            let verdict = Verdict::new(&data(), &findings(answer, doubts, flagged));
            assert_eq!(verdict.found, found);
            assert!(verdict.text().starts_with(start), "{}", verdict.text());
            for term in ["entropy", "halves", "names", "Ashman", "separation"] {
                assert!(verdict.words[..3].iter().all(|line| !line.contains(term)), "{term}: {:?}", &verdict.words[..3]);
            }
        }
    }
}
