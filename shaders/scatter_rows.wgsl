// OUT[ROWS[i], P.at + j] = X[i, j]
//
// In    X [n, c]; ROWS [n], distinct; one past the last row of OUT is left out
// Out   OUT [rows, ld]
// Geometry  an invocation an element.
// Twin      ops::rows::reference::scatter

struct Params { n: u32, c: u32, ld: u32, at: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> ROWS: array<u32>;
@group(0) @binding(2) var<storage, read_write> OUT: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    if (item >= P.n * P.c) { return; }
    let i = item / P.c;
    let row = ROWS[i];
    if (row >= P.rows) { return; }
    OUT[row * P.ld + P.at + item % P.c] = X[item];
}
