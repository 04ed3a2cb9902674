//! A model on a device with its data: plans by batch size, steps, evaluation.

use super::blueprint::{Blueprint, Kind, available, full_batch, offer, order, table_width};
use super::checkpoint::{State, StateCard, save_state};
use super::limits::check_weights;
use super::run_files::{Head, Place};
use crate::data::{
    Batch, BatchShape, Dataset, FeatureStats, Loader, Modality, SplitName, Standardise,
};
use crate::error::{Error, Result};
use crate::files::FORMAT;
use crate::gpu::Gpu;
use crate::nn::{Group, Groups, Params, Weights};
use crate::phase::Phase;
use crate::plan::{Memory, Plan, Pool, Program, Ring, SpaceId, Step};
use crate::recipe::{Columns, Config, EpochEnd, Kept, Model, OutputKind};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// Steps that may be in flight before the host waits for the oldest.
const IN_FLIGHT: usize = 3;

/// Scores of a split.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// Names of the scores, the one that the model predicts first: M, then letters of modalities.
    pub tasks: Vec<String>,
    /// Numbers of each: one, or of a task of classes, labels or several numbers as many as those.
    pub sizes: Vec<usize>,
    /// `[rows][sum of sizes]`, fused first.
    pub scores: Vec<Vec<f32>>,
}

impl Predictions {
    /// The fused scores, row by row.
    pub fn fused(&self) -> Vec<f32> {
        self.of(0)
    }

    /// The `i`-th of the scores, row by row.
    pub fn of(&self, i: usize) -> Vec<f32> {
        let first: usize = self.sizes[..i].iter().sum();
        self.scores.iter().flat_map(|row| row[first..][..self.sizes[i]].iter().copied()).collect()
    }
}

/// What a state is of no use without.
#[derive(Default)]
pub(super) struct StandsOn {
    /// The heads of the logs.
    pub(super) heads: BTreeMap<String, Head>,
    /// SHA-256 of the best model's values.
    pub(super) model: Option<String>,
}

/// Learned representations of a split: name, size, row-major values.
pub type Representations = Vec<(String, usize, Vec<f32>)>;

/// A model on a device with its data.
pub struct Session {
    pub(super) gpu: Gpu,
    pub(super) model: Model,
    pub(super) data: Arc<Dataset>,
    pub(super) standardise: Option<Arc<Standardise>>,
    pub(super) made: Blueprint,
    pub(super) memory: Memory,
    pool: Pool,
    pub(super) ring: Option<Ring>,
    programs: HashMap<(Kind, BatchShape), Program>,
    pub(super) step: Step,
    pub(super) updates: u32,
    groups: Groups,
    /// What the recipe keeps between epochs.
    kept: Kept,
    /// Of each stage.
    columns: Vec<Arc<Columns>>,
    /// Training statistics of the modalities that were asked for.
    pub(super) usual: HashMap<Modality, Arc<FeatureStats>>,
}

impl Session {
    /// Builds a model over a data set; `train` adds gradients, moments and label state.
    ///
    /// # Errors
    /// A batch too large for the adapter, naming the largest that fits; a full adapter; a
    /// configuration under which no step would ever be taken.
    pub fn new(
        gpu: &Gpu,
        config: &Config,
        data: Arc<Dataset>,
        standardise: Option<Arc<Standardise>>,
        train: bool,
    ) -> Result<Self> {
        let model = Model::new(config, offer(&available(&data), &data))?;
        Self::with_model(gpu, model, data, standardise, train)
    }

