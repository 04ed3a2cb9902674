// Y[r, c] = sqrt(X[r, c]^2 + X[r, n + c]^2)
//
// In    X [rows, 2 n]: real parts, then imaginary parts
// Out   Y [rows, n]
// Geometry  one invocation an element, or four where n is a multiple of 4 (VEC); 64 to a
//           workgroup.
// Numerics  f32; squares past the largest number are infinite.
// Twin      ops::modulus::reference::modulus

#if VEC
alias T = vec4<f32>;
const UNIT = 4u;
#else
alias T = f32;
const UNIT = 1u;
#endif
struct Params { rows: u32, n: u32 }
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
    let n = P.n / UNIT;
    if (i >= P.rows * n) { return; }
    let at = i / n * 2u * n + i % n;
    let re = X[at];
    let im = X[at + n];
    Y[i] = sqrt(re * re + im * im);
}
