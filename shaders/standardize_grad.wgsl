// DX[f, r, j] (+)= RSTD[f, j] (DZ[f, r, j] - mean over r of DZ[f, r, j]
//                              - Z[f, r, j] / (n-1) sum over r of DZ[f, r, j] Z[f, r, j])
//
// In    Z [features, n, d] and RSTD [features, d] of the forward pass; DZ [features, n, d]
// Out   DX [features, n, d]; zero where n < 2
//
// Geometry  as in standardize: the grid's z is the feature. TILED: a workgroup of 16x16 owns 16
//           columns; else an invocation owns a column.
// Numerics  f32, a fixed order.
// Limits    256 invocations, 2 KiB of workgroup memory.
// Twin      ops::standardize::reference::backward

struct Params { n: u32, d: u32, accumulate: u32, features: u32 }
@group(0) @binding(0) var<storage, read> Z: array<f32>;
@group(0) @binding(1) var<storage, read> RSTD: array<f32>;
@group(0) @binding(2) var<storage, read> DZ: array<f32>;
@group(0) @binding(3) var<storage, read_write> DX: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
var<workgroup> part: array<vec2<f32>, 256>;

// The sum of the 16 values of this invocation's column.
fn total(id: u32, value: vec2<f32>) -> vec2<f32> {
    part[id] = value;
    workgroupBarrier();
    var sum = vec2<f32>();
    for (var k = 0u; k < 16u; k++) { sum += part[k * 16u + id % 16u]; }
    return sum;
}
#else
fn total(id: u32, value: vec2<f32>) -> vec2<f32> { return value; }
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
    var sums = vec2<f32>();
    for (var r = first; r < P.n; r += stride) {
        let dz = DZ[x_at + r * P.d + col];
        sums += vec2<f32>(dz, dz * Z[x_at + r * P.d + col]);
    }
    sums = total(id, sums) / vec2<f32>(f32(max(P.n, 1u)), f32(max(P.n, 2u) - 1u));
    if (wanted >= P.d) { return; }
    let rstd = select(0.0, RSTD[wid.z * P.d + col], P.n > 1u);
    for (var r = first; r < P.n; r += stride) {
        let at = x_at + r * P.d + col;
        let dx = rstd * (DZ[at] - sums.x - Z[at] * sums.y);
        DX[at] = dx + select(0.0, DX[at], P.accumulate != 0u);
    }
}
