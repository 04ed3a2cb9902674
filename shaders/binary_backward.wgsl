// DA[i] (+)= DY[i],         DB[i] (+)= factor DY[i]           the gradient of A + factor B
// DA[i] (+)= DY[i] B[i],    DB[i] (+)= DY[i] A[i]             with MUL, that of A B
// DA[i] (+)= DY[i] / B[i],   DB[i] (+)= -DY[i] A[i] / B[i]      with DIV, where A is the quotient
//
// In    DY [n]
//       A  [n], only with MUL or DIV, and DB;  B [n], only with MUL and DA, and with DIV
// Out   DA, DB [n], each optional and each with its own accumulate
// Geometry  one invocation an element, or four where n is a multiple of 4 (VEC); 64 to a
//           workgroup.
// Twin      ops::elementwise::reference::binary_backward

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, accumulate_a: u32, accumulate_b: u32, factor: f32 }
@group(0) @binding(0) var<storage, read> DY: array<T>;
#if A
@group(0) @binding(1) var<storage, read> A: array<T>;
#endif
#if B
@group(0) @binding(2) var<storage, read> B: array<T>;
#endif
#if DA
@group(0) @binding(3) var<storage, read_write> DA: array<T>;
#endif
#if DB
@group(0) @binding(4) var<storage, read_write> DB: array<T>;
#endif
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
#else
    if (i >= P.n) { return; }
#endif
    let dy = DY[i];
#if DA
#if MUL
    let da = dy * B[i];
#else
#if DIV
    let da = dy / B[i];
#else
    let da = dy;
#endif
#endif
    DA[i] = da + select(T(), DA[i], P.accumulate_a != 0u);
#endif
#if DB
#if MUL
    let db = dy * A[i];
#else
#if DIV
    let db = -(dy * A[i]) / B[i];
#else
    let db = P.factor * dy;
#endif
#endif
    DB[i] = db + select(T(), DB[i], P.accumulate_b != 0u);
#endif
}
