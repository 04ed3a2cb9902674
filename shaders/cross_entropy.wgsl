// LSE[r] = log sum over c of exp(X[r, c]),    LOSS[r] = LSE[r] - X[r, TARGET[r]]
//
// In    X      [rows, cols], logits
//       TARGET [rows], u32 classes; past the last class counts as the last
// Out   LOSS   [rows]
//       LSE    [rows], all that the gradient needs besides X
// Geometry  by shared/row.wgsl, without VEC: classes are few and seldom a multiple of 4.
// Numerics  f32; the largest logit is taken out of the sum, differences are cut at -80; a NaN
//           is still one after that.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::softmax::reference::cross_entropy
#import numbers
#import row

struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> TARGET: array<u32>;
@group(0) @binding(2) var<storage, read_write> LOSS: array<f32>;
@group(0) @binding(3) var<storage, read_write> LSE: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
    let first = row * P.cols + row_start(id);
    let end = select(0u, (row + 1u) * P.cols, row < P.rows);
    var largest = -3.0e38;
    for (var i = first; i < end; i += STRIDE) {
        largest = max(largest, X[i]);
    }
    let m = row_max(largest, id);
    var total = 0.0;
    for (var i = first; i < end; i += STRIDE) {
        let d = X[i] - m;
        total += exp(at_least(d, -80.0));
    }
    let lse = m + log(row_sum(total, id));
    if (row < P.rows && row_owner(id)) {
        LSE[row] = lse;
        LOSS[row] = lse - X[row * P.cols + min(TARGET[row], P.cols - 1u)];
    }
}
