// DX[e, c] (+)= Y[e, c] (DY[e, c] - sum over rows k of e's segment of DY[k, c] Y[k, c])
//
// In    DY, Y   [rows, cols], Y the softmax itself
//       OFFSETS [segments + 1], as shared/segments.wgsl, ascending
// Out   DX      [rows, cols], added to with accumulate; 0 (or what was there) for a row of no segment
// Geometry  as segment_softmax.wgsl.
// Numerics  f32, rows in order.
// Twin      ops::segment::reference::segment_softmax_backward

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { rows: u32, cols: u32, segments: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> DY: array<T>;
@group(0) @binding(1) var<storage, read> Y: array<T>;
@group(0) @binding(2) var<storage, read> OFFSETS: array<u32>;
@group(0) @binding(3) var<storage, read_write> DX: array<T>;
@group(0) @binding(14) var<uniform> P: Params;
#import segments_range

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let cols = P.cols / 4u;
#else
    let cols = P.cols;
#endif
    let s = item / cols;
    if (s >= P.segments) { return; }
    let own = segment(s);
    let c = item % cols;
    if (P.accumulate == 0u) {
        if (s == 0u) {
            for (var e = 0u; e < own.x; e++) { DX[e * cols + c] = T(); }
        }
        if (s == P.segments - 1u) {
            for (var e = own.y; e < P.rows; e++) { DX[e * cols + c] = T(); }
        }
    }
    var dot = T();
    for (var e = own.x; e < own.y; e++) { dot += DY[e * cols + c] * Y[e * cols + c]; }
    for (var e = own.x; e < own.y; e++) {
        let at = e * cols + c;
        DX[at] = Y[at] * (DY[at] - dot) + select(T(), DX[at], P.accumulate != 0u);
    }
}
