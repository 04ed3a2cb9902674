//! Where the time of a training step goes.

use super::blueprint::{Kind, typical};
use super::opened::statistics;
use super::session::Session;
use crate::data::{Batch, Dataset, SplitName};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::plan::{Clock, Planned, SpaceId, Stage};
use crate::recipe::Config;
use std::sync::Arc;
use std::time::Instant;

/// Steps before the first one that counts: compilation, the first touch of every buffer.
const WARM_UP: usize = 2;

/// What steps took, medians over several, in seconds.
#[derive(Clone)]
pub struct Profile {
    /// Every dispatch, in order.
    pub dispatches: Vec<Profiled>,
    /// What they were timed by: the [name](Clock::name) of a clock.
    pub clock: &'static str,
    /// A whole step, replayed as training does and waited for: upload, encoding, device.
    pub step: f64,
    /// The fastest one of those; what a busy machine disturbs least.
    pub fastest: f64,
    /// Of a step, on the CPU: writing the batch and recording the commands.
    pub encode: f64,
    /// Of a step, on the CPU: handing them over.
    pub submit: f64,
    /// Steps of either kind, replayed whole and dispatch by dispatch.
    pub steps: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Token rows of a batch, 0 where the model reads none.
    pub tokens: usize,
    /// In training the optimiser runs after so many batches; in a profile, after each.
    pub accumulate: usize,
}

/// One dispatch of a profile.
#[derive(Clone)]
pub struct Profiled {
    /// What it is.
    pub planned: Planned,
    /// What it took.
    pub seconds: f64,
}

/// What the dispatches of a profile are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A row a kernel.
    Kernel,
    /// A row a dispatch.
    Dispatch,
    /// A row a stage.
    Stage,
}

/// Dispatches added up.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Of the kernel or the stage; a dispatch's number, kernel and workgroups.
    pub name: String,
    /// Dispatches.
    pub calls: usize,
    /// What they took.
    pub seconds: f64,
    /// Of all dispatches' time.
    pub share: f64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// What an estimate gave them.
    pub estimate: f64,
}

impl Profile {
    /// All dispatches' times together.
    pub fn sum(&self) -> f64 {
        self.dispatches.iter().map(|d| d.seconds).sum()
    }

    /// The optimiser's dispatches' times together.
    pub fn optimiser(&self) -> f64 {
        let update = self.dispatches.iter().filter(|d| d.planned.stage == Stage::Update);
        update.map(|d| d.seconds).sum()
    }

    /// A batch of a training on average, whose optimiser runs only after several.
    pub fn mean(&self) -> f64 {
        self.step - self.optimiser() * (1.0 - 1.0 / self.accumulate.max(1) as f64)
    }

    /// Dispatches added up, the longest row first (stages: in order), beside an estimate of each:
    /// what a roofline gives it, say.
    pub fn rows(&self, by: By, estimate: impl Fn(&Planned) -> f64) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (i, Profiled { planned, seconds }) in self.dispatches.iter().enumerate() {
            let [x, y, z] = planned.groups;
            let name = match by {
                By::Kernel => planned.kernel.name.to_string(),
                By::Dispatch => format!("{i} {} {x}x{y}x{z}", planned.kernel.name),
                By::Stage => planned.stage.to_string(),
            };
            let at = rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
                rows.push(Row { name, ..Row::default() });
                rows.len() - 1
            });
            rows[at].add(&Row {
                name: String::new(),
                calls: 1,
                seconds: *seconds,
                share: seconds / self.sum(),
                flops: planned.flops,
                bytes: planned.bytes,
                estimate: estimate(planned),
            });
        }
        if by != By::Stage {
            rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        }
        rows
    }
}

impl Row {
    /// Counts another row's dispatches here, too.
    pub fn add(&mut self, other: &Row) {
        self.calls += other.calls;
        self.seconds += other.seconds;
        self.share += other.share;
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.estimate += other.estimate;
    }
}

