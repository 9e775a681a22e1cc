//! Finding an adapter, opening its device, and what the rest may know about it.

use super::fault::Fault;
use super::{Candidate, Caps, GpuError, Matrix, Precision, Staging};

/// Which limits to ask the adapter for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitChoice {
    /// Everything the adapter has.
    #[default]
    Adapter,
    /// WebGPU's default limits and no optional feature: what every WebGPU adapter must offer.
    Default,
}

/// Which adapter to open; the default takes the fastest-looking one.
#[derive(Clone, Debug, Default)]
pub struct AdapterChoice {
    /// The interface to open it through; `None`: any, OpenGL last.
    pub backend: Option<wgpu::Backend>,
    /// A part of the name, ignoring case, or an index as `dau devices` prints it.
    pub adapter: Option<String>,
    /// What to ask of the adapter; a precision other than f32 needs [`LimitChoice::Adapter`].
    pub limits: LimitChoice,
    /// Overrides the staging that the adapter's features suggest.
    pub staging: Option<Staging>,
    /// What convolutions multiply in; mixed is refused where the adapter lacks the matrices.
    pub precision: Precision,
}

/// One line of `dau devices`.
#[derive(Clone, Debug)]
pub struct AdapterRow {
    /// Name, type, back end and driver, as wgpu has them.
    pub info: wgpu::AdapterInfo,
    /// The most that it allows, not what a device is opened with.
    pub limits: wgpu::Limits,
    /// All that it offers, not what a device is opened with.
    pub features: wgpu::Features,
    matrices: Vec<wgpu::CooperativeMatrixProperties>,
}

/// What a device needs for [`Staging::CooperativeMatrix`].
const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// The largest matrices of f16 with f32 sums that our kernels are written for.
fn matrix(adapter: &wgpu::Adapter, planes: u32) -> Option<Matrix> {
    let lanes = adapter.get_info().subgroup_max_size;
    if !adapter.features().contains(MATRIX_FEATURES) || !(8..=64).contains(&lanes) {
        return None;
    }
    let offered = adapter.cooperative_matrix_properties();
    let has = |side: &u32| {
        offered.iter().any(|m| {
            [m.m_size, m.n_size, m.k_size] == [*side; 3]
                && (m.ab_type, m.cr_type) == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
        })
    };
    let memory = adapter.limits().max_compute_workgroup_storage_size;
    let vectors = adapter.get_info().backend == wgpu::Backend::Vulkan;
    [16, 8].into_iter().find(has).map(|side| Matrix { side, lanes, memory, vectors, planes })
}

/// The Mesa from which on lavapipe gathers: 26.2.6 does, 25.0.7 and 22.3.6 do not.
const GATHERS: u32 = 26;

/// Mesa's major version in what a driver says of itself, `Mesa 26.2.6-1 (LLVM 22.1.8)`.
fn mesa(driver_info: &str) -> Option<u32> {
    let version = driver_info.split_once("Mesa ")?.1;
    version.split('.').next()?.parse().ok()
}

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    features: wgpu::Features,
    capabilities: naga::valid::Capabilities,
    caps: Caps,
    pub(super) fault: Fault,
}

#[cfg(target_os = "linux")]
const ADVICE: &str = "Install your GPU's Vulkan driver, or Mesa's software Vulkan: on Debian and Ubuntu \
    `apt-get install mesa-vulkan-drivers libvulkan1`, on Fedora `dnf install mesa-vulkan-drivers`";
#[cfg(target_os = "macos")]
const ADVICE: &str = "dau needs Metal, which every Mac since 2012 has: update macOS, or run outside the virtual machine";
#[cfg(target_os = "windows")]
const ADVICE: &str = "Install your GPU vendor's current driver (Direct3D 12 or Vulkan)";
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "windows")))]
const ADVICE: &str = "Install a Vulkan driver for your GPU";

const EVERY_BACKEND: wgpu::Backends = wgpu::Backends::PRIMARY.union(wgpu::Backends::GL);

