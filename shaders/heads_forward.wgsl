// All heads of a batch: for each head, over its input x (head 0: all parts side by side; head k:
// part k - 1)
//   x' = dropout(x)   F = relu(W1 x' + b1)   z = relu(W2 F + b2)   score = W3 z + b3
//
// In    X0..X2 [n, widths], the parts;  PARAMS, all weights [out, in] and biases, where P says
// Out   ACTS   features F, inner z and inputs x' (see heads.wgsl), which the backward reads
//       SCORES [n, heads]
//
// Geometry  grid (heads, samples): a CPU adapter's threads take whole spans of that, so that each has
//           its share of the fused head, which is most of the work.
//           TILED: a workgroup of 256 owns SAMPLES samples of a head; 64 outputs at a time, 16
//           invocations share an output's row of W, so that they read it side by side.
//           LANES: a workgroup is one subgroup, a lane owns a sample of the head; the lanes load 32
//           rows of W together and broadcast them. No workgroup memory, no barrier.
//           neither: an invocation owns a sample of a head, 8 to a workgroup.
// Numerics  f32, sums in a fixed order.
// Limits    6 storage buffers; TILED: 256 invocations, 14 KiB of workgroup memory, sizes to 512;
//           LANES: all widths and sizes multiples of 4.
// Twin      ops::heads::reference::forward
#import activation
#import heads
#import heads_mask

@group(0) @binding(0) var<storage, read> X0: array<T>;
#if X1
@group(0) @binding(1) var<storage, read> X1: array<T>;
#endif
#if X2
@group(0) @binding(2) var<storage, read> X2: array<T>;
#endif
@group(0) @binding(3) var<storage, read> PARAMS: array<T>;
@group(0) @binding(4) var<storage, read_write> ACTS: array<T>;
@group(0) @binding(5) var<storage, read_write> SCORES: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

// Column `col` of a sample's x'; for vectors, column and widths count by four.
fn input(k: u32, h: Head, row: u32, col: u32) -> T {
    var x = T();
    // Past the part that has it, c wraps around and is in no other.
    var c = col;
#for p in 0..1 + X1 + X2
    if (k == 0u || k == ${p + 1}u) {
        let cols = P.widths[${p}] / UNIT;
        if (c < cols) { x = X${p}[row * cols + c]; }
        c -= cols;
    }
#endfor
    return dropped(h, row, col, x);
}

