// DPRED[i, j] (+)= G WEIGHT[i, j] sign(PRED[i, j] - TARGET[i, j]) / n,  sign(0) = 0
//
// In    PRED, TARGET, WEIGHT [n, c]; G [1], the gradient of the loss
// Out   DPRED [n, c]
// Geometry  an invocation an element.
// Twin      ops::loss::reference::backward
#import activation

struct Params { n: u32, c: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> PRED: array<f32>;
@group(0) @binding(1) var<storage, read> TARGET: array<f32>;
@group(0) @binding(2) var<storage, read> WEIGHT: array<f32>;
@group(0) @binding(3) var<storage, read> G: array<f32>;
@group(0) @binding(4) var<storage, read_write> DPRED: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let at = (wid.y * count.x + wid.x) * 64u + id;
    if (at >= P.n * P.c) { return; }
    let d = G[0] * WEIGHT[at] * sign_of(PRED[at] - TARGET[at]) / f32(P.n);
    DPRED[at] = d + select(0.0, DPRED[at], P.accumulate != 0u);
}
