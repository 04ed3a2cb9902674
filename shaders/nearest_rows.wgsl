// NEAREST[i] = the row r of T that is nearest to X[i]: the least of sum over j of (X[i, j] - T[r, j])^2, of
// several the first
//
// In    X [n, d]; T [rows, d]
// Out   NEAREST [n] u32
// Geometry  an invocation owns a row of X.
// Numerics  f32, sums in order.
// Twin      ops::nearest::reference::nearest_rows

struct Params { n: u32, d: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read> T: array<f32>;
@group(0) @binding(2) var<storage, read_write> NEAREST: array<u32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let i = wid.x * ${WG}u + id;
    if (i >= P.n) { return; }
    var best = 0u;
    var least = 3.4e38;
    for (var r = 0u; r < P.rows; r++) {
        var sum = 0.0;
        for (var j = 0u; j < P.d; j++) {
            let off = X[i * P.d + j] - T[r * P.d + j];
            sum += off * off;
        }
        if (sum < least) {
            least = sum;
            best = r;
        }
    }
    NEAREST[i] = best;
}
