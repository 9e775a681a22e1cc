//! CIFAR's batches for Python, which torchvision downloads: pickles of a dictionary with the labels, a list, and the pixels, one string of
//! bytes. A pickle's operations are read one after the other for these two; none is carried out.

use super::cifar::{HUNDRED, PLANES, TEN, fill};
use super::{Layout, Source, io};
use crate::data::{DataError, Dataset, Remarks, Splits};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

pub static CIFAR10: Layout = Layout {
    name: "cifar10-python",
    looks_like: "cifar-10-batches-py/{data_batch_1..5,test_batch}",
    find: Some(|dir| TEN_PY.find(dir)),
    load: |source, dir| TEN_PY.load(source, dir),
};

pub static CIFAR100: Layout = Layout {
    name: "cifar100-python",
    looks_like: "cifar-100-python/{train,test}",
    find: Some(|dir| HUNDRED_PY.find(dir)),
    load: |source, dir| HUNDRED_PY.load(source, dir),
};

/// A set of such files.
struct Batches {
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// What the labels are called.
    labels: &'static [u8],
    /// The official names, by label, separated by spaces.
    classes: &'static str,
}

const TEN_PY: Batches = Batches {
    folder: "cifar-10-batches-py",
    train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
    test: "test_batch",
    labels: b"labels",
    classes: TEN.classes,
};

const HUNDRED_PY: Batches =
    Batches { folder: "cifar-100-python", train: &["train"], test: "test", labels: b"fine_labels", classes: HUNDRED.classes };

/// Bytes of the largest batch; CIFAR-100's has 155 million.
const LONGEST: u64 = 200_000_000;

impl Batches {
    /// The folder with the batches, if `dir` is that folder or holds it.
    fn find(&self, dir: &Path) -> Option<PathBuf> {
        let all = |d: &PathBuf| d.join(self.train[0]).is_file() && d.join(self.test).is_file();
        let inner = Some(dir.join(self.folder)).filter(|inner| inner.is_dir());
        inner.or_else(|| Some(dir.to_path_buf()).filter(all))
    }

    fn load(&self, source: &Source, dir: &Path) -> Result<Splits, DataError> {
        let train = source.limited(self.read(source, dir, self.train)?);
        let test = self.read(source, dir, &[self.test])?;
        Ok(Splits { train, test, remarks: Remarks::default() })
    }

    fn read(&self, source: &Source, dir: &Path, files: &[&str]) -> Result<Dataset, DataError> {
        let classes: Vec<String> = self.classes.split(' ').map(String::from).collect();
        let image_bytes = source.size * source.size * 3;
        let (mut pixels, mut labels, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            let path = dir.join(file);
            let length = std::fs::metadata(&path).map_err(io(&path))?.len();
            let damaged = |why: String| DataError::Batch { path: path.clone(), why };
            if length > LONGEST {
                return Err(damaged(format!("it has {length} bytes, more than any of them")));
            }
            let bytes = std::fs::read(&path).map_err(io(&path))?;
            let batch = Batch::of(&bytes, self.labels).map_err(damaged)?;
            if let Some(label) = batch.labels.iter().find(|label| **label >= classes.len()) {
                return Err(damaged(format!("it has label {label}, but labels go from 0 to {}", classes.len() - 1)));
            }
            paths.extend((0..batch.labels.len()).map(|record| format!("{file}#{record}")));
            let mut part = source.pixels(batch.labels.len())?;
            let images = part.par_chunks_mut(image_bytes).zip(batch.planes.par_chunks_exact(PLANES));
            images.for_each(|(pixels, planes)| fill(pixels, planes, source.size));
            labels.extend(batch.labels.into_iter().map(|label| label as u32));
            pixels.append(&mut part);
        }
        Ok(Dataset { name: source.spec.name.clone(), size: source.size, classes, pixels, labels, paths })
    }
}

