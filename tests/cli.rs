//! `dau` as its users meet it: exit codes, messages, what is written and what is not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::program::{TINY, command, dau, files, place, refused, stderr, succeed, timeless};
use serde_json::Value;
use tempfile::TempDir;

fn write(place: &Path, file: &str, bytes: &[u8]) {
    let path = place.join(file);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, bytes).expect("written");
}

const PIXEL: &[u8] = b"P6\n1 1\n255\n\x01\x02\x03";

/// What one tiny run, made once, left in `r` and on stdout; each caller has a copy of its own.
fn tiny_run() -> (TempDir, String) {
    static RUN: OnceLock<(PathBuf, String)> = OnceLock::new();
    let (folder, stdout) = RUN.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        // One of an earlier test would be taken for this.
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).expect("made");
        let stdout = succeed(&place, &[&["run", "--json", "--seed", "3", "--out", "r"], &TINY[..]].concat());
        (place.join("r"), stdout)
    });
    let copy = place();
    fs::create_dir(copy.path().join("r")).expect("made");
    for file in fs::read_dir(folder).expect("readable").flatten() {
        fs::copy(file.path(), copy.path().join("r").join(file.file_name())).expect("copied");
    }
    (copy, stdout.clone())
}

#[test]
fn help_lists_the_commands_and_the_originals_command_line() {
    let place = place();
    let help = succeed(place.path(), &["--help"]);
    for word in [
        "demo",
        "run",
        "poison",
        "devices",
        "selftest",
        "bench",
        "data",
        "predict",
        "import",
        "export",
        "--adapter",
        "--subtask anti_learning",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    let nothing = dau(place.path(), &[]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(stderr(&nothing).contains("Usage: dau"));
    assert!(succeed(place.path(), &["run", "--help"]).contains("--unlearn-lambda"));
    for command in ["run", "import"] {
        let help = succeed(place.path(), &[command, "--help"]);
        let unnamed: Vec<&str> = dau::nn::MODELS.iter().map(|m| m.name).filter(|name| !help.contains(name)).collect();
        assert!(unnamed.is_empty(), "dau {command} --help does not name {unnamed:?}");
    }
}

#[test]
fn a_pytorch_state_dict_goes_in_and_comes_out_again() {
    let place = place();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/preact_zip.pt");
    let import = |rest: &[&'static str]| [&["import", file, "--out", "m.safetensors"], rest].concat();
    refused(place.path(), &import(&["--model", "vgg"]), &["no model \"vgg\"", "preact-resnet18"]);
    refused(place.path(), &import(&["--model", "resnet18"]), &["has no tensor bn1.weight, which a resnet18 of width 4 needs"]);
    refused(place.path(), &import(&["--model", "preact-resnet18", "--std", "1,0,1"]), &["--std [1.0, 0.0, 1.0] does not do"]);
    refused(place.path(), &["export", file, "--out", "w.safetensors"], &["preact_zip.pt", "is a PyTorch file", "`dau import`"]);
    let said = succeed(place.path(), &import(&["--model", "preact-resnet18"]));
    assert!(said.contains("preact-resnet18 of width 4, 10 classes, images of 32 pixels, mean [0.4914, "), "{said}");
    assert!(succeed(place.path(), &["export", "m.safetensors", "--out", "w.safetensors"]).contains("102 tensors"));
    refused(place.path(), &["export", "m.safetensors", "--out", "./m.safetensors"], &["./m.safetensors is what is read"]);
    #[cfg(unix)]
    refused(place.path(), &["export", "m.safetensors", "--out", "/dev/null"], &["/dev/null", "no regular file", "another --out"]);
    let back = ["import", "w.safetensors", "--model", "preact-resnet18", "--out", "again.safetensors"];
    succeed(place.path(), &back);
    let read = |name: &str| fs::read(place.path().join(name)).expect("written");
    assert_eq!(read("m.safetensors"), read("again.safetensors"));
    // Neither asks for an adapter.
    succeed(place.path(), &import(&["--model", "PreActResNet18", "--adapter", "Voodoo"]));
    assert_eq!(read("m.safetensors"), read("again.safetensors"));
    succeed(place.path(), &["export", "m.safetensors", "--out", "w.safetensors", "--adapter", "Voodoo"]);
}

#[test]
fn refuses_names_it_does_not_know_with_the_list() {
    let place = place();
    refused(place.path(), &["run", "--attack", "Mona"], &["unknown attack `Mona`", "BadNets", "Blended", "LC"]);
    refused(place.path(), &["run", "--dataset", "mnist"], &["unknown dataset `mnist`", "digits", "CIFAR-10", "folder"]);
    refused(place.path(), &["run", "--model", "vgg"], &["unknown model `vgg`", "resnet18"]);
    refused(place.path(), &["run", "--adapter", "Voodoo"], &["no adapter is called \"Voodoo\"", "--adapter"]);
}

#[test]
fn refuses_a_poisoning_that_cannot_be() {
    let place = place();
    refused(place.path(), &["run", "--poison-rate", "1.5"], &["--poison-rate 1.5 is outside 0..1"]);
    refused(
        place.path(),
        &["run", "--poison-rate", "1e-5"],
        &["poison rate 0.00001 of 1297 training images rounds to no sample"],
    );
    refused(place.path(), &["run", "--target", "10"], &["target class 10 does not exist"]);
    refused(place.path(), &["run", "--alpha", "0.1"], &["BadNets has no option `alpha`"]);
    refused(place.path(), &["run", "--attack", "sig"], &["128 are of the target class: the most that fits is 0.0986"]);
    refused(
        place.path(),
        &["run", "--attack", "LC", "--target-mode", "all-to-all", "--draw", "non-target"],
        &["leave --draw out"],
    );
    refused(place.path(), &["run", "--surrogate", "s"], &["BadNets is made without a clean network"]);
    refused(place.path(), &["run", "--attack", "LC", "--poison-rate", ".05", "--surrogate", "s"], &["s: No such file"]);
}

#[test]
fn refuses_mixed_precision_where_there_are_no_matrices() {
    let place = place();
    // By WebGPU's defaults no adapter has any.
    for command in ["run", "demo", "bench"] {
        let args = [command, "--precision", "mixed", "--limits", "default"];
        refused(place.path(), &args, &["--precision mixed needs cooperative matrices", "Leave --precision mixed out"]);
    }
    refused(place.path(), &["bench", "--staging", "cooperative-matrix"], &["add --precision mixed"]);
}

#[test]
fn refuses_a_key_it_does_not_know_with_the_nearest() {
    let place = place();
    write(place.path(), "c.toml", b"epochs = 2\nunlearn-step = 3\n");
    refused(place.path(), &["run", "--config", "c.toml"], &["c.toml: unknown key `unlearn-step`", "`unlearn_steps`"]);
    refused(place.path(), &["run", "--config", "none.toml"], &["cannot read none.toml"]);
}

#[test]
fn refuses_data_that_is_not_there_or_not_whole() {
    let place = place();
    refused(place.path(), &["run", "--dataset", "CIFAR-10"], &["--data DIR"]);
    refused(place.path(), &["run", "--dataset", "CIFAR-10", "--data", "nowhere"], &["cannot read nowhere"]);
    for file in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        write(place.path(), &format!("cifar-10-batches-bin/{file}.bin"), &[0; 3073]);
    }
    let args = ["run", "--dataset", "CIFAR-10", "--data", "."];
    refused(place.path(), &args, &["data_batch_1.bin has the wrong size", "expected 30730000 bytes, found 3073"]);
    fs::remove_file(place.path().join("cifar-10-batches-bin/data_batch_1.bin")).expect("removed");
    refused(place.path(), &args, &["data_batch_1.bin is missing"]);
}

#[test]
fn refuses_folders_of_images_that_cannot_be_learned_from() {
    let place = place();
    write(place.path(), "d/cat/1.ppm", PIXEL);
    write(place.path(), "d/cat/2.ppm", PIXEL);
    let args = ["run", "--dataset", "folder", "--data", "d"];
    refused(place.path(), &args, &["d holds 1 class folder", "at least 2"]);
    write(place.path(), "d/dog/1.ppm", PIXEL);
    write(place.path(), "d/dog/broken.png", b"not a picture");
    refused(place.path(), &args, &["cannot read the image d/dog/broken.png"]);
}

#[test]
fn data_sets_are_listed_and_verified() {
    let place = place();
    let list: Value = serde_json::from_str(&succeed(place.path(), &["data", "list", "--json"])).expect("json");
    let gtsrb = list.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == "GTSRB")).expect("GTSRB");
    assert_eq!((&gtsrb["classes"], &gtsrb["images"]), (&43.into(), &serde_json::json!([39209, 12630])));
    assert!(gtsrb["archives"][2].as_str().is_some_and(|url| url.ends_with("/GTSRB_Final_Test_GT.zip")));
    let table = succeed(place.path(), &["data", "list"]);
    assert!(table.contains("Tiny-ImageNet") && table.contains("100000 + 10000"), "{table}");

    for image in ["cat/1.ppm", "cat/2.ppm", "dog/1.ppm", "dog/2.ppm", "dog/4.ppm"] {
        write(place.path(), &format!("data/{image}"), PIXEL);
    }
    let said = succeed(place.path(), &["data", "verify", "folder"]);
    assert!(said.contains("only the structure was checked") && said.contains("3 training and 2 test images of 2"), "{said}");
    // One of four, the last of which is the test image.
    write(place.path(), "data/dog/3.ppm", b"no picture");
    let output = dau(place.path(), &["data", "verify", "folder"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("fault      cannot read the image data/dog/3.ppm"));
    refused(place.path(), &["data", "verify", "mnist"], &["unknown dataset `mnist`"]);
    #[cfg(feature = "fetch")]
    refused(place.path(), &["data", "fetch", "digits"], &["digits is not to be fetched"]);
}

#[test]
fn unreadable_images_are_left_out_on_demand_and_counted() {
    let place = place();
    for (class, n) in ["cat", "dog"].into_iter().flat_map(|class| (0..10).map(move |n| (class, n))) {
        write(place.path(), &format!("d/{class}/{n}.ppm"), PIXEL);
    }
    write(place.path(), "d/dog/broken.png", b"not a picture");
    let args = ["poison", "--dataset", "folder", "--data", "d", "--out", "p"];
    refused(place.path(), &args, &["cannot read the image d/dog/broken.png", "leave it out with --skip-unreadable"]);
    let output = dau(place.path(), &[&args[..], &["--skip-unreadable"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let said = "left out 1 of 21 images that cannot be read; the first: cannot read the image d/dog/broken.png: ";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let run = ["run", "--dataset", "folder", "--data", "d", "--skip-unreadable", "--json"];
    let results: Value = serde_json::from_str(&succeed(place.path(), &[&run[..], &TINY].concat())).expect("json");
    assert_eq!(results["dataset"]["left_out"], 1);
    refused(place.path(), &["run", "--poisoned", "p", "--skip-unreadable"], &["poisoned already: leave out skip_unreadable"]);
}

#[test]
fn normalisation_can_be_replaced_and_goes_into_the_checkpoint() {
    let place = place();
    let none = ["run", "--json", "--out", "r", "--mean", "0", "--std", "1"];
    succeed(place.path(), &[&none[..], &TINY].concat());
    let run: toml::Table = toml::from_str(&fs::read_to_string(place.path().join("r/run.toml")).expect("run.toml")).expect("toml");
    assert_eq!(run["std"], toml::Value::from(vec![1.0, 1.0, 1.0]));
    let bytes = fs::read(place.path().join("r/defended.safetensors")).expect("a checkpoint");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("safetensors");
    let metadata = header.metadata().as_ref().expect("metadata");
    let network: Value = serde_json::from_str(&metadata["dau"]).expect("json");
    assert_eq!((&network["mean"], &network["std"]), (&serde_json::json!([0.0, 0.0, 0.0]), &serde_json::json!([1.0, 1.0, 1.0])));
    refused(place.path(), &["run", "--std", "0"], &["--std [0.0, 0.0, 0.0] does not do"]);
}

#[test]
fn refuses_a_batch_that_does_not_fit_and_says_which_would() {
    let place = place();
    refused(place.path(), &["run", "--width", "20000"], &["a batch of 64 does not fit", "No batch fits: try a smaller --width"]);
    // Flooding, ABL's, needs a batch as a whole; DAU's steps can go in parts.
    let whole = ["run", "--defense", "ABL", "--batch", "1000000"];
    refused(place.path(), &whole, &["ABL's largest step, 1000000 images", "does not fit", "Try --batch "]);
}

#[test]
fn refuses_to_write_into_a_folder_of_something_else() {
    let place = place();
    write(place.path(), "thesis/chapter.tex", b"x");
    refused(place.path(), &["run", "--out", "thesis"], &["thesis is not a run folder", "--out"]);
}

#[test]
fn a_subtask_without_its_input_says_what_to_run_first() {
    let place = place();
    for subtask in ["unlearning", "test"] {
        let args = ["--subtask", subtask, "--dataset", "CIFAR-10", "--attack", "BadNets", "--data", "my data"];
        let first = "run first: dau --subtask anti_learning --dataset CIFAR-10 --attack BadNets --data 'my data'";
        refused(place.path(), &args, &["runs/cifar-10-badnets-0/run.toml", first]);
    }
    let output = dau(place.path(), &["--subtask", "forgetting"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("unlearning"), "{}", stderr(&output));
}

#[test]
fn refuses_a_checkpoint_of_another_network() {
    let (place, _) = tiny_run();
    let predict = |more: &[&'static str]| -> Vec<&str> {
        [&["predict", "--checkpoint", "r/defended.safetensors", "--out", "l.safetensors"][..], more].concat()
    };
    refused(place.path(), &predict(&["--width", "8"]), &["r/defended.safetensors: conv1.weight", "[4, 3, 3, 3]", "[8, 3, 3, 3]"]);
    refused(place.path(), &predict(&["--image-size", "8"]), &["images of 16 pixels, not 8"]);
    refused(place.path(), &predict(&["--patch", "3"]), &["give --attack too"]);
    refused(place.path(), &["predict", "--checkpoint", "r/split.csv", "--out", "l"], &["r/split.csv", "safetensors"]);
    refused(place.path(), &["predict", "--checkpoint", "none", "--out", "l"], &["none: No such file"]);
    refused(place.path(), &["predict", "--checkpoint", "r/defended.safetensors", "--out", "no/l"], &["there is no folder no"]);
}

#[test]
fn a_run_leaves_its_folder_and_its_figures() {
    let (place, stdout) = tiny_run();
    let folder = place.path().join("r");
    let names: BTreeSet<String> =
        fs::read_dir(&folder).expect("r").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let expected = [
        "backdoored.safetensors",
        "curve.jsonl",
        "defended.safetensors",
        "evidence.json",
        "findings.json",
        "inspection.json",
        "lock",
        "metrics.jsonl",
        "poison.csv",
        "preview.png",
        "report.html",
        "results.json",
        "run.toml",
        "split.csv",
        "undefended-test.json",
    ];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    let read = |file: &str| fs::read_to_string(folder.join(file)).expect(file);
    assert_eq!(stdout, read("results.json"), "--json prints results.json and nothing else");

    let results: Value = serde_json::from_str(&stdout).expect("json");
    for model in ["undefended", "defended"] {
        for (figure, of) in [("acc", 500), ("asr", 450), ("ra", 450), ("t", 50)] {
            let counts = &results[model]["counts"][figure];
            let percent = 100.0 * counts[0].as_f64().expect("hits") / f64::from(of);
            assert_eq!(counts[1], of, "{model} {figure}");
            assert!((results[model][figure].as_f64().expect("a share") - percent).abs() < 1e-9, "{model} {figure}");
        }
    }
    // Each row of a confusion matrix is the test images of a class; its diagonal is what ACC counts.
    let inspection: Value = serde_json::from_str(&read("inspection.json")).expect("json");
    for (matrix, model) in [(0, "undefended"), (1, "defended")] {
        let rows: Vec<Vec<u64>> = serde_json::from_value(inspection["confusion"][matrix].clone()).expect("counts");
        assert!(rows.len() == 10 && rows.iter().all(|row| row.iter().sum::<u64>() == 50), "{rows:?}");
        assert_eq!((0..10).map(|k| rows[k][k]).sum::<u64>(), results[model]["counts"]["acc"][0], "{model}");
    }
    let points: Vec<&Value> = results["curve"].as_array().expect("a curve").iter().collect();
    assert_eq!(points.iter().filter(|p| p["stage"] == "train").map(|p| p["epoch"].clone()).collect::<Vec<_>>(), [2]);
    assert!(points.iter().all(|p| p["acc"]["of"] == 100 && p["asr"]["of"] == 100), "{points:?}");
    assert_eq!(read("curve.jsonl").lines().count(), points.len());
    let split = &results["split"];
    assert_eq!((&split["counts"]["recall"][1], &split["counts"]["fpr"][1]), (&20.into(), &180.into()));
    assert_eq!(split["flagged"], split["counts"]["precision"][1]);
    assert_eq!(split["flagged"], read("split.csv").lines().filter(|l| l.ends_with(",poisoned")).count());
    assert!(split["auroc"].as_f64().is_some_and(|a| (0.0..=1.0).contains(&a)));
    assert!(results["der"].as_f64().is_some_and(|d| (0.0..=100.0).contains(&d)));
    assert!(results["seconds"]["train"].as_f64().is_some_and(|s| s > 0.0) && results["seconds"]["total"].is_number());
    assert_eq!((&results["seed"], &results["config"]["epochs"], &results["config"]["lr"]), (&3.into(), &2.into(), &0.02.into()));
    assert!(results["adapter"].as_str().is_some_and(|a| !a.is_empty()));

    assert_eq!(read("poison.csv").lines().count(), 21);
    assert_eq!(read("split.csv").lines().count(), 201);
    let epochs = read("metrics.jsonl").lines().map(|l| serde_json::from_str(l).expect("json")).collect::<Vec<Value>>();
    assert_eq!(epochs.iter().filter(|e| e["stage"] == "train").count(), 2);
    let run: toml::Table = toml::from_str(&read("run.toml")).expect("toml");
    assert_eq!(run["width"].as_integer(), Some(4));
    assert!(run["run"]["version"].is_str() && run["run"]["adapter"].is_str());
    assert!(image::open(folder.join("preview.png")).is_ok());
}

#[test]
fn the_three_subtasks_do_what_run_does() {
    let (place, stdout) = tiny_run();
    let begin = [&["--subtask", "anti_learning", "--dataset", "Digits", "--attack", "badnets"], &TINY[..]].concat();
    succeed(place.path(), &[&begin[..], &["--seed", "3"]].concat());
    let part = |subtask: &'static str| ["--subtask", subtask, "--dataset", "digits", "--attack", "BadNets", "--seed", "3"];
    let folder = "runs/digits-badnets-3";
    refused(place.path(), &part("test"), &[&format!("{folder}/defended.safetensors"), "run first: dau --subtask unlearning"]);
    let changed = [&part("unlearning")[..], &["--epochs", "3"]].concat();
    refused(place.path(), &changed, &["began with epochs = 2, the command says epochs = 3"]);
    succeed(place.path(), &part("unlearning"));
    let results = succeed(place.path(), &[&part("test")[..], &["--json"]].concat());
    assert_eq!(timeless(&results), timeless(&stdout));
    for file in ["split.csv", "poison.csv", "backdoored.safetensors", "defended.safetensors"] {
        let bytes = |folder: &str| fs::read(place.path().join(folder).join(file)).expect(file);
        assert!(bytes(folder) == bytes("r"), "{file} differs");
    }
}

#[test]
fn a_part_that_is_forced_counts_each_stage_once() {
    let place = place();
    let defense = ["--defense", "ABL", "--abl-isolation-epochs", "1", "--abl-unlearn-steps", "1"];
    let begin = [&["--subtask", "anti_learning", "--out", "r"], &defense[..], &TINY[..8]].concat();
    succeed(place.path(), &begin);
    let part = |subtask: &'static str| ["--subtask", subtask, "--out", "r", "--json"];
    let seconds = || -> Value {
        succeed(place.path(), &part("unlearning")[..4]);
        serde_json::from_str::<Value>(&succeed(place.path(), &part("test"))).expect("json")["seconds"].clone()
    };
    let names = |seconds: &Value| -> BTreeSet<String> { seconds.as_object().expect("stages").keys().cloned().collect() };
    let first = seconds();
    // As if the first time had taken days.
    let run = place.path().join("r/run.toml");
    let text = fs::read_to_string(&run).expect("read");
    let slow = |line: &str| if line.starts_with("seconds = ") { "seconds = 1e6\n".into() } else { format!("{line}\n") };
    fs::write(&run, text.lines().map(slow).collect::<String>()).expect("written");
    succeed(place.path(), &[&part("unlearning")[..4], &["--force"]].concat());
    let again = seconds();
    assert_eq!(names(&again), names(&first));
    for stage in ["isolate", "learn the rest", "unlearn", "test undefended", "test defended"] {
        assert!(again[stage].as_f64().is_some_and(|seconds| seconds < 1e6), "{stage} counts twice: {again}");
    }
    for stage in ["train", "losses"] {
        assert_eq!(again[stage], 1e6, "{stage} was not run again: {again}");
    }
}

#[test]
fn run_toml_given_as_configuration_repeats_the_run() {
    let (place, stdout) = tiny_run();
    let results = succeed(place.path(), &["run", "--json", "--config", "r/run.toml", "--out", "again"]);
    assert_eq!(timeless(&results), timeless(&stdout));
}

#[test]
fn predict_writes_images_labels_and_logits() {
    let (place, stdout) = tiny_run();
    let checkpoint = ["--checkpoint", "r/backdoored.safetensors", "--json", "--out"];
    let clean = succeed(place.path(), &[&["predict"], &checkpoint[..], &["clean.safetensors"]].concat());
    let attack = ["triggered.safetensors", "--attack", "BadNets", "--seed", "3"];
    let triggered = succeed(place.path(), &[&["predict"], &checkpoint[..], &attack].concat());
    let (clean, triggered): (Value, Value) =
        (serde_json::from_str(&clean).expect("json"), serde_json::from_str(&triggered).expect("json"));
    let results: Value = serde_json::from_str(&stdout).expect("json");
    assert_eq!(clean["accuracy"], results["undefended"]["acc"]);
    assert_eq!(triggered["counts"]["asr"], results["undefended"]["counts"]["asr"]);
    assert_eq!(triggered["accuracy"], results["undefended"]["ra"]);

    let bytes = fs::read(place.path().join("triggered.safetensors")).expect("logits");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let shape = |name: &str| tensors.tensor(name).expect(name).shape().to_vec();
    assert_eq!((shape("images"), shape("labels"), shape("logits")), (vec![450, 16, 16, 3], vec![450], vec![450, 10]));
    let image = tensors.tensor("images").expect("images").data()[..16 * 16 * 3].to_vec();
    assert_eq!(image[image.len() - 3..], [255; 3], "the trigger is on");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let place = place();
    let output = dau(place.path(), &[&["run", "--lr", "1e30"], &TINY[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("in epoch 1, step "), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_half_written_file() {
    let place = place();
    let mut child = command(place.path(), &["run", "--epochs", "1000", "--out", "r"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("dau starts");
    let running = place.path().join("r/metrics.jsonl");
    for _ in 0..1200 {
        if running.exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(running.exists(), "no epoch was finished in two minutes");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let left: Vec<String> = files(&place.path().join("r")).into_iter().collect();
    assert_eq!(left.len(), 6, "{left:?}");
    for file in ["lock", "metrics.jsonl", "poison.csv", "preview.png", "run.toml", "training.safetensors"] {
        assert!(left.iter().any(|path| path.ends_with(file)), "{file} is not in {left:?}");
    }
}

#[test]
fn devices_and_selftest_speak_json() {
    let place = place();
    let devices: Value = serde_json::from_str(&succeed(place.path(), &["devices", "--json"])).expect("json");
    let first = &devices[0];
    assert!(first["name"].is_string() && first["backend"].is_string() && first["limits"]["binding_bytes"].is_u64());
    let table = succeed(place.path(), &["devices"]);
    assert!(table.contains("back end") && table.contains(first["name"].as_str().expect("a name")));
    let tested: Value = serde_json::from_str(&succeed(place.path(), &["selftest", "--json"])).expect("json");
    assert_eq!((&tested["passed"], &tested["failed"]), (&true.into(), &0.into()));
    assert!(tested["rows"].as_array().is_some_and(|rows| rows.iter().all(|r| r["failures"] == Value::Array(vec![]))));
}

#[test]
fn a_run_leaves_a_page_that_needs_no_network() {
    let place = place();
    let said = stderr(&dau(place.path(), &[&["run", "--out", "r"], &TINY[..]].concat()));
    assert!(said.contains("On images without the trigger its accuracy was"), "{said}");
    let page = fs::read_to_string(place.path().join("r/report.html")).expect("report.html");
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.contains("BadNets on digits, defended by DAU") && page.contains("data:image/png;base64,"), "{}", &page[..900]);
    // Nothing is fetched from anywhere: the only addresses are names of XML's.
    let addresses = page.matches("http").count();
    assert_eq!(addresses, page.matches("http://www.w3.org/2000/svg").count());
    // Shown again, it stays as it is; gone, it is made again.
    fs::remove_file(place.path().join("r/report.html")).expect("removed");
    succeed(place.path(), &[&["run", "--out", "r"], &TINY[..]].concat());
    assert_eq!(fs::read_to_string(place.path().join("r/report.html")).expect("made again"), page);
}

#[test]
fn images_are_set_aside_for_a_defense_that_needs_clean_ones_and_run_toml_says_so() {
    let place = place();
    let small = ["--width", "4", "--epochs", "2", "--limit-per-class", "20", "--batch", "32", "--out", "r"];
    let tuned = ["run", "--defense", "fine-tuning", "--tuning-epochs", "1"];
    let table = succeed(place.path(), &[&tuned[..], &small].concat());
    // Of 200 images one in twenty.
    assert!(table.contains("/190"), "{table}");
    let run = fs::read_to_string(place.path().join("r/run.toml")).expect("run.toml");
    assert!(run.contains("reserve = 0.05"), "{run}");
    let none = ["run", "--defense", "fine-tuning", "--reserve", "0"];
    refused(place.path(), &none, &["fine-tuning needs images that are surely clean: give --reserve a share above 0"]);
}
