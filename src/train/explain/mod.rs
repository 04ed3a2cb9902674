//! Which word, step or modality a model's score comes from: integrated gradients (Sundararajan, Taly and
//! Yan 2017, arXiv:1703.01365).
//!
//! An input's share of a score is its distance from the usual input times the mean gradient of the score
//! along the straight line between the two:
//!
//! ```text
//! A_k = (x_k − u_k) ∫₀¹ ∂F/∂x_k (u + α (x − u)) dα          Σ_k A_k = F(x) − F(u)
//! ```
//!
//! The second equation is what the integral is held against, piece by piece of the line: points are added
//! where it is off until what is off is within 1 %.
//!
//! The usual input u of a stream is the mean of training in each of the row's own steps, as the model reads
//! a row that lacks the stream: zero after standardising. That of text that goes through a pretrained
//! encoder is the same sentence with `[PAD]` in the place of each word piece; the path goes from one to the
//! other behind the embeddings (word, position and segment, normalised), and a piece's share is the sum over
//! its columns. What begins and ends a sentence is the same in both and has no share, and neither has padding.
//! The usual input's score is taken a millionth of the way from it: a step of nothing but zeros is padding to
//! some models.

mod path;
mod words;

pub use words::Word;

use super::metrics::largest;
use super::session::Session;
use super::text::encoder_tokenizer;
use crate::data::{
    BatchShape, Dataset, Layout, Loader, Modality, SplitName, Standardise, TaskKind, Tokenizer,
    packed_rows,
};
use crate::error::{Error, Result};
use crate::files::{FORMAT, check_format, first_format, read_json, write_sealed_json};
use crate::gpu::Gpu;
use crate::nn::{Params, TokenVars, Weights};
use crate::plan::{Memory, Pool, Program, SpaceId, Spaces, Step};
use crate::recipe::{Differentiated, Model, OutputKind};
use crate::tape::{Tape, Var};
use path::{Answer, Integral, Part, integral};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of a run folder that holds explanations.
const NAME: &str = "explain.json";
/// Points of the line that are computed side by side, where so many fit.
const ROWS: usize = 32;
/// How far the parts may be from adding up, as a share of the whole.
const WITHIN: f64 = 0.01;

/// Where a score of a row comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The row's id.
    pub id: String,
    /// Its split.
    pub split: SplitName,
    /// Its place in that, from 0.
    pub row: usize,
    /// The score that is explained: M, or the name of a class, label or number.
    pub output: String,
    /// The score of the row, as the model gives it: of a class or label its logit.
    pub score: f64,
    /// The same of the usual input.
    pub usual: f64,
    /// What is missing until the parts add up to `score - usual`.
    pub residual: f64,
    /// Whether that is no more than 1 % of it.
    pub complete: bool,
    /// Points of the line that were computed.
    pub points: usize,
    /// Its text, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The modalities that the model reads.
    pub modalities: Vec<Share>,
}

/// What a modality contributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Which.
    pub modality: Modality,
    /// All of it: the sum of its steps.
    pub share: f64,
    /// Of each of the row's own steps, word pieces of text; none where the row lacks the modality.
    pub steps: Vec<f64>,
    /// Of each feature over all steps; none of word pieces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    /// Of each word, where the steps are words or pieces of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<Word>,
    /// `[steps][features]`; empty of word pieces.
    #[serde(skip)]
    pub values: Vec<f64>,
}

/// What a feature contributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name in the data's side file ([`Dataset::feature_names`]), or its column, from 0.
    pub name: String,
    /// Its share.
    pub share: f64,
}

/// The explanations that a run keeps of its rows, in `explain.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The file's [format](crate::files::FORMAT).
    #[serde(default = "first_format")]
    pub format: u32,
    /// The epoch of the model that was explained.
    pub epoch: usize,
    /// SHA-256 of the data.
    pub data_sha256: String,
    /// The rows.
    pub rows: Vec<Explanation>,
}

impl Explained {
    /// Explanations of a model of that epoch over data of that digest.
    pub fn new(epoch: usize, data_sha256: String, rows: Vec<Explanation>) -> Self {
        Explained { format: FORMAT, epoch, data_sha256, rows }
    }

