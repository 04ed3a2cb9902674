// Backward of lstm_forward through time: from dY and dLAST to the gradients of the
// pre-activations, which replace the activated gates:
//   dh = dY_t + (t last) dLAST + W^T dz_{t+1}      dc += dh o (1 - tanh(c)^2)
//   dz_o = dh tanh(c) o (1 - o)                    dz_i = dc g i (1 - i)
//   dz_f = dc c_{t-1} f (1 - f)                    dz_g = dc i (1 - g^2)      dc <- dc f
// The weight gradients are ordinary products of dz with the inputs and with prev, afterwards.
//
// In    SEQ [..] as lstm_forward left it: gates, cell, prev of each recurrence
//       W [4 hidden, hidden] from w; LENGTHS [batch] from lengths
//       UP0..UP4, optional: what flows in from above. Recurrence r reads dY [batch, steps, ldy] in
//       UP(DY[r] - 1), columns from y_at, and dLAST [batch, ld_last] in UP(DLAST[r] - 1), columns
//       from last_at; it has none where DY[r], DLAST[r] is 0.
// Out   SEQ: dz in the place of the gates, zero beyond the length;
//            state [batch, 2 hidden]: dh and dc on the way
//
// Geometry  as lstm_forward; TILED: an invocation owns a hidden unit, then a slice of W^T dz: of one
//           unit, or of four neighbouring ones with QUADS, whose W is read in fours.
// Numerics  f32, sums in order; |dh| and |dc| below 1e-30 are taken as zero.
// Limits    256 invocations, hidden <= 256, 8 KiB of workgroup memory, 8 storage buffers.
// Twin      ops::lstm::reference::backward
#import activation
#import lstm
#if LANES
#import quad
alias T = Q;
alias V = vec4<f32>;
#else
alias T = f32;
alias V = f32;
#endif
@group(0) @binding(0) var<storage, read_write> SEQ: array<T>;
#if QUADS
@group(0) @binding(1) var<storage, read> W: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read> W: array<T>;
#endif
@group(0) @binding(2) var<storage, read> LENGTHS: array<u32>;
#if UP0
@group(0) @binding(3) var<storage, read> UP0: array<T>;
#endif
#if UP1
@group(0) @binding(4) var<storage, read> UP1: array<T>;
#endif
#if UP2
@group(0) @binding(5) var<storage, read> UP2: array<T>;
#endif
#if UP3
@group(0) @binding(6) var<storage, read> UP3: array<T>;
#endif
#if UP4
@group(0) @binding(7) var<storage, read> UP4: array<T>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

// A gradient that has vanished is zero. Hundreds of steps back it would be denormal, and a CPU
// adapter computes with denormal numbers many times slower than with others (benches/NOTES.md).
fn flush(x: V) -> V {
    return select(x, V(), abs(x) <= V(1e-30));
}

fn value(x: T) -> V {
#if LANES
    return quad(x);
#else
    return x;
#endif
}

// What flows into unit j (or, LANES, units 4j to 4j + 3) of sample b at step t from above.
#for r in 0..COUNT
fn upstream${r}(b: u32, t: u32, j: u32, last: bool) -> V {
    var dh = V();
#if LANES
    let unit = 4u;
#else
    let unit = 1u;
#endif
#if DY[r]
    let y_at = ((b * P.list[${r}].steps + t) * P.list[${r}].ldy + P.list[${r}].y_at) / unit + j;
    dh += value(UP${DY[r] - 1}[y_at]);
#endif
#if DLAST[r]
    let last_at = (b * P.list[${r}].ld_last + P.list[${r}].last_at) / unit + j;
    if (last) { dh += value(UP${DLAST[r] - 1}[last_at]); }
#endif
    return dh;
}
#endfor

#if !LANES
fn upstream(r: u32, b: u32, t: u32, j: u32, last: bool) -> f32 {
#for r in 1..COUNT
    if (r == ${r}u) { return upstream${r}(b, t, j, last); }
#endfor
    return upstream0(b, t, j, last);
}
#endif

