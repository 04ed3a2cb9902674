// What the optimisers share: their P, the settings of the parameter groups, and where groups lie in an
// arena. Imported before the bindings; kept in the order of `ops::optim::Words` and `ops::optim::Row`.
#import numbers
#import step
#import quad

struct Params {
    n: u32,           // elements of the arena, a multiple of 4
    runs: u32,        // entries of RUNS
    groups: u32,      // rows of GROUPS
    max_norm: f32,    // with NORM: largest norm of all gradients
    max_value: f32,   // with MAX_VALUE: largest |element| of a gradient
    pad0: u32, pad1: u32, pad2: u32,
}

// A row of GROUPS: what a step does with the parameters of a group. The host writes it anew for each.
struct Group {
    t: u32,           // of this group's steps, from 1; where it is 0 the group is left as it is
    lr: f32,
    decay: f32,       // L2: so much of the value is added to the gradient
    keep: f32,        // the value is multiplied by it first: 1, or 1 - lr decay where decay is decoupled
    beta1: f32,       // of the first moment; SGD's momentum
    rest1: f32,       // the gradient's share in it: 1 - beta1; SGD's 1 - dampening
    beta2: f32,       // of the second moment
    rest2: f32,       // 1 - beta2
    bias1: f32,       // 1 - beta1^t
    bias2: f32,       // 1 - beta2^t
    eps: f32,
    nesterov: u32,    // whether SGD looks ahead
}

// x, or zero where it is not above `least`. What is not a number stays so, and is seen.
fn above(x: vec4<f32>, least: f32) -> vec4<f32> {
    return select(x, vec4<f32>(), abs(x) <= vec4<f32>(least));
}

// The first of RUNS that ends after quad `at`.
fn run_of(at: u32) -> u32 {
    var low = 0u;
    var high = P.runs;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (RUNS[middle].x / 4u > at) { high = middle; } else { low = middle + 1u; }
    }
    return low;
}

// What the accumulated gradients are multiplied by, where `norm2` is the square of their norm: torch's
// clipping, which leaves a norm below P.max_norm alone. A norm that is not a number stays so.
fn clipped(scale: f32, norm2: f32) -> f32 {
    let share = P.max_norm / (scale * sqrt(norm2) + 1e-6);
    return scale * select(share, 1.0, is_above(share, 1.0));
}

#if MAX_VALUE
// Each element drawn to within P.max_value of zero.
fn bounded(g: vec4<f32>) -> vec4<f32> {
    return select(g, sign(g) * P.max_value, abs(g) > vec4<f32>(P.max_value));
}
#endif
