//! What the integration tests share: fixtures, data files, devices, comparisons.

#![allow(dead_code)]

use modalign::data::{Dataset, SplitName};
use modalign::gpu::{Family, GpuOptions};
use modalign::nn::Weights;
use modalign::plan::Spaces;
use modalign::recipe::Config;
use modalign::train::{Session, StepRecord};
use modalign::{Gpu, Result, Tape, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

// ---- devices ----------------------------------------------------------------------------------

/// A device of its own.
pub fn open(family: Option<Family>) -> Gpu {
    Gpu::with(&GpuOptions { family, quiet: true, ..Default::default() }).expect("an adapter")
}

/// The device that the tests of one program share, so that each kernel is compiled once.
pub fn gpu() -> &'static Gpu {
    static SHARED: OnceLock<Gpu> = OnceLock::new();
    SHARED.get_or_init(|| open(None))
}

/// The device of a family that the tests of one program share. Only for what leaves it whole.
pub fn of(family: Family) -> &'static Gpu {
    static SHARED: [OnceLock<Gpu>; 3] = [const { OnceLock::new() }; 3];
    let place = match family {
        Family::Tiled => 0,
        Family::Plain => 1,
        Family::Wide(_) => 2,
    };
    SHARED[place].get_or_init(|| open(Some(family)))
}

/// Runs what `build` records on one input and reads its results.
pub fn computed(
    gpu: &Gpu,
    shape: &[usize],
    values: &[f32],
    build: impl Fn(&mut Tape, Var) -> Result<Vec<Var>>,
) -> Result<Vec<Vec<f32>>> {
    let (mut tape, mut spaces) = (Tape::new(), Spaces::new());
    let space = spaces.declare("x", values.len());
    let x = tape.input("x", shape, space, 0);
    let results = build(&mut tape, x)?;
    results.iter().for_each(|v| tape.keep(*v));
    let (program, memory) = tape.compile(gpu, &spaces)?;
    let words: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
    memory.write(gpu, space, 0, &words)?;
    program.run(gpu, &memory)?;
    results.iter().map(|v| program.read(gpu, &memory, *v)).collect()
}

// ---- safetensors ------------------------------------------------------------------------------

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub bytes: Vec<u8>,
}

/// A safetensors file in memory.
#[derive(Clone, Debug, Default)]
pub struct TensorFile {
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: HashMap<String, String>,
}

impl TensorFile {
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
        let tensors = file.tensors().into_iter().map(|(name, view)| {
            let (shape, dtype) = (view.shape().to_vec(), view.dtype());
            (name, Tensor { shape, dtype, bytes: view.data().to_vec() })
        });
        TensorFile {
            tensors: tensors.collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        }
    }

    /// A file of `tests/fixtures`.
    pub fn fixture(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::read(&root.join("tests/fixtures").join(name))
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor '{name}'"))
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.get(name).shape
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.get(name).dtype, Dtype::F32, "{name}");
        let words = self.get(name).bytes.chunks_exact(4);
        words.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub fn i32(&self, name: &str) -> Vec<i32> {
        assert_eq!(self.get(name).dtype, Dtype::I32, "{name}");
        let words = self.get(name).bytes.chunks_exact(4);
        words.map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub fn put_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(name, Dtype::F32, shape, bytes);
    }

    pub fn put_i32(&mut self, name: &str, shape: &[usize], values: &[i32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(name, Dtype::I32, shape, bytes);
    }

    pub fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.insert(name.into(), Tensor { shape: shape.to_vec(), dtype, bytes });
    }

    pub fn save(&self, path: &Path) {
        let views = self.tensors.iter().map(|(name, t)| {
            (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect(name))
        });
        let bytes = safetensors::serialize(views, None).expect("safetensors");
        std::fs::write(path, bytes).expect("write");
    }

    /// Tensors whose names begin with `prefix`, without it.
    pub fn under(&self, prefix: &str) -> Vec<String> {
        let names = self.tensors.keys().filter_map(|n| n.strip_prefix(prefix));
        names.map(str::to_string).collect()
    }

    /// Those tensors as parameters.
    pub fn weights(&self, prefix: &str) -> Weights {
        let mut weights = Weights::default();
        for name in self.under(prefix) {
            let full = format!("{prefix}{name}");
            weights.insert(&name, self.shape(&full).to_vec(), self.f32(&full));
        }
        weights
    }
}

// ---- data sets --------------------------------------------------------------------------------

/// What a made-up modality looks like: steps (1 makes a vector without lengths) and features.
pub type Shape = (usize, usize);

/// A made-up data set: every split has the given rows; a stream is there where it has a shape.
#[derive(Clone, Debug)]
pub struct Made {
    pub rows: [usize; 3],
    pub text: Option<Shape>,
    pub audio: Option<Shape>,
    pub vision: Option<Shape>,
    pub seed: u64,
}

