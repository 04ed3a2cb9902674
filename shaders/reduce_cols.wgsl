// OUT[z, c] (+)= scale * sum over r in piece z of X[r, c] (* TIMES[r, c])
//
// In    X     [rows, cols]
//       TIMES shaped as X, optional
// Out   OUT   [ceil(rows / chunk), cols], added to with accumulate
// Piece z is rows z chunk to (z + 1) chunk. One piece gives the column sums; many rows are first
// summed in pieces, then the pieces' sums by the same kernel.
//
// Geometry  TILED: a workgroup owns 32 columns (with VEC 32 x 4) of a piece, eight invocations to
//           a column that take every eighth row and meet in workgroup memory.
//           else: an invocation owns a column (with VEC four), WG to a workgroup.
//           VEC where cols is a multiple of 4; wid.z is the piece.
// Numerics  f32, rows in order, then the eight partial sums in order.
// Limits    256 invocations, 4 KiB of workgroup memory.
// Twin      ops::reduce::reference::reduce_cols

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { rows: u32, cols: u32, chunk: u32, accumulate: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
#if TIMES
@group(0) @binding(1) var<storage, read> TIMES: array<T>;
#endif
@group(0) @binding(2) var<storage, read_write> OUT: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
var<workgroup> part: array<T, 256>;
#endif

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
#if VEC
    let cols = P.cols / 4u;
#else
    let cols = P.cols;
#endif
    let group = wid.y * count.x + wid.x;
#if TILED
    let col = group * 32u + id % 32u;
    let first = wid.z * P.chunk + id / 32u;
    let step = 8u;
#else
    let col = group * ${WG}u + id;
    let first = wid.z * P.chunk;
    let step = 1u;
#endif
    let end = select(0u, min(P.rows, (wid.z + 1u) * P.chunk), col < cols);
    var total = T();
    for (var row = first; row < end; row += step) {
#if TIMES
        total += X[row * cols + col] * TIMES[row * cols + col];
#else
        total += X[row * cols + col];
#endif
    }
#if TILED
    part[id] = total;
    workgroupBarrier();
    if (id < 32u) {
#for i in 1..8
        total += part[id + ${32 * i}u];
#endfor
    }
    let owner = id < 32u;
#else
    let owner = true;
#endif
    if (owner && col < cols) {
        let at = wid.z * cols + col;
        OUT[at] = P.scale * total + select(T(), OUT[at], P.accumulate != 0u);
    }
}
