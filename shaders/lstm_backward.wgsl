// Backward of lstm_forward through time: from dY and dLAST to the gradients of the
// pre-activations, which replace the activated gates:
//   dh = dY_t + (t last) dLAST + W^T dz_{t+1}      dc += dh o (1 - tanh(c)^2)
//   dz_o = dh tanh(c) o (1 - o)                    dz_i = dc g i (1 - i)
//   dz_f = dc c_{t-1} f (1 - f)                    dz_g = dc i (1 - g^2)      dc <- dc f
// The weight gradients are ordinary products of dz with the inputs and with PREV, afterwards.
//
// In    GATES [batch, steps, 4 hidden] activated; W [4 hidden, hidden]; LENGTHS [batch];
//       CELL [batch, steps, hidden]; DY optional [batch, steps, ldy], columns from y_at;
//       DLAST optional [batch, ld_last], columns from last_at
// Out   GATES: dz, zero beyond the length;  STATE [batch, 2 hidden]: dh and dc on the way
//
// Geometry  as lstm_forward; TILED: an invocation owns a hidden unit, then a slice of W^T dz.
// Numerics  f32, sums in order; |dh| and |dc| below 1e-30 are taken as zero.
// Limits    256 invocations, hidden <= 256, 6 KiB of workgroup memory.
// Twin      ops::lstm::reference::backward
#import activation
#import lstm
#if LANES
@group(0) @binding(0) var<storage, read_write> GATES: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> W: array<vec4<f32>>;
#else
@group(0) @binding(0) var<storage, read_write> GATES: array<f32>;
@group(0) @binding(1) var<storage, read> W: array<f32>;
#endif
@group(0) @binding(2) var<storage, read> LENGTHS: array<u32>;
#if LANES
@group(0) @binding(3) var<storage, read> CELL: array<vec4<f32>>;
#else
@group(0) @binding(3) var<storage, read> CELL: array<f32>;
#endif
#if LANES
#if DY
@group(0) @binding(4) var<storage, read> DY: array<vec4<f32>>;
#endif
#if DLAST
@group(0) @binding(5) var<storage, read> DLAST: array<vec4<f32>>;
#endif
#else
#if DY
@group(0) @binding(4) var<storage, read> DY: array<f32>;
#endif
#if DLAST
@group(0) @binding(5) var<storage, read> DLAST: array<f32>;
#endif
#endif
#if LANES
@group(0) @binding(6) var<storage, read_write> STATE: array<vec4<f32>>;
#else
@group(0) @binding(6) var<storage, read_write> STATE: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

#if !LANES
// What flows into unit j of sample b at time t from above.
fn upstream(b: u32, t: u32, j: u32, last: bool) -> f32 {
    var dh = 0.0;
#if DY
    dh += DY[(b * P.steps + t) * P.ldy + P.y_at + j];
#endif
#if DLAST
    if (last) { dh += DLAST[b * P.ld_last + P.last_at + j]; }
#endif
    return dh;
}
#endif

// A gradient that has vanished is zero. Hundreds of steps back it would be denormal, and a CPU
// adapter computes with denormal numbers many times slower than with others (benches/NOTES.md).
fn flush(x: f32) -> f32 {
    return select(0.0, x, abs(x) > 1e-30);
}

fn flush4(x: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(), x, abs(x) > vec4<f32>(1e-30));
}

#if TILED
var<workgroup> dz: array<f32, 1024>;
var<workgroup> part: array<f32, 256>;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let b = wid.x;
    let hidden = P.hidden;
    let length = min(LENGTHS[b], P.steps);
    // Invocation (q, k) sums a quarter (or so) of the rows of W for unit k.
    let slices = ${WG}u / hidden;
    let q = id / hidden;
    let k = id % hidden;
    let rows = (4u * hidden + slices - 1u) / slices;
    var dh = 0.0;
    var dc = 0.0;
    for (var back = 0u; back < length; back++) {
        let s = length - 1u - back;
        let t = visit(s, length);
        let step = b * P.steps + t;
        let before = b * P.steps + visited_before(t);
        if (id < hidden) {
            let at = step * 4u * hidden + id;
            let i = GATES[at];
            let f = GATES[at + hidden];
            let g = GATES[at + 2u * hidden];
            let o = GATES[at + 3u * hidden];
            let c = safe_tanh(CELL[step * hidden + id]);
            var c_before = 0.0;
            if (s > 0u) { c_before = CELL[before * hidden + id]; }
            let above = flush(dh + upstream(b, t, id, back == 0u));
            dc = flush(dc + above * o * (1.0 - c * c));
            let d = vec4<f32>(dc * g * i * (1.0 - i), dc * c_before * f * (1.0 - f),
                dc * i * (1.0 - g * g), above * c * o * (1.0 - o));
            dc *= f;
#for n in 0..4
            GATES[at + ${n}u * hidden] = d[${n}];
            dz[id + ${n}u * hidden] = d[${n}];
#endfor
        }
        workgroupBarrier();
        if (q < slices) {
            var sum = 0.0;
            for (var r = q * rows; r < min((q + 1u) * rows, 4u * hidden); r++) {
                sum += dz[r] * W[r * hidden + k];
            }
            part[id] = sum;
        }
        workgroupBarrier();
        if (id < hidden) {
            dh = 0.0;
            for (var n = 0u; n < slices; n++) { dh += part[n * hidden + id]; }
        }
    }
    if (id < hidden) {
        STATE[b * 2u * hidden + id] = dh;
        STATE[b * 2u * hidden + hidden + id] = dc;
        for (var t = length; t < P.steps; t++) {
            let at = (b * P.steps + t) * 4u * hidden + id;
#for n in 0..4
            GATES[at + ${n}u * hidden] = 0.0;
#endfor
        }
    }
}
#endif

