//! Every shader, without a GPU: each kernel that an op can ask for validates, translates to every back end's language, stays
//! within WebGPU's default limits, and has the interface that its op believes it has.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dau::gpu::{Caps, MATRIX_TILES, Matrix, Staging, TILES};
use dau::graph::{Graph, Half, Launch, Left, Lowered, Lowering, Op, Param, Shape, Slot, into_half};
use dau::kernel::{KernelError, KernelId, Reflected, SHADERS, expand, reflect};
use dau::nn::ModelSpec;
use dau::ops::{Adam, Augment, Loss, LossKind, OPS, Sgd};
use naga::ShaderStage::Compute;
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};

/// WebGPU's default limits.
const STORAGE_BUFFERS: usize = 8;
const INVOCATIONS: u32 = 256;
const WORKGROUP_SIZE: [u32; 3] = [256, 256, 64];
const WORKGROUP_MEMORY: u32 = 16 * 1024;
const GROUPS: u32 = 65_535;
const UNIFORM_STEP: u32 = 256;

/// The adapters that kernels are chosen for: each staging with each subgroup size and matrix that `Gpu` accepts, GPU and CPU; and
/// each choice that can be made within a staging.
fn all_caps() -> Vec<Caps> {
    let mut all = Vec::new();
    for cpu in [false, true] {
        for subgroup in [4, 8, 16, 32] {
            for staging in [Staging::WorkgroupTile, Staging::WinogradTile, Staging::SubgroupShuffle, Staging::RegisterBlock] {
                let caps = Caps { subgroup: Some(subgroup), wide: cpu, gathers: false, cpu, matrix: None, staging, own: None };
                all.extend([caps, Caps { gathers: cpu, ..caps }]);
            }
        }
        for own in TILES.map(Some).into_iter().chain([None]) {
            for staging in [Staging::WorkgroupTile, Staging::WinogradTile] {
                all.push(Caps { subgroup: None, wide: false, gathers: false, cpu, matrix: None, staging, own });
            }
        }
        for staging in [Staging::WinogradTile, Staging::RegisterBlock] {
            all.push(Caps { subgroup: None, wide: false, gathers: false, cpu, matrix: None, staging, own: None });
        }
        for side in [8, 16] {
            for lanes in [8, 16, 32, 64] {
                for (planes, vectors) in [(1, true), (2, true), (1, false)] {
                    let matrix = Some(Matrix { side, lanes, planes, vectors, ..Matrix::default() });
                    all.push(Caps {
                        subgroup: None,
                        wide: false,
                        gathers: false,
                        cpu,
                        matrix,
                        staging: Staging::CooperativeMatrix,
                        own: None,
                    });
                }
            }
        }
    }
    for own in MATRIX_TILES.map(Some) {
        for memory in [32, 48].map(|kib| kib << 10) {
            let matrix = Some(Matrix { memory, ..Matrix::default() });
            all.push(Caps {
                subgroup: None,
                wide: false,
                gathers: false,
                cpu: false,
                matrix,
                staging: Staging::CooperativeMatrix,
                own,
            });
        }
    }
    all
}

/// A launch, the op that wants it, and which inputs that op changes in place.
struct Wanted {
    op: String,
    in_place: &'static [usize],
    launch: Launch,
}