    pub(super) fn with_model(
        gpu: &Gpu,
        model: Model,
        data: Arc<Dataset>,
        standardise: Option<Arc<Standardise>>,
        train: bool,
    ) -> Result<Self> {
        let phase = Phase::begin();
        let (made, plan) = Blueprint::fitting(&model, &data, gpu.caps(), train)?;
        phase.end("planned");
        let phase = Phase::begin();
        let memory = Memory::allocate(gpu, &made.spaces)?;
        phase.end("buffers allocated");
        let columns = model.stages().iter().map(|s| Arc::new(s.columns.clone())).collect();
        let ring = made.train.as_ref();
        let ring = ring.map(|t| Ring::new(gpu, t.ring, t.ring_rows, t.ring_width));
        let ring = ring.transpose()?;
        let groups = made.params.groups();
        let seed = model.config().train.seed;
        let seed = (seed ^ (seed >> 32)) as u32;
        let mut session = Session {
            gpu: gpu.clone(),
            model,
            data,
            standardise,
            made,
            memory,
            pool: Pool::new(),
            ring,
            programs: HashMap::new(),
            step: Step { seed, ..Step::default() },
            updates: 0,
            groups,
            kept: Kept::default(),
            columns,
            usual: HashMap::new(),
        };
        let trains = session.made.train.is_some();
        let kind = if trains { Kind::Train(0) } else { Kind::Scores };
        let plan = plan.tune(gpu, trains)?;
        let program = plan.prepare(gpu, &session.memory, &mut session.pool)?;
        // While parameters, files and the first batch are made ready here.
        program.warm(gpu)?;
        let full = session.full_batch();
        session.programs.insert((kind, full), program);
        Ok(session)
    }

