//! Batches on their way through the device: prepared on a thread of their own, a few under way, results taken as they come.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc;
use std::thread;

use super::{Observer, TrainError};
use crate::data::Dataset;
use crate::gpu::{Gpu, Pending};

/// A part of a joint batch: which samples, and the weight of each in the loss that the part gets. A part beyond the step's losses gets
/// none: batch norm sees it, and that is all.
pub struct Part<'a> {
    /// Samples of the data set.
    pub indices: &'a [usize],
    /// Of each of them in the loss.
    pub weight: f32,
}

/// Images with labels and weights, as the device takes them.
pub struct Batch {
    /// Which samples of the data set, part after part.
    pub indices: Vec<usize>,
    /// Height and width of the images.
    pub(super) size: usize,
    /// One u32 a pixel: R | G << 8 | B << 16.
    pub(super) pixels: Vec<u32>,
    /// Given labels, one an image.
    pub labels: Vec<u32>,
    /// For each part a weight a sample of the whole batch, 0 for those of other parts.
    pub(super) weights: Vec<Vec<f32>>,
}

impl Batch {
    /// The images of all `parts` together.
    pub fn new(data: &Dataset, parts: &[Part]) -> Batch {
        let indices: Vec<usize> = parts.iter().flat_map(|p| p.indices).copied().collect();
        let mut pixels = Vec::with_capacity(indices.len() * data.size * data.size);
        for &i in &indices {
            pixels.extend(data.image(i).chunks_exact(3).map(|p| u32::from_le_bytes([p[0], p[1], p[2], 0])));
        }
        let mut first = 0;
        let mut weights = Vec::with_capacity(parts.len());
        for part in parts {
            let mut weight = vec![0.0f32; indices.len()];
            weight[first..first + part.indices.len()].fill(part.weight);
            weights.push(weight);
            first += part.indices.len();
        }
        let labels = indices.iter().map(|&i| data.labels[i]).collect();
        Batch { indices, size: data.size, pixels, labels, weights }
    }

    /// The same with the weights in the loss of `part` multiplied by what `times` says of each sample of the data set.
    pub fn weighed(mut self, part: usize, times: impl Fn(usize) -> f32) -> Batch {
        self.weights[part].iter_mut().zip(&self.indices).for_each(|(weight, &sample)| *weight *= times(sample));
        self
    }

    /// For each part a weight a sample.
    #[cfg(test)]
    pub(crate) fn weights(&self) -> &[Vec<f32>] {
        &self.weights
    }

    /// Red, green and blue of every image.
    #[cfg(test)]
    pub(crate) fn images(&self) -> Vec<Vec<u8>> {
        let image = self.size * self.size;
        self.pixels.chunks_exact(image).map(|p| p.iter().flat_map(|p| p.to_le_bytes().into_iter().take(3)).collect()).collect()
    }

    /// The same with `change` made to the pixels, red, green and blue, of the images `which`, counted from 0.
    pub fn changed(mut self, which: Range<usize>, change: impl Fn(&mut [u8])) -> Batch {
        let image = self.size * self.size;
        for pixels in self.pixels[which.start * image..which.end * image].chunks_exact_mut(image) {
            let mut bytes: Vec<u8> = pixels.iter().flat_map(|p| p.to_le_bytes().into_iter().take(3)).collect();
            change(&mut bytes);
            pixels.iter_mut().zip(bytes.chunks_exact(3)).for_each(|(p, b)| *p = u32::from_le_bytes([b[0], b[1], b[2], 0]));
        }
        self
    }
}

/// How many batches are prepared before the device has room for them.
const AHEAD: usize = 2;
/// How many batches may be under way on the device before the oldest result is waited for.
const IN_FLIGHT: usize = 3;

/// [`stream_until`] the end.
///
/// # Errors
/// As there, or a wish to stop.
pub(crate) fn stream(
    gpu: &Gpu,
    observer: &dyn Observer,
    batches: impl Iterator<Item = Batch> + Send,
    submit: impl FnMut(usize, &Batch) -> Result<Pending, TrainError>,
    collect: impl FnMut(usize, &Batch, &[Vec<u8>]) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut stopped = false;
    let enough = || {
        stopped = observer.cancelled();
        stopped
    };
    stream_until(gpu, observer, enough, batches, submit, collect)?;
    if stopped { Err(TrainError::Cancelled) } else { Ok(()) }
}