/// The adapters of some back ends, best first.
fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = backends;
    let instance = wgpu::Instance::new(desc);
    let mut found = pollster::block_on(instance.enumerate_adapters(backends));
    // Best first: real GPUs before software, native interfaces before OpenGL. The sort is stable.
    found.sort_by_key(|a| {
        let info = a.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        (kind, info.backend == wgpu::Backend::Gl)
    });
    found
}

/// All adapters, best first.
pub fn list(backend: Option<wgpu::Backend>) -> Vec<AdapterRow> {
    adapters(backend.map_or(EVERY_BACKEND, wgpu::Backends::from))
        .iter()
        .map(|a| AdapterRow {
            info: a.get_info(),
            limits: a.limits(),
            features: a.features(),
            matrices: a.cooperative_matrix_properties(),
        })
        .collect()
}

/// The adapters, by index, that work can be shared out over: all of the best one's type and back end, each device once however many
/// drivers it has, in the order of the bus, which is that of other tools.
pub fn alike(adapters: &[wgpu::AdapterInfo]) -> Vec<usize> {
    let Some(best) = adapters.first() else { return Vec::new() };
    let same = |info: &wgpu::AdapterInfo| (info.device_type, info.backend) == (best.device_type, best.backend);
    let place = |index: usize| adapters[index].device_pci_bus_id.as_str();
    let mut found: Vec<usize> = Vec::new();
    for index in (0..adapters.len()).filter(|index| same(&adapters[*index])) {
        if place(index).is_empty() || !found.iter().any(|known| place(*known) == place(index)) {
            found.push(index);
        }
    }
    found.sort_by_key(|index| place(*index));
    found
}

impl Gpu {
    /// Opens the chosen adapter.
    ///
    /// # Errors
    /// No adapter (with what to install on this system), none of that name, or a driver that refuses.
    pub fn open(choice: &AdapterChoice) -> Result<Gpu, GpuError> {
        let found = match (choice.backend, &choice.adapter) {
            (Some(backend), _) => adapters(backend.into()),
            // An index counts as in `list`.
            (None, Some(_)) => adapters(EVERY_BACKEND),
            // OpenGL is the last resort, and asking it makes some drivers print.
            (None, None) => {
                Some(adapters(wgpu::Backends::PRIMARY)).filter(|a| !a.is_empty()).unwrap_or_else(|| adapters(EVERY_BACKEND))
            }
        };
        if found.is_empty() {
            let asked = choice.backend.map_or(String::new(), |b| format!(" for back end {b}"));
            return Err(GpuError::NoAdapter { asked, advice: ADVICE });
        }
        let index = match &choice.adapter {
            None => 0,
            Some(asked) => {
                let names: Vec<String> = found.iter().map(|a| a.get_info().name).collect();
                let by_name = || names.iter().position(|n| n.to_lowercase().contains(&asked.to_lowercase()));
                let by_index = asked.parse::<usize>().ok().filter(|&i| i < found.len());
                by_index.or_else(by_name).ok_or_else(|| GpuError::UnknownAdapter {
                    asked: asked.clone(),
                    found: names.iter().enumerate().map(|(i, n)| format!("{i}: {n}")).collect::<Vec<_>>().join(", "),
                })?
            }
        };
        Self::from_adapter(&found[index], choice)
    }

    fn from_adapter(adapter: &wgpu::Adapter, choice: &AdapterChoice) -> Result<Gpu, GpuError> {
        let info = adapter.get_info();
        let subgroups = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64;
        let wanted = subgroups | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
        let refuse = |why: String| Err(GpuError::Device { adapter: info.name.clone(), why });
        let mixed = choice.precision != Precision::F32;
        let planes = if choice.precision == Precision::Split { 2 } else { 1 };
        let matrix = matrix(adapter, planes).filter(|_| mixed && choice.limits == LimitChoice::Adapter);
        if mixed && matrix.is_none() {
            let precision = choice.precision.name();
            let why = match choice.limits {
                LimitChoice::Adapter => "it does not offer",
                LimitChoice::Default => "it does not offer, or --limits default hides",
            };
            return refuse(format!(
                "--precision {precision} needs cooperative matrices of f16 with f32 sums, f16 and subgroup operations, which {why}; \
                 `dau devices` lists the features of each adapter (`matrix`, `f16`, `subgroups`). Leave --precision {precision} out to train in f32"
            ));
        }
        let wanted = if mixed { wanted | MATRIX_FEATURES } else { wanted };
        let (features, limits) = match choice.limits {
            LimitChoice::Adapter => (adapter.features() & wanted, adapter.limits()),
            LimitChoice::Default => (wgpu::Features::empty(), wgpu::Limits::default()),
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("dau"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features: if mixed { experimental() } else { wgpu::ExperimentalFeatures::disabled() },
            ..Default::default()
        }))
        .map_err(|e| GpuError::Device { adapter: info.name.clone(), why: e.to_string() })?;

