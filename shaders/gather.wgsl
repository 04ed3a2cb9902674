// OUT[i, :] (+)= X[min(ROWS[i], n - 1), :]
//
// In    X    [n, cols]
//       ROWS [m], unsigned; one past the last row takes that one
// Out   OUT  [m, cols], added to with accumulate
// Geometry  an invocation an element, or four where cols is a multiple of 4 (VEC).
// Twin      ops::gather::reference::gather

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, cols: u32, m: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> ROWS: array<u32>;
@group(0) @binding(2) var<storage, read_write> OUT: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let cols = P.cols / 4u;
#else
    let cols = P.cols;
#endif
    let i = item / cols;
    if (i >= P.m) { return; }
    let x = X[min(ROWS[i], P.n - 1u) * cols + item % cols];
    OUT[item] = x + select(T(), OUT[item], P.accumulate != 0u);
}
