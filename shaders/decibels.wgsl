// Y[i] = 10 log10(max(X[i], FLOOR[0]))
//
// In    X     [n], powers
//       FLOOR [1], above 0: the least power that counts
// Out   Y     [n]
// Geometry  one invocation an element, or four where n is a multiple of 4 (VEC); 64 to a
//           workgroup.
// Numerics  f32; 10 log10(2) times the base-2 logarithm.
// Twin      ops::decibels::reference::decibels

#if VEC
alias T = vec4<f32>;
const UNIT = 4u;
#else
alias T = f32;
const UNIT = 1u;
#endif
struct Params { n: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> FLOOR: array<f32>;
@group(0) @binding(2) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
    if (i >= P.n / UNIT) { return; }
    let x = X[i];
    let least = T(FLOOR[0]);
    // What is NaN stays so, of the powers (the second comparison) and of the floor (the first).
    let y = select(least, x, x >= least);
    Y[i] = 3.01029995664 * log2(select(x, y, x <= T(3.4e38)));
}
