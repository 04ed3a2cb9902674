// With h = (X - m_c) r_c and n = outer inner:
// DX[o, c, i] (+)= gamma_c r_c (DOUT[o, c, i] - 1/n sum DOUT[., c, .] - h/n sum DOUT h[., c, .])
// DGB[0, c] (+)= sum DOUT h[., c, .]        DGB[1, c] (+)= sum DOUT[., c, .]
// With FIXED mean and variance were not X's own: DX (+)= gamma_c r_c DOUT.
//
// In    DOUT, X [outer, channels, inner]
//       STATS   [2, channels]: m and r of batch_norm.wgsl
//       GB      [2, channels], optional: gamma and beta; without them gamma is 1
// Out   DX      [outer, channels, inner], optional, added to with accumulate_x
//       DGB     [2, channels], optional, added to with accumulate_gb
// Geometry  by shared/channels.wgsl.
// Numerics  f32, a fixed order.
// Limits    256 invocations, 2 KiB of workgroup memory.
// Twin      ops::batch_norm::reference::batch_norm_backward

struct Params {
    outer: u32, channels: u32, inner: u32, accumulate_x: u32,
    accumulate_gb: u32,
}
@group(0) @binding(0) var<storage, read> DOUT: array<f32>;
@group(0) @binding(1) var<storage, read> X: array<f32>;
@group(0) @binding(2) var<storage, read> STATS: array<f32>;
#if GB
@group(0) @binding(3) var<storage, read> GB: array<f32>;
#endif
#if DX
@group(0) @binding(4) var<storage, read_write> DX: array<f32>;
#endif
#if DGB
@group(0) @binding(5) var<storage, read_write> DGB: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;
#import channels

@compute @workgroup_size(${COLS * PARTS})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let wanted = (wid.y * count.x + wid.x) * COLS + id % COLS;
    // Past the edge the last channel is read again and nothing is written.
    let c = min(wanted, P.channels - 1u);
    let first = id / COLS;
    let n = P.outer * P.inner;
    let mean = STATS[c];
    let rstd = STATS[P.channels + c];
    var sums = vec2<f32>();
    for (var e = first; e < n; e += PARTS) {
        let at = channel_at(e, c);
        let d = DOUT[at];
        sums += vec2<f32>(d, d * ((X[at] - mean) * rstd));
    }
    sums = channel_sum(sums, id);
    if (wanted >= P.channels) { return; }
#if DGB
    if (first == 0u) {
        let b = P.channels + c;
        DGB[c] = sums.y + select(0.0, DGB[c], P.accumulate_gb != 0u);
        DGB[b] = sums.x + select(0.0, DGB[b], P.accumulate_gb != 0u);
    }
#endif
#if DX
#if GB
    let slope = GB[c] * rstd;
#else
    let slope = rstd;
#endif
    let means = sums / f32(n);
    for (var e = first; e < n; e += PARTS) {
        let at = channel_at(e, c);
#if FIXED
        let d = slope * DOUT[at];
#else
        let d = slope * (DOUT[at] - means.x - (X[at] - mean) * rstd * means.y);
#endif
        DX[at] = d + select(0.0, DX[at], P.accumulate_x != 0u);
    }
#endif
}
