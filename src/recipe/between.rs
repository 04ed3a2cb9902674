//! What a recipe does between epochs: learning rates by what the validation rows say.

use super::config::fail;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What lasts from epoch to epoch beside parameters and states; saved with a run's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What the learning rates of groups are multiplied by; 1 for one that is not there.
    #[serde(default)]
    pub rates: BTreeMap<String, f64>,
    /// Numbers that a recipe has kept, by names of its own.
    #[serde(default)]
    pub numbers: BTreeMap<String, f64>,
}

impl Kept {
    /// Whether nothing was changed and nothing kept.
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.numbers.is_empty()
    }
}

/// The end of an epoch, as a recipe sees it: before the run's state is saved, so that whatever is changed
/// and kept here is there after a stop, too.
#[derive(Debug)]
pub struct EpochEnd<'a> {
    /// The epoch that has ended, from 1.
    pub epoch: usize,
    /// The loss of the validation rows after it; none where there are no such rows.
    pub valid_loss: Option<f64>,
    kept: &'a mut Kept,
}

impl<'a> EpochEnd<'a> {
    /// The end of an epoch, from 1, with what was kept before.
    pub fn new(epoch: usize, valid_loss: Option<f64>, kept: &'a mut Kept) -> Self {
        EpochEnd { epoch, valid_loss, kept }
    }

    /// Multiplies the learning rate of a group from the next step on, beside what its schedule does.
    ///
    /// # Errors
    /// [`Config`](Error::Config): a factor that is negative or no number.
    pub fn scale_lr(&mut self, group: &str, factor: f64) -> Result<()> {
        let rate = self.lr_scale(group) * factor;
        if !(factor >= 0.0 && rate.is_finite()) {
            return Err(Error::Config(format!(
                "the learning rate of group '{group}' cannot be multiplied by {factor} at the end of \
                 epoch {}: give a number from 0 on",
                self.epoch
            )));
        }
        self.kept.rates.insert(group.into(), rate);
        Ok(())
    }

    /// What the learning rate of a group has been multiplied by so far.
    pub fn lr_scale(&self, group: &str) -> f64 {
        self.kept.rates.get(group).copied().unwrap_or(1.0)
    }

    /// A number that was kept under this name.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.kept.numbers.get(name).copied()
    }

    /// Keeps a number for later epochs.
    ///
    /// # Errors
    /// [`Config`](Error::Config): infinity and what is no number, which no saved state holds.
    pub fn keep(&mut self, name: &str, number: f64) -> Result<()> {
        if !number.is_finite() {
            return Err(Error::Config(format!(
                "{number} cannot be kept as '{name}' at the end of epoch {}: give a finite number",
                self.epoch
            )));
        }
        self.kept.numbers.insert(name.into(), number);
        Ok(())
    }
}

/// PyTorch's `ReduceLROnPlateau` in its mode `min`, with its default threshold of 1e-4 of the best loss:
/// once the validation loss has not been better for more than `patience` epochs, learning rates are
/// multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    /// Epochs without improvement that it bears with.
    pub patience: usize,
    /// What learning rates are multiplied by; 1 for no such schedule.
    pub factor: f64,
}

/// None: learning rates stay as they are.
impl Default for Plateau {
    fn default() -> Self {
        Plateau { patience: 10, factor: 1.0 }
    }
}

/// How much better than the best a loss has to be: PyTorch's `threshold`, in its mode `rel`.
const THRESHOLD: f64 = 1e-4;
/// A smaller change of a learning rate is not made: PyTorch's `eps`.
const LEAST: f64 = 1e-8;

impl Plateau {
    /// Checks its range, as `model.plateau`.
    pub(super) fn check(&self) -> Result<()> {
        let good = self.factor > 0.0 && self.factor <= 1.0;
        let wanted = "a number above 0 and at most 1, which leaves it off";
        if good { Ok(()) } else { fail("model.plateau.factor", wanted) }
    }

