// OUT[i, h] = sum over j of drop_ij p_ij V[j, h],    p_ij = exp(s_ij - LSE[i, h]),
// s_ij = scale Q[i, h] . K[j, h],    LSE[i, h] = log sum over j of exp(s_ij)
// where j are the rows of i's own sequence. With FIRST query i is that of sample i, and j are the
// rows of that sample. With BIAS s_ij is that and BIAS[d, h], d - reach being the steps from row i to row j,
// or as many as there are. With PADDED queries come in samples of P.steps and keys in samples of
// P.kv_steps; j are the keys of i's sample, up to its length and to P.ahead steps behind i's own.
//
// In    Q       rows ldq apart, from q_at: heads one after another, HEAD elements each
//       KV      rows ldkv apart, keys from k_at, values from v_at, as in Q; with BIAS they lie in Q itself
//       TOKENS  [keys, 4], one row a token: its word, its position | its segment << 16, the length
//               of its sequence (0 for a row that belongs to none), its sample
//       SPANS   [queries, 2], with FIRST and instead of TOKENS: a sample's first row and length
//       BIAS    [2 reach + 1, heads], optional, with TOKENS
//       LENGTHS [samples], with PADDED, optional: keys of each that count
// Out   OUT     [queries, heads HEAD]; 0 where there is no sequence
//       LSE     [queries, heads], optional: what the gradient needs
// Geometry  TILED: a workgroup owns ROWS queries of a head, SPLIT invocations each; KEYS keys and
//           values at a time go through workgroup memory. An invocation computes the scores of
//           every SPLIT-th key, then every SPLIT-th vector of its query's result.
//           LANES: a workgroup is one subgroup, a lane owns ROWS queries; the subgroup goes through
//           all keys that any of its queries has, loads each one together and broadcasts it.
//           neither: an invocation owns a query of a head.
// Numerics  f32; the largest score so far is subtracted; see shared/attention.wgsl for exp.
// Limits    256 invocations, 16 KiB of workgroup memory; HEAD a multiple of 4, the size of a head
//           or with WIDTH that rounded up.
// Twin      ops::attention::reference::forward
#import attention

@group(0) @binding(0) var<storage, read> Q: array<M>;
#if KV
@group(0) @binding(1) var<storage, read> KV: array<M>;
#endif
#if FIRST
@group(0) @binding(3) var<storage, read> SPANS: array<vec2<u32>>;
#endif
#if TOKENS
@group(0) @binding(2) var<storage, read> TOKENS: array<vec4<u32>>;
#endif
#if LENGTHS
@group(0) @binding(6) var<storage, read> LENGTHS: array<u32>;
#endif
#if BIAS
@group(0) @binding(7) var<storage, read> BIAS: array<f32>;
#endif
@group(0) @binding(4) var<storage, read_write> OUT: array<M>;
#if LSE
@group(0) @binding(5) var<storage, read_write> LSE: array<f32>;
#endif

// Less than any score, and what a key outside the sequence scores: less than that.
const LOWEST = -1.0e30;
const OUTSIDE = -3.0e38;

// From the largest score and the sum of the others' shares of it; 0 where there is none.
fn log_sum(m: f32, total: f32, own: vec2<u32>) -> f32 {
    let none = own.x >= own.y;
    return select(m + log(select(total, 1.0, none)), 0.0, none);
}

#import attention_keys
#import attention_quads
#if BIAS
#import attention_bias
#endif

// Stores quad v of the head that begins at `at`.
fn out_quad(at: u32, v: u32, value: vec4<f32>) {
#if WIDTH
#for e in 0..4
    if (4u * v + ${e}u < HW) { OUT[at + 4u * v + ${e}u] = value[${e}]; }
#endfor
#else
    OUT[at + v] = value;
#endif
}

#if TILED
var<workgroup> tile_q: array<vec4<f32>, ${ROWS * (HEAD / 4 + 1)}>;
var<workgroup> tile_k: array<vec4<f32>, ${KEYS * (HEAD / 4 + 1)}>;
var<workgroup> tile_v: array<vec4<f32>, ${KEYS * (HEAD / 4 + 1)}>;
var<workgroup> scores: array<f32, ${ROWS * (KEYS + 1)}>;
var<workgroup> weights: array<f32, ${ROWS * (KEYS + 1)}>;
var<workgroup> parts: array<f32, ${ROWS * SPLIT}>;

