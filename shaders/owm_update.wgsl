// W[i, j] -= K[i] K[j] / (alpha + sum over m of R[m] K[m])   alpha = exp(P.log_base (1 + S.epoch_done))
//
// A projector forgets the direction R: recursive least squares, as orthogonal weight modification has it
// (arXiv:1810.01256). alpha falls within each epoch, from the base to nearly its square.
// In    R [d]     the mean of what a layer has read
//       K [d]     = W R
// Out   W [d, d]  read and written; what is symmetric stays so, to the bit
// Geometry  an invocation owns a column, so that neighbours touch neighbours, and makes the sum for itself,
//           so that none waits.
// Numerics  f32, sums in order.
// Twin      ops::owm::reference::owm_update

#import step
struct Params { d: u32, log_base: f32 }
@group(0) @binding(0) var<storage, read> R: array<f32>;
@group(0) @binding(1) var<storage, read> K: array<f32>;
@group(0) @binding(2) var<storage, read_write> W: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

@compute @workgroup_size(${WG})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) id: u32) {
    let j = wid.x * ${WG}u + id;
    if (j >= P.d) { return; }
    // Both are the host's and no NaN. No base is above 1, so that the bound is never met.
    var below = exp(min(P.log_base * (1.0 + S.epoch_done), 80.0));
    for (var m = 0u; m < P.d; m++) { below += R[m] * K[m]; }
    let mine = K[j];
    for (var i = 0u; i < P.d; i++) {
        // The product of both comes first: it is the same for (i, j) and (j, i).
        W[i * P.d + j] -= (K[i] * mine) / below;
    }
}
