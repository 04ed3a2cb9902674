// Dk[r, c] (+)= DY[r, n0 + .. + n(k-1) + c]      k = 0 .. 3
//
// In    DY [rows, n0 + n1 + n2 + n3]
// Out   Dk [rows, nk], each optional; bit k of accumulate says whether to add to it
// Geometry  one invocation an element of DY, or four where every nk is a multiple of 4 (VEC); 64
//           to a workgroup.
// Twin      ops::concat::reference::concat_backward

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { rows: u32, accumulate: u32, n: vec4<u32> }
@group(0) @binding(0) var<storage, read> DY: array<T>;
#if D0
@group(0) @binding(1) var<storage, read_write> D0: array<T>;
#endif
#if D1
@group(0) @binding(2) var<storage, read_write> D1: array<T>;
#endif
#if D2
@group(0) @binding(3) var<storage, read_write> D2: array<T>;
#endif
#if D3
@group(0) @binding(4) var<storage, read_write> D3: array<T>;
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
    let n = P.n / 4u;
#else
    let n = P.n;
#endif
    let total = n.x + n.y + n.z + n.w;
    if (i >= P.rows * total) { return; }
    let dy = DY[i];
    let row = i / total;
    // The column within part k; before that part it wraps to a number past any width.
    let col0 = i % total;
    let col1 = col0 - n.x;
    let col2 = col1 - n.y;
    let col3 = col2 - n.z;
#if D0
    if (col0 < n.x) {
        let at = row * n.x + col0;
        D0[at] = dy + select(T(), D0[at], (P.accumulate & 1u) != 0u);
    }
#endif
#if D1
    if (col1 < n.y) {
        let at = row * n.y + col1;
        D1[at] = dy + select(T(), D1[at], (P.accumulate & 2u) != 0u);
    }
#endif
#if D2
    if (col2 < n.z) {
        let at = row * n.z + col2;
        D2[at] = dy + select(T(), D2[at], (P.accumulate & 4u) != 0u);
    }
#endif
#if D3
    if (col3 < n.w) {
        let at = row * n.w + col3;
        D3[at] = dy + select(T(), D3[at], (P.accumulate & 8u) != 0u);
    }
#endif
}
