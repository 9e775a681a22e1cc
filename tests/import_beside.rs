//! Checkpoints as training scripts write them (`tests/golden/make_checkpoints.py`): the state dict is found, and what stands beside it is
//! left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use dau::torch::{StateDict, TorchError, Values};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/golden/checkpoints/{name}.pt")).expect("the file is part of the repository")
}

fn read(name: &str) -> StateDict {
    StateDict::read(file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn refusal(name: &str) -> String {
    StateDict::read(file(name)).expect_err(name).to_string()
}

/// The script's network: each value its place in its tensor, in eighths.
fn is_the_network(name: &str) -> StateDict {
    let state = read(name);
    let expected: [(&str, &[usize]); 8] = [
        ("bn1.bias", &[2]),
        ("bn1.num_batches_tracked", &[]),
        ("bn1.running_mean", &[2]),
        ("bn1.running_var", &[2]),
        ("bn1.weight", &[2]),
        ("conv1.weight", &[2, 3, 1, 1]),
        ("linear.bias", &[3]),
        ("linear.weight", &[3, 2]),
    ];
    assert_eq!(state.names().collect::<Vec<_>>(), expected.map(|(name, _)| name), "{name}");
    for (tensor, shape) in expected {
        assert_eq!(state.shape(tensor), Some(shape), "{name}: {tensor}");
        let count = shape.iter().product::<usize>();
        let values = match shape {
            [] => Values::Int(vec![7]),
            _ => Values::Float((0..count).map(|i| i as f32 / 8.0).collect()),
        };
        assert_eq!(state.values(tensor), Some(values), "{name}: {tensor}");
    }
    state
}

#[test]
fn whatever_a_script_keeps_beside_the_state_dict_is_left_alone_in_both_formats_and_four_protocols() {
    for format in ["zip", "older"] {
        for protocol in 2..=5 {
            let name = format!("beside_{format}_{protocol}");
            let state = is_the_network(&name);
            let [note] = state.notes() else { panic!("{name}: {:?}", state.notes()) };
            assert!(
                note.starts_with("left alone and not run, ") && note.contains(" kinds of objects beside the weights: "),
                "{note}"
            );
            assert!(note.contains("collections.Counter") && note.contains("argparse.Namespace"), "{name}: {note}");
        }
    }
}

#[test]
fn a_state_dict_is_found_under_any_key_beside_tensors_that_are_none_of_it() {
    let keys = ["state_dict", "model_state_dict", "model", "net", "netC", "network", "state_dict_ema", "my_own_key"];
    for key in keys {
        let state = is_the_network(&format!("key_{key}"));
        assert!(state.notes().is_empty(), "{key}: {:?}", state.notes());
    }
    is_the_network("default_dict");
    is_the_network("own_dicts");
    is_the_network("wanet");
    let state = is_the_network("attack_result");
    assert!(state.notes()[0].contains("multiarray"), "{:?}", state.notes());
}

#[test]
fn of_several_state_dicts_the_one_with_the_more_usual_key_is_taken_and_the_others_are_told() {
    assert_eq!(is_the_network("ema").notes(), ["took the state dict under state_dict; others are under state_dict_ema"]);
    let deep = ["took the state dict under checkpoint.netC.state_dict; others are under checkpoint.netG.state_dict"];
    assert_eq!(is_the_network("deep").notes(), deep);
    assert!(is_the_network("same_twice").notes().is_empty());
    assert_eq!(refusal("two_unknown"), "holds several state dicts, under first, second: save the network's alone");
}

#[test]
fn the_prefixes_of_wrappers_are_taken_off_and_what_is_not_wrapped_is_left_alone() {
    for name in ["parallel", "compiled", "compiled_parallel", "parallel_compiled"] {
        assert!(is_the_network(&format!("wrapped_{name}")).notes().is_empty(), "{name}");
    }
    for (name, beside) in [
        ("averaged", "module: n_averaged"),
        ("averaged_parallel", "module: n_averaged"),
        ("lightning", "model: confusion, criterion.weight"),
    ] {
        let state = is_the_network(&format!("wrapped_{name}"));
        assert_eq!(state.notes(), [format!("left alone, tensors that are not under {beside}")], "{name}");
    }
}

#[test]
fn an_object_that_would_run_something_is_left_alone_beside_the_weights_and_told() {
    assert_eq!(is_the_network("harm").notes(), ["left alone and not run, 1 kind of objects beside the weights: posix.system"]);
    assert!(!std::path::Path::new("tests/golden/checkpoints/ran").exists(), "it ran");
}

#[test]
fn an_object_in_place_of_a_weight_or_of_the_state_dict_is_told_by_its_name() {
    let state = read("numpy_weight");
    let others: Vec<_> = state.others().collect();
    assert!(matches!(others[..], [("conv1.weight", kind)] if kind.ends_with("multiarray._reconstruct")), "{others:?}");
    assert_eq!(state.shape("conv1.weight"), None);
    for (name, kind) in
        [("whole_model", "__main__.Tiny"), ("whole_model_older", "__main__.Bare"), ("under_model", "__main__.Tiny")]
    {
        let error = StateDict::read(file(name)).expect_err(name);
        assert_eq!(error, TorchError::Refused(kind.into()));
        let message = error.to_string();
        assert!(message.contains(kind) && message.contains("torch.save(model.state_dict(), FILE)"), "{message}");
    }
    let message = refusal("no_weights");
    assert!(message.contains("its keys are epoch, accuracy"), "{message}");
}

#[test]
fn cut_and_changed_files_give_errors_or_tensors_but_never_a_panic() {
    for name in ["beside_zip_2", "beside_older_2", "beside_zip_4", "beside_older_5"] {
        let whole = file(name);
        for length in 0..whole.len() {
            assert!(StateDict::read(whole[..length].to_vec()).is_err(), "{name} cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 1, 0x80, 0x2e][at % 4];
            if let Ok(state) = StateDict::read(bytes) {
                state.names().for_each(|tensor| assert!(state.values(tensor).is_some(), "{name}, byte {at}: {tensor}"));
            }
        }
    }
}
