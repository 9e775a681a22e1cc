//! Extents and element type of a value.

/// Elements are 4 bytes wide, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    F32,
    U32,
}

/// Extents, outermost first; contiguous.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub dims: Vec<usize>,
    pub elem: Elem,
}

impl Shape {
    pub fn f32(dims: &[usize]) -> Shape {
        Shape { dims: dims.to_vec(), elem: Elem::F32 }
    }

    pub fn u32(dims: &[usize]) -> Shape {
        Shape { dims: dims.to_vec(), elem: Elem::U32 }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

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