@compute @workgroup_size(${ROWS * SPLIT})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let head = wid.y;
    let vectors = quads();
    let row0 = wid.x * ${ROWS}u;
    let r = id / ${SPLIT}u;
    let c = id % ${SPLIT}u;
    let query = row0 + r;
    let own = keys_of(query);
    var reach = NOWHERE;
    for (var i = row0; i < min(row0 + ${ROWS}u, P.queries); i++) {
        let keys = keys_of(i);
        reach = vec2<u32>(min(reach.x, keys.x), max(reach.y, keys.y));
    }
    for (var i = id; i < ${ROWS}u * NV; i += ${ROWS * SPLIT}u) {
        let row = min(row0 + i / NV, P.queries - 1u);
        tile_q[i / NV * (NV + 1u) + i % NV] =
            q_quad((row * P.ldq + P.q_at) / UNIT + head * HW, i % NV) * P.scale;
    }
    let salt = mask_salt();
    let mask_at = mask_row(query, head) - own.x;
    var m = LOWEST;
    // Of the keys whose scores are this invocation's.
    var total = 0.0;
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
    var acc${v} = vec4<f32>();
#endfor
    for (var j0 = reach.x; j0 < reach.y; j0 += ${KEYS}u) {
        let last = min(j0 + ${KEYS}u, reach.y);
        for (var i = id; i < (last - j0) * NV; i += ${ROWS * SPLIT}u) {
            let row = (j0 + i / NV) * P.ldkv / UNIT + head * HW;
            let at = i / NV * (NV + 1u) + i % NV;
            tile_k[at] = kv_quad(row + P.k_at / UNIT, i % NV);
            tile_v[at] = kv_quad(row + P.v_at / UNIT, i % NV);
        }
        workgroupBarrier();
        for (var j = j0 + c; j < last; j += ${SPLIT}u) {
            var dots = vec4<f32>();
            for (var v = 0u; v < vectors; v++) {
                dots += tile_q[r * (NV + 1u) + v] * tile_k[(j - j0) * (NV + 1u) + v];
            }
#if BIAS
            let score = sum4(dots) + bias_of(query, j, head);
            scores[r * ${KEYS + 1}u + j - j0] = select(OUTSIDE, score, within(j, own));
#else
            scores[r * ${KEYS + 1}u + j - j0] = select(OUTSIDE, sum4(dots), within(j, own));
#endif
        }
        workgroupBarrier();
        var top = m;
        for (var j = j0; j < last; j++) { top = max(top, scores[r * ${KEYS + 1}u + j - j0]); }
        let shrink = share(m - top);
        m = top;
        total *= shrink;
        for (var j = j0 + c; j < last; j += ${SPLIT}u) {
            let p = share(scores[r * ${KEYS + 1}u + j - j0] - m);
            total += p;
            weights[r * ${KEYS + 1}u + j - j0] = p * kept(salt, mask_at + j, P.threshold, P.keep);
        }
        workgroupBarrier();
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
        acc${v} *= shrink;
#endfor
        for (var j = j0; j < last; j++) {
            let weight = weights[r * ${KEYS + 1}u + j - j0];
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
            acc${v} += weight * tile_v[(j - j0) * (NV + 1u) + min(c + ${v * SPLIT}u, NV - 1u)];
#endfor
        }
        workgroupBarrier();
    }
    parts[id] = total;
    workgroupBarrier();
    total = 0.0;
    for (var i = 0u; i < ${SPLIT}u; i++) { total += parts[r * ${SPLIT}u + i]; }
    if (query >= P.queries) { return; }
    let one = select(1.0 / total, 0.0, own.x >= own.y);
    let out_at = (query * P.heads + head) * HW;
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
    if (c + ${v * SPLIT}u < NV) { out_quad(out_at, c + ${v * SPLIT}u, acc${v} * one); }
#endfor
#if LSE
    if (c == 0u) { LSE[query * P.heads + head] = log_sum(m, total, own); }
#endif
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = wid.y;
    let ldkv = P.ldkv / UNIT;
    let k_at = P.k_at / UNIT + head * HW;
    let v_at = P.v_at / UNIT + head * HW;
    let vectors = quads();
    // Which vectors of a row this lane loads; some twice where a row has fewer than there are lanes.
#for l in 0..(HEAD / 4 + LANES - 1) / LANES
    let part${l} = (lane + ${l * LANES}u) % NV;
#endfor
    var reach = NOWHERE;