    /// What a run keeps; nothing where it keeps none.
    ///
    /// # Errors
    /// A file that cannot be read, is of a later version or no such file.
    pub fn read(run: &Path) -> Result<Option<Explained>> {
        let path = run.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        let all: Explained = serde_json::from_str(&read_json(&path)?)
            .map_err(|e| Error::checkpoint(&path, format!("no explanations ({e}): remove it")))?;
        check_format(&path, all.format)?;
        Ok(Some(all))
    }

    /// Keeps them in a run folder; gives the file.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, run: &Path) -> Result<PathBuf> {
        let path = run.join(NAME);
        write_sealed_json(&path, self)?;
        Ok(path)
    }
}

impl Explanation {
    /// What the shares add up to.
    pub fn sum(&self) -> f64 {
        self.modalities.iter().map(|share| share.share).sum()
    }
}

impl Share {
    /// A modality that contributes nothing.
    pub fn none(modality: Modality) -> Self {
        let (share, steps, features) = (0.0, Vec::new(), Vec::new());
        Share { modality, share, steps, features, words: Vec::new(), values: Vec::new() }
    }
}

/// A model that tells where its scores come from.
pub struct Explainer {
    gpu: Gpu,
    model: Model,
    data: Arc<Dataset>,
    standardise: Option<Arc<Standardise>>,
    tokenizer: Option<Tokenizer>,
    device: Device,
    within: f64,
    pool: Pool,
    programs: HashMap<BatchShape, (Program, Differentiated)>,
    embeddings: HashMap<BatchShape, (Program, Var)>,
}

/// All scores of some points, and of each part the tensor of its gradients there.
type Said = (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>);

/// What is on the device for batches of so many rows.
struct Device {
    params: Params,
    memory: Memory,
    block: SpaceId,
    /// The output of the embeddings, and its columns, where the model reads tokens.
    embedded: Option<(SpaceId, usize)>,
    /// How often each score counts in what is differentiated.
    weights: SpaceId,
    /// Scores.
    scores: usize,
    rows: usize,
}

impl Explainer {
    /// The model of a session that evaluates, over its data. `encoder` is the folder of its pretrained encoder,
    /// whose tokenizer tells words; it may be absent.
    ///
    /// # Errors
    /// A model of which not even two points of a path fit the device; those of the device.
    pub fn new(session: Session, encoder: &Path) -> Result<Self> {
        let weights = session.weights()?;
        let Session { gpu, model, data, standardise, .. } = session;
        // Gradients go through matrices that an evaluation would store by halves.
        let model = model.in_full()?;
        let tokenizer = encoder_tokenizer(model.config(), encoder);
        let mut rows = ROWS;
        let device = loop {
            match Device::new(&gpu, &model, &data, &weights, rows) {
                Err(Error::OutOfMemory { .. } | Error::TooLarge { .. }) if rows > 4 => rows /= 2,
                other => break other?,
            }
        };
        Ok(Explainer {
            gpu,
            model,
            data,
            standardise,
            tokenizer,
            device,
            within: WITHIN,
            pool: Pool::new(),
            programs: HashMap::new(),
            embeddings: HashMap::new(),
        })
    }

    /// The same, asking for as many points as bring what is off to this share of the whole, instead of 0.01.
    pub fn within(self, share: f64) -> Self {
        Explainer { within: share, ..self }
    }

    /// The data.
    pub fn data(&self) -> &Arc<Dataset> {
        &self.data
    }

    /// Names of what the model predicts, in the order of its scores: one score is M.
    pub fn outputs(&self) -> Vec<String> {
        match &self.model.task().names[..] {
            [] => self.model.scores().into_iter().take(1).collect(),
            names => names.to_vec(),
        }
    }

    /// Explains the `output`-th score of a row. Blocks.
    ///
    /// # Errors
    /// A row or a score that is not there; a score that is no number; those of the device.
    pub fn explain(&mut self, split: SplitName, row: usize, output: usize) -> Result<Explanation> {
        let outputs = self.outputs();
        let name = outputs.get(output).cloned().ok_or_else(|| {
            Error::Config(format!("score {output} of {} that the model has", outputs.len()))
        })?;
        let (layout, mut words) = self.copies(split, row)?;
        let parts = self.parts(split, row, &layout, &words)?;
        let mut weights = vec![0.0; self.device.scores];
        weights[output] = 1.0;
        self.device.memory.write_f32(&self.gpu, self.device.weights, 0, &weights)?;
        let (rows, within) = (self.device.rows, self.within);
        let found = integral(&parts, rows, within, &mut |shares| {
            let (scores, gradients) = self.pass(&layout, &mut words, &parts, shares)?;
            let scores = scores.iter().map(|row| f64::from(row[output])).collect();
            Ok(Answer { scores, gradients })
        })?;
        let Integral { score, usual, points, .. } = found;
        if !(score.is_finite() && usual.is_finite() && found.residual().is_finite()) {
            let id = self.id(split, row);
            let detail =
                format!("'{id}': a score on the way to it, or its gradient, is not finite");
            return Err(Error::Gpu(detail));
        }
        Ok(Explanation {
            id: self.id(split, row),
            split,
            row,
            output: name,
            score,
            usual,
            residual: found.residual(),
            complete: found.within(found.residual(), self.within),
            points,
            text: self.text(split, row).map(String::from),
            modalities: self.shares(split, row, &layout, &found.attributions),
        })
    }

