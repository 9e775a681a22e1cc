//! From a WGSL file to a pipeline: text, constants, reflection, cache.

mod cache;
mod reflect;
mod source;
mod tuning;

pub use cache::{Kernel, Kernels, Watch};
pub use reflect::{Binding, ParamField, Reflected, reflect};
pub use source::{SHADERS, expand};
pub use tuning::{Tuning, TuningError};

use thiserror::Error;

/// Which entry point of which file under `shaders/`, with which constants in place of the file's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelId {
    /// A file under `shaders/`, without `.wgsl`: a name from [`SHADERS`].
    pub file: &'static str,
    /// The entry point's name in that file.
    pub entry: &'static str,
    /// Constants by name, in place of the file's defaults.
    pub consts: Vec<(&'static str, u32)>,
}

impl KernelId {
    /// An entry point with the defaults of its file's constants.
    pub fn new(file: &'static str, entry: &'static str) -> KernelId {
        KernelId { file, entry, consts: Vec::new() }
    }

    /// With these constants, too.
    pub fn with(mut self, consts: &[(&'static str, u32)]) -> KernelId {
        self.consts.extend_from_slice(consts);
        self
    }
}

impl std::fmt::Display for KernelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.file, self.entry)?;
        for (i, (name, value)) in self.consts.iter().enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { "<" } else { "," })?;
        }
        if self.consts.is_empty() { Ok(()) } else { write!(f, ">") }
    }
}

/// A shader that cannot be made into a pipeline. Users only see one when a driver refuses our code.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum KernelError {
    #[error("no shader file \"{0}\" under shaders/")]
    NoFile(String),
    #[error("shaders/{file}.wgsl line {line}: {why}")]
    Directive { file: String, line: usize, why: String },
    #[error("shaders/{file}.wgsl has no `const {name} = ...u;`")]
    NoConst { file: String, name: String },
    #[error("{kernel}: {why}")]
    Invalid { kernel: String, why: String },
    #[error("{0}")]
    Gpu(#[from] crate::gpu::GpuError),
}
