// The generated labels of a batch, from the class centres as they stood before it (Self-MM):
//   D+ = ||F - c+||   D- = ||F - c-||   alpha = (D- - D+) / (D+ + 1e-8)      for m and s
//   y_new = alpha_s / (2 (alpha_m + 1e-8)) y_m + (y_m + alpha_s - alpha_m) / 2,  clamped to +-H
//   y_s <- (k - 1)/(k + 1) y_s + 2/(k + 1) y_new          in epoch k >= 2
// and then the batch's features into the feature store. Task 0 is the fused one, whose label is
// given; tasks 1 to 3 are the modalities that the model has.
//
// In    F       [n, width], the tasks' features in this forward pass, side by side
//       CENTRES task by task: c+ [dim_k], c- [dim_k]
//       ROWS    [n]; a sample past the last of total is left out
// Out   LABELS  [tasks, total];  STORE [total, width]
// Geometry  an invocation owns one sample of one task.
// Numerics  f32 in this order; distances are unsquared unless P.squared.
// Limits    5 storage buffers.
// Twin      ops::labels::reference::update
#import activation
#import step

struct Params {
    n: u32, tasks: u32, total: u32, width: u32,
    limit: f32, squared: u32, pad0: u32, pad1: u32,
    dims: vec4<u32>,
}
@group(0) @binding(0) var<storage, read> F: array<f32>;
@group(0) @binding(1) var<storage, read> CENTRES: array<f32>;
@group(0) @binding(2) var<storage, read> ROWS: array<u32>;
@group(0) @binding(3) var<storage, read_write> LABELS: array<f32>;
@group(0) @binding(4) var<storage, read_write> STORE: array<f32>;
@group(0) @binding(14) var<uniform> P: Params;

fn relative(to_positive: f32, to_negative: f32) -> f32 {
    var near = to_positive;
    var far = to_negative;
    if (P.squared == 0u) {
        near = sqrt(near);
        far = sqrt(far);
    }
    return (far - near) / (near + 1e-8);
}

// alpha of sample i in a task of `dim` features from column `first` on.
fn alpha(i: u32, first: u32, dim: u32) -> f32 {
    let centre = 2u * first;
    var positive = 0.0;
    var negative = 0.0;
    for (var j = 0u; j < dim; j++) {
        let f = F[i * P.width + first + j];
        let p = f - CENTRES[centre + j];
        let q = f - CENTRES[centre + dim + j];
        positive += p * p;
        negative += q * q;
    }
    return relative(positive, negative);
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let item = (wid.y * count.x + wid.x) * 8u + id;
    if (item >= P.n * P.tasks) { return; }
    let task = item % P.tasks;
    let i = item / P.tasks;
    let row = ROWS[i];
    if (row >= P.total) { return; }
    var first = 0u;
    for (var k = 0u; k < task; k++) { first += P.dims[k]; }
    let dim = P.dims[task];

    if (task > 0u && S.epoch >= 2u) {
        let alpha_m = alpha(i, 0u, P.dims.x);
        let alpha_s = alpha(i, first, dim);
        let y_m = LABELS[row];
        let ratio = alpha_s / (alpha_m + 1e-8);
        let fresh = 0.5 * ratio * y_m + 0.5 * (y_m + alpha_s - alpha_m);
        let k = f32(S.epoch);
        let at = task * P.total + row;
        LABELS[at] = (k - 1.0) / (k + 1.0) * LABELS[at]
            + 2.0 / (k + 1.0) * held(fresh, P.limit);
    }

    let source = i * P.width + first;
    let to = row * P.width + first;
    for (var j = 0u; j < dim; j++) { STORE[to + j] = F[source + j]; }
}