        let fault = Fault::of(&device);
        let downlevel = adapter.get_downlevel_capabilities().flags;
        let capabilities = wgpu_naga_bridge::features_to_naga_capabilities(features, downlevel);

        let fixed = info.subgroup_min_size == info.subgroup_max_size;
        // A shuffle kernel's tile is as many vec4 of channels as the subgroup has lanes: below 8 it does not pay, and
        // SwiftShader, the one adapter of 4 we know, needs over 20 GiB to compile it.
        let lanes = 8..=32;
        let usable = features.contains(subgroups) && fixed && lanes.contains(&info.subgroup_min_size);
        let subgroup = usable.then_some(info.subgroup_min_size);
        let cpu = info.device_type == wgpu::DeviceType::Cpu;
        let wide = cpu && features.contains(wgpu::Features::SHADER_INT64);
        let gathers = cpu && mesa(&info.driver_info).is_some_and(|version| version >= GATHERS);
        let suggested = match info.device_type {
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::IntegratedGpu => Staging::WorkgroupTile,
            // A CPU has no workgroup memory but its caches: measured on lavapipe (see docs/performance.md).
            wgpu::DeviceType::Cpu if subgroup.is_some() => Staging::SubgroupShuffle,
            _ => Staging::RegisterBlock,
        };
        let suggested = if mixed { Staging::CooperativeMatrix } else { suggested };
        let staging = choice.staging.unwrap_or(suggested);
        if staging == Staging::SubgroupShuffle && subgroup.is_none() {
            return refuse(
                "staging subgroup-shuffle needs 64-bit integers and subgroups of one fixed size, 8 to 32; try --staging register-block".into(),
            );
        }
        if staging == Staging::CooperativeMatrix && !mixed {
            return refuse(
                "staging cooperative-matrix multiplies in f16: add --precision mixed or split, where there is that flag".into(),
            );
        }
        let caps = Caps { subgroup, wide, gathers, cpu, matrix, staging, own: None };
        Ok(Gpu { device, queue, info, limits, features, capabilities, caps, fault })
    }

    /// Name, type, back end and driver of its adapter, as wgpu has them.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// The limits that the device was opened with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }

    /// The optional features that the device was opened with.
    pub fn features(&self) -> wgpu::Features {
        self.features
    }

    /// The optional parts of WGSL that the device takes.
    pub fn capabilities(&self) -> naga::valid::Capabilities {
        self.capabilities
    }

    /// What kernels may ask of it.
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// The same device with another choice, which it must offer.
    pub(crate) fn with(&self, candidate: Candidate) -> Gpu {
        Gpu { caps: self.caps.with(candidate), ..self.clone() }
    }

    /// `llvmpipe (LLVM 15.0.6, 256 bits) [vulkan, cpu], Mesa 22.3.6`: as results record it.
    pub fn describe(&self) -> String {
        let i = &self.info;
        let driver = if i.driver_info.is_empty() { &i.driver } else { &i.driver_info };
        format!("{} [{}, {}], {}", i.name, i.backend, device_type(i.device_type), driver).trim_end_matches(", ").to_string()
    }
}

/// The token for wgpu's experimental features, of which cooperative matrices are one; asked for with mixed and split precision only.
#[allow(unsafe_code)]
fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: wgpu asks its users to accept that these features may have bugs. What could misbehave is what a shader reads and
    // writes: conv2d_matrix.wgsl guards its accesses to buffers itself, stores a matrix to one only where the whole tile lies inside, and
    // loads matrices from workgroup memory only, within its arrays for every constant that it is built with.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Sets what Mesa's drivers read from the environment and the user has not set. To be called before any other thread starts; where there
