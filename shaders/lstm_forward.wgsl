// LSTM recurrences over whole sequences, each sample to its own length:
//   i, f, o = sigmoid(z_i, z_f, z_o)   g = tanh(z_g)   with  z_t = X_t W_ih^T + b_ih + b_hh + W h
//   c_t = f c + i g                    h_t = o tanh(c_t)
// One dispatch runs up to four of them: directions of a layer, and layers of other modalities.
//
// In    SEQ     of each recurrence, from its P.list[r].gates on:
//       gates   [batch, steps, 4 hidden]: X W_ih^T + b_ih, gates in PyTorch's order i, f, g, o
//       W       [4 hidden, hidden] = weight_hh from w;  BIAS [4 hidden] = bias_hh from bias
//       LENGTHS [batch] from lengths, 1 to steps; taken backwards in time where reverse
// Out   SEQ     gates   the activated gates, in place (for the backward)
//               cell    [batch, steps, hidden]: c_t
//               prev    [batch, steps, hidden]: h before step t, zero beyond the length
//               y       with Y[r]: [batch, steps, ldy] from y_at: h_t, zero beyond the length
//               last    with LAST[r]: [batch, ld_last] from last_at: h after the last true step
//
// Geometry  TILED: a workgroup of WG owns a sample; an invocation owns a row of W, in registers, and
//           one hidden unit; two barriers a step. Where HID[r] is 0 the rows do not fit: eight
//           neighbours read a row of W together, so that what they read lies side by side, and
//           add up what they found; 128 rows at a time, two barriers for these. QUADS: W in fours.
//           LANES: a workgroup is one subgroup, a lane owns a sample; the lanes load W together
//           and broadcast it; four hidden units at a time. No workgroup memory, no barrier. HELD[r]
//           quads of h are in registers: where that is not all, sums wait in the gates' place.
//           neither: an invocation owns a sample; any hidden size.
// Numerics  f32, sums over k in order, clamped activations.
// Limits    256 invocations, hidden <= 256, 10 KiB of workgroup memory.
// Twin      ops::lstm::reference::forward
#import activation
#import lstm
#if LANES
#import quad
alias T = Q;
#else
alias T = f32;
#endif
@group(0) @binding(0) var<storage, read_write> SEQ: array<T>;
#if QUADS
@group(0) @binding(1) var<storage, read> W: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> W: array<T>;
#endif
@group(0) @binding(2) var<storage, read> BIAS: array<T>;
@group(0) @binding(3) var<storage, read> LENGTHS: array<u32>;
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
var<workgroup> h: array<f32, 256>;
var<workgroup> z: array<f32, 1024>;
#if LARGE
var<workgroup> part: array<f32, ${8 * 132}>;

// Numbers k to k + 3 of a row of W, zero beyond its end.
fn w_four(at: u32, row: u32, k: u32, hidden: u32) -> vec4<f32> {
#if QUADS
    let value = W[(at + row * hidden + min(k, hidden - 4u)) / 4u];
    return select(vec4<f32>(), value, k < hidden);
#else
    let first = at + row * hidden;
    let last = hidden - 1u;
    let value = vec4<f32>(W[first + min(k, last)], W[first + min(k + 1u, last)], W[first + min(k + 2u, last)],
        W[first + min(k + 3u, last)]);
    return select(vec4<f32>(), value, vec4<u32>(k) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(hidden));
#endif
}
#endif

fn w_one(at: u32) -> f32 {
#if QUADS
    return W[at / 4u][at % 4u];
#else
    return W[at];
#endif
}

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let place = place_of(wid.x, 1u);
    let b = place.y;
