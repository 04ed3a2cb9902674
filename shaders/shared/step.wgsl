// What changes from one step to the next: a host write besides the batch itself and the settings of
// the parameter groups. Kept in the order of `plan::Step`.
struct Step {
    seed: u32,        // of the run
    step: u32,        // micro-batches so far
    epoch: u32,       // from 1
    slot: u32,        // row of the loss ring
    grad_scale: f32,  // 1, or 1/k where accumulated gradients are averaged
    epoch_done: f32,  // share of the epoch's batches before this one
    pad0: u32, pad1: u32,
}
@group(0) @binding(15) var<uniform> S: Step;
