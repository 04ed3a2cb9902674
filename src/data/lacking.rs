//! Rows that are made to lack modalities, so that one can see what a model makes of it.
//!
//! A rate takes each modality from each row by itself; combinations deal the rows out, each of which keeps
//! the modalities of one of them alone. Which rows lack what follows from the seed, the split and the row, and
//! from nothing else: two models of one seed are taught and tested on the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Split, Text};
use super::{Modality, SplitName, listed, shuffled};
use crate::error::{Error, Result};
use crate::rng::Rng;
use std::sync::Arc;

/// Which modalities rows are made to lack: `data.missing` of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lacking {
    /// Share of the training and validation rows that lack a modality, of each modality by itself; a row keeps
    /// at least one.
    pub train: f64,
    /// The same of the test rows.
    pub test: f64,
    /// Combinations (`["A", "V"]`, `["TA", "TV"]`) that training and validation rows are dealt to, equally many
    /// to each: a row keeps the modalities of its own. None for all modalities.
    pub train_has: Vec<String>,
    /// The same of the test rows.
    pub test_has: Vec<String>,
}

/// For the keys of the generator: what deals rows out, and what takes modalities from them.
const DEALT: u64 = 0x5eed_dea1;
const TAKEN: u64 = 0x5eed_7a4e;

impl Lacking {
    /// Whether rows are left as they are.
    pub fn is_nothing(&self) -> bool {
        *self == Lacking::default()
    }

    /// Checks rates and combinations.
    ///
    /// # Errors
    /// [`Error::Config`]: the key and what it may be.
    pub fn check(&self) -> Result<()> {
        for (key, rate) in [("train", self.train), ("test", self.test)] {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::Config(format!(
                    "data.missing.{key} = {rate}: want a share from 0 to below 1"
                )));
            }
        }
        for (key, all) in [("train_has", &self.train_has), ("test_has", &self.test_has)] {
            for one in all {
                listed(one).map_err(|why| {
                    Error::Config(format!(
                        "data.missing.{key}: '{one}' is no combination of modalities; give letters of TAV, or \
                         names with a + between ({why})"
                    ))
                })?;
            }
        }
        Ok(())
    }

    /// The rate and the combinations of a split.
    fn of(&self, split: SplitName) -> Result<(f64, Vec<Vec<Modality>>)> {
        let (rate, has) = match split {
            SplitName::Test => (self.test, &self.test_has),
            _ => (self.train, &self.train_has),
        };
        let has = has.iter().map(|one| listed(one)).collect::<Result<_>>()?;
        Ok((rate, has))
    }
}

/// Which of a row's modalities a rate takes from it: those whose number, `drawn` in 0..1, is below the rate,
/// but never all.
pub(super) fn taken(
    rate: f64,
    mut drawn: Vec<(f64, Modality)>,
) -> impl Iterator<Item = Modality> + use<> {
    // Where all would be taken, the one that is the least so stays.
    drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
    drawn.pop();
    drawn.into_iter().filter(move |(x, _)| *x < rate).map(|(_, m)| m)
}

/// The combination of each row: equally many rows to each, in an order of their own.
fn dealt(rows: usize, combinations: usize, seed: u64, split: u64) -> Vec<usize> {
    let mut of = vec![0; rows];
    let order = shuffled(rows as u32, seed ^ DEALT, split);
    order.iter().enumerate().for_each(|(place, row)| of[*row as usize] = place % combinations);
    of
}

impl Split {
    /// The modalities of which there is anything.
    fn readable(&self) -> Vec<Modality> {
        let mut all: BTreeSet<Modality> = self.modalities().collect();
        all.extend(self.has(Modality::Text).then_some(Modality::Text));
        all.into_iter().collect()
    }

    /// Has rows lack modalities; `text` and other fields stay as they are.
    fn lack(&mut self, lacking: &Lacking, seed: u64) -> Result<()> {
        let (rate, combinations) = lacking.of(self.name)?;
        let (split, rows) = (self.name.index() as u64, self.rows);
        let of = dealt(rows, combinations.len().max(1), seed, split);
        let readable = self.readable();
        let mut all: Vec<Vec<bool>> = vec![vec![false; rows]; readable.len()];
        for row in 0..rows {
            let had: Vec<Modality> =
                readable.iter().copied().filter(|m| !self.missing(*m, row)).collect();
            let kept = |m: &Modality| combinations.get(of[row]).is_none_or(|own| own.contains(m));
            let kept: Vec<Modality> = had.iter().copied().filter(kept).collect();
            // A row that has nothing of its combination would have nothing at all.
            let kept = if kept.is_empty() { had } else { kept };
            let mut rng = Rng::keyed(&[TAKEN, seed, split, row as u64]);
            let drawn = kept.iter().map(|m| (rng.uniform(), *m)).collect();
            let gone: Vec<Modality> = taken(rate, drawn).collect();
            for (flags, modality) in all.iter_mut().zip(&readable) {
                flags[row] = !kept.contains(modality) || gone.contains(modality);
            }
        }
        let lacking = readable.into_iter().zip(all).filter(|(_, flags)| flags.contains(&true));
        self.missing = lacking.collect();
        Ok(())
    }
}

