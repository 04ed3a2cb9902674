// Y[r, c] = X[r, c] / max(NORM[r], eps),     NORM[r] = sqrt(sum over k of X[r, k]^2)
//
// In    X    [rows, cols]
// Out   Y    [rows, cols]
//       NORM [rows], for the gradient
// Geometry  by shared/row.wgsl: a workgroup (TREE), a subgroup (LANES) or an invocation a row;
//           VEC where cols is a multiple of 4.
// Numerics  f32, as PyTorch: squares of numbers beyond 1.8e19 are infinite, below 1e-23 they are 0.
//           A NaN makes its row NaN.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::normalize::reference::l2_normalize
#import numbers
#import row

struct Params { rows: u32, cols: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read_write> Y: array<T>;
@group(0) @binding(2) var<storage, read_write> NORM: array<f32>;
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
#else
    let cols = P.cols;
#endif
    let first = row * cols + row_start(id);
    let end = select(0u, (row + 1u) * cols, row < P.rows);
    var total = T();
    for (var i = first; i < end; i += STRIDE) {
        total += X[i] * X[i];
    }
    let norm = sqrt(row_sum(flat_sum(total), id));
    if (row < P.rows && row_owner(id)) { NORM[row] = norm; }
    let divisor = T(select(norm, P.eps, is_smaller(norm, P.eps)));
    for (var i = first; i < end; i += STRIDE) {
        Y[i] = X[i] / divisor;
    }
}
