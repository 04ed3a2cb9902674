// DX[i] (+)= f'(V[i]) DY[i]
//
// f by OP   0 factor x: f' = factor      1 max(x, 0): V = y, f' = [y > 0]
//           2 gelu: V = x                3 tanh: V = y, f' = 1 - y^2
//           4 logistic: V = y, y (1 - y) 5 x^2: V = x, 2 x
//           6 exp: V = y, f' = y         7 |x|: V = x, sign(x)
//           8 sqrt: V = y, 1 / (2 y)     9 log: V = x, 1 / x
//           10 log(1 + exp x): V = x, the logistic of x
//           11 1 / x: V = y, -y^2
//           12 cut: V = x, 1 from factor to other, both included, and 0 beyond
//           13 V = x, x > 0 ? 1 : factor
//           14 V = x, x > 0 ? 1 : factor exp(x)
// In    DY [n]
//       V  [n], the input or the output of f as above; absent with OP 0
// Out   DX [n], added to with accumulate
// Geometry  as unary.wgsl.
// Numerics  where exp's argument was held its slope is still taken to be y. A ReLU whose result is NaN
//           lets the gradient through, as torch's does.
// Twin      ops::elementwise::reference::unary_backward
#import activation
#import functions

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, factor: f32, accumulate: u32, other: f32 }
@group(0) @binding(0) var<storage, read> DY: array<T>;
#if V
@group(0) @binding(1) var<storage, read> V: array<T>;
#endif
@group(0) @binding(2) var<storage, read_write> DX: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

fn slope(v: f32) -> f32 {
#if OP == 0
    return P.factor;
#endif
#if OP == 1
    return select(1.0, 0.0, v <= 0.0);
#endif
#if OP == 2
    return gelu_slope(v);
#endif
#if OP == 3
    return 1.0 - v * v;
#endif
#if OP == 4
    return v * (1.0 - v);
#endif
#if OP == 5
    return 2.0 * v;
#endif
#if OP == 6
    return v;
#endif
#if OP == 7
    return sign_of(v);
#endif
#if OP == 8
    return 0.5 / v;
#endif
#if OP == 9
    return 1.0 / v;
#endif
#if OP == 10
    return softplus_slope(v);
#endif
#if OP == 11
    return -(v * v);
#endif
#if OP == 12
    return select(0.0, 1.0, v >= P.factor && v <= P.other);
#endif
#if OP == 13
    return select(P.factor, 1.0, v > 0.0);
#endif
#if OP == 14
    return elu_slope(v, P.factor);
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
#else
    if (i >= P.n) { return; }
#endif
#if V
    let v = V[i];
#else
    let v = T();
#endif
#if VEC
    let d = DY[i] * T(slope(v.x), slope(v.y), slope(v.z), slope(v.w));
#else
    let d = DY[i] * slope(v);
#endif
    DX[i] = d + select(T(), DX[i], P.accumulate != 0u);
}
