// TABLE[row(k) - base, :] += sum of DX[ORDER[i], :] over begin(k) <= i < end(k)
//
// A run is all tokens of a batch that took the same row of a table. The host sorts them, so that
// no two invocations add to the same element and the sum has one order.
// In    DX    [tokens, cols], cols a multiple of 4
//       ORDER [places]: token rows; one past the last takes that one
//       RUNS  [.., 4]: row of the table, begin and end in ORDER; from first_run on, runs of them.
//             An empty run, or one of a row outside base..base + part_rows, adds nothing;
//             a run ends where ORDER does
// Out   TABLE [part_rows, cols]: a gradient that accumulates
// Geometry  an invocation owns four columns of a run.
// Twin      ops::embed::reference::embed_backward
struct Params {
    cols: u32, first_run: u32, runs: u32, base: u32,
    part_rows: u32, tokens: u32, places: u32,
}
@group(0) @binding(0) var<storage, read> DX: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> ORDER: array<u32>;
@group(0) @binding(2) var<storage, read> RUNS: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> TABLE: array<vec4<f32>>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    let quads = P.cols / 4u;
    if (item >= P.runs * quads) { return; }
    let run = RUNS[P.first_run + item / quads];
    let c = item % quads;
    let end = min(run.z, P.places);
    if (run.y >= end || run.x < P.base || run.x - P.base >= P.part_rows) { return; }
    var sum = vec4<f32>();
    for (var i = run.y; i < end; i++) {
        sum += DX[min(ORDER[i], P.tokens - 1u) * quads + c];
    }
    TABLE[(run.x - P.base) * quads + c] += sum;
}
