// Y[e, c] = exp(X[e, c] - m) / sum over rows k of e's segment of exp(X[k, c] - m),
// m = max over them of X[k, c]; 0 for a row of no segment
//
// In    X       [rows, cols]
//       OFFSETS [segments + 1], as shared/segments.wgsl, ascending
// Out   Y       [rows, cols]
// Geometry  an invocation owns a column of a segment, or four where cols is a multiple of 4 (VEC);
//           those of the first and of the last segment also the rows before and behind all segments.
// Numerics  f32, rows in order; differences from the largest are cut at -80.
// Twin      ops::segment::reference::segment_softmax

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { rows: u32, cols: u32, segments: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> OFFSETS: array<u32>;
@group(0) @binding(2) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;
#import numbers
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
    if (s == 0u) {
        for (var e = 0u; e < own.x; e++) { Y[e * cols + c] = T(); }
    }
    if (s == P.segments - 1u) {
        for (var e = own.y; e < P.rows; e++) { Y[e * cols + c] = T(); }
    }
    var m = T(-3.0e38);
    for (var e = own.x; e < own.y; e++) { m = max(m, X[e * cols + c]); }
    var sum = T();
    for (var e = own.x; e < own.y; e++) {
        let d = X[e * cols + c] - m;
        let y = exp(at_least(d, -80.0));
        sum += y;
        Y[e * cols + c] = y;
    }
    for (var e = own.x; e < own.y; e++) { Y[e * cols + c] /= sum; }
}
