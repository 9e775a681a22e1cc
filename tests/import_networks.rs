//! State dicts of whole networks in the spellings, types and stems that PyTorch's users have, and values that no network works with.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::Golden;
use common::program::{dau, refused, stderr, succeed};
use dau::nn::Stem;
use dau::train::{Checkpoint, Normalisation};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const NORM: Normalisation = Normalisation { mean: [0.5; 3], std: [0.25; 3] };

#[derive(Clone, PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

type State = BTreeMap<String, Stored>;

/// The initial values of a golden network, its counters at 7.
fn state(golden: &str) -> State {
    let golden = Golden::open(golden);
    let stored = |name: &String| {
        let file = golden.file();
        let tensor = file.tensor(&format!("init/{name}")).unwrap();
        Stored { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bytes: tensor.data().to_vec() }
    };
    let seven = Stored { dtype: Dtype::I64, shape: vec![], bytes: 7i64.to_le_bytes().to_vec() };
    let of = |name: &String| if is_counter(name) { seven.clone() } else { stored(name) };
    golden.names("init/").into_iter().map(|name| (name.clone(), of(&name))).collect()
}

fn resnet18() -> State {
    state("resnet_w8")
}

fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

fn write(state: &State, path: &Path) {
    let views = state.iter().map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn import(state: &State, model: &str, size: Option<usize>) -> Result<Checkpoint, String> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("state.safetensors");
    write(state, &path);
    Checkpoint::import(&path, model, size, NORM).map_err(|e| e.to_string())
}

fn refusal(state: &State, model: &str, size: Option<usize>) -> String {
    import(state, model, size).err().expect("refused")
}

fn saved(checkpoint: &Checkpoint) -> Vec<u8> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("saved.safetensors");
    checkpoint.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn is_the_network(state: &State, model: &str, size: Option<usize>) {
    let plain = import(&resnet18(), "resnet18", Some(16)).unwrap();
    assert!(saved(&import(state, model, size).unwrap()) == saved(&plain), "{model}");
}

#[test]
fn a_network_goes_by_its_name_in_any_case_with_or_without_hyphens() {
    for name in ["resnet18", "ResNet18", "resnet-18", "ResNet_18"] {
        is_the_network(&resnet18(), name, Some(16));
    }
    let preact = state("network_preact-resnet18_4_16");
    for name in ["PreActResNet18", "preact_resnet18", "preactresnet18"] {
        assert_eq!(import(&preact, name, None).unwrap().spec.name, "preact-resnet18");
    }
    let message = refusal(&preact, "resnet", None);
    assert!(message.contains("no model \"resnet\"; there are: resnet18"), "{message}");
}

#[test]
fn torchvisions_words_for_shortcut_and_classifier_do_for_small_images_and_the_others_for_large_ones() {
    let renamed = |state: State, pairs: [(&str, &str); 2]| -> State {
        let rename = |name: String| pairs.iter().fold(name, |name, (from, to)| name.replace(from, to));
        state.into_iter().map(|(name, tensor)| (rename(name), tensor)).collect()
    };
    let torchvisions = renamed(resnet18(), [("linear.", "fc."), ("shortcut.", "downsample.")]);
    assert!(torchvisions.contains_key("fc.weight") && torchvisions.contains_key("layer2.0.downsample.0.weight"));
    is_the_network(&torchvisions, "resnet18", Some(16));
    let large = state("network_resnet18_4_64");
    let small_words = renamed(large.clone(), [("fc.", "linear."), ("downsample.", "shortcut.")]);
    assert!(saved(&import(&small_words, "resnet18", None).unwrap()) == saved(&import(&large, "resnet18", None).unwrap()));
    let mut both = resnet18();
    both.insert("fc.weight".into(), both["linear.weight"].clone());
    let message = refusal(&both, "resnet18", Some(16));
    assert!(message.contains("has both fc.weight and linear.weight"), "{message}");
}

#[test]
fn a_prefix_that_few_names_have_is_no_wrappers() {
    let mut state = resnet18();
    state.insert("model.weight".into(), state["linear.weight"].clone());
    let message = refusal(&state, "resnet18", Some(16));
    assert!(message.contains("has a tensor model.weight, which a resnet18 of width 8 does not have"), "{message}");
}

