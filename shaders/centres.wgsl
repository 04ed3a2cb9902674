// CENTRES = chunk sums / chunk counts; a class without members keeps its centre.
//
// In    PART [chunks, 2 (width + tasks)] of centre_sums
// Out   CENTRES task by task: c+ [dim], c- [dim]
// Geometry  an invocation owns one feature of both classes.
// Numerics  f32, chunks in order.
// Twin      ops::labels::reference::centres

#import centres
@group(0) @binding(0) var<storage, read> PART: array<f32>;
@group(0) @binding(1) var<storage, read_write> CENTRES: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let col = wid.x * 64u + id;
    if (col >= P.width) { return; }
    let owner = owner_of(col);
    let task = owner.x;
    let first = owner.y;
    let half = P.width + P.tasks;
    var sums = vec2<f32>();
    var counts = vec2<f32>();
    for (var chunk = 0u; chunk < P.chunks; chunk++) {
        let at = chunk * 2u * half;
        sums += vec2<f32>(PART[at + col], PART[at + half + col]);
        counts += vec2<f32>(PART[at + P.width + task], PART[at + half + P.width + task]);
    }
    let at = 2u * first + col - first;
    // A count that is NaN is not none.
    if (!(counts.x <= 0.0)) { CENTRES[at] = sums.x / counts.x; }
    if (!(counts.y <= 0.0)) { CENTRES[at + P.dims[task]] = sums.y / counts.y; }
}