#for r in 0..COUNT
    if (place.x == ${r}u) {
        let q = P.list[${r}];
        let hidden = q.hidden;
        let length = min(LENGTHS[q.lengths + b], q.steps);
        var cell = 0.0;
#if HID[r]
        // This invocation's row of W stays in registers for the whole sequence.
        let row = q.w + min(id, ${4 * HID[r] - 1}u) * ${HID[r]}u;
#for k in 0..HID[r]
        let w${k} = w_one(row + ${k}u);
#endfor
#endif
        h[id] = 0.0;
        workgroupBarrier();
        for (var s = 0u; s < length; s++) {
            let t = visit(s, length, q.reverse);
            let step = b * q.steps + t;
#if HID[r]
            if (id < ${4 * HID[r]}u) {
                var sum = SEQ[q.gates + step * ${4 * HID[r]}u + id] + BIAS[q.bias + id];
#for k in 0..HID[r]
                sum += w${k} * h[${k}];
#endfor
                z[id] = sum;
            }
#else
            let lane = id % 8u;
            for (var first = 0u; first < 4u * hidden; first += 128u) {
                var given = 0.0;
                let own = min(first + id, 4u * hidden - 1u);
                if (id < 128u) { given = SEQ[q.gates + step * 4u * hidden + own] + BIAS[q.bias + own]; }
                var sum = vec4<f32>();
                for (var n = 0u; n < ${(LARGE[r] + 31) / 32}u; n++) {
                    let k = n * 32u + lane * 4u;
                    let state = vec4<f32>(h[k], h[k + 1u], h[k + 2u], h[k + 3u]);
                    sum += vec4<f32>(
#for i in 0..4
                        dot(w_four(q.w, min(first + id / 8u + ${32 * i}u, 4u * hidden - 1u), k, hidden), state),
#endfor
                    );
                }
                for (var i = 0u; i < 4u; i++) { part[lane * 132u + id / 8u + 32u * i] = sum[i]; }
                workgroupBarrier();
                if (id < 128u && first + id < 4u * hidden) {
                    for (var n = 0u; n < 8u; n++) { given += part[n * 132u + id]; }
                    z[first + id] = given;
                }
                workgroupBarrier();
            }
#endif
            workgroupBarrier();
            if (id < hidden) {
                let i = safe_sigmoid(z[id]);
                let f = safe_sigmoid(z[hidden + id]);
                let g = safe_tanh(z[2u * hidden + id]);
                let o = safe_sigmoid(z[3u * hidden + id]);
                let at = q.gates + step * 4u * hidden + id;
                SEQ[at] = i;
                SEQ[at + hidden] = f;
                SEQ[at + 2u * hidden] = g;
                SEQ[at + 3u * hidden] = o;
                cell = f * cell + i * g;
                SEQ[q.cell + step * hidden + id] = cell;
                SEQ[q.prev + step * hidden + id] = h[id];
                let out = o * safe_tanh(cell);
                h[id] = out;
#if Y[r]
                SEQ[q.y_at + step * q.ldy + id] = out;
#endif
            }
            workgroupBarrier();
        }
        if (id < hidden) {
#if LAST[r]
            SEQ[q.last_at + b * q.ld_last + id] = h[id];
#endif
            for (var t = length; t < q.steps; t++) {
                let step = b * q.steps + t;
                SEQ[q.prev + step * hidden + id] = 0.0;
#if Y[r]
                SEQ[q.y_at + step * q.ldy + id] = 0.0;
#endif
            }
        }
    }
#endfor
}
#endif