fn lowered(out: &mut Vec<Wanted>, what: &str, op: &dyn Op, inputs: &[Shape], caps: Caps) {
    let outputs = op.outputs(inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
    let l = Lowering { inputs, outputs: &outputs, caps, left: Left::F32 };
    let Lowered { launches, .. } = op.lower(&l);
    assert!(!launches.is_empty(), "{what} lowers to nothing");
    let fused = [op.lower_measuring(&l), op.lower_measured(&l)].into_iter().flatten();
    let halves = caps.matrix.and_then(|_| op.leaves(caps)).map_or([].as_slice(), |_| &[Left::Both, Left::Half]);
    let halves = halves.iter().map(|left| op.lower(&Lowering { left: *left, ..l }));
    let launches = launches.into_iter().chain(fused.chain(halves).flat_map(|lowered| lowered.launches));
    let wanted = |launch| Wanted { op: what.to_string(), in_place: op.in_place(), launch };
    out.extend(launches.map(wanted));
}

/// A training step or an evaluation of a network, as `train` builds them: constants that no case may have.
fn network(name: &str, width: usize, size: usize, train: bool) -> Graph {
    let batch = 64;
    let mut g = Graph::new();
    let pixels = g.input("pixels", Shape::u32(&[batch, size, size]));
    let augment = Augment { mean: [0.5; 3], std: [0.25; 3], pad: 4, flip: true };
    let images = g.apply(augment, &[pixels]).unwrap()[0];
    let spec = ModelSpec::new(name, width, 10, size);
    let (out, params) = spec.build(&mut g, images, train).unwrap();
    if train {
        let labels = g.input("labels", Shape::u32(&[batch]));
        let weight = g.input("weight", Shape::f32(&[batch]));
        let loss = g.apply(Loss { kind: LossKind::Complementary }, &[out.logits, labels, weight]).unwrap();
        let values: Vec<_> = params.iter().filter(|p| p.kind.trainable()).filter_map(|p| g.find_variable(&p.name)).collect();
        let grads = g.backward(&[(out.logits, loss[1])], &values).unwrap();
        for value in values {
            let state: Vec<_> = ["m", "v"].map(|s| g.variable(&format!("{s}/{}", g.name(value)), g.shape(value).clone())).into();
            let sgd = Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 };
            g.apply(sgd, &[value, grads[&value], state[0]]).unwrap();
            let adam = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
            g.apply(adam, &[value, grads[&value], state[0], state[1]]).unwrap();
        }
    }
    g
}

/// Every launch of every op's cases and of the networks, on every kind of adapter.
fn all_wanted() -> Vec<Wanted> {
    let sizes = [("resnet18", 8, 32), ("resnet18", 16, 32), ("resnet18", 64, 32), ("resnet18", 64, 64), ("wrn-16", 10, 32)];
    let networks: Vec<(String, Graph)> = sizes
        .into_iter()
        .flat_map(|(name, width, size)| {
            [true, false].map(|train| (format!("{name}, width {width}, {size}x{size}"), network(name, width, size, train)))
        })
        .collect();
    let mut out = Vec::new();
    for caps in all_caps() {
        for entry in OPS {
            for case in (entry.cases)() {
                let inputs: Vec<Shape> = case.inputs.iter().map(|(shape, _)| shape.clone()).collect();
                lowered(&mut out, &format!("{} {}", entry.name, case.name), case.op.as_ref(), &inputs, caps);
            }
        }
        if let Some(Matrix { planes, .. }) = caps.matrix {
            for half in [Half::Plain, Half::Scaled] {
                let launches = into_half(0, &Shape::f32(&[4, 8, 8, 16]), half, planes).launches;
                out.extend(launches.into_iter().map(|launch| Wanted { op: "into_half".into(), in_place: &[], launch }));
            }
        }
        for (name, graph) in &networks {
            for node in graph.nodes() {
                let inputs: Vec<Shape> = node.inputs.iter().map(|v| graph.shape(*v).clone()).collect();
                lowered(&mut out, &format!("{} in {name}", node.op.name()), node.op.as_ref(), &inputs, caps);
            }
        }
    }
    out
}

/// The distinct kernels among them.
fn all_kernels() -> BTreeMap<String, KernelId> {
    all_wanted().into_iter().map(|w| (w.launch.kernel.to_string(), w.launch.kernel)).collect()
}

fn uses_subgroups(id: &KernelId) -> bool {
    ["conv2d_shuffle", "conv2d_strip"].contains(&id.file)
}

fn uses_matrices(id: &KernelId) -> bool {
    id.file == "conv2d_matrix"
}

fn uses_f16(id: &KernelId) -> bool {
    uses_matrices(id) || id.file == "half" || id.consts.contains(&("HALF", 1))
}

fn uses_wide_loads(id: &KernelId) -> bool {
    uses_subgroups(id) || id.consts.contains(&("QUADS", 2))
}

/// What a kernel may need beyond what a WebGPU adapter must have.
fn capabilities(id: &KernelId) -> Capabilities {
    let mut needed = Capabilities::empty();
    needed.set(Capabilities::COOPERATIVE_MATRIX, uses_matrices(id));
    needed.set(Capabilities::SHADER_FLOAT16, uses_f16(id));
    needed.set(Capabilities::SUBGROUP, uses_subgroups(id) || uses_matrices(id));
    needed.set(Capabilities::SHADER_INT64, uses_wide_loads(id));
    needed
}

