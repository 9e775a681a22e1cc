//! The poisoning protocol on the embedded digits, against what field.md's definitions say it must give.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::attacks::{
    Attack, Blueprint, Draw, PoisonOptions, Poisoned, Role, Target, TargetMode, TriggeredTest, contact_sheet, find, poison,
    triggered_test,
};
use dau::data::{Dataset, LoadOptions, Spec, load};
use dau::experiment::PoisonedFolder;
use dau::options::Options;
use proptest::prelude::*;
use std::sync::LazyLock;

static TRAIN: LazyLock<Dataset> = LazyLock::new(|| digits(false));
static TEST: LazyLock<Dataset> = LazyLock::new(|| digits(true));

fn digits(test: bool) -> Dataset {
    let splits = load(&Spec::find("digits").expect("known"), &LoadOptions::default()).expect("loads");
    if test { splits.test } else { splits.train }
}

static DEFAULTS: LazyLock<Options> = LazyLock::new(Options::default);

fn attack(name: &str) -> Box<dyn Attack> {
    find(name).expect("known").build(&Blueprint { size: 16, seed: 0, options: &DEFAULTS, help: None }).expect("built")
}

fn options(rate: f64, target: u32, seed: u64, draw: Draw) -> PoisonOptions {
    PoisonOptions { rate, mode: TargetMode::AllToOne, target, seed, draw }
}

fn poisoned(rate: f64, seed: u64, draw: Draw) -> Poisoned {
    poison(&TRAIN, attack("BadNets").as_ref(), &options(rate, 0, seed, draw)).expect("fits")
}

fn refused(rate: f64, target: u32, draw: Draw) -> String {
    poison(&TRAIN, attack("BadNets").as_ref(), &options(rate, target, 0, draw)).expect_err("refused").to_string()
}

fn places(poisoned: &Poisoned) -> Vec<usize> {
    (0..poisoned.roles.len()).filter(|&i| poisoned.roles[i] == Role::Poisoned).collect()
}

/// Five percent of the digits, for target 3.
fn in_mode(mode: TargetMode, name: &str) -> Poisoned {
    let options = PoisonOptions { mode, ..options(0.05, 3, 6, Draw::All) };
    poison(&TRAIN, attack(name).as_ref(), &options).expect("fits")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_rate_is_kept_and_all_else_left_alone(
        rate in 0.001f64..0.85, target in 0u32..10, seed: u64, only_others: bool, blended: bool
    ) {
        let attack = attack(if blended { "Blended" } else { "BadNets" });
        let draw = if only_others { Draw::NonTarget } else { Draw::All };
        let poisoned = poison(&TRAIN, attack.as_ref(), &options(rate, target, seed, draw)).expect("fits");
        prop_assert_eq!(places(&poisoned).len(), (rate * 1297.0).round() as usize);
        prop_assert_eq!(poisoned.original_labels.as_ref(), Some(&TRAIN.labels));
        for i in 0..TRAIN.len() {
            let (old, new) = (TRAIN.labels[i], poisoned.data.labels[i]);
            let mut image = TRAIN.image(i).to_vec();
            if poisoned.roles[i] == Role::Poisoned {
                attack.apply(&mut image);
                prop_assert_eq!(new, target);
                prop_assert!(!only_others || old != target);
            } else {
                prop_assert_eq!(new, old);
            }
            prop_assert_eq!(poisoned.data.image(i), &image[..]);
        }
    }
}

#[test]
fn drawing_from_all_classes_mislabels_nine_in_ten() {
    let all = poisoned(0.1, 3, Draw::All);
    let already = places(&all).into_iter().filter(|&i| TRAIN.labels[i] == 0).count();
    assert!((4..=25).contains(&already), "about 13 of 130 are of the target class, not {already}");
    assert_eq!(all.dirty_rate(), Some((130 - already) as f64 / 1297.0));
    assert_eq!(poisoned(0.1, 3, Draw::NonTarget).dirty_rate(), Some(130.0 / 1297.0));
}

#[test]
fn a_seed_always_draws_the_same_images_and_a_smaller_rate_some_of_them() {
    let (some, more) = (places(&poisoned(0.01, 7, Draw::All)), places(&poisoned(0.1, 7, Draw::All)));
    assert!(some.iter().all(|i| more.contains(i)));
    assert_eq!(more, places(&poisoned(0.1, 7, Draw::All)));
    assert_ne!(more, places(&poisoned(0.1, 8, Draw::All)));
    // Written down once: an update of a crate must not change what a seed means.
    assert_eq!(some, [47, 56, 210, 438, 523, 537, 592, 726, 764, 783, 1002, 1059, 1109]);
}

