// Y[z, i, j] = sum over l of Xz[i, l] Wz[j, l]      z < FEATURES
//
// Features of different widths brought to one width, without biases.
// In    Xz [n, kz], one binding each; W, all weights: Wz [d, kz] from word P.at[z] on
// Out   Y  [FEATURES, n, d]
//
// Geometry  TILED and neither: as in shared/group.
//           LANES: a workgroup is one subgroup and owns LANES x 8 of a feature's Y; a lane loads
//           its own row of X, the lanes load W together and broadcast it. All kz are multiples of
//           4. A loop for each feature, so that what a lane loads is not chosen at every step.
// Numerics  f32, each element summed over l in a fixed order.
// Limits    FEATURES <= 4; 256 invocations, 16 x 17 x 4 x 2 bytes of workgroup memory.
// Twin      ops::project::reference::project
#import group

#if LANES
alias E = vec4<f32>;
#else
alias E = f32;
#endif
#for z in 0..FEATURES
@group(0) @binding(${z}) var<storage, read> X${z}: array<E>;
#endfor
@group(0) @binding(4) var<storage, read> W: array<E>;
@group(0) @binding(5) var<storage, read_write> Y: array<f32>;

fn rows() -> u32 { return P.n; }
fn cols(z: u32) -> u32 { return select(0u, P.d, z < ${FEATURES}u); }
fn inner(z: u32) -> u32 { return P.k[min(z, 3u)]; }
fn put(z: u32, r: u32, c: u32, value: f32) { Y[(z * P.n + r) * P.d + c] = value; }

#if !LANES
fn a(z: u32, r: u32, l: u32) -> f32 {
    let at = r * P.k[z] + l;
    var x = 0.0;
#for z in 0..FEATURES
    if (z == ${z}u) { x = X${z}[at]; }
#endfor
    return x;
}

fn b(z: u32, l: u32, c: u32) -> f32 { return W[P.at[z] + c * P.k[z] + l]; }
#else
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let owner = owner_of(wid.x, 8u);
    let z = owner.x;
    let steps = P.k[z] / 4u;
    let row = wid.y * ${LANES}u + lane;
    let col0 = owner.y * 8u;
    let a_at = min(row, P.n - 1u) * steps;
#for j in 0..(8 + LANES - 1) / LANES
    let b_at${j} = P.at[z] / 4u + min(col0 + (lane + ${j * LANES}u) % 8u, P.d - 1u) * steps;
#endfor
    var acc0 = vec4<f32>();
    var acc1 = vec4<f32>();
#for z in 0..FEATURES
    for (var l = 0u; l < select(0u, steps, z == ${z}u); l++) {
        let x = X${z}[a_at + l];
#for j in 0..(8 + LANES - 1) / LANES
        let b${j} = W[b_at${j} + l];
#endfor
#for c in 0..8
        let v${c} = subgroupBroadcast(b${c / LANES}, ${c % LANES}u);
#endfor
        acc0 += vec4<f32>(dot(x, v0), dot(x, v1), dot(x, v2), dot(x, v3));
        acc1 += vec4<f32>(dot(x, v4), dot(x, v5), dot(x, v6), dot(x, v7));
    }
#endfor
    // A loop, not unrolled: the store is long, and a just-in-time compiler sees it once.
    var acc = array<vec4<f32>, 2>(acc0, acc1);
    for (var c = 0u; c < 8u; c++) {
        if (row < P.n && col0 + c < P.d) { put(z, row, col0 + c, acc[c / 4u][c % 4u]); }
    }
}
#endif
