// Dz[i, l] (+)= sum over j of DY[z, i, j] Wz[j, l]      where P.k[z] > 0
//
// The gradients of all inputs of a projection. An input that wants none has k = 0, and no binding.
// In    DY [FEATURES, n, d]; W, all weights: Wz [d, kz] from word P.at[z] on
// Out   Dz [n, kz], one binding each; bit z of accumulate: add to it
//
// Geometry  as in shared/group, with rows i and columns l; LANES where all kz are multiples of 4.
// Numerics  f32, each element summed over j in order.
// Limits    FEATURES <= 4; 256 invocations, 16 x 17 x 4 x 2 bytes of workgroup memory.
// Twin      ops::project::reference::inputs
#import group

#if LANES
alias E = vec4<f32>;
#else
alias E = f32;
#endif
@group(0) @binding(0) var<storage, read> DY: array<f32>;
@group(0) @binding(1) var<storage, read> W: array<E>;
#if D0
@group(0) @binding(2) var<storage, read_write> D0: array<f32>;
#endif
#if D1
@group(0) @binding(3) var<storage, read_write> D1: array<f32>;
#endif
#if D2
@group(0) @binding(4) var<storage, read_write> D2: array<f32>;
#endif
#if D3
@group(0) @binding(5) var<storage, read_write> D3: array<f32>;
#endif

fn rows() -> u32 { return P.n; }
fn cols(z: u32) -> u32 { return P.k[min(z, 3u)]; }
fn inner(z: u32) -> u32 { return P.d; }
fn a(z: u32, r: u32, l: u32) -> f32 { return DY[(z * P.n + r) * P.d + l]; }

#if LANES
fn b4(z: u32, l: u32, quad: u32) -> vec4<f32> { return W[(P.at[z] + l * P.k[z]) / 4u + quad]; }
#else
fn b(z: u32, l: u32, c: u32) -> f32 { return W[P.at[z] + l * P.k[z] + c]; }
#endif

fn put(z: u32, r: u32, c: u32, value: f32) {
    let at = r * P.k[z] + c;
    let adds = ((P.accumulate >> z) & 1u) != 0u;
#if D0
    if (z == 0u) { D0[at] = value + select(0.0, D0[at], adds); }
#endif
#if D1
    if (z == 1u) { D1[at] = value + select(0.0, D1[at], adds); }
#endif
#if D2
    if (z == 2u) { D2[at] = value + select(0.0, D2[at], adds); }
#endif
#if D3
    if (z == 3u) { D3[at] = value + select(0.0, D3[at], adds); }
#endif
}
