//! Several attacks on one training set: each has its images, its trigger and its goal, and none takes another's.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::program::{TINY, dau, files, place, refused, stderr, succeed};
use dau::attacks::{
    Aim, Attack, Blueprint, Draw, PoisonOptions, Poisoned, Role, TargetMode, TriggeredTest, find, poison, triggered_test,
};
use dau::data::{Dataset, LoadOptions, Spec, load};
use dau::options::Options;
use serde_json::Value;

static DEFAULTS: Options = Options(BTreeMap::new());

fn digits() -> (Dataset, Dataset) {
    let splits = load(&Spec::find("digits").unwrap(), &LoadOptions::default()).unwrap();
    (splits.train, splits.test)
}

fn attack(name: &str, seed: u64) -> Box<dyn Attack> {
    find(name).unwrap().build(&Blueprint { size: 16, seed, options: &DEFAULTS, help: None }).unwrap()
}

fn options(rate: f64, mode: TargetMode, target: u32, seed: u64) -> PoisonOptions {
    PoisonOptions { rate, aim: Aim { mode, target, source: None }, seed, draw: Draw::All }
}

/// A patch for class 3, blended noise for the next class, a warp with negatives for class 3 too.
fn three() -> [(Box<dyn Attack>, PoisonOptions); 3] {
    [
        (attack("BadNets", 6), options(0.1, TargetMode::AllToOne, 3, 6)),
        (attack("Blended", 7), options(0.05, TargetMode::AllToAll, 0, 7)),
        (attack("WaNet", 8), options(0.04, TargetMode::AllToOne, 3, 8)),
    ]
}

fn poisoned(train: &Dataset) -> Poisoned {
    let [(first, by), others @ ..] = three();
    let made = poison(train, first.as_ref(), &by).unwrap();
    others.iter().fold(made, |made, (attack, by)| made.and(train, attack.as_ref(), by).unwrap())
}

#[test]
fn each_attack_has_its_own_images_trigger_and_goal() {
    let (train, _) = digits();
    let made = poisoned(&train);
    let of = |number: usize, role: Role| -> Vec<usize> {
        (0..train.len()).filter(|&i| made.roles[i] == role && made.attack[i] == number).collect()
    };
    let counts = |role| [0, 1, 2].map(|number| of(number, role).len());
    assert_eq!((counts(Role::Poisoned), counts(Role::Negative)), ([130, 65, 52], [0, 0, 104]));
    assert_eq!((made.attacks(), made.count(Role::Clean)), (3, 1297 - 130 - 65 - 52 - 104));

    // The first poisons as it would alone.
    let [(first, by), (blended, _), _] = three();
    let alone = poison(&train, first.as_ref(), &by).unwrap();
    assert_eq!(of(0, Role::Poisoned), (0..train.len()).filter(|&i| alone.roles[i] == Role::Poisoned).collect::<Vec<_>>());
    for i in of(0, Role::Poisoned) {
        assert_eq!((made.data.image(i), made.data.labels[i]), (alone.data.image(i), 3));
    }
    for i in of(1, Role::Poisoned) {
        let mut image = train.image(i).to_vec();
        blended.apply(&mut image);
        assert_eq!((made.data.image(i), made.data.labels[i]), (&image[..], (train.labels[i] + 1) % 10), "image {i}");
    }
    for i in of(0, Role::Clean) {
        assert_eq!((made.data.image(i), made.data.labels[i]), (train.image(i), train.labels[i]));
    }
}

#[test]
fn what_others_took_is_counted_before_anything_is_made() {
    let (train, _) = digits();
    let check = |rates: [f64; 2]| PoisonOptions::check(&rates.map(|rate| options(rate, TargetMode::AllToOne, 0, 1)), &train);
    check([0.6, 0.4]).unwrap();
    let (number, error) = check([0.6, 0.5]).expect_err("refused");
    let message = error.to_string();
    assert!(
        message.contains("asks for 649 of 1297 images, but 519 are of all classes, less those of other attacks"),
        "{message}"
    );
    assert_eq!((number, check([0.0, 0.5]).expect_err("refused").0), (1, 0));
}

#[test]
fn a_manifest_makes_all_of_them_again_and_knows_whose_each_is() {
    let (train, _) = digits();
    let (made, attacks) = (poisoned(&train), three());
    let csv = made.manifest_csv();
    assert_eq!(csv.lines().next(), Some("index,original_label,given_label,role,attack"));
    let given: Vec<(&dyn Attack, u64)> = attacks.iter().map(|(attack, by)| (attack.as_ref(), by.seed)).collect();
    let again = Poisoned::from_manifest(&train, &given, &csv).unwrap();
    assert!(again.data.pixels == made.data.pixels && again.data.labels == made.data.labels);
    assert_eq!((&again.roles, &again.attack), (&made.roles, &made.attack));

    let refused = |csv: &str| Poisoned::from_manifest(&train, &given, csv).expect_err("refused").to_string();
    assert!(refused(&csv.replace(",poisoned,3", ",poisoned,4")).contains("the number of an attack at the end, 1 to 3"));
    assert!(refused(&csv.replace(",poisoned,2", ",poisoned,1")).contains("no poisoned image of attack 2 is listed"));
    assert!(refused(&poison(&train, given[0].0, &attacks[0].1).unwrap().manifest_csv()).contains("line 1: expected `index,"));
}

