// The gradient of attention by its queries. Of one head, with p_ij, drop_ij and s_ij as in
// attention.wgsl:
// DELTA[i] = DOUT[i] . OUT[i]        (= sum over j of p_ij drop_ij DOUT[i] . V[j])
// DQ[i] (+)= scale sum over j of p_ij (drop_ij DOUT[i] . V[j] - DELTA[i]) K[j]
//
// In    Q, KV, TOKENS, SPANS, LENGTHS, BIAS  as in attention.wgsl
//       OUT, DOUT  [queries, heads HEAD]: its result, and that one's gradient
//       LSE        [queries, heads]
// Out   DQ         rows ldq apart, from q_at, as Q; only those columns are written; 0 (or what was
//                  there) where there is no sequence
//       DELTA      [queries, heads]: for attention_backward_kv
// Geometry  TILED, LANES, neither: as in attention.wgsl, by queries.
// Numerics  f32, each sum in a fixed order; probabilities are computed again from LSE.
// Limits    256 invocations, 16 KiB of workgroup memory; HEAD as in attention.wgsl.
// Twin      ops::attention::reference::backward_q
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
@group(0) @binding(9) var<storage, read> LENGTHS: array<u32>;
#endif
#if BIAS
@group(0) @binding(10) var<storage, read> BIAS: array<f32>;
#endif
@group(0) @binding(4) var<storage, read> OUT: array<M>;
@group(0) @binding(5) var<storage, read> DOUT: array<M>;
@group(0) @binding(6) var<storage, read> LSE: array<f32>;
@group(0) @binding(7) var<storage, read_write> DQ: array<M>;
@group(0) @binding(8) var<storage, read_write> DELTA: array<f32>;

#import attention_keys
#import attention_quads
#if BIAS
#import attention_bias
#endif

// The same of OUT.
fn out_quad(at: u32, v: u32) -> vec4<f32> {
#if WIDTH
    let e = 4u * v;
    return vec4<f32>(
        OUT[at + e],
        select(0.0, OUT[at + min(e + 1u, HW - 1u)], e + 1u < HW),
        select(0.0, OUT[at + min(e + 2u, HW - 1u)], e + 2u < HW),
        select(0.0, OUT[at + min(e + 3u, HW - 1u)], e + 3u < HW));
#else
    return OUT[at + v];
#endif
}

#import attention_dout

// Stores quad v of the head that begins at `at`, or adds it to what is there.
fn put(at: u32, v: u32, value: vec4<f32>) {
#if WIDTH
#for e in 0..4
    if (4u * v + ${e}u < HW) {
        let to = at + 4u * v + ${e}u;
        DQ[to] = value[${e}] + select(0.0, DQ[to], P.accumulate != 0u);
    }
#endfor
#else
    DQ[at + v] = value + select(vec4<f32>(), DQ[at + v], P.accumulate != 0u);
#endif
}

#if TILED
var<workgroup> tile_q: array<vec4<f32>, ${ROWS * (HEAD / 4 + 1)}>;
var<workgroup> tile_d: array<vec4<f32>, ${ROWS * (HEAD / 4 + 1)}>;
var<workgroup> tile_k: array<vec4<f32>, ${KEYS * (HEAD / 4 + 1)}>;
var<workgroup> tile_v: array<vec4<f32>, ${KEYS * (HEAD / 4 + 1)}>;
var<workgroup> slopes: array<f32, ${ROWS * (KEYS + 1)}>;
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
        let at = i / NV * (NV + 1u) + i % NV;
        tile_q[at] = q_quad((row * P.ldq + P.q_at) / UNIT + head * HW, i % NV) * P.scale;
        tile_d[at] = dout_quad((row * P.heads + head) * HW, i % NV);
    }
    workgroupBarrier();
    let stat = min(query, P.queries - 1u) * P.heads + head;
    var product = vec4<f32>();
    for (var v = c; v < vectors; v += ${SPLIT}u) {
        product += tile_d[r * (NV + 1u) + v] * out_quad(stat * HW, v);
    }
    parts[id] = sum4(product);
    workgroupBarrier();
    var delta = 0.0;
    for (var i = 0u; i < ${SPLIT}u; i++) { delta += parts[r * ${SPLIT}u + i]; }
    let lse = LSE[stat];
    let salt = mask_salt();
    let mask_at = mask_row(query, head) - own.x;
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
            var outs = vec4<f32>();
            for (var v = 0u; v < vectors; v++) {
                dots += tile_q[r * (NV + 1u) + v] * tile_k[(j - j0) * (NV + 1u) + v];
                outs += tile_d[r * (NV + 1u) + v] * tile_v[(j - j0) * (NV + 1u) + v];
            }