    /// Takes an epoch's validation loss into account, for groups by name and the learning rate that each
    /// began with. Without validation rows nothing is known, and nothing changes.
    ///
    /// # Errors
    /// A loss that is no finite number.
    pub fn epoch_end(&self, end: &mut EpochEnd<'_>, groups: &[(&str, f64)]) -> Result<()> {
        let Some(loss) = end.valid_loss.filter(|_| self.factor != 1.0) else { return Ok(()) };
        let best = end.number("plateau.best");
        if best.is_none_or(|best| loss < best * (1.0 - THRESHOLD)) {
            end.keep("plateau.best", loss)?;
            return end.keep("plateau.bad_epochs", 0.0);
        }
        let bad = end.number("plateau.bad_epochs").unwrap_or(0.0) + 1.0;
        if bad <= self.patience as f64 {
            return end.keep("plateau.bad_epochs", bad);
        }
        for (group, lr) in groups {
            let before = lr * end.lr_scale(group);
            if before - before * self.factor > LEAST {
                log::info!("epoch {}: the learning rate of {group} × {}", end.epoch, self.factor);
                end.scale_lr(group, self.factor)?;
            }
        }
        end.keep("plateau.bad_epochs", 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learning rates that torch 2's ReduceLROnPlateau gives after each of these losses, from 0.1 on with
    /// patience 1 and factor 0.1: (loss, rate after it).
    const TORCH: [(f64, f64); 12] = [
        (1.0, 0.1),
        (0.9, 0.1),
        // Not better by a ten-thousandth.
        (0.89995, 0.1),
        (0.95, 0.01),
        (0.92, 0.01),
        (0.8, 0.01),
        (0.81, 0.01),
        (0.82, 0.001),
        (0.83, 0.001),
        (0.84, 0.0001),
        (0.7, 0.0001),
        (0.69, 0.0001),
    ];

    #[test]
    fn a_plateau_is_torchs_even_when_it_is_saved_in_between() {
        let plateau = Plateau { patience: 1, factor: 0.1 };
        let mut kept = Kept::default();
        for (i, (loss, rate)) in TORCH.into_iter().enumerate() {
            let mut end = EpochEnd::new(i + 1, Some(loss), &mut kept);
            plateau.epoch_end(&mut end, &[("all", 0.1)]).unwrap();
            let got = 0.1 * end.lr_scale("all");
            assert!((got - rate).abs() < 1e-12, "after epoch {}: {got}, want {rate}", i + 1);
            let text = serde_json::to_string(&kept).unwrap();
            let read: Kept = serde_json::from_str(&text).unwrap();
            assert_eq!(read, kept, "{text}");
            kept = read;
        }
    }

    #[test]
    fn without_validation_rows_or_a_factor_nothing_happens() {
        let mut kept = Kept::default();
        for (loss, factor) in [(None, 0.1), (Some(1.0), 1.0)] {
            for epoch in 1..=30 {
                let plateau = Plateau { patience: 0, factor };
                plateau
                    .epoch_end(&mut EpochEnd::new(epoch, loss, &mut kept), &[("all", 0.1)])
                    .unwrap();
            }
            assert!(kept.is_empty(), "{kept:?}");
        }
    }

    #[test]
    fn a_rate_too_small_to_matter_stays() {
        let (plateau, mut kept) = (Plateau { patience: 0, factor: 0.1 }, Kept::default());
        for epoch in 1..=20 {
            let mut end = EpochEnd::new(epoch, Some(1.0), &mut kept);
            plateau.epoch_end(&mut end, &[("all", 1e-3)]).unwrap();
        }
        // 1e-3 · 0.1⁵ = 1e-8, of which nine tenths are less than 1e-8.
        assert!((kept.rates["all"] - 1e-5).abs() < 1e-12, "{kept:?}");
    }

    #[test]
    fn what_no_state_could_hold_is_refused() {
        let mut kept = Kept::default();
        let mut end = EpochEnd::new(3, None, &mut kept);
        let said = end.keep("best", f64::INFINITY).unwrap_err().to_string();
        assert!(said.contains("'best' at the end of epoch 3"), "{said}");
        for factor in [f64::NAN, -0.5, f64::INFINITY] {
            let said = end.scale_lr("all", factor).unwrap_err().to_string();
            assert!(said.contains("group 'all'"), "{said}");
        }
        assert!(kept.is_empty());
    }
}
