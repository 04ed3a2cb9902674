// OUT[r] (+)= scale * sum over c of X[r, c] (* TIMES[r, c])
//
// In    X     [rows, cols], of which only the first len elements count: the last row may be short
//       TIMES shaped as X, optional
// Out   OUT   [rows], added to with accumulate
// The sum of a whole tensor is this twice: over pieces, as rows, then over the pieces' sums.
//
// Geometry  by shared/row.wgsl: a workgroup (TREE), a subgroup (LANES) or an invocation a row;
//           VEC where cols and len are multiples of 4.
// Numerics  f32; each invocation adds in order, then a tree or a subgroup sum.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::reduce::reference::reduce_rows
#import row

struct Params { rows: u32, cols: u32, len: u32, accumulate: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
#if TIMES
@group(0) @binding(1) var<storage, read> TIMES: array<T>;
#endif
@group(0) @binding(2) var<storage, read_write> OUT: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
#if VEC
    let cols = P.cols / 4u;
    let len = P.len / 4u;
#else
    let cols = P.cols;
    let len = P.len;
#endif
    let end = select(0u, min(len, (row + 1u) * cols), row < P.rows);
    var total = T();
    for (var i = row * cols + row_start(id); i < end; i += STRIDE) {
#if TIMES
        total += X[i] * TIMES[i];
#else
        total += X[i];
#endif
    }
    let sum = P.scale * row_sum(flat_sum(total), id);
    if (row < P.rows && row_owner(id)) {
        OUT[row] = sum + select(0.0, OUT[row], P.accumulate != 0u);
    }
}
