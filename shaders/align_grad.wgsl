// DX[i, r, c] (+)= G/(d^2 (n-1)) sum over l of (X[i, r, l] - MEAN[i, l]) D_i[l, c]
//    D_i[l, c]   = sum over j of COEF[i, j] (C_i[l, c] - C_j[l, c])
//
// The gradient of the covariance terms of all pairs that each feature is in, a product a feature.
// COEF is symmetric and D_i changes its sign with the side, so that neither side needs a case.
// In    X [FEATURES, n, d]; MEAN [FEATURES, d]; COV [FEATURES, d, d];
//       COEF [FEATURES, FEATURES]; G [1], the gradient of the loss
// Out   DX [FEATURES, n, d]; zero where n < 2
//
// Geometry  the grid's z is the feature i.
//           TILED: a workgroup of 16x16 owns 16x16 of DX; slices of 16 of the centred X and of D
//           come through workgroup memory.
//           else: an invocation owns 4x1 of DX, so that an entry of D serves four rows;
//           workgroups of WG (one subgroup on a CPU adapter), no workgroup memory, no barrier.
// Numerics  f32, each element summed over l in order; differences of covariances before products.
// Limits    2 <= FEATURES <= 4; 256 invocations, 16 x 17 x 4 x 2 bytes of workgroup memory.
// Twin      ops::align::reference::gradient

struct Params { n: u32, d: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> MEAN: array<f32>;
@group(0) @binding(2) var<storage, read> COV: array<f32>;
@group(0) @binding(3) var<storage, read> COEF: array<f32>;
@group(0) @binding(4) var<storage, read> G: array<f32>;
@group(0) @binding(5) var<storage, read_write> DX: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

// Entry `at` of D_i.
fn difference(i: u32, at: u32) -> f32 {
    let size = P.d * P.d;
    let own = COV[i * size + at];
    var sum = 0.0;
#for j in 0..FEATURES
    sum += COEF[i * ${FEATURES}u + ${j}u] * (own - COV[${j}u * size + at]);
#endfor
    return sum;
}

fn store(i: u32, row: u32, col: u32, sum: f32) {
    if (row >= P.n || col >= P.d) { return; }
    var value = 0.0;
    if (P.n > 1u) { value = G[0] / (f32(P.d) * f32(P.d) * f32(P.n - 1u)) * sum; }
    let at = (i * P.n + row) * P.d + col;
    DX[at] = value + select(0.0, DX[at], P.accumulate != 0u);
}

#if TILED
var<workgroup> tile_x: array<f32, ${16 * 17}>;
var<workgroup> tile_d: array<f32, ${16 * 17}>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let ty = id / 16u;
    let tx = id % 16u;
    let tiles = (P.d + 15u) / 16u;
    let tile = wid.y * count.x + wid.x;
    let row = tile / tiles * 16u + ty;
    let col = tile % tiles * 16u + tx;
    var acc = 0.0;
    for (var l0 = 0u; l0 < P.d; l0 += 16u) {
        var x = 0.0;
        var d = 0.0;
        if (row < P.n && l0 + tx < P.d) {
            x = X[(wid.z * P.n + row) * P.d + l0 + tx] - MEAN[wid.z * P.d + l0 + tx];
        }
        if (col < P.d && l0 + ty < P.d) { d = difference(wid.z, (l0 + ty) * P.d + col); }
        tile_x[ty * 17u + tx] = x;
        tile_d[ty * 17u + tx] = d;
        workgroupBarrier();
        for (var k = 0u; k < 16u; k++) { acc += tile_x[ty * 17u + k] * tile_d[k * 17u + tx]; }
        workgroupBarrier();
    }
    store(wid.z, row, col, acc);
}
#else
@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * ${WG}u + id;
    let col = item % P.d;
    let row = item / P.d * 4u;
    if (row >= P.n) { return; }
    let last = P.n - 1u;
    let rows = vec4<u32>(row, min(row + 1u, last), min(row + 2u, last), min(row + 3u, last));
    let at = (wid.z * P.n + rows) * P.d;
    var acc = vec4<f32>();
    for (var l = 0u; l < P.d; l++) {
        let x = vec4<f32>(X[at.x + l], X[at.y + l], X[at.z + l], X[at.w + l]);
        acc += (x - MEAN[wid.z * P.d + l]) * difference(wid.z, l * P.d + col);
    }
#for r in 0..4
    store(wid.z, row + ${r}u, col, acc[${r}]);
#endfor
}
#endif
