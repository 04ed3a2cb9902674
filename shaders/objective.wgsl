// y[i, k]   = LABELS[k, ROWS[i]]
// w[i, k]   = 1 for task 0 (fused), tanh |y[i, k] - y[i, 0]| for the others
// task[k]   = mean over i of w[i, k] |PRED[i, k] - y[i, k]|
// term[p]   = 1/(4 d^2) sum over e of (C_a[e] - C_b[e])^2,   (a, b, weight) = pair p
// norm[f]   = sqrt(sum over e of C_f[e]^2)
// LOSS      = sum of task  +  sum over p of  weight term[p]               where weight >= 0
//                                            weight min(term[p], margin)  where weight < 0
// COEF[a, b] = COEF[b, a] = weight, or 0 where the margin holds: d LOSS / d term[p]
// RING[S.slot] = task.., term.., norm..
//
// The whole objective of a step, and its row of the loss ring.
// In    PRED [n, tasks]; LABELS [tasks, total]; ROWS [n]; COV [FEATURES, d, d], optional;
//       P.list: a, b and the weight's bits of up to six pairs
// Out   COEF [FEATURES, FEATURES], with COV; LOSS [1]; RING [slots, width], left alone by a slot
//       past the last
//
// Geometry  one workgroup; its invocations stride the rows of a task, then the d^2 entries.
//           TREE: 128 invocations, sums as a tree. LANES: one subgroup, no workgroup memory, no
//           barrier. neither: a single invocation.
// Numerics  f32, a fixed order. A NaN term stays NaN: the margin does not hide it.
// Limits    FEATURES <= 4; 512 bytes of workgroup memory.
// Twin      ops::objective::reference::objective
#import step
#import targets

struct Params {
    d: u32, pairs: u32, margin: f32, slots: u32,
    list: array<vec4<u32>, 6>,
    n: u32, tasks: u32, total: u32, width: u32,
}
@group(0) @binding(0) var<storage, read> PRED: array<f32>;
@group(0) @binding(1) var<storage, read> LABELS: array<f32>;
@group(0) @binding(2) var<storage, read> ROWS: array<u32>;
#if COV
@group(0) @binding(3) var<storage, read> COV: array<f32>;
@group(0) @binding(4) var<storage, read_write> COEF: array<f32>;
#endif
@group(0) @binding(5) var<storage, read_write> LOSS: array<f32>;
@group(0) @binding(6) var<storage, read_write> RING: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

fn put(column: u32, value: f32) {
    if (S.slot < P.slots) { RING[S.slot * P.width + column] = value; }
}
#if COV
#import pairs
fn put_term(p: u32, value: f32) { put(P.tasks + p, value); }
fn put_norm(i: u32, value: f32) { put(P.tasks + P.pairs + i, value); }
#else
#import row
#endif

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) id: u32) {
    var loss = 0.0;
    for (var k = 0u; k < P.tasks; k++) {
        var sum = 0.0;
        for (var i = row_start(id); i < P.n; i += STRIDE) {
            let goal = goal_of(ROWS[i], k);
            sum += goal.y * abs(PRED[i * P.tasks + k] - goal.x);
        }
        let task = row_sum(sum, id) / f32(P.n);
        loss += task;
        if (id == 0u) { put(k, task); }
    }
#if COV
    measure(id);
    if (id == 0u) { loss += settle(); }
#endif
    if (id == 0u) { LOSS[0] = loss; }
}
