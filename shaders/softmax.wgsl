// Y[r, c] = exp(X[r, c] - m) / sum over k of exp(X[r, k] - m),    m = max over k of X[r, k]
//
// In    X [rows, cols]
// Out   Y [rows, cols]
// Geometry  by shared/row.wgsl: a workgroup (TREE), a subgroup (LANES) or an invocation a row;
//           VEC where cols is a multiple of 4. An invocation comes back only to elements of Y
//           that it wrote itself.
// Numerics  f32; differences from the largest are cut at -80. Whether or not a NaN counts as the largest,
//           its difference is NaN, and so is its row.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::softmax::reference::softmax
#import numbers
#import row

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read_write> Y: array<T>;
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
    var largest = T(-3.0e38);
    for (var i = first; i < end; i += STRIDE) {
        largest = max(largest, X[i]);
    }
    let m = row_max(flat_max(largest), id);
    var total = T();
    for (var i = first; i < end; i += STRIDE) {
        let d = X[i] - T(m);
        let e = exp(at_least(d, -80.0));
        total += e;
        Y[i] = e;
    }
    let share = 1.0 / row_sum(flat_sum(total), id);
    for (var i = first; i < end; i += STRIDE) {
        Y[i] *= share;
    }
}