/// Takes `batches`, which another thread makes, one after another and numbered from 0: `submit` starts one on the device, `collect`
/// gets what it fetched. Asked before each batch, `enough` ends it once what was started is collected. The thread has ended when this
/// returns, whatever the reason.
///
/// # Errors
/// What `submit` and `collect` refuse; the driver's.
pub(crate) fn stream_until(
    gpu: &Gpu,
    observer: &dyn Observer,
    mut enough: impl FnMut() -> bool,
    batches: impl Iterator<Item = Batch> + Send,
    mut submit: impl FnMut(usize, &Batch) -> Result<Pending, TrainError>,
    mut collect: impl FnMut(usize, &Batch, &[Vec<u8>]) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (send, receive) = mpsc::sync_channel(AHEAD);
    // `receive` goes with the closure: however that ends, the thread's next `send` fails.
    thread::scope(move |scope| {
        scope.spawn(move || {
            for batch in batches {
                if send.send(batch).is_err() {
                    return;
                }
            }
        });
        let mut finish = |(index, batch, pending): (usize, Batch, Pending)| -> Result<(), TrainError> {
            collect(index, &batch, &pending.wait(gpu)?)?;
            observer.advance(batch.indices.len() as u64);
            Ok(())
        };
        let mut waiting = VecDeque::new();
        for (index, batch) in receive.into_iter().enumerate() {
            if enough() {
                break;
            }
            let pending = submit(index, &batch)?;
            waiting.push_back((index, batch, pending));
            if waiting.len() >= IN_FLIGHT {
                waiting.pop_front().map_or(Ok(()), &mut finish)?;
            }
        }
        waiting.into_iter().try_for_each(finish)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::AdapterChoice;
    use crate::train::Silent;

    fn data() -> Dataset {
        Dataset {
            name: "counted".into(),
            size: 1,
            classes: vec!["even".into(), "odd".into()],
            pixels: (0..12).collect(),
            labels: vec![0, 1, 0, 1],
            paths: (0..4).map(|i| i.to_string()).collect(),
        }
    }

    #[test]
    fn a_joint_batch_holds_its_parts_one_after_another() {
        let batch = Batch::new(&data(), &[Part { indices: &[3, 0], weight: 0.5 }, Part { indices: &[2], weight: 2.0 }]);
        assert_eq!(batch.indices, [3, 0, 2]);
        assert_eq!(batch.pixels, [0x000b_0a09, 0x0002_0100, 0x0008_0706]);
        assert_eq!(batch.labels, [1, 0, 0]);
        assert_eq!(batch.weights, [[0.5, 0.5, 0.0], [0.0, 0.0, 2.0]]);
        let odd_thrice = batch.weighed(0, |sample| [1.0, 0.0, 0.0, 3.0][sample]);
        assert_eq!(odd_thrice.weights, [[1.5, 0.5, 0.0], [0.0, 0.0, 2.0]]);
        let changed = odd_thrice.changed(1..2, |image| image.swap(0, 2));
        assert_eq!(changed.pixels, [0x000b_0a09, 0x0000_0102, 0x0008_0706]);
        assert_eq!(changed.weights, [[1.5, 0.5, 0.0], [0.0, 0.0, 2.0]]);
    }

    /// The batches never end, so that it comes back at all says that the thread which makes them has ended.
    #[test]
    fn a_refusal_ends_the_thread_that_makes_batches() {
        let gpu = Gpu::open(&AdapterChoice::default()).unwrap();
        let data = data();
        let endless = || std::iter::repeat_with(|| Batch::new(&data, &[Part { indices: &[1], weight: 1.0 }]));
        let nothing = || gpu.submit(gpu.device.create_command_encoder(&Default::default()), &[], &Default::default()).unwrap();
        let refuse = || TrainError::Data("enough".into());

        let mut started = 0;
        let submit = |index: usize, _: &Batch| {
            started += 1;
            if index == 5 { Err(refuse()) } else { Ok(nothing()) }
        };
        let error = stream(&gpu, &Silent, endless(), submit, |_, _, _| Ok(())).expect_err("refused");
        assert_eq!((error.to_string().as_str(), started), ("enough", 6));

        let mut seen = Vec::new();
        let collect = |index: usize, _: &Batch, _: &[Vec<u8>]| {
            seen.push(index);
            if index == 4 { Err(refuse()) } else { Ok(()) }
        };
        stream(&gpu, &Silent, endless(), |_, _| Ok(nothing()), collect).expect_err("refused");
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
