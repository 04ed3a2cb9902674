//! The uniforms that change every step.

/// Largest number of parameter groups.
pub const MAX_GROUPS: usize = 8;

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
    /// 1 − β₁ᵗ at the optimiser's step t.
    pub bias1: f32,
    /// 1 − β₂ᵗ.
    pub bias2: f32,
    /// Factor on accumulated gradients: 1 where they are summed, 1/k where averaged.
    pub grad_scale: f32,
    /// Unused.
    pub pad: u32,
    /// Learning rate of each parameter group.
    pub lr: [f32; MAX_GROUPS],
    /// L2 decay of each parameter group.
    pub decay: [f32; MAX_GROUPS],
}

impl Default for Step {
    fn default() -> Self {
        Step {
            seed: 1111,
            step: 0,
            epoch: 1,
            slot: 0,
            bias1: 1.0,
            bias2: 1.0,
            grad_scale: 1.0,
            pad: 0,
            lr: [0.0; MAX_GROUPS],
            decay: [0.0; MAX_GROUPS],
        }
    }
}

impl Step {
    /// Sets the bias corrections of Adam (β₁ 0.9, β₂ 0.999) for its `t`-th step, from 1.
    pub fn set_adam_step(&mut self, t: u32) {
        let power = |beta: f64| (1.0 - beta.powi(t.min(i32::MAX as u32) as i32)) as f32;
        (self.bias1, self.bias2) = (power(0.9), power(0.999));
    }
}
