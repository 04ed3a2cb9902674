//! A trained model for rows that a program holds in memory: no data set, no file, one submission.

use super::checkpoint::Saved;
use super::limits::check_weights;
use super::text;
use crate::data::{
    BatchShape, Layout, Modality, Sample, Standardise, StreamSpec, fill_samples, shape_of,
};
use crate::error::{Error, Result};
use crate::gpu::{Answer, Gpu};
use crate::nn::{Params, Weights};
use crate::plan::{Memory, Pool, Program, SpaceId, Spaces, Step};
use crate::recipe::{Config, Model, Offered, OutputKind};
use crate::tape::Tape;
use std::collections::HashMap;
use std::path::Path;

/// Scores samples that are held in memory. It owns a handle of its device, may go to another thread
/// and be kept for as long as there are samples.
///
/// The first samples of a shape (how many, and how long by eighths of what the model was trained
/// with) have a plan made for them, which takes milliseconds; all later ones cost the host a
/// fraction of one.
pub struct Scorer {
    gpu: Gpu,
    model: Model,
    params: Params,
    memory: Memory,
    block: SpaceId,
    table: SpaceId,
    pool: Pool,
    programs: HashMap<BatchShape, (Layout, Program)>,
    standardise: Option<Standardise>,
    rows: usize,
    /// The block of the samples at hand; kept for its memory.
    words: Vec<u32>,
    back: wgpu::Buffer,
    /// Scores on their way to `back`.
    pending: Option<Answer>,
}

/// Samples that are being scored.
pub struct Scoring<'s> {
    scorer: &'s mut Scorer,
    rows: usize,
    index: wgpu::SubmissionIndex,
}