#if TILED
var<workgroup> dz: array<f32, 1024>;
#if QUADS
var<workgroup> part: array<vec4<f32>, 256>;
#else
var<workgroup> part: array<f32, 256>;
#endif

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let place = place_of(wid.x, 1u);
    let q = P.list[place.x];
    let b = place.y;
    let hidden = q.hidden;
    let length = min(LENGTHS[q.lengths + b], q.steps);
    // Invocation (slice, k) sums a part of the rows of W, whole fours of them, for unit k or for quad k.
#if QUADS
    let width = hidden / 4u;
#else
    let width = hidden;
#endif
    let slices = ${WG}u / width;
    let slice = id / width;
    let k = id % width;
    let rows = (hidden + slices - 1u) / slices * 4u;
    var dh = 0.0;
    var dc = 0.0;
    for (var back = 0u; back < length; back++) {
        let s = length - 1u - back;
        let t = visit(s, length, q.reverse);
        let step = b * q.steps + t;
        let before = b * q.steps + visited_before(t, q.reverse);
        if (id < hidden) {
            let at = q.gates + step * 4u * hidden + id;
            let i = SEQ[at];
            let f = SEQ[at + hidden];
            let g = SEQ[at + 2u * hidden];
            let o = SEQ[at + 3u * hidden];
            let c = safe_tanh(SEQ[q.cell + step * hidden + id]);
            var c_before = 0.0;
            if (s > 0u) { c_before = SEQ[q.cell + before * hidden + id]; }
            let above = flush(dh + upstream(place.x, b, t, id, back == 0u));
            dc = flush(dc + above * o * (1.0 - c * c));
            let d = vec4<f32>(dc * g * i * (1.0 - i), dc * c_before * f * (1.0 - f),
                dc * i * (1.0 - g * g), above * c * o * (1.0 - o));
            dc *= f;
#for n in 0..4
            SEQ[at + ${n}u * hidden] = d[${n}];
            dz[id + ${n}u * hidden] = d[${n}];
#endfor
        }
        workgroupBarrier();
        if (slice < slices) {
#if QUADS
            var sum = vec4<f32>();
            let w = q.w / 4u + k;
#else
            var sum = 0.0;
            let w = q.w + k;
#endif
            for (var r = slice * rows; r < min((slice + 1u) * rows, 4u * hidden); r += 4u) {
#for n in 0..4
                sum += dz[r + ${n}u] * W[w + (r + ${n}u) * width];
#endfor
            }
            part[id] = sum;
        }
        workgroupBarrier();
        if (id < hidden) {
            dh = 0.0;
#if QUADS
            for (var n = 0u; n < slices; n++) { dh += part[n * width + id / 4u][id % 4u]; }
#else
            for (var n = 0u; n < slices; n++) { dh += part[n * width + id]; }
#endif
        }
    }
    if (id < hidden) {
        SEQ[q.state + b * 2u * hidden + id] = dh;
        SEQ[q.state + b * 2u * hidden + hidden + id] = dc;
        for (var t = length; t < q.steps; t++) {
            let at = q.gates + (b * q.steps + t) * 4u * hidden + id;
#for n in 0..4
            SEQ[at + ${n}u * hidden] = 0.0;
#endfor
        }
    }
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
    let state = q.state / 4u + b * 2u * quads;
    let w_at = q.w / 4u;
    let length = select(0u, min(LENGTHS[q.lengths + b], q.steps), sample < q.batch);
    let longest = subgroupMax(length);
    if (sample < q.batch) {
        for (var j = 0u; j < 2u * quads; j++) { SEQ[state + j] = Q(); }
        let end = gates + (b + 1u) * q.steps * 4u * quads;
        for (var at = gates + (b * q.steps + length) * 4u * quads; at < end; at++) {
            SEQ[at] = Q();
        }
    }
    for (var back = 0u; back < longest; back++) {
        let s = longest - 1u - back;
        let live = s < length;
        let t = visit_within(s, length, q.reverse);
        let step = b * q.steps + t;
        let before = b * q.steps + visited_before(t, q.reverse);
        for (var j = 0u; j < quads; j++) {
            if (live) {
                let at = gates + step * 4u * quads + j;
                let i = quad(SEQ[at]);
                let f = quad(SEQ[at + quads]);
                let g = quad(SEQ[at + 2u * quads]);
                let o = quad(SEQ[at + 3u * quads]);
                let c = safe_tanh4(quad(SEQ[cells + step * quads + j]));
                let c_before = select(
                    vec4<f32>(), quad(SEQ[cells + select(step, before, s > 0u) * quads + j]), s > 0u);
                let dh = flush(quad(SEQ[state + j]) + upstream${r}(b, t, j, s + 1u == length));
                let dc = flush(quad(SEQ[state + quads + j]) + dh * o * (1.0 - c * c));
                SEQ[at] = pack(dc * g * i * (1.0 - i));
                SEQ[at + quads] = pack(dc * c_before * f * (1.0 - f));
                SEQ[at + 2u * quads] = pack(dc * i * (1.0 - g * g));
                SEQ[at + 3u * quads] = pack(dh * c * o * (1.0 - o));
                SEQ[state + quads + j] = pack(dc * f);
            }
        }
        // dh = W^T dz: sixteen units at a time, four rows of W at a time.
        for (var j = 0u; j < quads; j += 4u) {
#for n in 0..(16 + LANES - 1) / LANES
            let w_at${n} = w_at + ((lane + ${n * LANES}u) % 16u) / 4u * quads
                + min(j + (lane + ${n * LANES}u) % 4u, quads - 1u);
#endfor
            var d0 = vec4<f32>();
            var d1 = vec4<f32>();
            var d2 = vec4<f32>();
            var d3 = vec4<f32>();
            for (var row = 0u; row < 4u * quads; row++) {
                let dz = quad(SEQ[gates + step * 4u * quads + row]);
#for n in 0..(16 + LANES - 1) / LANES
                let w${n} = quad(W[w_at${n} + row * 4u * quads]);
#endfor
#for c in 0..4
#for q in 0..4
                d${q} += dz[${c}] * subgroupBroadcast(w${(4 * c + q) / LANES}, ${(4 * c + q) % LANES}u);
#endfor
#endfor
            }
            if (live) {
                var d = array<vec4<f32>, 4>(d0, d1, d2, d3);
                for (var n = 0u; n < min(4u, quads - j); n++) { SEQ[state + j + n] = pack(d[n]); }
            }
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
    let state = q.state + b * 2u * hidden;
    for (var j = 0u; j < 2u * hidden; j++) { SEQ[state + j] = 0.0; }
    for (var back = 0u; back < length; back++) {
        let s = length - 1u - back;
        let t = visit(s, length, q.reverse);
        let step = b * q.steps + t;
        let before = b * q.steps + visited_before(t, q.reverse);
        for (var j = 0u; j < hidden; j++) {
            let at = q.gates + step * 4u * hidden + j;
            let i = SEQ[at];
            let f = SEQ[at + hidden];
            let g = SEQ[at + 2u * hidden];
            let o = SEQ[at + 3u * hidden];
            let c = safe_tanh(SEQ[q.cell + step * hidden + j]);
            var c_before = 0.0;
            if (s > 0u) { c_before = SEQ[q.cell + before * hidden + j]; }
            let dh = flush(SEQ[state + j] + upstream(place.x, b, t, j, back == 0u));
            let dc = flush(SEQ[state + hidden + j] + dh * o * (1.0 - c * c));
            SEQ[at] = dc * g * i * (1.0 - i);
            SEQ[at + hidden] = dc * c_before * f * (1.0 - f);
            SEQ[at + 2u * hidden] = dc * i * (1.0 - g * g);
            SEQ[at + 3u * hidden] = dh * c * o * (1.0 - o);
            SEQ[state + hidden + j] = dc * f;
        }
        for (var k = 0u; k < hidden; k++) {
            var sum = 0.0;
            for (var r = 0u; r < 4u * hidden; r++) {
                sum += SEQ[q.gates + step * 4u * hidden + r] * W[q.w + r * hidden + k];
            }
            SEQ[state + k] = sum;
        }
    }
    let end = q.gates + (b + 1u) * q.steps * 4u * hidden;
    for (var at = q.gates + (b * q.steps + length) * 4u * hidden; at < end; at++) { SEQ[at] = 0.0; }
}
#endif
