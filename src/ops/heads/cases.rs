//! Calls of the heads' kernels, for their tests.

use super::{Mask, Size, Sizes};
use crate::ops::{arg, random};
use crate::plan::{ALIGN_WORDS, Case, CaseArg};

/// Samples, widths of the parts, sizes of the heads, dropouts of the heads.
type Try = (usize, &'static [usize], &'static [usize], &'static [f32]);

/// Around the edges of every family's blocks: 4 and 8 samples, 32 and 64 outputs, 256 inputs.
const TRIES: [Try; 12] = [
    (1, &[1], &[1], &[0.0]),
    (1, &[4], &[4, 8], &[0.0, 0.0]),
    (3, &[5, 2, 4], &[7, 3, 2, 5], &[0.2, 0.1, 0.0, 0.3]),
    (7, &[12, 8], &[36, 4, 16], &[0.3, 0.0, 0.5]),
    (8, &[32, 16, 32], &[32, 32, 16, 32], &[0.0, 0.1, 0.1, 0.0]),
    (9, &[36, 4, 28], &[28, 36, 8, 4], &[0.1, 0.0, 0.2, 0.4]),
    (17, &[33, 31], &[65, 9, 2], &[0.0, 0.3, 0.0]),
    (16, &[256, 4, 8], &[64, 32, 4, 8], &[0.0, 0.1, 0.0, 0.0]),
    (65, &[20, 12, 4], &[16, 12, 20, 4], &[0.1, 0.1, 0.0, 0.0]),
    (66, &[9, 3], &[5], &[0.2]),
    (2, &[768, 768, 768], &[68, 8, 4, 4], &[0.0, 0.0, 0.2, 0.0]),
    (3, &[6], &[516, 520], &[0.0, 0.5]),
];

/// A call's sizes, where everything is in ACTS, its words, and the length of its weights.
struct Setup {
    name: String,
    p: Sizes,
    places: [usize; 2],
    masks: Vec<Mask>,
    starts: Vec<u32>,
    params: usize,
}

impl Setup {
    fn new((n, widths, list, dropouts): Try) -> Self {
        let all = widths.iter().sum();
        let inputs = std::iter::once(all).chain(widths.iter().copied());
        let heads = list.iter().zip(inputs).map(|(size, inputs)| Size { inputs, size: *size });
        let p = Sizes { n, widths: widths.to_vec(), heads: heads.collect() };
        let (mut starts, mut params) = (Vec::new(), 0_usize);
        for h in &p.heads {
            for len in [h.size * h.inputs, h.size, h.size * h.size, h.size, h.size, 1] {
                starts.push(params as u32);
                params = (params + len).next_multiple_of(ALIGN_WORDS);
            }
        }
        let end = (n * p.width()).next_multiple_of(ALIGN_WORDS);
        let mask = |(k, d): (usize, &f32)| Mask((*d > 0.0).then_some((k as u32 + 3, *d)));
        let masks = dropouts.iter().enumerate().map(mask).collect();
        let name = format!("{n} x {widths:?} to {list:?}");
        Setup { name, p, places: [end, 2 * end], masks, starts, params }
    }

    fn words(&self, accumulate: u32) -> Vec<u32> {
        self.p.words(self.places.map(|p| p as u32), accumulate, &self.masks, &self.starts)
    }

    /// Weights of a size that keeps every layer's results near those of its inputs.
    fn params(&self) -> Option<CaseArg> {
        let most = self.p.heads.iter().map(|h| h.inputs).max().unwrap_or(1) as f32;
        let scale = (3.0 / most.min(256.0)).sqrt().min(1.0);
        Some(CaseArg::F(random(4, self.params).into_iter().map(|v| v * scale).collect()))
    }

    fn acts(&self, seed: u64) -> Option<CaseArg> {
        arg(seed, self.places[1] + self.p.n * self.p.inputs())
    }

    fn case(&self, words: Vec<u32>, args: Vec<Option<CaseArg>>, flops: u64) -> Case {
        Case::new(self.name.clone(), words, args).within(2e-5).flops(flops)
    }
}

pub(super) fn forward() -> Vec<Case> {
    let case = |one: &Try| {
        let s = Setup::new(*one);
        let part = |k: usize| s.p.widths.get(k).and_then(|w| arg(k as u64, s.p.n * w));
        let scores = arg(6, s.p.n * s.p.heads.len());
        let args = vec![part(0), part(1), part(2), s.params(), s.acts(5), scores];
        s.case(s.words(0), args, 2 * s.p.products())
    };
    TRIES.iter().map(case).collect()
}

pub(super) fn backward() -> Vec<Case> {
    let case = |(i, one): (usize, &Try)| {
        let s = Setup::new(*one);
        let (n, width) = (s.p.n, s.p.width());
        // Every other call has both gradients, one in four none of the scores; one in three leaves
        // a part out, the bits below say which of the others are added to.
        let dscores = if i % 4 == 3 { None } else { arg(1, n * s.p.heads.len()) };
        let dfeatures = if i % 2 == 0 { None } else { arg(2, n * width) };
        let part = |k: usize| {
            let width = s.p.widths.get(k).filter(|_| i % 3 != 2 || k != i / 3 % 3)?;
            arg(10 + k as u64, n * width)
        };
        let mut args = vec![dscores, dfeatures, s.acts(3), s.params(), arg(5, 2 * n * width)];
        args.extend((0..3).map(part));
        s.case(s.words(i as u32 * 3 % 8), args, 2 * s.p.products())
    };
    TRIES.iter().enumerate().map(case).collect()
}

pub(super) fn weights() -> Vec<Case> {
    let case = |(i, one): (usize, &Try)| {
        let s = Setup::new(*one);
        let dscores = if i % 4 == 3 { None } else { arg(2, s.p.n * s.p.heads.len()) };
        let dz = arg(1, 2 * s.p.n * s.p.width());
        s.case(s.words(0), vec![s.acts(3), dz, dscores, arg(4, s.params)], 2 * s.p.products())
    };
    TRIES.iter().enumerate().map(case).collect()
}