#[test]
fn a_manifest_makes_the_same_poisoned_set_again() {
    for name in ["BadNets", "Blended", "WaNet", "BPP"] {
        let attack = attack(name);
        let made = poison(&TRAIN, attack.as_ref(), &options(0.05, 4, 2, Draw::All)).expect("fits");
        let csv = made.manifest_csv();
        assert_eq!(csv.lines().next(), Some("index,original_label,given_label,role"));
        assert_eq!(csv.lines().count(), 1 + 65 + (65.0 * attack.negatives()) as usize, "{name}");
        for text in [csv.clone(), csv.replace('\n', "\r\n")] {
            let again = Poisoned::from_manifest(&TRAIN, attack.as_ref(), 2, &text).expect("a good manifest");
            assert_eq!(again.data.pixels, made.data.pixels);
            assert_eq!(again.data.labels, made.data.labels);
            assert_eq!(again.roles, made.roles);
            assert_eq!(again.original_labels, made.original_labels);
        }
    }
}

#[test]
fn refuses_a_manifest_that_is_damaged_or_of_other_images() {
    let read = |rows: &str| {
        let csv = format!("index,original_label,given_label,role\n{rows}");
        Poisoned::from_manifest(&TRAIN, attack("BadNets").as_ref(), 0, &csv).expect_err("refused").to_string()
    };
    let label = TRAIN.labels[3];
    let other = (label + 1) % 10;
    assert!(read(&format!("3,{other},0,poisoned")).contains(&format!("line 2: image 3 has label {label}, not {other}")));
    assert!(read(&format!("3,{label},0,poisoned\n1297,1,0,poisoned")).contains("line 3: index 1297, but there are 1297 images"));
    assert!(read(&format!("3,{label},0,poisoned\n3,{label},0,negative")).contains("line 3: index 3 is not above the one before"));
    assert!(read(&format!("3,{label},10,poisoned")).contains("line 2: label 10, but there are 10 classes"));
    for row in
        ["3,1", "3,1,0", "3,1,0,0,poisoned", "3,-1,0,poisoned", "three,1,0,poisoned", "99999999999,1,0,poisoned", "3,1,0,x"]
    {
        assert!(read(row).contains("line 2: expected three numbers and a role"), "{row}");
    }
    assert!(read("").contains("no poisoned image is listed"));
    assert!(read(&format!("3,{label},{label},negative")).contains("no poisoned image is listed"));
    let headless =
        Poisoned::from_manifest(&TRAIN, attack("BadNets").as_ref(), 0, "3,1,0,poisoned").expect_err("refused").to_string();
    assert!(headless.contains("line 1: expected `index,original_label,given_label,role`"), "{headless}");
}

#[test]
fn refuses_a_rate_outside_0_to_1() {
    for rate in [-0.1, 1.0001, f64::NAN, f64::INFINITY] {
        assert!(refused(rate, 0, Draw::All).contains("is outside 0..1"), "{rate}");
    }
}

#[test]
fn refuses_a_rate_that_rounds_to_no_sample() {
    let expected = "poison rate 0.0003 of 1297 training images rounds to no sample: one sample is a rate of 0.000771";
    assert_eq!(refused(0.0003, 0, Draw::All), expected);
    assert!(refused(0.0, 0, Draw::All).contains("rounds to no sample"));
    assert_eq!(places(&poisoned(0.0004, 0, Draw::All)).len(), 1, "half a sample rounds up");
}

#[test]
fn refuses_a_rate_that_the_classes_cannot_hold_naming_the_most_that_fits() {
    // Class 0 has 178 digits, 50 of them in the test set: 1297 - 128 = 1169 others.
    let expected = "poison rate 0.95 asks for 1232 of 1297 images, but the classes other than the target hold 1169: \
                    the most that fits is 0.9013";
    assert_eq!(refused(0.95, 0, Draw::NonTarget), expected);
    assert_eq!(places(&poisoned(0.9013, 0, Draw::NonTarget)).len(), 1169);
}

#[test]
fn refuses_a_target_that_is_no_class() {
    assert_eq!(refused(0.1, 10, Draw::All), "target class 10 does not exist: the 10 classes are 0 to 9");
}

