// OUT[i] (+)= sum over s of PART[s, i],  i < n;   SUM[j] (+)= sum over s of PART[s, n + j]
//
// The second half of a matmul that was split over k. PART is [splits, n + rows].
// Geometry  one invocation an element, 64 to a workgroup.
// Numerics  f32, splits added in order.
// Twin      ops::matmul::reference::fold

struct Params { n: u32, rows: u32, splits: u32, accumulate: u32, sum_accumulate: u32 }
@group(0) @binding(0) var<storage, read> PART: array<f32>;
@group(0) @binding(1) var<storage, read_write> OUT: array<f32>;
#if SUM
@group(0) @binding(2) var<storage, read_write> SUM: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
    let stride = P.n + P.rows;
    if (i >= stride) { return; }
    var total = 0.0;
    for (var s = 0u; s < P.splits; s++) {
        total += PART[s * stride + i];
    }
    if (i < P.n) {
        OUT[i] = total + select(0.0, OUT[i], P.accumulate != 0u);
    }
#if SUM
    if (i >= P.n) {
        let j = i - P.n;
        SUM[j] = total + select(0.0, SUM[j], P.sum_accumulate != 0u);
    }
#endif
}
