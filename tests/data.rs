//! Loading datasets as a user's folders hold them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::data::{DataError, LoadOptions, MAX_IMAGE_SIZE, Remarks, Spec, Splits, load};
use image::{Rgb, RgbImage};
use std::fs::{File, create_dir_all, write};
use std::path::{Path, PathBuf};

fn root() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open(dataset: &str, dir: &Path) -> Result<Splits, DataError> {
    let opts = LoadOptions { dir: Some(dir.into()), ..Default::default() };
    load(&Spec::find(dataset).expect("known"), &opts)
}

fn refused(dataset: &str, dir: &Path) -> String {
    open(dataset, dir).expect_err("refused").to_string()
}

/// A picture that `seed` tells from every other: a gradient that PNG and PPM keep exactly and JPEG nearly.
fn picture(seed: u32, width: u32, height: u32) -> RgbImage {
    let value = |v: u32| (v % 256) as u8;
    RgbImage::from_fn(width, height, |x, y| Rgb([value(seed * 37), value(100 + 3 * x), value(50 + 4 * y + seed)]))
}

fn save(path: PathBuf, picture: &RgbImage) {
    create_dir_all(path.parent().expect("a parent")).expect("a folder");
    picture.save(path).expect("saved");
}

/// `<dir>/<class>/<n>.png`, 32x32.
fn fill(dir: &Path, classes: &[&str], images: u32) {
    for (c, class) in (0..).zip(classes) {
        for n in 0..images {
            save(dir.join(class).join(format!("{n:03}.png")), &picture(c * 50 + n, 32, 32));
        }
    }
}

#[test]
fn reads_train_and_test_folders_with_classes_in_alphabetical_order() {
    let root = root();
    for part in ["train", "test"] {
        save(root.path().join(part).join("owl/b.png"), &picture(3, 32, 32));
        save(root.path().join(part).join("owl/a.PPM"), &picture(2, 32, 32));
        save(root.path().join(part).join("ant/x.jpeg"), &picture(1, 32, 32));
    }
    write(root.path().join("train/owl/notes.txt"), "not an image").expect("written");
    write(root.path().join("train/owl/._b.png"), "a Mac's shadow file").expect("written");
    create_dir_all(root.path().join("train/.cache")).expect("a folder");

    let Splits { train, test, .. } = open("folder", root.path()).expect("loads");
    assert_eq!(train.classes, ["ant", "owl"]);
    assert_eq!((&train.labels, &test.labels), (&vec![0, 1, 1], &vec![0, 1, 1]));
    assert!(train.paths[1].ends_with("a.PPM") && test.paths[2].ends_with("b.png"), "{:?}", train.paths);
    assert_eq!(train.image(1), picture(2, 32, 32).as_raw());
    assert_eq!(test.image(2), picture(3, 32, 32).as_raw());
    let worst = train.image(0).iter().zip(picture(1, 32, 32).as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst < Some(30), "JPEG is near, not {worst:?} off");
}

#[test]
fn a_folder_of_classes_gives_a_fifth_of_each_to_the_test_set() {
    let root = root();
    fill(root.path(), &["b", "a"], 10);
    fill(root.path(), &["c"], 3);
    let Splits { train, test, .. } = open("folder", root.path()).expect("loads");
    assert_eq!(train.class_counts(), [8, 8, 2]);
    assert_eq!(test.class_counts(), [2, 2, 1]);
    assert!(train.paths.iter().all(|path| !test.paths.contains(path)), "no image is in both");
    assert_eq!(open("folder", root.path()).expect("loads").test.paths, test.paths, "always the same split");
}

#[test]
fn a_limit_reads_what_limiting_afterwards_would_keep() {
    let root = root();
    fill(&root.path().join("train"), &["a", "b", "c"], 12);
    fill(&root.path().join("test"), &["a", "b", "c"], 4);
    let limited = LoadOptions { dir: Some(root.path().into()), limit_per_class: Some(5), seed: 8, ..Default::default() };
    let some = load(&Spec::find("folder").expect("known"), &limited).expect("loads");
    let whole = open("folder", root.path()).expect("loads");
    let after = whole.train.limit_per_class(5, 8);
    assert_eq!((some.train.paths, some.train.pixels), (after.paths, after.pixels));
    assert_eq!(some.test.len(), whole.test.len(), "the test set stays whole");
}

