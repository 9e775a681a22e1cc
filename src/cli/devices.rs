//! `dau devices`: the adapters, best first, as `--adapter` numbers them.

use anyhow::Result;
use serde_json::{Value, json};

use super::{Global, Refuse, print, print_json};
use crate::gpu::{self, AdapterRow, Gpu, human_bytes};
use crate::report::columns;

pub fn run(global: &Global) -> Result<()> {
    let choice = global.choice();
    let rows = gpu::list(choice.backend);
    if rows.is_empty() {
        // The error says what to install.
        Gpu::open(&choice).refuse()?;
    }
    if global.json {
        return print_json(&rows.iter().enumerate().map(|(i, row)| as_json(i, row)).collect::<Vec<_>>());
    }
    let heading = ["", "name", "back end", "type", "driver", "subgroups", "limits", "features"].map(String::from).to_vec();
    let cells = rows.iter().enumerate().map(|(i, row)| cells(i, row));
    print(&columns(&std::iter::once(heading).chain(cells).collect::<Vec<_>>()))
}

fn cells(index: usize, row: &AdapterRow) -> Vec<String> {
    let (info, limits) = (&row.info, &row.limits);
    let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
    vec![
        index.to_string(),
        info.name.clone(),
        info.backend.to_string(),
        row.device_type().into(),
        [&info.driver, &info.driver_info].into_iter().filter(|s| !s.is_empty()).cloned().collect::<Vec<_>>().join(" "),
        if least == most { least.to_string() } else { format!("{least}-{most}") },
        format!(
            "{} a binding, {} bindings, workgroups of {} with {}",
            human_bytes(limits.max_storage_buffer_binding_size),
            limits.max_storage_buffers_per_shader_stage,
            limits.max_compute_invocations_per_workgroup,
            human_bytes(limits.max_compute_workgroup_storage_size.into())
        ),
        row.feature_names().join(", "),
    ]
}

fn as_json(index: usize, row: &AdapterRow) -> Value {
    let (info, limits) = (&row.info, &row.limits);
    json!({
        "index": index,
        "name": info.name,
        "backend": info.backend.to_string(),
        "type": row.device_type(),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "subgroup": {"min": info.subgroup_min_size, "max": info.subgroup_max_size},
        "limits": {
            "buffer_bytes": limits.max_buffer_size,
            "binding_bytes": limits.max_storage_buffer_binding_size,
            "storage_buffers": limits.max_storage_buffers_per_shader_stage,
            "workgroup_invocations": limits.max_compute_invocations_per_workgroup,
            "workgroup_bytes": limits.max_compute_workgroup_storage_size,
        },
        "features": row.feature_names(),
    })
}