#[test]
fn a_network_keeps_its_stem_whatever_the_size_of_its_images() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.safetensors");
    let header = |checkpoint: &Checkpoint| String::from_utf8_lossy(&saved(checkpoint)).contains("stem");
    for (state, size, stem, unusual) in [
        (state("network_resnet18_4_64"), 64, Stem::Large, false),
        (state("network_resnet18_4_64"), 32, Stem::Large, true),
        (resnet18(), 16, Stem::Small, false),
        (resnet18(), 64, Stem::Small, true),
    ] {
        let checkpoint = import(&state, "resnet18", Some(size)).unwrap();
        assert_eq!((checkpoint.spec.stem, checkpoint.spec.image_size), (stem, size));
        // Files of versions that had but the usual stems say nothing of it, and are read as they were.
        assert_eq!(header(&checkpoint), unusual, "{size}");
        checkpoint.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap().spec, checkpoint.spec);
    }
}

#[test]
fn a_stem_that_no_network_of_that_name_has_is_told() {
    let mut odd = resnet18();
    odd.insert("conv1.weight".into(), Stored { dtype: Dtype::F32, shape: vec![8, 3, 5, 5], bytes: vec![0; 4 * 8 * 3 * 25] });
    let message = refusal(&odd, "resnet18", Some(32));
    assert!(message.contains("conv1.weight is a 5x5 stem; a resnet18 has one of 3x3 or 7x7 here"), "{message}");
    let mut large = state("network_preact-resnet18_4_16");
    large.insert("conv1.weight".into(), Stored { dtype: Dtype::F32, shape: vec![4, 3, 7, 7], bytes: vec![0; 4 * 4 * 3 * 49] });
    let message = refusal(&large, "preact-resnet18", Some(64));
    assert!(message.contains("conv1.weight is a 7x7 stem; a preact-resnet18 has one of 3x3 here"), "{message}");
}

#[test]
fn counters_may_be_floats_or_vectors_of_one_or_missing() {
    let with = |counter: Option<Stored>| -> State {
        let other = |(name, tensor): (String, Stored)| match &counter {
            _ if !is_counter(&name) => Some((name, tensor)),
            counter => Some((name, counter.clone()?)),
        };
        resnet18().into_iter().filter_map(other).collect()
    };
    let stored = |dtype, shape: &[usize], bytes: &[u8]| Some(Stored { dtype, shape: shape.to_vec(), bytes: bytes.to_vec() });
    for counter in [
        stored(Dtype::F32, &[], &7f32.to_le_bytes()),
        stored(Dtype::F64, &[1], &7f64.to_le_bytes()),
        stored(Dtype::F16, &[], &f16::from_f32(7.0).to_le_bytes()),
        stored(Dtype::I64, &[1], &7i64.to_le_bytes()),
        stored(Dtype::I32, &[], &7i32.to_le_bytes()),
    ] {
        is_the_network(&with(counter), "resnet18", Some(16));
    }
    // A half is infinite from 65,520 on.
    for none in [None, stored(Dtype::F16, &[], &f16::INFINITY.to_le_bytes()), stored(Dtype::I64, &[], &(-1i64).to_le_bytes())] {
        let checkpoint = import(&with(none), "resnet18", Some(16)).unwrap();
        let plain = saved(&import(&resnet18(), "resnet18", Some(16)).unwrap());
        // The counters of 20 batch norms count nothing.
        assert_eq!(saved(&checkpoint).iter().zip(&plain).filter(|(a, b)| a != b).count(), 20);
    }
    let message = refusal(&with(stored(Dtype::I64, &[2], &[0; 16])), "resnet18", Some(16));
    assert!(message.contains("num_batches_tracked has shape [2], a resnet18 of width 8 with 10 classes needs []"), "{message}");
}

/// The network with each fraction as `written`, in `dtype`.
fn written_in(dtype: Dtype, written: fn(f32) -> Vec<u8>) -> State {
    let convert = |(name, tensor): (String, Stored)| match tensor.dtype {
        Dtype::F32 => {
            let values = tensor.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            (name, Stored { dtype, shape: tensor.shape, bytes: values.flat_map(written).collect() })
        }
        _ => (name, tensor),
    };
    resnet18().into_iter().map(convert).collect()
}

