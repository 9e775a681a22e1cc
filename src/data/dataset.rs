use super::split::choose_per_class;

/// RGB images of one square size with labels.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The name that its [`Spec`](super::Spec) gives it.
    pub name: String,
    /// Height and width in pixels, at least 1.
    pub size: usize,
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// `[N, size, size, 3]`, red, green, blue, 0..=255.
    pub pixels: Vec<u8>,
    /// `[N]`
    pub labels: Vec<u32>,
    /// `[N]`: where each image came from, a file's path, its control characters written out, or `data_batch_1.bin#17`.
    pub paths: Vec<String>,
}

/// Training and test images of one dataset: same size, same classes.
#[derive(Clone, Debug)]
pub struct Splits {
    /// All training images, or those that a limit leaves.
    pub train: Dataset,
    /// All test images; none where they were left unread.
    pub test: Dataset,
    /// About the files of both.
    pub remarks: Remarks,
}

/// What there is to say of files that were not read, or are not where they seem to be.
#[derive(Clone, Debug, Default)]
pub struct Remarks {
    /// Images that [`super::LoadOptions::skip_unreadable`] left out, a message each; empty without it.
    pub left_out: Vec<String>,
    /// Anything else, a line each; it holds no control characters.
    pub notices: Vec<String>,
}

impl Dataset {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it has no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Changes with every pixel, label, class name and path: 16 hexadecimal digits of a checksum.
    pub fn fingerprint(&self) -> String {
        let mut hashes = [crc32fast::Hasher::new(), crc32fast::Hasher::new()];
        hashes[0].update(&self.pixels);
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        hashes[1].update(&labels);
        self.classes.iter().chain(&self.paths).for_each(|name| hashes[1].update(name.as_bytes()));
        hashes.map(|hash| format!("{:08x}", hash.finalize())).concat()
    }

    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.size * self.size * 3
    }

    /// Image `i`, `[size, size, 3]`. Panics past the end, as a slice does.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * self.image_bytes()..][..self.image_bytes()]
    }

    /// Image `i` to be changed, `[size, size, 3]`. Panics past the end, as a slice does.
    pub fn image_mut(&mut self, i: usize) -> &mut [u8] {
        let bytes = self.image_bytes();
        &mut self.pixels[i * bytes..][..bytes]
    }

    /// The images at `indices`, in that order. Panics past the end, as a slice does.
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        Dataset {
            name: self.name.clone(),
            size: self.size,
            classes: self.classes.clone(),
            pixels: indices.iter().flat_map(|&i| self.image(i)).copied().collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            paths: indices.iter().map(|&i| self.paths[i].clone()).collect(),
        }
    }

    /// Sets `share` of each class's images aside, at least one of a class that has several, chosen by `seed`: (the rest, what is set aside).
    pub fn set_aside(&self, share: f64, seed: u64) -> (Dataset, Dataset) {
        let (rest, aside) = super::split::set_aside(&self.labels, self.classes.len(), share, seed);
        (self.subset(&rest), self.subset(&aside))
    }

    /// `[classes]`: how many images each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for &label in &self.labels {
            counts[label as usize] += 1;
        }
        counts
    }

    /// At most `n` images of each class, chosen by `seed`, in their old order. A smaller `n` chooses among the images of
    /// a larger one.
    pub fn limit_per_class(&self, n: usize, seed: u64) -> Dataset {
        self.subset(&choose_per_class(&self.labels, self.classes.len(), n, seed))
    }
}

#[cfg(test)]
mod tests {
    use super::super::split::tests::noise;
    use super::*;

    #[test]
    fn a_subset_carries_pixels_labels_and_paths_along() {
        let data = noise(40, 3, 5, 1);
        let part = data.subset(&[7, 3, 39]);
        assert_eq!(part.len(), 3);
        for (new, old) in [7, 3, 39].into_iter().enumerate() {
            assert_eq!(part.image(new), &data.pixels[old * 27..(old + 1) * 27]);
            assert_eq!(part.labels[new], data.labels[old]);
            assert_eq!(part.paths[new], data.paths[old]);
        }
    }

    #[test]
    fn a_limit_keeps_n_of_each_class_in_their_old_order() {
        let data = noise(300, 2, 4, 2);
        let (few, more) = (data.limit_per_class(5, 9), data.limit_per_class(20, 9));
        assert_eq!(few.class_counts(), [5; 4]);
        assert_eq!(more.class_counts(), [20; 4]);
        let place = |part: &Dataset| -> Vec<usize> { part.paths.iter().map(|p| p[1..].parse().expect("a number")).collect() };
        assert!(place(&few).is_sorted());
        assert!(place(&few).iter().all(|i| place(&more).contains(i)), "a smaller limit chooses among a larger one's");
        assert_ne!(place(&few), place(&data.limit_per_class(5, 10)), "the seed matters");
        assert_eq!(data.limit_per_class(1000, 9).pixels, data.pixels, "a limit above the class keeps all");
    }
}