#[test]
fn triggered_images_are_there_once_for_each_attack() {
    let (_, test) = digits();
    let each = three().map(|(attack, by)| triggered_test(&test, attack.as_ref(), &by.aim));
    let all = TriggeredTest::of_all(each.to_vec()).unwrap();
    assert_eq!([0, 1, 2].map(|number| all.of(number).len()), [450, 500, 450]);
    for (number, one) in each.iter().enumerate() {
        let its = all.of(number);
        assert!(its.iter().map(|&i| all.goal[i]).eq(one.goal.iter().copied()));
        assert!(all.data.subset(&its).pixels == one.data.pixels && all.data.subset(&its).labels == one.data.labels);
    }
}

const TWO: &str = "limit_per_class = 20\nseed = 3\nattack = \"BadNets\"\ntarget = 7\n\n[[also]]\nattack = \"blended\"\ntarget-mode = \"all-to-all\"\n\
                   poison_rate = 0.05\nalpha = 0.25\n";

fn results(place: &Path, args: &[&str]) -> Value {
    let output = dau(place, args);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).expect("json")
}

#[test]
fn two_attacks_are_run_and_told_apart_and_so_from_a_folder() {
    let place = place();
    fs::write(place.path().join("two.toml"), TWO).unwrap();
    let run = |more: &[&'static str]| results(place.path(), &[&["run", "--json"][..], &TINY, more].concat());
    let found = run(&["--config", "two.toml", "--out", "r"]);
    assert_eq!(
        (&found["poison"]["attack"], &found["poison"]["mode"], &found["poison"]["count"]),
        (&"BadNets + Blended".into(), &"several".into(), &30.into())
    );
    let each = found["attacks"].as_array().expect("a list");
    let of = |key: &str| each.iter().map(|one| one[key].clone()).collect::<Vec<_>>();
    assert_eq!(
        (of("mode"), of("count")),
        (vec!["all-to-one".into(), "all-to-all".into()], vec![Value::from(20), Value::from(10)])
    );
    // The figures of all are those of each, weighed by their images: 450 and 500.
    for (key, at) in [("asr", "asr"), ("ra", "ra")] {
        let share = |number: usize| each[number][key][0].as_f64().unwrap();
        let mean = (450.0 * share(0) + 500.0 * share(1)) / 950.0;
        assert!((found["undefended"][at].as_f64().unwrap() - mean).abs() < 1e-9, "{found}");
    }
    let csv = fs::read_to_string(place.path().join("r/poison.csv")).unwrap();
    assert_eq!(csv.lines().filter(|row| row.ends_with(",poisoned,2")).count(), 10);
    let settings = fs::read_to_string(place.path().join("r/run.toml")).unwrap();
    assert!(settings.contains("[[also]]\nalpha = 0.25\nattack = \"Blended\"\ndraw = \"all\"\n"), "{settings}");
    // An ended run is shown again, from the settings that it wrote.
    assert_eq!(run(&["--config", "r/run.toml", "--out", "r"])["attacks"], found["attacks"]);

    succeed(place.path(), &["poison", "--config", "two.toml", "--out", "p"]);
    let count = |part: &str| files(&place.path().join("p").join(part)).iter().filter(|f| f.ends_with(".png")).count();
    assert_eq!((count("triggered/1"), count("triggered/2")), (450, 500));
    let tiny = ["--width", "4", "--epochs", "2", "--batch", "32", "--unlearn-steps", "4", "--seed", "3"];
    let read = results(place.path(), &[&["run", "--json", "--poisoned", "p", "--out", "q"][..], &tiny].concat());
    let whose =
        |found: &Value| found["attacks"].as_array().expect("a list").iter().map(|one| one["count"].clone()).collect::<Vec<_>>();
    assert_eq!((whose(&read), &read["undefended"]["counts"]["asr"][1]), (whose(&found), &950.into()));
    refused(place.path(), &["run", "--poisoned", "p", "--target", "1"], &["poisoned already with target = 7"]);
}

#[test]
fn what_is_wrong_with_a_further_attack_is_said_with_its_place() {
    let place = place();
    for (also, expected) in [
        ("[[also]]\ntarget = 1\n", "[[also]] 1: it has no `attack`: give the attack's name"),
        ("[[also]]\nattack = \"SIG\"\n[[also]]\nattack = \"Mona\"\n", "[[also]] 2: unknown attack `Mona`; known are BadNets"),
        ("[[also]]\nattack = \"SIG\"\nepochs = 3\n", "[[also]] 1: SIG has no option `epochs`; it takes strength, frequency"),
        ("[[also]]\nattack = \"SIG\"\npoison_rate = 2\n", "[[also]] 1: --poison-rate 2 is outside 0..1"),
        (
            "[[also]]\nattack = \"SIG\"\npoison_rate = 0.01\n[[also]]\nattack = \"Blended\"\npoison_rate = 0.95\n",
            "[[also]] 2, Blended: poison rate 0.95 asks for 1232 of 1297 images",
        ),
        ("[[also]]\nattack = \"BadNets\"\npoison_rate = 0.95\n", "less those of other attacks: the most that fits is 0.8997"),
        ("[[also]]\nattack = \"BadNets\"\ntarget = \"x\"\n", "[[also]] 1, BadNets: no class is called `x`"),
        ("target = \"x\"\n[[also]]\nattack = \"SIG\"\n", "BadNets: no class is called `x`"),
        ("also = \"SIG\"\n", "give each further attack as a table of its own, [[also]]"),
    ] {
        fs::write(place.path().join("c.toml"), format!("attack = \"BadNets\"\n{also}")).unwrap();
        refused(place.path(), &["run", "--config", "c.toml"], &[expected]);
    }
    fs::write(place.path().join("c.toml"), "[[also]]\nattack = \"SIG\"\n").unwrap();
    refused(place.path(), &["defend", "--data", ".", "--config", "c.toml"], &["`also`"]);
}