#[test]
fn weights_in_half_precision_are_read_exactly() {
    for (narrow, wide) in [
        (
            written_in(Dtype::F16, |v| f16::from_f32(v).to_le_bytes().into()),
            written_in(Dtype::F32, |v| f16::from_f32(v).to_f32().to_le_bytes().into()),
        ),
        (
            written_in(Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().into()),
            written_in(Dtype::F32, |v| bf16::from_f32(v).to_f32().to_le_bytes().into()),
        ),
    ] {
        assert!(narrow != wide && wide != resnet18());
        let [narrow, wide] = [narrow, wide].map(|state| saved(&import(&state, "resnet18", Some(16)).unwrap()));
        assert!(narrow == wide);
    }
}

#[test]
fn values_that_are_no_numbers_are_refused_with_the_tensor() {
    for (tensor, value, said) in [
        ("layer1.0.bn1.running_var", f32::NAN, "NaN"),
        ("conv1.weight", f32::INFINITY, "inf"),
        ("linear.bias", f32::NEG_INFINITY, "-inf"),
    ] {
        let mut state = resnet18();
        state.get_mut(tensor).unwrap().bytes[8..12].copy_from_slice(&value.to_le_bytes());
        let message = refusal(&state, "resnet18", Some(16));
        assert!(message.contains(&format!("{tensor} holds {said} at place 2 of its ")), "{message}");
    }
}

#[test]
fn a_normalisation_that_divides_by_zero_is_refused_where_it_is_given_and_where_a_checkpoint_has_it() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.safetensors");
    let mut checkpoint = import(&resnet18(), "resnet18", Some(16)).unwrap();
    for std in [[0.25, 0.0, 0.25], [0.25, 0.25, -1.0]] {
        checkpoint.norm.std = std;
        checkpoint.save(&path).unwrap();
        let norm = Normalisation { std, ..NORM };
        for refused in [Checkpoint::load(&path), Checkpoint::import(&path, "resnet18", Some(16), norm)] {
            let message = refused.err().expect("refused").to_string();
            assert!(message.contains(&format!("std {std:?} do not normalise: each std must be above 0")), "{message}");
        }
    }
}

#[test]
fn an_object_in_place_of_a_weight_is_told_by_its_key() {
    let path = Path::new("tests/golden/checkpoints/numpy_weight.pt");
    let message = Checkpoint::import(path, "resnet18", None, NORM).err().expect("refused").to_string();
    assert!(
        message.contains("conv1.weight is a `numpy") && message.contains("not a tensor, which a resnet18 needs there"),
        "{message}"
    );
}

#[test]
fn the_command_takes_a_large_stem_for_small_images_only_when_it_is_told_their_size() {
    let place = tempfile::tempdir().unwrap();
    write(&state("network_resnet18_4_64"), &place.path().join("large.safetensors"));
    let import = |rest: &[&'static str]| {
        [&["import", "large.safetensors", "--model", "ResNet18", "--out", "m.safetensors", "--adapter", "none"], rest].concat()
    };
    let stem =
        ["large.safetensors has a 7x7 stem", "64 pixels and more have; those of CIFAR-10 have 32", "--image-size 32 where"];
    refused(place.path(), &import(&[]), &stem);
    refused(place.path(), &import(&["--std", "0", "--mean", "0"]), &["--std [0.0, 0.0, 0.0] does not do"]);
    for told in [&["--image-size", "32"][..], &["--image-size", "96"], &["--mean", "0.5", "--std", "0.25"]] {
        assert!(succeed(place.path(), &import(told)).starts_with("m.safetensors: resnet18 of width 4, 10 classes, images of "));
    }
}

#[test]
fn the_command_says_on_stderr_what_it_left_alone_and_in_json_too() {
    let place = tempfile::tempdir().unwrap();
    let averaged = |name: &String| format!("module.{name}");
    let mut state: State = resnet18().iter().map(|(name, tensor)| (averaged(name), tensor.clone())).collect();
    state.insert("n_averaged".into(), Stored { dtype: Dtype::I64, shape: vec![], bytes: vec![0; 8] });
    write(&state, &place.path().join("f.safetensors"));
    let import = ["import", "f.safetensors", "--model", "resnet18", "--image-size", "16", "--out", "m.safetensors"];
    let output = dau(place.path(), &import);
    let note = "left alone, tensors that are not under module: n_averaged";
    assert!(output.status.success());
    assert_eq!(stderr(&output), format!("f.safetensors: {note}\n"));
    let json: serde_json::Value = serde_json::from_str(&succeed(place.path(), &[&import[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["notes"], serde_json::json!([note]));
}
