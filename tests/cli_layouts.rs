//! `dau run` on every layout that data sets have on disk, in tiny trees (CIFAR's binary files have but one size, and are written whole).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::fs::{create_dir_all, write};
use std::io::{BufWriter, Write};
use std::path::Path;

use common::program::{place, succeed};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

/// An image of a shade and a slope of its class's own, in the format of `path`'s ending.
fn save(path: &Path, class: usize, n: usize) {
    create_dir_all(path.parent().expect("a parent")).expect("a folder");
    let shade = |x: u32, y: u32| (37 * class + 11 * n) as u32 + x * (class as u32 % 7) + y * (class as u32 % 5);
    let image = RgbImage::from_fn(32, 32, |x, y| Rgb([shade(x, y) as u8, shade(y, x) as u8, (x * y) as u8]));
    let jpeg = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jpeg"));
    let format = if jpeg { ImageFormat::Jpeg } else { ImageFormat::from_path(path).expect("an image's name") };
    image.save_with_format(path, format).expect("saved");
}

/// One of CIFAR's binary files: `records` of `label_bytes` and 3,072 bytes of pixels, all classes alike often.
fn cifar(path: &Path, records: usize, label_bytes: usize, classes: usize) {
    let mut file = BufWriter::new(std::fs::File::create(path).expect("a file"));
    for i in 0..records {
        let class = i % classes;
        let mut record = vec![(class / 5) as u8; label_bytes];
        record[label_bytes - 1] = class as u8;
        record.extend((0..3072).map(|at| (31 * class + 7 * (i / classes) + at * (1 + class % 3)) as u8));
        file.write_all(&record).expect("written");
    }
}

/// Runs the whole job on `dir` and gives its results.
fn run(dir: &Path, dataset: &str, more: &[&str]) -> Value {
    let place = place();
    let out = place.path().join("run");
    let data = dir.display().to_string();
    let args = [
        &["run", "--dataset", dataset, "--data", &data, "--out", "run", "--json"][..],
        &["--image-size", "8", "--width", "4", "--epochs", "1", "--batch", "32", "--unlearn-steps", "2"],
        &["--unlearn-batch-clean", "16", "--unlearn-batch-poison", "4", "--attack", "Blended"],
        more,
    ];
    let results: Value = serde_json::from_str(&succeed(place.path(), &args.concat())).expect("json");
    assert!(out.join("defended.safetensors").is_file(), "{dataset}");
    assert_eq!(results["dataset"]["name"], dataset);
    results
}

/// The numbers of training and test images, and of test images that the accuracies are shares of.
fn counts(results: &Value) -> [u64; 4] {
    let of = |network: &str| results[network]["counts"]["acc"][1].as_u64().expect("a count");
    let size = |part: &str| results["dataset"][part].as_u64().expect("a count");
    [size("train"), size("test"), of("undefended"), of("defended")]
}

#[test]
fn cifar_10_and_100_in_their_binary_files() {
    let root = place();
    let dir = root.path().join("cifar-10-batches-bin");
    create_dir_all(&dir).expect("a folder");
    let names = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    names.iter().for_each(|name| cifar(&dir.join(format!("{name}.bin")), 10_000, 1, 10));
    assert_eq!(counts(&run(root.path(), "CIFAR-10", &["--limit-per-class", "12"])), [120, 10_000, 10_000, 10_000]);

    let root = place();
    let dir = root.path().join("cifar-100-binary");
    create_dir_all(&dir).expect("a folder");
    cifar(&dir.join("train.bin"), 50_000, 2, 100);
    cifar(&dir.join("test.bin"), 10_000, 2, 100);
    assert_eq!(counts(&run(root.path(), "CIFAR-100", &["--limit-per-class", "2"])), [200, 10_000, 10_000, 10_000]);
}

#[test]
fn gtsrb_with_its_lists() {
    let root = place();
    let heading = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n";
    let row = |file: &str, class: usize| format!("{file};32;32;5;5;25;25;{class}\n");
    let mut test = heading.to_string();
    for class in 0..43 {
        let folder = root.path().join(format!("GTSRB/Final_Training/Images/{class:05}"));
        let names = [0, 1, 2].map(|n| format!("00000_{n:05}.ppm"));
        names.iter().enumerate().for_each(|(n, name)| save(&folder.join(name), class, n));
        let rows: String = names.iter().map(|name| row(name, class)).collect();
        write(folder.join(format!("GT-{class:05}.csv")), heading.to_string() + &rows).expect("written");
        save(&root.path().join(format!("GTSRB/Final_Test/Images/{class:05}.ppm")), class, 5);
        test += &row(&format!("{class:05}.ppm"), class);
    }
    write(root.path().join("GTSRB/Final_Test/GT-final_test.csv"), test).expect("written");
    assert_eq!(counts(&run(root.path(), "GTSRB", &[])), [129, 43, 43, 43]);
}

#[test]
fn tiny_imagenet_with_its_lists() {
    let root = place();
    let dir = root.path().join("tiny-imagenet-200");
    let (mut ids, mut labels) = (String::new(), String::new());
    for class in 0..200 {
        let id = format!("n{:08}", 1_000_000 + class);
        (0..2).for_each(|n| save(&dir.join(format!("train/{id}/images/{id}_{n}.JPEG")), class, n));
        save(&dir.join(format!("val/images/val_{class}.JPEG")), class, 5);
        labels += &format!("val_{class}.JPEG\t{id}\t0\t0\t31\t31\n");
        ids += &format!("{id}\n");
    }
    write(dir.join("wnids.txt"), ids).expect("written");
    write(dir.join("val/val_annotations.txt"), labels).expect("written");
    assert_eq!(counts(&run(root.path(), "Tiny-ImageNet", &[])), [400, 200, 200, 200]);
}

#[test]
fn folders_of_images_with_and_without_a_test_part() {
    let parts = place();
    let classes = place();
    for (class, name) in ["cat", "dog", "eel", "fox"].into_iter().enumerate() {
        for n in 0..20 {
            save(&parts.path().join(format!("train/{name}/{n}.png")), class, n);
            save(&classes.path().join(format!("{name}/{n}.png")), class, n);
        }
        save(&parts.path().join(format!("test/{name}/0.png")), class, 30);
    }
    assert_eq!(counts(&run(parts.path(), "folder", &[])), [80, 4, 4, 4]);
    assert_eq!(counts(&run(classes.path(), "folder", &[])), [64, 16, 16, 16]);
}
