//! What the images alone say: which class holds a set that is separate from everything else, whether that is poison, and whether poison is
//! spread over all classes. No network is asked.

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::candidates::{self, Candidate, FEWEST, Found, LEAST, overlap};
use super::ridge::{ClassRows, Classifier, Ridge, View};
use super::statistics::{Moments, entropy, quantile, separation};
use crate::data::Dataset;
use crate::train::{Observer, TrainError};

/// Rounds of refinement within a class, at the latest.
const REFINEMENTS: usize = 10;
/// Rounds of self-training over all classes, at the latest; during the first of them the set keeps its size.
const POOLED_ROUNDS: usize = 20;
const POOLED_FIXED: usize = 3;
/// Shares of every class that the pooled search begins with, one after the other: the images least like their label.
const POOLED_SHARES: [f64; 2] = [0.05, 0.1];
/// The last two rounds share so much where the pooled search has settled.
const SETTLED: f64 = 0.8;

/// D from which a set is separate.
pub const SEPARATE: f64 = 5.0;
/// So many times the D of the next class.
pub const RATIO: f64 = 1.5;
/// With fewer classes that have a set there is nothing to stand out from.
const FEWEST_MEASURED: usize = 3;
/// D from which poison of all classes is.
const POOLED: f64 = 6.0;
/// The label fits at most so much less often than elsewhere.
const POOLED_OWN: f64 = 0.75;
/// No class has more of poison of all classes.
const POOLED_MOST: f64 = 0.8;
/// D within a class from which two groups are apart.
pub(super) const APART: f64 = 3.0;
/// The same with the network's features, for a set called by many names.
const CONFIRMED: f64 = 4.5;
/// D against other classes that a set called by many names needs beside.
const BESIDE: f64 = 3.0;
/// Of the greatest possible entropy of left-out predictions, ln(K - 1): what a set from many classes has.
const MANY: f64 = 0.93;
/// With fewer classes a set has too few names to be called by.
pub(super) const FEWEST_CLASSES: usize = 8;
/// Share of such a set that may still be called by its label.
pub(super) const OWN: f64 = 0.5;

/// What is seen of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassEvidence {
    /// Its label.
    pub class: u32,
    /// Training images with its label.
    pub images: usize,
    /// Images of its most separate set.
    pub suspects: usize,
    /// D of the set against everything else.
    pub separation: f64,
    /// D of the set against the rest of its class.
    pub within: f64,
    /// D of the rest of its class against everything else: large where the whole class is of another kind than the others.
    pub rest: f64,
    /// Entropy of what a model that has not seen the set calls it, as a share of the greatest possible.
    pub entropy: Option<f64>,
    /// Share of the set that such a model still calls by its label.
    pub own: Option<f64>,
    /// Images of sets that are as separate, but near-duplicates of one another.
    pub duplicates: usize,
    /// D of the most separate set of near-duplicates.
    pub duplicates_separation: f64,
    /// Of a set that was found so: the share of images of other classes that the network calls by this class's name once what the set has in
    /// common is put onto them.
    #[serde(default)]
    pub transplant: Option<f64>,
    /// What it is taken for.
    pub finding: Finding,
}

/// What a class is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Too few images to look for a set.
    Small,
    /// No set, or none that stands out.
    Nothing,
    /// A set that stands out from everything else.
    Separate,
    /// A set that a model which has not seen it calls by many other classes' names.
    Mislabelled,
    /// A group whose estimated trigger makes the network call other images by the class's name.
    Transplanted,
    /// One of the last two, but the network does not bear it out, or there are too few images to believe it.
    Unconfirmed,
}

impl Finding {
    /// Whether the set counts as poison.
    pub fn accuses(self) -> bool {
        matches!(self, Finding::Separate | Finding::Mislabelled | Finding::Transplanted)
    }
}

