// The gradient of attention by its keys and values. Of one head, with p_ij, drop_ij and s_ij as
// in attention.wgsl and DELTA as in attention_backward_q.wgsl:
// DK[j] (+)= scale sum over i of p_ij (drop_ij DOUT[i] . V[j] - DELTA[i]) Q[i]
// DV[j] (+)= sum over i of p_ij drop_ij DOUT[i]
// where i are the queries that ask row j: the rows of its own sequence, or with FIRST the query of
// its sample.
//
// In    Q, KV, TOKENS  as in attention.wgsl; TOKENS with FIRST, too
//       DOUT           [queries, heads HEAD]
//       LSE, DELTA     [queries, heads]
// Out   DKV            rows ldkv apart, DK from k_at, DV from v_at, as KV; only those columns are
//                      written; 0 (or what was there) for a row that belongs to no sequence
// Geometry  TILED, LANES, neither: as in attention.wgsl, but rows own keys, and queries are staged
//           or broadcast.
// Numerics  f32, each sum in a fixed order; probabilities are computed again from LSE.
// Limits    256 invocations, 16 KiB of workgroup memory; HEAD a multiple of 4.
// Twin      ops::attention::reference::backward_kv
#import attention

@group(0) @binding(0) var<storage, read> Q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> KV: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> TOKENS: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> DOUT: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> LSE: array<f32>;
@group(0) @binding(5) var<storage, read> DELTA: array<f32>;
@group(0) @binding(6) var<storage, read_write> DKV: array<vec4<f32>>;

// The queries that ask a key.
fn queries_of(key: u32) -> vec2<u32> {
    let token = TOKENS[min(key, P.keys - 1u)];
#if FIRST
    let there = key < P.keys && token.z > 0u && token.w < P.queries;
    return select(NOWHERE, vec2<u32>(token.w, token.w + 1u), there);
#else
    return sequence_of(key, token, P.queries);
#endif
}

// A key's place in its sequence.
fn place_of(key: u32) -> u32 {
    return TOKENS[min(key, P.keys - 1u)].y & 0xffffu;
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
    let vectors = P.head / 4u;
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
        let row = min(row0 + i / NV, P.keys - 1u) * P.ldkv / 4u + head * NV + i % NV;
        let at = i / NV * (NV + 1u) + i % NV;
        tile_k[at] = KV[row + P.k_at / 4u];
        tile_v[at] = KV[row + P.v_at / 4u];
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
            tile_q[at] = Q[(row * P.ldq + P.q_at) / 4u + head * NV + i % NV] * P.scale;
            tile_d[at] = DOUT[(row * P.heads + head) * NV + i % NV];
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
            let p = select(0.0, share(sum4(dots) - LSE[stat]), within(i, own));
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
    let at = key * P.ldkv / 4u + head * NV;
#for v in 0..(HEAD / 4 + SPLIT - 1) / SPLIT
    if (c + ${v * SPLIT}u < NV) {
        put(at + P.k_at / 4u + c + ${v * SPLIT}u, dk${v});
        put(at + P.v_at / 4u + c + ${v * SPLIT}u, dv${v});
    }
#endfor
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = wid.y;
    let heads = P.heads;
    let ldq = P.ldq / 4u;
    let vectors = P.head / 4u;
    // Which vectors of a row this lane loads; some twice where a row has fewer than there are lanes.
#for l in 0..(HEAD / 4 + LANES - 1) / LANES
    let part${l} = head * NV + (lane + ${l * LANES}u) % NV;
    let q_at${l} = P.q_at / 4u + part${l};
#endfor
    var reach = NOWHERE;
#for r in 0..ROWS
    let key${r} = wid.x * ${LANES * ROWS}u + ${r * LANES}u + lane;
    let own${r} = queries_of(key${r});
    reach = vec2<u32>(min(reach.x, own${r}.x), max(reach.y, own${r}.y));
    let place${r} = place_of(key${r});
    let kv_at${r} = min(key${r}, P.keys - 1u) * P.ldkv / 4u + head * NV;
    var k${r}: array<vec4<f32>, ${HEAD / 4}>;
    var v${r}: array<vec4<f32>, ${HEAD / 4}>;
    var dk${r}: array<vec4<f32>, ${HEAD / 4}>;
    var dv${r}: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < vectors; v++) {
        k${r}[nth(v)] = KV[kv_at${r} + P.k_at / 4u + v] * P.scale;
        v${r}[nth(v)] = KV[kv_at${r} + P.v_at / 4u + v];
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
        let q${l} = Q[i * ldq + q_at${l}];
        let d${l} = DOUT[i * heads * NV + part${l}];
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
        let p${r} = select(0.0, share(sum4(dots${r}) - lse), within(i, own${r}));
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
            put(kv_at${r} + P.k_at / 4u + v, dk${r}[nth(v)] * P.scale);
            put(kv_at${r} + P.v_at / 4u + v, dv${r}[nth(v)]);
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
    let k_at = (key * P.ldkv + P.k_at) / 4u + head * NV;
    let v_at = (key * P.ldkv + P.v_at) / 4u + head * NV;
    let salt = mask_salt();
    var dk: array<vec4<f32>, ${HEAD / 4}>;
    var dv: array<vec4<f32>, ${HEAD / 4}>;
    for (var v = 0u; v < P.head / 4u; v++) {
        dk[nth(v)] = vec4<f32>();
        dv[nth(v)] = vec4<f32>();
    }
    for (var i = own.x; i < own.y; i++) {
        let q_at = (i * P.ldq + P.q_at) / 4u + head * NV;
        let stat = i * P.heads + head;
        var dots = vec4<f32>();
        var outs = vec4<f32>();
        for (var v = 0u; v < P.head / 4u; v++) {
            dots += Q[q_at + v] * KV[k_at + v];
            outs += DOUT[stat * NV + v] * KV[v_at + v];
        }
        let p = share(sum4(dots) * P.scale - LSE[stat]);
        let factor = kept(salt, mask_row(i, head) + place, P.threshold, P.keep);
        let slope = p * (factor * sum4(outs) - DELTA[stat]);
        for (var v = 0u; v < P.head / 4u; v++) {
            dk[nth(v)] += slope * Q[q_at + v];
            dv[nth(v)] += p * factor * DOUT[stat * NV + v];
        }
    }
    for (var v = 0u; v < P.head / 4u; v++) {
        put(k_at + v, dk[nth(v)] * P.scale);
        put(v_at + v, dv[nth(v)]);
    }
}
#endif

fn put(at: u32, value: vec4<f32>) {
    DKV[at] = value + select(vec4<f32>(), DKV[at], P.accumulate != 0u);
}
