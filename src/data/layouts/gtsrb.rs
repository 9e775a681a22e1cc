//! GTSRB as published: `GTSRB/Final_Training/Images/NNNNN/*.ppm` with a list `GT-NNNNN.csv` in each of the 43 class folders,
//! and `GTSRB/Final_Test/Images/*.ppm` with `GT-final_test.csv`; and as it lies on Kaggle: `Train/<class>/*.png`, `Test/*.png` and
//! the lists `Train.csv` and `Test.csv`. The lists say which images there are and of what class. Photographs have many sizes and are
//! scaled whole, signs not cut out.

use super::{Layout, Source, io};
use crate::data::images::{Listed, Listing};
use crate::data::walk::{EXTENSIONS, Walk};
use crate::data::{DataError, Remarks, Splits};
use std::path::{Path, PathBuf};

pub static LAYOUT: Layout = Layout {
    name: "gtsrb",
    looks_like: "GTSRB/Final_Training/Images/<class>/*.ppm and GTSRB/Final_Test/Images/*.ppm with GT-final_test.csv",
    find: Some(find),
    load,
};

pub static KAGGLE: Layout = Layout {
    name: "gtsrb-kaggle",
    looks_like: "Kaggle's Train/<class>/*.png and Test/*.png with Test.csv",
    find: Some(|dir| [dir.join("GTSRB"), dir.into()].into_iter().find(|d| d.join(KAGGLE_TEST).is_file())),
    load: load_kaggle,
};

const TRAIN: &str = "Final_Training/Images";
const TEST: &str = "Final_Test/Images";
/// Where people unpack the test images' list to, from the folder `GTSRB`; the first is where `dau data fetch` does.
const TEST_LISTS: [&str; 4] =
    ["Final_Test/GT-final_test.csv", "Final_Test/Images/GT-final_test.csv", "GT-final_test.csv", "../GT-final_test.csv"];

const KAGGLE_TRAIN: &str = "Train.csv";
const KAGGLE_TEST: &str = "Test.csv";

