//! The uniforms that change every step.

/// Step scalars, in the order of `shaders/shared/step.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Of the run; keys every random number together with `step`.
    pub seed: u32,
    /// Micro-batches so far.
    pub step: u32,
    /// From 1.
    pub epoch: u32,
    /// Row of the loss ring this step writes.
    pub slot: u32,
    /// Factor on accumulated gradients where the optimiser takes them: 1 where they are summed, 1/k
    /// where k micro-batches are averaged.
    pub grad_scale: f32,
    /// Of the epoch's batches the share that came before this one: from 0 to below 1.
    pub epoch_done: f32,
    /// Unused.
    pub pad: [u32; 2],
}

impl Default for Step {
    fn default() -> Self {
        let pad = [0; 2];
        Step { seed: 1111, step: 0, epoch: 1, slot: 0, grad_scale: 1.0, epoch_done: 0.0, pad }
    }
}