    /// The program of a batch of this shape.
    pub(super) fn prepare(&mut self, kind: Kind, batch: &BatchShape) -> Result<&Program> {
        match self.programs.entry((kind, batch.clone())) {
            Entry::Occupied(ready) => Ok(ready.into_mut()),
            Entry::Vacant(slot) => {
                let plan = self.made.plan(&self.model, batch, self.gpu.caps(), kind)?;
                let plan = plan.tune(&self.gpu, matches!(kind, Kind::Train(_)))?;
                let program = plan.prepare(&self.gpu, &self.memory, &mut self.pool)?;
                Ok(slot.insert(program))
            }
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What a micro-batch's losses are called in an epoch, from 1.
    pub(super) fn columns(&self, epoch: usize) -> &Arc<Columns> {
        &self.columns[self.model.stage_of(epoch)]
    }

    /// The name of the adapter it runs on.
    pub fn adapter(&self) -> &str {
        &self.gpu.caps().name
    }

    /// The data.
    pub fn data(&self) -> &Arc<Dataset> {
        &self.data
    }

    /// The statistics that audio and vision are standardised by.
    pub fn standardise(&self) -> Option<&Standardise> {
        self.standardise.as_deref()
    }

    /// Modalities that the model reads and the data has not: every row is read as one that lacks them.
    pub fn absent(&self) -> Vec<Modality> {
        let there = self.data.modalities();
        let read = self.model.streams().iter().map(|s| s.modality);
        read.filter(|modality| !there.contains(modality)).collect()
    }

    /// Streams of the data that are wanted, as all are where the configuration names none, and that the model
    /// cannot read.
    pub fn unread(&self) -> Vec<Modality> {
        let (read, config) = (self.model.reads().modalities(), self.model.config());
        let guides = &self.model.reads().guides;
        let known = |m: &Modality| read.contains(m) || guides.iter().any(|(guide, _)| guide == m);
        let unread = |m: &Modality| config.model.wants(*m) && !known(m);
        self.data.modalities().into_iter().filter(unread).collect()
    }

    /// Named parameters.
    pub fn params(&self) -> &Params {
        &self.made.params
    }

    /// The plan of a training step of a full batch.
    pub fn step_plan(&mut self) -> Result<&Plan> {
        let (full, last) = (self.full_batch(), self.model.last_stage());
        Ok(self.prepare(Kind::Train(last), &full)?.plan())
    }

    /// Bytes of all persistent buffers and the scratch of the largest plan.
    pub fn bytes(&self) -> u64 {
        let scratch = self.programs.values().map(|p| p.plan().scratch_bytes()).max().unwrap_or(0);
        self.made.spaces.bytes() + scratch
    }

    pub(super) fn batch_size(&self) -> usize {
        let rows = self.data.most_rows();
        self.model.config().train.batch_size.min(rows)
    }

    /// The largest shape that a batch can have.
    fn full_batch(&self) -> BatchShape {
        full_batch(&self.model, &self.data, self.model.config().train.batch_size)
    }

    // ---- parameters and state ----------------------------------------------------------------

    /// Replaces all parameters.
    ///
    /// # Errors
    /// Weights of another model; `path` names them.
    pub fn load(&mut self, weights: &Weights, path: &Path) -> Result<()> {
        check_weights(&self.made.params, weights, path)?;
        self.made.params.upload(&self.gpu, &self.memory, weights)
    }

    /// The parameters as they are. Blocks.
    pub fn weights(&self) -> Result<Weights> {
        self.made.params.download(&self.gpu, &self.memory)
    }

    /// PyTorch's initial values by the configuration's seed, and the label map at the fused label.
    pub fn initialise(&mut self) -> Result<()> {
        let weights = self.made.params.initial(self.model.config().train.seed);
        self.made.params.upload(&self.gpu, &self.memory, &weights)?;
        self.reset_states()
    }

    /// What the model carries from step to step as it is before the first one.
    pub(super) fn reset_states(&mut self) -> Result<()> {
        let Some(train) = &self.made.train else { return Ok(()) };
        let split = self.data.split(SplitName::Train);
        let targets = split.and_then(|s| s.targets()).ok_or_else(|| {
            let detail =
                "no 'train.regression_labels' and no 'train.class_labels': nothing to learn from";
            Error::data(self.data.path(), detail)
        })?;
        let targets = targets.words;
        for spec in self.model.recipe().states(train.total) {
            let Some(state) = train.state(spec.name) else { continue };
            let words = self.made.spaces.words(state.space)?;
            let begins = spec.first(words, targets);
            self.memory.write(&self.gpu, state.space, 0, &begins)?;
        }
        Ok(())
    }

    /// Labels that the model makes for its parts, `[tasks][rows]`, the rows' own first; nothing where
    /// it makes none. Blocks.
    pub fn labels(&self) -> Result<Vec<Vec<f32>>> {
        let Some(made) = self.model.recipe().generated() else { return Ok(Vec::new()) };
        let Some(train) = &self.made.train else { return Ok(Vec::new()) };
        let all = self.state(made.state)?;
        Ok(all.chunks(train.total.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// What the model carries from step to step under this name; nothing where it has no such state,
    /// and without training. Blocks.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn state(&self, name: &str) -> Result<Vec<f32>> {
        let state = self.made.train.as_ref().and_then(|t| t.state(name));
        let Some(state) = state else { return Ok(Vec::new()) };
        let words = self.made.spaces.words(state.space)?;
        self.memory.read_f32(&self.gpu, state.space, 0, words)
    }

    /// The gradients that have accumulated since the last update; see [`Params::gradients`]. Blocks.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn gradients(&self) -> Result<Weights> {
        self.made.params.gradients(&self.gpu, &self.memory)
    }

    /// Persistent buffers that a resumed run needs: name, buffer, words.
    fn state_spaces(&self) -> Result<Vec<(String, SpaceId, usize)>> {
        let mut all = self.made.params.state_spaces();
        for state in self.made.train.iter().flat_map(|t| &t.states) {
            all.push((state.name.to_string(), state.space, self.made.spaces.words(state.space)?));
        }
        Ok(all)
    }

    /// Saves everything on the device that the next step depends on.
    pub(super) fn save_state(&self, path: &Path, at: Place, stands_on: StandsOn) -> Result<()> {
        let data_sha256 = self.data.digest().to_string();
        let (step, updates) = (self.step.step, self.updates);
        let mut group_steps = BTreeMap::new();
        for Group { name, .. } in self.groups.list() {
            let taken = self.groups.steps(name)?;
            if taken != updates {
                group_steps.insert(name.clone(), taken);
            }
        }
        let kept = self.kept.clone();
        let Place { epoch, batch } = at;
        let StandsOn { heads, model } = stands_on;
        let card = StateCard {
            format: FORMAT,
            epoch,
            batch,
            step,
            updates,
            group_steps,
            kept,
            data_sha256,
            heads,
            model,
        };
        save_state(path, &card, &self.state_spaces()?, |space, words| {
            self.memory.read(&self.gpu, space, 0, words)
        })
    }

    /// Puts a saved state back.
    pub(super) fn restore(&mut self, state: &State) -> Result<()> {
        state.each(&self.state_spaces()?, |space, words| {
            self.memory.write(&self.gpu, space, 0, words)
        })?;
        let card = &state.card;
        (self.step.step, self.updates) = (card.step, card.updates);
        self.groups.set_all_steps(card.updates);
        for (name, taken) in &card.group_steps {
            self.groups.set_steps(name, *taken)?;
        }
        self.kept = card.kept.clone();
        self.scale_rates()
    }

    /// Has the recipe end an epoch, from 1, of this validation loss.
    pub(super) fn end_epoch(&mut self, epoch: usize, valid_loss: Option<f64>) -> Result<()> {
        let mut end = EpochEnd::new(epoch, valid_loss, &mut self.kept);
        self.model.recipe().epoch_end(&mut end)?;
        self.scale_rates()
    }

    /// Sets the learning rates of groups to what the recipe has made of them between epochs.
    fn scale_rates(&mut self) -> Result<()> {
        for group in self.made.params.groups().list() {
            if let Some(scale) = self.kept.rates.get(&group.name) {
                self.groups.set_lr(&group.name, group.lr * scale)?;
            }
        }
        let unknown = self.kept.rates.keys().find(|name| self.groups.get(name).is_err());
        unknown.map_or(Ok(()), |name| self.groups.get(name).map(drop))
    }

    // ---- steps -------------------------------------------------------------------------------

    /// The order in which an epoch (from 1) visits the training rows.
    pub fn order(&self, epoch: usize) -> Vec<u32> {
        order(&self.model, &self.data, epoch)
    }

    pub(super) fn loader(&self, split: SplitName, order: Vec<u32>) -> Result<Loader> {
        Loader::new(
            self.data.clone(),
            split,
            order,
            self.batch_size(),
            self.model.reads().clone(),
            self.standardise.clone(),
        )
    }

    /// As it was before its parameters had any values.
    pub(super) fn restart(&mut self) -> Result<()> {
        let all: Vec<SpaceId> = self.made.spaces.ids().collect();
        self.memory.clear(&self.gpu, &all)?;
        (self.step.step, self.updates) = (0, 0);
        self.groups.set_all_steps(0);
        self.kept = Kept::default();
        Ok(())
    }

    pub(super) fn submit(
        &mut self,
        kind: Kind,
        batch: &Batch,
        update: bool,
        clear: &[SpaceId],
        ring: Option<&mut Ring>,
    ) -> Result<wgpu::SubmissionIndex> {
        self.stage(kind, batch)?;
        self.staged(kind, batch)?.replay(&self.gpu, &self.memory, update, clear, ring)
    }

    /// The next step is an update: writes the settings of the parameter groups for each of its turns.
    pub(super) fn count_update(&mut self) -> Result<()> {
        self.updates += 1;
        let all = self.groups.list().to_vec();
        let stage = self.model.stage_of(self.step.epoch as usize);
        for (i, turn) in self.model.stages()[stage].turns.iter().enumerate() {
            self.groups.advance_only(&turn.moves(all.iter()))?;
            self.groups.write_turn(&self.gpu, &self.memory, i)?;
        }
        Ok(())
    }

    /// Writes a batch and the step uniforms to where [`staged`](Self::staged) reads them.
    pub(super) fn stage(&mut self, kind: Kind, batch: &Batch) -> Result<()> {
        self.prepare(kind, &batch.layout.shape())?;
        self.memory.stage(&self.gpu, self.made.block, &batch.words)?;
        self.memory.write_step(&self.gpu, &self.step)
    }

    /// The program of a batch that was [staged](Self::stage).
    pub(super) fn staged(&self, kind: Kind, batch: &Batch) -> Result<&Program> {
        let program = self.programs.get(&(kind, batch.layout.shape()));
        program.ok_or_else(|| Error::Config("no plan for this batch".into()))
    }

    /// Waits for the oldest of too many steps in flight.
    pub(super) fn keep_up(&self, flying: &mut VecDeque<wgpu::SubmissionIndex>) -> Result<()> {
        if flying.len() < IN_FLIGHT {
            return Ok(());
        }
        flying.pop_front().map_or(Ok(()), |oldest| self.gpu.wait_for(oldest))
    }

    // ---- evaluation --------------------------------------------------------------------------

    /// Runs a split through the model, each block after `change` saw it.
    fn table(
        &mut self,
        split: SplitName,
        kind: Kind,
        change: impl Fn(&mut Batch),
    ) -> Result<(usize, Vec<f32>)> {
        let rows =
            self.data.split(split).map(|s| s.rows()).ok_or_else(|| {
                Error::data(self.data.path(), format!("no '{}' split", split.name()))
            })?;
        let width = table_width(&self.model, kind);
        let room = self.made.table_rows(&self.model, kind);
        let mut all = Vec::with_capacity(rows * width);
        let mut flying: VecDeque<wgpu::SubmissionIndex> = VecDeque::new();
        let mut end = 0;
        for batch in self.loader(split, (0..rows as u32).collect())? {
            let mut batch = batch?;
            change(&mut batch);
            let (first, at) = (all.len() / width, batch.layout.rows_at);
            if end + batch.layout.batch > first + room {
                flying.clear();
                all.extend(self.memory.read_f32(
                    &self.gpu,
                    self.made.scores,
                    0,
                    (end - first) * width,
                )?);
            }
            // Rows of the table, which begins where the last pass ended.
            let first = (all.len() / width) as u32;
            let count = batch.layout.batch;
            batch.words[at..at + count].iter_mut().for_each(|row| *row -= first);
            end += count;
            flying.push_back(self.submit(kind, &batch, false, &[], None)?);
            self.keep_up(&mut flying)?;
        }
        let left = rows * width - all.len();
        all.extend(self.memory.read_f32(&self.gpu, self.made.scores, 0, left)?);
        if let Some(row) = all.chunks(width).position(|r| r.iter().any(|v| !v.is_finite())) {
            let what = format!("the model's output for {} row {row} is not finite", split.name());
            // A model that was trained elsewhere is as it is.
            return Err(match self.step.epoch {
                0 => Error::Gpu(format!("{what}: its training diverged, or the data are not its")),
                epoch => Error::Diverged { epoch: epoch as usize, batch: None, what },
            });
        }
        Ok((width, all))
    }

    /// Scores of every row of a split, in order.
    pub fn predict(&mut self, split: SplitName) -> Result<Predictions> {
        self.scores(split, |_| {})
    }

    /// The same of blocks that `change` has changed.
    pub(super) fn scores(
        &mut self,
        split: SplitName,
        change: impl Fn(&mut Batch),
    ) -> Result<Predictions> {
        let (width, all) = self.table(split, Kind::Scores, change)?;
        Ok(Predictions {
            tasks: self.model.scores(),
            sizes: self.model.outputs(OutputKind::Score).map(|o| o.size).collect(),
            scores: all.chunks(width).map(<[f32]>::to_vec).collect(),
        })
    }

    /// What the model makes of every row of a split on the way: its representations.
    pub fn represent(&mut self, split: SplitName) -> Result<Representations> {
        let (width, all) = self.table(split, Kind::Represent, |_| {})?;
        let mut at = 0;
        let parts = self.model.outputs(OutputKind::Representation).map(|output| {
            let size = output.size;
            let values =
                all.chunks(width).flat_map(|row| row[at..at + size].iter().copied()).collect();
            at += size;
            (output.name.clone(), size, values)
        });
        Ok(parts.collect())
    }
}
