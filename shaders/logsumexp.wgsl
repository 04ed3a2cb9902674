// L[r] = m + log(sum over c of exp(X[r, c] - m)) - shift,    m = max over c of X[r, c]
// with SOFTMAX: Y[r, c] = X[r, c] - L[r], the logarithm of the softmax (shift is 0 then)
//
// In    X [rows, cols]
// Out   Y [rows] holding L, or [rows, cols] with SOFTMAX
// Geometry  by shared/row.wgsl: a workgroup (TREE), a subgroup (LANES) or an invocation a row;
//           VEC where cols is a multiple of 4.
// Numerics  f32; exponents are at most 0. A row of nothing but -inf gives -inf, one with +inf or a
//           NaN what the sum makes of it: +inf, NaN.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::logsumexp::reference::logsumexp
#import row

struct Params { rows: u32, cols: u32, shift: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
#if SOFTMAX
@group(0) @binding(1) var<storage, read_write> Y: array<T>;
#else
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
#endif
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
    // The lowest number, not -inf: from it -inf has a difference.
    var largest = T(-3.4028234e38);
    for (var i = first; i < end; i += STRIDE) {
        largest = max(largest, X[i]);
    }
    let most = row_max(flat_max(largest), id);
    let m = select(0.0, most, most <= 3.4028234e38);
    var total = T();
    for (var i = first; i < end; i += STRIDE) {
        total += exp(X[i] - T(m));
    }
    let all = row_sum(flat_sum(total), id);
    // The logarithm of zero is not minus infinity everywhere; twice the lowest number is.
    let sum = m + select(log(all), m, all <= 0.0) - P.shift;
#if SOFTMAX
    for (var i = first; i < end; i += STRIDE) {
        Y[i] = X[i] - T(sum);
    }
#else
    if (row < P.rows && row_owner(id)) { Y[row] = sum; }
#endif
}
