// OUT[b, i, c taps + j] = X[b, i stride + j dilation - padding, c], or 0 where X has no such step
//
// The windows of a convolution over time, side by side: OUT times the weights is the convolution.
// In    X   [batch, steps, channels]
// Out   OUT [batch, out_steps, channels taps], in the order of PyTorch's weights [_, channels, taps]
// Geometry  TILED: an invocation an element, so that neighbours write neighbours.
//           else: an invocation owns all taps of a channel: fewer divisions for each element.
// Limits    fewer than 2^32 elements.
// Twin      ops::conv::reference::unfold

struct Params {
    batch: u32, steps: u32, channels: u32, taps: u32,
    out_steps: u32, stride: u32, dilation: u32, padding: u32,
}
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> OUT: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

// X at a step counted from the padding on, 0 in the padding.
fn at(b: u32, step: u32, c: u32) -> f32 {
    let there = step >= P.padding && step - P.padding < P.steps;
    let t = select(0u, step - P.padding, there);
    return select(0.0, X[(b * P.steps + t) * P.channels + c], there);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
#if TILED
    let window = item / P.taps;
#else
    let window = item;
#endif
    let row = window / P.channels;
    let c = window % P.channels;
    let b = row / P.out_steps;
    if (b >= P.batch) { return; }
    let first = row % P.out_steps * P.stride;
#if TILED
    OUT[item] = at(b, first + item % P.taps * P.dilation, c);
#else
    for (var j = 0u; j < P.taps; j++) {
        OUT[window * P.taps + j] = at(b, first + j * P.dilation, c);
    }
#endif
}
