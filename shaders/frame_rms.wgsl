// Y[f] = sqrt(1/N sum over n of X[first + f hop + n]^2)
//
// The root mean square of overlapping frames of a signal.
// In    X [samples]; first, hop and N are multiples of 4
// Out   Y [frames]
// Geometry  by shared/row.wgsl, four samples at a time: a workgroup (TREE), a subgroup (LANES) or an
//           invocation a frame.
// Numerics  f32; squares past the largest number are infinite.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::frame_rms::reference::frame_rms
#import row

struct Params { frames: u32, first: u32, hop: u32, size: u32 }
@group(0) @binding(0) var<storage, read> X: array<T>;
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let frame = row_of(wid, count, id);
    let at = (P.first + frame * P.hop) / 4u;
    let end = select(0u, at + P.size / 4u, frame < P.frames);
    var total = T();
    for (var i = at + row_start(id); i < end; i += STRIDE) {
        let x = X[i];
        total += x * x;
    }
    let mean = row_sum(flat_sum(total), id) / f32(P.size);
    if (frame < P.frames && row_owner(id)) { Y[frame] = sqrt(mean); }
}
