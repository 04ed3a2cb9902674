// Y[r, c] = exp(X[r, c] - m) / sum over kept k of exp(X[r, k] - m) where c is kept, else 0;
// m = max over kept k of X[r, k]. A row of which nothing is kept is 0.
//
// Kept are, of row r and with g = r div per:
//   with LENGTHS  c < LENGTHS[g]
//   with MASK     MASK[g, c] other than 0
// In    X       [rows, cols]; what is not kept may be anything, not a number included
//       LENGTHS [rows / per], unsigned; beyond cols it counts as cols
//       MASK    [rows / per, cols], unsigned or f32: only whether a word is zero counts
// Out   Y       [rows, cols]
// Geometry  by shared/row.wgsl: a workgroup (TREE), a subgroup (LANES) or an invocation a row;
//           VEC where cols is a multiple of 4. An invocation comes back only to elements of Y
//           that it wrote itself.
// Numerics  f32; differences from the largest are cut at -80.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::masked::reference::masked_softmax
#import numbers
#import row

struct Params { rows: u32, cols: u32, per: u32 }
#if VEC
alias TU = vec4<u32>;
alias TB = vec4<bool>;
#else
alias TU = u32;
alias TB = bool;
#endif
@group(0) @binding(0) var<storage, read> X: array<T>;
#if LENGTHS
@group(0) @binding(1) var<storage, read> LENGTHS: array<u32>;
#endif
#if MASK
@group(0) @binding(2) var<storage, read> MASK: array<TU>;
#endif
@group(0) @binding(3) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

// Whether step c of a row counts; mask_at is where the row's mask begins.
fn kept(c: u32, mask_at: u32, length: u32) -> TB {
#if MASK
    // The sign bit does not count: -0.0 is zero, too.
    return (MASK[mask_at + c] & TU(0x7fffffffu)) != TU();
#else
#if VEC
    return vec4<u32>(0u, 1u, 2u, 3u) + 4u * c < vec4<u32>(length);
#else
    return c < length;
#endif
#endif
}

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
    let group = min(row, P.rows - 1u) / P.per;
#if LENGTHS
    let length = LENGTHS[group];
#else
    let length = 0u;
#endif
    let mask_at = group * cols;
    let first = row * cols;
    let end = select(0u, cols, row < P.rows);
    var largest = T(-3.0e38);
    for (var c = row_start(id); c < end; c += STRIDE) {
        largest = max(largest, select(T(-3.0e38), X[first + c], kept(c, mask_at, length)));
    }
    let m = row_max(flat_max(largest), id);
    var total = T();
    for (var c = row_start(id); c < end; c += STRIDE) {
        let d = X[first + c] - T(m);
        let e = exp(at_least(d, -80.0));
        let y = select(T(), e, kept(c, mask_at, length));
        total += y;
        Y[first + c] = y;
    }
    let sum = row_sum(flat_sum(total), id);
    let share = select(1.0 / sum, 0.0, sum <= 0.0);
    for (var c = row_start(id); c < end; c += STRIDE) {
        Y[first + c] *= share;
    }
}
