// Y[i] (+)= A[i] + factor B[b(i)]        with MUL: Y[i] (+)= factor A[i] B[b(i)]
//                                        with DIV: Y[i] (+)= A[i] / (factor B[b(i)])
//
// b(i) by MODE  0: i, same shape       1: i mod cols, B repeats along the rows of A
//               2: i div cols, one value for each row       3: 0, one value for all
// In    A [n], optional: without it Y (+)= factor B, a broadcast
//       B [n], [cols], [n / cols] or [1] by MODE
// Out   Y [n], added to with accumulate
// Geometry  one invocation an element, or four where n (MODE 1 and 2: cols) is a multiple of 4
//           (VEC); 64 to a workgroup.
// Twin      ops::elementwise::reference::binary

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
#if VEC && MODE < 2
alias TB = vec4<f32>;
#else
alias TB = f32;
#endif
struct Params { n: u32, cols: u32, accumulate: u32, factor: f32 }
#if A
@group(0) @binding(0) var<storage, read> A: array<T>;
#endif
@group(0) @binding(1) var<storage, read> B: array<TB>;
@group(0) @binding(2) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let n = P.n / 4u;
    let cols = P.cols / 4u;
#else
    let n = P.n;
    let cols = P.cols;
#endif
    if (i >= n) { return; }
#if MODE == 0
    let b = P.factor * T(B[i]);
#endif
#if MODE == 1
    let b = P.factor * T(B[i % cols]);
#endif
#if MODE == 2
    let b = P.factor * T(B[i / cols]);
#endif
#if MODE == 3
    let b = P.factor * T(B[0]);
#endif
#if A
#if MUL
    let y = A[i] * b;
#else
#if DIV
    let y = A[i] / b;
#else
    let y = A[i] + b;
#endif
#endif
#else
    let y = b;
#endif
    Y[i] = y + select(T(), Y[i], P.accumulate != 0u);
}
