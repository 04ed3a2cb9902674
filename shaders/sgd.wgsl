// PyTorch's SGD over a flat arena, and zeroed gradients for the next step:
//   g = scale GRAD + decay VALUE     M = b M + (1 - dampening) g     d = M, with nesterov g + b M
//   VALUE -= lr d                    GRAD = 0
// b, the momentum, is beta1 of the group's row in GROUPS, and 1 - dampening is rest1, which is 1 in the
// group's first step, as torch begins M with the gradient. Without M, d = g.
//
// In    RUNS [P.runs], the groups that lie in the arena one behind the other: the element at which
//       each ends, a multiple of 4, and its row in GROUPS [P.groups]
//       NORM optional [1], MAX_VALUE: what clips scale GRAD; see adam.wgsl
// Out   VALUE, GRAD [n], n a multiple of 4; M optional [n]
// Geometry  as of adam.wgsl: a workgroup of WG owns SHARE quads, walked group by group.
// Numerics  f32, in torch's order. |g| and |M| up to 1e-30 are taken as zero, since a CPU adapter
//           computes with denormal numbers many times slower than with others. NaN stays NaN.
// Limits    WG <= 256 invocations.
// Twin      ops::optim::sgd::reference::sgd
#import optim

@group(0) @binding(0) var<storage, read_write> VALUE: array<Q>;
@group(0) @binding(1) var<storage, read_write> GRAD: array<Q>;
#if M
@group(0) @binding(2) var<storage, read_write> M: array<Q>;
#endif
@group(0) @binding(3) var<storage, read> RUNS: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> GROUPS: array<Group>;
#if NORM
@group(0) @binding(5) var<storage, read> NORM: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    var scale = S.grad_scale;
#if NORM
    scale = clipped(scale, NORM[0]);
#endif
    var start = (wid.y * count.x + wid.x) * ${SHARE}u;
    let end = min(start + ${SHARE}u, P.n / 4u);
    for (var k = run_of(start); k < P.runs && start < end; k++) {
        let run = RUNS[k];
        // No way back: what another workgroup owns stays its own, whatever RUNS says.
        let stop = max(start, min(end, run.x / 4u));
        let group = GROUPS[min(run.y, P.groups - 1u)];
        for (var at = select(stop, start, group.t > 0u) + id; at < stop; at += ${WG}u) {
            let value = quad(VALUE[at]);
            var gradient = scale * quad(GRAD[at]);
#if MAX_VALUE
            gradient = bounded(gradient);
#endif
            let g = above(gradient + group.decay * value, 1e-30);
#if M
            let m = above(group.beta1 * quad(M[at]) + group.rest1 * g, 1e-30);
            M[at] = pack(m);
            let d = select(m, g + group.beta1 * m, group.nesterov > 0u);
#else
            let d = g;
#endif
            VALUE[at] = pack(value - group.lr * d);
            GRAD[at] = Q();
        }
        start = stop;
    }
}