    /// Explains what the model predicts of a row: its score, or its class's logit. Blocks.
    ///
    /// # Errors
    /// As [`explain`](Self::explain).
    pub fn explain_predicted(&mut self, split: SplitName, row: usize) -> Result<Explanation> {
        let output = match self.model.task().kind {
            TaskKind::Regression => 0,
            _ => self.predicted(split, row)?,
        };
        self.explain(split, row, output)
    }

    /// Which class or label of a row has the largest logit.
    fn predicted(&mut self, split: SplitName, row: usize) -> Result<usize> {
        let (layout, mut words) = self.copies(split, row)?;
        let parts = self.parts(split, row, &layout, &words)?;
        let (scores, _) = self.pass(&layout, &mut words, &parts, &[1.0])?;
        Ok(scores.first().map_or(0, |row| largest(&row[..self.outputs().len().min(row.len())])))
    }

    /// A batch of copies of a row.
    fn copies(&self, split: SplitName, row: usize) -> Result<(Arc<Layout>, Vec<u32>)> {
        let rows = self.device.rows;
        let (data, reads) = (self.data.clone(), self.model.reads().clone());
        let order = vec![u32::try_from(row).unwrap_or(u32::MAX); rows];
        let mut loader = Loader::new(data, split, order, rows, reads, self.standardise.clone())?;
        let batch = loader.next().ok_or_else(|| Error::shape("explain", "no batch"))??;
        Ok((batch.layout.clone(), batch.words.clone()))
    }

    fn id(&self, split: SplitName, row: usize) -> String {
        self.data.split(split).map_or_else(String::new, |s| s.id(row))
    }

    fn text(&self, split: SplitName, row: usize) -> Option<&str> {
        let texts = self.data.split(split)?.raw_text()?;
        texts.get(row).map(String::as_str)
    }

    /// The path of each stream of a row, then that of its tokens; none where the row has nothing of it.
    fn parts(
        &mut self,
        split: SplitName,
        row: usize,
        layout: &Layout,
        words: &[u32],
    ) -> Result<Vec<Option<Part>>> {
        let mut parts = Vec::new();
        for place in &layout.streams {
            let stream = self.data.split(split).and_then(|s| s.stream(place.modality));
            let Some(stream) = stream.filter(|stream| !stream.missing(row)) else {
                // It is read as what is usual already.
                parts.push(None);
                continue;
            };
            let steps = stream.len(row).min(place.steps);
            let own = words[place.values_at..][..steps * place.width].iter();
            let usual = self.standardise.as_ref().and_then(|s| s.usual(place.modality));
            let mut usual = usual.unwrap_or_default();
            usual.resize(place.width, 0.0);
            let starts = (0..layout.batch).map(|i| i * place.steps * place.width).collect();
            let own = own.map(|word| f32::from_bits(*word)).collect();
            parts.push(Some(Part { own, usual: usual.repeat(steps), starts }));
        }
        parts.push(self.embedded(layout, words)?);
        Ok(parts)
    }

