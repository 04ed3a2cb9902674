// PyTorch's Adam and AdamW over a flat arena, and zeroed gradients for the next step:
//   g = scale GRAD + decay VALUE     M = b1 M + (1 - b1) g     V = b2 V + (1 - b2) g^2
//   VALUE = keep VALUE - lr / bias1  M / (sqrt(V / bias2) + eps)           GRAD = 0
// Adam has keep = 1; AdamW has decay = 0 and keep = 1 - lr weight_decay. Each is a matter of its
// group's row in GROUPS, which comes with the step: so one dispatch serves both. rest1 and rest2 there
// are 1 - b1 and 1 - b2, subtracted in double precision as torch does: of 1 - 0.999 single precision
// keeps only five digits. bias1 = 1 - b1^t and bias2 = 1 - b2^t are of the group's own step t.
//
// In    RUNS [P.runs], the groups that lie in the arena one behind the other: the element at which
//       each ends, a multiple of 4, and its row in GROUPS [P.groups]
//       NORM optional [1], the squared norm of the gradients of all arenas; scale, which is
//       S.grad_scale (1, or 1/k where k gradients are averaged), is then multiplied by
//       min(1, P.max_norm / (S.grad_scale sqrt(NORM) + 1e-6)), as torch clips
//       with MAX_VALUE scale GRAD is then drawn to within P.max_value of zero, before decay
// Out   VALUE, GRAD, M, V [n], n a multiple of 4
// Geometry  a workgroup of WG owns SHARE quads, walked group by group: on a GPU a quad for each
//           invocation; on a CPU adapter a long stretch, which costs it two thirds of the time.
// Numerics  f32, in torch's order. What is too small to move a value is taken as zero, since a CPU
//           adapter computes with denormal numbers many times slower than with others: |g| up to
//           1e-17 (beside eps, a billionth of lr), |M| and V up to 1e-30. NaN stays NaN.
// Limits    WG <= 256 invocations.
// Twin      ops::optim::adam::reference::adam
#import optim

@group(0) @binding(0) var<storage, read_write> VALUE: array<Q>;
@group(0) @binding(1) var<storage, read_write> GRAD: array<Q>;
@group(0) @binding(2) var<storage, read_write> M: array<Q>;
@group(0) @binding(3) var<storage, read_write> V: array<Q>;
@group(0) @binding(4) var<storage, read> RUNS: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> GROUPS: array<Group>;
#if NORM
@group(0) @binding(6) var<storage, read> NORM: array<f32>;
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
        let rate = group.lr / group.bias1;
        let root2 = sqrt(group.bias2);
        for (var at = select(stop, start, group.t > 0u) + id; at < stop; at += ${WG}u) {
            let value = quad(VALUE[at]);
            var gradient = scale * quad(GRAD[at]);
#if MAX_VALUE
            gradient = bounded(gradient);
#endif
            let g = above(gradient + group.decay * value, 1e-17);
            let m = above(group.beta1 * quad(M[at]) + group.rest1 * g, 1e-30);
            let v = above(group.beta2 * quad(V[at]) + group.rest2 * g * g, 1e-30);
            let denominator = sqrt(v) / root2 + group.eps;
            VALUE[at] = pack(group.keep * value - rate * m / denominator);
            GRAD[at] = Q();
            M[at] = pack(m);
            V[at] = pack(v);
        }
        start = stop;
    }
}
