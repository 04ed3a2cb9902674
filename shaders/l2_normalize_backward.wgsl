// DX[r, c] (+)= (DY[r, c] - Y[r, c] sum over k of DY[r, k] Y[r, k]) / NORM[r]    where NORM[r] >= eps
// DX[r, c] (+)= DY[r, c] / eps                                                   elsewhere
//
// In    DY, Y [rows, cols], Y what l2_normalize.wgsl gave;  NORM [rows]
// Out   DX    [rows, cols], added to with accumulate
// Geometry  as l2_normalize.wgsl.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::normalize::reference::l2_normalize_backward
#import numbers
#import row

struct Params { rows: u32, cols: u32, accumulate: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> DY: array<T>;
@group(0) @binding(1) var<storage, read> Y: array<T>;
@group(0) @binding(2) var<storage, read> NORM: array<f32>;
@group(0) @binding(3) var<storage, read_write> DX: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
#if VEC
    let cols = P.cols / 4u;
#else
    let cols = P.cols;
#endif
    let first = row * cols + row_start(id);
    let end = select(0u, (row + 1u) * cols, row < P.rows);
    var total = T();
    for (var i = first; i < end; i += STRIDE) {
        total += DY[i] * Y[i];
    }
    let dot = row_sum(flat_sum(total), id);
    let norm = NORM[min(row, P.rows - 1u)];
    let small = is_smaller(norm, P.eps);
    let divisor = T(select(norm, P.eps, small));
    let along = T(select(dot, 0.0, small));
    for (var i = first; i < end; i += STRIDE) {
        DX[i] = (DY[i] - Y[i] * along) / divisor + select(T(), DX[i], P.accumulate != 0u);
    }
}
