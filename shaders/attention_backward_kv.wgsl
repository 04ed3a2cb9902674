// The gradient of attention by its keys and values. Of one head, with p_ij, drop_ij and s_ij as
// in attention.wgsl and DELTA as in attention_backward_q.wgsl:
// DK[j] (+)= scale sum over i of p_ij (drop_ij DOUT[i] . V[j] - DELTA[i]) Q[i]
// DV[j] (+)= sum over i of p_ij drop_ij DOUT[i]
// where i are the queries that ask row j: the rows of its own sequence, with FIRST the query of its
// sample, with PADDED those of its sample from P.ahead steps before j on.
//
// In    Q, KV, TOKENS, LENGTHS, BIAS  as in attention.wgsl; TOKENS with FIRST, too
//       DOUT           [queries, heads HEAD]
//       LSE, DELTA     [queries, heads]
// Out   DKV            rows ldkv apart, DK from k_at, DV from v_at, as KV; only those columns are
//                      written; 0 (or what was there) for a row that belongs to no sequence
// Geometry  TILED, LANES, neither: as in attention.wgsl, but rows own keys, and queries are staged
//           or broadcast.
// Numerics  f32, each sum in a fixed order; probabilities are computed again from LSE.
// Limits    256 invocations, 16 KiB of workgroup memory; HEAD as in attention.wgsl.
// Twin      ops::attention::reference::backward_kv
#import attention

@group(0) @binding(0) var<storage, read> Q: array<M>;
#if KV
@group(0) @binding(1) var<storage, read> KV: array<M>;
#endif
#if TOKENS
@group(0) @binding(2) var<storage, read> TOKENS: array<vec4<u32>>;
#endif
#if LENGTHS
@group(0) @binding(7) var<storage, read> LENGTHS: array<u32>;
#endif
#if BIAS
@group(0) @binding(8) var<storage, read> BIAS: array<f32>;
#endif
@group(0) @binding(3) var<storage, read> DOUT: array<M>;
@group(0) @binding(4) var<storage, read> LSE: array<f32>;
@group(0) @binding(5) var<storage, read> DELTA: array<f32>;
@group(0) @binding(6) var<storage, read_write> DKV: array<M>;

#import attention_quads
#if BIAS
#import attention_bias
#endif

#import attention_dout

// Stores quad v of the head that begins at `at`, or adds it to what is there.
fn put(at: u32, v: u32, value: vec4<f32>) {
#if WIDTH
#for e in 0..4
    if (4u * v + ${e}u < HW) {
        let to = at + 4u * v + ${e}u;
        DKV[to] = value[${e}] + select(0.0, DKV[to], P.accumulate != 0u);
    }
#endfor
#else
    DKV[at + v] = value + select(vec4<f32>(), DKV[at + v], P.accumulate != 0u);
#endif
}
#if PADDED
#import attention_padded
#endif

// The queries that ask a key.
fn queries_of(key: u32) -> vec2<u32> {
#if PADDED
    let sample = min(key, P.keys - 1u) / P.kv_steps;
    let step = key % P.kv_steps;
    let first = sample * P.steps + min(step - min(P.ahead, step), P.steps);
    let end = (sample + 1u) * P.steps;
    let there = key < P.keys && step < length_of(sample) && first < end;
    return select(NOWHERE, vec2<u32>(first, end), there);
#else
    let token = TOKENS[min(key, P.keys - 1u)];
#if FIRST
    let there = key < P.keys && token.z > 0u && token.w < P.queries;
    return select(NOWHERE, vec2<u32>(token.w, token.w + 1u), there);
#else
    return sequence_of(key, token, P.queries);
#endif
#endif
}

// A key's place in its sequence.
fn place_of(key: u32) -> u32 {
#if PADDED
    return key % P.kv_steps;
#else
    return TOKENS[min(key, P.keys - 1u)].y & 0xffffu;
#endif
}

#if TILED
var<workgroup> tile_k: array<vec4<f32>, ${ROWS * (HEAD / 4 + 1)}>;
var<workgroup> tile_v: array<vec4<f32>, ${ROWS * (HEAD / 4 + 1)}>;
var<workgroup> tile_q: array<vec4<f32>, ${KEYS * (HEAD / 4 + 1)}>;
var<workgroup> tile_d: array<vec4<f32>, ${KEYS * (HEAD / 4 + 1)}>;
var<workgroup> slopes: array<f32, ${ROWS * (KEYS + 1)}>;
var<workgroup> weights: array<f32, ${ROWS * (KEYS + 1)}>;

