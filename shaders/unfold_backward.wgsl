// DX[b, t, c] (+)= sum over i, j with i stride + j dilation - padding = t of DOUT[b, i, c taps + j]
//
// In    DOUT [batch, out_steps, channels taps], as unfold.wgsl has its result
// Out   DX   [batch, steps, channels], added to with accumulate
// Geometry  an invocation an element of DX.
// Numerics  f32; taps in order.
// Limits    fewer than 2^32 elements.
// Twin      ops::conv::reference::unfold_backward

struct Params {
    batch: u32, steps: u32, channels: u32, taps: u32,
    out_steps: u32, stride: u32, dilation: u32, padding: u32,
    accumulate: u32,
}
@group(0) @binding(0) var<storage, read> DOUT: array<f32>;
@group(0) @binding(1) var<storage, read_write> DX: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    let row = item / P.channels;
    let c = item % P.channels;
    let b = row / P.steps;
    if (b >= P.batch) { return; }
    let step = row % P.steps + P.padding;
    var sum = 0.0;
    for (var j = 0u; j < P.taps; j++) {
        let behind = step - min(j * P.dilation, step);
        let i = behind / P.stride;
        let hit = j * P.dilation <= step && behind % P.stride == 0u && i < P.out_steps;
        let window = (b * P.out_steps + min(i, P.out_steps - 1u)) * P.channels + c;
        sum += select(0.0, DOUT[window * P.taps + j], hit);
    }
    DX[item] = sum + select(0.0, DX[item], P.accumulate != 0u);
}
