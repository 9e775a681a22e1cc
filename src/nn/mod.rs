//! Networks: layers, architectures, parameters and their initial values.

mod init;
mod layers;
mod params;
mod preact_resnet;
mod resnet;
mod wide_resnet;

pub use init::initialise;
pub use layers::Builder;
pub use params::{Param, ParamKind, ParamSet};
pub use resnet::LARGE;

use crate::graph::{Graph, GraphError, Value};

/// A network to build: what a checkpoint records of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelSpec {
    /// A name from [`MODELS`].
    pub name: String,
    /// Channels of the first stage, 64 in the standard network; of a wide ResNet the factor that widens it.
    pub width: usize,
    /// Number of classes, one logit each.
    pub classes: usize,
    /// Height and width of the images, pixels.
    pub image_size: usize,
    /// A ResNet's beginning; other networks have but one.
    pub stem: Stem,
}

/// How a ResNet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 3x3 convolution of stride 1.
    Small,
    /// A 7x7 convolution of stride 2 and a max pool of stride 2.
    Large,
}

impl Stem {
    /// What networks for images of so many pixels a side have, unless somebody chose otherwise.
    pub fn usual(image_size: usize) -> Stem {
        if image_size >= LARGE { Stem::Large } else { Stem::Small }
    }
}

/// An architecture.
pub struct ModelEntry {
    /// As [`ModelSpec::name`] has it.
    pub name: &'static str,
    /// Channels of the first stage that a width of 1 stands for.
    pub unit: usize,
    /// The convolution that has these channels.
    pub first: &'static str,
    build: fn(&mut Builder, &ModelSpec, Value) -> Result<Outputs, GraphError>,
}

const WIDE: usize = wide_resnet::CHANNELS;
const FIRST_WIDE: &str = "block1.layer.0.conv1";

/// Every architecture. A new one is a file and a line here.
pub static MODELS: &[ModelEntry] = &[
    ModelEntry { name: "resnet18", unit: 1, first: "conv1", build: resnet::resnet18 },
    ModelEntry { name: "resnet34", unit: 1, first: "conv1", build: resnet::resnet34 },
    ModelEntry { name: "preact-resnet18", unit: 1, first: "conv1", build: preact_resnet::preact_resnet18 },
    ModelEntry { name: "wrn-16", unit: WIDE, first: FIRST_WIDE, build: wide_resnet::wrn16 },
    ModelEntry { name: "wrn-28", unit: WIDE, first: FIRST_WIDE, build: wide_resnet::wrn28 },
    ModelEntry { name: "wrn-40", unit: WIDE, first: FIRST_WIDE, build: wide_resnet::wrn40 },
];

/// What a network gives for a batch of N images.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// What the last stage gives, [N, H, W, D]: the features are its means over places.
    pub maps: Value,
    /// Penultimate features [N, D], after global average pooling.
    pub features: Value,
    /// [N, classes].
    pub logits: Value,
}

/// A network that was added to a graph.
#[derive(Clone, Debug)]
pub struct Built {
    /// Features and logits.
    pub outputs: Outputs,
    /// In PyTorch's order, by names without the scope.
    pub params: Vec<Param>,
    /// What each layer gives, by the layer's name (`layer1.0.bn1`), in the order of running: of a batch norm after what it adds and its ReLU.
    pub activations: Vec<(String, Value)>,
    /// What goes into each batch norm [N, H, W, C], by the batch norm's name, in the order of running.
    pub normalised: Vec<(String, Value)>,
    /// What each stage, the blocks of one width, gives [N, H, W, C], in the order of running.
    pub stages: Vec<Value>,
}

impl ModelEntry {
    /// The architecture called `name` without regard to case, hyphens and underscores: `PreActResNet18` is `preact-resnet18`.
    ///
    /// # Errors
    /// An unknown name, with the known ones.
    pub fn named(name: &str) -> Result<&'static ModelEntry, GraphError> {
        let bare = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
        find(name, |m| bare(m.name) == bare(name))
    }
}

fn find(name: &str, wanted: impl Fn(&ModelEntry) -> bool) -> Result<&'static ModelEntry, GraphError> {
    MODELS.iter().find(|m| wanted(m)).ok_or_else(|| {
        let known: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
        GraphError::Shape { op: "model", why: format!("no model \"{name}\"; there are: {}", known.join(", ")) }
    })
}

impl ModelSpec {
    /// A network with the stem that is usual for its images.
    pub fn new(name: &str, width: usize, classes: usize, image_size: usize) -> ModelSpec {
        ModelSpec { name: name.into(), width, classes, image_size, stem: Stem::usual(image_size) }
    }

    /// The entry of exactly this name.
    ///
    /// # Errors
    /// An unknown name, with the known ones.
    pub fn entry(&self) -> Result<&'static ModelEntry, GraphError> {
        find(&self.name, |m| m.name == self.name)
    }

    /// The entry of this name, if it can have this width.
    ///
    /// # Errors
    /// An unknown name, a width that is not a multiple of 4.
    pub fn checked(&self) -> Result<&'static ModelEntry, GraphError> {
        let entry = self.entry()?;
        if self.width == 0 || !(entry.unit * self.width).is_multiple_of(4) {
            let why =
                format!("the width must be a multiple of 4, got {}; try {}", self.width, self.width.next_multiple_of(4).max(4));
            return Err(GraphError::Shape { op: entry.name, why });
        }
        Ok(entry)
    }

    /// Adds the network to `graph` on images [N, H, W, 4] and returns its outputs and parameters in PyTorch's order.
    ///
    /// # Errors
    /// An unknown name, a width that is not a multiple of 4, images too small.
    pub fn build(&self, graph: &mut Graph, images: Value, train: bool) -> Result<(Outputs, Vec<Param>), GraphError> {
        let Built { outputs, params, .. } = self.build_scoped(graph, images, train, "")?;
        Ok((outputs, params))
    }

    /// The same with `scope` before the names of the graph's variables, so that a graph can hold two networks, and with what each layer
    /// gives.
    ///
    /// # Errors
    /// As [`ModelSpec::build`].
    pub fn build_scoped(&self, graph: &mut Graph, images: Value, train: bool, scope: &str) -> Result<Built, GraphError> {
        let entry = self.checked()?;
        let mut builder = Builder::new(graph, train, scope);
        let outputs = (entry.build)(&mut builder, self, images)?;
        Ok(builder.finish(outputs))
    }
}