/// Parses and validates with no more capabilities than that.
fn validated(id: &KernelId) -> (Module, ModuleInfo) {
    let text = expand(id).unwrap_or_else(|e| panic!("{id}: {e}"));
    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{id}: {}", e.emit_to_string(&text)));
    let info = Validator::new(ValidationFlags::all(), capabilities(id))
        .validate(&module)
        .unwrap_or_else(|e| panic!("{id}: {}", e.emit_to_string(&text)));
    (module, info)
}

fn reflected(id: &KernelId) -> Reflected {
    let text = expand(id).unwrap_or_else(|e| panic!("{id}: {e}"));
    reflect(id, &text, capabilities(id)).unwrap_or_else(|e| panic!("{e}")).1
}

const GLSL: &str = "GLSL ES 3.10";

/// The text of each language that the kernel is for, or what its writer says.
fn translate(id: &KernelId, module: &Module, info: &ModuleInfo) -> Vec<(&'static str, Result<usize, String>)> {
    let entry = || id.entry.to_string();

    // Subgroup operations came with SPIR-V 1.3, which is Vulkan 1.1's.
    let recent = uses_subgroups(id) || uses_matrices(id);
    let options = spv::Options { lang_version: if recent { (1, 3) } else { (1, 0) }, ..Default::default() };
    let pipeline = spv::PipelineOptions { shader_stage: Compute, entry_point: entry() };
    let spirv = spv::write_vec(module, info, &options, Some(&pipeline)).map(|words| words.len()).map_err(|e| e.to_string());

    // SIMD shuffles came with Metal 2.1, matrices with 2.3, wave operations with shader model 6.0.
    let version = if uses_matrices(id) { (2, 3) } else { (2, 1) };
    let options = msl::Options { lang_version: version, ..Default::default() };
    let pipeline = msl::PipelineOptions { entry_point: Some((Compute, entry())), ..Default::default() };
    let metal = msl::write_string(module, info, &options, &pipeline).map_err(|e| e.to_string()).and_then(|(text, found)| {
        match found.entry_point_names.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(names) if names.len() == 1 => Ok(text.len()),
            other => Err(format!("{other:?}")),
        }
    });

    if uses_f16(id) {
        // Metal's are 8x8, of single values. HLSL and GLSL have none that naga could write, and it panics when asked to: neither back end
        // offers them.
        let metals = !uses_matrices(id) || [("S", 8), ("VEC", 1)].iter().all(|c| id.consts.contains(c));
        return [("SPIR-V", spirv), ("MSL", metal)].into_iter().filter(|(language, _)| metals || *language != "MSL").collect();
    }

    let model = if uses_subgroups(id) { hlsl::ShaderModel::V6_0 } else { hlsl::ShaderModel::V5_1 };
    let options = hlsl::Options { shader_model: model, ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((Compute, entry())) };
    let mut text = String::new();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| e.to_string());
    let direct = written.and_then(|found| match found.entry_point_names.into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(names) if names.len() == 1 => Ok(text.len()),
        other => Err(format!("{other:?}")),
    });

    let version = glsl::Version::Embedded { version: 310, is_webgl: false };
    let options = glsl::Options { version, ..Default::default() };
    let pipeline = glsl::PipelineOptions { shader_stage: Compute, entry_point: entry(), multiview: None };
    let mut text = String::new();
    let open = glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
        .and_then(|mut writer| writer.write())
        .map(|_| ())
        .map_err(|e| e.to_string())
        .map(|()| text.len());

    vec![("SPIR-V", spirv), ("MSL", metal), ("HLSL", direct), (GLSL, open)]
}

