// DPRED[i, k] (+)= G w[i, k] sign(PRED[i, k] - y[i, k]) / n,  sign(0) = 0
//    y[i, k]  = LABELS[k, ROWS[i]]
//    w[i, k]  = 1 for task 0 (fused), tanh |y[i, k] - y[i, 0]| for the others
//
// The gradient of an objective's predictions; labels change only after it.
// In    PRED [n, tasks]; LABELS [tasks, total]; ROWS [n]; G [1], the gradient of the loss
// Out   DPRED [n, tasks]
// Geometry  an invocation an element, 64 to a workgroup.
// Twin      ops::objective::reference::gradient
#import targets

struct Params { n: u32, tasks: u32, total: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> PRED: array<f32>;
@group(0) @binding(1) var<storage, read> LABELS: array<f32>;
@group(0) @binding(2) var<storage, read> ROWS: array<u32>;
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
    if (at >= P.n * P.tasks) { return; }
    let goal = goal_of(ROWS[at / P.tasks], at % P.tasks);
    let d = G[0] * goal.y * sign_of(PRED[at] - goal.x) / f32(P.n);
    DPRED[at] = d + select(0.0, DPRED[at], P.accumulate != 0u);
}
