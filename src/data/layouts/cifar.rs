//! CIFAR's official binary files: records of label bytes, of which the last is the class, and 3,072 bytes of pixels, 32x32,
//! red plane, green plane, blue plane. CIFAR-10 has one label byte; CIFAR-100 two, the superclass and the class.

use super::{Layout, Source, io, to_square};
use crate::data::{DataError, Dataset, Remarks, Splits};
use image::RgbImage;
use rayon::prelude::*;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub static CIFAR10: Layout = Layout {
    name: "cifar10",
    looks_like: "cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin",
    find: Some(|dir| TEN.find(dir)),
    load: |source, dir| TEN.load(source, dir),
};

pub static CIFAR100: Layout = Layout {
    name: "cifar100",
    looks_like: "cifar-100-binary/{train,test}.bin",
    find: Some(|dir| HUNDRED.find(dir)),
    load: |source, dir| HUNDRED.load(source, dir),
};

/// A set of binary files.
pub(super) struct Binary {
    folder: &'static str,
    /// Names, and records in each.
    train: (&'static [&'static str], usize),
    test: (&'static str, usize),
    /// Bytes before a record's pixels.
    label_bytes: usize,
    /// The official names, by label, separated by spaces.
    pub classes: &'static str,
}

pub(super) const TEN: Binary = Binary {
    folder: "cifar-10-batches-bin",
    train: (&["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"], 10_000),
    test: ("test_batch.bin", 10_000),
    label_bytes: 1,
    classes: "airplane automobile bird cat deer dog frog horse ship truck",
};

pub(super) const HUNDRED: Binary = Binary {
    folder: "cifar-100-binary",
    train: (&["train.bin"], 50_000),
    test: ("test.bin", 10_000),
    label_bytes: 2,
    classes: "\
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle \
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant \
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree \
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate \
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider \
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle \
    wardrobe whale willow_tree wolf woman worm",
};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
/// Bytes of one image.
pub(super) const PLANES: usize = 3 * PLANE;

/// Turns the red, green and blue plane of one image into `pixels`, `[size, size, 3]`.
pub(super) fn fill(pixels: &mut [u8], planes: &[u8], size: usize) {
    let image = RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        let at = y as usize * SIDE + x as usize;
        image::Rgb([planes[at], planes[PLANE + at], planes[2 * PLANE + at]])
    });
    pixels.copy_from_slice(&to_square(image, size));
}

impl Binary {
    /// The folder with the binary files, if `dir` is that folder or holds it.
    fn find(&self, dir: &Path) -> Option<PathBuf> {
        let any = |d: &PathBuf| self.train.0.iter().chain([&self.test.0]).any(|file| d.join(file).is_file());
        [dir.join(self.folder), dir.into()].into_iter().find(any)
    }

    fn record(&self) -> usize {
        self.label_bytes + PLANES
    }

    fn load(&self, source: &Source, dir: &Path) -> Result<Splits, DataError> {
        // All sizes first: a truncated fifth file is named before the first four are read.
        for (file, records) in self.train.0.iter().map(|file| (*file, self.train.1)).chain([self.test]) {
            let (path, expected) = (dir.join(file), (records * self.record()) as u64);
            match std::fs::metadata(&path) {
                Ok(meta) if meta.len() == expected => {}
                Ok(meta) => return Err(DataError::FileSize { path, expected, found: meta.len() }),
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(DataError::MissingFile { path, expected }),
                Err(e) => return Err(io(&path)(e)),
            }
        }
        let train = source.limited(self.read(source, dir, self.train.0, self.train.1)?);
        let test = self.read(source, dir, &[self.test.0], self.test.1)?;
        Ok(Splits { train, test, remarks: Remarks::default() })
    }