#[test]
fn every_kernel_validates_and_translates_to_every_language() {
    let kernels = all_kernels();
    let mut failed = Vec::new();
    for (name, id) in &kernels {
        let (module, info) = validated(id);
        for (language, result) in translate(id, &module, &info) {
            match result {
                // GLSL ES has no 64-bit integers, and no OpenGL adapter says that it has.
                Err(_) if language == GLSL && uses_wide_loads(id) => {}
                Ok(length) if length > 100 => {}
                Ok(length) => failed.push(format!("{name}: {language} of length {length}")),
                Err(e) => failed.push(format!("{name}: {language}: {e}")),
            }
        }
    }
    println!("{} kernels", kernels.len());
    assert!(kernels.len() > 60, "only {} kernels were found", kernels.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn only_matrices_f16_shuffles_and_wide_loads_need_more_than_every_adapter_has() {
    for id in all_kernels().into_values() {
        let text = expand(&id).expect("checked elsewhere");
        let module = naga::front::wgsl::parse_str(&text).expect("checked elsewhere");
        let plain = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).is_ok();
        assert_eq!(plain, capabilities(&id).is_empty(), "{id}");
    }
}

#[test]
fn every_kernel_stays_within_webgpus_default_limits() {
    for (name, id) in all_kernels() {
        let (module, info) = validated(&id);
        let interface = reflected(&id);
        assert!(interface.bindings.len() <= STORAGE_BUFFERS, "{name} binds {} storage buffers", interface.bindings.len());
        let size = interface.workgroup_size;
        assert!(size.iter().product::<u32>() <= INVOCATIONS, "{name} has workgroups of {size:?}");
        assert!(size.iter().zip(WORKGROUP_SIZE).all(|(s, most)| (1..=most).contains(s)), "{name} has workgroups of {size:?}");
        assert!(interface.params_size <= UNIFORM_STEP, "{name}: Params take {} bytes", interface.params_size);
        let entry = module.entry_points.iter().position(|e| e.name == id.entry).expect("validated");
        let used = info.get_entry_point(entry);
        let memory: u32 = module
            .global_variables
            .iter()
            .filter(|(handle, global)| global.space == AddressSpace::WorkGroup && !used[*handle].is_empty())
            .map(|(_, global)| module.types[global.ty].inner.size(module.to_ctx()))
            .sum();
        // Adapters with matrices have more than the defaults, and `Matrix::memory` says how much.
        let allowed = if uses_matrices(&id) { Matrix::default().memory } else { WORKGROUP_MEMORY };
        assert!(memory <= allowed, "{name} takes {memory} bytes of workgroup memory");
    }
}

#[test]
fn every_grid_stays_within_webgpus_default_limits() {
    for Wanted { op, launch, .. } in all_wanted() {
        assert!(
            launch.groups.iter().all(|g| (1..=GROUPS).contains(g)),
            "{op}: {} has a grid of {:?}",
            launch.kernel,
            launch.groups
        );
    }
}

#[test]
fn every_op_binds_exactly_what_its_shader_uses() {
    let mut interfaces: BTreeMap<String, Reflected> = BTreeMap::new();
    for Wanted { op, in_place, launch } in all_wanted() {
        let name = launch.kernel.to_string();
        let interface = interfaces.entry(name.clone()).or_insert_with(|| reflected(&launch.kernel));
        let what = format!("{op}: {name}");
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };

        let ours = sorted(launch.bind.iter().map(|(name, _)| name.to_string()).collect());
        let theirs = sorted(interface.bindings.iter().map(|b| b.name.clone()).collect());
        assert_eq!(ours, theirs, "{what}: bindings");
        let ours = sorted(launch.params.iter().map(|(name, _)| name.to_string()).collect());
        let fields = interface.params.as_ref().map_or(&[][..], |(_, fields)| fields);
        assert_eq!(ours, sorted(fields.iter().map(|f| f.name.clone()).collect()), "{what}: params");
        for (name, param) in &launch.params {
            let float = fields.iter().find(|f| f.name == *name).expect("compared above").float;
            let fits = match param {
                Param::U32(_) => !float,
                Param::F32(_) => float,
                Param::Scalar(_) => true,
            };
            assert!(fits, "{what}: Params.{name} is of the other type");
        }

        let writable = |name: &str| interface.bindings.iter().any(|b| b.name == name && b.writable);
        for (i, (name, slot)) in launch.bind.iter().enumerate() {
            if let (true, Slot::In(input)) = (writable(name), slot) {
                assert!(in_place.contains(input), "{what}: writes input {input} through `{name}`, which is not in place");
            }
            for (other, same) in &launch.bind[i + 1..] {
                let shared = slot == same && (writable(name) || writable(other));
                assert!(!shared, "{what}: `{name}` and `{other}` are one buffer, and one of them is written");
            }
        }
    }
}

/// The entry points of a file, with its default constants.
fn entry_points(name: &'static str) -> (Module, Vec<String>) {
    let text = expand(&KernelId::new(name, "any")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
    let entries = module.entry_points.iter().map(|e| e.name.clone()).collect();
    (module, entries)
}

/// The files with entry points.
fn files() -> impl Iterator<Item = &'static str> {
    SHADERS.iter().map(|(name, _)| *name).filter(|name| !name.starts_with("common/"))
}

