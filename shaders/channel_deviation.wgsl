// Y[c] = sqrt(mean over valid (i, t) of (X[i, t, c] - m[c])^2),    m[c] = mean over valid (i, t) of X[i, t, c]
//
// Valid are the first LENGTHS[i] steps of row i. Without any valid step it is 0.
// In    X       [n, steps, channels]
//       LENGTHS [n], u32; beyond steps it counts as steps
// Out   Y       [channels]
// Geometry  by shared/row.wgsl, without VEC: a channel is a row of it, whose elements lie `channels` apart.
// Numerics  f32, the mean first, then the squares.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::views::reference::channel_deviation
#import row

struct Params { n: u32, steps: u32, channels: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> LENGTHS: array<u32>;
@group(0) @binding(2) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let channel = row_of(wid, count, id);
    let end = select(0u, P.steps, channel < P.channels);
    var sum = 0.0;
    var found = 0u;
    for (var i = 0u; i < P.n; i++) {
        let valid = min(LENGTHS[i], end);
        found += valid;
        for (var t = row_start(id); t < valid; t += STRIDE) {
            sum += X[(i * P.steps + t) * P.channels + channel];
        }
    }
    let steps = f32(max(found, 1u));
    let mean = row_sum(sum, id) / steps;
    var squares = 0.0;
    for (var i = 0u; i < P.n; i++) {
        let valid = min(LENGTHS[i], end);
        for (var t = row_start(id); t < valid; t += STRIDE) {
            let d = X[(i * P.steps + t) * P.channels + channel] - mean;
            squares += d * d;
        }
    }
    let variance = row_sum(squares, id) / steps;
    if (channel < P.channels && row_owner(id)) { Y[channel] = sqrt(variance); }
}
