//! How convolutions can be run, and what the rest may know of an adapter.

use serde::{Deserialize, Serialize};

/// How the convolutions bring their operands to the multiply-adds; one is chosen per adapter (see `shaders/README.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// A workgroup copies tiles of the operands into its memory, and its invocations read them there. Runs everywhere.
    WorkgroupTile,
    /// As workgroup tiles, and 3x3 convolutions of stride 1 by Winograd's products on such tiles. Runs everywhere.
    WinogradTile,
    /// Each lane loads other pixels and hands them round with subgroup shuffles. Needs a fixed subgroup size and 64-bit
    /// integers, in which a load brings twice as much.
    SubgroupShuffle,
    /// Each invocation loads all it needs. Runs everywhere.
    RegisterBlock,
    /// As workgroup tiles, but the operands are f16 and matrix units multiply them. Needs [`Precision::Mixed`] or [`Precision::Split`].
    CooperativeMatrix,
}

impl Staging {
    /// Every staging, whatever an adapter offers.
    pub const ALL: [Staging; 5] = [
        Staging::WorkgroupTile,
        Staging::WinogradTile,
        Staging::SubgroupShuffle,
        Staging::RegisterBlock,
        Staging::CooperativeMatrix,
    ];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Staging::WorkgroupTile => "workgroup-tile",
            Staging::WinogradTile => "winograd-tile",
            Staging::SubgroupShuffle => "subgroup-shuffle",
            Staging::RegisterBlock => "register-block",
            Staging::CooperativeMatrix => "cooperative-matrix",
        }
    }
}

/// One way to run a convolution, to be timed against others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How operands come to the multiply-adds.
    pub staging: Staging,
    /// Rows and channels that an invocation of a tile owns, of cooperative-matrix those of a workgroup's tile; `None`: by rule.
    pub own: Option<[u32; 2]>,
}

/// [`Candidate::own`] of workgroup-tile.
pub const TILES: [[u32; 2]; 3] = [[8, 4], [4, 4], [8, 8]];

/// [`Candidate::own`] of cooperative-matrix, the smallest first.
pub const MATRIX_TILES: [[u32; 2]; 4] = [[64, 32], [64, 64], [128, 64], [128, 128]];

impl Candidate {
    /// `workgroup-tile, 4x4`: as the file of measured choices has it.
    pub fn name(self) -> String {
        let own = self.own.map_or(String::new(), |[rows, channels]| format!(", {rows}x{channels}"));
        format!("{}{own}", self.staging.name())
    }
}

/// What convolutions multiply in; all else is f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 all the way; runs everywhere.
    #[default]
    F32,
    /// f16 with f32 sums, in [`Staging::CooperativeMatrix`].
    Mixed,
    /// The same with two f16 values for one of f32, and so about its precision.
    Split,
}

impl Precision {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Mixed => "mixed",
            Precision::Split => "split",
        }
    }
}

/// The cooperative matrices that an adapter multiplies in f16 and adds in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows and columns of each operand and of the sum: 16 or 8.
    pub side: u32,
    /// The most lanes that a subgroup, which holds a matrix together, can have: 8 to 64.
    pub lanes: u32,
    /// Bytes of workgroup memory that a kernel may take.
    pub memory: u32,
    /// Whether matrices are loaded from memory of vec4, too.
    pub vectors: bool,
    /// f16 values that one operand is held in: see [`Precision`].
    pub planes: u32,
}

impl Matrix {
    /// How many pairs of tiles of operands, 2 or 1, a workgroup that computes so many rows and channels has memory for; `None` where not even one.
    pub fn buffers(&self, [rows, channels]: [u32; 2]) -> Option<u32> {
        // As conv2d_matrix lays these: both operands with K along either side, and a matrix of sums for each of four subgroups.
        let operand = |n: u32| (40 * n).max(32 * (n + 8));
        let bytes = |buffers| 2 * buffers * self.planes * (operand(rows) + operand(channels)) + 16 * self.side * self.side;
        [2, 1].into_iter().find(|buffers| bytes(*buffers) <= self.memory)
    }

    /// Whether the sums of such a workgroup leave a GPU's lanes registers enough for the rest.
    pub fn fits_registers(&self, [rows, channels]: [u32; 2]) -> bool {
        self.planes * rows * channels / (4 * self.lanes) <= 128 / self.planes
    }
}

impl Default for Matrix {
    /// What most GPUs that have any offer.
    fn default() -> Matrix {
        Matrix { side: 16, lanes: 32, memory: 48 << 10, vectors: true, planes: 1 }
    }
}

/// What kernels may ask of an adapter when they choose their launch.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// The subgroup size, where the adapter has subgroup operations and 64-bit integers and its size is fixed.
    pub subgroup: Option<u32>,
    /// Loads cost by the number and not by the bytes, so that two quads of channels in 64-bit integers go at the price of one.
    pub wide: bool,
    /// Its CPU driver loads and stores for all lanes of a subgroup in one instruction; others do lane by lane.
    pub gathers: bool,
    /// A CPU driver: few wide threads, so few large pieces of work are better than many small ones.
    pub cpu: bool,
    /// But with f32 throughout: what is not there cannot be chosen.
    pub matrix: Option<Matrix>,
    /// How convolutions bring their operands to the multiply-adds.
    pub staging: Staging,
    /// See [`Candidate`].
    pub own: Option<[u32; 2]>,
}

impl Caps {
    /// Quads of channels of one load, where there are `quads` of them.
    pub fn load_quads(&self, quads: usize) -> usize {
        if self.wide && quads.is_multiple_of(2) { 2 } else { 1 }
    }

    /// Whether the staging rounds what it multiplies to f16.
    pub fn rounds(&self) -> bool {
        self.staging == Staging::CooperativeMatrix && self.matrix.is_none_or(|matrix| matrix.planes == 1)
    }

    /// The stagings that the adapter offers.
    pub fn stagings(&self) -> Vec<Staging> {
        let offered = |staging: &Staging| match staging {
            // On GPUs it is slower than the others and takes drivers long to compile (docs/performance.md).
            Staging::SubgroupShuffle => self.cpu && self.subgroup.is_some(),
            Staging::CooperativeMatrix => self.matrix.is_some(),
            Staging::WorkgroupTile | Staging::WinogradTile | Staging::RegisterBlock => true,
        };
        Staging::ALL.into_iter().filter(offered).collect()
    }

    /// What of that can be timed against each other.
    pub fn candidates(&self) -> Vec<Candidate> {
        let each = |staging| match staging {
            Staging::WorkgroupTile => TILES.map(|own| Candidate { staging, own: Some(own) }).to_vec(),
            // Small tiles are for convolutions that Winograd is not for.
            Staging::CooperativeMatrix => {
                let fit = |own: &[u32; 2]| {
                    self.matrix.is_some_and(|m| m.buffers(*own).is_some() && (self.cpu || m.fits_registers(*own)))
                };
                MATRIX_TILES.into_iter().filter(fit).map(|own| Candidate { staging, own: Some(own) }).collect()
            }
            Staging::WinogradTile => [[8, 4], [8, 8]].map(|own| Candidate { staging, own: Some(own) }).to_vec(),
            _ => vec![Candidate { staging, own: None }],
        };
        self.stagings().into_iter().flat_map(each).collect()
    }

    /// What these lead to.
    pub fn candidate(&self) -> Candidate {
        Candidate { staging: self.staging, own: self.own }
    }

    /// The same adapter with another choice, which it must offer.
    pub fn with(self, Candidate { staging, own }: Candidate) -> Caps {
        Caps { staging, own, ..self }
    }
}
