//! Random numbers that are the same on every platform for the same key.

use rand::Rng as _;
use rand_pcg::Pcg64;

/// A Pcg64 keyed by a few integers.
pub(crate) struct Rng(Pcg64);

impl Rng {
    /// A generator whose sequence depends on every part of `key`, and on nothing else.
    pub(crate) fn keyed(key: &[u64]) -> Self {
        // Neighbouring seeds give correlated PCG starts; hashing the key first removes that.
        let mut hash = 0x9e37_79b9_7f4a_7c15;
        for &part in key {
            hash = splitmix(hash ^ splitmix(part));
        }
        let mut word = || {
            hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
            u128::from(splitmix(hash))
        };
        let state = word() << 64 | word();
        let stream = word() << 64 | word();
        Rng(Pcg64::new(state, stream))
    }

    /// Uniform in 0..n; `n` must not be 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // Multiply and keep the high word; the bias is below n / 2^64.
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and standard deviation 1 (Box-Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

fn splitmix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_counts() {
        let first = |key: &[u64]| Rng::keyed(key).below(u64::MAX);
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[0]), first(&[0, 0]));
    }

    #[test]
    fn normal_has_unit_moments() {
        let mut rng = Rng::keyed(&[7]);
        let draws: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let square = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.04, "{mean} {square}");
        assert!(draws.iter().all(|x| x.is_finite()));
    }
}