/// How a list is written: what separates its columns, and which of them names the images.
type Form = (u8, &'static str);

const PUBLISHED: Form = (b';', "Filename");
const KAGGLES: Form = (b',', "Path");

fn find(dir: &Path) -> Option<PathBuf> {
    [dir.join("GTSRB"), dir.into()].into_iter().find(|d| d.join(TRAIN).is_dir() || d.join(TEST).is_dir())
}

/// The classes have numbers for names, in both layouts the same.
fn classes(source: &Source) -> Vec<String> {
    (0..source.spec.classes).map(|class| format!("{class:05}")).collect()
}

fn load(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    let classes = classes(source);
    let mut remarks = Remarks::default();
    let mut train = Listed::new(&dir.join(TRAIN), classes.clone(), &mut remarks);
    for class in &classes {
        let folder = dir.join(TRAIN).join(class);
        add(source, &mut train, PUBLISHED, &folder.join(format!("GT-{class}.csv")), &folder)?;
    }
    let train = train.finish();
    let mut test = Listed::new(&dir.join(TEST), classes, &mut remarks);
    let list = TEST_LISTS.iter().map(|list| dir.join(list)).find(|path| path.is_file());
    add(source, &mut test, PUBLISHED, &list.unwrap_or(dir.join(TEST_LISTS[0])), &dir.join(TEST))?;
    let test = test.finish();
    Splits::read(source, train, test, remarks)
}

/// The training images go by their list or, without one, by their folders.
fn load_kaggle(source: &Source, dir: &Path) -> Result<Splits, DataError> {
    let classes = classes(source);
    let mut remarks = Remarks::default();
    let list = dir.join(KAGGLE_TRAIN);
    let train = if list.is_file() {
        let mut train = Listed::new(&dir.join("Train"), classes.clone(), &mut remarks);
        add(source, &mut train, KAGGLES, &list, dir)?;
        train.finish()
    } else {
        let mut train = Listing::new(&dir.join("Train"), classes.clone());
        for label in 0..source.spec.classes {
            let path = dir.join("Train").join(label.to_string());
            let mut walk = Walk::below(&path, dir)?;
            if walk.images.is_empty() {
                return Err(DataError::EmptyClass { path, extensions: EXTENSIONS.join(", ") });
            }
            train.add(label as u32, std::mem::take(&mut walk.images));
            walk.tell(dir, &mut remarks);
        }
        train
    };
    let mut test = Listed::new(&dir.join("Test"), classes, &mut remarks);
    add(source, &mut test, KAGGLES, &dir.join(KAGGLE_TEST), dir)?;
    let test = test.finish();
    Splits::read(source, train, test, remarks)
}

/// Adds the images that a list names, which lie in `folder`.
fn add(source: &Source, listed: &mut Listed, (delimiter, names): Form, list: &Path, folder: &Path) -> Result<(), DataError> {
    let damaged = |line: usize, why: String| DataError::List { path: list.into(), line, why };
    let text = std::fs::read(list).map_err(io(list))?;
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text.as_slice());
    let headers = reader.headers().map_err(|e| damaged(1, e.to_string()))?;
    let column = |name: &str| {
        let found = headers.iter().position(|header| header.trim() == name);
        found.ok_or_else(|| damaged(1, format!("there is no column `{name}`")))
    };
    let (file, class) = (column(names)?, column("ClassId")?);
    for (record, line) in reader.records().zip(2..) {
        let record = record.map_err(|e| damaged(line, e.to_string()))?;
        let field = |column: usize| record.get(column).unwrap_or_default().trim();
        let classes = listed.listing.classes.len();
        let label = field(class).parse().ok().filter(|label| (*label as usize) < classes);
        let label: u32 =
            label.ok_or_else(|| damaged(line, format!("`{}` is no class from 0 to {}", field(class), classes - 1)))?;
        listed.add(source, label, (folder, field(file)), |why| damaged(line, why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Spec, load};
    use image::{Rgb, RgbImage};
    use std::fs::{create_dir_all, remove_file, write};

    const HEADER: &str = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n";

    /// Two training images of each class, three test images of classes 5, 0 and 42; a class has a shade of its own.
    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let save = |path: &str, class: u8, width: u32| {
            let path = root.path().join(path);
            create_dir_all(path.parent().expect("a parent")).expect("a folder");
            RgbImage::from_pixel(width, 40, Rgb([6 * class, 10, 20])).save(path).expect("saved");
        };
        for class in 0..43u8 {
            let folder = format!("GTSRB/Final_Training/Images/{class:05}");
            let names = ["00000_00000.ppm", "00000_00001.ppm"];
            names.iter().for_each(|name| save(&format!("{folder}/{name}"), class, 29 + u32::from(class)));
            let rows = names.map(|name| format!("{name};30;40;5;5;25;35;{class}\r\n")).concat();
            write(root.path().join(format!("{folder}/GT-{class:05}.csv")), HEADER.to_string() + &rows).expect("written");
        }
        let mut rows = HEADER.to_string();
        for (i, class) in [5, 0, 42].into_iter().enumerate() {
            save(&format!("GTSRB/Final_Test/Images/{i:05}.ppm"), class, 50);
            rows += &format!("{i:05}.ppm;50;40;5;5;25;35;{class}\r\n");
        }
        // This list, without classes, comes with the images.
        write(root.path().join("GTSRB/Final_Test/Images/GT-final_test.test.csv"), "Filename;Width;Height\r\n").expect("written");
        write(root.path().join("GTSRB/Final_Test/GT-final_test.csv"), rows).expect("written");
        root
    }

    fn open(dir: &Path) -> Result<Splits, DataError> {
        load(&Spec::find("GTSRB").expect("known"), &LoadOptions { dir: Some(dir.into()), ..Default::default() })
    }

    #[test]
    fn lists_say_which_images_there_are_and_of_what_class() {
        let root = tree();
        let Splits { train, test, .. } = open(root.path()).expect("loads");
        assert_eq!((train.size, train.class_counts(), test.labels.as_slice()), (32, vec![2; 43], &[5, 0, 42][..]));
        assert_eq!(train.classes[7], "00007");
        assert!(train.paths[15].ends_with("00007/00000_00001.ppm"), "{}", train.paths[15]);
        assert_eq!((&train.image(15)[..3], &test.image(2)[..3]), (&[42, 10, 20][..], &[252, 10, 20][..]));
        // The folder itself does too, and so does another place for the list.
        let inner = root.path().join("GTSRB");
        std::fs::rename(inner.join("Final_Test/GT-final_test.csv"), root.path().join("GT-final_test.csv")).expect("moved");
        assert_eq!(open(&inner).expect("loads").test.pixels, test.pixels);
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let root = tree();
        let refused = || open(root.path()).expect_err("refused").to_string();
        let part = |path: &str| root.path().join("GTSRB").join(path);
        let list = part("Final_Training/Images/00003/GT-00003.csv");
        write(&list, format!("{HEADER}00000_00000.ppm;30;40;5;5;25;35;43\r\n")).expect("written");
        assert_eq!(refused(), format!("{}, line 2: `43` is no class from 0 to 42; fetch it again", list.display()));
        write(&list, "Filename;Width\r\n").expect("written");
        assert_eq!(refused(), format!("{}, line 1: there is no column `ClassId`; fetch it again", list.display()));
        remove_file(&list).expect("removed");
        assert!(refused().starts_with(&format!("cannot read {}", list.display())));
        write(&list, format!("{HEADER}00000_00000.ppm;30;40;5;5;25;35;3\r\n")).expect("written");
        remove_file(part("Final_Test/Images/00001.ppm")).expect("removed");
        assert!(refused().contains("Final_Test/Images/00001.ppm"), "{}", refused());
        remove_file(part("Final_Test/GT-final_test.csv")).expect("removed");
        assert!(refused().contains("Final_Test/GT-final_test.csv"), "{}", refused());
    }
}