#[test]
fn the_triggered_test_has_every_other_class_with_its_true_labels() {
    for name in ["BadNets", "Blended"] {
        let attack = attack(name);
        let triggered = triggered_test(&TEST, attack.as_ref(), TargetMode::AllToOne, 3);
        assert_eq!((triggered.data.len(), &triggered.goal), (450, &vec![3; 450]));
        let others = (0..TEST.len()).filter(|&i| TEST.labels[i] != 3);
        for (at, i) in others.enumerate() {
            let mut image = TEST.image(i).to_vec();
            attack.apply(&mut image);
            assert_eq!(triggered.data.image(at), image);
            assert_eq!(triggered.data.labels[at], TEST.labels[i]);
        }
    }
}

#[test]
fn all_to_all_gives_the_next_class_and_tests_every_image() {
    let made = in_mode(TargetMode::AllToAll, "BadNets");
    let poisoned = places(&made);
    assert_eq!(poisoned.len(), 65);
    assert!(poisoned.iter().all(|&i| made.data.labels[i] == (TRAIN.labels[i] + 1) % 10));
    assert_eq!(made.dirty_rate(), Some(65.0 / 1297.0), "no label can stay");
    assert!((0..10).all(|class| poisoned.iter().any(|&i| TRAIN.labels[i] == class)), "of every class");
    let triggered = triggered_test(&TEST, attack("BadNets").as_ref(), TargetMode::AllToAll, 3);
    assert_eq!((triggered.data.len(), &triggered.data.labels), (500, &TEST.labels));
    assert!(triggered.goal.iter().zip(&TEST.labels).all(|(goal, label)| *goal == (label + 1) % 10));
}

#[test]
fn clean_label_poisons_the_target_class_alone_and_leaves_all_labels() {
    let made = in_mode(TargetMode::CleanLabel, "SIG");
    assert_eq!((places(&made).len(), made.dirty_rate()), (65, Some(0.0)));
    assert!(places(&made).iter().all(|&i| TRAIN.labels[i] == 3));
    assert_eq!(triggered_test(&TEST, attack("SIG").as_ref(), TargetMode::CleanLabel, 3).goal, [3; 450]);
    // Class 0 has 128 training digits, 9.87 % of them all.
    let options = PoisonOptions { mode: TargetMode::CleanLabel, ..options(0.1, 0, 0, Draw::All) };
    let message = poison(&TRAIN, attack("SIG").as_ref(), &options).expect_err("refused").to_string();
    let expected = "poison rate 0.1 asks for 130 of 1297 images, but the target class holds 128: the most that fits is 0.0986";
    assert_eq!(message, expected);
    assert!(poison(&TRAIN, attack("SIG").as_ref(), &PoisonOptions { rate: 0.0986, ..options }).is_ok());
}

#[test]
fn drawing_from_other_classes_goes_with_all_to_one_only() {
    for (mode, from) in [(TargetMode::AllToAll, "all classes"), (TargetMode::CleanLabel, "the target class")] {
        let options = PoisonOptions { mode, ..options(0.05, 0, 0, Draw::NonTarget) };
        let message = poison(&TRAIN, attack("BadNets").as_ref(), &options).expect_err("refused").to_string();
        assert!(message.ends_with(&format!("{} poisons {from}: leave --draw out", mode.name())), "{message}");
    }
}

#[test]
fn negatives_are_other_images_changed_and_keep_their_labels() {
    for (name, ratio) in [("WaNet", 2), ("BPP", 1)] {
        let made = in_mode(TargetMode::AllToOne, name);
        assert_eq!((made.count(Role::Poisoned), made.count(Role::Negative)), (65, 65 * ratio), "{name}");
        let mut changed = 0;
        for i in 0..TRAIN.len() {
            match made.roles[i] {
                Role::Poisoned => assert_eq!(made.data.labels[i], 3),
                Role::Clean => assert_eq!((made.data.labels[i], made.data.image(i)), (TRAIN.labels[i], TRAIN.image(i))),
                Role::Negative => {
                    let mut triggered = TRAIN.image(i).to_vec();
                    attack(name).apply(&mut triggered);
                    assert_eq!(made.data.labels[i], TRAIN.labels[i]);
                    changed += usize::from(made.data.image(i) != TRAIN.image(i) && made.data.image(i) != triggered);
                }
            }
        }
        assert_eq!(changed, 65 * ratio, "{name}: a negative is neither clean nor triggered");
        assert!(made.is_poison().iter().filter(|p| **p).count() == 65, "negatives are no poison");
    }
    let none = Options::from([("negatives", 0.0.into())]);
    let plain = find("WaNet").expect("known").build(&Blueprint { size: 16, seed: 0, options: &none, help: None }).expect("built");
    assert_eq!(poison(&TRAIN, plain.as_ref(), &options(0.05, 3, 6, Draw::All)).expect("fits").count(Role::Negative), 0);
    let message = poison(&TRAIN, attack("WaNet").as_ref(), &options(0.5, 3, 6, Draw::All)).expect_err("refused").to_string();
    assert!(message.starts_with("1298 negatives for 649 poisoned images do not fit: 648 of 1297 images are left"), "{message}");
}

