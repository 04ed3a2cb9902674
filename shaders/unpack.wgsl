// OUT[b, s, :] = X[first(b) + s, :] for s < length(b), else 0
//
// In    X     [rows, cols], cols a multiple of 4
//       SPANS [batch, 2]: first row and length of each sample; a first row past the last takes that
//             one, and a span ends with the last row
// Out   OUT   [batch, steps, cols]; what a sample has past `steps` is left out
// Geometry  an invocation owns four columns of a step.
// Twin      ops::unpack::reference::unpack
struct Params { batch: u32, cols: u32, rows: u32, steps: u32 }
@group(0) @binding(0) var<storage, read> X: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> SPANS: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> OUT: array<vec4<f32>>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    let quads = P.cols / 4u;
    if (item >= P.batch * P.steps * quads) { return; }
    let place = item / quads;
    let span = SPANS[place / P.steps];
    let first = min(span.x, P.rows - 1u);
    let step = place % P.steps;
    var x = vec4<f32>();
    if (step < min(span.y, P.rows - first)) { x = X[(first + step) * quads + item % quads]; }
    OUT[item] = x;
}
