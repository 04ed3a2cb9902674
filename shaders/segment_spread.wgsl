// DX[e, c] (+)= DOUT[s, c] of the segment s that row e belongs to
//    with MEAN  divided by the number of its rows
//    with ARG   only where ARG[s, c] is e
// 0 (or what was there) for a row of no segment.
//
// In    DOUT    [segments, cols]
//       OFFSETS [segments + 1], as shared/segments.wgsl
//       ARG     [segments, cols], unsigned, optional
// Out   DX      [rows, cols], added to with accumulate
// Geometry  an invocation owns an element of DX, or four where cols is a multiple of 4 (VEC), and
//           finds its segment by a search.
// Twin      ops::segment::reference::segment_spread

#if VEC
alias T = vec4<f32>;
alias TU = vec4<u32>;
#else
alias T = f32;
alias TU = u32;
#endif
struct Params { rows: u32, cols: u32, segments: u32, steps: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> DOUT: array<T>;
@group(0) @binding(1) var<storage, read> OFFSETS: array<u32>;
#if ARG
@group(0) @binding(2) var<storage, read> ARG: array<TU>;
#endif
@group(0) @binding(3) var<storage, read_write> DX: array<T>;
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
    let e = item / cols;
    if (e >= P.rows) { return; }
    let s = segment_of(e);
    let own = segment(s);
    let at = s * cols + item % cols;
    let there = e >= own.x && e < own.y;
    var d = select(T(), DOUT[at], there);
#if MEAN
    d /= f32(max(own.y - own.x, 1u));
#endif
#if ARG
    d = select(T(), d, ARG[at] == TU(e));
#endif
    DX[item] = d + select(T(), DX[item], P.accumulate != 0u);
}
