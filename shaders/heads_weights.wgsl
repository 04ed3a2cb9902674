// The gradients of all weights and biases of all heads, from what heads_backward left:
//   dW1 += dz1^T x'   dW2 += dz2^T F   dW3 += ds z      db1, db2, db3 += column sums of dz1, dz2, ds
//
// In    ACTS, DZ (see heads.wgsl);  DSCORES [n, heads], optional: zero where absent
// Out   GRADS: where P says; always added to, as the gradients of parameters are
//
// Geometry  a list of tiles, head by head, layer by layer; with LANES the grid is (tiles / 16, 16) and
//           goes through it in strides of 16, because a CPU adapter's threads take whole spans of
//           a grid, and the tiles of small layers are less work.
//           TILED: a workgroup of 16x16 owns 32 x 64 of a dW, through workgroup memory, 16 samples
//           at a time. LANES: a workgroup is one subgroup and owns 64 x 4 LANES of a dW, eight rows
//           at a time; a lane owns four columns, the lanes load dz together and broadcast it.
//           neither: an invocation owns 4 x 4. Who owns a tile with column 0 owns its rows of the bias.
// Numerics  f32, sums over the samples in order.
// Limits    4 storage buffers; TILED: 256 invocations, 7 KiB of workgroup memory;
//           LANES: all widths and sizes multiples of 4.
// Twin      ops::heads::reference::weights
#import heads

@group(0) @binding(0) var<storage, read> ACTS: array<T>;
@group(0) @binding(1) var<storage, read> DZ: array<T>;
#if DSCORES
@group(0) @binding(2) var<storage, read> DSCORES: array<f32>;
#endif
@group(0) @binding(3) var<storage, read_write> GRADS: array<T>;
@group(0) @binding(14) var<uniform> P: Params;

#if TILED
const ROWS = 32u;
const COLS = 64u;
#else
#if LANES
const ROWS = 64u;
const COLS = ${4 * LANES}u;
#else
const ROWS = 4u;
const COLS = 4u;
#endif
#endif

// A tile of the weight gradient of a layer [rows, cols], from (row, col) on. Its input begins at
// word x of ACTS, pitch words a sample.
struct Tile {
    layer: u32, head: u32, row: u32, col: u32,
    rows: u32, cols: u32, x: u32, pitch: u32,
    dz: u32, w: u32, b: u32,
}

// Tile `index` of the list; one of no rows past its end.
fn tile_of(index: u32) -> Tile {
    var left = index;
    var tile = Tile();
    for (var i = 0u; i < 3u * P.heads; i++) {
        let h = P.head[i / 3u];
        let layer = i % 3u;
        let rows = select(h.size, 1u, layer == 2u);
        let cols = select(h.size, h.inputs, layer == 0u);
        let across = (cols + COLS - 1u) / COLS;
        let count = (rows + ROWS - 1u) / ROWS * across;
        if (tile.rows == 0u && left < count) {
            tile = Tile(layer, i / 3u, left / across * ROWS, left % across * COLS, rows, cols,
                h.first, P.width, h.first, h.w3, h.b3);
            if (layer == 0u) {
                tile.x = P.inputs_at + h.input_first;
                tile.pitch = P.inputs;
                tile.w = h.w1;
                tile.b = h.b1;
            }
            if (layer == 1u) {
                tile.dz += P.n * P.width;
                tile.w = h.w2;
                tile.b = h.b2;
            }
            if (layer == 2u) { tile.x += P.inner_at; }
        }
        left -= count;
    }
    return tile;
}

// dz of a sample; r counts rows of the tile's layer in units of T.
fn slope(tile: Tile, sample: u32, r: u32) -> T {
    if (tile.layer < 2u) { return DZ[(tile.dz + sample * P.width) / UNIT + r]; }
#if DSCORES
#if LANES
    return vec4<f32>(DSCORES[sample * P.heads + tile.head], 0.0, 0.0, 0.0);
#else
    return DSCORES[sample * P.heads + tile.head];
#endif
#else
    return T();
#endif
}

#if TILED
var<workgroup> tile_a: array<f32, ${16 * 33}>;
var<workgroup> tile_b: array<f32, ${16 * 65}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let tile = tile_of(wid.x);
    let ty = id / 16u;
    let tx = id % 16u;
#for r in 0..2
    var acc${r} = vec4<f32>();
    var sum${r} = 0.0;
#endfor
    for (var s0 = 0u; s0 < P.n; s0 += 16u) {
#for i in 0..2
        {
            let s = s0 + (id + ${i * 256}u) / 32u;
            let r = (id + ${i * 256}u) % 32u;
            var a = 0.0;
            if (s < P.n && tile.row + r < tile.rows) { a = slope(tile, s, tile.row + r); }
            tile_a[(id + ${i * 256}u) / 32u * 33u + r] = a;
        }
#endfor
#for i in 0..4
        {
            let s = s0 + (id + ${i * 256}u) / 64u;
            let c = (id + ${i * 256}u) % 64u;
            var b = 0.0;
            if (s < P.n && tile.col + c < tile.cols) {
                b = ACTS[tile.x + s * tile.pitch + tile.col + c];
            }
            tile_b[(id + ${i * 256}u) / 64u * 65u + c] = b;
        }
#endfor
        workgroupBarrier();
        for (var s = 0u; s < 16u; s++) {
            let at = s * 65u + tx;
            let b = vec4<f32>(tile_b[at], tile_b[at + 16u], tile_b[at + 32u], tile_b[at + 48u]);
#for r in 0..2
            let a${r} = tile_a[s * 33u + ty + ${16 * r}u];
            acc${r} += a${r} * b;
            sum${r} += a${r};
#endfor
        }
        workgroupBarrier();
    }