impl Default for Made {
    fn default() -> Self {
        Made {
            rows: [26, 10, 9],
            text: Some((1, 12)),
            audio: Some((6, 5)),
            vision: Some((5, 3)),
            seed: 1,
        }
    }
}

impl Made {
    pub fn tensors(&self) -> TensorFile {
        let mut file = TensorFile::default();
        for (split, rows) in SplitName::ALL.into_iter().zip(self.rows) {
            if rows == 0 {
                continue;
            }
            let seed = self.seed * 100 + split.index() as u64 * 10;
            let labels: Vec<f32> =
                modalign::ops::random(seed, rows).iter().map(|v| v * 2.5).collect();
            for (i, (name, shape)) in
                [("text", self.text), ("audio", self.audio), ("vision", self.vision)]
                    .into_iter()
                    .enumerate()
            {
                let Some((steps, dim)) = shape else { continue };
                let mut values = modalign::ops::random(seed + 1 + i as u64, rows * steps * dim);
                for (at, value) in values.iter_mut().enumerate() {
                    *value += 0.3 * labels[at / (steps * dim)];
                }
                if steps > 1 {
                    // Every length from 1 to the number of steps comes up.
                    let lengths: Vec<i32> =
                        (0..rows).map(|r| ((r * 5 + i) % steps) as i32 + 1).collect();
                    for (at, value) in values.iter_mut().enumerate() {
                        let (row, step) = (at / (steps * dim), at / dim % steps);
                        if step >= lengths[row] as usize {
                            *value = 0.0;
                        }
                    }
                    file.put_i32(&format!("{split}.{name}_lengths"), &[rows], &lengths);
                }
                file.put_f32(&format!("{split}.{name}"), &[rows, steps, dim], &values);
            }
            file.put_f32(&format!("{split}.regression_labels"), &[rows], &labels);
        }
        file
    }

    pub fn save(&self, folder: &Path) -> PathBuf {
        let path = folder.join("data.safetensors");
        self.tensors().save(&path);
        path
    }

    /// Opens it; the folder may go afterwards, the file stays mapped.
    pub fn open(&self) -> Arc<Dataset> {
        let folder = tempfile::tempdir().expect("a folder");
        Arc::new(Dataset::open(self.save(folder.path())).expect("a data set"))
    }
}

// ---- configurations ---------------------------------------------------------------------------

/// A small model over the preset `mosi`, and settings over that.
pub fn config(settings: &[&str]) -> Config {
    let small = [
        "train.batch_size=8",
        "train.accumulate=2",
        "train.max_epochs=2",
        "model.hidden=6",
        "model.out=5",
        "model.post=7",
        "align.dim=4",
        "align.weight=0.1",
    ];
    let all: Vec<String> = small.iter().chain(settings).map(ToString::to_string).collect();
    Config::build("mosi", None, &all).unwrap_or_else(|e| panic!("{e}"))
}

/// An initialised session for training.
pub fn session(gpu: &Gpu, config: &Config, data: &Arc<Dataset>) -> Session {
    let mut session = Session::new(gpu, config, data.clone(), None, true)
        .unwrap_or_else(|e| panic!("no session: {e}"));
    session.initialise().expect("initialised");
    session
}

/// Trains epochs in the session's own order.
pub fn run(session: &mut Session, epochs: std::ops::RangeInclusive<usize>) -> Vec<StepRecord> {
    let mut records = Vec::new();
    for epoch in epochs {
        let order = session.order(epoch);
        train_epoch(session, epoch, order, &mut records).unwrap_or_else(|e| panic!("{e}"));
    }
    records
}

/// Trains one epoch in a given order, and keeps its records.
pub fn train_epoch(
    session: &mut Session,
    epoch: usize,
    order: Vec<u32>,
    records: &mut Vec<StepRecord>,
) -> Result<()> {
    session.train_epoch(epoch, order, |record, _| {
        records.push(record);
        Ok(())
    })
}

// ---- comparisons ------------------------------------------------------------------------------

/// The exact bits of weights, by name.
pub fn bits(weights: &Weights) -> Vec<(String, Vec<u32>)> {
    weights
        .iter()
        .map(|(name, _, values)| (name.to_string(), values.iter().map(|v| v.to_bits()).collect()))
        .collect()
}

/// The exact bits of rows of floats.
pub fn bits_of(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
}

/// Largest difference, relative to the largest element of `want`.
pub fn of_largest(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-12_f64, |m, w| m.max(f64::from(w.abs())));
    largest_gap(got, want) / scale
}

/// Largest absolute difference; infinite where something is NaN.
pub fn largest_gap(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).fold(0.0, |m, (g, w)| {
        let gap = (f64::from(*g) - f64::from(*w)).abs();
        if gap.is_nan() { f64::INFINITY } else { m.max(gap) }
    })
}
