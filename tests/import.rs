//! State dicts that `torch.save` wrote (`tests/golden/make_networks.py`), read without running anything; and files that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

mod common;

use std::io::Write;

use common::Golden;
use dau::data::Dataset;
use dau::graph::{Shape, Tensor};
use dau::torch::{StateDict, TorchError, Values};
use dau::train::{Checkpoint, Network, Normalisation, Silent, Wanted, predict};
use zip::write::SimpleFileOptions;

const NORM: Normalisation = Normalisation { mean: [0.5; 3], std: [0.25; 3] };

fn golden_file(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/golden/{name}")).expect("the golden file is part of the repository")
}

fn golden() -> Golden {
    Golden::open("network_preact-resnet18_4_16")
}

/// Every tensor of `file` is PyTorch's to within `allowed`, and there are no others.
fn holds_the_golden_tensors(file: &str, allowed: f64) -> StateDict {
    let (state, golden) = (StateDict::read(golden_file(file)).expect(file), golden());
    assert_eq!(state.names().map(String::from).collect::<std::collections::BTreeSet<_>>(), golden.names("init/"));
    for name in state.names() {
        let expected = golden.get(&format!("init/{name}"));
        assert_eq!(state.shape(name), Some(&expected.shape.dims[..]), "{name}");
        match state.values(name).expect("listed") {
            Values::Int(count) => assert_eq!((name.ends_with("num_batches_tracked"), &count[..]), (true, &[7][..]), "{name}"),
            Values::Float(v) => {
                let found = Tensor::new(expected.shape.clone(), v.into_iter().map(f64::from).collect());
                common::assert_near(name, &found, &expected, allowed);
            }
        }
    }
    state
}

#[test]
fn the_zip_format_with_strided_and_shared_storages_is_read_exactly() {
    holds_the_golden_tensors("preact_zip.pt", 0.0);
}

/// bf16 keeps 8 bits: a value changes by at most 2^-8 of itself.
#[test]
fn the_older_format_in_three_precisions_with_views_and_prefix_is_read() {
    holds_the_golden_tensors("preact_legacy.pt", 2f64.powi(-8));
}

#[test]
fn an_imported_network_gives_pytorchs_logits_and_comes_back_from_export_and_checkpoint() {
    let kernels = common::kernels();
    let place = tempfile::tempdir().unwrap();
    let load = |path: &std::path::Path| {
        let checkpoint = Checkpoint::import(path, "preact-resnet18", Some(16), NORM).unwrap();
        checkpoint.network(&kernels).unwrap()
    };
    let network = load("tests/golden/preact_zip.pt".as_ref());
    assert_eq!((network.spec.width, network.spec.classes, network.spec.image_size, network.steps()), (4, 10, 16, 7));

    let golden = golden();
    let labels = golden.labels("pixels_labels");
    let data = Dataset {
        name: "golden".into(),
        size: 16,
        classes: (0..10).map(|c| c.to_string()).collect(),
        pixels: golden.file().tensor("pixels").unwrap().data().to_vec(),
        paths: vec![String::new(); labels.len()],
        labels,
    };
    let logits = |network: &Network| predict(&kernels, network, &data, 4, &[Wanted::Logits], &Silent, "check").unwrap().logits;
    let found = Tensor::new(Shape::f32(&[4, 10]), logits(&network).into_iter().map(f64::from).collect());
    common::assert_near("logits", &found, &golden.get("pixels_logits"), 1e-4);

    let (exported, saved) = (place.path().join("e.safetensors"), place.path().join("s.safetensors"));
    network.export(&exported).unwrap();
    network.save(&saved).unwrap();
    let message = Network::load(&kernels, &exported).err().expect("no header").to_string();
    assert!(message.contains("not written by dau; try `dau import`"), "{message}");
    for again in [load(&exported), load(&saved), Network::load(&kernels, &saved).unwrap()] {
        assert_eq!((&again.spec, again.steps(), logits(&again)), (&network.spec, 7, logits(&network)));
    }
}