    fn read(&self, source: &Source, dir: &Path, files: &[&str], records: usize) -> Result<Dataset, DataError> {
        let classes: Vec<String> = self.classes.split(' ').map(String::from).collect();
        let mut pixels = source.pixels(files.len() * records)?;
        let (mut labels, mut paths) = (Vec::new(), Vec::new());
        let image_bytes = source.size * source.size * 3;
        for (file, pixels) in files.iter().zip(pixels.chunks_mut(records * image_bytes)) {
            let path = dir.join(file);
            let bytes = std::fs::read(&path).map_err(io(&path))?;
            for (record, bytes) in bytes.chunks(self.record()).enumerate() {
                let label = bytes[self.label_bytes - 1];
                if usize::from(label) >= classes.len() {
                    return Err(DataError::Label { path, record, label, classes: classes.len() });
                }
                labels.push(u32::from(label));
                paths.push(format!("{file}#{record}"));
            }
            pixels.par_chunks_mut(image_bytes).zip(bytes.par_chunks_exact(self.record())).for_each(|(pixels, record)| {
                fill(pixels, &record[self.label_bytes..], source.size);
            });
        }
        Ok(Dataset { name: source.spec.name.clone(), size: source.size, classes, pixels, labels, paths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Spec;
    use crate::rng::stream;
    use rand::RngExt;
    use std::fs::{create_dir, remove_file, write};

    const FEW: usize = 7;

    /// CIFAR-10 and CIFAR-100 with `FEW` records a file.
    const SMALL: [Binary; 2] = [
        Binary { train: (TEN.train.0, FEW), test: (TEN.test.0, FEW), ..TEN },
        Binary { train: (HUNDRED.train.0, FEW), test: (HUNDRED.test.0, FEW), ..HUNDRED },
    ];

    /// A folder with such files, and each file's bytes.
    fn tree(of: &Binary) -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let root = tempfile::tempdir().expect("a folder");
        create_dir(root.path().join(of.folder)).expect("a folder");
        let mut rng = stream(5, "cifar tree");
        let files = of.train.0.iter().chain([&of.test.0]).map(|file| {
            let mut bytes: Vec<u8> = (0..FEW * of.record()).map(|_| rng.random()).collect();
            bytes.chunks_mut(of.record()).for_each(|record| record[of.label_bytes - 1] %= of.classes.split(' ').count() as u8);
            write(root.path().join(of.folder).join(file), &bytes).expect("written");
            bytes
        });
        let files = files.collect();
        (root, files)
    }

    fn load_few(of: &Binary, root: &Path, size: usize, limit: Option<usize>) -> Result<Splits, DataError> {
        let spec = Spec::find("CIFAR-10").expect("known");
        let source = Source { spec: &spec, size, limit, seed: 0, cache: None, skip_unreadable: false, train_only: false };
        of.load(&source, &of.find(root).expect("there"))
    }

    fn refused(root: &Path) -> String {
        load_few(&SMALL[0], root, 32, None).expect_err("refused").to_string()
    }

    #[test]
    fn planes_become_pixels_and_records_keep_their_names() {
        for of in &SMALL {
            let (root, files) = tree(of);
            let Splits { train, test, .. } = load_few(of, root.path(), 32, None).expect("loads");
            let batches = of.train.0.len();
            assert_eq!((train.len(), test.len()), (batches * FEW, FEW));
            for (i, (data, place)) in (0..train.len()).map(|i| (&train, i)).chain((0..FEW).map(|i| (&test, i))).enumerate() {
                let (labels, planes) = files[i / FEW][i % FEW * of.record()..][..of.record()].split_at(of.label_bytes);
                assert_eq!(Some(data.labels[place]), labels.last().map(|label| u32::from(*label)));
                for (at, rgb) in data.image(place).chunks(3).enumerate() {
                    assert_eq!(rgb, [planes[at], planes[1024 + at], planes[2048 + at]]);
                }
            }
            assert_eq!(train.paths[FEW - 1], format!("{}#6", of.train.0[0]));
            assert_eq!(test.paths[6], format!("{}#6", of.test.0));
        }
    }

    #[test]
    fn classes_have_their_official_names() {
        let names = SMALL.map(|of| of.classes.split(' ').collect::<Vec<_>>());
        assert_eq!((names[0].len(), names[0][9], names[1].len()), (10, "truck", 100));
        assert_eq!((names[1][0], names[1][41], names[1][99]), ("apple", "lawn_mower", "worm"));
        assert!(names.iter().all(|names| names.is_sorted()), "as folders of these names would be numbered");
    }

    #[test]
    fn the_binary_folder_itself_is_found_too_and_images_are_resized() {
        let of = &SMALL[0];
        let (root, _) = tree(of);
        let inner = root.path().join("cifar-10-batches-bin");
        let whole = load_few(of, root.path(), 32, None).expect("loads");
        assert_eq!(load_few(of, &inner, 32, None).expect("loads").train.pixels, whole.train.pixels);
        let half = load_few(of, &inner, 16, Some(2)).expect("loads");
        assert_eq!(half.test.pixels.len(), FEW * 16 * 16 * 3);
        assert!(half.train.class_counts().iter().all(|n| *n <= 2));
        // Shrinking averages: the mean stays.
        let mean = |pixels: &[u8]| pixels.iter().map(|p| f64::from(*p)).sum::<f64>() / pixels.len() as f64;
        assert!((mean(&half.test.pixels) - mean(&whole.test.pixels)).abs() < 1.0);
    }

    #[test]
    fn refuses_a_missing_and_a_truncated_file_by_name_and_sizes() {
        let (root, files) = tree(&SMALL[0]);
        let file = root.path().join("cifar-10-batches-bin/data_batch_4.bin");
        write(&file, &files[3][..2 * 3073]).expect("written");
        let end = format!("has the wrong size: expected {} bytes, found 6146; fetch it again", FEW * 3073);
        assert_eq!(refused(root.path()), format!("{} {end}", file.display()));
        remove_file(&file).expect("removed");
        assert_eq!(refused(root.path()), format!("{} is missing: expected a file of 21511 bytes", file.display()));
    }

    #[test]
    fn refuses_a_label_above_the_last_class_naming_file_and_record() {
        for (of, place, label, says) in [
            (&SMALL[0], "data_batch_2.bin", 10, "record 4 has label 10, but labels go from 0 to 9"),
            (&SMALL[1], "test.bin", 100, "record 4 has label 100, but labels go from 0 to 99"),
        ] {
            let (root, mut files) = tree(of);
            files[1][4 * of.record() + of.label_bytes - 1] = label;
            write(root.path().join(of.folder).join(place), &files[1]).expect("written");
            let message = load_few(of, root.path(), 32, None).expect_err("refused").to_string();
            assert!(message.contains(&format!("{place}: {says}")), "{message}");
        }
    }
}
