// TERMS[r] = (loss, lse, 1 / |positives of r|, 1) of each row that has positives, else (0, 0, 0, 0), with
//   s = scale X[r, ·]
//   lse = log sum over candidates c of exp(s[c])
//   loss = lse - mean over positives c of s[c]
//
// The positive of row r of a group is column (r + shift) mod cols; with LABELS those of its class, where
// rows of no class take no part. Columns of the row's own block are no candidates.
// In    X      [rows, cols] similarities, groups of `each` rows
//       LABELS [cols], u32 classes, 0xffffffff for none; with SIGNS f32, whose sign is the class, and 0 has
//              none; optional
// Out   TERMS  [rows, 4]
// Geometry  by shared/row.wgsl, without VEC.
// Numerics  f32; the largest candidate is taken out of the sum, differences are cut at -80; a NaN is still
//           one after that.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::contrast::reference::contrast
#import numbers
#import row
#import contrast

@group(0) @binding(0) var<storage, read> X: array<f32>;
#if LABELS
@group(0) @binding(1) var<storage, read> LABELS: array<u32>;
#endif
@group(0) @binding(2) var<storage, read_write> TERMS: array<f32>;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
    let at = row % P.each;
    let class_id = class_of(at);
    let first = row * P.cols;
    let end = select(0u, P.cols, row < P.rows);
    var largest = -3.0e38;
    for (var c = row_start(id); c < end; c += STRIDE) {
        if (is_candidate(at, c)) { largest = max(largest, P.scale * X[first + c]); }
    }
    let m = row_max(largest, id);
    var total = 0.0;
    var near = 0.0;
    var found = 0.0;
    for (var c = row_start(id); c < end; c += STRIDE) {
        if (is_candidate(at, c)) {
            let d = P.scale * X[first + c] - m;
            total += exp(at_least(d, -80.0));
            if (is_positive(at, c, class_id)) {
                near += d;
                found += 1.0;
            }
        }
    }
    let sum = log(row_sum(total, id));
    let all_near = row_sum(near, id);
    let positives = row_sum(found, id);
    if (row < P.rows && row_owner(id)) {
        let takes_part = positives > 0.0;
        let share = 1.0 / max(positives, 1.0);
        TERMS[4u * row] = select(0.0, sum - all_near * share, takes_part);
        TERMS[4u * row + 1u] = select(0.0, m + sum, takes_part);
        TERMS[4u * row + 2u] = select(0.0, share, takes_part);
        TERMS[4u * row + 3u] = select(0.0, 1.0, takes_part);
    }
}
