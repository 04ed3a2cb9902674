// Y[0, i, t, c] = X[i, t, c], and for the views k = 1, 2
//   Y[k, i, t, c] = kept(k, i, t, c) X[i, t, c] + noise DEVIATION[c] e(k, i, t, c)    where t < LENGTHS[i], else 0
//
// Not kept are one run of ceil(run len) steps of each row, len = LENGTHS[i], that begins anywhere it has room,
// and each channel of a row with a probability of its own. e are standard normal numbers (shared/normal.wgsl).
// All of it is of (seed, step, stream..stream + 2): it is never stored, and a run repeats to the bit.
// In    X         [n, steps, channels]
//       LENGTHS   [n], u32; beyond steps it counts as steps
//       DEVIATION [channels], optional: no noise without it
// Out   Y         [3, n, steps, channels]
//       ALL       [3, n], u32: LENGTHS three times
// Geometry  an invocation four channels of a step, 64 to a workgroup; `channels` is a multiple of 4.
// Numerics  run is in 65536ths, rounded down, so that ceil is that of whole numbers; the beginning is a
//           remainder of 32 random bits, even to one part in 2^32 / len.
// Limits    steps <= 65536.
// Twin      ops::views::reference::views
#import rng
#import normal
#import step

struct Params {
    n: u32, steps: u32, channels: u32, stream: u32,
    // Share of a run in 65536ths; a channel is dropped where its random bits are below `dropped`.
    run: u32, dropped: u32, noise: f32,
}
@group(0) @binding(0) var<storage, read> X: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> LENGTHS: array<u32>;
#if DEVIATION
@group(0) @binding(2) var<storage, read> DEVIATION: array<vec4<f32>>;
#endif
@group(0) @binding(3) var<storage, read_write> Y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> ALL: array<u32>;
@group(0) @binding(14) var<uniform> P: Params;

fn pair_at(salt: vec2<u32>, element: u32) -> vec2<f32> {
    return normal_pair(random_bits(salt, element), random_bits(salt, element + 1u));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let at = (wid.y * count.x + wid.x) * 64u + id;
    let quads = P.channels / 4u;
    if (at >= 3u * P.n * P.steps * quads) { return; }
    let quad = at % quads;
    let t = at / quads % P.steps;
    let row = at / (quads * P.steps);
    let i = row % P.n;
    let len = min(LENGTHS[i], P.steps);
    if (quad == 0u && t == 0u) { ALL[row] = LENGTHS[i]; }
    let x = X[(i * P.steps + t) * quads + quad];
    if (row < P.n) {
        Y[at] = x;
        return;
    }
    let run = (P.run * len + 65535u) / 65536u;
    let first = random_bits(random_salt(S.seed, S.step, P.stream), row) % (len - run + 1u);
    let outside = (t < first) || (t >= first + run);
    let salt = random_salt(S.seed, S.step, P.stream + 1u);
    let c = row * P.channels + 4u * quad;
    let bits = vec4<u32>(random_bits(salt, c), random_bits(salt, c + 1u), random_bits(salt, c + 2u),
        random_bits(salt, c + 3u));
    var y = select(vec4<f32>(), x, (bits >= vec4<u32>(P.dropped)) & vec4<bool>(outside));
#if DEVIATION
    let own = random_salt(S.seed, S.step, P.stream + 2u);
    let e = vec4<f32>(pair_at(own, 4u * at), pair_at(own, 4u * at + 2u));
    y += P.noise * DEVIATION[quad] * e;
#endif
    Y[at] = select(vec4<f32>(), y, t < len);
}
