//! A self-test of software adapters: older llvmpipe (Mesa 22.3, Debian 12's own) ends an
//! invocation's loops silently after 65,535 iterations in all, and computes on with what it has.

use super::{BindingKind, Defines, Gpu, PipelineKey, read_words, storage_buffer};
use crate::error::Result;

/// Side of the doubly nested loop: beyond every limit seen.
const SIDE: u32 = 400;

/// Each round depends on the one before, so that no compiler can leave the loops out.
const SOURCE: &str = "
@group(0) @binding(0) var<storage, read_write> OUT: array<u32>;
@compute @workgroup_size(1)
fn main() {
    let side = OUT[0];
    var value = 1u;
    var rounds = 0u;
    for (var i = 0u; i < side; i++) {
        for (var j = 0u; j < side; j++) {
            value = value * 1664525u + 1013904223u;
            rounds += 1u;
        }
    }
    OUT[1] = value;
    OUT[2] = rounds;
}";

/// The number of loop iterations after which the driver stops an invocation; `None` where it
/// does not.
pub(super) fn loop_limit(gpu: &Gpu) -> Result<Option<u64>> {
    let key = PipelineKey {
        kernel: "loop_probe",
        defines: Defines::new(),
        bindings: vec![(0, BindingKind::ReadWrite)],
        text: None,
    };
    let pipeline = gpu.pipeline(&key, SOURCE)?;
    let buffer = storage_buffer(gpu, "loop probe", 4)?;
    gpu.queue.write_buffer(&buffer, 0, bytemuck::bytes_of(&SIDE));
    let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("loop probe"),
        layout: &pipeline.layout,
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    gpu.queue.submit([encoder.finish()]);
    let found = read_words(gpu, &buffer, 0, 3)?;
    let wanted =
        (0..SIDE * SIDE).fold(1_u32, |v, _| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    Ok((found[1] != wanted).then_some(u64::from(found[2])))
}
