// Y[r, i, j] = A[r, i] B[r, j]
//
// In    A [rows, p],  B [rows, q]
// Out   Y [rows, p, q]; n = rows p q
// Geometry  one invocation an element, or four of j where q is a multiple of 4 (VEC); 64 to a
//           workgroup.
// Twin      ops::outer::reference::outer

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, p: u32, q: u32 }
@group(0) @binding(0) var<storage, read> A: array<f32>;
@group(0) @binding(1) var<storage, read> B: array<T>;
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
    let q = P.q / 4u;
#else
    let n = P.n;
    let q = P.q;
#endif
    if (i >= n) { return; }
    let at = i / q;
    Y[i] = A[at] * B[at / P.p * q + (i - at * q)];
}