#if LANES
// What flows into four units of sample b at time t from above.
fn upstream4(b: u32, t: u32, j: u32, last: bool) -> vec4<f32> {
    var dh = vec4<f32>();
#if DY
    dh += DY[((b * P.steps + t) * P.ldy + P.y_at) / 4u + j];
#endif
#if DLAST
    if (last) { dh += DLAST[(b * P.ld_last + P.last_at) / 4u + j]; }
#endif
    return dh;
}

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sample = wid.x * ${LANES}u + lane;
    let b = min(sample, P.batch - 1u);
    let quads = ${HID / 4}u;
    let length = select(0u, min(LENGTHS[b], P.steps), sample < P.batch);
    let longest = subgroupMax(length);
    if (sample < P.batch) {
        for (var j = 0u; j < 2u * quads; j++) { STATE[b * 2u * quads + j] = vec4<f32>(); }
        for (var at = (b * P.steps + length) * 4u * quads; at < (b + 1u) * P.steps * 4u * quads; at++) {
            GATES[at] = vec4<f32>();
        }
    }
    for (var back = 0u; back < longest; back++) {
        let s = longest - 1u - back;
        let live = s < length;
        let t = visit_within(s, length);
        let step = b * P.steps + t;
        let before = b * P.steps + visited_before(t);
        for (var j = 0u; j < quads; j++) {
            if (live) {
                let at = step * 4u * quads + j;
                let i = GATES[at];
                let f = GATES[at + quads];
                let g = GATES[at + 2u * quads];
                let o = GATES[at + 3u * quads];
                let c = safe_tanh4(CELL[step * quads + j]);
                let c_before = select(vec4<f32>(), CELL[select(step, before, s > 0u) * quads + j], s > 0u);
                let dh = flush4(STATE[b * 2u * quads + j] + upstream4(b, t, j, s + 1u == length));
                let dc = flush4(STATE[b * 2u * quads + quads + j] + dh * o * (1.0 - c * c));
                GATES[at] = dc * g * i * (1.0 - i);
                GATES[at + quads] = dc * c_before * f * (1.0 - f);
                GATES[at + 2u * quads] = dc * i * (1.0 - g * g);
                GATES[at + 3u * quads] = dh * c * o * (1.0 - o);
                STATE[b * 2u * quads + quads + j] = dc * f;
            }
        }
        // dh = W^T dz: sixteen units at a time, four rows of W at a time.
        for (var j = 0u; j < quads; j += 4u) {
#for n in 0..(16 + LANES - 1) / LANES
            let w_at${n} = ((lane + ${n * LANES}u) % 16u) / 4u * quads
                + min(j + (lane + ${n * LANES}u) % 4u, quads - 1u);
#endfor
            var d0 = vec4<f32>();
            var d1 = vec4<f32>();
            var d2 = vec4<f32>();
            var d3 = vec4<f32>();
            for (var r = 0u; r < 4u * quads; r++) {
                let dz = GATES[step * 4u * quads + r];
#for n in 0..(16 + LANES - 1) / LANES
                let w${n} = W[w_at${n} + r * 4u * quads];
#endfor
#for c in 0..4
#for q in 0..4
                d${q} += dz[${c}] * subgroupBroadcast(w${(4 * c + q) / LANES}, ${(4 * c + q) % LANES}u);
#endfor
#endfor
            }
            if (live) {
                var d = array<vec4<f32>, 4>(d0, d1, d2, d3);
                for (var q = 0u; q < min(4u, quads - j); q++) {
                    STATE[b * 2u * quads + j + q] = d[q];
                }
            }
        }
    }
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let b = wid.x * 8u + id;
    if (b >= P.batch) { return; }
    let hidden = P.hidden;
    let length = min(LENGTHS[b], P.steps);
    let state = b * 2u * hidden;
    for (var j = 0u; j < 2u * hidden; j++) { STATE[state + j] = 0.0; }
    for (var back = 0u; back < length; back++) {
        let s = length - 1u - back;
        let t = visit(s, length);
        let step = b * P.steps + t;
        let before = b * P.steps + visited_before(t);
        for (var j = 0u; j < hidden; j++) {
            let at = step * 4u * hidden + j;
            let i = GATES[at];
            let f = GATES[at + hidden];
            let g = GATES[at + 2u * hidden];
            let o = GATES[at + 3u * hidden];
            let c = safe_tanh(CELL[step * hidden + j]);
            var c_before = 0.0;
            if (s > 0u) { c_before = CELL[before * hidden + j]; }
            let dh = flush(STATE[state + j] + upstream(b, t, j, back == 0u));
            let dc = flush(STATE[state + hidden + j] + dh * o * (1.0 - c * c));
            GATES[at] = dc * g * i * (1.0 - i);
            GATES[at + hidden] = dc * c_before * f * (1.0 - f);
            GATES[at + 2u * hidden] = dc * i * (1.0 - g * g);
            GATES[at + 3u * hidden] = dh * c * o * (1.0 - o);
            STATE[state + hidden + j] = dc * f;
        }
        for (var k = 0u; k < hidden; k++) {
            var sum = 0.0;
            for (var r = 0u; r < 4u * hidden; r++) {
                sum += GATES[step * 4u * hidden + r] * W[r * hidden + k];
            }
            STATE[state + k] = sum;
        }
    }
    for (var at = (b * P.steps + length) * 4u * hidden; at < (b + 1u) * P.steps * 4u * hidden; at++) {
        GATES[at] = 0.0;
    }
}
#endif