/// A set that goes through all classes, as an all-to-all attack leaves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PooledEvidence {
    /// Images of the set.
    pub suspects: usize,
    /// D of the set against everything else.
    pub separation: f64,
    /// What the last two rounds of the search have in common.
    pub settled: f64,
    /// Images of the set by class.
    pub by_class: Vec<usize>,
    /// Share of the set whose label fits: that a model which has not seen the image calls by its label.
    pub own: f64,
    /// The same share of all other images.
    pub own_elsewhere: f64,
}

impl PooledEvidence {
    /// Whether it is one set that goes through several classes.
    pub(super) fn stands_out(&self) -> bool {
        let many = self.by_class.iter().filter(|c| **c >= FEWEST).count() >= 2;
        let spread = self.by_class.iter().all(|c| *c as f64 <= POOLED_MOST * self.suspects as f64);
        many && spread && self.separation >= POOLED && self.settled >= SETTLED
    }

    /// Whether its labels fit less than those of other images. Images that are changed alike and keep their true labels, as an attacker's
    /// cover images or those of a second source, are no backdoor.
    pub(super) fn mislabelled(&self) -> bool {
        self.own <= POOLED_OWN * self.own_elsewhere
    }
}

/// One class with its most separate set.
pub(super) struct ClassSet {
    pub seen: ClassEvidence,
    /// Its images, sorted.
    pub members: Vec<usize>,
    /// By member; empty where there is no set.
    pub set: Vec<bool>,
    /// By member: the left-out prediction that the set was drawn by.
    pub score: Vec<f32>,
    /// By member: whether it is in a set of near-duplicates.
    pub duplicates: Vec<bool>,
    /// Its sets, the most separate first.
    candidates: Vec<Candidate>,
}

impl ClassSet {
    /// Of a class without a set.
    fn none(seen: ClassEvidence, members: Vec<usize>) -> ClassSet {
        ClassSet { seen, members, set: Vec::new(), score: Vec::new(), duplicates: Vec::new(), candidates: Vec::new() }
    }

    /// The most separate set is often a part of the poison, and other parts are as separate from everything else: takes in every set of a
    /// separation of `least` or more, unless what it leaves of the class is as separate. Where both sides are, the class is of another kind
    /// than the others, and only the more separate side is poison.
    fn widen(&mut self, ridge: &Ridge, least: f64) {
        let rows = ridge.class(View::Images, &self.members);
        let parts: Vec<&Candidate> = self.candidates.iter().filter(|c| c.separation() >= least).collect();
        let left: Vec<Vec<bool>> = parts.iter().map(|c| complement(&c.set)).collect();
        let mut union = self.set.clone();
        for (part, left) in parts.iter().zip(candidates::judge(ridge, &rows, &self.members, &left)) {
            if left.others < least {
                union.iter_mut().zip(&part.set).for_each(|(u, s)| *u |= s);
            }
        }
        if let Some(whole) = candidates::judge(ridge, &rows, &self.members, &[union]).first() {
            let Refined { set, score, within } = settle(&rows, whole);
            self.seen.suspects = set.iter().filter(|s| **s).count();
            self.seen.within = within;
            (self.set, self.score) = (set, score);
        }
    }
}

/// A set over all classes, by image.
pub(super) struct PooledSet {
    pub seen: PooledEvidence,
    pub set: Vec<bool>,
    pub score: Vec<f32>,
}

/// What the search found.
pub(super) struct Evidence {
    pub classes: Vec<ClassSet>,
    pub pooled: Option<PooledSet>,
    /// Whether the pooled set is the poison: then no class by itself is accused.
    pub pooled_accused: bool,
    /// How easy each image is for a model that has not seen it: [`Ridge::margin`].
    pub margin: Vec<f32>,
}

impl Evidence {
    /// Asks the network whether a set that is called by many names is apart from its class in its features, too: poison is, since the network
    /// has learned its trigger.
    pub fn confirm(&mut self, ridge: &Ridge) {
        for class in self.classes.iter_mut().filter(|c| c.seen.finding == Finding::Mislabelled) {
            let within = refine(&ridge.class(View::All, &class.members), &class.set).within;
            log::info!("class {}: D within the class {within:.2} with the network's features", class.seen.class);
            if within < CONFIRMED {
                class.seen.finding = Finding::Unconfirmed;
            }
        }
    }
}