impl Scorer {
    /// A saved model, for up to `rows` samples at a time.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub fn new(gpu: &Gpu, saved: &Saved, rows: usize) -> Result<Self> {
        let streams: Vec<StreamSpec> = saved
            .card
            .streams
            .iter()
            .map(|s| StreamSpec {
                modality: s.modality,
                steps: s.steps,
                dim: s.dim,
                lengths: s.steps > 1,
            })
            .collect();
        let standardise = saved.card.standardise.clone();
        let (config, weights) = (&saved.card.config, &saved.weights);
        let (task, guides) = (&saved.card.task, &saved.card.guides[..]);
        let offered = Offered { task, guides, ..Offered::new(&streams) };
        Self::with(gpu, config, offered, standardise, (weights, &saved.path), rows)
    }

    /// A model of `config` over what it is `offered`, of these weights, for up to `rows` samples at a time; the
    /// path names the weights in errors.
    ///
    /// # Errors
    /// A model that reads tokens, for which text has to become a data set first; weights of another
    /// model; samples without number; a device that does not hold it.
    pub fn with(
        gpu: &Gpu,
        config: &Config,
        offered: Offered<'_>,
        standardise: Option<Standardise>,
        (weights, path): (&Weights, &Path),
        rows: usize,
    ) -> Result<Self> {
        if rows == 0 {
            return Err(Error::Config("a scorer of 0 samples scores nothing; give 1".into()));
        }
        // Where an encoder is not trained its features are a stream; where it is there is none.
        if text::wanted(config) && !offered.streams.iter().any(|s| s.modality == Modality::Text) {
            let detail =
                "the model reads tokens: make a data set of the text, and a Session of that";
            return Err(Error::Config(detail.into()));
        }
        let model = Model::new(config, offered)?;
        if model.reads().tokens.is_some() {
            return Err(Error::Config(
                "the model reads token ids: make a data set of them, and a Session of that".into(),
            ));
        }
        let caps = gpu.caps();
        let mut spaces = Spaces::new();
        let specs = model.params(false, Params::largest(caps.max_binding));
        let params = Params::new(specs, &[], &mut spaces, caps.max_binding, false)?;
        let block = spaces.declare("batch", model.whole_layout(rows).words);
        let width = model.width(OutputKind::Score);
        let table = spaces.declare("scores", rows * width);
        let memory = Memory::allocate(gpu, &spaces)?;
        check_weights(&params, weights, path)?;
        params.upload(gpu, &memory, weights)?;
        memory.write_step(gpu, &Step::default())?;
        let back = gpu.scoped(|| {
            gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("scores on the host"),
                size: (rows * width * 4) as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        Ok(Scorer {
            gpu: gpu.clone(),
            model,
            params,
            memory,
            block,
            table,
            pool: Pool::new(),
            programs: HashMap::new(),
            standardise,
            rows,
            words: Vec::new(),
            back,
            pending: None,
        })
    }

    /// What a sample has to hold: of each of these modalities whole steps of so many features.
    pub fn streams(&self) -> &[StreamSpec] {
        self.model.streams()
    }

    /// Names of the scores: the one that the model predicts, then those of its parts.
    pub fn tasks(&self) -> Vec<String> {
        self.model.scores()
    }

    /// The scores of samples, `[samples][tasks]`, fused first. Steps past those that the model was
    /// trained with are left out. Blocks.
    ///
    /// # Errors
    /// As [`begin`](Self::begin) and [`Scoring::wait`].
    pub fn score(&mut self, samples: &[&Sample<'_>]) -> Result<Vec<Vec<f32>>> {
        self.begin(samples)?.wait()
    }

    /// Has samples scored, and returns while the device is at it.
    ///
    /// # Errors
    /// [`Shape`](Error::Shape) naming the sample that lacks a modality or has no whole steps, or for
    /// none or too many samples; those of the device.
    pub fn begin(&mut self, samples: &[&Sample<'_>]) -> Result<Scoring<'_>> {
        let rows = samples.len();
        if rows == 0 || rows > self.rows {
            let detail = format!("{rows} samples for a scorer of 1 to {}", self.rows);
            return Err(Error::shape("score", detail));
        }
        let shape = shape_of(samples, self.model.streams())?;
        if !self.programs.contains_key(&shape) {
            let made = self.program(&shape)?;
            self.programs.insert(shape.clone(), made);
        }
        let Some((layout, program)) = self.programs.get(&shape) else {
            return Err(Error::shape("score", "no plan for these samples"));
        };
        fill_samples(samples, layout, self.standardise.as_ref(), &mut self.words)?;
        if let Some(earlier) = self.pending.take() {
            // Somebody did not wait for the ones before.
            self.gpu.wait_until(|| earlier.known().is_some())?;
            self.back.unmap();
        }
        let gpu = &self.gpu;
        self.memory.write(gpu, self.block, 0, &self.words)?;
        let (table, bytes) = (self.memory.buffer(self.table)?, self.bytes(rows));
        let mut encoder = gpu.scoped(|| gpu.device.create_command_encoder(&Default::default()))?;
        program.record(gpu, &self.memory, &mut encoder, false, &[])?;
        let answer = Answer::default();
        let teller = answer.teller();
        let index = gpu.scoped(|| {
            encoder.copy_buffer_to_buffer(table, 0, &self.back, 0, bytes);
            encoder.map_buffer_on_submit(
                &self.back,
                wgpu::MapMode::Read,
                0..bytes,
                move |result| {
                    teller.tell(result.is_ok());
                },
            );
            gpu.queue.submit([encoder.finish()])
        })?;
        self.pending = Some(answer);
        Ok(Scoring { scorer: self, rows, index })
    }

    fn bytes(&self, rows: usize) -> u64 {
        (rows * self.model.width(OutputKind::Score) * 4) as u64
    }

    /// The plan of samples of this shape.
    fn program(&mut self, shape: &BatchShape) -> Result<(Layout, Program)> {
        let layout = self.model.layout(shape);
        let mut tape = Tape::new();
        let (place, table) = ((&layout, self.block), (self.table, self.rows));
        self.model.evaluate(&mut tape, &self.params, place, table, OutputKind::Score)?;
        let plan = tape.plan(self.gpu.caps())?.tune(&self.gpu, false)?;
        let program = plan.prepare(&self.gpu, &self.memory, &mut self.pool)?;
        program.warm(&self.gpu)?;
        Ok((layout, program))
    }
}

impl Scoring<'_> {
    /// Waits for the scores, `[samples][tasks]`, fused first.
    ///
    /// # Errors
    /// Those of the device.
    pub fn wait(self) -> Result<Vec<Vec<f32>>> {
        let Scoring { scorer, rows, index } = self;
        let Some(answer) = scorer.pending.take() else { return Ok(Vec::new()) };
        scorer.gpu.wait_for(index)?;
        scorer.gpu.wait_until(|| answer.known().is_some())?;
        if answer.known() != Some(true) {
            scorer.gpu.lost()?;
            return Err(Error::Gpu("scores could not be read back".into()));
        }
        let (tasks, bytes) = (scorer.model.width(OutputKind::Score), scorer.bytes(rows));
        let scores = {
            let view = scorer.back.get_mapped_range(0..bytes);
            let view = view.map_err(|e| Error::Gpu(e.to_string()))?;
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&view);
            values.chunks(tasks).map(<[f32]>::to_vec).collect()
        };
        scorer.back.unmap();
        Ok(scores)
    }
}
