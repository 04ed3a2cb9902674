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
// Out   VALUE, GRAD, M, V [n], n a multiple of 4; group k ends at element P.ends[k], a multiple of 4
// Geometry  a workgroup of WG owns SHARE quads, walked group by group: on a GPU a quad for each
//           invocation; on a CPU adapter a long stretch, which costs it two thirds of the time.
// Numerics  f32, in torch's order. What is too small to move a value is taken as zero, since a CPU
//           adapter computes with denormal numbers many times slower than with others: |g| below
//           1e-17 (beside eps, a billionth of lr), |M| and V below 1e-30.
// Limits    WG <= 256 invocations.
// Twin      ops::adam::reference::adam
#import step
#import quad

struct Params {
    n: u32, max_norm: f32, beta1: f32, beta2: f32,
    eps: f32, rest1: f32, rest2: f32, pad: u32,
    ends: array<vec4<u32>, 2>,
}
@group(0) @binding(0) var<storage, read_write> VALUE: array<Q>;
@group(0) @binding(1) var<storage, read_write> GRAD: array<Q>;
@group(0) @binding(2) var<storage, read_write> M: array<Q>;
@group(0) @binding(3) var<storage, read_write> V: array<Q>;
#if NORM
@group(0) @binding(4) var<storage, read> NORM: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

fn above(x: vec4<f32>, least: f32) -> vec4<f32> {
    return select(x, vec4<f32>(), abs(x) <= vec4<f32>(least));
}

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    var scale = S.grad_scale;
#if NORM
    let shrink = P.max_norm / (S.grad_scale * sqrt(NORM[0]) + 1e-6);
    scale *= select(shrink, 1.0, shrink > 1.0);
#endif
    let root2 = sqrt(S.bias2);
    var start = (wid.y * count.x + wid.x) * ${SHARE}u;
    let end = min(start + ${SHARE}u, P.n / 4u);
    for (var k = 0u; k < 8u; k++) {
        let stop = min(end, P.ends[k / 4u][k % 4u] / 4u);
        let rate = S.lr[k / 4u][k % 4u] / S.bias1;
        let decay = S.decay[k / 4u][k % 4u];
        for (var at = start + id; at < stop; at += ${WG}u) {
            let value = quad(VALUE[at]);
            let g = above(scale * quad(GRAD[at]) + decay * value, 1e-17);
            let m = above(P.beta1 * quad(M[at]) + P.rest1 * g, 1e-30);
            let v = above(P.beta2 * quad(V[at]) + P.rest2 * g * g, 1e-30);
            let denominator = sqrt(v) / root2 + P.eps;
            VALUE[at] = pack(value - rate * m / denominator);
            GRAD[at] = Q();
            M[at] = pack(m);
            V[at] = pack(v);
        }
        start = max(start, stop);
    }
}
