//! The poisoning protocol on the embedded digits, against what field.md's definitions say it must give.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::attacks::{
    Aim, Attack, Blueprint, Draw, PoisonOptions, Poisoned, Role, Source, Target, TargetMode, TriggeredTest, contact_sheet, find,
    poison, triggered_test,
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

fn aim(mode: TargetMode, target: u32) -> Aim {
    Aim { mode, target, source: None }
}

fn options(rate: f64, target: u32, seed: u64, draw: Draw) -> PoisonOptions {
    PoisonOptions { rate, aim: aim(TargetMode::AllToOne, target), seed, draw }
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
    let options = PoisonOptions { aim: aim(mode, 3), ..options(0.05, 3, 6, Draw::All) };
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
    for name in ["BadNets", "Blended", "WaNet", "BPP", "Adap-Blend", "Adap-Patch"] {
        let attack = attack(name);
        let made = poison(&TRAIN, attack.as_ref(), &options(0.05, 4, 2, Draw::All)).expect("fits");
        let csv = made.manifest_csv();
        assert_eq!(csv.lines().next(), Some("index,original_label,given_label,role"));
        assert_eq!(csv.lines().count(), 1 + 65 + (65.0 * attack.negatives()) as usize, "{name}");
        for text in [csv.clone(), csv.replace('\n', "\r\n")] {
            let again = Poisoned::from_manifest(&TRAIN, &[(attack.as_ref(), 2)], &text).expect("a good manifest");
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
        Poisoned::from_manifest(&TRAIN, &[(attack("BadNets").as_ref(), 0)], &csv).expect_err("refused").to_string()
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
    let headless = Poisoned::from_manifest(&TRAIN, &[(attack("BadNets").as_ref(), 0)], "3,1,0,poisoned");
    let headless = headless.expect_err("refused").to_string();
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
    let expected = "poison rate 0.95 asks for 1232 of 1297 images, but 1169 are of the classes other than the target: \
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
        let triggered = triggered_test(&TEST, attack.as_ref(), &aim(TargetMode::AllToOne, 3));
        assert_eq!((triggered.data.len(), &triggered.goal), (450, &vec![Some(3); 450]));
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
    let triggered = triggered_test(&TEST, attack("BadNets").as_ref(), &aim(TargetMode::AllToAll, 3));
    assert_eq!((triggered.data.len(), &triggered.data.labels), (500, &TEST.labels));
    assert!(triggered.goal.iter().zip(&TEST.labels).all(|(goal, label)| *goal == Some((label + 1) % 10)));
}

#[test]
fn clean_label_poisons_the_target_class_alone_and_leaves_all_labels() {
    let made = in_mode(TargetMode::CleanLabel, "SIG");
    assert_eq!((places(&made).len(), made.dirty_rate()), (65, Some(0.0)));
    assert!(places(&made).iter().all(|&i| TRAIN.labels[i] == 3));
    assert_eq!(triggered_test(&TEST, attack("SIG").as_ref(), &aim(TargetMode::CleanLabel, 3)).goal, [Some(3); 450]);
    // Class 0 has 128 training digits, 9.87 % of them all.
    let options = PoisonOptions { aim: aim(TargetMode::CleanLabel, 0), ..options(0.1, 0, 0, Draw::All) };
    let message = poison(&TRAIN, attack("SIG").as_ref(), &options).expect_err("refused").to_string();
    let expected = "poison rate 0.1 asks for 130 of 1297 images, but 128 are of the target class: the most that fits is 0.0986";
    assert_eq!(message, expected);
    assert!(poison(&TRAIN, attack("SIG").as_ref(), &PoisonOptions { rate: 0.0986, ..options }).is_ok());
}

#[test]
fn untargeted_gives_each_image_some_wrong_label_and_tests_every_image() {
    let made = in_mode(TargetMode::Untargeted, "Blended");
    let poisoned = places(&made);
    assert_eq!((poisoned.len(), made.dirty_rate()), (65, Some(65.0 / 1297.0)), "no label can stay");
    assert!((0..10).all(|class| poisoned.iter().any(|&i| made.data.labels[i] == class)), "every class is given");
    let shift = |i: usize| (made.data.labels[i] + 10 - TRAIN.labels[i]) % 10;
    assert!((1..10).all(|shift_| poisoned.iter().any(|&i| shift(i) == shift_)), "by chance, not by a rule");
    // A smaller rate gives the same images the same labels.
    let less = PoisonOptions { aim: aim(TargetMode::Untargeted, 3), ..options(0.02, 3, 6, Draw::All) };
    let less = poison(&TRAIN, attack("Blended").as_ref(), &less).expect("fits");
    assert!(places(&less).iter().all(|&i| less.data.labels[i] == made.data.labels[i]));
    let triggered = triggered_test(&TEST, attack("Blended").as_ref(), &aim(TargetMode::Untargeted, 3));
    assert_eq!((triggered.data.labels, triggered.goal), (TEST.labels.clone(), vec![None; 500]));
    let one = Dataset { classes: vec!["only".into()], labels: vec![0; TRAIN.len()], ..TRAIN.clone() };
    let alone = PoisonOptions { aim: aim(TargetMode::Untargeted, 0), ..options(0.05, 0, 0, Draw::All) };
    let message = poison(&one, attack("Blended").as_ref(), &alone).expect_err("refused").to_string();
    assert_eq!(message, "untargeted needs two classes or more, and there are 1: choose another --target-mode");
}

#[test]
fn multi_target_takes_the_upper_half_of_the_classes_for_the_lower() {
    let made = in_mode(TargetMode::MultiTarget, "BadNets");
    let poisoned = places(&made);
    assert_eq!((poisoned.len(), made.dirty_rate()), (65, Some(65.0 / 1297.0)));
    assert!(poisoned.iter().all(|&i| TRAIN.labels[i] >= 5 && made.data.labels[i] == (TRAIN.labels[i] + 5) % 10));
    assert!((5..10).all(|class| poisoned.iter().any(|&i| TRAIN.labels[i] == class)), "of every class there");
    let triggered = triggered_test(&TEST, attack("BadNets").as_ref(), &aim(TargetMode::MultiTarget, 3));
    let upper: Vec<u32> = TEST.labels.iter().copied().filter(|label| *label >= 5).collect();
    assert_eq!(triggered.goal, upper.iter().map(|label| Some(label - 5)).collect::<Vec<_>>());
    assert_eq!(triggered.data.labels, upper);
    // Of an odd number the class in the middle is left alone, and no two go to one.
    let odd = aim(TargetMode::MultiTarget, 0);
    let goals: Vec<_> = (0..43).filter(|label| odd.tests(*label, 43)).map(|label| (label, odd.goal(label, 43))).collect();
    assert_eq!(goals, (22..43).map(|label| (label, Some(label - 22))).collect::<Vec<_>>());
    let options = PoisonOptions { aim: aim(TargetMode::MultiTarget, 0), ..options(0.6, 0, 0, Draw::All) };
    let message = poison(&TRAIN, attack("BadNets").as_ref(), &options).expect_err("refused").to_string();
    let upper = TRAIN.labels.iter().filter(|label| **label >= 5).count();
    assert!(
        message.contains(&format!("asks for 778 of 1297 images, but {upper} are of the upper half of the classes")),
        "{message}"
    );
}

#[test]
fn tact_poisons_its_source_alone_and_covers_two_other_classes() {
    let entry = find("TaCT").expect("known");
    let aim = entry.aim(TargetMode::SourceSpecific, 3, &DEFAULTS).expect("goes with it");
    assert_eq!(aim.source, Some(Source { class: 1, covers: vec![5, 7] }));
    let options = PoisonOptions { aim: aim.clone(), ..options(0.05, 3, 6, Draw::All) };
    let made = poison(&TRAIN, attack("TaCT").as_ref(), &options).expect("fits");
    assert_eq!((made.count(Role::Poisoned), made.count(Role::Negative)), (65, 65));
    assert!(places(&made).iter().all(|&i| (TRAIN.labels[i], made.data.labels[i]) == (1, 3)));
    let covers: Vec<usize> = (0..TRAIN.len()).filter(|&i| made.roles[i] == Role::Negative).collect();
    for class in [5, 7] {
        let of = covers.iter().filter(|&&i| TRAIN.labels[i] == class).count();
        assert!((20..=45).contains(&of), "about half of 65 are of class {class}, not {of}");
    }
    for &i in &covers {
        let mut image = TRAIN.image(i).to_vec();
        attack("TaCT").apply(&mut image);
        assert!([5, 7].contains(&TRAIN.labels[i]) && made.data.labels[i] == TRAIN.labels[i]);
        assert_eq!(made.data.image(i), image, "a cover has the whole trigger");
    }
    // ASR is over the source class: 50 of the 500 test images.
    let triggered = triggered_test(&TEST, attack("TaCT").as_ref(), &aim);
    assert_eq!((triggered.data.labels, triggered.goal), (vec![1; 50], vec![Some(3); 50]));

    let refused = |options: PoisonOptions, given: Options, target: u32| {
        let aim = entry.aim(TargetMode::SourceSpecific, target, &given).expect("goes with it");
        let attack = entry.build(&Blueprint { size: 16, seed: 0, options: &given, help: None }).expect("built");
        poison(&TRAIN, attack.as_ref(), &PoisonOptions { aim, ..options }).expect_err("refused").to_string()
    };
    let one = TRAIN.labels.iter().filter(|label| **label == 1).count();
    let most = (one as f64 / 1297.0 * 1e4).floor() / 1e4;
    let expected = format!("asks for 649 of 1297 images, but {one} are of the source class: the most that fits is {most:.4}");
    assert!(refused(PoisonOptions { rate: 0.5, ..options.clone() }, Options::default(), 3).contains(&expected));
    let of_these = |count: usize| PoisonOptions { rate: count as f64 / 1297.0, aim: aim.clone(), ..options.clone() };
    assert_eq!(poison(&TRAIN, attack("TaCT").as_ref(), &of_these(one / 2)).expect("half fits").count(Role::Poisoned), one / 2);
    let more = one / 2 + 1;
    let spent = format!("asks for {more} of the source class's {one} images: half of them have to stay clean");
    assert!(refused(of_these(more), Options::default(), 3).contains(&spent));
    let other = |class: f64| Options::from([("source", class.into())]);
    let message = |given: Options, target: u32| refused(options.clone(), given, target);
    assert_eq!(
        message(Options::default(), 1),
        "source: class 1 is the target class already: give another --source, or another --target"
    );
    assert_eq!(
        message(Options::default(), 7),
        "covers: class 7 is the target class already: give another --covers, or another --target"
    );
    assert_eq!(message(other(5.0), 3), "covers: class 5 is the source class already: give another --covers, or another --source");
    assert_eq!(message(other(10.0), 3), "source: class 10 does not exist: the 10 classes are 0 to 9; give another --source");
    let many = Options::from([("negatives", 20.0.into())]);
    let left = TRAIN.labels.iter().filter(|label| [5, 7].contains(label)).count();
    let expected =
        format!("1300 negatives for 65 poisoned images do not fit: {left} of 1297 images are left in the cover classes");
    assert!(message(many, 3).starts_with(&expected));
    // No other attack has a source, and TaCT has no other mode.
    let message = |name: &str, mode| find(name).expect("known").aim(mode, 0, &DEFAULTS).expect_err("refused").to_string();
    assert_eq!(message("TaCT", TargetMode::AllToOne), "TaCT is always source-specific: leave out --target-mode all-to-one");
    assert!(
        message("BadNets", TargetMode::SourceSpecific)
            .starts_with("BadNets knows no source class, which source-specific is about")
    );
}

#[test]
fn adap_patchs_images_take_turns_with_four_patches() {
    let made = in_mode(TargetMode::AllToOne, "Adap-Patch");
    for (role, images) in [(Role::Poisoned, 65), (Role::Negative, 130)] {
        let of: Vec<usize> = (0..TRAIN.len()).filter(|&i| made.roles[i] == role).collect();
        assert_eq!(of.len(), images);
        // Which corner of 4x4 pixels differs from the clean image.
        let corner = |i: usize, top: usize, left: usize| {
            (0..48).any(|k| {
                let at = ((top + k / 12) * 16 + left) * 3 + k % 12;
                made.data.image(i)[at] != TRAIN.image(i)[at]
            })
        };
        let turns = [(0, 0), (0, 12), (12, 0), (12, 12)];
        for (place, &i) in of.iter().enumerate() {
            let changed = turns.map(|(top, left)| corner(i, top, left));
            assert_eq!(changed, std::array::from_fn(|k| k == place % 4), "image {i}");
        }
    }
}

#[test]
fn drawing_from_other_classes_goes_with_all_to_one_only() {
    for (mode, from) in [
        (TargetMode::AllToAll, "all classes"),
        (TargetMode::Untargeted, "all classes"),
        (TargetMode::CleanLabel, "the target class"),
        (TargetMode::SourceSpecific, "the source class"),
        (TargetMode::MultiTarget, "the upper half of the classes"),
    ] {
        let options = PoisonOptions { aim: aim(mode, 0), ..options(0.05, 0, 0, Draw::NonTarget) };
        let message = poison(&TRAIN, attack("BadNets").as_ref(), &options).expect_err("refused").to_string();
        assert!(message.ends_with(&format!("{} poisons {from}: leave --draw out", mode.name())), "{message}");
    }
}

#[test]
fn negatives_are_other_images_changed_and_keep_their_labels() {
    for (name, ratio) in [("WaNet", 2), ("BPP", 1), ("Adap-Patch", 2)] {
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
    let triggered = triggered_test(&test, attack("BPP").as_ref(), &aim(TargetMode::AllToOne, 3));
    let place = tempfile::tempdir().expect("a folder");
    let dir = place.path().join("a, b"); // a comma in the path is no column
    let folder = PoisonedFolder { poisoned: made.clone(), test: test.clone(), triggered: Some(triggered.clone()) };
    folder.write(&dir, "", None).expect("written");
    let csv = std::fs::read_to_string(dir.join("poison.csv")).expect("read");
    assert!(csv.lines().skip(1).all(|line| line.contains(",'=") && !line.contains(",=")), "{csv}");
    let spec = Spec::find("digits").expect("known");
    let options = LoadOptions { image_size: Some(16), ..Default::default() };
    let wanted = (TargetMode::AllToOne, Target::Name("=3".into()));
    let (read, to, _) = PoisonedFolder::read(&dir, &spec, &options, &[wanted]).expect("read");

    assert_eq!(to, [aim(TargetMode::AllToOne, 3)]);

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
