//! Recording while an experiment runs: every epoch to `metrics.jsonl`, the seconds of every stage.

use std::cell::RefCell;
use std::time::Instant;

use super::{Store, StoreError, Subtask};
use crate::train::{EpochRecord, Network, Observer, TrainError};

/// Keeps what an observer sees, and passes all of it on.
pub struct Recorder<'a> {
    store: &'a Store,
    part: Subtask,
    observer: &'a dyn Observer,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    stage: Option<(String, Instant)>,
    /// The first time that could not be written.
    fault: Option<StoreError>,
}

/// `train` for `train 3/12`, `discriminator` for `discriminator, round 2`: what times are added up by.
fn without_count(name: &str) -> &str {
    let name = name.split(", ").next().unwrap_or(name);
    match name.rsplit_once(' ') {
        Some((head, tail)) if tail.contains('/') && tail.chars().all(|c| c == '/' || c.is_ascii_digit()) => head,
        _ => name,
    }
}

impl<'a> Recorder<'a> {
    /// Writes to `store` what is seen of `part`, and passes on to `observer`.
    pub fn new(store: &'a Store, part: Subtask, observer: &'a dyn Observer) -> Recorder<'a> {
        Recorder { store, part, observer, state: RefCell::default() }
    }

    /// Ends the last stage.
    ///
    /// # Errors
    /// The first time that could not be written.
    pub fn finish(self) -> Result<(), StoreError> {
        self.end();
        self.state.into_inner().fault.map_or(Ok(()), Err)
    }

    fn end_stage(&self) {
        let mut state = self.state.borrow_mut();
        let Some((name, began)) = state.stage.take() else { return };
        if let Err(fault) = self.store.add_seconds(self.part, without_count(&name), began.elapsed().as_secs_f64()) {
            state.fault.get_or_insert(fault);
        }
    }
}

impl Observer for Recorder<'_> {
    fn begin(&self, stage: &str, images: u64) {
        self.end_stage();
        self.state.borrow_mut().stage = Some((stage.to_string(), Instant::now()));
        self.observer.begin(stage, images);
    }

    fn advance(&self, images: u64) {
        self.observer.advance(images);
    }

    fn epoch(&self, record: &EpochRecord) -> Result<(), TrainError> {
        self.store.append_metrics(record).map_err(|e| TrainError::Data(e.to_string()))?;
        self.observer.epoch(record)
    }

    fn look(&self, record: &EpochRecord, network: &Network) -> Result<(), TrainError> {
        let from = Instant::now();
        self.observer.look(record, network)?;
        // What looking takes is none of the stage's time.
        if let Some((_, began)) = &mut self.state.borrow_mut().stage {
            *began += from.elapsed();
        }
        Ok(())
    }

    fn end(&self) {
        self.end_stage();
        self.observer.end();
    }

    fn cancelled(&self) -> bool {
        self.observer.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::experiment::{Asked, METRICS};
    use crate::gpu::{AdapterChoice, Gpu};
    use crate::kernel::Kernels;
    use crate::nn::ModelSpec;
    use crate::train::{Normalisation, Silent};

    #[test]
    fn rounds_and_epochs_of_a_stage_go_by_one_name() {
        for (name, expected) in [
            ("train 3/12", "train"),
            ("discriminator, round 2", "discriminator"),
            ("record losses", "record losses"),
            ("test defended 2/2", "test defended"),
        ] {
            assert_eq!(without_count(name), expected);
        }
    }

    #[test]
    fn stages_are_timed_and_epochs_written() {
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::begin(place.path(), &Asked::default(), "none", None).expect("begun");
        let recorder = Recorder::new(&store, Subtask::AntiLearning, &Silent);
        recorder.begin("train 1/2", 20);
        recorder.advance(20);
        let record = EpochRecord {
            stage: "train".into(),
            epoch: 1,
            epochs: 2,
            loss: 0.5,
            accuracy: 90.0,
            lr: 0.1,
            seconds: 1.0,
            images_per_second: 20.0,
        };
        recorder.epoch(&record).expect("written");
        recorder.begin("train 2/2", 20);
        recorder.begin("features", 20);
        recorder.begin("test defended 2/2", 20);
        recorder.finish().expect("finished");
        let stages = store.read_run().expect("read").1.stages;
        assert_eq!(stages.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["train", "features", "test defended"]);
        let line = store.read(METRICS).expect("metrics");
        assert!(line.starts_with("{\"stage\":\"train\",\"epoch\":1,"), "{line}");
    }

    #[test]
    fn looking_takes_none_of_a_stages_time() {
        struct Slow;
        impl Observer for Slow {
            fn begin(&self, _: &str, _: u64) {}
            fn advance(&self, _: u64) {}
            fn epoch(&self, _: &EpochRecord) -> Result<(), TrainError> {
                Ok(())
            }
            fn look(&self, _: &EpochRecord, _: &Network) -> Result<(), TrainError> {
                std::thread::sleep(Duration::from_millis(400));
                Ok(())
            }
            fn cancelled(&self) -> bool {
                false
            }
        }
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::begin(place.path(), &Asked::default(), "none", None).expect("begun");
        let kernels = Kernels::new(Gpu::open(&AdapterChoice::default()).expect("the tests need an adapter"));
        let norm = Normalisation { mean: [0.5; 3], std: [0.5; 3] };
        let network = Network::new(&kernels, &ModelSpec::new("resnet18", 4, 2, 8), &norm, 1).expect("made");
        let recorder = Recorder::new(&store, Subtask::AntiLearning, &Slow);
        recorder.begin("train 1/1", 20);
        let (stage, loss, accuracy, lr, seconds, images_per_second) = ("train".into(), 0.5, 90.0, 0.1, 1.0, 20.0);
        let record = EpochRecord { stage, epoch: 1, epochs: 1, loss, accuracy, lr, seconds, images_per_second };
        recorder.look(&record, &network).expect("looked at");
        recorder.finish().expect("finished");
        let seconds = store.read_run().expect("read").1.stages[0].seconds;
        assert!((0.0..0.3).contains(&seconds), "{seconds} s");
    }
}
