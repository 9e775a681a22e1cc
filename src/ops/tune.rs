//! Measuring which way is fastest for the convolutions of a graph.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use super::Alone;
use crate::graph::{Graph, GraphError, Shape};
use crate::kernel::Kernels;

/// How long one call may measure: what is left then goes by the rule, and the next start takes it up.
pub const TUNING_TIME: Duration = Duration::from_secs(4);
/// Of which the median counts.
const SAMPLES: usize = 3;

/// Times each class of shapes in `graph` that has not been measured yet every way that the adapter offers, and keeps the
/// fastest; for at most about `time`. Does nothing for kernels without a [`Tuning`](crate::kernel::Tuning). Gives the number of classes.
///
/// # Errors
/// The driver's.
pub fn tune(kernels: &Kernels, graph: &Graph, time: Duration) -> Result<usize, GraphError> {
    let Some(tuning) = kernels.tuning() else { return Ok(0) };
    let start = Instant::now();
    let mut seen = HashSet::new();
    let mut measured = BTreeMap::new();
    for node in graph.nodes() {
        let inputs: Vec<Shape> = node.inputs.iter().map(|v| graph.shape(*v).clone()).collect();
        let Some(class) = node.op.tuning_class(&inputs) else { continue };
        if tuning.chosen(&class).is_some() || !seen.insert(class.clone()) {
            continue;
        }
        if start.elapsed() >= time {
            log::info!("{class}: not measured yet, goes by the rule");
            continue;
        }
        let mut fastest = None;
        for candidate in kernels.gpu().caps().candidates() {
            let seconds = Alone::new(&kernels.with(candidate), node.op.clone(), &inputs)?.seconds(SAMPLES)?;
            log::info!("{class}: {} {:.1} us", candidate.name(), seconds * 1e6);
            if fastest.is_none_or(|(least, _)| seconds < least) {
                fastest = Some((seconds, candidate));
            }
        }
        measured.extend(fastest.map(|(_, candidate)| (class, candidate)));
    }
    let count = measured.len();
    if count > 0 {
        tuning.add(measured);
        let seconds = start.elapsed().as_secs_f64();
        log::info!("measured {count} classes of convolutions in {seconds:.1} s: {}", tuning.file().display());
    }
    Ok(count)
}
