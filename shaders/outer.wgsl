// Y[r, i, j] = A[r, i] B[r, j]
//
// In    A [rows, p],  B [rows, q]
// Out   Y [rows, pitch], of whose rows the first p q numbers are [p, q], the others zero;
//       n = rows pitch
// Geometry  one invocation an element, four of j where q is a multiple of 4 (VEC), or any four where
//           pitch is (QUADS); 64 to a workgroup.
// Twin      ops::outer::reference::outer

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
#if VEC || QUADS
alias E = vec4<f32>;
#else
alias E = f32;
#endif
struct Params { n: u32, p: u32, q: u32, pitch: u32 }
@group(0) @binding(0) var<storage, read> A: array<f32>;
@group(0) @binding(1) var<storage, read> B: array<T>;
@group(0) @binding(2) var<storage, read_write> Y: array<E>;
@group(0) @binding(14) var<uniform> P: Params;

#if !VEC
fn product(row: u32, col: u32) -> f32 {
    let i = min(col / P.q, P.p - 1u);
    return select(0.0, A[row * P.p + i] * B[row * P.q + col % P.q], col < P.p * P.q);
}
#endif

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let q = P.q / 4u;
    if (i >= P.n / 4u) { return; }
    let at = i / q;
    Y[i] = A[at] * B[at / P.p * q + (i - at * q)];
#endif
#if QUADS
    if (i >= P.n / 4u) { return; }
    let row = i / (P.pitch / 4u);
    let col = (i - row * (P.pitch / 4u)) * 4u;
    Y[i] = vec4<f32>(product(row, col), product(row, col + 1u), product(row, col + 2u), product(row, col + 3u));
#endif
#if !VEC && !QUADS
    if (i >= P.n) { return; }
    let row = i / P.pitch;
    Y[i] = product(row, i - row * P.pitch);
#endif
}
