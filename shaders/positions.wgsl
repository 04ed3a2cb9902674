// Y[b, t, c] = scale X[b, t, c] + TABLE[t, c]
// with PADDING only scale X[b, t, c] where X[b, t, 0] is 0: such a step is padding
//
// In    X     [batch, steps, cols]
//       TABLE [steps, cols]
// Out   Y     [batch, steps, cols]
// Geometry  an invocation an element, or four where cols is a multiple of 4 (VEC).
// Twin      ops::positions::reference::positions

#if VEC
alias T = vec4<f32>;
#else
alias T = f32;
#endif
struct Params { n: u32, steps: u32, cols: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read> TABLE: array<T>;
@group(0) @binding(2) var<storage, read_write> Y: array<T>;
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
    if (i >= P.n / 4u) { return; }
#else
    let cols = P.cols;
    if (i >= P.n) { return; }
#endif
    var position = TABLE[i % (P.steps * cols)];
#if PADDING
#if VEC
    let first = X[i / cols * cols].x;
#else
    let first = X[i / cols * cols];
#endif
    position = select(position, T(), first == 0.0);
#endif
    Y[i] = P.scale * X[i] + position;
}
