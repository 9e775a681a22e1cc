//! What pictures of the networks are made of.

use std::io::Cursor;

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};

use super::Experiment;
use crate::data::Dataset;
use crate::defenses::projections;
use crate::rng;
use crate::train::{Attention, Network, Wanted};

/// Images of each group of a [`Projection`] at most.
const POINTS: usize = 100;
/// Triggered images of which [`Look`]s are taken.
const LOOKS: usize = 6;

/// What was seen of a run's two networks, beside their figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The classes' names, by label.
    pub classes: Vec<String>,
    /// Clean test images `[K][K]`, by true class and by what the network says, before and after the defense.
    pub confusion: [Vec<Vec<usize>>; 2],
    /// Training images, as the network before the defense sees them.
    pub projection: Projection,
    /// A few triggered test images; none where there are none.
    pub looks: Vec<Look>,
}

/// Penultimate features of some images, on their two directions of greatest variance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// Shares of the features' variance along the two, 0 to 1.
    pub explained: [f64; 2],
    /// The images in groups.
    pub clouds: Vec<Cloud>,
}

/// Images of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cloud {
    /// What they are.
    pub name: String,
    /// How many such images there are; where there are many, a seeded sample is shown.
    pub of: usize,
    /// Those that are shown.
    pub points: Vec<[f32; 2]>,
}

/// Where the networks look in one image, before and after the defense.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The image, as a PNG in base64.
    pub png: String,
    /// Its true label.
    pub label: u32,
    /// Height and width of a map.
    pub side: usize,
    /// What the network takes it for, before and after.
    pub class: [u32; 2],
    /// What speaks for that class `[side, side]`, as [`Attention::maps`].
    pub maps: [Vec<f32>; 2],
}

impl Experiment<'_> {
    /// What `network` sees of its training images, which lie in named `groups`; of each a sample by `seed`. Empty groups are left out.
    ///
    /// # Errors
    /// Features that are not finite; what stops prediction, a disk that refuses.
    pub fn projection(&self, network: &Network, groups: Vec<(&str, Vec<usize>)>, seed: u64) -> Result<Projection> {
        let mut clouds = Vec::new();
        let mut chosen = Vec::new();
        for (name, mut images) in groups.into_iter().filter(|(_, images)| !images.is_empty()) {
            rng::shuffle(&mut rng::stream(seed, name), &mut images);
            let of = images.len();
            images.truncate(POINTS);
            clouds.push((name, of, images.len()));
            chosen.extend(images);
        }
        let features = self.predict(network, &self.train().subset(&chosen), &[Wanted::Features], "test features")?.features;
        let rows: Vec<&[f32]> = features.chunks_exact(features.len() / chosen.len().max(1)).collect();
        let (points, explained) = plane(&rows)?;
        let mut points = points.into_iter();
        let cloud = |(name, of, shown): (&str, usize, usize)| Cloud {
            name: name.into(),
            of,
            points: points.by_ref().take(shown).collect(),
        };
        Ok(Projection { explained, clouds: clouds.into_iter().map(cloud).collect() })
    }

    /// Where `before` and `after` look in a few of the images, chosen by `seed`.
    ///
    /// # Errors
    /// What stops the networks, a disk that refuses.
    pub(super) fn looks(&self, [before, after]: [&Network; 2], images: &Dataset, seed: u64) -> Result<Vec<Look>> {
        let mut chosen: Vec<usize> = (0..images.len()).collect();
        rng::shuffle(&mut rng::stream(seed, "looks"), &mut chosen);
        chosen.truncate(LOOKS);
        let images = images.subset(&chosen);
        let seen =
            [self.attention(before, &images, "test attention 1/2")?, self.attention(after, &images, "test attention 2/2")?];
        (0..images.len()).map(|i| look(&images, &seen, i)).collect()
    }
}

fn look(images: &Dataset, seen: &[Attention; 2], i: usize) -> Result<Look> {
    let (size, side) = (images.size as u32, seen[0].side);
    let image = RgbImage::from_raw(size, size, images.image(i).to_vec()).ok_or_else(|| anyhow!("an image of another size"))?;
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png)?;
    let map = |seen: &Attention| seen.maps[i * side * side..][..side * side].to_vec();
    Ok(Look {
        png: STANDARD.encode(png.get_ref()),
        label: images.labels[i],
        side,
        class: [seen[0].class[i], seen[1].class[i]],
        maps: [map(&seen[0]), map(&seen[1])],
    })
}

/// `rows` [n, d] on their two directions of greatest variance, and the shares of the variance along these.
fn plane(rows: &[&[f32]]) -> Result<(Vec<[f32; 2]>, [f64; 2])> {
    let found = projections(rows, 2)?;
    let n = rows.len().max(1) as f64;
    let wide = rows.first().map_or(0, |row| row.len());
    let spread = |j: usize| {
        let column = || rows.iter().map(|row| f64::from(row[j]));
        let mean = column().sum::<f64>() / n;
        column().map(|x| (x - mean).powi(2)).sum::<f64>()
    };
    let total: f64 = (0..wide).map(spread).sum();
    // Of one feature there is but one direction.
    let at = |i: usize, j: usize| if j < found.ncols() { found[(i, j)] } else { 0.0 };
    let along = |j: usize| (0..rows.len()).map(|i| at(i, j).powi(2)).sum::<f64>();
    let share = |j: usize| if total > 0.0 { along(j) / total } else { 0.0 };
    Ok(((0..rows.len()).map(|i| [at(i, 0) as f32, at(i, 1) as f32]).collect(), [share(0), share(1)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NumPy: `x -= x.mean(0); u, s, v = svd(x); u[:, :2] * s[:2], s[:2]**2 / (s**2).sum()`, up to the directions' signs.
    #[test]
    fn the_plane_is_that_of_the_singular_value_decomposition() {
        let rows: [[f32; 3]; 4] = [[1.0, 2.0, 0.5], [3.0, -1.0, 0.0], [-2.0, 0.5, 4.0], [0.0, 1.0, 1.5]];
        let rows: Vec<&[f32]> = rows.iter().map(|row| &row[..]).collect();
        let numpy = [
            [-0.7800292044260054, 1.5880939563012215],
            [-3.112348899447829, -1.2055426417118906],
            [3.4501420399712024, -0.7793234495784122],
            [0.44223606390263165, 0.39677213498908237],
        ];
        let (points, explained) = plane(&rows).expect("finite");
        for j in 0..2 {
            assert!((explained[j] - [0.8236952299345036, 0.17435029484846865][j]).abs() < 1e-6, "{explained:?}");
            let sign = (f64::from(points[0][j]) * numpy[0][j]).signum();
            for i in 0..4 {
                let (found, numpy) = (sign * f64::from(points[i][j]), numpy[i][j]);
                assert!((found - numpy).abs() < 1e-5, "{i}, {j}: {found}, NumPy says {numpy}");
            }
        }
    }
}