#if TILED
var<workgroup> xs: array<f32, ${SAMPLES * 256}>;
var<workgroup> feature: array<f32, ${SAMPLES * 512}>;
var<workgroup> part: array<f32, ${SAMPLES * 1024}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let k = wid.x;
    let h = P.head[k];
    let row0 = wid.y * ${SAMPLES}u;
    let lane = id % 16u;
    let out = id / 16u;
    // When sums are done, invocation id owns output id % 64 of sample id / 64.
    let mine = row0 + id / 64u;
    let owner = id < ${64 * SAMPLES}u;
    var score = 0.0;
    for (var layer = 0u; layer < 2u; layer++) {
        let inputs = select(h.size, h.inputs, layer == 0u);
        let w = select(h.w2, h.w1, layer == 0u);
        let b = select(h.b2, h.b1, layer == 0u);
        for (var j0 = 0u; j0 < h.size; j0 += 64u) {
#for r in 0..4
            let w_at${r} = w + min(j0 + out + ${16 * r}u, h.size - 1u) * inputs;
#for s in 0..SAMPLES
            var acc${r}_${s} = 0.0;
#endfor
#endfor
            for (var k0 = 0u; k0 < inputs; k0 += 256u) {
                workgroupBarrier();
                let col = k0 + id;
#for s in 0..SAMPLES
                {
                    let row = row0 + ${s}u;
                    var x = 0.0;
                    if (col < inputs && row < P.n) {
                        if (layer == 1u) { x = feature[${s * 512}u + col]; }
                        else {
                            x = input(k, h, row, col);
                            if (j0 == 0u) {
                                ACTS[P.inputs_at + row * P.inputs + h.input_first + col] = x;
                            }
                        }
                    }
                    xs[${s * 256}u + id] = x;
                }
#endfor
                workgroupBarrier();
                for (var c = lane; c < min(256u, inputs - k0); c += 16u) {
#for r in 0..4
                    let w${r} = PARAMS[w_at${r} + k0 + c];
#for s in 0..SAMPLES
                    acc${r}_${s} += w${r} * xs[${s * 256}u + c];
#endfor
#endfor
                }
            }
#for r in 0..4
#for s in 0..SAMPLES
            part[(${64 * s + 16 * r}u + out) * 16u + lane] = acc${r}_${s};
#endfor
#endfor
            workgroupBarrier();
            let j = j0 + id % 64u;
            if (owner && j < h.size) {
                var sum = PARAMS[b + j];
                for (var l = 0u; l < 16u; l++) { sum += part[id * 16u + l]; }
                let v = relu(sum);
                if (layer == 0u) { feature[id / 64u * 512u + j] = v; }
                else { score += v * PARAMS[h.w3 + j]; }
                if (mine < P.n) {
                    ACTS[select(P.inner_at, 0u, layer == 0u) + mine * P.width + h.first + j] = v;
                }
            }
        }
    }
    workgroupBarrier();
    part[id] = score;
    workgroupBarrier();
    if (id < ${SAMPLES}u && row0 + id < P.n) {
        var total = PARAMS[h.b3];
        for (var l = 0u; l < 64u; l++) { total += part[id * 64u + l]; }
        SCORES[(row0 + id) * P.heads + k] = total;
    }
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let k = wid.x;
    let sample = wid.y * ${LANES}u + lane;
    let live = sample < P.n;
    let row = min(sample, P.n - 1u);
    let h = P.head[k];
    let quads = h.size / 4u;
    let input_at = (P.inputs_at + row * P.inputs + h.input_first) / 4u;
    let feature_at = (row * P.width + h.first) / 4u;
    let inner_at = P.inner_at / 4u + feature_at;
    if (live) {
        for (var c = 0u; c < h.inputs / 4u; c++) { ACTS[input_at + c] = input(k, h, row, c); }
    }
    var score = PARAMS[h.b3 / 4u].x;
    for (var layer = 0u; layer < 2u; layer++) {
        let inputs = select(h.size, h.inputs, layer == 0u) / 4u;
        let w = select(h.w2, h.w1, layer == 0u) / 4u;
        let b = select(h.b2, h.b1, layer == 0u) / 4u;
        let source = select(feature_at, input_at, layer == 0u);
        let to = select(inner_at, feature_at, layer == 0u);
        for (var j = 0u; j < quads; j += 8u) {
            // Which of the 32 rows of W this lane loads.
#for i in 0..(32 + LANES - 1) / LANES
            let w_at${i} = w + min(j * 4u + (lane + ${i * LANES}u) % 32u, h.size - 1u) * inputs;
#endfor
#for q in 0..8
            var acc${q} = vec4<f32>();
#endfor
            for (var c = 0u; c < inputs; c++) {
                let x = ACTS[source + c];
#for i in 0..(32 + LANES - 1) / LANES
                let w${i} = PARAMS[w_at${i} + c];
#endfor
#for q in 0..8
                acc${q} += vec4<f32>(
                    dot(x, subgroupBroadcast(w${(4 * q) / LANES}, ${(4 * q) % LANES}u)),
                    dot(x, subgroupBroadcast(w${(4 * q + 1) / LANES}, ${(4 * q + 1) % LANES}u)),
                    dot(x, subgroupBroadcast(w${(4 * q + 2) / LANES}, ${(4 * q + 2) % LANES}u)),
                    dot(x, subgroupBroadcast(w${(4 * q + 3) / LANES}, ${(4 * q + 3) % LANES}u)));
#endfor
            }
            // A loop over the outputs themselves, and an index that tells nothing of the array's
            // length: neither is unrolled by a just-in-time compiler.
            var acc = array<vec4<f32>, 8>(acc0, acc1, acc2, acc3, acc4, acc5, acc6, acc7);
            let end = min(j + 8u, quads);
            for (var o = j; o < end; o++) {
                let sum = acc[min(o - j, end - j - 1u)] + PARAMS[b + o];
                let v = relu4(sum);
                if (live) { ACTS[to + o] = v; }
                if (layer == 1u) { score += dot(v, PARAMS[h.w3 / 4u + o]); }
            }
        }
    }
    if (live) { SCORES[row * P.heads + k] = score; }
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let k = wid.x;
    let row = wid.y * 8u + id;
    if (row >= P.n) { return; }
    let h = P.head[k];
    let input_at = P.inputs_at + row * P.inputs + h.input_first;
    let feature_at = row * P.width + h.first;
    let inner_at = P.inner_at + feature_at;
    for (var c = 0u; c < h.inputs; c++) { ACTS[input_at + c] = input(k, h, row, c); }
    var score = PARAMS[h.b3];
    for (var layer = 0u; layer < 2u; layer++) {
        let inputs = select(h.size, h.inputs, layer == 0u);
        let w = select(h.w2, h.w1, layer == 0u);
        let b = select(h.b2, h.b1, layer == 0u);
        let source = select(feature_at, input_at, layer == 0u);
        let to = select(inner_at, feature_at, layer == 0u);
        let last = h.size - 1u;
        for (var j = 0u; j < h.size; j += 4u) {
            let at = w + inputs * vec4<u32>(j, min(j + 1u, last), min(j + 2u, last), min(j + 3u, last));
            var acc = vec4<f32>();
            for (var c = 0u; c < inputs; c++) {
                acc += ACTS[source + c] * vec4<f32>(PARAMS[at.x + c], PARAMS[at.y + c],
                    PARAMS[at.z + c], PARAMS[at.w + c]);
            }
            for (var q = 0u; q < 4u; q++) {
                if (j + q > last) { break; }
                let sum = acc[q] + PARAMS[b + j + q];
                let v = relu(sum);
                ACTS[to + j + q] = v;
                if (layer == 1u) { score += v * PARAMS[h.w3 + j + q]; }
            }
        }
    }
    SCORES[row * P.heads + k] = score;
}
#endif
