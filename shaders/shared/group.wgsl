// Products of several features in one dispatch, each with its own operands:
//   OUT_z[r, c] = sum over l of A_z[r, l] B_z[l, c]
// The column tiles of all features lie along the grid's x, one feature's behind the other's; a
// feature of no columns has none. A kernel says how large its products are, rows(), cols(z) and
// inner(z), and what their elements are: a(z, r, l), b(z, l, c), and put(z, r, c, value) for what
// becomes of a sum. For LANES it has b4(z, l, quad) in place of b: four columns.
//
// TILED: a workgroup of 16x16 owns 16x16 of OUT; slices of 16 of A and B come through workgroup
//        memory. A is stored with r innermost where TA, B with l innermost where TB.
// LANES: a workgroup is one subgroup and owns 8 x 4 LANES of OUT; a lane loads its own columns of
//        B, the lanes load A together and broadcast it.
// neither: an invocation owns 1 x 4 of OUT, 64 to a workgroup.

struct Params {
    n: u32, d: u32, accumulate: u32, pad0: u32,
    // Of each feature: columns of its input, and the word where its weight begins.
    k: vec4<u32>,
    at: vec4<u32>,
}
@group(0) @binding(14) var<uniform> P: Params;

// The feature that a column tile belongs to, and the tile's place among that feature's; a tile has
// `wide` columns. Past the last feature: 4.
fn owner_of(tile: u32, wide: u32) -> vec2<u32> {
    var z = 0u;
    var left = tile;
    for (var i = 0u; i < 4u; i++) {
        let own = (cols(i) + wide - 1u) / wide;
        if (z == i && left >= own) {
            z = i + 1u;
            left -= own;
        }
    }
    return vec2<u32>(z, left);
}

#if TILED
var<workgroup> tile_a: array<f32, ${16 * 17}>;
var<workgroup> tile_b: array<f32, ${16 * 17}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let owner = owner_of(wid.x, 16u);
    let z = owner.x;
    let ty = id / 16u;
    let tx = id % 16u;
    let row0 = wid.y * 16u;
    let col0 = owner.y * 16u;
    var acc = 0.0;
    for (var l0 = 0u; l0 < inner(z); l0 += 16u) {
        // Neighbours load what lies side by side.
#if TA
        let a_at = vec2<u32>(tx, ty);
#else
        let a_at = vec2<u32>(ty, tx);
#endif
#if TB
        let b_at = vec2<u32>(tx, ty);
#else
        let b_at = vec2<u32>(ty, tx);
#endif
        var x = 0.0;
        var y = 0.0;
        if (row0 + a_at.x < rows() && l0 + a_at.y < inner(z)) {
            x = a(z, row0 + a_at.x, l0 + a_at.y);
        }
        if (l0 + b_at.x < inner(z) && col0 + b_at.y < cols(z)) {
            y = b(z, l0 + b_at.x, col0 + b_at.y);
        }
        tile_a[a_at.x * 17u + a_at.y] = x;
        tile_b[b_at.x * 17u + b_at.y] = y;
        workgroupBarrier();
        for (var l = 0u; l < 16u; l++) { acc += tile_a[ty * 17u + l] * tile_b[l * 17u + tx]; }
        workgroupBarrier();
    }
    if (row0 + ty < rows() && col0 + tx < cols(z)) { put(z, row0 + ty, col0 + tx, acc); }
}
#endif

#if LANES && !TB
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let owner = owner_of(wid.x, ${4 * LANES}u);
    let z = owner.x;
    let row0 = wid.y * 8u;
    let col = owner.y * ${LANES}u + lane;
    let b_col = min(col, cols(z) / 4u - 1u);
    // Which of the eight rows of A this lane loads.
#for j in 0..(8 + LANES - 1) / LANES
    let a_row${j} = min(row0 + (lane + ${j * LANES}u) % 8u, rows() - 1u);
#endfor
#for r in 0..8
    var acc${r} = vec4<f32>();
#endfor
    for (var l = 0u; l < inner(z); l++) {
        let v = b4(z, l, b_col);
#for j in 0..(8 + LANES - 1) / LANES
        let a${j} = a(z, a_row${j}, l);
#endfor
#for r in 0..8
        acc${r} += subgroupBroadcast(a${r / LANES}, ${r % LANES}u) * v;
#endfor
    }
    // Loops whose lengths no compiler knows, and so does not unroll: a store of a vector from every
    // lane is long, and a just-in-time compiler sees a short one once.
    var acc = array<vec4<f32>, 8>(acc0, acc1, acc2, acc3, acc4, acc5, acc6, acc7);
    let own = select(4u, 0u, col >= cols(z) / 4u);
    for (var r = 0u; r < min(8u, rows() - row0); r++) {
        let v = acc[r];
        for (var c = 0u; c < own; c++) { put(z, row0 + r, col * 4u + c, v[c]); }
    }
}
#endif

#if !TILED && !LANES
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    let owner = owner_of(item / rows(), 4u);
    let z = owner.x;
    if (z > 3u) { return; }
    let row = item % rows();
    let col = owner.y * 4u;
    let last = cols(z) - 1u;
    var acc = vec4<f32>();
    for (var l = 0u; l < inner(z); l++) {
        acc += a(z, row, l) * vec4<f32>(b(z, l, col), b(z, l, min(col + 1u, last)),
            b(z, l, min(col + 2u, last)), b(z, l, min(col + 3u, last)));
    }
    for (var c = 0u; c < 4u; c++) {
        if (col + c < cols(z)) { put(z, row, col + c, acc[c]); }
    }
}
#endif
