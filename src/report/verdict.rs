//! What stage 1 found, in words: whether there is a backdoor, whose, how sure that is, and what cannot be seen.

use serde::Serialize;

use crate::data::Dataset;
use crate::defenses::dau::{ClassEvidence, Finding, Findings, Prefilter};

/// From this share of the greatest possible entropy, or of other classes' images taken along, the evidence counts as strong; a class
/// needs 75 or 40 %.
const STRONG: f64 = 0.85;

const LIMITS: &str = "What this cannot see: poison that keeps its label (clean-label) or comes from a single class, unless its trigger \
is nearly the same in every image; poison that goes from each class to the next (all-to-all); fewer than about a dozen poisoned images; \
a class of which less than 2 % or more than 95 % is poison; often triggers that are elsewhere in every image. So \"no backdoor found\" does not certify the data.";

/// The verdict on a training set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is a backdoor; null where the method cannot tell, by loss or with few classes.
    pub found: Option<bool>,
    /// Training images flagged.
    pub flagged: usize,
    /// Classes that a backdoor aims at, the most flagged first.
    pub classes: Vec<Accused>,
    /// All of it in words, a paragraph each.
    pub words: Vec<String>,
}

/// A class that a backdoor aims at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accused {
    pub class: u32,
    pub name: String,
    /// Training images with its label.
    pub images: usize,
    /// Those of them that are flagged.
    pub flagged: usize,
    /// Those of the flagged that are more likely clean than poisoned: neither learned nor unlearned.
    pub doubtful: usize,
    /// Ashman's D between its two halves; 3 is needed. Null by loss.
    pub distinct: Option<f64>,
    /// Share of the greatest possible entropy of the names that unseen suspects are given; .75 is needed. Null where not asked.
    pub entropy: Option<f64>,
    /// Share of other classes' images that the network calls by the class's name once the mean difference of the two halves is added; .4
    /// is needed, unless the entropy is enough. Null where not asked.
    pub transfer: Option<f64>,
    /// strong, fair or weak.
    pub sure: &'static str,
}

impl Verdict {
    /// What `findings` say of the training images `data`; `confirm` as the search was told.
    pub fn new(data: &Dataset, findings: &Findings, prefilter: Prefilter, confirm: bool) -> Verdict {
        let split = &findings.split;
        let count =
            |class: u32, of: &dyn Fn(usize) -> bool| (0..data.len()).filter(|&i| data.labels[i] == class && of(i)).count();
        let seen = |class: u32| findings.classes.iter().find(|seen| seen.class == class);
        let counts = data.class_counts();
        let mut classes: Vec<Accused> = (0..data.classes.len() as u32)
            .map(|class| {
                let (entropy, transfer) = seen(class).map_or((None, None), |seen| (seen.entropy, seen.transfer));
                Accused {
                    class,
                    name: data.classes[class as usize].clone(),
                    images: counts[class as usize],
                    flagged: count(class, &|i| split.flagged[i]),
                    doubtful: count(class, &|i| split.doubtful(i)),
                    distinct: seen(class).map(|seen| seen.distinct),
                    entropy,
                    transfer,
                    sure: match entropy.into_iter().chain(transfer).reduce(f64::max) {
                        Some(most) if most >= STRONG => "strong",
                        Some(_) if confirm => "fair",
                        _ => "weak",
                    },
                }
            })
            .filter(|accused| accused.flagged > 0)
            .collect();
        classes.sort_by_key(|accused| std::cmp::Reverse(accused.flagged));
        let total = findings.split.flagged.iter().filter(|f| **f).count();
        // Below four classes nothing is asked of the entropy.
        let asked = findings.classes.iter().any(|seen| seen.entropy.is_some()) || data.classes.len() >= 4;
        let found = (prefilter == Prefilter::Ridge && confirm && asked).then_some(total > 0);
        let mut verdict = Verdict { found, flagged: total, classes, words: Vec::new() };
        verdict.words = verdict.say(data, &findings.classes, prefilter);
        verdict
    }

    /// The words as a text, a paragraph a line.
    pub fn text(&self) -> String {
        self.words.join("\n") + "\n"
    }

