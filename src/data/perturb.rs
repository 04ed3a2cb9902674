//! What can go wrong with modalities between training and use: a camera that is off, a noisy microphone, a
//! recording that breaks off, rows of which only a part was recorded.

use super::batch::{Layout, StreamLayout};
use super::lacking::taken;
use super::normalize::FeatureStats;
use super::tokens::Tokenised;
use super::{Modality, SplitName, Standardise};
use crate::error::Result;
use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Damage {
    /// Nothing is known: one step that holds the training mean of every feature; of a sentence,
    /// its two ends.
    Dropped,
    /// Normal noise of so many standard deviations of the feature in training. As that leaves
    /// 1/(1 + s²) of the variance to the signal, of a sentence's tokens the share s²/(1 + s²) is
    /// left out.
    Noise(f64),
    /// The second half is missing.
    Truncated,
    /// All others are dropped.
    Alone,
    /// Of each row each modality is dropped with this chance, but never all.
    Missing(f64),
}

/// Damage to one modality, or to any.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perturbation {
    /// Whose; none where it is any.
    pub modality: Option<Modality>,
    /// What.
    pub damage: Damage,
}

impl std::fmt::Display for Perturbation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let modality = self.modality.map_or("any", Modality::name);
        match self.damage {
            Damage::Dropped => write!(f, "{modality} dropped"),
            Damage::Noise(level) => write!(f, "{modality} noise {level}"),
            Damage::Truncated => write!(f, "{modality} truncated"),
            Damage::Alone => write!(f, "{modality} alone"),
            Damage::Missing(rate) => write!(f, "{modality} missing {:.0} %", 100.0 * rate),
        }
    }
}

impl Perturbation {
    /// Of one modality.
    pub fn of(modality: Modality, damage: Damage) -> Self {
        Perturbation { modality: Some(modality), damage }
    }

    /// Of every modality at such a rate; see [`Damage::Missing`].
    pub fn missing(rate: f64) -> Self {
        Perturbation { modality: None, damage: Damage::Missing(rate) }
    }

    /// A generator for one row, whatever batch it comes in.
    fn rng(&self, row: usize) -> Rng {
        Rng::keyed(&[0x9e27_0b5e, self.modality.map_or(u64::MAX, Modality::key), row as u64])
    }

    /// Which of `all` that a model reads a row loses altogether.
    fn gone(&self, row: usize, all: &[Modality]) -> Vec<Modality> {
        let own = |m: &&Modality| Some(**m) == self.modality;
        match self.damage {
            Damage::Dropped => all.iter().filter(own).copied().collect(),
            Damage::Alone => all.iter().filter(|m| !own(m)).copied().collect(),
            Damage::Missing(rate) => {
                let mut rng = self.rng(row);
                taken(rate, all.iter().map(|m| (rng.uniform(), *m)).collect()).collect()
            }
            Damage::Noise(_) | Damage::Truncated => Vec::new(),
        }
    }

    /// Whether a block has this modality as a stream of features, and enough of it to damage.
    pub fn applies(&self, layout: &Layout) -> bool {
        let stream = layout.streams.iter().find(|s| Some(s.modality) == self.modality);
        stream.is_some_and(|s| self.damage != Damage::Truncated || s.steps > 1)
    }

