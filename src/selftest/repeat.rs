//! What must be the same to the bit: a training run twice, on one device and on another one of the same
//! adapter; and a step that is replayed, against steps that are recorded and prepared anew.

use super::kernels::Device;
use super::work::{Job, Outcome, Progress, run as run_jobs};
use super::{Checked, Part};
use crate::bench::{Made, steps};
use crate::data::{Dataset, SplitName, SynthConfig, synth};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::{Memory, Plan, Pool, Program, SpaceId};
use crate::recipe::Config;
use crate::train::Session;
use std::sync::Arc;

/// Steps of a replay.
const STEPS: u32 = 4;

/// Everything that a training leaves: losses, scores, labels, parameters.
type Trained = Vec<(String, Vec<u32>)>;

/// Rows of different lengths, dropout, clipping, accumulation: what the trainings train on.
fn data() -> Result<Arc<Dataset>> {
    let mut config = SynthConfig { train: 44, valid: 12, test: 0, ..SynthConfig::default() };
    (config.text.dim, config.audio.steps, config.vision.steps) = (12, 9, 7);
    (config.audio.min_steps, config.vision.min_steps) = (2, 1);
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let path = folder.path().join("repeat.safetensors");
    synth::write(&config, &path)?;
    Ok(Arc::new(Dataset::open(&path)?))
}

/// Trains three epochs from the beginning.
fn training(gpu: &Gpu, data: &Arc<Dataset>) -> Result<Trained> {
    let settings = [
        "train.batch_size=8",
        "train.accumulate=2",
        "train.lr=2e-3",
        "train.clip_norm=0.5",
        "model.hidden=12",
        "model.out=8",
        "model.post=16",
        "model.dropout=0.2",
        "align.dim=8",
        "align.weight=0.5",
    ];
    let config = Config::build("mosi", None, &settings.map(String::from))?;
    let mut session = Session::new(gpu, &config, data.clone(), None, true)?;
    session.initialise()?;
    let mut losses = Vec::new();
    for epoch in 1..=3 {
        let order = session.order(epoch);
        session.train_epoch(epoch, order, |record, _| {
            losses.push((record.loss as f32).to_bits());
            Ok(())
        })?;
    }
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    let mut all = vec![("losses".to_string(), losses)];
    all.push(("scores".into(), bits(&session.predict(SplitName::Valid)?.scores.concat())));
    all.push(("labels".into(), bits(&session.labels()?.concat())));
    for (name, _, values) in session.weights()?.iter() {
        all.push((name.to_string(), bits(values)));
    }
    Ok(all)
}

/// Counts each part as a comparison that allows no difference; the difference is the share of its words
/// that are others.
fn compare(outcome: &mut Outcome, got: &Trained, want: &Trained, at: &str) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let others = got.iter().zip(want).filter(|(g, w)| g != w).count();
        let share = others as f64 / want.len().max(1) as f64;
        let detail = || format!("{others} of {} words are others the second time", want.len());
        outcome.see(share, 0.0, || format!("{name}, {at}"), detail);
    }
}

fn twice(device: &Device) -> Result<Outcome> {
    let data = data()?;
    let mut outcome = Outcome::default();
    let first = training(&device.gpu, &data)?;
    compare(&mut outcome, &training(&device.gpu, &data)?, &first, &format!("on {}", device.name));
    let other = device.again()?;
    let at = format!("on another device, {}", device.name);
    compare(&mut outcome, &training(&other, &data)?, &first, &at);
    Ok(outcome)
}

/// A recording on a device: what its spaces hold at first, and how it runs.
struct Rig<'g> {
    gpu: &'g Gpu,
    made: Made,
    memory: Memory,
    ids: Vec<SpaceId>,
}

impl<'g> Rig<'g> {
    fn new(gpu: &'g Gpu, made: Made) -> Result<Self> {
        let memory = made.allocate(gpu)?;
        let ids = made.spaces.ids().collect();
        Ok(Rig { gpu, made, memory, ids })
    }