#[test]
fn images_of_other_sizes_are_averaged_down() {
    let root = root();
    let flat = RgbImage::from_pixel(64, 48, Rgb([200, 10, 90]));
    for (part, class) in [("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")] {
        save(root.path().join(part).join(class).join("0.png"), &flat);
    }
    let half = RgbImage::from_fn(64, 64, |x, _| if x % 2 == 0 { Rgb([0, 0, 0]) } else { Rgb([255, 255, 255]) });
    save(root.path().join("train/b/1.png"), &half);
    let train = open("folder", root.path()).expect("loads").train;
    assert_eq!(train.size, 32);
    assert!(train.image(0).chunks(3).all(|rgb| rgb == [200, 10, 90]));
    // Away from the border every pixel sees as much black as white.
    for pixel in train.image(2).chunks(3 * 32).flat_map(|row| row[3..93].iter()) {
        assert!((127..=128).contains(pixel), "{pixel}");
    }
}

#[test]
fn cifar_in_image_folders_is_accepted_and_must_have_its_ten_classes() {
    let root = root();
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    for part in ["train", "test"] {
        fill(&root.path().join(part), &names[..9], 1);
    }
    assert!(refused("CIFAR-10", root.path()).ends_with("train holds 9 class folders, CIFAR-10 has 10 classes"));
    for part in ["train", "test"] {
        fill(&root.path().join(part), &names[9..], 1);
    }
    let Splits { train, test, .. } = open("cifar10", root.path()).expect("loads");
    assert_eq!((train.name.as_str(), train.len(), test.len()), ("CIFAR-10", 10, 10));
}

#[test]
fn a_folder_with_nothing_known_is_told_what_was_looked_for() {
    let root = root();
    assert_eq!(
        refused("CIFAR-10", root.path()),
        format!(
            "{} does not hold CIFAR-10: looked for cifar-10-batches-bin/{{data_batch_1..5,test_batch}}.bin, \
             or cifar-10-batches-py/{{data_batch_1..5,test_batch}}, or image folders {{train,test}}/<class>/ or <class>/",
            root.path().display()
        )
    );
    let gone = root.path().join("gone");
    assert!(refused("folder", &gone).starts_with(&format!("cannot read {}: ", gone.display())));
}

#[test]
fn refuses_a_truncated_official_file_with_both_sizes() {
    let root = root();
    for file in ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "test_batch.bin"] {
        File::create(root.path().join(file)).and_then(|f| f.set_len(30_730_000)).expect("a sparse file");
    }
    let fifth = root.path().join("data_batch_5.bin");
    let name = fifth.display();
    assert_eq!(refused("CIFAR-10", root.path()), format!("{name} is missing: expected a file of 30730000 bytes"));
    File::create(&fifth).and_then(|f| f.set_len(3073 * 9_999)).expect("a sparse file");
    let sizes = "expected 30730000 bytes, found 30726927";
    assert_eq!(refused("CIFAR-10", root.path()), format!("{name} has the wrong size: {sizes}; fetch it again"));
}

#[test]
fn refuses_an_unreadable_image_by_its_path() {
    let root = root();
    fill(&root.path().join("train"), &["a", "b"], 6);
    fill(&root.path().join("test"), &["a", "b"], 2);
    for bad in ["train/b/004.png", "train/b/001.png"] {
        write(root.path().join(bad), b"\x89PNG\r\n\x1a\n and no more").expect("written");
    }
    let message = refused("folder", root.path());
    assert!(message.contains("cannot read the image"), "{message}");
    assert!(message.contains("001.png"), "the first by name, whatever the threads do: {message}");
}

#[test]
fn refuses_one_class_an_empty_class_and_parts_that_differ() {
    let root = root();
    let [one, empty, differ, half, lone] = ["one", "empty", "differ", "half", "lone"].map(|name| root.path().join(name));
    fill(&one, &["only"], 5);
    assert_eq!(refused("folder", &one), format!("{} holds 1 class folder(s), a classifier needs at least 2", one.display()));

    fill(&empty, &["a", "b"], 2);
    create_dir_all(empty.join("c")).expect("a folder");
    assert!(
        refused("folder", &empty)
            .contains("pam): add some, convert those of other formats (HEIC, AVIF and the like), or remove the folder")
    );

    fill(&differ.join("train"), &["a", "b"], 2);
    fill(&differ.join("test"), &["a", "b", "z"], 2);
    assert!(refused("folder", &differ).ends_with("its test/ differ: class folder `z` is only in one of them"));

    fill(&half.join("train"), &["a", "b"], 2);
    assert!(refused("folder", &half).contains("train has images but no test/ folder beside it"));

    fill(&lone, &["a", "b"], 4);
    save(lone.join("c/0.png"), &picture(1, 32, 32));
    assert!(refused("folder", &lone).contains("c holds one image, too few to set some aside for testing"));
}

