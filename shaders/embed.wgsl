// x[r, :] = WORD[word(r)] + REST[offset + position(r)] + REST[positions + segment(r)]
// the last of them with SEGMENTS alone
// OUT[r, :] = drop(gamma (x - mean) rstd + beta)
//
// A word table that no binding holds comes in parts, a dispatch each: FIRST overwrites X, the
// others add the words they have, LAST does what follows.
// In    TOKENS [rows, 4]: word id, position | segment << 16, length, sample
//       WORD   [part_rows, cols], words from base on; others add nothing
//       REST   [rest_rows, cols]: a row for each position, then one for each segment
//       GB     [2, cols]: gamma, beta
// Out   X     [rows, cols]
//       OUT   [rows, cols], with LAST
//       STATS [rows, 2], with LAST, optional: mean and rstd
// Geometry  by shared/row.wgsl, vectors of four.
// Numerics  f32; positions and segments past their last row take that one.
// Limits    TREE <= 256 invocations, TREE * 4 bytes of workgroup memory.
// Twin      ops::embed::reference::embed
#import row
#import rng
#import mask
#import step

struct Params {
    rows: u32, cols: u32, eps: f32, stream: u32,
    threshold: u32, scale: f32, base: u32, part_rows: u32,
    positions: u32, rest_rows: u32, offset: u32,
}
@group(0) @binding(0) var<storage, read> TOKENS: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> WORD: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> REST: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> GB: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> X: array<vec4<f32>>;
#if OUT
@group(0) @binding(5) var<storage, read_write> OUT: array<vec4<f32>>;
#endif
#if STATS
@group(0) @binding(6) var<storage, read_write> STATS: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let row = row_of(wid, count, id);
    let quads = P.cols / 4u;
    let first = row * quads;
    let end = select(0u, quads, row < P.rows);
    let token = TOKENS[min(row, P.rows - 1u)];
    let here = token.x >= P.base && token.x - P.base < P.part_rows;
    let word = select(0u, token.x - P.base, here) * quads;
    let position = min((token.y & 0xffffu) + P.offset, P.positions - 1u) * quads;
#if SEGMENTS
    let segment = min(P.positions + (token.y >> 16u), P.rest_rows - 1u) * quads;
#endif
    var total = vec4<f32>();
    for (var c = row_start(id); c < end; c += STRIDE) {
        var x = select(vec4<f32>(), WORD[word + c], here);
#if !FIRST
        x += X[first + c];
#endif
#if LAST
#if SEGMENTS
        x += REST[position + c] + REST[segment + c];
#else
        x += REST[position + c];
#endif
#endif
        X[first + c] = x;
        total += x;
    }
#if LAST
    let share = 1.0 / f32(P.cols);
    let mean = row_sum(flat_sum(total), id) * share;
    var square = vec4<f32>();
    for (var c = row_start(id); c < end; c += STRIDE) {
        let d = X[first + c] - mean;
        square += d * d;
    }
    let rstd = 1.0 / sqrt(row_sum(flat_sum(square), id) * share + P.eps);
    for (var c = row_start(id); c < end; c += STRIDE) {
        let y = GB[c] * ((X[first + c] - mean) * rstd) + GB[quads + c];
#if DROP
        OUT[first + c] = y * mask4((first + c) * 4u);
#else
        OUT[first + c] = y;
#endif
    }
#if STATS
    if (row < P.rows && row_owner(id)) {
        STATS[row * 2u] = mean;
        STATS[row * 2u + 1u] = rstd;
    }
#endif
#endif
}
