//! A self-test of software adapters: older llvmpipe (Mesa 22.3, Debian 12's own) ends an
//! invocation's loops silently after 65,535 iterations in all, and computes on with what it has.

use super::{BindingKind, Defines, Gpu, PipelineKey, read_words, storage_buffer};
use crate::error::Result;
use crate::files::{cache_folder, fingerprint, keep, kept};
use std::path::{Path, PathBuf};

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
/// does not. Asked of a driver once, and kept in the user's cache.
pub(super) fn loop_limit(gpu: &Gpu) -> Result<Option<u64>> {
    let known = kept_in(gpu);
    if let Some(limit) = known.as_deref().and_then(recall) {
        return Ok(limit);
    }
    let limit = measured(gpu)?;
    if let Some(path) = known {
        remember(&path, limit);
    }
    Ok(limit)
}

/// Where the answer of this driver is kept.
fn kept_in(gpu: &Gpu) -> Option<PathBuf> {
    let caps = gpu.caps();
    let about = [&caps.backend, &caps.name, &caps.driver].map(String::as_str).join("\n")
        + env!("CARGO_PKG_VERSION");
    Some(cache_folder()?.join("loops").join(fingerprint(about.as_bytes())))
}

/// A kept answer; none where there is none that can be read.
fn recall(path: &Path) -> Option<Option<u64>> {
    match std::str::from_utf8(&kept(path)?).ok()?.trim() {
        "none" => Some(None),
        limit => limit.parse().ok().map(Some),
    }
}

/// Keeps an answer. Failing to is no error: the next start asks again.
fn remember(path: &Path, limit: Option<u64>) {
    let text = limit.map_or_else(|| "none".to_string(), |limit| limit.to_string());
    keep(path, format!("{text}\n").as_bytes(), "the answer of a self-test");
}

fn measured(gpu: &Gpu) -> Result<Option<u64>> {
    let key = PipelineKey {
        kernel: "loop_probe",
        defines: Defines::new(),
        bindings: vec![(0, BindingKind::ReadWrite)],
        text: None,
    };
    let pipeline = gpu.own_pipeline(&key, SOURCE, true)?;
    let buffer = storage_buffer(gpu, "loop probe", 4)?;
    gpu.scoped(|| gpu.queue.write_buffer(&buffer, 0, bytemuck::bytes_of(&SIDE)))?;
    let bind_group = gpu.scoped(|| {
        gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("loop probe"),
            layout: &pipeline.layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
        })
    })?;
    gpu.run(|encoder| {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    })?;
    let found = read_words(gpu, &buffer, 0, 3)?;
    let wanted =
        (0..SIDE * SIDE).fold(1_u32, |v, _| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    Ok((found[1] != wanted).then_some(u64::from(found[2])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_and_nothing_else_is_taken_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loops").join("some driver");
        assert_eq!(recall(&path), None);
        for limit in [None, Some(65_535)] {
            remember(&path, limit);
            assert_eq!(recall(&path), Some(limit));
        }
        std::fs::write(&path, "none of it").unwrap();
        assert_eq!(recall(&path), None);
    }
}