    /// Damages the features of a filled block for a model that reads `all`. `stats` has of a modality the
    /// training statistics as the file has it, and `standardise` says which modalities a block holds
    /// standardised.
    pub fn apply<'a>(
        &self,
        all: &[Modality],
        layout: &Layout,
        standardise: Option<&Standardise>,
        stats: impl Fn(Modality) -> Option<&'a FeatureStats>,
        words: &mut [u32],
    ) {
        let rows = &words[layout.rows_at..][..layout.batch];
        let gone: Vec<Vec<Modality>> =
            rows.iter().map(|row| self.gone(*row as usize, all)).collect();
        for place in &layout.streams {
            let touched = |i: usize| gone[i].contains(&place.modality);
            let own = Some(place.modality) == self.modality;
            let Some(stats) = stats(place.modality) else { continue };
            let standard = standardise.is_some_and(|s| s.stats(place.modality).is_some());
            // What a value of the block is in training: its mean and its deviation.
            let usual =
                |d: usize| if standard { (0.0, 1.0) } else { (stats.mean[d], stats.std[d]) };
            for i in (0..layout.batch).filter(|i| own || touched(*i)) {
                let damage = if touched(i) { Damage::Dropped } else { self.damage };
                self.damage_row((layout, place), i, damage, usual, words);
            }
        }
        for (modality, at) in &layout.presence {
            let lost = (0..layout.batch).filter(|i| gone[*i].contains(modality));
            lost.for_each(|i| words[at + i] = 0.0_f32.to_bits());
        }
    }

    /// Damages row `i` of a stream of a block.
    fn damage_row(
        &self,
        (layout, place): (&Layout, &StreamLayout),
        i: usize,
        damage: Damage,
        usual: impl Fn(usize) -> (f32, f32),
        words: &mut [u32],
    ) {
        let row = words[layout.rows_at + i] as usize;
        let valid = place.lengths_at.map_or(place.steps, |at| words[at + i] as usize);
        let values = place.values_at + i * place.steps * place.width;
        let mut left = valid;
        match damage {
            Damage::Dropped => {
                left = if place.lengths_at.is_some() { 1 } else { valid };
                for (step, d) in cells(place, left) {
                    words[values + step * place.width + d] = usual(d).0.to_bits();
                }
            }
            Damage::Noise(level) => {
                let mut rng = self.rng(row);
                for (step, d) in cells(place, valid) {
                    let word = &mut words[values + step * place.width + d];
                    let noise = level as f32 * usual(d).1 * rng.normal() as f32;
                    *word = (f32::from_bits(*word) + noise).to_bits();
                }
            }
            Damage::Truncated => left = valid.div_ceil(2),
            Damage::Alone | Damage::Missing(_) => {}
        }
        words[values + left * place.width..values + valid * place.width].fill(0);
        if let Some(at) = place.lengths_at {
            words[at + i] = left as u32;
        }
    }

    /// The tokens of a split with this damage, for a model that reads `all`; other splits as they are.
    ///
    /// # Errors
    /// None for tokens that were read.
    pub fn of_tokens(
        &self,
        all: &[Modality],
        tokens: &Tokenised,
        split: SplitName,
    ) -> Result<Tokenised> {
        let mut damaged = tokens.clone();
        damaged.keep(split, |row, tokens| {
            let mut rng = self.rng(row);
            let last = tokens - 1;
            let half = 1 + last.saturating_sub(1).div_ceil(2);
            let gone = self.gone(row, all).contains(&Modality::Text);
            let own = self.modality == Some(Modality::Text);
            let mut keep = |i: usize| {
                let end = i == 0 || i == last;
                end || !gone
                    && match self.damage {
                        Damage::Noise(s) if own => rng.uniform() >= s * s / (1.0 + s * s),
                        Damage::Truncated if own => i < half,
                        _ => true,
                    }
            };
            (0..=last).filter(|i| keep(*i)).collect()
        })?;
        Ok(damaged)
    }
}

/// Every valid step with every feature of it.
fn cells(place: &StreamLayout, steps: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let dim = place.dim;
    (0..steps).flat_map(move |step| (0..dim).map(move |d| (step, d)))
}

#[cfg(test)]
mod tests {
    use super::super::TokenRows;
    use super::super::testkit::small;
    use super::super::{Dataset, SplitName, StreamSpec, fill};
    use super::*;

