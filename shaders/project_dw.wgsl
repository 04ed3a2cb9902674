// DWz[j, l] (+)= sum over i of DY[z, i, j] Xz[i, l]      z < FEATURES, where P.k[z] > 0
//
// The gradients of all weights of a projection. A weight that wants none has k = 0.
// In    DY [FEATURES, n, d]; Xz [n, kz], one binding each
// Out   DW, all gradients: DWz [d, kz] from word P.at[z] on; bit z of accumulate: add to it
//
// Geometry  as in shared/group, with rows j and columns l; LANES where all kz are multiples of 4.
// Numerics  f32, each element summed over i in order.
// Limits    FEATURES <= 4; 256 invocations, 16 x 17 x 4 x 2 bytes of workgroup memory.
// Twin      ops::project::reference::weights
#import group

#if LANES
alias E = vec4<f32>;
#else
alias E = f32;
#endif
@group(0) @binding(0) var<storage, read> DY: array<f32>;
#for z in 0..FEATURES
@group(0) @binding(${z + 1}) var<storage, read> X${z}: array<E>;
#endfor
@group(0) @binding(5) var<storage, read_write> DW: array<f32>;

fn rows() -> u32 { return P.d; }
fn cols(z: u32) -> u32 { return P.k[min(z, 3u)]; }
fn inner(z: u32) -> u32 { return P.n; }
fn a(z: u32, r: u32, l: u32) -> f32 { return DY[(z * P.n + l) * P.d + r]; }

fn x_at(z: u32, at: u32) -> E {
    var x = E();
#for z in 0..FEATURES
    if (z == ${z}u) { x = X${z}[at]; }
#endfor
    return x;
}

#if LANES
fn b4(z: u32, l: u32, quad: u32) -> vec4<f32> { return x_at(z, l * (P.k[z] / 4u) + quad); }
#else
fn b(z: u32, l: u32, c: u32) -> f32 { return x_at(z, l * P.k[z] + c); }
#endif

fn put(z: u32, r: u32, c: u32, value: f32) {
    let at = P.at[z] + r * P.k[z] + c;
    DW[at] = value + select(0.0, DW[at], ((P.accumulate >> z) & 1u) != 0u);
}
