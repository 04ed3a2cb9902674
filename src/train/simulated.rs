//! A training step of a model over data of the field's shapes, planned for an adapter that need not be here.

use super::blueprint::{Outline, outline_over};
use crate::data::{
    Contents, Dataset, Modality, Options, Source, SplitContents, SplitName, StreamContents,
    StreamSpec, TargetValues, TaskKind,
};
use crate::error::{Error, Result};
use crate::gpu::Caps;
use crate::recipe::{Config, Entry};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Rows of nothing: a plan asks for their shapes alone.
#[derive(Debug)]
struct Blank;

impl Source for Blank {
    fn path(&self) -> &Path {
        Path::new("shapes")
    }

    fn digest(&self) -> String {
        String::new()
    }

    fn values(&self, _: SplitName, _: Modality, _: usize) -> Result<Cow<'_, [f32]>> {
        Err(Error::data("shapes", "has shapes, and no values"))
    }
}

/// What a step of `entry` at the sizes of `preset` runs and needs on an adapter, over as many rows as a batch
/// of it has, of the shapes of that data set in MMSA's unaligned files.
///
/// # Errors
/// As [`outline`](super::outline): a batch that does not fit, naming the largest that does; a model that wants
/// what shapes alone have not, such as a text encoder's tokens.
pub fn outline_of_shapes(entry: &Entry, preset: &str, caps: &Caps) -> Result<Outline> {
    let mut config = Config::preset(entry.name, preset)?;
    config.train.keep_tail = true;
    let rows = config.train.batch_size;
    let specs = entry.shapes(preset);
    let streams = specs.iter().map(|spec| {
        let StreamSpec { modality, steps, dim, lengths } = *spec;
        let lengths = lengths.then(|| vec![steps as u32; rows]);
        (modality, StreamContents { steps, dim, lengths, missing: None })
    });
    let targets = match entry.tasks.contains(&TaskKind::Regression) {
        true => TargetValues::Number(vec![0.5; rows]),
        false => TargetValues::Classes((0..rows as u32).map(|row| row % 2).collect()),
    };
    let split = SplitContents {
        rows,
        streams: streams.collect(),
        targets: Some(targets),
        ..SplitContents::default()
    };
    let splits = BTreeMap::from([(SplitName::Train, split)]);
    let contents = Contents { splits, ..Contents::default() };
    let data = Dataset::over(Arc::new(Blank), contents, &Options::default())?;
    outline_over(&config, &data, &specs, caps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Simulated;
    use crate::recipe::MODELS;

    /// Models that shapes alone do not feed, and why.
    const OTHERS: [(&str, &str); 2] = [("bert", "tokens"), ("labels", "of each modality alone")];

    #[test]
    fn every_preset_fits_every_gpu() {
        let (mut planned, mut refused) = (0, Vec::new());
        for gpu in Simulated::all().unwrap() {
            let caps = gpu.caps();
            for entry in MODELS {
                for preset in entry.presets {
                    let what = format!("{} of {preset} on {}", entry.name, gpu.name);
                    match outline_of_shapes(entry, preset, &caps) {
                        Ok(outline) => {
                            assert!(!outline.plan.dispatches().is_empty(), "{what}");
                            assert!(outline.bytes < gpu.memory, "{what}: {} bytes", outline.bytes);
                            planned += 1;
                        }
                        // It says so, and by which limit.
                        Err(Error::OutOfMemory { what: of, advice, .. }) => {
                            let said =
                                advice.contains("largest batch") || advice.contains(&gpu.name);
                            assert!(said, "{what}: {of}; {advice}");
                            refused.push((gpu.name.clone(), entry.name));
                        }
                        Err(why) => {
                            let why = why.to_string();
                            let known =
                                entry.tokens || OTHERS.iter().any(|(_, word)| why.contains(word));
                            assert!(known, "{what}: {why}");
                        }
                    }
                }
            }
        }
        assert!(planned > 200, "{planned}");
        // TFN's one product of all three streams is larger than the smallest bindings.
        assert!(refused.iter().all(|(_, model)| *model == "tfn"), "{refused:?}");
        assert!(refused.iter().all(|(gpu, _)| !gpu.contains("RTX") && !gpu.contains("Apple")));
    }
}
