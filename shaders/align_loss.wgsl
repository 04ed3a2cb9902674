// TERMS[p] = 1/(4 d^2) sum over e of (C_a[e] - C_b[e])^2,   (a, b, weight) = pair p
// LOSS     = sum over p of  weight TERMS[p]                   where weight >= 0
//                           weight min(TERMS[p], margin)      where weight < 0
// NORMS[i] = sqrt(sum over e of C_i[e]^2)
// COEF[a, b] = COEF[b, a] = weight, or 0 where the margin holds: d LOSS / d TERMS[p]
//
// The covariance term of every pair of FEATURES features, and what its gradient needs.
// In    COV [FEATURES, d, d]; P.list: a, b and the weight's bits of up to six pairs
// Out   TERMS [pairs], NORMS [FEATURES], LOSS [1], COEF [FEATURES, FEATURES] (0 where no pair is)
//
// Geometry  one workgroup; its invocations stride the d^2 entries and sum all distances at once.
//           TREE: 128 invocations, sums as a tree. LANES: one subgroup, no workgroup memory, no
//           barrier. neither: a single invocation.
// Numerics  f32, a fixed order. A NaN term stays NaN: the margin does not hide it.
// Limits    2 <= FEATURES <= 4; 512 bytes of workgroup memory.
// Twin      ops::align::reference::loss
#import pairs

struct Params {
    d: u32, pairs: u32, margin: f32, pad0: u32,
    list: array<vec4<u32>, 6>,
}
@group(0) @binding(0) var<storage, read> COV: array<f32>;
@group(0) @binding(1) var<storage, read_write> TERMS: array<f32>;
@group(0) @binding(2) var<storage, read_write> NORMS: array<f32>;
@group(0) @binding(3) var<storage, read_write> LOSS: array<f32>;
@group(0) @binding(4) var<storage, read_write> COEF: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

fn put_term(p: u32, value: f32) { TERMS[p] = value; }
fn put_norm(i: u32, value: f32) { NORMS[i] = value; }

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) id: u32) {
    measure(id);
    if (id == 0u) { LOSS[0] = settle(); }
}
