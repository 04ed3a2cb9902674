// PART[P.first + w] = sum of X[i]^2 over workgroup w's share;  with FOLD, OUT = sum of PART
//
// The squared global gradient norm, arena by arena, then in one number; nothing is read back.
// In    X [n], n a multiple of 4 (FOLD: PART [n])
// Out   PART (FOLD: OUT [1])
// Geometry  an invocation strides quads (FOLD: numbers); workgroup w owns quads w * P.chunk onward.
//           The fold is one workgroup: a full arena of 128 MiB has 4,096 parts.
// Numerics  f32, a fixed order.
// Limits    WG <= 256 invocations.
// Twin      ops::optim::square_sum::reference::square_sum

struct Params { n: u32, chunk: u32, first: u32, pad: u32 }
#if FOLD
@group(0) @binding(0) var<storage, read> X: array<f32>;
#else
@group(0) @binding(0) var<storage, read> X: array<vec4<f32>>;
#endif
@group(0) @binding(1) var<storage, read_write> PART: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

var<workgroup> part: array<f32, ${WG}>;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    var sum = 0.0;
#if FOLD
    let at = 0u;
    for (var i = id; i < P.n; i += ${WG}u) { sum += X[i]; }
#else
    let at = P.first + wid.x;
    let end = min((wid.x + 1u) * P.chunk, P.n / 4u);
    for (var i = wid.x * P.chunk + id; i < end; i += ${WG}u) { sum += dot(X[i], X[i]); }
#endif
    part[id] = sum;
    workgroupBarrier();
    if (id == 0u) {
        for (var k = 1u; k < ${WG}u; k++) { sum += part[k]; }
        PART[at] = sum;
    }
}
