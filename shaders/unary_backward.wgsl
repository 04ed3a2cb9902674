// DX[i] (+)= f'(V[i]) DY[i]
//
// f by OP   0 factor x: f' = factor      1 max(x, 0): V = y, f' = [y > 0]
//           2 gelu: V = x                3 tanh: V = y, f' = 1 - y^2
//           4 logistic: V = y, y (1 - y) 5 x^2: V = x, 2 x
//           6 exp: V = y, f' = y         7 |x|: V = x, sign(x)
// In    DY [n]
//       V  [n], the input or the output of f as above; absent with OP 0
// Out   DX [n], added to with accumulate
// Geometry  as unary.wgsl.
// Numerics  where exp's argument was held its slope is still taken to be y. A ReLU whose result is NaN
//           lets the gradient through, as torch's does.
// Twin      ops::elementwise::reference::unary_backward
#import activation

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, factor: f32, accumulate: u32 }
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
