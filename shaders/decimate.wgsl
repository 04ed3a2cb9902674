// X[y_at + m] = sum over j of H[j] X[x_at + 2 m + j]   where RANGE[level] = (lo, hi), lo <= m < hi
//             0                                       elsewhere                0 <= m < count
//
// A low-pass filter and every second sample of what it leaves: the next octave of a pyramid of
// signals that lie in one buffer.
// In    X      from x_at on, which is a multiple of 4
//       RANGE  [levels, 2]: which samples of the result the signal has at all, so that a filter's
//              tail does not go on past a signal's ends
// Out   X      from y_at on; count is a multiple of 8, and the two parts do not overlap
// H is in P, in quads with four empty ones before and after, so that the four pairs of samples of
// an invocation are one sliding sum over the same quads of X.
//
// Geometry  an invocation owns 8 samples of the result, WG to a workgroup.
// Numerics  f32, each sample summed in the order of j.
// Limits    4 QUADS numbers in H.
// Twin      ops::decimate::reference::decimate
#import quad

struct Params {
    x_at: u32, y_at: u32, count: u32, level: u32,
    h: array<vec4<f32>, ${QUADS + 8}>,
}
@group(0) @binding(0) var<storage, read_write> X: array<Q>;
@group(0) @binding(1) var<storage, read> RANGE: array<vec2<i32>>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * ${WG}u + id;
    if (item >= P.count / 8u) { return; }
    let range = RANGE[P.level];
    let m = vec4<i32>(i32(item * 8u)) + vec4<i32>(0, 1, 2, 3);
    let to = P.y_at / 4u + item * 2u;
    // A short recording leaves most of a buffer empty.
    if (m.x + 8 <= range.x || m.x >= range.y) {
        X[to] = pack(vec4<f32>());
        X[to + 1u] = pack(vec4<f32>());
        return;
    }
    let at = P.x_at / 4u + item * 4u;
#for r in 0..4
    var even${r} = 0.0;
    var odd${r} = 0.0;
#endfor
    // Quad v of this invocation's part of X meets quad v - r of H in its r-th pair of samples; the
    // second of a pair is two samples on, which is half a quad.
    for (var v = 0u; v < ${QUADS + 4}u; v++) {
        let x = quad(X[at + v]);
#for r in 0..5
        let h${r} = P.h[v + ${4 - r}u];
#endfor
#for r in 0..4
        even${r} += dot(h${r}, x);
        odd${r} += dot(vec4<f32>(h${r + 1}.zw, h${r}.xy), x);
#endfor
    }
    let low = vec4<f32>(even0, odd0, even1, odd1);
    let high = vec4<f32>(even2, odd2, even3, odd3);
    let lo = vec4<i32>(range.x);
    let hi = vec4<i32>(range.y);
    X[to] = pack(select(vec4<f32>(), low, (m >= lo) & (m < hi)));
    X[to + 1u] = pack(select(vec4<f32>(), high, (m + 4 >= lo) & (m + 4 < hi)));
}