#for r in 0..2
    {
        let row = tile.row + ty + ${16 * r}u;
        if (row < tile.rows) {
            for (var q = 0u; q < 4u; q++) {
                let col = tile.col + tx + 16u * q;
                if (col < tile.cols) { GRADS[tile.w + row * tile.cols + col] += acc${r}[q]; }
            }
            if (tile.col + tx == 0u) { GRADS[tile.b + row] += sum${r}; }
        }
    }
#endfor
}
#endif

#if LANES
@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = tile_of(wid.x * 16u + wid.y);
    if (tile.rows == 0u) { return; }
    let last = P.n - 1u;
    let quads = tile.cols / 4u;
    let col = tile.col / 4u + lane;
    let x = tile.x / 4u + min(col, quads - 1u);
    let pitch = tile.pitch / 4u;
    let rows = (tile.rows + 3u) / 4u;
    let end = min(tile.row + ROWS, tile.rows);
    for (var row = tile.row; row < end; row += 8u) {
        // Four samples at a time: this lane loads some of the 4 x 2 vectors of dz.
#for j in 0..(8 + LANES - 1) / LANES
        let a_s${j} = ((lane + ${j * LANES}u) % 8u) / 2u;
        let a_r${j} = min(row / 4u + (lane + ${j * LANES}u) % 2u, rows - 1u);
        var sum${j} = vec4<f32>();
#endfor
#for r in 0..8
        var acc${r} = vec4<f32>();
#endfor
        for (var s = 0u; s < P.n; s += 4u) {
#for j in 0..(8 + LANES - 1) / LANES
            let a${j} = select(vec4<f32>(), slope(tile, min(s + a_s${j}, last), a_r${j}),
                s + a_s${j} < P.n);
            sum${j} += a${j};
#endfor
#for i in 0..4
            {
                let b = ACTS[x + min(s + ${i}u, last) * pitch];
#for q in 0..2
                let u${q} = subgroupBroadcast(a${(2 * i + q) / LANES}, ${(2 * i + q) % LANES}u);
#for c in 0..4
                acc${4 * q + c} += u${q}[${c}] * b;
#endfor
#endfor
            }
#endfor
        }
        var acc = array<vec4<f32>, 8>(acc0, acc1, acc2, acc3, acc4, acc5, acc6, acc7);
        if (col < quads) {
            // Not unrolled by a just-in-time compiler: see heads_forward.
            let stop = min(row + 8u, tile.rows);
            for (var r = row; r < stop; r++) {
                GRADS[tile.w / 4u + r * quads + col] += acc[min(r - row, stop - row - 1u)];
            }
        }
        if (tile.col == 0u) {
#for q in 0..2
            let t${q} = subgroupBroadcast(sum${q / LANES}, ${q % LANES}u)
                + subgroupBroadcast(sum${(2 + q) / LANES}, ${(2 + q) % LANES}u)
                + subgroupBroadcast(sum${(4 + q) / LANES}, ${(4 + q) % LANES}u)
                + subgroupBroadcast(sum${(6 + q) / LANES}, ${(6 + q) % LANES}u);
            if (lane == 0u && row / 4u + ${q}u < rows) {
                GRADS[tile.b / 4u + row / 4u + ${q}u] += t${q};
            }
#endfor
        }
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
    let tile = tile_of((wid.y * count.x + wid.x) * 64u + id);
    if (tile.rows == 0u) { return; }
    let c = min(vec4<u32>(tile.col) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(tile.cols - 1u));
    let r = min(vec4<u32>(tile.row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(tile.rows - 1u));
    var acc = mat4x4<f32>();
    var sum = vec4<f32>();
    for (var s = 0u; s < P.n; s++) {
        let at = tile.x + s * tile.pitch;
        let x = vec4<f32>(ACTS[at + c.x], ACTS[at + c.y], ACTS[at + c.z], ACTS[at + c.w]);
        let a = vec4<f32>(slope(tile, s, r.x), slope(tile, s, r.y), slope(tile, s, r.z),
            slope(tile, s, r.w));
        acc[0] += a.x * x;
        acc[1] += a.y * x;
        acc[2] += a.z * x;
        acc[3] += a.w * x;
        sum += a;
    }
    for (var i = 0u; i < 4u; i++) {
        let row = tile.row + i;
        if (row >= tile.rows) { break; }
        for (var q = 0u; q < 4u; q++) {
            if (tile.col + q >= tile.cols) { break; }
            GRADS[tile.w + row * tile.cols + tile.col + q] += acc[i][q];
        }
        if (tile.col == 0u) { GRADS[tile.b + row] += sum[i]; }
    }
}
#endif
