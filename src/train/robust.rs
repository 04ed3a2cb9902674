//! A trained model on damaged inputs: each modality dropped, noised, truncated at test time.

use super::metrics::Metrics;
use super::session::{Predictions, Session};
use crate::data::{
    Damage, Dataset, FeatureStats, Layout, Modality, Perturbation, SplitName, Standardise, Text,
};
use crate::error::{Error, Result};
use std::sync::Arc;

/// Noise levels, in standard deviations of the feature in training.
pub const NOISE: [f64; 3] = [0.5, 1.0, 2.0];

impl Session {
    /// Every damage that this model's inputs can take, modality by modality. A vector cannot be
    /// truncated.
    pub fn perturbations(&self) -> Vec<Perturbation> {
        let noise = NOISE.map(Damage::Noise);
        let all = [Damage::Dropped].into_iter().chain(noise).chain([Damage::Truncated]);
        let all: Vec<Damage> = all.collect();
        let layout = Layout::new(0, self.model.streams(), None);
        let possible = |modality: Modality| {
            let all = all.iter().map(move |damage| Perturbation { modality, damage: *damage });
            let tokens = modality == Modality::Text && self.model.bert().is_some();
            all.filter(|p| tokens || p.applies(&layout)).collect::<Vec<_>>()
        };
        self.model.reads().modalities().into_iter().flat_map(possible).collect()
    }

    /// Scores of every row of a split, in order, with one modality damaged.
    ///
    /// # Errors
    /// Data without a training split, whose statistics the damage goes by; and those of
    /// [`predict`](Session::predict).
    pub fn predict_under(
        &mut self,
        split: SplitName,
        perturbation: &Perturbation,
    ) -> Result<Predictions> {
        let text = self.data().text().filter(|_| self.model.bert().is_some()).cloned();
        if let (Modality::Text, Some(text)) = (perturbation.modality, text) {
            let tokens = perturbation.of_tokens(&text.tokens, split)?;
            let damaged = Text { tokens, shape: text.shape };
            let whole = self.data.clone();
            self.data = Arc::new(Dataset::clone(&whole).with_text(damaged));
            let found = self.predict(split);
            self.data = whole;
            return found;
        }
        let stats = self.usual(perturbation.modality)?;
        let standardise = self.standardise().cloned();
        self.scores(split, |batch| {
            perturbation.apply(&batch.layout, standardise.as_ref(), &stats, &mut batch.words);
        })
    }

    /// Scores on a split with each modality damaged in turn, in every way that applies; nothing where
    /// the split has no labels.
    ///
    /// # Errors
    /// Those of [`predict_under`](Self::predict_under).
    pub fn robustness(&mut self, split: SplitName) -> Result<Vec<(Perturbation, Metrics)>> {
        let data = self.data().clone();
        let Some(truth) = data.split(split).and_then(|s| s.targets()) else {
            return Ok(Vec::new());
        };
        let convention = self.model.config().data.convention;
        let measured = self.perturbations().into_iter().map(|perturbation| {
            let scores = self.predict_under(split, &perturbation)?.fused();
            Ok((perturbation, Metrics::of(data.task(), &scores, truth, convention)?))
        });
        measured.collect()
    }

    /// What a modality's features look like in training.
    fn usual(&mut self, modality: Modality) -> Result<Arc<FeatureStats>> {
        if let Some(known) = self.usual.get(&modality) {
            return Ok(known.clone());
        }
        let known = self.standardise().and_then(|s| s.stats(modality)).cloned();
        let found = match (known, self.data().split(SplitName::Train)) {
            (None, Some(train)) => Standardise::fit(train, &[modality])?.stats(modality).cloned(),
            (known, _) => known,
        };
        let found = found.map(Arc::new).ok_or_else(|| {
            let detail = format!("no training split to tell what is usual of '{modality}'");
            Error::data(self.data().path(), detail)
        })?;
        self.usual.insert(modality, found.clone());
        Ok(found)
    }
}
