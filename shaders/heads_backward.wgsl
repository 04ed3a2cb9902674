// Backward of heads_forward, down to the parts. For each head, ds being its column of DSCORES:
//   dz2 = ds W3 [z > 0]      dz1 = (W2^T dz2 + dF) [F > 0]      dx = dropout(W1^T dz1)
// A part's gradient is the share of the fused head and that of its own, added up here.
//
// In    DSCORES [n, heads], DFEATURES [n, width], both optional: an absent one is zero
//       ACTS, PARAMS as heads_forward has them
// Out   DZ dz1 and dz2 (see heads.wgsl), for heads_weights
//       D0..D2 [n, widths], each optional; added to where its bit of P.accumulate is set
//
// Geometry  TILED: a workgroup of 256 owns a sample, 64 columns of a product at a time, four
//           invocations to each. LANES: a workgroup is one subgroup, a lane owns a sample; the lanes
//           load 4 x 32 of W together and broadcast them. neither: an invocation owns a sample, 8
//           to a workgroup.
// Numerics  f32, sums in a fixed order.
// Limits    8 storage buffers; TILED: 256 invocations, 5 KiB of workgroup memory, sizes to 512;
//           LANES: all widths and sizes multiples of 4.
// Twin      ops::heads::reference::backward
#import heads
#import heads_mask

#if DSCORES
@group(0) @binding(0) var<storage, read> DSCORES: array<f32>;
#endif
#if DFEATURES
@group(0) @binding(1) var<storage, read> DFEATURES: array<T>;
#endif
@group(0) @binding(2) var<storage, read> ACTS: array<T>;
@group(0) @binding(3) var<storage, read> PARAMS: array<T>;
@group(0) @binding(4) var<storage, read_write> DZ: array<T>;
#if D0
@group(0) @binding(5) var<storage, read_write> D0: array<T>;
#endif
#if D1
@group(0) @binding(6) var<storage, read_write> D1: array<T>;
#endif
#if D2
@group(0) @binding(7) var<storage, read_write> D2: array<T>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

fn score_slope(row: u32, k: u32) -> f32 {
#if DSCORES
    return DSCORES[row * P.heads + k];
#else
    return 0.0;
#endif
}

// Stage 0 of a head is dz1, stage p + 1 its share of part p.
fn wanted(k: u32, stage: u32) -> bool {
    var yes = stage == 0u;
#if D0
    yes = yes || stage == 1u;
#endif
#if D1
    yes = yes || stage == 2u;
#endif
#if D2
    yes = yes || stage == 3u;
#endif
    return yes && (stage == 0u || k == 0u || k == stage);
}

// The first column of part p in the input of head k.
fn column(k: u32, p: u32) -> u32 {
    if (k > 0u) { return 0u; }
    return select(0u, P.widths.x, p > 0u) + select(0u, P.widths.y, p > 1u);
}

// A product, dz W, of a stage: its columns, how far its rows are apart, where it begins.
struct Product { cols: u32, pitch: u32, w: u32 }

fn product(k: u32, h: Head, stage: u32) -> Product {
    if (stage == 0u) { return Product(h.size / UNIT, h.size / UNIT, h.w2 / UNIT); }
    let p = stage - 1u;
    return Product(P.widths[p] / UNIT, h.inputs / UNIT, (h.w1 + column(k, p)) / UNIT);
}

// dz2 of column c.
fn slope2(h: Head, row: u32, c: u32, ds: f32) -> T {
    let z = ACTS[(P.inner_at + row * P.width + h.first) / UNIT + c];
    return select(ds * PARAMS[h.w3 / UNIT + c], T(), z <= T());
}

// What becomes of column c of a product.
fn finish(k: u32, h: Head, stage: u32, row: u32, c: u32, sum: T) -> T {
    if (stage == 0u) {
        let at = (row * P.width + h.first) / UNIT + c;
        var v = sum;
#if DFEATURES
        v += DFEATURES[at];
#endif
        v = select(v, T(), ACTS[at] <= T());
        DZ[at] = v;
        return v;
    }
    let p = stage - 1u;
    let v = dropped(h, row, column(k, p) / UNIT + c, sum);
    let add = k > 0u || ((P.accumulate >> p) & 1u) == 1u;
    let at = row * (P.widths[p] / UNIT) + c;
#if D0
    if (p == 0u) { D0[at] = v + select(T(), D0[at], add); }
#endif
#if D1
    if (p == 1u) { D1[at] = v + select(T(), D1[at], add); }
#endif
#if D2
    if (p == 2u) { D2[at] = v + select(T(), D2[at], add); }
#endif
    return v;
}

