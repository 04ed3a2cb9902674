// The gradient of attention by its bias. Of one head, with p_ij and drop_ij as in attention.wgsl and
// DELTA as in attention_backward_q.wgsl:
// DBIAS[d, h] (+)= sum over i and j of p_ij (drop_ij DOUT[i] . V[j] - DELTA[i])
// where j are the rows of i's own sequence that are d - P.reach steps behind i (before it: below 0),
// and of the first and the last d also those beyond.
//
// In    Q, TOKENS, BIAS  as in attention.wgsl; queries, keys and values are all of Q
//       DOUT             [queries, heads HEAD]
//       LSE, DELTA       [queries, heads]
// Out   DBIAS            [2 reach + 1, heads]
// Geometry  by shared/row.wgsl: a distance of a head is a row, and goes through all queries.
// Numerics  f32, each sum in a fixed order; probabilities are computed again from LSE.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory; HEAD as in attention.wgsl.
// Twin      ops::attention::reference::backward_bias
#import attention
#import row

@group(0) @binding(0) var<storage, read> Q: array<M>;
@group(0) @binding(1) var<storage, read> TOKENS: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> DOUT: array<M>;
@group(0) @binding(3) var<storage, read> LSE: array<f32>;
@group(0) @binding(4) var<storage, read> DELTA: array<f32>;
@group(0) @binding(5) var<storage, read> BIAS: array<f32>;
@group(0) @binding(6) var<storage, read_write> DBIAS: array<f32>;

#import attention_bias
#import attention_keys
#import attention_quads

#import attention_dout

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = row_of(wid, count, id);
    let distance = item / P.heads;
    let head = item % P.heads;
    let there = distance <= 2u * P.reach;
    let salt = mask_salt();
    let end = select(0u, P.queries, there);
    var total = 0.0;
    for (var i = row_start(id); i < end; i += STRIDE) {
        let own = keys_of(i);
        // The row at this distance, one too far where it would be before the first.
        let at = i + distance - min(P.reach, i + distance);
        let before = i + distance < P.reach;
        let first = select(select(at, own.x, before), own.x, distance == 0u);
        let past = select(select(at + 1u, own.x, before), own.y, distance == 2u * P.reach);
        let q_at = (i * P.ldq + P.q_at) / UNIT + head * HW;
        let stat = min(i, P.queries - 1u) * P.heads + head;
        for (var j = max(first, own.x); j < min(past, own.y); j++) {
            let k_at = (j * P.ldkv + P.k_at) / UNIT + head * HW;
            let v_at = (j * P.ldkv + P.v_at) / UNIT + head * HW;
            var dots = vec4<f32>();
            var outs = vec4<f32>();
#for v in 0..HEAD / 4
            dots += q_quad(q_at, ${v}u) * kv_quad(k_at, ${v}u);
            outs += dout_quad(stat * HW, ${v}u) * kv_quad(v_at, ${v}u);
#endfor
            let score = sum4(dots) * P.scale + bias_of(i, j, head);
            let p = share(score - LSE[stat]);
            let factor = kept(salt, mask_row(i, head) + j - own.x, P.threshold, P.keep);
            total += p * (factor * sum4(outs) - DELTA[stat]);
        }
    }
    let sum = row_sum(total, id);
    if (there && row_owner(id)) {
        DBIAS[item] = sum + select(0.0, DBIAS[item], P.accumulate != 0u);
    }
}
