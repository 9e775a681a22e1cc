// The linear index of an invocation in a grid that was folded into two dimensions past 65,535 workgroups
// (graph::groups on the Rust side), for workgroups of `size` invocations along x.
fn linear_index(group: vec3u, groups: vec3u, local: u32, size: u32) -> u32 {
    return (group.y * groups.x + group.x) * size + local;
}