#if TILED
// dz2 of the head at hand, from 512 on dz1.
var<workgroup> dz: array<f32, 1024>;
var<workgroup> part: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let row = wid.x;
    for (var k = 0u; k < P.heads; k++) {
        let h = P.head[k];
        let ds = score_slope(row, k);
        for (var j = id; j < h.size; j += 256u) {
            let v = slope2(h, row, j, ds);
            dz[j] = v;
            DZ[(P.n + row) * P.width + h.first + j] = v;
        }
        workgroupBarrier();
        for (var stage = 0u; stage < 4u; stage++) {
            if (!wanted(k, stage)) { continue; }
            let m = product(k, h, stage);
            let source = select(512u, 0u, stage == 0u);
            for (var c0 = 0u; c0 < m.cols; c0 += 64u) {
                let c = c0 + id % 64u;
                var sum = 0.0;
                if (c < m.cols) {
                    for (var r = id / 64u; r < h.size; r += 4u) {
                        sum += dz[source + r] * PARAMS[m.w + r * m.pitch + c];
                    }
                }
                part[id] = sum;
                workgroupBarrier();
                if (id < 64u && c < m.cols) {
                    sum += part[id + 64u];
                    sum += part[id + 128u];
                    sum += part[id + 192u];
                    let v = finish(k, h, stage, row, c, sum);
                    if (stage == 0u) { dz[512u + c] = v; }
                }
                workgroupBarrier();
            }
        }
    }
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let sample = wid.x * ${LANES}u + lane;
    let live = sample < P.n;
    let row = min(sample, P.n - 1u);
    for (var k = 0u; k < P.heads; k++) {
        let h = P.head[k];
        let quads = h.size / 4u;
        let dz1_at = (row * P.width + h.first) / 4u;
        let dz2_at = P.n * P.width / 4u + dz1_at;
        let ds = score_slope(row, k);
        for (var j = 0u; j < quads; j++) {
            let v = slope2(h, row, j, ds);
            if (live) { DZ[dz2_at + j] = v; }
        }
        for (var stage = 0u; stage < 4u; stage++) {
            if (!wanted(k, stage)) { continue; }
            let m = product(k, h, stage);
            let source = select(dz1_at, dz2_at, stage == 0u);
            for (var j = 0u; j < m.cols; j += 8u) {
                // Which of 4 rows of 8 vectors of W this lane loads.
#for i in 0..(32 + LANES - 1) / LANES
                let w_at${i} = m.w + ((lane + ${i * LANES}u) % 32u) / 8u * m.pitch
                    + min(j + (lane + ${i * LANES}u) % 8u, m.cols - 1u);
#endfor
#for q in 0..8
                var acc${q} = vec4<f32>();
#endfor
                for (var r = 0u; r < quads; r++) {
                    let dz = DZ[source + r];
#for i in 0..(32 + LANES - 1) / LANES
                    let w${i} = PARAMS[w_at${i} + r * 4u * m.pitch];
#endfor
#for c in 0..4
#for q in 0..8
                    acc${q} += dz[${c}] * subgroupBroadcast(w${(8 * c + q) / LANES}, ${(8 * c + q) % LANES}u);
#endfor
#endfor
                }
                var acc = array<vec4<f32>, 8>(acc0, acc1, acc2, acc3, acc4, acc5, acc6, acc7);
                // Not unrolled by a just-in-time compiler: see heads_forward.
                let end = min(j + 8u, m.cols);
                if (live) {
                    for (var c = j; c < end; c++) {
                        _ = finish(k, h, stage, row, c, acc[min(c - j, end - j - 1u)]);
                    }
                }
            }
        }
    }
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let row = wid.x * 8u + id;
    if (row >= P.n) { return; }
    for (var k = 0u; k < P.heads; k++) {
        let h = P.head[k];
        let dz1_at = row * P.width + h.first;
        let dz2_at = P.n * P.width + dz1_at;
        let ds = score_slope(row, k);
        for (var j = 0u; j < h.size; j++) { DZ[dz2_at + j] = slope2(h, row, j, ds); }
        for (var stage = 0u; stage < 4u; stage++) {
            if (!wanted(k, stage)) { continue; }
            let m = product(k, h, stage);
            let source = select(dz1_at, dz2_at, stage == 0u);
            let last = m.cols - 1u;
            for (var j = 0u; j < m.cols; j += 4u) {
                let at = m.w + vec4<u32>(j, min(j + 1u, last), min(j + 2u, last), min(j + 3u, last));
                var acc = vec4<f32>();
                for (var r = 0u; r < h.size; r++) {
                    let skip = r * m.pitch;
                    acc += DZ[source + r] * vec4<f32>(PARAMS[at.x + skip], PARAMS[at.y + skip],
                        PARAMS[at.z + skip], PARAMS[at.w + skip]);
                }
                for (var q = 0u; q < 4u; q++) {
                    if (j + q > last) { break; }
                    _ = finish(k, h, stage, row, j + q, acc[q]);
                }
            }
        }
    }
}
#endif