/// What is looked for in a pickle.
struct Batch<'a> {
    labels: Vec<usize>,
    /// Of each image in turn.
    planes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The numbers after the text `key`, and the longest string.
    fn of(pickle: &'a [u8], key: &[u8]) -> Result<Batch<'a>, String> {
        let mut batch = Batch { labels: Vec::new(), planes: &[] };
        let mut here = false;
        let mut rest = Rest(pickle);
        loop {
            match rest
                .next()
                .ok_or_else(|| format!("no whole pickle of protocols 2 to 5: see byte {}", pickle.len() - rest.0.len()))?
            {
                Word::Text(text) => {
                    here = text == key;
                    if text.len() > batch.planes.len() {
                        batch.planes = text;
                    }
                }
                Word::Number(number) if here => batch.labels.push(number),
                Word::End => break,
                _ => {}
            }
        }
        let (labels, bytes) = (batch.labels.len(), batch.planes.len());
        if labels == 0 || bytes != labels * PLANES {
            return Err(format!("it has {labels} labels and {bytes} bytes of pixels, {PLANES} an image"));
        }
        Ok(batch)
    }
}

/// An operation, as far as it matters.
enum Word<'a> {
    Text(&'a [u8]),
    Number(usize),
    Other,
    End,
}

/// The bytes not yet read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A little-endian number of `n` bytes.
    fn number(&mut self, n: usize) -> Option<usize> {
        let number = self.take(n)?.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    }

    /// As much as a length of `n` bytes before it says.
    fn text(&mut self, n: usize) -> Option<Word<'a>> {
        let length = self.number(n)?;
        self.take(length).map(Word::Text)
    }

    fn skip(&mut self, n: usize) -> Option<Word<'a>> {
        self.take(n).map(|_| Word::Other)
    }

    /// The next operation; none at the end, and if protocols 2 to 5 have no such operation.
    fn next(&mut self) -> Option<Word<'a>> {
        match self.take(1)?[0] {
            b'.' => Some(Word::End),
            b'K' => self.number(1).map(Word::Number),
            b'M' => self.number(2).map(Word::Number),
            b'J' => self.number(4).map(Word::Number),
            b'U' | b'C' | 0x8c => self.text(1),
            b'T' | b'B' | b'X' => self.text(4),
            0x8d | 0x8e | 0x96 => self.text(8),
            // Places in the memo, the protocol, fractions, frames.
            b'h' | b'q' | 0x80 => self.skip(1),
            b'j' | b'r' => self.skip(4),
            b'G' | 0x95 => self.skip(8),
            // The name of a function: two lines. What a name leads to is nobody's business here.
            b'c' => {
                let lines = self.0.splitn(3, |byte| *byte == b'\n').take(2).map(|line| line.len() + 1).sum();
                self.skip(lines)
            }
            b'(' | b')' | b'0' | b'1' | b'2' | b'N' | b'R' | b']' | b'a' | b'b' | b'd' | b'e' | b'l' | b's' | b't' | b'u'
            | b'}' => Some(Word::Other),
            0x81 | 0x85..=0x89 | 0x93 | 0x94 => Some(Word::Other),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use std::fs::{create_dir_all, write};

    /// A batch of `labels` as Python 2 pickled it; image i has red i, green i + 100, blue 200.
    fn batch(key: &str, labels: &[u8]) -> Vec<u8> {
        let text = |text: &str| [&[b'U', text.len() as u8][..], text.as_bytes(), b"q\x02"].concat();
        let mut bytes = [&b"\x80\x02}q\x01("[..], &text("batch_label"), &text("training batch 1 of 5"), &text(key)].concat();
        bytes.extend(b"]q\x04");
        for some in labels.chunks(3) {
            bytes.push(b'(');
            some.iter().for_each(|label| bytes.extend([b'K', *label]));
            bytes.push(b'e');
        }
        bytes.extend(text("data"));
        bytes.extend(
            b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08U\x01bq\x09\x87q\x0aRq\x0b(K\x01M",
        );
        bytes.extend((labels.len() as u16).to_le_bytes());
        bytes.extend(b"M\x00\x0c\x86q\x0ccnumpy\ndtype\nq\x0dU\x02u1q\x0eK\x00K\x01\x87q\x0fRq\x10(K\x03U\x01|q\x11NNN");
        bytes.extend(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x12b\x89T");
        bytes.extend((labels.len() as u32 * 3072).to_le_bytes());
        for i in 0..labels.len() as u8 {
            [i, i + 100, 200].iter().for_each(|value| bytes.extend([*value; 1024]));
        }
        bytes.extend(b"q\x13tq\x14b");
        bytes.extend([&text("filenames")[..], b"]q\x16(", &text("a.png"), &text("b.png"), b"eu."].concat());
        bytes
    }

    fn open(dataset: &str, dir: &Path) -> Result<Splits, DataError> {
        load(&Spec::find(dataset).expect("known"), &LoadOptions { dir: Some(dir.into()), ..Default::default() })
    }

    #[test]
    fn batches_give_images_labels_and_official_names() {
        let root = tempfile::tempdir().expect("a folder");
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            create_dir_all(path.parent().expect("a parent")).expect("a folder");
            write(path, bytes).expect("written");
        };
        (1..=5).for_each(|n| put(&format!("cifar-10-batches-py/data_batch_{n}"), &batch("labels", &[n, 9, 0, 3, 4, 5, 6])));
        put("cifar-10-batches-py/test_batch", &batch("labels", &[8, 2]));
        let Splits { train, test, .. } = open("CIFAR-10", root.path()).expect("loads");
        assert_eq!((train.len(), &train.labels[21..24], &test.labels), (35, &[4, 9, 0][..], &vec![8, 2]));
        assert_eq!((train.paths[22].as_str(), train.classes[9].as_str()), ("data_batch_4#1", "truck"));
        assert!(train.image(22).chunks(3).all(|rgb| rgb == [1, 101, 200]));
        let inner = open("CIFAR-10", &root.path().join("cifar-10-batches-py")).expect("loads");
        assert_eq!(inner.train.pixels, train.pixels);

        put("h/cifar-100-python/train", &batch("fine_labels", &[99, 41]));
        put("h/cifar-100-python/test", &batch("fine_labels", &[0]));
        let Splits { train, test, .. } = open("CIFAR-100", &root.path().join("h")).expect("loads");
        assert_eq!((train.labels, test.labels, train.classes[41].as_str()), (vec![99, 41], vec![0], "lawn_mower"));
    }

    #[test]
    fn what_is_missing_cut_off_or_out_of_range_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let place = |name: &str| root.path().join("cifar-10-batches-py").join(name);
        create_dir_all(place("")).expect("a folder");
        (1..=4).for_each(|n| write(place(&format!("data_batch_{n}")), batch("labels", &[n])).expect("written"));
        write(place("test_batch"), batch("labels", &[8])).expect("written");
        let refused = || open("CIFAR-10", root.path()).expect_err("refused").to_string();
        assert!(refused().starts_with(&format!("cannot read {}", place("data_batch_5").display())));
        let whole = batch("labels", &[1, 2, 3]);
        for (bytes, why) in [
            (&whole[..whole.len() - 1], "no whole pickle"),
            (&whole[..5000], "no whole pickle"),
            (b"not a pickle", "no whole pickle"),
            (&batch("labels", &[1, 10])[..], "it has label 10, but labels go from 0 to 9"),
            (&batch("other", &[1, 1])[..], "it has 0 labels and 6144 bytes of pixels"),
            (b"\x80\x02.", "it has 0 labels and 0 bytes"),
            (b"T\xff\xff\xff\xff", "no whole pickle"),
        ] {
            write(place("data_batch_5"), bytes).expect("written");
            assert!(refused().contains(why) && refused().contains("data_batch_5"), "{}", refused());
        }
    }
}