/// Looks at every class, and at all of them together.
///
/// # Errors
/// A wish to stop.
pub(super) fn find(ridge: &Ridge, data: &Dataset, observer: &dyn Observer) -> Result<Evidence, TrainError> {
    let classes = data.classes.len();
    let classifier = ridge.classifier(&data.labels, classes);
    let margin = ridge.margin(&classifier, &data.labels);
    observer.begin("evidence by class", classes as u64 + 1);
    let mut found = Vec::new();
    for class in 0..classes as u32 {
        observer.go_on()?;
        found.push(look_at(ridge, &classifier, data, class, &margin));
        log::info!("{:?}", found[class as usize].seen);
        observer.advance(1);
    }
    let pooled = pooled(ridge, data, &margin);
    observer.advance(1);
    log::info!("{:?}", pooled.as_ref().map(|p| &p.seen));
    let Decision { pooled_accused, least } = decide(&mut found, pooled.as_ref().map(|p| &p.seen));
    found.iter_mut().filter(|c| c.seen.finding == Finding::Separate).for_each(|c| c.widen(ridge, least));
    Ok(Evidence { classes: found, pooled, pooled_accused, margin })
}

/// The most separate set of one class.
fn look_at(ridge: &Ridge, classifier: &Classifier, data: &Dataset, class: u32, margin: &[f32]) -> ClassSet {
    let members: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] == class).collect();
    let blank = |finding| ClassEvidence {
        class,
        images: members.len(),
        suspects: 0,
        separation: 0.0,
        within: 0.0,
        rest: 0.0,
        entropy: None,
        own: None,
        duplicates: 0,
        duplicates_separation: 0.0,
        transplant: None,
        finding,
    };
    if members.len() < LEAST {
        return ClassSet::none(blank(Finding::Small), members);
    }
    let rows = ridge.class(View::Images, &members);
    let Found { candidates, duplicates, duplicates_separation } = candidates::find(ridge, &rows, data, &members, margin);
    let copies = duplicates.iter().filter(|d| **d).count();
    let Some(best) = candidates.first() else {
        let seen = ClassEvidence { duplicates: copies, duplicates_separation, ..blank(Finding::Nothing) };
        return ClassSet { duplicates, ..ClassSet::none(seen, members) };
    };
    let Refined { set, score, within } = settle(&rows, best);
    let judged = candidates::judge(ridge, &rows, &members, &[set.clone(), complement(&set)]);
    let against_others = |at: usize| judged.get(at).map_or(0.0, |c| c.others);
    let (others, rest) = (against_others(0), against_others(1));
    let suspects: Vec<usize> = members.iter().zip(&set).filter(|(_, s)| **s).map(|(i, _)| *i).collect();
    let (entropy, own) = called(ridge, classifier, data, class, &suspects);
    let separation = if within >= APART { best.separation().max(others) } else { best.separation() };
    let many = data.classes.len() >= FEWEST_CLASSES
        && entropy >= MANY
        && own <= OWN
        && within >= APART
        && others >= BESIDE
        && suspects.len() >= LEAST;
    // Whether it stands out from the other classes' sets, `decide` says.
    let finding = if many { Finding::Mislabelled } else { Finding::Nothing };
    let seen = ClassEvidence {
        suspects: suspects.len(),
        separation,
        within,
        rest,
        entropy: Some(entropy),
        own: Some(own),
        duplicates: copies,
        duplicates_separation,
        ..blank(finding)
    };
    ClassSet { seen, members, set, score, duplicates, candidates }
}

pub(super) fn complement(set: &[bool]) -> Vec<bool> {
    set.iter().map(|s| !s).collect()
}

/// The set as it is or refined within its class, whichever is further apart there.
fn settle(rows: &ClassRows, candidate: &Candidate) -> Refined {
    let refined = refine(rows, &candidate.set);
    if refined.within > candidate.class {
        return refined;
    }
    Refined { set: candidate.set.clone(), score: candidate.score.clone(), within: candidate.class }
}