#if LANES
#for r in 0..COUNT
fn run${r}(sample: u32, lane: u32) {
    let q = P.list[${r}];
    let b = min(sample, q.batch - 1u);
    let quads = ${HID[r] / 4}u;
    let gates = q.gates / 4u;
    let cells = q.cell / 4u;
    let prev = q.prev / 4u;
    let bias_at = q.bias / 4u + (lane % 4u) * quads;
    let w_at = q.w / 4u;
    let length = select(0u, min(LENGTHS[q.lengths + b], q.steps), sample < q.batch);
    let longest = subgroupMax(length);
    for (var s = 0u; s < longest; s++) {
        let live = s < length;
        let t = visit_within(s, length, q.reverse);
        let step = b * q.steps + t;
        let before = b * q.steps + visited_before(t, q.reverse);
        let after = b * q.steps + visited_after(t, q.reverse);
        if (live && s == 0u) {
            for (var j = 0u; j < quads; j++) { SEQ[prev + step * quads + j] = Q(); }
        }
#if HELD[r] < HID[r] / 4
        for (var first = 0u; first < quads; first += ${HELD[r]}u) {
#else
        let first = 0u;
        {
#endif
#for k in 0..HELD[r]
        let h${k} = quad(SEQ[prev + step * quads + first + ${k}u]);
#endfor
        for (var j = 0u; j < quads; j++) {
            let at = gates + step * 4u * quads + j;
#for g in 0..4
            var z${g} = quad(SEQ[at + ${g}u * quads]);
#endfor
            if (first == 0u) {
                // Four bias vectors, one for each gate, loaded by four lanes.
                let bias = quad(BIAS[bias_at + j]);
#for g in 0..4
                z${g} += subgroupBroadcast(bias, ${g}u);
#endfor
            }
            // Sixteen rows of W (gate, unit) for each quad of k, some loaded by this lane.
#for n in 0..(16 + LANES - 1) / LANES
            let row${n} = w_at + (((lane + ${n * LANES}u) % 16u) / 4u * ${HID[r]}u + j * 4u
                + (lane + ${n * LANES}u) % 4u) * quads + first;
#endfor
#for k in 0..HELD[r]
            {
#for n in 0..(16 + LANES - 1) / LANES
                let w${n} = quad(W[row${n} + ${k}u]);
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
#if HELD[r] < HID[r] / 4
            if (first + ${HELD[r]}u < quads) {
                if (live) {
#for g in 0..4
                    SEQ[at + ${g}u * quads] = pack(z${g});
#endfor
                }
                continue;
            }
#endif
            if (live) {
                let i = safe_sigmoid4(z0);
                let f = safe_sigmoid4(z1);
                let g = safe_tanh4(z2);
                let o = safe_sigmoid4(z3);
                var cell = i * g;
                if (s > 0u) {
                    cell += f * quad(SEQ[cells + before * quads + j]);
                } else {
                    // f times nothing, which is NaN where f is.
                    cell += select(f, vec4<f32>(), f <= vec4<f32>(1.0));
                }
                let out = o * safe_tanh4(cell);
                SEQ[at] = pack(i);
                SEQ[at + quads] = pack(f);
                SEQ[at + 2u * quads] = pack(g);
                SEQ[at + 3u * quads] = pack(o);
                SEQ[cells + step * quads + j] = pack(cell);
                let next = pack(out);
                if (s + 1u < length) { SEQ[prev + after * quads + j] = next; }
#if Y[r]
                SEQ[(q.y_at + step * q.ldy) / 4u + j] = next;
#endif
#if LAST[r]
                if (s + 1u == length) { SEQ[(q.last_at + b * q.ld_last) / 4u + j] = next; }
#endif
            }
        }
        }
    }
    if (sample < q.batch) {
        for (var t = length; t < q.steps; t++) {
            let step = b * q.steps + t;
            for (var j = 0u; j < quads; j++) { SEQ[prev + step * quads + j] = Q(); }
#if Y[r]
            for (var j = 0u; j < quads; j++) {
                SEQ[(q.y_at + step * q.ldy) / 4u + j] = Q();
            }
#endif
        }
    }
}
#endfor

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = place_of(wid.x, ${LANES}u);
    let sample = place.y * ${LANES}u + lane;
#for r in 0..COUNT
    if (place.x == ${r}u) { run${r}(sample, lane); }
#endfor
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let place = place_of(wid.x, 8u);
    let q = P.list[place.x];
    let b = place.y * 8u + id;
    if (b >= q.batch) { return; }
    let hidden = q.hidden;
    let length = min(LENGTHS[q.lengths + b], q.steps);
    let wants_y = ((${Y[0] + 2 * Y[1] + 4 * Y[2] + 8 * Y[3]}u >> place.x) & 1u) != 0u;
    let wants_last = ((${LAST[0] + 2 * LAST[1] + 4 * LAST[2] + 8 * LAST[3]}u >> place.x) & 1u) != 0u;
    for (var s = 0u; s < length; s++) {
        let t = visit(s, length, q.reverse);
        let step = b * q.steps + t;
        let before = b * q.steps + visited_before(t, q.reverse);
        let after = b * q.steps + visited_after(t, q.reverse);
        if (s == 0u) {
            for (var j = 0u; j < hidden; j++) { SEQ[q.prev + step * hidden + j] = 0.0; }
        }
        for (var j = 0u; j < hidden; j++) {
            let at = q.gates + step * 4u * hidden + j;
            let bias = q.bias + j;
            var z = vec4<f32>(SEQ[at] + BIAS[bias], SEQ[at + hidden] + BIAS[bias + hidden],
                SEQ[at + 2u * hidden] + BIAS[bias + 2u * hidden],
                SEQ[at + 3u * hidden] + BIAS[bias + 3u * hidden]);
            let block = hidden * hidden;
            for (var k = 0u; k < hidden; k++) {
                let w = q.w + j * hidden + k;
                z += SEQ[q.prev + step * hidden + k]
                    * vec4<f32>(W[w], W[w + block], W[w + 2u * block], W[w + 3u * block]);
            }
            let i = safe_sigmoid(z.x);
            let f = safe_sigmoid(z.y);
            let g = safe_tanh(z.z);
            let o = safe_sigmoid(z.w);
            var cell = i * g;
            if (s > 0u) {
                cell += f * SEQ[q.cell + before * hidden + j];
            } else {
                // f times nothing, which is NaN where f is.
                cell += select(f, 0.0, f <= 1.0);
            }
            let out = o * safe_tanh(cell);
            SEQ[at] = i;
            SEQ[at + hidden] = f;
            SEQ[at + 2u * hidden] = g;
            SEQ[at + 3u * hidden] = o;
            SEQ[q.cell + step * hidden + j] = cell;
            if (s + 1u < length) { SEQ[q.prev + after * hidden + j] = out; }
            if (wants_y) { SEQ[q.y_at + step * q.ldy + j] = out; }
            if (wants_last && s + 1u == length) { SEQ[q.last_at + b * q.ld_last + j] = out; }
        }
    }
    for (var t = length; t < q.steps; t++) {
        let step = b * q.steps + t;
        for (var j = 0u; j < hidden; j++) {
            SEQ[q.prev + step * hidden + j] = 0.0;
            if (wants_y) { SEQ[q.y_at + step * q.ldy + j] = 0.0; }
        }
    }
}
#endif
