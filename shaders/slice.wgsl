// Y[r, y_first + j] (+)= X[r, x_first + j], or 0 where X has no such column      0 <= j < span
//
// In    X [rows, x_cols]
// Out   Y [rows, y_cols]; columns outside the span are left alone
// A slice takes a span out of X. Its gradient puts the span back: added to what is there, or, as
// the first contribution, over the whole width with zeros around it (x_first is then negative).
//
// Geometry  one invocation an element of the span, or four where all sizes and offsets are
//           multiples of 4 (VEC); 64 to a workgroup.
// Twin      ops::concat::reference::slice

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params {
    rows: u32, span: u32, y_cols: u32, y_first: u32,
    x_cols: u32, x_first: i32, accumulate: u32,
}
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read_write> Y: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let unit = 4u;
#else
    let unit = 1u;
#endif
    let span = P.span / unit;
    if (i >= P.rows * span) { return; }
    let row = i / span;
    let j = i % span;
    let source = i32(j) + P.x_first / i32(unit);
    let to = row * (P.y_cols / unit) + P.y_first / unit + j;
    var v = T();
    if (source >= 0 && source < i32(P.x_cols / unit)) {
        v = X[row * (P.x_cols / unit) + u32(source)];
    }
    Y[to] = v + select(T(), Y[to], P.accumulate != 0u);
}
