// COV[f, i, j] = 1/(n-1) sum over r of (X[f, r, i] - m_fi)(X[f, r, j] - m_fj)
// MEAN[f, j]   = m_fj = X[f, 0, j] + 1/n sum over r of (X[f, r, j] - X[f, 0, j])
//
// The unbiased covariance of the columns of each of several features.
// In    X [features, n, d]
// Out   COV [features, d, d]; MEAN [features, d]
// With n < 2 there is no covariance: both are zero.
//
// Geometry  the grid's z is the feature f.
//           TILED: a workgroup of 16x16 owns 16x16 of C; it finds the means of its 32 columns,
//           then brings centred rows through workgroup memory, 16 at a time.
//           else: an invocation owns 4x1 of C and finds its five means itself; workgroups of WG
//           (one subgroup on a CPU adapter), no workgroup memory, no barrier.
// Numerics  f32, two passes, rows in a fixed order; never E[x^2] - E[x]^2, which cancels. The
//           mean counts from the first row, so a constant column has exactly zero variance.
// Limits    256 invocations, 16 x 17 x 4 x 2 bytes of workgroup memory.
// Twin      ops::align::reference::covariance

struct Params { n: u32, d: u32, features: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> COV: array<f32>;
@group(0) @binding(2) var<storage, read_write> MEAN: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
var<workgroup> tile_i: array<f32, ${16 * 17}>;
var<workgroup> tile_j: array<f32, ${16 * 17}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let x_at = wid.z * P.n * P.d;
    let ty = id / 16u;
    let tx = id % 16u;
    // The two columns that this invocation loads; past the edge it loads the last one.
    let col_i = min(wid.y * 16u + tx, P.d - 1u);
    let col_j = min(wid.x * 16u + tx, P.d - 1u);
    let rows = select(P.n, 0u, P.n < 2u);
    var origin_i = 0.0;
    var origin_j = 0.0;
    if (rows > 0u) {
        origin_i = X[x_at + col_i];
        origin_j = X[x_at + col_j];
    }

    var sum_i = 0.0;
    var sum_j = 0.0;
    for (var r = ty; r < rows; r += 16u) {
        sum_i += X[x_at + r * P.d + col_i] - origin_i;
        sum_j += X[x_at + r * P.d + col_j] - origin_j;
    }
    tile_i[ty * 17u + tx] = sum_i;
    tile_j[ty * 17u + tx] = sum_j;
    workgroupBarrier();
    sum_i = 0.0;
    sum_j = 0.0;
    for (var k = 0u; k < 16u; k++) {
        sum_i += tile_i[k * 17u + tx];
        sum_j += tile_j[k * 17u + tx];
    }
    workgroupBarrier();
    let count = f32(max(rows, 1u));
    let mean_i = origin_i + sum_i / count;
    let mean_j = origin_j + sum_j / count;
    if (wid.y == 0u && ty == 0u && wid.x * 16u + tx < P.d) { MEAN[wid.z * P.d + col_j] = mean_j; }

    var acc = 0.0;
    for (var r0 = 0u; r0 < rows; r0 += 16u) {
        let r = r0 + ty;
        var x_i = 0.0;
        var x_j = 0.0;
        if (r < rows) {
            x_i = X[x_at + r * P.d + col_i] - mean_i;
            x_j = X[x_at + r * P.d + col_j] - mean_j;
        }
        tile_i[ty * 17u + tx] = x_i;
        tile_j[ty * 17u + tx] = x_j;
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) { acc += tile_i[k * 17u + ty] * tile_j[k * 17u + tx]; }
        workgroupBarrier();
    }
    let i = wid.y * 16u + ty;
    let j = wid.x * 16u + tx;
    if (i < P.d && j < P.d) { COV[(wid.z * P.d + i) * P.d + j] = acc / f32(max(P.n, 2u) - 1u); }
}
#else
// Four entries of the row that begins at a word, at columns i; those past the edge repeat the last.
fn four(at: u32, i: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(X[at + i.x], X[at + i.y], X[at + i.z], X[at + i.w]);
}

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * ${WG}u + id;
    let j = item % P.d;
    let first = item / P.d * 4u;
    if (first >= P.d) { return; }
    let i = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(P.d - 1u));

    let x_at = wid.z * P.n * P.d;
    let rows = select(P.n, 0u, P.n < 2u);
    var mean_i = vec4<f32>();
    var mean_j = 0.0;
    if (rows > 0u) {
        let origin_i = four(x_at, i);
        let origin_j = X[x_at + j];
        for (var r = 0u; r < rows; r++) {
            mean_i += four(x_at + r * P.d, i) - origin_i;
            mean_j += X[x_at + r * P.d + j] - origin_j;
        }
        mean_i = origin_i + mean_i / f32(rows);
        mean_j = origin_j + mean_j / f32(rows);
    }
    if (first == 0u) { MEAN[wid.z * P.d + j] = mean_j; }

    var acc = vec4<f32>();
    for (var r = 0u; r < rows; r++) {
        acc += (four(x_at + r * P.d, i) - mean_i) * (X[x_at + r * P.d + j] - mean_j);
    }
    acc /= f32(max(P.n, 2u) - 1u);
#for k in 0..4
    if (first + ${k}u < P.d) { COV[(wid.z * P.d + first + ${k}u) * P.d + j] = acc[${k}]; }
#endfor
}
#endif