#if BIAS
            let score = sum4(dots) + bias_of(query, j, head);
            let p = select(0.0, share(score - lse), within(j, own));
#else
            let p = select(0.0, share(sum4(dots) - lse), within(j, own));
#endif
            let factor = kept(salt, mask_at + j, P.threshold, P.keep);
            slopes[r * ${KEYS + 1}u + j - j0] = p * (factor * sum4(outs) - delta);
        }
        workgroupBarrier();
        for (var j = j0; j < last; j++) {
            let slope = slopes[r * ${KEYS + 1}u + j - j0];
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
            acc${v} += slope * tile_k[(j - j0) * (NV + 1u) + min(c + ${v * SPLIT}u, NV - 1u)];
#endfor
        }
        workgroupBarrier();
    }
    if (query >= P.queries) { return; }
    let dq_at = (query * P.ldq + P.q_at) / UNIT + head * HW;
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
    if (c + ${v * SPLIT}u < NV) { put(dq_at, c + ${v * SPLIT}u, acc${v} * P.scale); }
#endfor
    if (c == 0u) { DELTA[stat] = delta; }
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
    let stat${r} = min(query${r}, P.queries - 1u) * P.heads + head;
    let lse${r} = LSE[stat${r}];
    var products${r} = vec4<f32>();
    var q${r}: array<vec4<f32>, ${HEAD / 4}>;
    var d${r}: array<vec4<f32>, ${HEAD / 4}>;
    var acc${r}: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < vectors; v++) {
        q${r}[nth(v)] = q_quad(q_at${r}, v) * P.scale;
        d${r}[nth(v)] = dout_quad(stat${r} * HW, v);
        products${r} += d${r}[nth(v)] * out_quad(stat${r} * HW, v);
    }
#for v in 0..HEAD / 4
    acc${r}[${v}] = vec4<f32>();
#endfor
    let delta${r} = sum4(products${r});
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
        var outs${r} = vec4<f32>();
#endfor
#for v in 0..HEAD / 4
        {
            let k = subgroupBroadcast(k${v / LANES}, ${v % LANES}u);
            let x = subgroupBroadcast(v${v / LANES}, ${v % LANES}u);
#for r in 0..ROWS
            dots${r} += q${r}[${v}] * k;
            outs${r} += d${r}[${v}] * x;
#endfor
        }
#endfor
#for r in 0..ROWS
#if BIAS
        let score${r} = sum4(dots${r}) + bias_of(query${r}, j, head);
        let p${r} = select(0.0, share(score${r} - lse${r}), within(j, own${r}));
#else
        let p${r} = select(0.0, share(sum4(dots${r}) - lse${r}), within(j, own${r}));
#endif
        let factor${r} = kept(salt, mask_at${r} + j, threshold, keep);
        let slope${r} = p${r} * (factor${r} * sum4(outs${r}) - delta${r});
#endfor
#for v in 0..HEAD / 4
        {
            let k = subgroupBroadcast(k${v / LANES}, ${v % LANES}u);
#for r in 0..ROWS
            acc${r}[${v}] += slope${r} * k;
#endfor
        }
#endfor
    }
#for r in 0..ROWS
    if (query${r} < P.queries) {
        DELTA[stat${r}] = delta${r};
        for (var v = 0u; v < vectors; v++) { put(q_at${r}, v, acc${r}[nth(v)] * P.scale); }
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
    let lse = LSE[item];
    var products = vec4<f32>();
    var acc: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < quads(); v++) {
        products += dout_quad(item * HW, v) * out_quad(item * HW, v);
        acc[nth(v)] = vec4<f32>();
    }
    let delta = sum4(products);
    for (var j = own.x; j < own.y; j++) {
        let k_at = (j * P.ldkv + P.k_at) / UNIT + head * HW;
        let v_at = (j * P.ldkv + P.v_at) / UNIT + head * HW;
        var dots = vec4<f32>();
        var outs = vec4<f32>();
        for (var v = 0u; v < quads(); v++) {
            dots += q_quad(q_at, v) * kv_quad(k_at, v);
            outs += dout_quad(item * HW, v) * kv_quad(v_at, v);
        }
#if BIAS
        let p = share(sum4(dots) * P.scale + bias_of(query, j, head) - lse);
#else
        let p = share(sum4(dots) * P.scale - lse);
#endif
        let factor = kept(salt, mask_at + j - own.x, P.threshold, P.keep);
        let slope = p * (factor * sum4(outs) - delta);
        for (var v = 0u; v < quads(); v++) { acc[nth(v)] += slope * kv_quad(k_at, v); }
    }
    DELTA[item] = delta;
    for (var v = 0u; v < quads(); v++) { put(q_at, v, acc[nth(v)] * P.scale); }
}
#endif
