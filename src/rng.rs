//! Random numbers that are the same on every platform for the same key.

/// PCG XSL RR 128/64 (Melissa O'Neill, HMC-CS-2014-0905), numpy's `PCG64`: a linear congruential
/// state, its two halves folded into one and rotated.
struct Pcg64 {
    state: u128,
    /// Odd; tells streams apart.
    increment: u128,
}

impl Pcg64 {
    fn new(state: u128, stream: u128) -> Self {
        let increment = stream << 1 | 1;
        let mut pcg = Pcg64 { state: state.wrapping_add(increment), increment };
        pcg.step();
        pcg
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }
}

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
    #[cfg_attr(not(feature = "data"), allow(dead_code))]
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // Multiply and keep the high word; the bias is below n / 2^64.
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and standard deviation 1 (Box-Muller).
    #[cfg_attr(not(feature = "data"), allow(dead_code))]
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
    fn the_generator_is_the_published_one() {
        // What pcg64 of the reference implementation gives for state 42 and stream 54
        // (pcg-cpp's check-pcg64.out, round 1).
        let mut pcg = Pcg64::new(42, 54);
        let found: Vec<u64> = (0..6).map(|_| pcg.next_u64()).collect();
        assert_eq!(
            found,
            [
                0x86b1_da1d_7206_2b68,
                0x1304_aa46_c985_3d39,
                0xa367_0e9e_0dd5_0358,
                0xf909_0e52_9a7d_ae00,
                0xc85b_9fd8_3799_6f2c,
                0x6061_21f8_e391_9196
            ]
        );
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
