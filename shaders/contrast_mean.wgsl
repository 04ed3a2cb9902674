// LOSS[0] = sum over groups of the mean of TERMS[r, 0] over those rows r of the group that have TERMS[r, 3] = 1
// SHARE[g] = 1 / how many rows of group g have; 0 where none has, whose mean is 0
//
// In    TERMS [groups * each, 4], of shaders/contrast.wgsl
// Out   LOSS  [1]
//       SHARE [groups]
// Geometry  by shared/row.wgsl, without VEC: all of it is one row, a group after the other.
// Numerics  f32.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::contrast::reference::mean
#import row

struct Params { groups: u32, each: u32 }
@group(0) @binding(0) var<storage, read> TERMS: array<f32>;
@group(0) @binding(1) var<storage, read_write> LOSS: array<f32>;
@group(0) @binding(2) var<storage, read_write> SHARE: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
    let end = select(0u, P.each, row < 1u);
    var loss = 0.0;
    for (var g = 0u; g < P.groups; g++) {
        var sum = 0.0;
        var found = 0.0;
        for (var r = row_start(id); r < end; r += STRIDE) {
            let at = 4u * (g * P.each + r);
            sum += TERMS[at];
            found += TERMS[at + 3u];
        }
        let total = row_sum(sum, id);
        let rows = row_sum(found, id);
        // Not the other way round: a NaN is no zero.
        let share = select(1.0 / rows, 0.0, rows == 0.0);
        loss += total * share;
        if (row < 1u && row_owner(id)) { SHARE[g] = share; }
    }
    if (row < 1u && row_owner(id)) { LOSS[0] = loss; }
}
