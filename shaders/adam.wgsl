// PyTorch's Adam with L2 decay, over a flat arena, and zeroed gradients for the next step:
//   g = scale GRAD + decay VALUE     M = b1 M + (1 - b1) g     V = b2 V + (1 - b2) g^2
//   VALUE -= lr / bias1  M / (sqrt(V / bias2) + eps)           GRAD = 0
// P.rest1 and P.rest2 are 1 - b1 and 1 - b2, subtracted in double precision as torch does: of
// 1 - 0.999 single precision keeps only five digits.
// lr, decay, bias1 = 1 - b1^t and bias2 = 1 - b2^t come with the step.
//
// In    NORM optional [1], the squared global norm of GRAD; scale, which is S.grad_scale (1, or
//       1/k where k gradients are averaged), is then multiplied by
//       min(1, P.max_norm / (S.grad_scale sqrt(NORM) + 1e-6)), as torch clips
// Out   VALUE, GRAD, M, V [n], n a multiple of 4; group k ends at element P.ends[k]
// Geometry  an invocation owns four elements.
// Numerics  f32, in torch's order.
// Twin      ops::adam::reference::adam
#import step

struct Params {
    n: u32, max_norm: f32, beta1: f32, beta2: f32,
    eps: f32, rest1: f32, rest2: f32, pad: u32,
    ends: array<vec4<u32>, 2>,
}
@group(0) @binding(0) var<storage, read_write> VALUE: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> GRAD: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> M: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> V: array<vec4<f32>>;
#if NORM
@group(0) @binding(4) var<storage, read> NORM: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let at = (wid.y * count.x + wid.x) * 64u + id;
    if (at * 4u >= P.n) { return; }
    var lr = 0.0;
    var decay = 0.0;
#for k in 0..8
    if (at * 4u < P.ends[${(7 - k) / 4}][${(7 - k) % 4}]) {
        lr = S.lr[${(7 - k) / 4}][${(7 - k) % 4}];
        decay = S.decay[${(7 - k) / 4}][${(7 - k) % 4}];
    }
#endfor
    var scale = S.grad_scale;
#if NORM
    scale *= min(1.0, P.max_norm / (S.grad_scale * sqrt(NORM[0]) + 1e-6));
#endif
    let value = VALUE[at];
    let g = scale * GRAD[at] + decay * value;
    let m = P.beta1 * M[at] + P.rest1 * g;
    let v = P.beta2 * V[at] + P.rest2 * g * g;
    let denominator = sqrt(v) / sqrt(S.bias2) + P.eps;
    VALUE[at] = value - lr / S.bias1 * m / denominator;
    GRAD[at] = vec4<f32>();
    M[at] = m;
    V[at] = v;
}