    fn say(&self, data: &Dataset, seen: &[ClassEvidence], prefilter: Prefilter) -> Vec<String> {
        let percent = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
        let mut words = vec![match (self.found, self.flagged) {
            (Some(true), _) => "A backdoor was found.".to_string(),
            (Some(false), _) => format!("No backdoor was found: none of {} training images is flagged.", data.len()),
            (None, 0) => "No verdict: nothing is flagged, but this search cannot tell clean data from poisoned.".into(),
            (None, n) => format!("No verdict: {n} training images are flagged, but this search flags some of clean data, too."),
        }];
        if prefilter == Prefilter::Loss {
            words.push("By loss the images that were learned first are flagged, whether there is poison or not.".into());
        } else if self.found.is_none() {
            let few = data.classes.len() < 4;
            let why = if few { "with fewer than four classes nothing can be confirmed" } else { "nothing was to be confirmed" };
            words.push(format!("Classes in two distinct halves are looked at, but {why}."));
        }
        for accused in &self.classes {
            let Accused { name, images, flagged, doubtful, distinct, entropy, transfer, sure, .. } = accused;
            let share = percent(*flagged, data.len());
            let mut aim =
                format!("It aims at class `{name}`: {flagged} of the {images} images with that label are flagged, {share:.1} % ");
            aim += "of all training images.";
            if *doubtful > 0 {
                aim += &format!(" {doubtful} of them are in doubt (a score of 1/2 at most): left out, not unlearned.");
            }
            words.push(aim);
            let apart = distinct.map(|d| format!("the two groups in the class lie {d:.1} apart (Ashman's D; 3 is needed)"));
            let names = entropy.map(|e| {
                format!(
                    "the names of other classes that a model which has not seen them calls one group by have {:.0} % of the greatest possible \
                     entropy (75 % are many)",
                    100.0 * e
                )
            });
            let taken = transfer.map(|t| {
                format!(
                    "what sets the groups apart, added to images of other classes, has the network call {:.0} % of them `{name}` (40 % is a \
                     trigger at work)",
                    100.0 * t
                )
            });
            let why: Vec<String> = [apart, names, taken].into_iter().flatten().collect();
            let why =
                if why.is_empty() { "they were learned first, which clean images can be too".into() } else { why.join(", and ") };
            words.push(format!("How sure: the evidence is {sure}; {why}."));
        }
        let varied: Vec<&ClassEvidence> = seen.iter().filter(|seen| seen.finding == Finding::Varied).collect();
        if !varied.is_empty() {
            let named = |seen: &&ClassEvidence| match seen.entropy {
                Some(e) => format!("`{}` ({:.0} %)", data.classes[seen.class as usize], 100.0 * e),
                None => format!("`{}`", data.classes[seen.class as usize]),
            };
            words.push(format!(
                "Not flagged, though in two distinct groups: {}. The names that these are given are too few for poison from many \
                 classes, and what sets them apart does not take other images along; most often they are varieties. Poison from one class, or \
                 with its own label, can look the same: see suspects.png.",
                varied.iter().map(named).collect::<Vec<_>>().join(", ")
            ));
        }
        words.push(LIMITS.into());
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defenses::dau::Split;

    fn data(classes: &[&str]) -> Dataset {
        Dataset {
            name: "test".into(),
            size: 1,
            classes: classes.iter().map(|c| c.to_string()).collect(),
            pixels: vec![0; 24],
            labels: vec![0, 1, 1, 1, 2, 2, 0, 0],
            paths: vec![String::new(); 8],
        }
    }

    fn findings(flagged: [usize; 2], classes: Vec<ClassEvidence>) -> Findings {
        let flagged: Vec<bool> = (0..8).map(|i| (flagged[0]..flagged[1]).contains(&i)).collect();
        Findings {
            split: Split { score: (0..8).map(|i| [0.9, 0.2][i % 2]).collect(), flagged },
            suspicion: vec![0.0; 8],
            classes,
        }
    }

    fn seen(class: u32, entropy: f64, finding: Finding) -> ClassEvidence {
        ClassEvidence { class, samples: 3, half: 2, distinct: 6.25, entropy: Some(entropy), transfer: Some(0.625), finding }
    }

    #[test]
    fn a_backdoor_is_named_with_its_class_its_count_and_its_evidence() {
        let evidence = vec![seen(0, 0.6, Finding::Varied), seen(1, 0.91, Finding::Backdoor)];
        let verdict = Verdict::new(&data(&["cat", "dog", "eel", "fox"]), &findings([2, 4], evidence), Prefilter::Ridge, true);
        assert_eq!((verdict.found, verdict.flagged, verdict.classes.len()), (Some(true), 2, 1));
        assert_eq!((verdict.classes[0].name.as_str(), verdict.classes[0].sure), ("dog", "strong"));
        let text = verdict.text();
        for part in [
            "A backdoor was found.",
            "class `dog`: 2 of the 3 images with that label are flagged, 25.0 %",
            "1 of them are in doubt",
            "lie 6.2 apart",
            "91 % of the greatest",
            "call 62 % of them `dog`",
            "`cat` (60 %)",
            "does not certify",
        ] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
    }

    #[test]
    fn clean_data_is_said_to_show_none_and_what_cannot_be_seen() {
        let verdict = Verdict::new(&data(&["a", "b", "c", "d"]), &findings([0, 0], Vec::new()), Prefilter::Ridge, true);
        assert_eq!((verdict.found, verdict.words.len()), (Some(false), 2));
        assert!(verdict.text().starts_with("No backdoor was found: none of 8 training images is flagged."));
    }

    #[test]
    fn where_the_search_cannot_tell_there_is_no_verdict() {
        let of = |classes: &[&str], prefilter, confirm| {
            Verdict::new(&data(classes), &findings([1, 2], Vec::new()), prefilter, confirm)
        };
        let four = ["a", "b", "c", "d"];
        for (verdict, why) in [
            (of(&four, Prefilter::Loss, true), "learned first"),
            (of(&four, Prefilter::Ridge, false), "nothing was to be confirmed"),
            (of(&four[..3], Prefilter::Ridge, true), "fewer than four classes"),
        ] {
            assert_eq!(verdict.found, None);
            assert!(verdict.text().contains(why) && verdict.classes[0].sure == "weak", "{}", verdict.text());
        }
    }
}