/// The middle one of several times.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Profiles the first steps of a training of `config` over `data`; see [`Session::profile`].
///
/// # Errors
/// As [`Session::new`] and [`Session::profile`].
pub fn profile(
    gpu: &Gpu,
    config: &Config,
    data: Arc<Dataset>,
    steps: usize,
    clock: &Clock,
) -> Result<Profile> {
    let standardise = statistics(&data, config)?;
    let mut session = Session::new(gpu, config, data, standardise, true)?;
    session.initialise()?;
    session.profile(steps, clock)
}

impl Session {
    /// Takes training steps on full batches of the training split, twice `steps` of them and a few
    /// before: by turns replayed whole and dispatch by dispatch. Where batches differ in shape (packed
    /// texts, sequences), those of a typical one are taken. Everything runs in every step, the
    /// optimiser too. The model is trained by that.
    ///
    /// # Errors
    /// A session that was not made for training; whatever a step reports.
    pub fn profile(&mut self, steps: usize, clock: &Clock) -> Result<Profile> {
        if self.made.train.is_none() {
            return Err(Error::Config("this session was not made for training".into()));
        }
        let (rows, size) = typical(&self.model, &self.data);
        if rows.is_empty() {
            return Err(Error::data(self.data.path(), "no training rows: nothing to profile"));
        }
        let steps = steps.max(1);
        let order: Vec<u32> =
            rows.iter().copied().cycle().take(size.rows * (WARM_UP + 2 * steps)).collect();
        let kind = Kind::Train(self.model.last_stage());
        let plan = self.prepare(kind, &size)?.plan();
        let mut dispatches: Vec<Profiled> = plan
            .dispatches()
            .iter()
            .map(|d| Profiled { planned: d.clone(), seconds: 0.0 })
            .collect();
        let mut whole: [Vec<f64>; 3] = Default::default();
        let mut each: Vec<Vec<f64>> = vec![Vec::new(); dispatches.len()];
        // From the second epoch on labels are generated.
        self.step.epoch = self.model.epochs_before() as u32 + 2;
        let mut clear = self.made.params.grad_spaces();
        for (i, batch) in self.loader(SplitName::Train, order)?.enumerate() {
            let batch = batch?;
            self.count_update()?;
            self.step.slot = 0;
            if i < WARM_UP || i % 2 == 0 {
                let times = self.whole_step(kind, &batch, &clear)?;
                if i >= WARM_UP {
                    whole.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
                }
            } else {
                self.stage(kind, &batch)?;
                let program = self.staged(kind, &batch)?;
                let times = program.profile(&self.gpu, &self.memory, true, &clear, clock)?;
                for t in times {
                    each[t.dispatch].push(t.time.as_secs_f64());
                }
            }
            clear.clear();
            self.step.step += 1;
        }
        for (dispatch, times) in dispatches.iter_mut().zip(each) {
            dispatch.seconds = median(times);
        }
        let fastest = whole[0].iter().copied().fold(f64::INFINITY, f64::min);
        let [step, encode, submit] = whole.map(median);
        let accumulate = self.model.config().train.accumulate;
        let (batch, tokens) = (size.rows, size.tokens);
        Ok(Profile {
            dispatches,
            clock: clock.name(),
            step,
            fastest,
            encode,
            submit,
            steps,
            batch,
            tokens,
            accumulate,
        })
    }

    /// A step as training takes it, waited for: seconds in all, of them recording and submitting.
    fn whole_step(&mut self, kind: Kind, batch: &Batch, clear: &[SpaceId]) -> Result<[f64; 3]> {
        let start = Instant::now();
        self.stage(kind, batch)?;
        let program = self.staged(kind, batch)?;
        let commands = program.commands(&self.gpu, &self.memory, true, clear, None)?;
        let encoded = start.elapsed();
        self.gpu.submit(commands)?;
        let submitted = start.elapsed();
        self.gpu.wait()?;
        Ok([start.elapsed(), encoded, submitted - encoded].map(|t| t.as_secs_f64()))
    }
}