#[test]
fn every_entry_point_of_every_file_is_used_by_some_op() {
    let kernels = all_kernels();
    let used: BTreeSet<(String, String)> = kernels.values().map(|id| (id.file.to_string(), id.entry.to_string())).collect();
    let written: BTreeSet<(String, String)> =
        files().flat_map(|file| entry_points(file).1.into_iter().map(move |entry| (file.to_string(), entry))).collect();
    assert_eq!(used, written);
    for file in files() {
        assert!(!entry_points(file).1.is_empty(), "{file} has no entry point");
    }
}

#[test]
fn bindings_have_numbers_of_their_own_and_params_come_first() {
    for file in files() {
        let (module, _) = entry_points(file);
        let mut slots = BTreeMap::new();
        for (_, global) in module.global_variables.iter() {
            let Some(binding) = &global.binding else { continue };
            let name = global.name.clone().unwrap_or_default();
            assert_eq!(binding.group, 0, "{file}: `{name}` is in another group");
            if let Some(other) = slots.insert(binding.binding, name.clone()) {
                panic!("{file}: `{name}` and `{other}` have the number {}", binding.binding);
            }
            let params = name == "p" && module.types[global.ty].name.as_deref() == Some("Params");
            let uniform = global.space == AddressSpace::Uniform;
            assert_eq!(
                (params, uniform),
                (binding.binding == 0, binding.binding == 0),
                "{file}: `{name}` at {}",
                binding.binding
            );
        }
        assert_eq!(slots.get(&0).map(String::as_str), Some("p"), "{file}");
        assert!(slots.keys().copied().eq(0..slots.len() as u32), "{file}: numbers are left out");
    }
}

#[test]
fn every_file_under_shaders_is_listed_and_says_what_it_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut found = BTreeSet::new();
    for (folder, prefix) in [(root.clone(), ""), (root.join("common"), "common/")] {
        for file in std::fs::read_dir(folder).expect("shaders/").flatten() {
            if let Some(name) = file.file_name().to_string_lossy().strip_suffix(".wgsl") {
                found.insert(format!("{prefix}{name}"));
            }
        }
    }
    assert_eq!(found, SHADERS.iter().map(|(name, _)| name.to_string()).collect());
    for (name, text) in SHADERS {
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("// ")).collect();
        assert!(!head.is_empty(), "{name} has no head comment");
        assert!(head.concat().len() > 60, "{name}: the head comment says little");
        assert!(!text.contains('\t') && !text.contains('\r') && text.ends_with('\n'), "{name}: tabs, CRs or no last newline");
    }
}

#[test]
fn refuses_a_file_a_constant_or_an_entry_point_that_is_not_there() {
    let message = |result: Result<String, KernelError>| result.expect_err("refused").to_string();
    assert_eq!(message(expand(&KernelId::new("conv3d", "gather"))), "no shader file \"conv3d\" under shaders/");
    let id = KernelId::new("conv2d_register", "gather").with(&[("MT", 4), ("NT", 4)]);
    assert_eq!(message(expand(&id)), "shaders/conv2d_register.wgsl has no `const NT = ...u;`");
    let id = KernelId::new("add", "subtract");
    let refused = reflect(&id, &expand(&id).unwrap(), Capabilities::empty()).expect_err("refused");
    assert_eq!(refused.to_string(), "add.subtract: no entry point `subtract`");
    // What the device does not take is refused here and named: wgpu gets no text to show.
    let id = KernelId::new("conv2d_shuffle", "gather").with(&[("SG", 8), ("CL", 4), ("MT", 32)]);
    let refused = reflect(&id, &expand(&id).unwrap(), Capabilities::empty()).expect_err("refused").to_string();
    assert!(refused.starts_with("conv2d_shuffle.gather<") && refused.contains("SHADER_INT64"), "{refused}");
}

#[test]
fn a_constant_reaches_the_text_and_its_repetitions() {
    let text = |lanes| expand(&KernelId::new("conv2d_shuffle", "gather").with(&[("SG", 8), ("CL", lanes), ("MT", 32)])).unwrap();
    for lanes in [2, 4, 8] {
        let text = text(lanes);
        assert!(text.contains(&format!("const CL = {lanes}u;")));
        // Pixel 29 is the one numbered 29 / CL of lane 29 % CL.
        assert!(text.contains(&format!("subgroupShuffle(x{}_0[3], first + {}u)", 29 / lanes, 29 % lanes)), "CL = {lanes}");
        assert_eq!(text.matches("var a").count(), 32, "accumulators of this entry point and of no other");
        assert!(text.contains("read_write> y: array<vec2<u64>>"), "a constant within a type");
        assert!(!text.contains("//:"), "a directive is left");
    }
}
