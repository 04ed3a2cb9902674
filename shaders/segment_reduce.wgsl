// OUT[s, c] = sum over rows e of segment s of X[e, c]
//    with MEAN  that divided by the number of rows
//    with MAX   the largest of them, and ARG[s, c] the first e that has it
// 0 (and ARG the number of rows there are) where a segment is empty.
//
// In    X       [rows, cols]
//       OFFSETS [segments + 1], as shared/segments.wgsl
// Out   OUT     [segments, cols]
//       ARG     [segments, cols], unsigned, optional, with MAX
// Geometry  an invocation owns an element of OUT, or four where cols is a multiple of 4 (VEC).
// Numerics  f32, rows in order.
// Twin      ops::segment::reference::segment_reduce

#if VEC
alias T = vec4<f32>;
alias TU = vec4<u32>;
#else
alias T = f32;
alias TU = u32;
#endif
struct Params { rows: u32, cols: u32, segments: u32, steps: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> OFFSETS: array<u32>;
@group(0) @binding(2) var<storage, read_write> OUT: array<T>;
#if ARG
@group(0) @binding(3) var<storage, read_write> ARG: array<TU>;
#endif
@group(0) @binding(14) var<uniform> P: Params;
#import segments

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
#if MAX
    var largest = T();
    var arg = TU(P.rows);
    for (var e = own.x; e < own.y; e++) {
        let x = X[e * cols + c];
        // What is not a number is larger than all that are: it fails both comparisons.
        let numbers = (x <= T()) | (x > T());
        let so_far = (largest <= T()) | (largest > T());
        let better = (x > largest) | (arg == TU(P.rows)) | (!numbers & so_far);
        largest = select(largest, x, better);
        arg = select(arg, TU(e), better);
    }
    OUT[item] = largest;
#if ARG
    ARG[item] = arg;
#endif
#else
    var sum = T();
    for (var e = own.x; e < own.y; e++) { sum += X[e * cols + c]; }
#if MEAN
    OUT[item] = sum / f32(max(own.y - own.x, 1u));
#else
    OUT[item] = sum;
#endif
#endif
}
