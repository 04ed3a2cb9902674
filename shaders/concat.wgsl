// Y[r, :] = X0[r, :], X1[r, :], X2[r, :], X3[r, :] side by side
//
// In    Xk [rows, nk]; X1 to X3 optional, their nk then 0
// Out   Y  [rows, n0 + n1 + n2 + n3]
// Geometry  one invocation an element of Y, or four where every nk is a multiple of 4 (VEC); 64 to
//           a workgroup.
// Twin      ops::concat::reference::concat

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { rows: u32, n: vec4<u32> }
@group(0) @binding(0) var<storage, read> X0: array<T>;
#if X1
@group(0) @binding(1) var<storage, read> X1: array<T>;
#endif
#if X2
@group(0) @binding(2) var<storage, read> X2: array<T>;
#endif
#if X3
@group(0) @binding(3) var<storage, read> X3: array<T>;
#endif
@group(0) @binding(4) var<storage, read_write> Y: array<T>;
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
    let row = i / total;
    // The column within the part at hand; before that part it wraps to a number past any width.
    var col = i % total;
    var y = T();
    if (col < n.x) { y = X0[row * n.x + col]; }
#if X1
    col -= n.x;
    if (col < n.y) { y = X1[row * n.y + col]; }
#endif
#if X2
    col -= n.y;
    if (col < n.z) { y = X2[row * n.z + col]; }
#endif
#if X3
    col -= n.z;
    if (col < n.w) { y = X3[row * n.w + col]; }
#endif
    Y[i] = y;
}