impl Dataset {
    /// The same data with rows that lack modalities, by a seed. What the file says is missing stays so.
    ///
    /// # Errors
    /// [`Error::Config`]: rates and combinations that cannot be, and a combination of which a split has
    /// nothing.
    pub fn lacking(&self, lacking: &Lacking, seed: u64) -> Result<Dataset> {
        lacking.check()?;
        let mut data = self.clone();
        for split in data.splits.iter_mut().flatten() {
            let (_, combinations) = lacking.of(split.name)?;
            let readable = split.readable();
            let bare = combinations.iter().find(|own| !own.iter().all(|m| readable.contains(m)));
            if let Some(own) = bare {
                let names: Vec<&str> = readable.iter().map(|m| m.name()).collect();
                return Err(Error::Config(format!(
                    "data.missing: rows of {} that have {} cannot be, as its streams are: {}",
                    self.path().display(),
                    super::shortened(own.iter().copied()),
                    names.join(", ")
                )));
            }
            split.lack(lacking, seed)?;
        }
        if let Some(text) = &self.text {
            let mut text = Text { tokens: text.tokens.clone(), shape: text.shape };
            data.without_lacking(&mut text);
            data.text = Some(Arc::new(text));
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::small;
    use super::*;
    use crate::data::synth::{SynthConfig, write};

    fn made(rows: usize) -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made.safetensors");
        let config = SynthConfig { train: rows, valid: 50, test: rows, ..SynthConfig::default() };
        write(&config, &path).unwrap();
        let data = Dataset::open(&path).unwrap();
        (folder, data)
    }

    #[test]
    fn a_rate_takes_each_modality_by_itself_and_never_all() {
        let (_folder, data) = made(1000);
        let lacking = Lacking { train: 0.3, test: 0.6, ..Lacking::default() };
        let found = data.lacking(&lacking, 7).unwrap();
        let train = found.split(SplitName::Train).unwrap();
        // Where all three would go, one stays: 0.3 - 0.3³ / 3.
        for modality in Modality::KNOWN {
            let share = train.missing_rows(modality) as f64 / 1000.0;
            assert!((share - 0.291).abs() < 0.05, "{modality} {share}");
        }
        for split in found.splits() {
            for row in 0..split.rows() {
                assert!(!Modality::KNOWN.iter().all(|m| split.missing(*m, row)), "{row}");
            }
        }
        let gone = |data: &Dataset, split| {
            let split = data.split(split).unwrap();
            (0..split.rows()).map(|row| split.missing(Modality::Audio, row)).collect::<Vec<_>>()
        };
        let again = data.lacking(&lacking, 7).unwrap();
        assert_eq!(gone(&found, SplitName::Test), gone(&again, SplitName::Test));
        let other = data.lacking(&lacking, 8).unwrap();
        assert_ne!(gone(&found, SplitName::Test), gone(&other, SplitName::Test));
        assert_ne!(gone(&found, SplitName::Train), gone(&found, SplitName::Test));
        assert_eq!(data.split(SplitName::Train).unwrap().missing_rows(Modality::Audio), 0);
    }

    #[test]
    fn rows_are_dealt_to_combinations() {
        let (_folder, data) = made(100);
        let has = ["A", "TV"].map(String::from).to_vec();
        let lacking = Lacking { train_has: has, ..Lacking::default() };
        let found = data.lacking(&lacking, 1).unwrap();
        let train = found.split(SplitName::Train).unwrap();
        let kept = |row: usize| Modality::KNOWN.map(|m| !train.missing(m, row));
        let audio = (0..100).filter(|row| kept(*row) == [false, true, false]).count();
        let rest = (0..100).filter(|row| kept(*row) == [true, false, true]).count();
        assert_eq!((audio, rest), (50, 50));
        assert_eq!(found.split(SplitName::Test).unwrap().missing_rows(Modality::Audio), 0);
        assert_eq!(found.split(SplitName::Valid).unwrap().missing_rows(Modality::Audio), 25);
    }

    #[test]
    fn what_cannot_be_is_said() {
        let file = small().save();
        let data = Dataset::open(file.path()).unwrap();
        let said = |lacking: Lacking| data.lacking(&lacking, 1).unwrap_err().to_string();
        let rate = |train| Lacking { train, ..Lacking::default() };
        assert!(said(rate(1.0)).contains("data.missing.train = 1: want a share"));
        assert!(said(rate(f64::NAN)).contains("want a share"));
        let has = |one: &str| Lacking { train_has: vec![one.into()], ..Lacking::default() };
        assert!(said(has("TX")).contains("'TX' is no combination of modalities"));
        assert!(said(has("T+image")).contains("rows of"), "{}", said(has("T+image")));
    }
}
