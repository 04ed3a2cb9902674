//! Every text that an adapter gets, as files: for a driver's own compiler, or a bug report.

use super::kernels::Device;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::gpu::{Defines, expand};
use crate::ops::{KERNELS, record_case};
use crate::plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Writes each text once, as KERNEL.FAMILY.VARIANT.wgsl, VARIANT counted from 0; the defines are in its
/// first line. Gives the number of files.
pub(super) fn write(folder: &Path, devices: &[Device], only: &[String]) -> Result<usize> {
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let mut texts: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    for kernel in KERNELS.iter().copied() {
        if !only.is_empty() && !only.iter().any(|name| name == kernel.name) {
            continue;
        }
        for case in (kernel.cases)() {
            for device in devices {
                let caps = device.gpu.caps();
                // What is too large for the adapter is not run either.
                let plan = || Plan::new(record_case(kernel, &case).recording, caps);
                let Ok(first) = plan() else { continue };
                let others = first.dispatches().first().map_or(0, |d| d.others.len());
                let of = texts.entry((kernel.name, caps.family.to_string())).or_default();
                for option in 0..=others {
                    let mut plan = plan()?;
                    plan.choose(option);
                    for planned in plan.dispatches().iter().filter(|d| d.kernel.name == kernel.name)
                    {
                        of.insert(text(kernel.name, kernel.source, &planned.defines)?);
                    }
                }
            }
        }
    }
    let mut count = 0;
    for ((kernel, family), texts) in texts {
        for (variant, text) in texts.into_iter().enumerate() {
            write_atomic(
                folder.join(format!("{kernel}.{family}.{variant}.wgsl")),
                text.as_bytes(),
            )?;
            count += 1;
        }
    }
    Ok(count)
}

fn text(kernel: &str, source: &str, defines: &Defines) -> Result<String> {
    let text = expand(source, defines)
        .map_err(|message| Error::Shader { name: kernel.into(), message })?;
    let defines: Vec<String> =
        defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(format!("// {kernel}: {}\n{text}", defines.join(" ")))
}
