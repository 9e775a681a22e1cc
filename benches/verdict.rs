//! How well stage 1's verdict does from the images alone: a row of a Markdown table for each set that the arguments describe.
//!
//! `cargo bench --bench verdict -- DIR SET ...`, with DIR a folder of images (`train/<class>/*`) or `digits`, and each SET one word of
//! `key=value` joined by commas: `per` (images a class), `classes` (so many, drawn by the seed), `seed`, `uneven=true` (class sizes fall
//! to a tenth), `kinds` (each class is cut into kinds by brightness at random places, so many in all: unequal classes, as of traffic signs),
//! `attack`, `rate`, `target`, `mode` (as `--target-mode`), `draw` and the attack's own options. `-` alone
//! is the whole clean set. `features` names a file of f32 [N, D], what a network that was trained on the set makes of its images, and `border` then
//! says what the border is taken from. The truth is used for the row only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use dau::attacks::{self, Blueprint, Draw, PoisonOptions};
use dau::data::{Dataset, LoadOptions, Spec, load, load_folder};
use dau::defenses::dau::{Answer, Border, DiscriminatorConfig, Finding, Findings, StageOneConfig, examine, judge};
use dau::gpu::{AdapterChoice, Gpu};
use dau::kernel::Kernels;
use dau::options::Options;
use dau::rng;
use dau::train::Silent;
use rand::RngExt;

fn main() -> Result<()> {
    env_logger::init();
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some((source, sets)) = words.split_first() else {
        eprintln!("no data given: cargo bench --bench verdict -- DIR|digits SET ...");
        return Ok(());
    };
    let base = match source.as_str() {
        "digits" => load(&Spec::find("digits")?, &LoadOptions::default())?.train,
        dir => {
            let cache = dirs::cache_dir().map(|folder| folder.join("dau/images"));
            load_folder(&Spec::find("CIFAR-10")?, Path::new(dir), &LoadOptions { cache, ..LoadOptions::default() })?.train
        }
    };
    println!("| set | images | poison | answer | by | D | next D | flagged | right | precision | recall | seconds |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for set in sets {
        row(&base, set).with_context(|| set.clone())?;
    }
    Ok(())
}

