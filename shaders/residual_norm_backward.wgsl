// The gradient of residual_norm.wgsl. With h = (z - mean) rstd and g = gamma DOUT,
//   dz = rstd (g - mean(g) - h mean(g h))       DX (+)= dz       DY (+)= drop(dz)
//   PART[k, 0, :] = sum DOUT h                  PART[k, 1, :] = sum DOUT      over the k-th rows
// What PART adds up to is the gradient of gamma and beta.
// With AFTER the dropout stood behind the norm, and DOUT is drop(DOUT) from the start.
//
// In    DOUT, Z [rows, cols]
//       STATS [rows, 2]: mean and rstd
//       GB    [2, cols]
// Out   DX, DY [rows, cols], each optional, added to where P says so
//       PART  [ceil(rows / chunk), 2, cols], optional
// Geometry  by shared/row.wgsl, but chunk rows, one after the other, for what is a row there. An
//           invocation has the same columns in all of them, so it alone adds to its part of PART.
// Numerics  f32, rows in order.
// Limits    TREE <= 256 invocations, TREE * 12 bytes of workgroup memory.
// Twin      ops::norm::reference::residual_norm_backward
#import row
#import rng
#import mask
#import step

struct Params {
    rows: u32, cols: u32, chunk: u32, stream: u32,
    threshold: u32, scale: f32, add_x: u32, add_y: u32,
}
@group(0) @binding(0) var<storage, read> DOUT: array<T>;
@group(0) @binding(1) var<storage, read> Z: array<T>;
@group(0) @binding(2) var<storage, read> STATS: array<f32>;
@group(0) @binding(3) var<storage, read> GB: array<T>;
#if DX
@group(0) @binding(4) var<storage, read_write> DX: array<T>;
#endif
#if DY
@group(0) @binding(5) var<storage, read_write> DY: array<T>;
#endif
#if PART
@group(0) @binding(6) var<storage, read_write> PART: array<T>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

#if DROP
fn mask_of(i: u32) -> T {
#if VEC
    return mask4(i * 4u);
#else
    return mask1(i);
#endif
}
#endif

fn dout(i: u32) -> T {
#if AFTER && DROP
    return DOUT[i] * mask_of(i);
#else
    return DOUT[i];
#endif
}

// Two sums in the barriers of one, each as row_sum has it.
#if TREE
var<workgroup> pair_part: array<vec2<f32>, ${TREE}>;

fn pair_sum(value: vec2<f32>, id: u32) -> vec2<f32> {
    pair_part[id] = value;
    for (var s = ${TREE / 2}u; s > 0u; s /= 2u) {
        workgroupBarrier();
        if (id < s) { pair_part[id] += pair_part[id + s]; }
    }
    workgroupBarrier();
    let total = pair_part[0];
    workgroupBarrier();
    return total;
}
#else
fn pair_sum(value: vec2<f32>, id: u32) -> vec2<f32> {
    return vec2<f32>(row_sum(value.x, id), row_sum(value.y, id));
}
#endif

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let chunk = row_of(wid, count, id);
#if VEC
    let units = P.cols / 4u;
#else
    let units = P.cols;
#endif
    let share = 1.0 / f32(P.cols);
    let part = chunk * 2u * units;
    // Every invocation takes every turn: the sums hold barriers.
    for (var turn = 0u; turn < P.chunk; turn++) {
        let row = chunk * P.chunk + turn;
        let there = row < P.rows;
        let first = row * units;
        let end = select(0u, units, there);
        let at = select(0u, row * 2u, there);
        let mean = STATS[at];
        let rstd = STATS[at + 1u];
        var sum_g = T();
        var sum_gh = T();
        for (var c = row_start(id); c < end; c += STRIDE) {
            let d = dout(first + c);
            let h = (Z[first + c] - mean) * rstd;
            let g = GB[c] * d;
            sum_g += g;
            sum_gh += g * h;
#if PART
            // The first turn of a chunk finds what an earlier step left there.
            PART[part + c] = select(PART[part + c], T(), turn == 0u) + d * h;
            PART[part + units + c] = select(PART[part + units + c], T(), turn == 0u) + d;
#endif
        }
        let means = pair_sum(vec2<f32>(flat_sum(sum_g), flat_sum(sum_gh)), id) * share;
        for (var c = row_start(id); c < end; c += STRIDE) {
            let i = first + c;
            let h = (Z[i] - mean) * rstd;
            let dz = rstd * (GB[c] * dout(i) - means.x - h * means.y);
#if DX
            DX[i] = dz + select(T(), DX[i], P.add_x != 0u);
#endif
#if DY
#if DROP
            DY[i] = dz * mask_of(i) + select(T(), DY[i], P.add_y != 0u);
#else
            DY[i] = dz + select(T(), DY[i], P.add_y != 0u);
#endif
#endif
        }
    }
}
