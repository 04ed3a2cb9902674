// DX[r, c] (+)= DY[r, c] - exp(Y[r, c]) sum over k of DY[r, k]
//
// In    DY, Y [rows, cols], Y the logarithm of the softmax
// Out   DX    [rows, cols], added to with accumulate
// Geometry  as logsumexp.wgsl.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::logsumexp::reference::log_softmax_backward
#import row

struct Params { rows: u32, cols: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> DY: array<T>;
@group(0) @binding(1) var<storage, read> Y: array<T>;
@group(0) @binding(2) var<storage, read_write> DX: array<T>;
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
        total += DY[i];
    }
    let sum = row_sum(flat_sum(total), id);
    for (var i = first; i < end; i += STRIDE) {
        DX[i] = DY[i] - exp(Y[i]) * sum + select(T(), DX[i], P.accumulate != 0u);
    }
}
