// TERMS[j] = mean over i of WEIGHT[i, j] |PRED[i, j] - TARGET[i, j]|      LOSS = sum of TERMS
//
// In    PRED, TARGET, WEIGHT [n, c]
// Out   TERMS [c], LOSS [1]
// Geometry  one workgroup; WG invocations stride the rows of a column, then add up as a tree
//           (WG is 64 on a GPU and 1 on a CPU adapter, where a barrier costs more than a row).
// Numerics  f32, a fixed tree.
// Limits    64 invocations, 256 bytes of workgroup memory.
// Twin      ops::loss::reference::forward

struct Params { n: u32, c: u32 }
@group(0) @binding(0) var<storage, read> PRED: array<f32>;
@group(0) @binding(1) var<storage, read> TARGET: array<f32>;
@group(0) @binding(2) var<storage, read> WEIGHT: array<f32>;
@group(0) @binding(3) var<storage, read_write> TERMS: array<f32>;
@group(0) @binding(4) var<storage, read_write> LOSS: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

var<workgroup> part: array<f32, ${WG}>;

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) id: u32) {
    var loss = 0.0;
    for (var j = 0u; j < P.c; j++) {
        var sum = 0.0;
        for (var i = id; i < P.n; i += ${WG}u) {
            let at = i * P.c + j;
            sum += WEIGHT[at] * abs(PRED[at] - TARGET[at]);
        }
        part[id] = sum;
        workgroupBarrier();
        for (var half = ${WG / 2}u; half > 0u; half /= 2u) {
            if (id < half) { part[id] += part[id + half]; }
            workgroupBarrier();
        }
        let term = part[0] / f32(P.n);
        loss += term;
        if (id == 0u) { TERMS[j] = term; }
        workgroupBarrier();
    }
    if (id == 0u) { LOSS[0] = loss; }
}