#for r in 0..ROWS
    let query${r} = wid.x * ${LANES * ROWS}u + ${r * LANES}u + lane;
    let own${r} = keys_of(query${r});
    reach = vec2<u32>(min(reach.x, own${r}.x), max(reach.y, own${r}.y));
    let mask_at${r} = mask_row(query${r}, head) - own${r}.x;
    let q_at${r} = (min(query${r}, P.queries - 1u) * P.ldq + P.q_at) / UNIT + head * HW;
    var q${r}: array<vec4<f32>, ${HEAD / 4}>;
    var acc${r}: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < vectors; v++) { q${r}[nth(v)] = q_quad(q_at${r}, v) * P.scale; }
#for v in 0..HEAD / 4
    acc${r}[${v}] = vec4<f32>();
#endfor
    var m${r} = LOWEST;
    var total${r} = 0.0;
#endfor
    let salt = mask_salt();
    let threshold = P.threshold;
    let keep = P.keep;
    let end = subgroupMax(reach.y);
    for (var j = subgroupMin(reach.x); j < end; j++) {
#for l in 0..(HEAD / 4 + LANES - 1) / LANES
        let k${l} = kv_quad(j * ldkv + k_at, part${l});
        let v${l} = kv_quad(j * ldkv + v_at, part${l});
#endfor
#for r in 0..ROWS
        var dots${r} = vec4<f32>();
#endfor
#for v in 0..HEAD / 4
        {
            let k = subgroupBroadcast(k${v / LANES}, ${v % LANES}u);
#for r in 0..ROWS
            dots${r} += q${r}[${v}] * k;
#endfor
        }
#endfor
#for r in 0..ROWS
#if BIAS
        let score${r} = sum4(dots${r}) + bias_of(query${r}, j, head);
        let s${r} = select(OUTSIDE, score${r}, within(j, own${r}));
#else
        let s${r} = select(OUTSIDE, sum4(dots${r}), within(j, own${r}));
#endif
        let top${r} = max(m${r}, s${r});
        let shrink${r} = share(m${r} - top${r});
        let e${r} = share(s${r} - top${r});
        m${r} = top${r};
        total${r} = total${r} * shrink${r} + e${r};
        let p${r} = e${r} * kept(salt, mask_at${r} + j, threshold, keep);
#endfor
#for v in 0..HEAD / 4
        {
            let x = subgroupBroadcast(v${v / LANES}, ${v % LANES}u);
#for r in 0..ROWS
            acc${r}[${v}] = acc${r}[${v}] * shrink${r} + p${r} * x;
#endfor
        }
#endfor
    }
#for r in 0..ROWS
    if (query${r} < P.queries) {
        let one = select(1.0 / total${r}, 0.0, own${r}.x >= own${r}.y);
        let out_at = (query${r} * P.heads + head) * HW;
        for (var v = 0u; v < vectors; v++) { out_quad(out_at, v, acc${r}[nth(v)] * one); }
#if LSE
        LSE[query${r} * P.heads + head] = log_sum(m${r}, total${r}, own${r});
#endif
    }
#endfor
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    let query = item / P.heads;
    let head = item % P.heads;
    if (query >= P.queries) { return; }
    let own = keys_of(query);
    let q_at = (query * P.ldq + P.q_at) / UNIT + head * HW;
    let salt = mask_salt();
    let mask_at = mask_row(query, head);
    var m = LOWEST;
    var total = 0.0;
    var acc: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < quads(); v++) { acc[nth(v)] = vec4<f32>(); }
    for (var j = own.x; j < own.y; j++) {
        let k_at = (j * P.ldkv + P.k_at) / UNIT + head * HW;
        let v_at = (j * P.ldkv + P.v_at) / UNIT + head * HW;
        var dots = vec4<f32>();
        for (var v = 0u; v < quads(); v++) { dots += q_quad(q_at, v) * kv_quad(k_at, v); }
#if BIAS
        let s = sum4(dots) * P.scale + bias_of(query, j, head);
#else
        let s = sum4(dots) * P.scale;
#endif
        let top = max(m, s);
        let shrink = share(m - top);
        let e = share(s - top);
        m = top;
        total = total * shrink + e;
        let p = e * kept(salt, mask_at + j - own.x, P.threshold, P.keep);
        for (var v = 0u; v < quads(); v++) {
            acc[nth(v)] = acc[nth(v)] * shrink + p * kv_quad(v_at, v);
        }
    }
    let one = select(1.0 / total, 0.0, own.x >= own.y);
    for (var v = 0u; v < quads(); v++) { out_quad(item * HW, v, acc[nth(v)] * one); }
#if LSE
    LSE[item] = log_sum(m, total, own);
#endif
}
#endif
