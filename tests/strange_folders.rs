//! Image folders as strangers make them: other formats, nested folders, links, names and lists that mean harm.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::data::{DataError, LoadOptions, Remarks, Spec, Splits, load, load_unlabelled, verify};
use image::{Rgb, RgbImage};
use std::fs::{create_dir_all, write};
use std::path::{Path, PathBuf};

fn root() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn open_as(dataset: &str, dir: &Path) -> Result<Splits, DataError> {
    let opts = LoadOptions { dir: Some(dir.into()), ..Default::default() };
    load(&Spec::find(dataset).expect("known"), &opts)
}

fn open(dir: &Path) -> Splits {
    open_as("folder", dir).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(dataset: &str, dir: &Path) -> String {
    open_as(dataset, dir).expect_err("refused").to_string()
}

fn save(path: PathBuf, shade: u32) {
    create_dir_all(path.parent().expect("a parent")).expect("a folder");
    let value = |v: u32| (v % 256) as u8;
    RgbImage::from_fn(32, 32, |x, y| Rgb([value(shade), value(3 * x + shade), value(4 * y)])).save(path).expect("saved");
}

/// Two classes of five images each.
fn two_classes(dir: &Path) {
    for (c, class) in (0..).zip(["a", "b"]) {
        (0..5).for_each(|n| save(dir.join(format!("{class}/{n}.png")), 100 * c + 10 * n));
    }
}

/// The paths of all images below `dir`, sorted.
fn paths(dir: &Path, splits: &Splits) -> Vec<String> {
    let all = splits.train.paths.iter().chain(&splits.test.paths);
    let mut paths: Vec<String> =
        all.map(|path| Path::new(path).strip_prefix(dir).expect("below").display().to_string()).collect();
    paths.sort();
    paths
}

#[test]
fn a_jpeg_that_is_cut_off_is_a_fault_and_not_a_grey_image() {
    let root = root();
    for part in ["train", "test"] {
        two_classes(&root.path().join(part));
    }
    let cut = root.path().join("train/b/cut.jpg");
    save(cut.clone(), 7);
    let bytes = std::fs::read(&cut).expect("read");
    write(&cut, &bytes[..bytes.len() - 40]).expect("written");
    let message = refused("folder", root.path());
    assert!(message.contains("train/b/cut.jpg: it is cut off: its end-of-image marker is missing"), "{message}");
    let found = verify(&Spec::find("folder").expect("known"), root.path()).expect("looked at");
    assert_eq!((found.train, found.faults.len()), (10, 1), "{:?}", found.faults);
    write(&cut, &bytes).expect("written");
    assert_eq!(open(root.path()).train.len(), 11);
}

#[test]
fn every_common_format_is_read_by_any_of_its_endings() {
    let root = root();
    let endings = ["png", "jpg", "JPEG", "jpe", "jfif", "webp", "bmp", "tif", "tiff", "gif", "pgm", "ppm"];
    for (class, c) in [("a", 0), ("b", 90)] {
        for ending in endings {
            let path = root.path().join(class).join(format!("x.{ending}"));
            // What a name says is not what a file is: these are written under one that the encoder knows.
            let known = match ending {
                "jpe" | "JPEG" => "jpg",
                other => other,
            };
            save(root.path().join(format!("known.{known}")), c + 20);
            create_dir_all(root.path().join(class)).expect("a folder");
            std::fs::rename(root.path().join(format!("known.{known}")), path).expect("renamed");
        }
    }
    let splits = open(root.path());
    assert_eq!(paths(root.path(), &splits).len(), 2 * endings.len());
    assert!(splits.remarks.notices.is_empty(), "{:?}", splits.remarks.notices);
}

#[test]
fn images_at_any_depth_of_a_class_are_read_and_what_is_left_out_is_said() {
    let root = root();
    two_classes(root.path());
    save(root.path().join("a/more/deep/9.png"), 3);
    save(root.path().join("stray.png"), 3);
    for other in ["a/notes.txt", "a/more/one.mp4", "labels.csv", "b/x.heic"] {
        write(root.path().join(other), "x").expect("written");
    }
    write(root.path().join("a/.DS_Store"), "x").expect("written");
    let splits = open(root.path());
    assert!(paths(root.path(), &splits).contains(&"a/more/deep/9.png".to_string()));
    assert_eq!(paths(root.path(), &splits).len(), 11);
    let said = "left out: 3 file(s) that are no images (labels.csv, a/notes.txt, a/more/one.mp4); \
                1 image(s) in a format that is not read: convert them to PNG or JPEG (b/x.heic); \
                1 image(s) in no class folder (stray.png)";
    assert_eq!(splits.remarks.notices, [said]);
    let found = verify(&Spec::find("folder").expect("known"), root.path()).expect("looked at");
    assert_eq!((found.notices, found.faults.len()), (vec![said.to_string()], 0));
}

#[cfg(unix)]
#[test]
fn links_end_and_each_image_is_read_once() {
    use std::os::unix::fs::symlink;
    let (root, elsewhere) = (root(), root());
    two_classes(root.path());
    symlink(root.path(), root.path().join("a/loop")).expect("linked");
    symlink("loop2", root.path().join("a/loop2")).expect("linked");
    symlink("../b/0.png", root.path().join("a/copy.png")).expect("linked");
    symlink("nowhere.png", root.path().join("b/gone.png")).expect("linked");
    let splits = open(root.path());
    assert_eq!(paths(root.path(), &splits).len(), 10);
    let said = "left out: 2 link(s) to nothing (a/loop2, b/gone.png); 2 link(s) to what is read elsewhere (a/copy.png, a/loop)";
    assert_eq!(splits.remarks.notices, [said]);

    // What lies elsewhere is read, and said.
    save(elsewhere.path().join("in/7.png"), 7);
    save(elsewhere.path().join("8.png"), 8);
    symlink(elsewhere.path().join("in"), root.path().join("a/out")).expect("linked");
    symlink(elsewhere.path().join("8.png"), root.path().join("b/8.png")).expect("linked");
    let splits = open(root.path());
    assert_eq!(paths(root.path(), &splits).len(), 12);
    let said = format!("read: 2 image(s) that lie outside {}, where links lead (a/out/7.png, b/8.png)", root.path().display());
    assert_eq!(splits.remarks.notices[1], said);
    let (spec, opts) = (Spec::find("folder").expect("known"), LoadOptions::default());
    let (all, Remarks { notices, .. }) = load_unlabelled(&spec, root.path(), &opts, &["x".into()]).expect("loads");
    assert_eq!((all.len(), notices.len()), (12, 2));
}

#[test]
fn a_folder_that_dau_wrote_is_no_class() {
    let root = root();
    two_classes(root.path());
    for (folder, mark) in [("runs/scan", "run.toml"), ("runs/old", "results.json"), ("p", "poison.toml")] {
        save(root.path().join(folder).join("suspects.png"), 1);
        save(root.path().join(folder).join("train/a/0.png"), 1);
        write(root.path().join(folder).join(mark), "x").expect("written");
    }
    let splits = open(root.path());
    assert_eq!((splits.train.classes.len(), paths(root.path(), &splits).len()), (2, 10));
    assert_eq!(splits.remarks.notices, ["left out: 3 folder(s) that dau wrote (p, runs/old, runs/scan)"]);
    // Any other folder without images is still a class that lacks some.
    create_dir_all(root.path().join("z")).expect("a folder");
    assert!(refused("folder", root.path()).contains("z holds no image"));
}

#[test]
fn a_list_of_one_file_many_times_is_refused_at_the_second() {
    let root = root();
    let head = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path\n";
    for class in 0..43 {
        save(root.path().join(format!("Train/{class}/0.png")), 5 * class);
    }
    save(root.path().join("Test/0.png"), 1);
    let row = |class: u32, path: &str| format!("27,26,5,5,22,20,{class},{path}\n");
    let test = |rows: &str| write(root.path().join("Test.csv"), head.to_string() + rows).expect("written");
    test(&row(16, "Test/0.png"));
    let by_folder = open_as("GTSRB", root.path()).expect("loads");
    assert_eq!((by_folder.train.class_counts(), by_folder.test.labels), (vec![1; 43], vec![16]));
    let rows: String = (0..43).rev().map(|class| row(class, &format!("Train/{class}/0.png"))).collect();
    write(root.path().join("Train.csv"), head.to_string() + &rows).expect("written");
    let listed = open_as("GTSRB", root.path()).expect("loads");
    assert_eq!((listed.train.labels[0], &listed.train.classes[42]), (42, &by_folder.train.classes[42]));

    test(&row(16, "Test/0.png").repeat(1000));
    let message = refused("GTSRB", root.path());
    assert!(message.ends_with("Test.csv, line 3: `Test/0.png` is named a second time; fetch it again"), "{message}");
    test(&(row(16, "Test/0.png") + &row(16, "./Test/0.png")));
    assert!(refused("GTSRB", root.path()).contains("line 3: `./Test/0.png` is named a second time"));
    for out in ["../secret.png", "/etc/secret.png", "Test/../../secret.png"] {
        test(&row(16, out));
        let message = refused("GTSRB", root.path());
        assert!(message.contains(&format!("Test.csv, line 2: `{out}` leads out of its folder")), "{message}");
    }
}

#[test]
fn a_class_is_called_as_a_folder_can_be() {
    let root = root();
    let dir = root.path().join("tiny-imagenet-200");
    create_dir_all(dir.join("val")).expect("a folder");
    write(dir.join("val/val_annotations.txt"), "").expect("written");
    for bad in ["../../escape", "/tmp/escape", "..", "a\u{1b}[2J", "a\\b"] {
        let names: String = (0..199).map(|n| format!("n{n}\n")).chain([bad.to_string()]).collect();
        write(dir.join("wnids.txt"), names).expect("written");
        let message = refused("Tiny-ImageNet", root.path());
        assert!(message.contains(&format!("wnids.txt, line 1: `{bad}` is no name of a folder")), "{message}");
    }
    // And of names on disk: one with a line break would forge lines of lists and messages.
    #[cfg(unix)]
    {
        two_classes(&root.path().join("f"));
        (0..5).for_each(|n| save(root.path().join(format!("f/c\nerror: forged/{n}.png")), n));
        let message = refused("folder", &root.path().join("f"));
        assert!(message.contains("a class of") && message.contains("needs a name of its own"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_files_name_does_not_steer_the_terminal() {
    let root = root();
    two_classes(root.path());
    for n in 0..5 {
        save(root.path().join(format!("a/\u{1b}[31m{n}\n.png")), n);
    }
    write(root.path().join("a/\u{1b}[2J.txt"), "x").expect("written");
    let Splits { train, test, remarks } = open(root.path());
    assert!(train.paths.iter().chain(&test.paths).chain(&remarks.notices).all(|text| !text.contains(char::is_control)));
    assert!(train.paths.iter().any(|path| path.ends_with("a/\\u{1b}[31m0\\u{a}.png")), "{:?}", train.paths);
    assert_eq!(remarks.notices, ["left out: 1 file(s) that are no images (a/\\u{1b}[2J.txt)"]);
}
