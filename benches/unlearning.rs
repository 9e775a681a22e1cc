//! Complementary cross-entropy beside gradient ascent, step by step from the same backdoored network: the figures of `docs/cce.md`.
//!
//! `cargo bench --bench unlearning -- RUN OUT`: RUN is the folder of a `dau run`, whose network, images and truth are used; OUT gets
//! `steps.csv` and a chart for each share of swapped images. The objective is the plain one, CE(clean) + loss(poisoned), with the true
//! split, of which a share of the poisoned changes places with clean images; no trigger is estimated, no image is held out, no step chosen.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dau::data::Dataset;
use dau::experiment::evaluate::TriggeredClasses;
use dau::experiment::{Host, Protocol, Simulation, Store};
use dau::gpu::{AdapterChoice, Gpu};
use dau::kernel::Kernels;
use dau::ops::LossKind;
use dau::rng;
use dau::train::{Batch, Network, Part, Predictor, SgdConfig, Silent, StepConfig, TrainStep, Wanted};
use plotters::prelude::*;

const CLEAN: usize = 64;
const POISONED: usize = 16;
const STEPS: usize = 200;
/// Steps between two looks.
const LOOK: usize = 10;
const RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];
const SHARES: [f64; 3] = [0.0, 0.3, 0.5];
const LOSSES: [(&str, LossKind); 2] = [("CCE", LossKind::Complementary), ("GGA", LossKind::GradientAscent)];
const SGD: SgdConfig = SgdConfig { momentum: 0.9, nesterov: true, weight_decay: 5e-4, crop_pad: 0, flip: false };
/// Poisoned training images whose mean belief in their label is looked at.
const ASKED: usize = 256;

/// What a look saw, percent but for the belief.
struct Look {
    step: usize,
    acc: f64,
    asr: f64,
    ra: f64,
    /// Mean p_y of poisoned training images, all that the split calls clean among them.
    belief: f64,
}

struct Curve {
    loss: &'static str,
    rate: f64,
    looks: Vec<Look>,
}

/// A part of a set, over and over in an order of its own.
struct Cycle {
    items: Vec<usize>,
    at: usize,
}

impl Cycle {
    fn draw(&mut self, count: usize) -> Vec<usize> {
        let drawn = (0..count).map(|i| self.items[(self.at + i) % self.items.len()]).collect();
        self.at += count;
        drawn
    }
}

fn main() -> Result<()> {
    let folders: Vec<PathBuf> = std::env::args_os().skip(1).filter(|arg| arg != "--bench").map(PathBuf::from).collect();
    let [run, out] = &folders[..] else {
        // `cargo test --benches` and `cargo bench` name none.
        println!("cargo bench --bench unlearning -- RUN OUT: the folder of a `dau run`, and one for the figures");
        return Ok(());
    };
    let store = Store::open(run)?;
    let protocol = Protocol::from_run(store.read_run()?.0, &run.join("run.toml"))?;
    let open = |_| Ok(Kernels::new(Gpu::open(&AdapterChoice::default())?));
    let host = Host { open: &open, image_cache: None, observer: &Silent };
    let job = Simulation::prepare(protocol, Some(&store), &host)?;
    let network = job.stage_one(&store)?.0;
    std::fs::create_dir_all(out)?;
    let mut csv = String::from("swapped,loss,lr,step,acc,asr,ra,belief\n");
    for share in SHARES {
        let mut curves = Vec::new();
        for (name, loss) in LOSSES {
            for rate in RATES {
                let looks = unlearned(&job, &network, loss, rate, share)?;
                for Look { step, acc, asr, ra, belief } in &looks {
                    writeln!(csv, "{share},{name},{rate},{step},{acc:.2},{asr:.2},{ra:.2},{belief:.5}")?;
                }
                let last = looks.last().context("a look")?;
                println!("{share} swapped, {name}, rate {rate}: ACC {:.1} ASR {:.1} RA {:.1}", last.acc, last.asr, last.ra);
                curves.push(Curve { loss: name, rate, looks });
            }
        }
        draw(&out.join(format!("swapped_{:.0}.svg", 100.0 * share)), share, &curves)?;
        std::fs::write(out.join("steps.csv"), &csv)?;
    }
    Ok(())
}