    fn prepare(&self, pool: &mut Pool) -> Result<Program> {
        let plan = Plan::new(self.made.recording.clone(), self.gpu.caps())?;
        plan.prepare(self.gpu, &self.memory, pool)
    }

    fn contents(&self) -> Result<Trained> {
        let spaces = self.ids.iter().zip(self.made.spaces.iter());
        spaces
            .map(|(id, (name, words))| {
                Ok((name.to_string(), self.memory.read(self.gpu, *id, 0, words)?))
            })
            .collect()
    }

    fn put(&self, contents: &Trained) -> Result<()> {
        let mut all = self.ids.iter().zip(contents);
        all.try_for_each(|(id, (_, words))| self.memory.write(self.gpu, *id, 0, words))
    }

    fn step(&self, program: &Program, i: u32) -> Result<()> {
        let mut step = self.made.step;
        (step.step, step.slot) = (i, i % 4);
        if let Some(mut groups) = self.made.groups.clone() {
            groups.set_all_steps(i + 1);
            groups.write(self.gpu, &self.memory)?;
        }
        self.memory.write_step(self.gpu, &step)?;
        program.run(self.gpu, &self.memory)
    }
}

/// Replays a step whose buffers are full of other steps' values, and takes the same steps with a program
/// and buffers of their own each.
fn replayed(device: &Device, made: Made) -> Result<Outcome> {
    let rig = Rig::new(&device.gpu, made)?;
    let initial = rig.contents()?;
    let used = rig.prepare(&mut Pool::new())?;
    (10..13).try_for_each(|i| rig.step(&used, i))?;
    rig.put(&initial)?;
    (0..STEPS).try_for_each(|i| rig.step(&used, i))?;
    let replayed = rig.contents()?;
    rig.put(&initial)?;
    (0..STEPS).try_for_each(|i| rig.step(&rig.prepare(&mut Pool::new())?, i))?;
    let mut outcome = Outcome::default();
    compare(&mut outcome, &replayed, &rig.contents()?, &format!("on {}", device.name));
    if replayed == initial {
        outcome.fail(format!("on {}", device.name), "the steps changed nothing".into());
    }
    Ok(outcome)
}

fn recorded(step: &str, device: &Device) -> Result<Made> {
    let caps = device.gpu.caps();
    let bed = match step {
        "lstm" => steps::lstm(caps, steps::LstmSizes { batch: 5, steps: 9, inputs: 7, hidden: 8 }),
        "encoder layer" => {
            let sizes = steps::LayerSizes { batch: 3, tokens: 7, width: 64, head: 32 };
            steps::encoder_layer(caps, sizes)
        }
        _ => {
            let sizes = steps::ModelSizes {
                model: "self_mm",
                preset: "mosi",
                settings: &["model.dropout=0", "align.weight=100"],
                batch: 6,
                streams: [(1, 20), (11, 5), (7, 3)],
                rows: 17,
            };
            steps::model(caps, sizes)
        }
    };
    Ok(bed?.make())
}

/// The steps that are replayed.
const REPLAYED: [&str; 3] = ["lstm", "encoder layer", "self-mm"];

/// A job on a device, whose errors are failures.
fn job<'a>(
    row: String,
    device: &'a Device,
    work: impl Fn() -> Result<Outcome> + Send + Sync + 'a,
) -> Job<'a> {
    let work = move || {
        work().unwrap_or_else(|why| {
            let mut outcome = Outcome::default();
            outcome.fail(format!("on {}", device.name), why.to_string());
            outcome
        })
    };
    Job { name: format!("{row} on {}", device.name), row, work: Box::new(work) }
}

/// Checks every device with trusted modules.
pub fn run(devices: &[Device], watch: &(dyn Fn(Progress) + Sync)) -> Vec<Checked> {
    let mut jobs = Vec::new();
    for device in devices.iter().filter(|d| !d.gpu.checked()) {
        jobs.push(job("a training twice".into(), device, move || twice(device)));
        for step in REPLAYED {
            let work = move || replayed(device, recorded(step, device)?);
            jobs.push(job(format!("{step}: replayed, recorded anew"), device, work));
        }
    }
    run_jobs(Part::Repeat, &jobs, watch)
}
