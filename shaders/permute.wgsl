// Y[i_0, .., i_(r-1)] (+)= X[the same indices in another order of axes]        r = RANK <= 6
//
// In    X [n]
// Out   Y [n], added to with accumulate
// Axes are those of Y, the last one first: dims[d] is the extent of axis d, strides[d] how far apart
// its neighbours lie in X. Axes that stay side by side are one axis here, and none has length 1.
//
// Geometry  TILE: a workgroup of 256 owns 32 x 32 of Y along axis 0 and axis `inner`, X's last; it
//           comes in along X's rows and goes out along Y's through workgroup memory, so that
//           neighbours touch neighbouring words on both sides.
//           otherwise an invocation an element, or four of axis 0 where its extent is a multiple of
//           4 (VEC); 64 to a workgroup. INNER: axis 0 is the last axis of X, too, and X is read by
//           vectors.
// Limits    256 invocations, 32 x 33 x 4 bytes of workgroup memory; axes beyond the data are not
//           touched.
// Twin      ops::permute::reference::permute

struct Params {
    n: u32, accumulate: u32, inner: u32, pad: u32,
    dims: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}
#if VEC && INNER
@group(0) @binding(0) var<storage, read> X: array<vec4<f32>>;
#else
@group(0) @binding(0) var<storage, read> X: array<f32>;
#endif
#if VEC
@group(0) @binding(1) var<storage, read_write> Y: array<vec4<f32>>;
#else
@group(0) @binding(1) var<storage, read_write> Y: array<f32>;
#endif
@group(0) @binding(14) var<uniform> P: Params;

#if TILE
var<workgroup> tile: array<f32, ${32 * 33}>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    // Which tile: along axis 0 and axis `inner` they are 32 apart, along the others 1.
    var rest = wid.y * count.x + wid.x;
    var read_at = 0u;
    var write_at = 0u;
    var apart = 1u;
    var row0 = 0u;
    var col0 = 0u;
    var cols_apart = 0u;
#for d in 0..RANK
    {
        let extent = P.dims[${d / 4}][${d % 4}];
        let wide = select(1u, 32u, ${d}u == 0u || ${d}u == P.inner);
        let tiles = (extent + wide - 1u) / wide;
        let at = (rest % tiles) * wide;
        rest /= tiles;
        read_at += at * P.strides[${d / 4}][${d % 4}];
        write_at += at * apart;
        if (${d}u == 0u) { row0 = at; }
        if (${d}u == P.inner) {
            col0 = at;
            cols_apart = apart;
        }
        apart *= extent;
    }
#endfor
    if (rest > 0u) { return; }
    let rows = P.dims[0][0] - row0;
    let cols = P.dims[P.inner / 4u][P.inner % 4u] - col0;
    let x = id % 32u;
    let y = id / 32u;
    for (var r = y; r < 32u; r += 8u) {
        if (r < rows && x < cols) { tile[r * 33u + x] = X[read_at + r * P.strides[0][0] + x]; }
    }
    workgroupBarrier();
    for (var c = y; c < 32u; c += 8u) {
        if (x < rows && c < cols) {
            let at = write_at + c * cols_apart + x;
            Y[at] = tile[x * 33u + c] + select(0.0, Y[at], P.accumulate != 0u);
        }
    }
}
#else
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (wid.y * count.x + wid.x) * 64u + id;
#if VEC
    let unit = 4u;
#else
    let unit = 1u;
#endif
    if (i >= P.n / unit) { return; }
    var rest = i;
    var at = 0u;
#for d in 0..RANK
    {
#if d == 0
        let extent = P.dims[0][0] / unit;
        let stride = P.strides[0][0] * unit;
#else
        let extent = P.dims[${d / 4}][${d % 4}];
        let stride = P.strides[${d / 4}][${d % 4}];
#endif
#if d == RANK - 1
        at += rest * stride;
#else
        let outer = rest / extent;
        at += (rest - outer * extent) * stride;
        rest = outer;
#endif
    }
#endfor
#if VEC
#if INNER
    let v = X[at / 4u];
#else
    let s = P.strides[0][0];
    let v = vec4<f32>(X[at], X[at + s], X[at + 2u * s], X[at + 3u * s]);
#endif
    Y[i] = v + select(vec4<f32>(), Y[i], P.accumulate != 0u);
#else
    Y[i] = X[at] + select(0.0, Y[i], P.accumulate != 0u);
#endif
}
#endif
