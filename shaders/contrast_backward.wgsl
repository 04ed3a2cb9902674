// DX[r, c] (+)= G[0] SHARE[g] scale (exp(scale X[r, c] - lse) - [c is a positive] / |positives of r|)
//
// for the candidates c of rows r that have positives, 0 for all others; g is the row's group, and lse and
// 1 / |positives| are TERMS[r, 1] and TERMS[r, 2]. The gradient of the sum over groups of means over rows.
// In    X      [rows, cols] similarities, groups of `each` rows
//       LABELS [cols], as in shaders/contrast.wgsl; optional
//       TERMS  [rows, 4] of that
//       SHARE  [rows / each] of shaders/contrast_mean.wgsl
//       G      [1]
// Out   DX     [rows, cols], added to with accumulate
// Geometry  one invocation an element, 64 to a workgroup.
// Numerics  the exponent is at most 0 up to rounding, and is cut at -80.
// Twin      ops::contrast::reference::backward
#import numbers
#import contrast

@group(0) @binding(0) var<storage, read> X: array<f32>;
#if LABELS
@group(0) @binding(1) var<storage, read> LABELS: array<u32>;
#endif
@group(0) @binding(2) var<storage, read> TERMS: array<f32>;
@group(0) @binding(3) var<storage, read> SHARE: array<f32>;
@group(0) @binding(4) var<storage, read> G: array<f32>;
@group(0) @binding(5) var<storage, read_write> DX: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
    if (i >= P.rows * P.cols) { return; }
    let row = i / P.cols;
    let column = i % P.cols;
    let at = row % P.each;
    let below = P.scale * X[i] - TERMS[4u * row + 1u];
    let hit = select(0.0, TERMS[4u * row + 2u], is_positive(at, column, class_of(at)));
    let slope = (exp(at_least(below, -80.0)) - hit) * G[0] * SHARE[row / P.each] * P.scale;
    let none = !is_candidate(at, column) || TERMS[4u * row + 3u] == 0.0;
    DX[i] = select(slope, 0.0, none) + select(0.0, DX[i], P.accumulate != 0u);
}