    /// The path of a row's tokens.
    fn embedded(&mut self, layout: &Layout, words: &[u32]) -> Result<Option<Part>> {
        let (Some(at), Some((_, columns))) = (layout.tokens, self.device.embedded) else {
            return Ok(None);
        };
        let spans = words[at.spans_at..][..2 * layout.batch].chunks_exact(2);
        let starts: Vec<usize> = spans.map(|span| span[0] as usize * columns).collect();
        let tokens = words[at.spans_at + 1] as usize;
        let ids: Vec<u32> = (0..tokens).map(|i| words[at.tokens_at + 4 * i]).collect();
        let pad = self.tokenizer.as_ref().map_or(0, Tokenizer::padding);
        let mut padded = words.to_vec();
        for (i, id) in ids.iter().enumerate() {
            if !words::is_end(&ids, *id) {
                padded[at.tokens_at + 4 * i] = pad;
            }
        }
        let mut read = |words: &[u32]| -> Result<Vec<f32>> {
            let mut all = self.embed(layout, words)?;
            all.truncate(tokens * columns);
            Ok(all)
        };
        Ok(Some(Part { own: read(words)?, usual: read(&padded)?, starts }))
    }

    /// What the embeddings give for a batch, `[T, hidden]`.
    fn embed(&mut self, layout: &Layout, words: &[u32]) -> Result<Vec<f32>> {
        let Device { params, memory, block, .. } = &self.device;
        let shape = layout.shape();
        if !self.embeddings.contains_key(&shape) {
            let mut tape = Tape::new();
            let (Some(bert), Some(at)) = (self.model.bert(), &layout.tokens) else {
                return Err(Error::shape("explain", "no tokens"));
            };
            let tokens = TokenVars::input(&mut tape, *block, at, layout.batch);
            let out = bert.begin(&mut tape, params, &tokens, 0, false)?;
            tape.keep(out);
            let program = tape.plan(self.gpu.caps())?.prepare(&self.gpu, memory, &mut self.pool)?;
            self.embeddings.insert(shape.clone(), (program, out));
        }
        let Some((program, out)) = self.embeddings.get(&shape) else {
            return Err(Error::shape("explain", "no plan of the embeddings"));
        };
        memory.write(&self.gpu, *block, 0, words)?;
        program.run(&self.gpu, memory)?;
        program.read(&self.gpu, memory, *out)
    }

    /// All scores at some points of the line, as many as a batch has rows or fewer, and the gradients of each
    /// part there.
    fn pass(
        &mut self,
        layout: &Layout,
        words: &mut [u32],
        parts: &[Option<Part>],
        shares: &[f64],
    ) -> Result<Said> {
        self.prepare(layout)?;
        let Device { memory, block, embedded, rows, .. } = &self.device;
        let Some((program, vars)) = self.programs.get(&layout.shape()) else {
            return Err(Error::shape("explain", "no plan of this row"));
        };
        // What fills the batch is the row itself.
        let line = || (0..*rows).map(|i| (i, shares.get(i).copied().unwrap_or(1.0)));
        for (part, place) in parts.iter().zip(&layout.streams) {
            let Some(part) = part else { continue };
            for (i, share) in line() {
                let (start, values) = part.at(i, share);
                let to = words[place.values_at + start..].iter_mut();
                to.zip(values).for_each(|(word, value)| *word = value.to_bits());
            }
        }
        if let (Some((space, columns)), Some(Some(part))) = (embedded, parts.last()) {
            let tokens = layout.tokens.as_ref().map_or(0, |t| t.rows);
            let mut all = vec![0.0; tokens * columns];
            for (i, share) in line() {
                let (start, values) = part.at(i, share);
                all[start..].iter_mut().zip(values).for_each(|(to, value)| *to = value);
            }
            memory.write_f32(&self.gpu, *space, 0, &all)?;
        }
        memory.write(&self.gpu, *block, 0, words)?;
        program.run(&self.gpu, memory)?;
        let read = |var: &Var| program.read(&self.gpu, memory, *var);
        let scores = read(&vars.scores)?;
        let scores = scores.chunks(scores.len() / rows).take(shares.len());
        let gradients = vars.streams.iter().chain([&vars.tokens]);
        let gradients = gradients.map(|var| var.as_ref().map(read).transpose());
        Ok((scores.map(<[f32]>::to_vec).collect(), gradients.collect::<Result<_>>()?))
    }

    /// The program of the gradients over batches of a layout.
    fn prepare(&mut self, layout: &Layout) -> Result<()> {
        if self.programs.contains_key(&layout.shape()) {
            return Ok(());
        }
        let Device { params, memory, block, embedded, weights, .. } = &self.device;
        let mut tape = Tape::new();
        let place = (layout, *block);
        let vars = self.model.differentiate(&mut tape, params, place, *embedded, *weights)?;
        let plan = tape.plan(self.gpu.caps())?.tune(&self.gpu, false)?;
        let program = plan.prepare(&self.gpu, memory, &mut self.pool)?;
        self.programs.insert(layout.shape(), (program, vars));
        Ok(())
    }

