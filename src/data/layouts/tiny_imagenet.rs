//! Tiny-ImageNet as published: `tiny-imagenet-200/{wnids.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG,
//! val/val_annotations.txt}`. Its test images have no labels; the validation set is the test set. Classes are numbered in the
//! alphabetical order of their wnids, as a folder of images is.

use super::{Layout, Source, io};
use crate::data::images::{Listed, Listing};
use crate::data::walk::{EXTENSIONS, Walk};
use crate::data::{DataError, Remarks, Splits, is_plain};
use std::path::{Path, PathBuf};

pub static LAYOUT: Layout = Layout {
    name: "tiny-imagenet",
    looks_like: "tiny-imagenet-200/{wnids.txt,train/<wnid>/images/*.JPEG,val/{images,val_annotations.txt}}",
    find: Some(find),
    load,
};

const CLASSES: &str = "wnids.txt";
const TEST_LABELS: &str = "val_annotations.txt";

fn find(dir: &Path) -> Option<PathBuf> {
    let marked = |d: &PathBuf| d.join(CLASSES).is_file() || d.join("val").join(TEST_LABELS).is_file();
    [dir.join("tiny-imagenet-200"), dir.into()].into_iter().find(marked)
}

fn load(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    let path = dir.join(CLASSES);
    let mut classes: Vec<String> = read(&path)?.split_whitespace().map(String::from).collect();
    if let Some(class) = classes.iter().find(|class| !is_plain(class)) {
        let (line, why) = (1, format!("`{class}` is no name of a folder"));
        return Err(DataError::List { path, line, why });
    }
    classes.sort();
    let (found, expected) = (classes.len(), source.spec.classes);
    if found != expected {
        let why = format!("it lists {found} classes, {} has {expected}", source.spec.name);
        return Err(DataError::List { path, line: 1, why });
    }

    let mut remarks = Remarks::default();
    let mut train = Listing::new(&dir.join("train"), classes.clone());
    for (label, class) in (0..).zip(&classes) {
        let path = dir.join("train").join(class).join("images");
        let mut walk = Walk::below(&path, dir)?;
        if walk.images.is_empty() {
            return Err(DataError::EmptyClass { path, extensions: EXTENSIONS.join(", ") });
        }
        train.add(label, std::mem::take(&mut walk.images));
        walk.tell(dir, &mut remarks);
    }

    let (val, path) = (dir.join("val"), dir.join("val").join(TEST_LABELS));
    let mut test = Listed::new(&val, classes.clone(), &mut remarks);
    for (text, line) in read(&path)?.lines().zip(1..) {
        let damaged = |why| DataError::List { path: path.clone(), line, why };
        // File, class, and the box around the thing.
        let mut words = text.split('\t');
        let (file, class) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let label = classes.binary_search_by(|known| known.as_str().cmp(class));
        let label = label.map_err(|_| damaged(format!("`{class}` is no class of {CLASSES}")))?;
        test.add(source, label as u32, (&val.join("images"), file), damaged)?;
    }
    let test = test.finish();
    Splits::read(source, train, test, remarks)
}

fn read(path: &Path) -> Result<String, DataError> {
    std::fs::read_to_string(path).map_err(io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use image::{DynamicImage, Rgb, RgbImage};
    use std::fs::{create_dir_all, remove_dir_all, remove_file, write};

    fn wnid(class: usize) -> String {
        format!("n{:08}", 1_000_000 + class)
    }

    /// Two training images of each of the 200 classes, one of them grey, and three validation images of classes 9, 0, 199.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let dir = root.path().join("tiny-imagenet-200");
        let save = |path: String, class: usize, grey: bool| {
            let path = dir.join(path);
            create_dir_all(path.parent().expect("a parent")).expect("a folder");
            let image = DynamicImage::from(RgbImage::from_pixel(64, 64, Rgb([class as u8, 100, 100])));
            let image = if grey { image.to_luma8().into() } else { image };
            image.save_with_format(path, image::ImageFormat::Jpeg).expect("saved");
        };
        for class in 0..200 {
            let name = wnid(class);
            (0..2).for_each(|n| save(format!("train/{name}/images/{name}_{n}.JPEG"), class, n == 1));
        }
        let mut labels = String::new();
        for (i, class) in [9, 0, 199].into_iter().enumerate() {
            save(format!("val/images/val_{i}.JPEG"), class, false);
            labels += &format!("val_{i}.JPEG\t{}\t0\t32\t44\t62\n", wnid(class));
        }
        write(dir.join("val/val_annotations.txt"), labels).expect("written");
        // Not in alphabetical order, as in the published file; the test images have no labels.
        write(dir.join("wnids.txt"), (0..200).rev().map(|c| wnid(c) + "\n").collect::<String>()).expect("written");
        create_dir_all(dir.join("test/images")).expect("a folder");
        root
    }

    fn open(dir: &Path) -> Result<Splits, DataError> {
        load(&Spec::find("Tiny-ImageNet").expect("known"), &LoadOptions { dir: Some(dir.into()), ..Default::default() })
    }

    #[test]
    fn the_validation_set_is_the_test_set_and_classes_go_by_wnid() {
        let root = tree();
        let Splits { train, test, .. } = open(root.path()).expect("loads");
        assert_eq!((train.size, train.class_counts()), (64, vec![2; 200]));
        assert_eq!((train.classes[9].as_str(), test.labels.as_slice()), ("n01000009", &[9, 0, 199][..]));
        for (image, class) in [(train.image(2 * 150), 150u8), (test.image(2), 199), (test.image(1), 0)] {
            assert!(image[0].abs_diff(class) < 4 && image[1].abs_diff(100) < 4, "JPEG is near: {:?} for {class}", &image[..3]);
        }
        let grey = train.image(2 * 150 + 1);
        assert!(grey[0] == grey[1] && grey[1] == grey[2]);
        assert_eq!(open(&root.path().join("tiny-imagenet-200")).expect("loads").test.pixels, test.pixels);
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let root = tree();
        let refused = || open(root.path()).expect_err("refused").to_string();
        let part = |path: &str| root.path().join("tiny-imagenet-200").join(path);
        write(part("val/val_annotations.txt"), "val_0.JPEG\tn01000009\t0\nval_1.JPEG\tn5\t0\n").expect("written");
        assert!(refused().ends_with("val_annotations.txt, line 2: `n5` is no class of wnids.txt; fetch it again"));
        remove_dir_all(part("train/n01000004/images")).expect("removed");
        assert!(refused().contains("n01000004/images"), "{}", refused());
        write(part("wnids.txt"), "n01\nn02\n").expect("written");
        assert!(refused().ends_with("wnids.txt, line 1: it lists 2 classes, Tiny-ImageNet has 200; fetch it again"));
        remove_file(part("wnids.txt")).expect("removed");
        assert!(refused().starts_with(&format!("cannot read {}", part("wnids.txt").display())));
    }
}
