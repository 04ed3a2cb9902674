// DX[r, c] (+)= (exp(X[r, c] - LSE[r]) - [c = TARGET[r]]) DLOSS[0] scale
//
// The gradient of a mean: scale = 1 / rows.
// In    X      [rows, cols], logits
//       TARGET [rows], u32 classes; past the last class counts as the last
//       LSE    [rows], from the forward kernel
//       DLOSS  [1]
// Out   DX     [rows, cols], added to with accumulate
// Geometry  one invocation an element, 64 to a workgroup.
// Numerics  the exponent is at most 0 up to rounding, and is cut at -80.
// Twin      ops::softmax::reference::cross_entropy_backward
#import numbers

struct Params { rows: u32, cols: u32, accumulate: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> TARGET: array<u32>;
@group(0) @binding(2) var<storage, read> LSE: array<f32>;
@group(0) @binding(3) var<storage, read> DLOSS: array<f32>;
@group(0) @binding(4) var<storage, read_write> DX: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
    if (i >= P.rows * P.cols) { return; }
    let row = i / P.cols;
    let hit = select(0.0, 1.0, i % P.cols == min(TARGET[row], P.cols - 1u));
    let x = X[i] - LSE[row];
    let d = (exp(at_least(x, -80.0)) - hit) * DLOSS[0] * P.scale;
    DX[i] = d + select(0.0, DX[i], P.accumulate != 0u);
}