#[test]
fn a_network_that_is_not_finite_is_not_written() {
    let kernels = common::kernels();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.safetensors");
    let spec = dau::nn::ModelSpec::new("resnet18", 4, 3, 16);
    let network = Network::new(&kernels, &spec, &NORM, 7).unwrap();
    network.save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let (param, mut values) = network.params.read().unwrap().into_iter().find(|(p, _)| p.name == "linear.bias").unwrap();
    values[1] = f32::INFINITY;
    network.params.write(&param, &values);
    let message = network.save(&path).unwrap_err().to_string();
    assert!(message.contains("linear.bias holds inf: train with a smaller learning rate"), "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "the last good one stays");
}

#[test]
fn another_architecture_is_refused_with_the_tensor_and_both_shapes() {
    let kernels = common::kernels();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("resnet34.safetensors");
    let spec = dau::nn::ModelSpec::new("resnet34", 4, 3, 64);
    Network::new(&kernels, &spec, &NORM, 0).unwrap().export(&path).unwrap();
    let import = |path: &std::path::Path, model, size| match Checkpoint::import(path, model, size, NORM) {
        Ok(checkpoint) => Ok(checkpoint.spec),
        Err(e) => Err(e.to_string()),
    };
    assert_eq!(import(&path, "resnet34", None), Ok(spec));
    for (model, size, expected) in [
        ("resnet18", None, "has a tensor layer1.2.bn1.bias, which a resnet18 of width 4 does not have"),
        ("wrn-16", None, "has no tensor block1.layer.0.conv1.weight, which a wrn-16 needs"),
        ("vgg", None, "no model \"vgg\"; there are: resnet18, resnet34"),
    ] {
        let message = import(&path, model, size).expect_err(model);
        assert!(message.contains(expected), "{message}");
    }
    let tensors = [("conv1.weight", vec![4, 3, 3, 3]), ("linear.weight", vec![3, 99])];
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| vec![0; 4 * shape.iter().product::<usize>()]).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let message = import(&path, "preact-resnet18", None).expect_err("incomplete");
    assert!(message.contains("has no tensor layer1.0.bn1.weight"), "{message}");
}

/// A pickle that runs `touch WITNESS` where it is obeyed.
fn malicious(witness: &str) -> Vec<u8> {
    let mut pickle = b"\x80\x02cos\nsystem\nX".to_vec();
    let command = format!("touch {witness}");
    pickle.extend((command.len() as u32).to_le_bytes());
    pickle.extend(command.as_bytes());
    pickle.extend(b"\x85R.");
    pickle
}

fn zipped(pickle: &[u8]) -> Vec<u8> {
    archived("m/data.pkl", pickle)
}

#[test]
fn a_pickle_that_would_run_something_is_refused_by_its_name_and_nothing_runs() {
    let place = tempfile::tempdir().unwrap();
    let witness = place.path().join("ran");
    let pickle = malicious(&witness.display().to_string());
    let mut older = golden_file("preact_legacy.pt");
    // In place of the object, after the magic number, the version and the writer's machine.
    let stop = older.windows(2).enumerate().filter(|(_, w)| *w == b".\x80").nth(2).expect("four pickles").0;
    older.truncate(stop + 1);
    older.extend(&pickle);
    // No storages.
    older.extend(b"\x80\x02].");
    // By the names' place on the stack, as newer protocols say it.
    let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.";
    for (file, name) in [(zipped(&pickle), "os.system"), (older, "os.system"), (zipped(stacked), "builtins.eval")] {
        let error = StateDict::read(file).expect_err("refused");
        assert_eq!(error, TorchError::Refused(name.into()));
        assert!(error.to_string().contains(&format!("holds `{name}`")) && error.to_string().contains("nothing was run"));
    }
    assert!(!witness.exists(), "it ran");
}

#[test]
fn a_tensor_that_reaches_out_of_its_storage_is_refused() {
    let persistent = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpuK\x04tQ";
    let rebuilt = |offset: u8, extent: u8, stride: u8| {
        let mut pickle = b"\x80\x02}X\x06\0\0\0weightctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        pickle.extend(persistent);
        pickle.extend([b'K', offset, b'K', extent, 0x85, b'K', stride, 0x85, 0x89, b'}', b't', b'R', b's', b'.']);
        StateDict::read(archive(&[("m/data.pkl", &pickle), ("m/data/0", &[0; 16])]))
    };
    assert_eq!(rebuilt(0, 4, 1).unwrap().values("weight"), Some(Values::Float(vec![0.0; 4])));
    assert!(rebuilt(1, 2, 2).is_ok());
    for (offset, extent, stride) in [(1, 4, 1), (0, 3, 2), (0, 5, 0), (4, 1, 1), (0, 255, 255)] {
        let message = rebuilt(offset, extent, stride).expect_err("out of it").to_string();
        assert!(message.contains("does not fit its storage of 4 elements"), "{message}");
    }
}

