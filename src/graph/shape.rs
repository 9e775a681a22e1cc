//! Extents and element type of a value.

/// Elements are 4 bytes wide, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// Single precision.
    F32,
    /// Labels, indices and bits.
    U32,
}

/// What a value is, apart from its contents; contiguous.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// The type of every element.
    pub elem: Elem,
}

impl Shape {
    /// Extents `dims` of f32 elements.
    pub fn f32(dims: &[usize]) -> Shape {
        Shape { dims: dims.to_vec(), elem: Elem::F32 }
    }

    /// Extents `dims` of u32 elements.
    pub fn u32(dims: &[usize]) -> Shape {
        Shape { dims: dims.to_vec(), elem: Elem::U32 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Whether an extent is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its elements on the device.
    pub fn bytes(&self) -> u64 {
        (self.len() * 4) as u64
    }

    /// The last extent: channels, features or classes.
    pub fn last(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Product of all extents but the last.
    pub fn rows(&self) -> usize {
        self.dims.iter().rev().skip(1).product()
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(usize::to_string).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}
