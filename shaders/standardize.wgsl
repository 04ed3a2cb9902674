// Z[f, r, j] = (X[f, r, j] - m_j) RSTD[f, j],   RSTD[f, j] = 1 / sqrt(v_j + eps)
//    m_j  = X[f, 0, j] + 1/n sum over r of (X[f, r, j] - X[f, 0, j])
//    v_j  = 1/(n-1) sum over r of (X[f, r, j] - m_j)^2
//
// Columns of each of several features standardised over the batch, with the unbiased variance.
// In    X [features, n, d]
// Out   Z [features, n, d]; RSTD [features, d], which the gradient reads; both zero where n < 2
//
// Geometry  the grid's z is the feature f.
//           TILED: a workgroup of 16x16 owns 16 columns; 16 invocations share a column.
//           else: an invocation owns a column; workgroups of WG (one subgroup on a CPU
//           adapter), no workgroup memory, no barrier.
// Numerics  f32, two passes, a fixed order. The mean counts from the first row, so a constant
//           column gives exactly zero and not rounding noise blown up by 1/sqrt(eps).
// Limits    256 invocations, 1 KiB of workgroup memory.
// Twin      ops::standardize::reference::forward

struct Params { n: u32, d: u32, eps: f32, features: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> Z: array<f32>;
@group(0) @binding(2) var<storage, read_write> RSTD: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
var<workgroup> part: array<f32, 256>;

// The sum of the 16 values of this invocation's column.
fn total(id: u32, value: f32) -> f32 {
    part[id] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var k = 0u; k < 16u; k++) { sum += part[k * 16u + id % 16u]; }
    workgroupBarrier();
    return sum;
}
#else
fn total(id: u32, value: f32) -> f32 { return value; }
#endif

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let x_at = wid.z * P.n * P.d;
    let group = wid.y * count.x + wid.x;
#if TILED
    let wanted = group * 16u + id % 16u;
    let first = id / 16u;
    let stride = 16u;
#else
    let wanted = group * ${WG}u + id;
    let first = 0u;
    let stride = 1u;
#endif
    // Past the edge the last column is read again and nothing is written.
    let col = min(wanted, P.d - 1u);
    let rows = select(P.n, 0u, P.n < 2u);
    var origin = 0.0;
    if (rows > 0u) { origin = X[x_at + col]; }
    var sum = 0.0;
    for (var r = first; r < rows; r += stride) { sum += X[x_at + r * P.d + col] - origin; }
    let mean = origin + total(id, sum) / f32(max(rows, 1u));
    sum = 0.0;
    for (var r = first; r < rows; r += stride) {
        let x = X[x_at + r * P.d + col] - mean;
        sum += x * x;
    }
    let variance = total(id, sum) / f32(max(P.n, 2u) - 1u);
    let rstd = select(0.0, 1.0 / sqrt(variance + P.eps), rows > 0u);
    if (wanted >= P.d) { return; }
    if (first == 0u) { RSTD[wid.z * P.d + col] = rstd; }
    for (var r = first; r < P.n; r += stride) {
        let at = x_at + r * P.d + col;
        Z[at] = 0.0;
        if (rows > 0u) { Z[at] = (X[at] - mean) * rstd; }
    }
}