#[test]
fn a_small_file_that_names_one_tensor_for_ever_is_refused() {
    let persistent = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpuK\x04tQ";
    let mut pickle = b"\x80\x02}(X\x06\0\0\0weightq\x01ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    pickle.extend(persistent);
    pickle.extend(b"K\0K\x04\x85K\x01\x85\x89}tRq\x02");
    let named = |times: usize| [&pickle[..], &b"h\x01h\x02".repeat(times), b"u."].concat();
    let read = |times: usize| StateDict::read(archive(&[("m/data.pkl", &named(times)), ("m/data/0", &[0; 16])]));
    assert_eq!(read(99_999).unwrap().names().collect::<Vec<_>>(), ["weight"]);
    let message = read(100_000).expect_err("too many").to_string();
    assert!(message.contains("holds a state dict of 100001 entries, and no network has more than 100000"), "{message}");
}

#[test]
fn truncated_files_and_files_with_flipped_bytes_give_errors_or_tensors_but_never_a_panic() {
    for file in ["preact_zip.pt", "preact_legacy.pt"] {
        let whole = golden_file(file);
        for length in (0..whole.len()).step_by(whole.len() / 60).chain(0..300) {
            assert!(StateDict::read(whole[..length].to_vec()).is_err(), "{file} cut to {length} bytes");
        }
        // The pickles are at the beginning; a zip's directory is at the end.
        let places = (0..12_000).step_by(7).chain(whole.len() - 2_000..whole.len());
        for (i, at) in places.enumerate() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 1, 0x80, 0x2e][i % 4];
            if let Ok(state) = StateDict::read(bytes) {
                state.names().for_each(|name| assert!(state.values(name).is_some(), "{file}, byte {at}: {name}"));
            }
        }
    }
}

/// A zip archive of one member.
fn archived(name: &str, content: &[u8]) -> Vec<u8> {
    archive(&[(name, content)])
}

/// A zip archive of these members, uncompressed.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in members {
        archive.start_file(*name, stored).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn a_file_that_is_something_else_is_called_what_it_is_with_the_next_step() {
    let tar = [&[b'a'; 257][..], b"ustar\0", &[0; 249]].concat();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44\n";
    let cases: [(Vec<u8>, &str); 12] = [
        (vec![], "is empty: fetch it again"),
        (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], "is compressed by gzip: unpack it first, with gunzip"),
        (tar, "is a tar archive: unpack it first, with tar xf"),
        (pointer.to_vec(), "is a pointer of Git LFS, not the file that it stands for: in its repository, git lfs pull"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>".to_vec(), "is a web page"),
        (b"<HTML lang=en>".to_vec(), "is a web page"),
        (archived("run/Model.PTH", b""), "is a zip archive around \"run/Model.PTH\": unpack it first and give that file"),
        (archived("a.npy", b""), "is a zip archive, but not torch.save's, which has a data.pkl: it holds [\"a.npy\"]"),
        (zipped(b"\x80\x02ccollections\nOrderedDict\n]\x85R."), "was written by Python 2"),
        (zipped(b"\x80\x04\x8c\x01a\x8c\x03\nb\x1b\x93)R."), "holds `a.\\nb\\u{1b}` in place of a state dict"),
        (b"\x80\x04}.".to_vec(), "a pickle, but not torch.save's"),
        (b"epoch,loss\n".to_vec(), "neither a PyTorch file nor a safetensors file"),
    ];
    for (file, expected) in &cases {
        let message = StateDict::read(file.clone()).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}");
    }
    // Where a checkpoint is asked for.
    for (file, expected) in &cases[..6] {
        assert!(StateDict::safetensors(file.clone()).expect_err(expected).to_string().contains(expected));
    }
    for file in ["preact_zip.pt", "preact_legacy.pt"] {
        let message = StateDict::safetensors(golden_file(file)).expect_err(file).to_string();
        assert_eq!(message, "is a PyTorch file, not a safetensors file: `dau import` makes a checkpoint of it");
    }
    // By its content, whatever its name is.
    assert!(StateDict::read(golden_file("network_preact-resnet18_4_16.safetensors")).is_ok());
    let cut = golden_file("network_preact-resnet18_4_16.safetensors")[..5000].to_vec();
    assert!(StateDict::read(cut).expect_err("cut").to_string().contains("not a whole safetensors file"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_give_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        proptest::prop_assert!(StateDict::read(bytes.clone()).is_err());
        proptest::prop_assert!(StateDict::read(zipped(&[b"\x80\x02", &bytes[..]].concat())).is_err());
    }
}