/// A set refined within its class.
pub(super) struct Refined {
    pub set: Vec<bool>,
    /// Left-out prediction of +1 on the set and -|set| / |rest| on the rest of the class, 0 elsewhere.
    pub score: Vec<f32>,
    /// D between the two.
    pub within: f64,
}

/// Regresses the set against the rest of its class, left out, and draws the border midway between the two means, over and over.
pub(super) fn refine(rows: &ClassRows, set: &[bool]) -> Refined {
    let mut set = set.to_vec();
    let mut score = Vec::new();
    for _ in 0..REFINEMENTS {
        let size = set.iter().filter(|s| **s).count();
        let against = -(size as f32) / (set.len() - size).max(1) as f32;
        let targets = Mat::from_fn(set.len(), 1, |i, _| if set[i] { 1.0 } else { against });
        score = rows.leave_one_out(targets.as_ref()).col_as_slice(0).to_vec();
        let [inside, rest] = Moments::of_groups(&score, &set);
        let border = f64::midpoint(inside.mean, rest.mean);
        let next: Vec<bool> = score.iter().map(|e| f64::from(*e) > border).collect();
        let taken = next.iter().filter(|s| **s).count();
        if next == set || taken < FEWEST || set.len() - taken < FEWEST {
            break;
        }
        set = next;
    }
    let within = separation(Moments::of_groups(&score, &set));
    Refined { set, score, within }
}

/// What a model that has not seen `suspects` calls those of them that it is surer of: the entropy over the other classes as a share of
/// the greatest possible, and the share of all that it still calls `class`. 0 and 1 where there is but one other class.
pub(super) fn called(ridge: &Ridge, classifier: &Classifier, data: &Dataset, class: u32, suspects: &[usize]) -> (f64, f64) {
    let classes = data.classes.len();
    if classes < 3 || suspects.is_empty() {
        return (0.0, 1.0);
    }
    let predicted = ridge.leave_group_out(classifier, suspects);
    let class = class as usize;
    let mut own = 0;
    let mut best: Vec<(f32, usize)> = (0..suspects.len())
        .map(|i| {
            let mut others: Vec<usize> = (0..classes).filter(|k| *k != class).collect();
            others.sort_by(|&a, &b| predicted[(i, b)].total_cmp(&predicted[(i, a)]));
            own += usize::from(predicted[(i, class)] > predicted[(i, others[0])]);
            (predicted[(i, others[0])] - predicted[(i, others[1])], others[0])
        })
        .collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut counts = vec![0usize; classes];
    best.iter().take(suspects.len().div_ceil(2)).for_each(|(_, k)| counts[*k] += 1);
    (entropy(&counts) / ((classes - 1) as f64).ln(), own as f64 / suspects.len() as f64)
}

/// The most separate set that goes through all classes.
fn pooled(ridge: &Ridge, data: &Dataset, margin: &[f32]) -> Option<PooledSet> {
    let found = POOLED_SHARES.iter().filter_map(|share| pooled_from(*share, ridge, data, margin));
    found.max_by(|a, b| a.seen.separation.total_cmp(&b.seen.separation))
}

