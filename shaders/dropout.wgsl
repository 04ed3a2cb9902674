// Y[i] (+)= X[i] scale where bits(i) >= threshold, else 0        scale = 1 / (1 - p)
//
// bits(i) are 32 random bits of (seed, step, stream, i), threshold = p 2^32: the mask is never
// stored. The gradient is this kernel again, from DY to DX.
// In    X [n]
// Out   Y [n], added to with accumulate
// Geometry  one invocation an element, or four where n is a multiple of 4 (VEC); 64 to a
//           workgroup. The mask is the same either way.
// Twin      ops::dropout::reference::dropout
#import rng
#import mask
#import step

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, accumulate: u32, stream: u32, threshold: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    if (i >= P.n / 4u) { return; }
    let mask = mask4(i * 4u);
#else
    if (i >= P.n) { return; }
    let mask = mask1(i);
#endif
    Y[i] = X[i] * mask + select(T(), Y[i], P.accumulate != 0u);
}