    /// What the modalities contribute, by their integrals.
    fn shares(
        &self,
        split: SplitName,
        row: usize,
        layout: &Layout,
        attributions: &[Vec<f64>],
    ) -> Vec<Share> {
        let mut all = Vec::new();
        if let (Some(values), Some((_, columns))) = (attributions.last(), self.device.embedded) {
            let steps: Vec<f64> = values.chunks(columns).map(|c| c.iter().sum()).collect();
            let words = self.words(split, row, &steps);
            let share = steps.iter().sum();
            let modality = Modality::Text;
            let (features, values) = (Vec::new(), Vec::new());
            all.push(Share { modality, share, steps, features, words, values });
        }
        for (place, values) in layout.streams.iter().zip(attributions) {
            // Columns past the data belong to the upload.
            let values: Vec<f64> = values
                .chunks(place.width)
                .flat_map(|step| step[..place.dim].iter().copied())
                .collect();
            let steps: Vec<f64> = values.chunks(place.dim).map(|s| s.iter().sum()).collect();
            let of = |k: usize| values.iter().skip(k).step_by(place.dim).sum();
            let names = self.data.feature_names(place.modality);
            let names = names.filter(|names| names.len() == place.dim);
            let name = |k: usize| names.map_or_else(|| format!("column {k}"), |n| n[k].clone());
            let features = (0..place.dim).map(|k| Feature { name: name(k), share: of(k) });
            let features = if steps.is_empty() { Vec::new() } else { features.collect() };
            let text = self.text(split, row).filter(|_| place.modality == Modality::Text);
            let words = words::of_steps(text.unwrap_or_default(), &steps);
            let (modality, share) = (place.modality, steps.iter().sum());
            all.push(Share { modality, share, steps, features, words, values });
        }
        all.sort_by_key(|share| share.modality);
        all
    }

    /// The words of a row's tokens, of which `pieces` are the shares.
    fn words(&self, split: SplitName, row: usize, pieces: &[f64]) -> Vec<Word> {
        let text = self.data.text();
        let Some(tokens) = text.and_then(|text| text.tokens.split(split)) else {
            return Vec::new();
        };
        let raw = text.is_some_and(|text| text.tokens.source == "raw_text");
        let sentence = self.text(split, row).filter(|_| raw);
        words::of_tokens(self.tokenizer.as_ref(), sentence, tokens.row(row).0, pieces)
    }
}

impl Device {
    fn new(
        gpu: &Gpu,
        model: &Model,
        data: &Dataset,
        weights: &Weights,
        rows: usize,
    ) -> Result<Device> {
        let caps = gpu.caps();
        let mut spaces = Spaces::new();
        let specs = model.params(false, Params::largest(caps.max_binding));
        let params = Params::new(specs, &[], &mut spaces, caps.max_binding, false)?;
        // Room for copies of the longest row.
        let text = data.text().filter(|_| model.bert().is_some());
        let tokens = text.map_or(0, |t| packed_rows(std::iter::repeat_n(t.tokens.longest(), rows)));
        let steps = model.streams().iter().map(|s| s.steps).collect();
        let layout = model.layout(&BatchShape { rows, tokens, steps });
        let block = spaces.declare("batch", layout.words);
        let embedded = model.bert().map(|bert| {
            let columns = bert.shape.hidden;
            (spaces.declare("embedded", tokens * columns), columns)
        });
        let scores = model.width(OutputKind::Score);
        let weights_at = spaces.declare("weights", scores);
        let largest = spaces.iter().map(|(name, words)| (words as u64 * 4, name)).max();
        if let Some((bytes, name)) = largest.filter(|(bytes, _)| *bytes > caps.max_binding) {
            return Err(Error::OutOfMemory {
                what: name.to_string(),
                bytes,
                advice: format!("one binding of {} holds {}", caps.name, caps.max_binding),
            });
        }
        let mut tape = Tape::new();
        model.differentiate(&mut tape, &params, (&layout, block), embedded, weights_at)?;
        tape.plan(caps)?;
        let memory = Memory::allocate(gpu, &spaces)?;
        params.upload(gpu, &memory, weights)?;
        memory.write_step(gpu, &Step::default())?;
        let weights = weights_at;
        Ok(Device { params, memory, block, embedded, weights, scores, rows })
    }
}
