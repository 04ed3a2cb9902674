// DA[r, i] (+)= sum over j of DY[r, i, j] B[r, j]
// DB[r, j] (+)= sum over i of DY[r, i, j] A[r, i]
//
// In    DY [rows, pitch], of whose rows the first p q numbers are [p, q]
//       A  [rows, p], only with DB;  B [rows, q], only with DA
// Out   DA [rows, p],  DB [rows, q], each optional and each with its own accumulate
// Geometry  the first workgroups take DA, by shared/row.wgsl: a workgroup (TREE), a subgroup
//           (LANES) or an invocation for each of rows p sums. The others take DB: an invocation a
//           sum, or four of j where q is a multiple of 4 (VEC), WG to a workgroup; neighbours read
//           neighbouring words. Which of both it is, is the same for all of a workgroup.
// Numerics  f32; each invocation adds in order, then a tree or a subgroup sum.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::outer::reference::outer_backward
#import row

struct Params { rows: u32, p: u32, q: u32, accumulate_a: u32, accumulate_b: u32, wanted: u32, pitch: u32 }
@group(0) @binding(0) var<storage, read> DY: array<T>;
#if A
@group(0) @binding(1) var<storage, read> A: array<f32>;
#endif
#if B
@group(0) @binding(2) var<storage, read> B: array<T>;
#endif
#if DA
@group(0) @binding(3) var<storage, read_write> DA: array<f32>;
#endif
#if DB
@group(0) @binding(4) var<storage, read_write> DB: array<T>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
#if VEC
    let q = P.q / 4u;
    let pitch = P.pitch / 4u;
#else
    let q = P.q;
    let pitch = P.pitch;
#endif
    let group = wid.y * count.x + wid.x;
#if DA
    let sums = P.rows * P.p;
#if TREE || LANES
    let row_groups = sums;
#else
    let row_groups = (sums + 63u) / 64u;
#endif
    if (group < row_groups) {
        let row = row_of(vec3<u32>(group, 0u, 0u), vec3<u32>(), id);
        let end = select(0u, q, row < sums);
        let first = row / P.p * pitch + row % P.p * q;
        let b_first = row / P.p * q;
        var total = T();
        for (var j = row_start(id); j < end; j += STRIDE) {
            total += DY[first + j] * B[b_first + j];
        }
        let sum = row_sum(flat_sum(total), id);
        if (row < sums && row_owner(id)) {
            DA[row] = sum + select(0.0, DA[row], P.accumulate_a != 0u);
        }
        return;
    }
#else
    let row_groups = 0u;
#endif
#if DB
    let at = (group - row_groups) * ${WG}u + id;
    if (at >= P.rows * q) { return; }
    let row = at / q;
    var total = T();
    for (var i = 0u; i < P.p; i++) {
        total += DY[row * pitch + i * q + (at - row * q)] * A[row * P.p + i];
    }
    DB[at] = total + select(T(), DB[at], P.accumulate_b != 0u);
#endif
}
