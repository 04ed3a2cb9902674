// Y[i] = f(X[i])
//
// f by OP   0 factor x   1 max(x, 0)   2 gelu   3 tanh   4 logistic   5 x^2   6 exp   7 |x|
//           8 sqrt   9 log   10 log(1 + exp x)   11 1 / x   12 x cut at factor and other
//           13 x > 0 ? x : factor x   14 x > 0 ? x : factor (exp(x) - 1)
// In    X [n]
// Out   Y [n]
// Geometry  one invocation an element, or four where n is a multiple of 4 (VEC); 64 to a
//           workgroup.
// Numerics  beyond 8 tanh is that of 8; beyond 30 the logistic function is 1 or 1e-13; below -80 exp is
//           that of -80. log(0) is -inf, and sqrt and log of less are NaN. NaN stays NaN.
// Twin      ops::elementwise::reference::unary
#import activation
#import functions

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, factor: f32, other: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

fn f(x: f32) -> f32 {
#if OP == 0
    return P.factor * x;
#endif
#if OP == 1
    return relu(x);
#endif
#if OP == 2
    return gelu(x);
#endif
#if OP == 3
    return safe_tanh(x);
#endif
#if OP == 4
    return safe_sigmoid(x);
#endif
#if OP == 5
    return x * x;
#endif
#if OP == 6
    return safe_exp(x);
#endif
#if OP == 7
    return abs(x);
#endif
#if OP == 8
    return sqrt(x);
#endif
#if OP == 9
    return log(x);
#endif
#if OP == 10
    return softplus(x);
#endif
#if OP == 11
    return 1.0 / x;
#endif
#if OP == 12
    return cut(x, P.factor, P.other);
#endif
#if OP == 13
    return select(P.factor * x, x, x > 0.0);
#endif
#if OP == 14
    return elu(x, P.factor);
#endif
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    if (i >= P.n / 4u) { return; }
    let x = X[i];
    Y[i] = T(f(x.x), f(x.y), f(x.z), f(x.w));
#else
    if (i >= P.n) { return; }
    Y[i] = f(X[i]);
#endif
}