fn row(base: &Dataset, set: &str) -> Result<()> {
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    for pair in set.split(',').filter(|pair| *pair != "-") {
        let (key, value) = pair.split_once('=').ok_or_else(|| anyhow!("`{pair}` is not key=value"))?;
        ensure!(keys.insert(key, value).is_none(), "`{key}` is given twice");
    }
    let seed: u64 = keys.remove("seed").unwrap_or("0").parse()?;
    let features = keys.remove("features").map(|path| (path, keys.remove("border").unwrap_or("features")));
    let clean = choose(base, &mut keys, seed)?;
    let (data, truth) = match keys.remove("attack") {
        None => (clean, vec![false; 0]),
        Some(name) => {
            let entry = attacks::find(name)?;
            let rate = keys.remove("rate").unwrap_or(".1").parse()?;
            let target = keys.remove("target").unwrap_or("0").parse()?;
            let mode = match keys.remove("mode") {
                None => entry.mode,
                Some(mode) => toml::Value::from(mode).try_into()?,
            };
            let mut options = Options::default();
            for option in entry.options {
                if let Some(value) = keys.remove(option.name) {
                    options.0.insert(option.name.into(), option.parse(value).map_err(|e| anyhow!(e))?);
                }
            }
            let aim = entry.aim(mode, target, &options)?;
            let attack = entry.build(&Blueprint { size: clean.size, seed, options: &options, help: None })?;
            let poisoned = attacks::poison(&clean, attack.as_ref(), &PoisonOptions { rate, aim, seed, draw: Draw::All })?;
            let truth = poisoned.is_poison();
            (poisoned.data, truth)
        }
    };
    ensure!(keys.is_empty(), "unknown: {keys:?}");
    let start = Instant::now();
    let found = match features {
        None => examine(&data, &Silent)?,
        Some((path, border)) => with_features(Path::new(path), border, &data)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    let poison = truth.iter().filter(|t| **t).count();
    let flagged = found.split.flagged.iter().filter(|f| **f).count();
    let right = truth.iter().zip(&found.split.flagged).filter(|(t, f)| **t && **f).count();
    let share = |of: usize| if of == 0 { "-".to_string() } else { format!("{:.1}", 100.0 * right as f64 / of as f64) };
    let (by, most, next) = how(&found);
    println!(
        "| {set} | {} | {poison} | {} | {by} | {most:.1} | {next:.1} | {flagged} | {right} | {} | {} | {seconds:.1} |",
        data.len(),
        match found.answer {
            Answer::Backdoor => "backdoor",
            Answer::None => "none",
            Answer::Unclear => "too little",
        },
        share(flagged),
        share(poison),
    );
    Ok(())
}

/// The verdict with a network's features of the images, a file of f32 [N, D].
fn with_features(path: &Path, border: &str, data: &Dataset) -> Result<Findings> {
    let border = match border {
        "images" => Border::Images,
        "features" => Border::Features,
        "classifier" => Border::Classifier,
        other => bail!("unknown border `{other}`"),
    };
    let features: Vec<f32> = bytemuck::pod_collect_to_vec(&std::fs::read(path)?);
    let kernels = Kernels::new(Gpu::open(&AdapterChoice::default())?);
    let config =
        StageOneConfig { border, prefilter_share: 0.01, discriminator: DiscriminatorConfig::default(), seed: 0, batch: 1 };
    Ok(judge(&kernels, &features, data, &config, &Silent, None)?)
}

/// What decided, and the two largest separations.
fn how(found: &Findings) -> (String, f64, f64) {
    let mut separations: Vec<f64> = found.classes.iter().map(|c| c.separation).collect();
    separations.sort_by(|a, b| b.total_cmp(a));
    let at = |i: usize| separations.get(i).copied().unwrap_or_default();
    let accused = found.classes.iter().filter(|c| c.finding.accuses());
    let words: Vec<String> = accused
        .map(|c| format!("{} {}", c.class, if c.finding == Finding::Separate { "separate" } else { "mislabelled" }))
        .collect();
    match (&found.pooled, found.all_to_all) {
        (Some(pooled), true) => ("all classes".into(), pooled.separation, at(0)),
        _ if words.is_empty() => ("-".into(), at(0), at(1)),
        _ => (words.join(", "), at(0), at(1)),
    }
}

/// The images that a set is made of.
fn choose(base: &Dataset, keys: &mut BTreeMap<&str, &str>, seed: u64) -> Result<Dataset> {
    let mut rng = rng::stream(seed, "verdict set");
    let mut classes: Vec<u32> = (0..base.classes.len() as u32).collect();
    if let Some(count) = keys.remove("classes") {
        rng::shuffle(&mut rng, &mut classes);
        classes.truncate(count.parse()?);
        classes.sort_unstable();
    }
    let per: usize = keys.remove("per").map_or(Ok(usize::MAX), str::parse)?;
    let uneven = keys.remove("uneven").is_some();
    let mut chosen = Vec::new();
    let limited = base.limit_per_class(per, seed);
    for class in &classes {
        let mut members: Vec<usize> = (0..limited.len()).filter(|&i| limited.labels[i] == *class).collect();
        if uneven {
            rng::shuffle(&mut rng, &mut members);
            let share = rng.random_range(0.1..1.0f64);
            members.truncate((members.len() as f64 * share) as usize);
        }
        chosen.extend(members);
    }
    chosen.sort_unstable();
    let kinds: Option<usize> = keys.remove("kinds").map(str::parse).transpose()?;
    let mut data = limited.subset(&chosen);
    data.labels.iter_mut().for_each(|label| *label = classes.iter().position(|c| c == label).unwrap_or_default() as u32);
    data.classes = classes.iter().map(|c| base.classes[*c as usize].clone()).collect();
    if let Some(kinds) = kinds {
        cut_into(&mut data, kinds, &mut rng);
    }
    Ok(data)
}

/// Cuts classes in two, the largest first, at a random place in the order of brightness, until there are `kinds` of them.
fn cut_into(data: &mut Dataset, kinds: usize, rng: &mut impl rand::Rng) {
    let bright: Vec<u64> = (0..data.len()).map(|i| data.image(i).iter().map(|p| u64::from(*p)).sum()).collect();
    while data.classes.len() < kinds {
        let counts = data.class_counts();
        let largest = (0..counts.len()).max_by_key(|k| counts[*k]).unwrap_or_default();
        let mut members: Vec<usize> = (0..data.len()).filter(|&i| data.labels[i] as usize == largest).collect();
        members.sort_by_key(|&i| bright[i]);
        let cut = (members.len() as f64 * rng.random_range(0.15..0.6)) as usize;
        members[..cut].iter().for_each(|&i| data.labels[i] = data.classes.len() as u32);
        data.classes.push(format!("{} {}", data.classes[largest], data.classes.len()));
    }
}
