// OUT[b, :] = X[first(b), :]      or with MEAN      mean of X[first(b) .. first(b) + length(b), :]
//
// In    X     [rows, cols], cols a multiple of 4
//       SPANS [batch, 2]: first row and length of each sample; a first row past the last takes that
//             one, and a span ends with the last row
// Out   OUT   [batch, cols]
// Geometry  an invocation owns four columns of a sample.
// Twin      ops::pool::reference::pool
struct Params { batch: u32, cols: u32, rows: u32 }
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
    if (item >= P.batch * quads) { return; }
    let span = SPANS[item / quads];
    let first = min(span.x, P.rows - 1u);
    let c = item % quads;
#if MEAN
    var sum = vec4<f32>();
    let length = min(span.y, P.rows - first);
    for (var r = first; r < first + length; r++) {
        sum += X[r * quads + c];
    }
    OUT[item] = sum / f32(max(length, 1u));
#else
    OUT[item] = X[first * quads + c];
#endif
}
