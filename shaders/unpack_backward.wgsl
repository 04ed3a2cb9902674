// DX[r, :] (+)= DOUT[sample(r), position(r), :], 0 for rows of no sample and past `steps`
//
// In    DOUT   [batch, steps, cols], cols a multiple of 4
//       TOKENS [rows, 4]: word id, position | segment << 16, length (0 where no sample is), sample;
//              one past the last counts as none
// Out   DX     [rows, cols], added to with accumulate
// Geometry  an invocation owns four columns of a row.
// Twin      ops::unpack::reference::unpack_backward
struct Params { rows: u32, cols: u32, accumulate: u32, batch: u32, steps: u32 }
@group(0) @binding(0) var<storage, read> DOUT: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> TOKENS: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> DX: array<vec4<f32>>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 64u + id;
    let quads = P.cols / 4u;
    if (item >= P.rows * quads) { return; }
    let token = TOKENS[item / quads];
    let position = token.y & 0xffffu;
    var d = vec4<f32>();
    if (token.z > 0u && token.w < P.batch && position < P.steps) {
        d = DOUT[(token.w * P.steps + position) * quads + item % quads];
    }
    DX[item] = d + select(vec4<f32>(), DX[item], P.accumulate != 0u);
}