/// Begins with the `share` of images least like their label, each class centred.
fn pooled_from(share: f64, ridge: &Ridge, data: &Dataset, margin: &[f32]) -> Option<PooledSet> {
    let n = data.len();
    let classes: Vec<Vec<usize>> =
        (0..data.classes.len()).map(|k| (0..n).filter(|&i| data.labels[i] as usize == k).collect()).collect();
    let mut set = vec![false; n];
    for members in &classes {
        let mine: Vec<f32> = members.iter().map(|&i| margin[i]).collect();
        let level = quantile(&mine, share);
        members.iter().filter(|&&i| margin[i] <= level).for_each(|&i| set[i] = true);
    }
    let mut score = vec![0.0f32; n];
    let mut settled = 0.0;
    for round in 0..POOLED_ROUNDS {
        let mut targets = Mat::<f32>::from_fn(n, 1, |i, _| f32::from(u8::from(set[i])));
        for members in &classes {
            let mean = members.iter().filter(|&&i| set[i]).count() as f32 / members.len().max(1) as f32;
            members.iter().for_each(|&i| targets[(i, 0)] -= mean);
        }
        score = ridge.leave_one_out(View::Images, targets.as_ref()).col_as_slice(0).to_vec();
        for members in &classes {
            let mine: Vec<f32> = members.iter().map(|&i| score[i]).collect();
            let median = quantile(&mine, 0.5);
            members.iter().for_each(|&i| score[i] -= median);
        }
        let [inside, _] = Moments::of_groups(&score, &set);
        let next: Vec<bool> = if round < POOLED_FIXED {
            let level = quantile(&score, 1.0 - inside.count as f64 / n as f64);
            score.iter().map(|e| *e >= level).collect()
        } else {
            score.iter().map(|e| f64::from(*e) > inside.mean / 2.0).collect()
        };
        let taken = next.iter().filter(|s| **s).count();
        if taken < FEWEST || n - taken < FEWEST {
            return None;
        }
        settled = overlap(&next, &set);
        let done = next == set;
        set = next;
        if done {
            break;
        }
    }
    let by_class: Vec<usize> = classes.iter().map(|members| members.iter().filter(|&&i| set[i]).count()).collect();
    let apart = separation(Moments::of_groups(&score, &set));
    log::debug!("from {share}: {} images, D {apart:.2}, settled {settled:.2}", by_class.iter().sum::<usize>());
    let fits = |side: bool| {
        let mine: Vec<bool> = set.iter().zip(margin).filter(|(s, _)| **s == side).map(|(_, m)| *m > 0.0).collect();
        mine.iter().filter(|fits| **fits).count() as f64 / mine.len().max(1) as f64
    };
    let (own, own_elsewhere) = (fits(true), fits(false));
    let seen = PooledEvidence { suspects: by_class.iter().sum(), separation: apart, settled, by_class, own, own_elsewhere };
    Some(PooledSet { seen, set, score })
}

/// What counts as poison, beside what is noted of the classes.
struct Decision {
    /// The set over all classes: then no class does by itself.
    pooled_accused: bool,
    /// Sets of the separate classes from this separation on.
    least: f64,
}

/// Says which classes' sets count as poison.
fn decide(classes: &mut [ClassSet], pooled: Option<&PooledEvidence>) -> Decision {
    // Classes without a set say nothing of what is usual.
    let mut order: Vec<usize> = (0..classes.len()).filter(|&k| classes[k].seen.suspects > 0).collect();
    order.sort_by(|&a, &b| classes[b].seen.separation.total_cmp(&classes[a].seen.separation));
    let separation = |at: usize| order.get(at).map_or(0.0, |k| classes[*k].seen.separation);
    // Several classes may be under attack: those above the last wide gap, at most half of all.
    let most_accused = if order.len() < FEWEST_MEASURED { 0 } else { order.len() / 2 };
    let standing_out = (1..=most_accused)
        .rev()
        .find(|&count| separation(count - 1) >= SEPARATE && separation(count - 1) >= RATIO * separation(count))
        .unwrap_or(0);
    let least = SEPARATE.max(RATIO * separation(standing_out));
    order.truncate(standing_out);
    // The rest of the class is one more set to stand out from.
    order.retain(|k| classes[*k].seen.separation >= RATIO * classes[*k].seen.rest);
    order.iter().for_each(|k| classes[*k].seen.finding = Finding::Separate);
    let most = classes.iter().filter(|c| c.seen.finding.accuses()).map(|c| c.seen.separation).fold(0.0, f64::max);
    let pooled_accused = pooled.is_some_and(|p| p.stands_out() && p.mislabelled() && p.separation > most);
    if pooled_accused {
        classes.iter_mut().filter(|c| c.seen.finding.accuses()).for_each(|c| c.seen.finding = Finding::Nothing);
    }
    Decision { pooled_accused, least }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