@compute @workgroup_size(${ROWS * SPLIT})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let head = wid.y;
    let vectors = quads();
    let row0 = wid.x * ${ROWS}u;
    let r = id / ${SPLIT}u;
    let c = id % ${SPLIT}u;
    let key = row0 + r;
    let own = queries_of(key);
    let place = place_of(key);
    var reach = NOWHERE;
    for (var i = row0; i < min(row0 + ${ROWS}u, P.keys); i++) {
        let queries = queries_of(i);
        reach = vec2<u32>(min(reach.x, queries.x), max(reach.y, queries.y));
    }
    for (var i = id; i < ${ROWS}u * NV; i += ${ROWS * SPLIT}u) {
        let row = min(row0 + i / NV, P.keys - 1u) * P.ldkv / UNIT + head * HW;
        let at = i / NV * (NV + 1u) + i % NV;
        tile_k[at] = kv_quad(row + P.k_at / UNIT, i % NV);
        tile_v[at] = kv_quad(row + P.v_at / UNIT, i % NV);
    }
    let salt = mask_salt();
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
    var dk${v} = vec4<f32>();
    var dv${v} = vec4<f32>();
#endfor
    for (var i0 = reach.x; i0 < reach.y; i0 += ${KEYS}u) {
        let last = min(i0 + ${KEYS}u, reach.y);
        for (var i = id; i < (last - i0) * NV; i += ${ROWS * SPLIT}u) {
            let row = i0 + i / NV;
            let at = i / NV * (NV + 1u) + i % NV;
            tile_q[at] = q_quad((row * P.ldq + P.q_at) / UNIT + head * HW, i % NV) * P.scale;
            tile_d[at] = dout_quad((row * P.heads + head) * HW, i % NV);
        }
        workgroupBarrier();
        for (var i = i0 + c; i < last; i += ${SPLIT}u) {
            var dots = vec4<f32>();
            var outs = vec4<f32>();
            for (var v = 0u; v < vectors; v++) {
                dots += tile_k[r * (NV + 1u) + v] * tile_q[(i - i0) * (NV + 1u) + v];
                outs += tile_v[r * (NV + 1u) + v] * tile_d[(i - i0) * (NV + 1u) + v];
            }
            let stat = i * P.heads + head;
#if BIAS
            let score = sum4(dots) + bias_of(i, key, head);
            let p = select(0.0, share(score - LSE[stat]), within(i, own));
#else
            let p = select(0.0, share(sum4(dots) - LSE[stat]), within(i, own));
#endif
            let factor = kept(salt, mask_row(i, head) + place, P.threshold, P.keep);
            slopes[r * ${KEYS + 1}u + i - i0] = p * (factor * sum4(outs) - DELTA[stat]);
            weights[r * ${KEYS + 1}u + i - i0] = p * factor;
        }
        workgroupBarrier();
        for (var i = i0; i < last; i++) {
            let slope = slopes[r * ${KEYS + 1}u + i - i0];
            let weight = weights[r * ${KEYS + 1}u + i - i0];
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
            dk${v} += slope * tile_q[(i - i0) * (NV + 1u) + min(c + ${v * SPLIT}u, NV - 1u)];
            dv${v} += weight * tile_d[(i - i0) * (NV + 1u) + min(c + ${v * SPLIT}u, NV - 1u)];
#endfor
        }
        workgroupBarrier();
    }
    if (key >= P.keys) { return; }
    let at = key * P.ldkv / UNIT + head * HW;
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
    if (c + ${v * SPLIT}u < NV) {
        put(at + P.k_at / UNIT, c + ${v * SPLIT}u, dk${v});
        put(at + P.v_at / UNIT, c + ${v * SPLIT}u, dv${v});
    }
#endfor
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = wid.y;
    let heads = P.heads;
    let ldq = P.ldq / UNIT;
    let q_at = P.q_at / UNIT + head * HW;
    let vectors = quads();
    // Which vectors of a row this lane loads; some twice where a row has fewer than there are lanes.
#for l in 0..(HEAD / 4 + LANES - 1) / LANES
    let part${l} = (lane + ${l * LANES}u) % NV;
#endfor
    var reach = NOWHERE;
#for r in 0..ROWS
    let key${r} = wid.x * ${LANES * ROWS}u + ${r * LANES}u + lane;
    let own${r} = queries_of(key${r});
    reach = vec2<u32>(min(reach.x, own${r}.x), max(reach.y, own${r}.y));
    let place${r} = place_of(key${r});
    let kv_at${r} = min(key${r}, P.keys - 1u) * P.ldkv / UNIT + head * HW;
    var k${r}: array<vec4<f32>, ${HEAD / 4}>;
    var v${r}: array<vec4<f32>, ${HEAD / 4}>;
    var dk${r}: array<vec4<f32>, ${HEAD / 4}>;
    var dv${r}: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < vectors; v++) {
        k${r}[nth(v)] = kv_quad(kv_at${r} + P.k_at / UNIT, v) * P.scale;
        v${r}[nth(v)] = kv_quad(kv_at${r} + P.v_at / UNIT, v);
    }
