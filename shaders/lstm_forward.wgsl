// One direction of one LSTM layer over whole sequences, each sample to its own length:
//   i, f, o = sigmoid(z_i, z_f, z_o)   g = tanh(z_g)   with  z_t = X_t W_ih^T + b_ih + b_hh + W h
//   c_t = f c + i g                    h_t = o tanh(c_t)
//
// In    GATES   [batch, steps, 4 hidden]: X W_ih^T + b_ih, gates in PyTorch's order i, f, g, o
//       W       [4 hidden, hidden] = weight_hh;  BIAS [4 hidden] = bias_hh
//       LENGTHS [batch], 1 to steps; taken backwards in time where P.reverse
// Out   GATES   the activated gates, in place (for the backward)
//       CELL    [batch, steps, hidden]: c_t
//       PREV    [batch, steps, hidden]: h before step t, zero beyond the length
//       Y       optional [batch, steps, ldy], columns from y_at: h_t, zero beyond the length
//       LAST    optional [batch, ld_last], columns from last_at: h after the last true step
//
// Geometry  TILED: a workgroup of WG owns a sample; an invocation owns rows of W (in registers
//           where HID says that one row fits) and one hidden unit; two barriers a step.
//           LANES: a workgroup is one subgroup, a lane owns a sample; the lanes load W together
//           and broadcast it; four hidden units at a time. No workgroup memory, no barrier.
//           neither: an invocation owns a sample; any hidden size.
// Numerics  f32, sums over k in order, clamped activations.
// Limits    256 invocations, hidden <= 256, 5 KiB of workgroup memory.
// Twin      ops::lstm::reference::forward
#import activation
#import lstm
#if LANES
@group(0) @binding(0) var<storage, read_write> GATES: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> W: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> BIAS: array<vec4<f32>>;
#else
@group(0) @binding(0) var<storage, read_write> GATES: array<f32>;
@group(0) @binding(1) var<storage, read> W: array<f32>;
@group(0) @binding(2) var<storage, read> BIAS: array<f32>;
#endif
@group(0) @binding(3) var<storage, read> LENGTHS: array<u32>;
#if LANES
@group(0) @binding(4) var<storage, read_write> CELL: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> PREV: array<vec4<f32>>;
#else
@group(0) @binding(4) var<storage, read_write> CELL: array<f32>;
@group(0) @binding(5) var<storage, read_write> PREV: array<f32>;
#endif
#if LANES
#if Y
@group(0) @binding(6) var<storage, read_write> Y: array<vec4<f32>>;
#endif
#if LAST
@group(0) @binding(7) var<storage, read_write> LAST: array<vec4<f32>>;
#endif
#else
#if Y
@group(0) @binding(6) var<storage, read_write> Y: array<f32>;
#endif
#if LAST
@group(0) @binding(7) var<storage, read_write> LAST: array<f32>;
#endif
#endif
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
var<workgroup> h: array<f32, 256>;
var<workgroup> z: array<f32, 1024>;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let b = wid.x;
    let hidden = P.hidden;
    let length = min(LENGTHS[b], P.steps);
    var cell = 0.0;
#if HID
    // This invocation's row of W stays in registers for the whole sequence.
    let row = min(id, ${4 * HID - 1}u) * ${HID}u;
#for k in 0..HID
    let w${k} = W[row + ${k}u];
