// DX[r, c] (+)= exp(X[r, c] - L[r] - shift) DY[r]
//
// In    X [rows, cols];  L [rows], what logsumexp.wgsl gave with the same shift;  DY [rows]
// Out   DX [rows, cols], added to with accumulate
// Geometry  one invocation an element, or four where cols is a multiple of 4 (VEC); 64 to a
//           workgroup.
// Numerics  the exponent is at most 0 up to rounding; it is cut at 1. Where L is -inf, all of its
//           row being -inf, the gradient is 0 (NaN where DY is not finite).
// Twin      ops::logsumexp::reference::logsumexp_backward
#import numbers

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { rows: u32, cols: u32, accumulate: u32, shift: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> L: array<f32>;
@group(0) @binding(2) var<storage, read> DY: array<f32>;
@group(0) @binding(3) var<storage, read_write> DX: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let cols = P.cols / 4u;
#else
    let cols = P.cols;
#endif
    if (i >= P.rows * cols) { return; }
    let row = i / cols;
    let l = L[row];
    let x = X[i] - T(l + P.shift);
    let share = exp(at_most(x, 1.0));
    let dy = DY[row];
    // 0 dy, of which a compiler may make 0 whatever dy is.
    let none = select(dy, 0.0, abs(dy) <= 3.4028234e38);
    let d = select(share * dy, T(none), l < -3.4028234e38);
    DX[i] = d + select(T(), DX[i], P.accumulate != 0u);
}