#for v in 0..HEAD / 4
    dk${r}[${v}] = vec4<f32>();
    dv${r}[${v}] = vec4<f32>();
#endfor
#endfor
    let salt = mask_salt();
    let threshold = P.threshold;
    let keep = P.keep;
    let end = subgroupMax(reach.y);
    for (var i = subgroupMin(reach.x); i < end; i++) {
#for l in 0..(HEAD / 4 + LANES - 1) / LANES
        let q${l} = q_quad(i * ldq + q_at, part${l});
        let d${l} = dout_quad((i * heads + head) * HW, part${l});
#endfor
        let lse = LSE[i * heads + head];
        let delta = DELTA[i * heads + head];
#for r in 0..ROWS
        var dots${r} = vec4<f32>();
        var outs${r} = vec4<f32>();
#endfor
#for v in 0..HEAD / 4
        {
            let q = subgroupBroadcast(q${v / LANES}, ${v % LANES}u);
            let d = subgroupBroadcast(d${v / LANES}, ${v % LANES}u);
#for r in 0..ROWS
            dots${r} += k${r}[${v}] * q;
            outs${r} += v${r}[${v}] * d;
#endfor
        }
#endfor
        let mask_at = mask_row(i, head);
#for r in 0..ROWS
#if BIAS
        let score${r} = sum4(dots${r}) + bias_of(i, key${r}, head);
        let p${r} = select(0.0, share(score${r} - lse), within(i, own${r}));
#else
        let p${r} = select(0.0, share(sum4(dots${r}) - lse), within(i, own${r}));
#endif
        let factor${r} = kept(salt, mask_at + place${r}, threshold, keep);
        let slope${r} = p${r} * (factor${r} * sum4(outs${r}) - delta);
        let weight${r} = p${r} * factor${r};
#endfor
#for v in 0..HEAD / 4
        {
            let q = subgroupBroadcast(q${v / LANES}, ${v % LANES}u);
            let d = subgroupBroadcast(d${v / LANES}, ${v % LANES}u);
#for r in 0..ROWS
            dk${r}[${v}] += slope${r} * q;
            dv${r}[${v}] += weight${r} * d;
#endfor
        }
#endfor
    }
#for r in 0..ROWS
    if (key${r} < P.keys) {
        for (var v = 0u; v < vectors; v++) {
            put(kv_at${r} + P.k_at / UNIT, v, dk${r}[nth(v)] * P.scale);
            put(kv_at${r} + P.v_at / UNIT, v, dv${r}[nth(v)]);
        }
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
    let key = item / P.heads;
    let head = item % P.heads;
    if (key >= P.keys) { return; }
    let own = queries_of(key);
    let place = place_of(key);
    let k_at = (key * P.ldkv + P.k_at) / UNIT + head * HW;
    let v_at = (key * P.ldkv + P.v_at) / UNIT + head * HW;
    let salt = mask_salt();
    var dk: array<vec4<f32>, ${HEAD / 4}>;
    var dv: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < quads(); v++) {
        dk[nth(v)] = vec4<f32>();
        dv[nth(v)] = vec4<f32>();
    }
    for (var i = own.x; i < own.y; i++) {
        let q_at = (i * P.ldq + P.q_at) / UNIT + head * HW;
        let stat = i * P.heads + head;
        var dots = vec4<f32>();
        var outs = vec4<f32>();
        for (var v = 0u; v < quads(); v++) {
            dots += q_quad(q_at, v) * kv_quad(k_at, v);
            outs += dout_quad(stat * HW, v) * kv_quad(v_at, v);
        }
#if BIAS
        let p = share(sum4(dots) * P.scale + bias_of(i, key, head) - LSE[stat]);
#else
        let p = share(sum4(dots) * P.scale - LSE[stat]);
#endif
        let factor = kept(salt, mask_row(i, head) + place, P.threshold, P.keep);
        let slope = p * (factor * sum4(outs) - DELTA[stat]);
        for (var v = 0u; v < quads(); v++) {
            dk[nth(v)] += slope * q_quad(q_at, v);
            dv[nth(v)] += p * factor * dout_quad(stat * HW, v);
        }
    }
    for (var v = 0u; v < quads(); v++) {
        put(k_at, v, dk[nth(v)] * P.scale);
        put(v_at, v, dv[nth(v)]);
    }
}
#endif
