//! What the tests of BERT share: the fixtures that `tests/fixtures/golden_bert.py` made.

// Every test file uses its own part.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// `tests/fixtures/NAME`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The folder with all-MiniLM-L6-v2 that `MODALIGN_BERT` names; says so where there is none.
pub fn minilm() -> Option<PathBuf> {
    let folder = std::env::var_os("MODALIGN_BERT").filter(|folder| !folder.is_empty());
    if folder.is_none() {
        // Past the test harness, which hides what a passing test prints.
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: set MODALIGN_BERT (see .ci/bert.sh)");
    }
    folder.map(PathBuf::from)
}

/// The folder with all-mpnet-base-v2 that `MODALIGN_MPNET` names; says so where there is none.
pub fn mpnet() -> Option<PathBuf> {
    let folder = std::env::var_os("MODALIGN_MPNET").filter(|folder| !folder.is_empty());
    if folder.is_none() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "skipped: set MODALIGN_MPNET (see .ci/mpnet.sh)");
    }
    folder.map(PathBuf::from)
}

/// A fixture's bytes; tensors are looked up by name and have to be there.
pub struct Fixture(Vec<u8>);

impl Fixture {
    /// Reads `tests/fixtures/NAME.safetensors`.
    pub fn open(name: &str) -> Fixture {
        Fixture(std::fs::read(path(name).with_extension("safetensors")).unwrap())
    }

    fn words(&self, name: &str, dtype: Dtype) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(view.dtype(), dtype, "{name}");
        view.data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// A float tensor, row-major.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.words(name, Dtype::F32).into_iter().map(f32::from_bits).collect()
    }

    /// An integer tensor whose values are not negative.
    pub fn u32(&self, name: &str) -> Vec<u32> {
        self.words(name, Dtype::I32)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
    }

    /// The settings in the file's header.
    pub fn config(&self) -> Value {
        let (_, header) = SafeTensors::read_metadata(&self.0).unwrap();
        serde_json::from_str(&header.metadata().as_ref().unwrap()["config"]).unwrap()
    }
}

/// Element `i` of the `k`-th fixed vector of +1 and -1, `signs` in golden_bert.py.
fn sign(k: u32, i: u32) -> f64 {
    let mut x = i.wrapping_mul(0x9e37_79b9).wrapping_add((k + 1).wrapping_mul(0x85eb_ca6b));
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^= x >> 16;
    1.0 - 2.0 * f64::from(x & 1)
}

/// A gradient's norm and its products with the 8 vectors of [`sign`], a row of `summary` in
/// minilm_golden.
pub fn summary(gradient: &[f32]) -> [f64; 9] {
    let mut out = [0.0; 9];
    for (i, &g) in gradient.iter().enumerate() {
        let g = f64::from(g);
        out[0] += g * g;
        for k in 0..8 {
            out[k + 1] += sign(k as u32, i as u32) * g;
        }
    }
    out[0] = out[0].sqrt();
    out
}