#[test]
fn refuses_options_out_of_range() {
    let with = |dataset: &str, opts| load(&Spec::find(dataset).expect("known"), &opts).expect_err("refused").to_string();
    for size in [0, MAX_IMAGE_SIZE + 1] {
        let message = with("digits", LoadOptions { image_size: Some(size), ..Default::default() });
        assert_eq!(message, format!("image size {size} is outside 1..=1024 pixels: choose another --image-size"));
    }
    let message = with("digits", LoadOptions { limit_per_class: Some(0), ..Default::default() });
    assert!(message.starts_with("--limit-per-class 0 leaves no training image"), "{message}");
    let message = with("CIFAR-10", LoadOptions::default());
    assert!(message.starts_with("CIFAR-10 is read from disk: give its folder with --data DIR"), "{message}");
    let message = with("digits", LoadOptions { dir: Some("pictures".into()), ..Default::default() });
    assert!(message.starts_with("digits is built in and reads nothing from pictures"), "{message}");
}

#[test]
fn digits_load_at_any_size() {
    for size in [1, 5, 8, 28, 33] {
        let opts = LoadOptions { image_size: Some(size), limit_per_class: Some(1), ..Default::default() };
        let test = load(&Spec::find("digits").expect("known"), &opts).expect("loads").test;
        assert_eq!(test.pixels.len(), 500 * size * size * 3);
    }
}

/// `images` pictures in each of two classes, in training and test folders.
fn two_classes(dir: &Path, images: u32) {
    for part in ["train", "test"] {
        fill(&dir.join(part), &["a", "b"], images);
    }
}

fn cached(dir: &Path, cache: &Path, more: LoadOptions) -> Splits {
    let opts = LoadOptions { dir: Some(dir.into()), cache: Some(cache.into()), ..more };
    load(&Spec::find("folder").expect("known"), &opts).expect("loads")
}

#[test]
fn one_bad_file_among_5000_is_named_and_can_be_left_out() {
    let root = root();
    let good = root.path().join("good.ppm");
    save(good.clone(), &picture(1, 4, 4));
    for (class, part) in [("a", "train"), ("b", "train"), ("a", "test"), ("b", "test")] {
        let folder = root.path().join("set").join(part).join(class);
        create_dir_all(&folder).expect("a folder");
        for n in 0..1250 {
            std::fs::copy(&good, folder.join(format!("{n:04}.ppm"))).expect("copied");
        }
    }
    let dir = root.path().join("set");
    write(dir.join("train/b/0777.ppm"), "P6 not a picture").expect("written");
    let message = refused("folder", &dir);
    assert!(message.contains("train/b/0777.ppm") && message.contains("--skip-unreadable"), "{message}");
    write(dir.join("train/a/1249.ppm"), "").expect("written");
    let message = refused("folder", &dir);
    assert!(
        message.contains("train/a/1249.ppm")
            && message.ends_with("(2 of 2500 images cannot be read; `dau data verify` names all)"),
        "{message}"
    );

    let opts = LoadOptions { dir: Some(dir), skip_unreadable: true, ..Default::default() };
    let Splits { train, test, remarks: Remarks { left_out, .. } } =
        load(&Spec::find("folder").expect("known"), &opts).expect("loads");
    assert_eq!((train.class_counts(), test.len(), left_out.len()), (vec![1249, 1249], 2500, 2));
    assert!(left_out[1].contains("train/b/0777.ppm"), "{left_out:?}");
    assert!(train.paths.iter().all(|path| !path.ends_with("a/1249.ppm")));
    assert!(train.paths[1249 + 777].ends_with("b/0778.ppm") && train.labels[1249 + 777] == 1);
}

#[test]
fn a_class_of_which_nothing_can_be_read_is_not_left_out_in_silence() {
    let root = root();
    two_classes(root.path(), 2);
    for bad in ["train/b/000.png", "train/b/001.png"] {
        write(root.path().join(bad), "no picture").expect("written");
    }
    let opts = LoadOptions { dir: Some(root.path().into()), skip_unreadable: true, ..Default::default() };
    let message = load(&Spec::find("folder").expect("known"), &opts).expect_err("refused").to_string();
    assert!(message.starts_with("no image of class `b` below") && message.contains("train/b/000.png"), "{message}");
}

