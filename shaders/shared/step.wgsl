// What changes from one step to the next: the only host write besides the batch itself.
// Kept in the order of `plan::Step`.
struct Step {
    seed: u32,        // of the run
    step: u32,        // micro-batches so far
    epoch: u32,       // from 1
    slot: u32,        // row of the loss ring
    bias1: f32,       // 1 - beta1^t of the optimiser's step t
    bias2: f32,       // 1 - beta2^t
    grad_scale: f32,  // 1, or 1/k where accumulated gradients are averaged
    pad0: u32,
    lr: array<vec4<f32>, 2>,     // by parameter group
    decay: array<vec4<f32>, 2>,  // by parameter group
}
@group(0) @binding(15) var<uniform> S: Step;
