// z[r, :] = X[r, :] + drop(Y[r, :])
// OUT[r, :] = gamma (z - mean) rstd + beta      rstd = 1 / sqrt(mean((z - mean)^2) + eps)
//
// drop is dropout as shaders/dropout.wgsl has it; its gradient draws the same mask again.
// In    X  [rows, cols]
//       Y  [rows, cols], optional: without it this is LayerNorm alone
//       GB [2, cols]: gamma, beta
// Out   OUT   [rows, cols]
//       Z     [rows, cols], optional: z, for the backward
//       STATS [rows, 2], optional: mean and rstd, for the backward
// Geometry  by shared/row.wgsl, vectors of four where cols is a multiple of 4. An invocation comes back only to elements of OUT
//           that it wrote itself.
// Numerics  f32; the mean first, then squared differences from it.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::norm::reference::residual_norm
#import row
#import rng
#import mask
#import step

struct Params {
    rows: u32, cols: u32, eps: f32, stream: u32,
    threshold: u32, scale: f32,
}
@group(0) @binding(0) var<storage, read> X: array<T>;
#if Y
@group(0) @binding(1) var<storage, read> Y: array<T>;
#endif
@group(0) @binding(2) var<storage, read> GB: array<T>;
@group(0) @binding(3) var<storage, read_write> OUT: array<T>;
#if Z
@group(0) @binding(4) var<storage, read_write> Z: array<T>;
#endif
#if STATS
@group(0) @binding(5) var<storage, read_write> STATS: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

#if Y && DROP
fn mask_of(i: u32) -> T {
#if VEC
    return mask4(i * 4u);
#else
    return mask1(i);
#endif
}
#endif

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
#if VEC
    let units = P.cols / 4u;
#else
    let units = P.cols;
#endif
    let first = row * units;
    let end = select(0u, first + units, row < P.rows);
    var total = T();
    for (var i = first + row_start(id); i < end; i += STRIDE) {
        var z = X[i];
#if Y
#if DROP
        z += Y[i] * mask_of(i);
#else
        z += Y[i];
#endif
#endif
        total += z;
        OUT[i] = z;
#if Z
        Z[i] = z;
#endif
    }
    let share = 1.0 / f32(P.cols);
    let mean = row_sum(flat_sum(total), id) * share;
    var square = T();
    for (var i = first + row_start(id); i < end; i += STRIDE) {
        let d = OUT[i] - mean;
        square += d * d;
    }
    let rstd = 1.0 / sqrt(row_sum(flat_sum(square), id) * share + P.eps);
    for (var i = first + row_start(id); i < end; i += STRIDE) {
        let c = i - first;
        OUT[i] = GB[c] * ((OUT[i] - mean) * rstd) + GB[units + c];
    }
#if STATS
    if (row < P.rows && row_owner(id)) {
        STATS[row * 2u] = mean;
        STATS[row * 2u + 1u] = rstd;
    }
#endif
}
