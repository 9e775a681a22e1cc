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
    /// As workgroup tiles, but the operands become f16 there and matrix units multiply them. Needs [`Precision::Mixed`].
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
    /// Rows and channels that an invocation of a tile owns: 4 or 8 by 4, or 8 by 8; `None`: by rule.
    pub own: Option<[u32; 2]>,
}

/// [`Candidate::own`] of workgroup-tile.
pub const TILES: [[u32; 2]; 3] = [[8, 4], [4, 4], [8, 8]];

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
}

/// The cooperative matrices that an adapter multiplies in f16 and adds in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Rows and columns of each operand and of the sum: 16 or 8.
    pub side: u32,
    /// The most lanes that a subgroup, which holds a matrix together, can have: 8 to 64.
    pub lanes: u32,
}

impl Default for Matrix {
    /// What most GPUs that have any offer.
    fn default() -> Matrix {
        Matrix { side: 16, lanes: 32 }
    }
}

/// What kernels may ask of an adapter when they choose their launch.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// The subgroup size, where the adapter has subgroup operations and 64-bit integers and its size is fixed.
    pub subgroup: Option<u32>,
    /// Loads cost by the number and not by the bytes, so that two quads of channels in 64-bit integers go at the price of one.
    pub wide: bool,
    /// A CPU driver: few wide threads, so few large pieces of work are better than many small ones.
    pub cpu: bool,
    /// With mixed precision only: what is not there cannot be chosen.
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
