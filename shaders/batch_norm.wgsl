// OUT[o, c, i] = gamma_c (X[o, c, i] - m_c) r_c + beta_c,    r_c = 1 / sqrt(v_c + eps)
//    m_c, v_c  mean and biased variance of X[., c, .]; with GIVEN those of GIVEN
// RUNNING[0, c] <- (1 - momentum) RUNNING[0, c] + momentum m_c
// RUNNING[1, c] <- (1 - momentum) RUNNING[1, c] + momentum v_c n / (n - 1),    n = outer inner
//
// In    X       [outer, channels, inner]
//       GB      [2, channels], optional: gamma and beta; without them 1 and 0
//       GIVEN   [2, channels], optional: mean and variance to take instead of X's own
// Out   RUNNING [2, channels], optional, read and written; not with GIVEN
//       OUT     [outer, channels, inner]
//       STATS   [2, channels], optional: m and r, for the gradient
// Geometry  by shared/channels.wgsl.
// Numerics  f32, two passes, a fixed order. The mean counts from the first element, so that a
//           constant channel gives exactly beta and not rounding noise blown up by 1 / sqrt(eps).
// Limits    256 invocations, 2 KiB of workgroup memory; n > 1 with RUNNING.
// Twin      ops::batch_norm::reference::batch_norm

struct Params { outer: u32, channels: u32, inner: u32, eps: f32, momentum: f32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
#if GB
@group(0) @binding(1) var<storage, read> GB: array<f32>;
#endif
#if GIVEN
@group(0) @binding(2) var<storage, read> GIVEN: array<f32>;
#endif
#if RUNNING
@group(0) @binding(3) var<storage, read_write> RUNNING: array<f32>;
#endif
@group(0) @binding(4) var<storage, read_write> OUT: array<f32>;
#if STATS
@group(0) @binding(5) var<storage, read_write> STATS: array<f32>;
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
#if GIVEN
    let mean = GIVEN[c];
    let variance = GIVEN[P.channels + c];
#else
    let share = 1.0 / f32(n);
    let origin = X[channel_at(0u, c)];
    var sum = 0.0;
    for (var e = first; e < n; e += PARTS) { sum += X[channel_at(e, c)] - origin; }
    let mean = origin + channel_sum(vec2<f32>(sum, 0.0), id).x * share;
    sum = 0.0;
    for (var e = first; e < n; e += PARTS) {
        let x = X[channel_at(e, c)] - mean;
        sum += x * x;
    }
    let squares = channel_sum(vec2<f32>(sum, 0.0), id).x;
    let variance = squares * share;
#endif
    let rstd = 1.0 / sqrt(variance + P.eps);
    if (wanted >= P.channels) { return; }
    if (first == 0u) {
#if STATS
        STATS[c] = mean;
        STATS[P.channels + c] = rstd;
#endif
#if RUNNING
        let unbiased = squares / f32(n - 1u);
        let v = P.channels + c;
        RUNNING[c] = (1.0 - P.momentum) * RUNNING[c] + P.momentum * mean;
        RUNNING[v] = (1.0 - P.momentum) * RUNNING[v] + P.momentum * unbiased;
#endif
    }
#if GB
    let gamma = GB[c];
    let beta = GB[P.channels + c];
#else
    let gamma = 1.0;
    let beta = 0.0;
#endif
    for (var e = first; e < n; e += PARTS) {
        let at = channel_at(e, c);
        OUT[at] = gamma * ((X[at] - mean) * rstd) + beta;
    }
}