    /// The audio of the test file's three rows (4 steps of 5), lengths 4, 2, 1, under a damage.
    fn damaged(damage: Damage, standardised: bool) -> (Vec<f32>, Vec<u32>) {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let stats = Standardise::fit(train, &[Modality::Audio]).unwrap();
        let used = standardised.then_some(&stats);
        let spec = StreamSpec::of(&train.stream(Modality::Audio).unwrap());
        let layout = Layout::new(3, &[spec], None);
        let mut words = Vec::new();
        fill(train, None, &[0, 1, 2], &layout, used, &mut words).unwrap();
        let perturbation = Perturbation::of(Modality::Audio, damage);
        assert!(perturbation.applies(&layout));
        perturbation.apply(&[Modality::Audio], &layout, used, |m| stats.stats(m), &mut words);
        let s = layout.streams[0];
        let value = |(i, t, d): (usize, usize, usize)| {
            f32::from_bits(words[s.values_at + (i * s.steps + t) * s.width + d])
        };
        let all = (0..3).flat_map(|i| (0..4).flat_map(move |t| (0..5).map(move |d| (i, t, d))));
        let at = s.lengths_at.unwrap();
        (all.map(value).collect(), words[at..at + 3].to_vec())
    }

    #[test]
    fn a_dropped_modality_is_one_mean_step() {
        let (values, lengths) = damaged(Damage::Dropped, true);
        assert_eq!(lengths, [1, 1, 1]);
        assert!(values.iter().all(|v| *v == 0.0));
        let (values, _) = damaged(Damage::Dropped, false);
        let (first, rest) = values[..20].split_at(5);
        assert!(first.iter().all(|v| *v > 1.0) && rest.iter().all(|v| *v == 0.0));
        assert_eq!(first, &values[20..25], "every row the same");
    }

    #[test]
    fn half_of_a_truncated_row_is_left() {
        let (values, lengths) = damaged(Damage::Truncated, false);
        assert_eq!(lengths, [2, 1, 1]);
        assert_eq!(values[5..10], [5.0, 6.0, 7.0, 8.0, 9.0]);
        assert!(values[10..20].iter().all(|v| *v == 0.0));
    }

    #[test]
    fn noise_is_in_deviations_and_leaves_padding_alone() {
        let (clean, _) = damaged(Damage::Noise(0.0), true);
        let (noisy, lengths) = damaged(Damage::Noise(0.5), true);
        assert_eq!(lengths, [4, 2, 1]);
        let moved: Vec<f32> = clean.iter().zip(&noisy).map(|(a, b)| b - a).collect();
        let valid: Vec<f32> = [&moved[..20], &moved[20..30], &moved[40..45]].concat();
        assert!(valid.iter().all(|d| *d != 0.0 && d.abs() < 2.5));
        let spread = (valid.iter().map(|d| d * d).sum::<f32>() / valid.len() as f32).sqrt();
        assert!((0.3..0.7).contains(&spread), "{spread}");
        assert!(moved[30..40].iter().chain(&moved[45..]).all(|d| *d == 0.0), "padding");
        assert_eq!(noisy, damaged(Damage::Noise(0.5), true).0, "the same every time");
    }

    #[test]
    fn sentences_keep_their_ends() {
        let mut rows = TokenRows::default();
        rows.push(&[101, 1, 2, 3, 4, 5, 102], &[0; 7]).unwrap();
        rows.push(&[101, 102], &[0; 2]).unwrap();
        let tokens =
            Tokenised { splits: [None, None, Some(rows)], source: "raw_text", digest: "x".into() };
        let under = |damage| {
            let p = Perturbation::of(Modality::Text, damage);
            let all = p.of_tokens(&[Modality::Text], &tokens, SplitName::Test).unwrap();
            let rows = all.splits[2].clone().unwrap();
            assert_eq!(rows.row(1).0, [101, 102]);
            rows.row(0).0.to_vec()
        };
        assert_eq!(under(Damage::Dropped), [101, 102]);
        assert_eq!(under(Damage::Truncated), [101, 1, 2, 3, 102]);
        assert_eq!(under(Damage::Noise(0.0)), [101, 1, 2, 3, 4, 5, 102]);
        let noisy = under(Damage::Noise(1.0));
        assert!(noisy.len() < 7 && noisy.first() == Some(&101) && noisy.last() == Some(&102));
    }
}
