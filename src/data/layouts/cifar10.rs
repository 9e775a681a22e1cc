//! CIFAR-10's official binary files: `cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin`, 10,000 records each of one
//! label byte and 3,072 bytes of pixels, 32x32, red plane, green plane, blue plane.

use super::{Source, io, to_square};
use crate::data::{DataError, Dataset, Splits};
use image::RgbImage;
use rayon::prelude::*;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub const LOOKS_LIKE: &str = "cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin";
/// The official names, by label.
pub const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const TRAIN: [&str; 5] = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: [&str; 1] = ["test_batch.bin"];
const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
const RECORDS: usize = 10_000;

/// The folder with the binary files, if `dir` is that folder or holds it. One file of the six is enough: then the others
/// are missed by name.
pub fn marker(dir: &Path) -> Option<PathBuf> {
    let inner = dir.join("cifar-10-batches-bin");
    [inner, dir.into()].into_iter().find(|d| TRAIN.iter().chain(&TEST).any(|file| d.join(file).exists()))
}

/// Loads the binary files of `dir`.
pub fn load(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    load_batches(source, dir, RECORDS)
}

/// As [`load`], with files of `records` records.
fn load_batches(source: &Source, dir: &Path, records: usize) -> Result<Splits, DataError> {
    // All sizes first: a truncated fifth file is named before the first four are read.
    let expected = (records * RECORD) as u64;
    for path in TRAIN.iter().chain(&TEST).map(|file| dir.join(file)) {
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() == expected => {}
            Ok(meta) => return Err(DataError::FileSize { path, expected, found: meta.len() }),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(DataError::MissingFile { path, expected }),
            Err(e) => return Err(io(&path)(e)),
        }
    }
    let train = read(source, dir, &TRAIN, records)?;
    Ok(Splits { train: source.limited(train), test: read(source, dir, &TEST, records)? })
}

fn read(source: &Source, dir: &Path, files: &[&str], records: usize) -> Result<Dataset, DataError> {
    let mut pixels = source.pixels(files.len() * records)?;
    let (mut labels, mut paths) = (Vec::new(), Vec::new());
    let image_bytes = source.size * source.size * 3;
    for (file, pixels) in files.iter().zip(pixels.chunks_mut(records * image_bytes)) {
        let path = dir.join(file);
        let bytes = std::fs::read(&path).map_err(io(&path))?;
        for (record, bytes) in bytes.chunks(RECORD).enumerate() {
            if usize::from(bytes[0]) >= CLASSES.len() {
                return Err(DataError::Label { path, record, label: bytes[0], classes: CLASSES.len() });
            }
            labels.push(u32::from(bytes[0]));
            paths.push(format!("{file}#{record}"));
        }
        pixels.par_chunks_mut(image_bytes).zip(bytes.par_chunks_exact(RECORD)).for_each(|(pixels, record)| {
            let planes = &record[1..];
            let image = RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
                let at = y as usize * SIDE + x as usize;
                image::Rgb([planes[at], planes[PLANE + at], planes[2 * PLANE + at]])
            });
            pixels.copy_from_slice(&to_square(image, source.size));
        });
    }
    let classes = CLASSES.map(String::from).to_vec();
    Ok(Dataset { name: source.spec.name.clone(), size: source.size, classes, pixels, labels, paths })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Spec;
    use crate::rng::stream;
    use rand::RngExt;
    use std::fs::{create_dir, remove_file, write};

    const FEW: usize = 7;

    /// A folder with `cifar-10-batches-bin/` of `FEW` records a file, and each file's bytes.
    fn tree() -> (tempfile::TempDir, Vec<Vec<u8>>) {
        let root = tempfile::tempdir().expect("a folder");
        create_dir(root.path().join("cifar-10-batches-bin")).expect("a folder");
        let mut rng = stream(5, "cifar tree");
        let mut record = || -> Vec<u8> {
            let mut bytes: Vec<u8> = (0..RECORD).map(|_| rng.random()).collect();
            bytes[0] %= 10;
            bytes
        };
        let files = TRAIN.iter().chain(&TEST).map(|file| {
            let bytes: Vec<u8> = (0..FEW).flat_map(|_| record()).collect();
            write(root.path().join("cifar-10-batches-bin").join(file), &bytes).expect("written");
            bytes
        });
        let files = files.collect();
        (root, files)
    }

    fn load_few(root: &Path, size: usize, limit: Option<usize>) -> Result<Splits, DataError> {
        let spec = Spec::find("CIFAR-10").expect("known");
        load_batches(&Source { spec: &spec, size, limit, seed: 0 }, &marker(root).expect("there"), FEW)
    }

    fn refused(root: &Path) -> String {
        load_few(root, 32, None).expect_err("refused").to_string()
    }

    #[test]
    fn planes_become_pixels_and_records_keep_their_names() {
        let (root, files) = tree();
        let Splits { train, test } = load_few(root.path(), 32, None).expect("loads");
        assert_eq!((train.len(), test.len(), train.classes[9].as_str()), (5 * FEW, FEW, "truck"));
        for (i, (data, place)) in (0..5 * FEW).map(|i| (&train, i)).chain((0..FEW).map(|i| (&test, i))).enumerate() {
            let record = &files[i / FEW][i % FEW * 3073..][..3073];
            assert_eq!(data.labels[place], u32::from(record[0]));
            for (at, rgb) in data.image(place).chunks(3).enumerate() {
                assert_eq!(rgb, [record[1 + at], record[1025 + at], record[2049 + at]]);
            }
        }
        assert_eq!(train.paths[2 * FEW + 3], "data_batch_3.bin#3");
        assert_eq!(test.paths[6], "test_batch.bin#6");
    }

    #[test]
    fn the_binary_folder_itself_is_found_too_and_images_are_resized() {
        let (root, _) = tree();
        let inner = root.path().join("cifar-10-batches-bin");
        let whole = load_few(root.path(), 32, None).expect("loads");
        assert_eq!(load_few(&inner, 32, None).expect("loads").train.pixels, whole.train.pixels);
        let half = load_few(&inner, 16, Some(2)).expect("loads");
        assert_eq!(half.test.pixels.len(), FEW * 16 * 16 * 3);
        assert!(half.train.class_counts().iter().all(|n| *n <= 2));
        // Shrinking averages: the mean stays.
        let mean = |pixels: &[u8]| pixels.iter().map(|p| f64::from(*p)).sum::<f64>() / pixels.len() as f64;
        assert!((mean(&half.test.pixels) - mean(&whole.test.pixels)).abs() < 1.0);
    }

    #[test]
    fn refuses_a_missing_and_a_truncated_file_by_name_and_sizes() {
        let (root, files) = tree();
        let file = root.path().join("cifar-10-batches-bin/data_batch_4.bin");
        write(&file, &files[3][..2 * RECORD]).expect("written");
        let end = format!("has the wrong size: expected {} bytes, found 6146; fetch it again", FEW * 3073);
        assert_eq!(refused(root.path()), format!("{} {end}", file.display()));
        remove_file(&file).expect("removed");
        assert_eq!(refused(root.path()), format!("{} is missing: expected a file of 21511 bytes", file.display()));
    }

    #[test]
    fn refuses_a_label_above_9_naming_file_and_record() {
        let (root, mut files) = tree();
        files[1][4 * RECORD] = 10;
        let file = root.path().join("cifar-10-batches-bin/data_batch_2.bin");
        write(&file, &files[1]).expect("written");
        let message = refused(root.path());
        assert!(message.contains("data_batch_2.bin: record 4 has label 10, but labels go from 0 to 9"), "{message}");
    }
}