#[test]
fn the_cache_gives_what_the_files_hold_and_follows_their_changes() {
    let root = root();
    let (dir, cache) = (root.path().join("set"), root.path().join("cache"));
    two_classes(&dir, 5);
    let first = cached(&dir, &cache, LoadOptions::default());
    let files = || std::fs::read_dir(&cache).expect("a cache").flatten().map(|f| f.path()).collect::<Vec<_>>();
    assert_eq!(files().len(), 2, "training and test images");
    // A part of what is kept is taken from there, too.
    let some = cached(&dir, &cache, LoadOptions { limit_per_class: Some(3), seed: 1, ..Default::default() });
    let after = first.train.limit_per_class(3, 1);
    assert_eq!((some.train.paths, some.train.pixels), (after.paths, after.pixels));
    // Another picture of the same name, size and time, as from another archive, is another image.
    let file = dir.join("train/b/002.ppm");
    std::fs::remove_file(dir.join("train/b/002.png")).expect("removed");
    save(file.clone(), &picture(98, 32, 32));
    let when = std::fs::metadata(&file).and_then(|meta| meta.modified()).expect("a time");
    assert_eq!(cached(&dir, &cache, LoadOptions::default()).train.image(7), picture(98, 32, 32).as_raw());
    save(file.clone(), &picture(99, 32, 32));
    File::options().write(true).open(&file).and_then(|f| f.set_modified(when)).expect("dated");
    let changed = cached(&dir, &cache, LoadOptions::default()).train;
    assert_eq!(changed.image(7), picture(99, 32, 32).as_raw());
    assert_eq!(changed.image(6), first.train.image(6));
    assert_eq!(cached(&dir, &cache, LoadOptions::default()).train.pixels, changed.pixels, "and kept anew");
    // Another size is another cache.
    assert_eq!(cached(&dir, &cache, LoadOptions { image_size: Some(8), ..Default::default() }).train.size, 8);
    assert_eq!(files().len(), 4);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let root = root();
    let (dir, cache) = (root.path().join("set"), root.path().join("cache"));
    two_classes(&dir, 5);
    let whole = cached(&dir, &cache, LoadOptions::default());
    let files: Vec<PathBuf> = std::fs::read_dir(&cache).expect("a cache").flatten().map(|f| f.path()).collect();
    let good: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).expect("read")).collect();
    let end = good[0].len();
    let damage = |n: usize, bytes: &mut Vec<u8>| match n {
        0 => bytes.truncate(end - 5000),
        1 => bytes[end - 4000] ^= 1,
        2 => bytes[20] = b'}',
        _ => bytes.clear(),
    };
    for n in 0..4 {
        for (file, good) in files.iter().zip(&good) {
            let mut bytes = good.clone();
            damage(n, &mut bytes);
            write(file, bytes).expect("written");
        }
        let again = cached(&dir, &cache, LoadOptions::default());
        assert!(again.train.pixels == whole.train.pixels && again.test.pixels == whole.test.pixels, "damage {n}");
        assert!(files.iter().zip(&good).all(|(file, good)| std::fs::read(file).expect("read") == *good), "damage {n} is mended");
    }
    // Nowhere to keep it is no reason to stop.
    let nowhere = cached(&dir, &files[0], LoadOptions::default());
    assert_eq!(nowhere.train.pixels, whole.train.pixels);
}

#[test]
fn an_unreadable_file_is_tried_again_and_the_others_come_from_the_cache() {
    let root = root();
    let (dir, cache) = (root.path().join("set"), root.path().join("cache"));
    two_classes(&dir, 5);
    write(dir.join("train/a/003.png"), "no picture").expect("written");
    let skip = || LoadOptions { skip_unreadable: true, ..Default::default() };
    let first = cached(&dir, &cache, skip());
    let second = cached(&dir, &cache, skip());
    assert_eq!((first.remarks.left_out.len(), first.train.len()), (1, 9));
    assert_eq!((second.remarks.left_out, second.train.pixels), (first.remarks.left_out, first.train.pixels));
    save(dir.join("train/a/003.png"), &picture(3, 32, 32));
    assert_eq!(cached(&dir, &cache, skip()).train.image(3), picture(3, 32, 32).as_raw());
}
