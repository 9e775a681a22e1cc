//! What stage 1 found, in words: whether there is a backdoor, where, what that means and what to do next.

use serde::Serialize;

use crate::data::Dataset;
use crate::defenses::dau::{ClassEvidence, Finding, Findings, PooledEvidence};

/// The verdict on a training set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is a backdoor; null where there is too little to say.
    pub found: Option<bool>,
    /// Training images flagged.
    pub flagged: usize,
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
    pub class: u32,
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
        let flagged = split.flagged.iter().filter(|f| **f).count();
        let found = Some(flagged > 0);
        let (evidence, pooled) = (findings.classes.clone(), findings.pooled.clone());
        Verdict { found, flagged, classes, evidence, pooled, words: Vec::new() }
    }

    /// The words as a text, a paragraph a line.
    pub fn text(&self) -> String {
        self.words.join("\n") + "\n"
    }
}