/// The looks at a copy of `network` that unlearns by `loss`, `share` of the poisoned images having changed places with clean ones.
fn unlearned(job: &Simulation, network: &Network, loss: LossKind, rate: f64, share: f64) -> Result<Vec<Look>> {
    let (kernels, folder) = (&job.kernels, &job.images.folder);
    let data = &folder.poisoned.data;
    let truth = folder.poisoned.is_poison();
    let (mut poison, mut clean): (Vec<usize>, Vec<usize>) = (0..data.len()).partition(|&i| truth[i]);
    let mut order = rng::stream(1, "unlearning");
    rng::shuffle(&mut order, &mut poison);
    rng::shuffle(&mut order, &mut clean);
    let asked = data.subset(&poison[..poison.len().min(ASKED)]);
    for i in 0..(share * poison.len() as f64).round() as usize {
        std::mem::swap(&mut poison[i], &mut clean[i]);
    }
    rng::shuffle(&mut order, &mut poison);
    rng::shuffle(&mut order, &mut clean);
    let [mut clean, mut poison] = [clean, poison].map(|items| Cycle { items, at: 0 });

    let network = network.duplicate(kernels)?;
    let config = StepConfig::new(CLEAN + POISONED, &[LossKind::CrossEntropy, loss], &SGD);
    let mut step = TrainStep::new(kernels, &network, &config)?;
    let mut predictor = Predictor::new(kernels, &network, CLEAN)?;
    let triggered = folder.triggered.as_ref().context("the run has no triggered test images")?;
    let mut looks = Vec::new();
    for at in 0..=STEPS {
        if at % LOOK == 0 {
            let mut classes = |data: &Dataset| Ok::<_, anyhow::Error>(predictor.run(data, &[], &Silent)?.class);
            let (of_clean, of_triggered) = (classes(&folder.test)?, classes(&triggered.data)?);
            let belief = predictor.run(&asked, &[Wanted::Loss], &Silent)?.loss.iter().map(|ce| f64::from(-ce).exp()).sum::<f64>();
            let (labels, goal) = (&triggered.data.labels, &triggered.goal);
            looks.push(Look {
                step: at,
                acc: percent(&of_clean, &folder.test.labels),
                asr: TriggeredClasses { class: &of_triggered, labels, goal }.asr().percent(),
                ra: percent(&of_triggered, labels),
                belief: belief / asked.len() as f64,
            });
        }
        let parts = [
            Part { indices: &clean.draw(CLEAN), weight: 1.0 / CLEAN as f32 },
            Part { indices: &poison.draw(POISONED), weight: 1.0 / POISONED as f32 },
        ];
        step.run(&network, &Batch::new(data, &parts), rate, at as u32)?.wait(kernels.gpu())?;
    }
    Ok(looks)
}

fn percent(said: &[u32], wanted: &[u32]) -> f64 {
    100.0 * said.iter().zip(wanted).filter(|(a, b)| a == b).count() as f64 / said.len().max(1) as f64
}

/// What a panel shows of a look.
type Shown = fn(&Look) -> f64;

/// A panel for each figure, a line for each loss and rate.
fn draw(path: &Path, share: f64, curves: &[Curve]) -> Result<()> {
    let root = SVGBackend::new(path, (1080, 340)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("{:.0} % of the poisoned images have changed places with clean ones", 100.0 * share);
    let panels = root.titled(&title, ("sans-serif", 15))?.split_evenly((1, 4));
    let shown: [(&str, Shown); 4] =
        [("ACC, %", |l| l.acc), ("ASR, %", |l| l.asr), ("RA, %", |l| l.ra), ("p_y of poisoned images, %", |l| 100.0 * l.belief)];
    // Vermilion and blue (Okabe and Ito), the rate by the width.
    let colours = [RGBColor(213, 94, 0), RGBColor(0, 114, 178)];
    for (panel, (name, of)) in panels.iter().zip(shown) {
        let mut chart = ChartBuilder::on(panel)
            .caption(name, ("sans-serif", 13))
            .margin(6)
            .x_label_area_size(30)
            .y_label_area_size(32)
            .build_cartesian_2d(0.0..STEPS as f64, 0.0..100.0)?;
        chart.configure_mesh().light_line_style(TRANSPARENT).x_desc("step").x_labels(5).draw()?;
        for curve in curves {
            let colour = colours[usize::from(curve.loss != LOSSES[0].0)];
            let points = curve.looks.iter().map(|look| (look.step as f64, of(look)));
            let width = 1 + RATES.iter().position(|rate| *rate == curve.rate).unwrap_or_default() as u32;
            let drawn = chart.draw_series(LineSeries::new(points, colour.stroke_width(width)))?;
            drawn
                .label(format!("{} {}", curve.loss, curve.rate))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(width)));
        }
        if name.starts_with("RA") {
            chart.configure_series_labels().background_style(WHITE.mix(0.8)).label_font(("sans-serif", 10)).draw()?;
        }
    }
    Ok(root.present()?)
}
