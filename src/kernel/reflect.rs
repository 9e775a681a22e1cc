//! What a shader says of itself: bindings by name, the layout of its `Params`.

use naga::valid::{Capabilities, ValidationFlags, Validator};

use super::{KernelError, KernelId};

/// A storage buffer that an entry point uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The WGSL variable's name, by which an op binds it.
    pub name: String,
    /// The number in its `@binding`.
    pub slot: u32,
    /// Whether it is declared `read_write`.
    pub writable: bool,
}

/// A member of `Params`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamField {
    /// The member's name, by which an op gives its value.
    pub name: String,
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// f32 where true, else an integer.
    pub float: bool,
}

/// One entry point's interface.
#[derive(Clone, Debug)]
pub struct Reflected {
    /// The storage buffers that the entry point uses; others of the file are not among them.
    pub bindings: Vec<Binding>,
    /// Slot and members of the uniform `p: Params`, where the entry point uses it.
    pub params: Option<(u32, Vec<ParamField>)>,
    /// Bytes of `Params`.
    pub params_size: u32,
    /// Invocations of a workgroup along x, y and z.
    pub workgroup_size: [u32; 3],
}

/// The expanded text of `id` as naga reads it, and its interface, where a device has these capabilities.
///
/// # Errors
/// WGSL that naga refuses or that asks for more, with naga's own explanation, or an entry point that is not there.
pub fn reflect(id: &KernelId, text: &str, capabilities: Capabilities) -> Result<(naga::Module, Reflected), KernelError> {
    let invalid = |why: String| KernelError::Invalid { kernel: id.to_string(), why };
    let module = naga::front::wgsl::parse_str(text).map_err(|e| invalid(e.emit_to_string(text)))?;
    let info =
        Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|e| invalid(e.emit_to_string(text)))?;
    let index = module
        .entry_points
        .iter()
        .position(|e| e.name == id.entry)
        .ok_or_else(|| invalid(format!("no entry point `{}`", id.entry)))?;
    let used = info.get_entry_point(index);
    let mut reflected = Reflected {
        bindings: Vec::new(),
        params: None,
        params_size: 0,
        workgroup_size: module.entry_points[index].workgroup_size,
    };
    for (handle, global) in module.global_variables.iter() {
        let Some(slot) = global.binding.as_ref().map(|b| b.binding) else { continue };
        if used[handle].is_empty() {
            continue;
        }
        match global.space {
            naga::AddressSpace::Uniform => {
                let ty = &module.types[global.ty].inner;
                let naga::TypeInner::Struct { members, span } = ty else {
                    return Err(invalid("the uniform is not a struct".into()));
                };
                let fields = members
                    .iter()
                    .map(|m| ParamField {
                        name: m.name.clone().unwrap_or_default(),
                        offset: m.offset,
                        float: module.types[m.ty].inner.scalar_kind() == Some(naga::ScalarKind::Float),
                    })
                    .collect();
                reflected.params = Some((slot, fields));
                reflected.params_size = *span;
            }
            naga::AddressSpace::Storage { access } => reflected.bindings.push(Binding {
                name: global.name.clone().unwrap_or_default(),
                slot,
                writable: access.contains(naga::StorageAccess::STORE),
            }),
            _ => {}
        }
    }
    Ok((module, reflected))
}