/// is no Mesa it does nothing.
///
/// - `LP_NUM_THREADS`: lavapipe, its software Vulkan, starts two threads a core. It deals a dispatch out in one piece a thread, and Linux
///   leaves two threads that wake together on one core for long stretches while another idles: twice the pieces go to whichever core is free.
/// - `NODEVICE_SELECT`, where there is no desktop (`XDG_RUNTIME_DIR` is not set): its layer that asks the desktop for a GPU stays out of
///   the way, and does not complain.
#[allow(unsafe_code)]
pub(crate) fn suit_mesa() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let unset = |name: &str| std::env::var_os(name).is_none();
    let threads = (cores > 1).then(|| ("LP_NUM_THREADS", (2 * cores).to_string()));
    let no_desktop = unset("XDG_RUNTIME_DIR").then(|| ("NODEVICE_SELECT", "1".to_string()));
    for (name, value) in threads.into_iter().chain(no_desktop).filter(|(name, _)| unset(name)) {
        // SAFETY: there is no other thread yet that could look at the environment meanwhile.
        unsafe { std::env::set_var(name, value) }
    }
}

/// The word `dau devices` prints for a device type.
pub(crate) fn device_type(t: wgpu::DeviceType) -> &'static str {
    match t {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    }
}

impl AdapterRow {
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`.
    pub fn device_type(&self) -> &'static str {
        device_type(self.info.device_type)
    }

    /// The optional features that matter here, by our own names; `matrix 16x16x16 f16 + f32` is a shape of cooperative matrices,
    /// what they multiply and what they add.
    pub fn feature_names(&self) -> Vec<String> {
        let known = [
            ("subgroups", wgpu::Features::SUBGROUP),
            ("64-bit integers", wgpu::Features::SHADER_INT64),
            ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
            ("f16", wgpu::Features::SHADER_F16),
        ];
        let scalar = |t: wgpu::CooperativeScalarType| format!("{t:?}").to_lowercase();
        let matrices = self
            .matrices
            .iter()
            .map(|m| format!("matrix {}x{}x{} {} + {}", m.m_size, m.n_size, m.k_size, scalar(m.ab_type), scalar(m.cr_type)));
        let named = known.into_iter().filter(|(_, feature)| self.features.contains(*feature)).map(|(name, _)| name.to_string());
        named.chain(matrices).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_mesa_is_read() {
        let said = ["Mesa 26.2.6-1 (LLVM 22.1.8)", "Mesa 22.3.6 (LLVM 15.0.6)", "580.159.04", "", "Mesa next"];
        assert_eq!(said.map(mesa), [Some(26), Some(22), None, None, None]);
    }

    #[test]
    fn work_is_shared_out_over_devices_like_the_best_one_and_over_each_once() {
        let adapter = |kind, backend, place: &str| {
            let mut info = wgpu::AdapterInfo::new(kind, backend);
            info.device_pci_bus_id = place.into();
            info
        };
        use wgpu::Backend::{Gl, Vulkan};
        use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu};
        let found = [
            adapter(DiscreteGpu, Vulkan, "0000:5e:00.0"),
            adapter(DiscreteGpu, Vulkan, "0000:3b:00.0"),
            adapter(DiscreteGpu, Vulkan, "0000:5e:00.0"),
            adapter(DiscreteGpu, Gl, "0000:5e:00.0"),
            adapter(IntegratedGpu, Vulkan, "0000:00:02.0"),
            adapter(Cpu, Vulkan, ""),
        ];
        assert_eq!(alike(&found), [1, 0]);
        assert_eq!(alike(&found[5..]), [0]);
        // Where the bus is not known, none is taken for another.
        let unknown = [adapter(DiscreteGpu, Vulkan, ""), adapter(DiscreteGpu, Vulkan, "")];
        assert_eq!(alike(&unknown), [0, 1]);
        assert!(alike(&[]).is_empty());
    }
}
