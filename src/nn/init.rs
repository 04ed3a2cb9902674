//! Initial values: PyTorch's defaults, from a stream of random numbers of each parameter's own.

use crate::rng::Rng;

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in ± this: 1/√in for a linear layer, 1/√hidden for an LSTM.
    Uniform(f32),
    /// Normal with a mean of 0 and this deviation.
    Normal(f32),
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

impl Init {
    /// `len` values. They depend on the seed and the name alone, so that a model with one part
    /// more begins the other parts the same.
    pub fn values(self, seed: u64, name: &str, len: usize) -> Vec<f32> {
        match self {
            Init::Zeros => vec![0.0; len],
            Init::Ones => vec![1.0; len],
            Init::Uniform(bound) => {
                let (mut rng, bound) = (stream(seed, name), f64::from(bound));
                (0..len).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect()
            }
            Init::Normal(deviation) => {
                let (mut rng, deviation) = (stream(seed, name), f64::from(deviation));
                (0..len).map(|_| (rng.normal() * deviation) as f32).collect()
            }
        }
    }
}

/// The random numbers of a parameter.
fn stream(seed: u64, name: &str) -> Rng {
    let mut key = vec![seed];
    key.extend(name.bytes().map(u64::from));
    Rng::keyed(&key)
}
