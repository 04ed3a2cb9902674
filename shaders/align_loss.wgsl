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
//           TILED: 128 invocations, then a tree. LANES: one subgroup, no workgroup memory, no
//           barrier. neither: a single invocation.
// Numerics  f32, a fixed order. A NaN term stays NaN: the margin does not hide it.
// Limits    2 <= FEATURES <= 4; 8 KiB of workgroup memory.
// Twin      ops::align::reference::loss

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

#if TILED
var<workgroup> part: array<f32, ${FEATURES * FEATURES * WG}>;
#endif

// sum[i, j], i < j, is the squared distance of C_i and C_j; sum[i, i] the squared norm of C_i.
fn finish(sum: array<f32, ${FEATURES * FEATURES}>) {
    var sums = sum;
    for (var i = 0u; i < ${FEATURES}u; i++) {
        NORMS[i] = sqrt(sums[i * ${FEATURES + 1}u]);
        for (var j = 0u; j < ${FEATURES}u; j++) { COEF[i * ${FEATURES}u + j] = 0.0; }
    }
    var loss = 0.0;
    for (var p = 0u; p < P.pairs; p++) {
        let a = min(P.list[p].x, P.list[p].y);
        let b = max(P.list[p].x, P.list[p].y);
        let weight = bitcast<f32>(P.list[p].z);
        let term = 0.25 * sums[a * ${FEATURES}u + b] / (f32(P.d) * f32(P.d));
        TERMS[p] = term;
        if (weight == 0.0) { continue; }
        let held = weight < 0.0 && term >= P.margin;
        loss += weight * select(term, P.margin, held);
        let coef = select(weight, 0.0, held);
        COEF[a * ${FEATURES}u + b] = coef;
        COEF[b * ${FEATURES}u + a] = coef;
    }
    LOSS[0] = loss;
}

@compute @workgroup_size(${WG})
fn main(@builtin(local_invocation_index) id: u32) {
    let size = P.d * P.d;
#for i in 0..FEATURES
#for j in i..FEATURES
    var s${i}${j} = 0.0;
#endfor
#endfor
    for (var e = id; e < size; e += ${WG}u) {
#for i in 0..FEATURES
        let c${i} = COV[${i}u * size + e];
        s${i}${i} += c${i} * c${i};
#endfor
#for i in 0..FEATURES
#for j in i + 1..FEATURES
        s${i}${j} += (c${i} - c${j}) * (c${i} - c${j});
#endfor
#endfor
    }

    var sum: array<f32, ${FEATURES * FEATURES}>;
#if TILED
#for i in 0..FEATURES
#for j in i..FEATURES
    part[${(i * FEATURES + j) * WG}u + id] = s${i}${j};
#endfor
#endfor
    workgroupBarrier();
    for (var half = ${WG / 2}u; half > 0u; half /= 2u) {
        if (id < half) {
#for i in 0..FEATURES
#for j in i..FEATURES
            part[${(i * FEATURES + j) * WG}u + id] += part[${(i * FEATURES + j) * WG}u + id + half];
#endfor
#endfor
        }
        workgroupBarrier();
    }
#for i in 0..FEATURES
#for j in i..FEATURES
    sum[${i * FEATURES + j}] = part[${(i * FEATURES + j) * WG}];
#endfor
#endfor
#else
#for i in 0..FEATURES
#for j in i..FEATURES
#if LANES
    sum[${i * FEATURES + j}] = subgroupAdd(s${i}${j});
#else
    sum[${i * FEATURES + j}] = s${i}${j};
#endif
#endfor
#endfor
#endif
    if (id == 0u) { finish(sum); }
}