#endfor
#endif
    if (id < hidden) { h[id] = 0.0; }
    workgroupBarrier();
    for (var s = 0u; s < length; s++) {
        let t = visit(s, length);
        let step = b * P.steps + t;
#if HID
        if (id < ${4 * HID}u) {
            var sum = GATES[step * ${4 * HID}u + id] + BIAS[id];
#for k in 0..HID
            sum += w${k} * h[${k}];
#endfor
            z[id] = sum;
        }
#else
        for (var r = id; r < 4u * hidden; r += ${WG}u) {
            var sum = GATES[step * 4u * hidden + r] + BIAS[r];
            for (var k = 0u; k < hidden; k++) { sum += W[r * hidden + k] * h[k]; }
            z[r] = sum;
        }
#endif
        workgroupBarrier();
        if (id < hidden) {
            let i = safe_sigmoid(z[id]);
            let f = safe_sigmoid(z[hidden + id]);
            let g = safe_tanh(z[2u * hidden + id]);
            let o = safe_sigmoid(z[3u * hidden + id]);
            let at = step * 4u * hidden + id;
            GATES[at] = i;
            GATES[at + hidden] = f;
            GATES[at + 2u * hidden] = g;
            GATES[at + 3u * hidden] = o;
            cell = f * cell + i * g;
            CELL[step * hidden + id] = cell;
            PREV[step * hidden + id] = h[id];
            let out = o * safe_tanh(cell);
            h[id] = out;
#if Y
            Y[step * P.ldy + P.y_at + id] = out;
#endif
        }
        workgroupBarrier();
    }
    if (id < hidden) {
#if LAST
        LAST[b * P.ld_last + P.last_at + id] = h[id];
#endif
        for (var t = length; t < P.steps; t++) {
            let step = b * P.steps + t;
            PREV[step * hidden + id] = 0.0;
#if Y
            Y[step * P.ldy + P.y_at + id] = 0.0;
#endif
        }
    }
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sample = wid.x * ${LANES}u + lane;
    let b = min(sample, P.batch - 1u);
    let quads = ${HID / 4}u;
    let length = select(0u, min(LENGTHS[b], P.steps), sample < P.batch);
    let longest = subgroupMax(length);
    for (var s = 0u; s < longest; s++) {
        let live = s < length;
        let t = visit_within(s, length);
        let step = b * P.steps + t;
        let before = b * P.steps + visited_before(t);
        let after = b * P.steps + visited_after(t);
        if (live && s == 0u) {
            for (var j = 0u; j < quads; j++) { PREV[step * quads + j] = vec4<f32>(); }
        }
#for k in 0..HID / 4
        let h${k} = PREV[step * quads + ${k}u];
#endfor
        for (var j = 0u; j < quads; j++) {
            let at = step * 4u * quads + j;
            // Four bias vectors, one for each gate, loaded by four lanes.
            let bias = BIAS[(lane % 4u) * quads + j];
#for g in 0..4
            var z${g} = GATES[at + ${g}u * quads] + subgroupBroadcast(bias, ${g}u);
#endfor
            // Sixteen rows of W (gate, unit) for each quad of k, some loaded by this lane.
#for n in 0..(16 + LANES - 1) / LANES
            let row${n} = (((lane + ${n * LANES}u) % 16u) / 4u * ${HID}u + j * 4u
                + (lane + ${n * LANES}u) % 4u) * quads;
#endfor
#for k in 0..HID / 4
            {
#for n in 0..(16 + LANES - 1) / LANES
                let w${n} = W[row${n} + ${k}u];
#endfor
#for g in 0..4
                z${g} += vec4<f32>(
                    dot(h${k}, subgroupBroadcast(w${(4 * g) / LANES}, ${(4 * g) % LANES}u)),
                    dot(h${k}, subgroupBroadcast(w${(4 * g + 1) / LANES}, ${(4 * g + 1) % LANES}u)),
                    dot(h${k}, subgroupBroadcast(w${(4 * g + 2) / LANES}, ${(4 * g + 2) % LANES}u)),
                    dot(h${k}, subgroupBroadcast(w${(4 * g + 3) / LANES}, ${(4 * g + 3) % LANES}u)));
#endfor
            }
#endfor
            if (live) {
                let i = safe_sigmoid4(z0);
                let f = safe_sigmoid4(z1);
                let g = safe_tanh4(z2);
                let o = safe_sigmoid4(z3);
                var cell = i * g;
                if (s > 0u) { cell += f * CELL[before * quads + j]; }
                let out = o * safe_tanh4(cell);
                GATES[at] = i;
                GATES[at + quads] = f;
                GATES[at + 2u * quads] = g;
                GATES[at + 3u * quads] = o;
                CELL[step * quads + j] = cell;
                if (s + 1u < length) { PREV[after * quads + j] = out; }
#if Y
                Y[(step * P.ldy + P.y_at) / 4u + j] = out;
#endif
#if LAST
                if (s + 1u == length) { LAST[(b * P.ld_last + P.last_at) / 4u + j] = out; }
#endif
            }
        }
    }
    if (sample < P.batch) {
        for (var t = length; t < P.steps; t++) {
            let step = b * P.steps + t;
            for (var j = 0u; j < quads; j++) { PREV[step * quads + j] = vec4<f32>(); }
#if Y
            for (var j = 0u; j < quads; j++) {
                Y[(step * P.ldy + P.y_at) / 4u + j] = vec4<f32>();
            }
#endif
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
    for (var s = 0u; s < length; s++) {
        let t = visit(s, length);
        let step = b * P.steps + t;
        let before = b * P.steps + visited_before(t);
        let after = b * P.steps + visited_after(t);
        if (s == 0u) {
            for (var j = 0u; j < hidden; j++) { PREV[step * hidden + j] = 0.0; }
        }
        for (var j = 0u; j < hidden; j++) {
            let at = step * 4u * hidden + j;
            var z = vec4<f32>(GATES[at] + BIAS[j], GATES[at + hidden] + BIAS[hidden + j],
                GATES[at + 2u * hidden] + BIAS[2u * hidden + j],
                GATES[at + 3u * hidden] + BIAS[3u * hidden + j]);
            let block = hidden * hidden;
            for (var k = 0u; k < hidden; k++) {
                let w = j * hidden + k;
                z += PREV[step * hidden + k]
                    * vec4<f32>(W[w], W[w + block], W[w + 2u * block], W[w + 3u * block]);
            }
            let i = safe_sigmoid(z.x);
            let f = safe_sigmoid(z.y);
            let g = safe_tanh(z.z);
            let o = safe_sigmoid(z.w);
            var cell = i * g;
            if (s > 0u) { cell += f * CELL[before * hidden + j]; }
            let out = o * safe_tanh(cell);
            GATES[at] = i;
            GATES[at + hidden] = f;
            GATES[at + 2u * hidden] = g;
            GATES[at + 3u * hidden] = o;
            CELL[step * hidden + j] = cell;
            if (s + 1u < length) { PREV[after * hidden + j] = out; }
#if Y
            Y[step * P.ldy + P.y_at + j] = out;
#endif
#if LAST
            if (s + 1u == length) { LAST[b * P.ld_last + P.last_at + j] = out; }
#endif
        }
    }
    for (var t = length; t < P.steps; t++) {
        for (var j = 0u; j < hidden; j++) {
            PREV[(b * P.steps + t) * hidden + j] = 0.0;
#if Y
            Y[(b * P.steps + t) * P.ldy + P.y_at + j] = 0.0;
#endif
        }
    }
}
#endif