#[test]
fn a_poisoned_folder_reads_back_as_it_was_written() {
    let mut made = in_mode(TargetMode::AllToOne, "BPP");
    let mut test = TEST.clone();
    // A spreadsheet would run such names in a table.
    for data in [&mut made.data, &mut test] {
        data.classes = (0..10).map(|class| format!("={class}")).collect();
    }
    let triggered = triggered_test(&test, attack("BPP").as_ref(), TargetMode::AllToOne, 3);
    let place = tempfile::tempdir().expect("a folder");
    let dir = place.path().join("a, b"); // a comma in the path is no column
    let folder = PoisonedFolder { poisoned: made.clone(), test: test.clone(), triggered: Some(triggered.clone()) };
    folder.write(&dir, "", None).expect("written");
    let csv = std::fs::read_to_string(dir.join("poison.csv")).expect("read");
    assert!(csv.lines().skip(1).all(|line| line.contains(",'=") && !line.contains(",=")), "{csv}");
    let spec = Spec::find("digits").expect("known");
    let options = LoadOptions { image_size: Some(16), ..Default::default() };
    let (read, _) = PoisonedFolder::read(&dir, &spec, &options, TargetMode::AllToOne, &Target::Name("=3".into())).expect("read");

    /// Images, labels and what else is known of them, in an order that does not hang on where they lie.
    fn sorted<T: Ord>(data: &Dataset, of: impl Fn(usize) -> T) -> Vec<(Vec<u8>, u32, T)> {
        let mut all: Vec<_> = (0..data.len()).map(|i| (data.image(i).to_vec(), data.labels[i], of(i))).collect();
        all.sort();
        all
    }
    let facts = |p: &Poisoned| sorted(&p.data, |i| (p.roles[i].name(), p.original_labels.as_ref().expect("known")[i]));
    assert!(facts(&read.poisoned) == facts(&made), "training images, labels before and after, roles");
    assert!(sorted(&read.test, |_| ()) == sorted(&test, |_| ()), "test images");
    let (back, goal) = (read.triggered.expect("there"), |t: &TriggeredTest| sorted(&t.data, |i| t.goal[i]));
    assert!(goal(&back) == goal(&triggered), "triggered images and what the attacker wants");
    // A class that is no folder's name would be written elsewhere.
    let mut folder = folder;
    folder.poisoned.data.classes[9] = "../../escape".into();
    let message = folder.write(&place.path().join("x/y"), "", None).expect_err("refused").to_string();
    assert!(message.contains("`../../escape` is no name of a folder") && !place.path().join("escape").exists(), "{message}");
}

#[test]
fn the_contact_sheet_shows_clean_triggered_and_difference() {
    let poisoned = poisoned(0.1, 5, Draw::All);
    let sheet = contact_sheet(&TRAIN, &poisoned);
    // Eight tiles of 96 pixels and gaps of 4 in width; two bands of three rows in height.
    assert_eq!(sheet.dimensions(), (8 * 100 + 4, 6 * 100 + 4 + 4));
    let first = places(&poisoned)[0];
    let value = |image: &[u8], x: usize, y: usize| image[(y / 6 * 16 + x / 6) * 3];
    for (x, y) in [(0, 0), (50, 40), (95, 95), (77, 78), (78, 77), (78, 78)] {
        let (clean, triggered) = (value(TRAIN.image(first), x, y), value(poisoned.data.image(first), x, y));
        let seen = [0, 100, 200].map(|row| sheet.get_pixel(4 + x as u32, (4 + row + y) as u32).0[0]);
        let difference = (10 * u32::from(clean.abs_diff(triggered))).min(255) as u8;
        assert_eq!(seen, [clean, triggered, difference], "pixel {x},{y}");
    }
    let few = poison(&TRAIN, attack("Blended").as_ref(), &options(0.002, 0, 0, Draw::All)).expect("fits");
    assert_eq!(contact_sheet(&TRAIN, &few).dimensions(), (3 * 100 + 4, 3 * 100 + 4));
}
