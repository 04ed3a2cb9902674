//! A trained model on damaged inputs: each modality dropped, noised, truncated, alone at test time, and rows
//! that lack some.

use super::metrics::Metrics;
use super::session::{Predictions, Session};
use crate::data::{
    Damage, Dataset, FeatureStats, Layout, Modality, Perturbation, SplitName, Standardise, Text,
};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Noise levels, in standard deviations of the feature in training.
pub const NOISE: [f64; 3] = [0.5, 1.0, 2.0];
/// Shares of rows that lack a modality, of each by itself.
pub const MISSING: [f64; 2] = [0.3, 0.6];

impl Session {
    /// Every damage that this model's inputs can take, modality by modality, and then those to any. A vector
    /// cannot be truncated; of two modalities each is alone where the other is dropped.
    pub fn perturbations(&self) -> Vec<Perturbation> {
        let noise = NOISE.map(Damage::Noise);
        let read = self.model.reads().modalities();
        let alone = (read.len() > 2).then_some(Damage::Alone);
        let all = [Damage::Dropped].into_iter().chain(noise).chain([Damage::Truncated]);
        let all: Vec<Damage> = all.chain(alone).collect();
        let layout = Layout::new(0, self.model.streams(), None);
        let possible = |modality: Modality| {
            let all = all.iter().map(move |damage| Perturbation::of(modality, *damage));
            let tokens = modality == Modality::Text && self.model.bert().is_some();
            all.filter(|p| tokens || p.applies(&layout)).collect::<Vec<_>>()
        };
        let missing = MISSING.into_iter().filter(|_| read.len() > 1).map(Perturbation::missing);
        read.iter().copied().flat_map(possible).chain(missing).collect()
    }

    /// Scores of every row of a split, in order, with damage done to it.
    ///
    /// # Errors
    /// Data without a training split, whose statistics the damage goes by; and those of
    /// [`predict`](Session::predict).
    pub fn predict_under(
        &mut self,
        split: SplitName,
        perturbation: &Perturbation,
    ) -> Result<Predictions> {
        let read = self.model.reads().modalities();
        let any = matches!(perturbation.damage, Damage::Alone | Damage::Missing(_));
        let of_text = any || perturbation.modality == Some(Modality::Text);
        let text = self.data().text().filter(|_| of_text && self.model.bert().is_some()).cloned();
        let mut stats = BTreeMap::new();
        let streams = self.model.streams().iter().map(|s| s.modality);
        let there = self.data.modalities();
        // What the data lack is read as what is usual whatever is done to it.
        let touched = |m: &Modality| perturbation.modality == Some(*m) || any && there.contains(m);
        for modality in streams.filter(touched).collect::<Vec<_>>() {
            stats.insert(modality, self.usual(modality)?);
        }
        let whole = self.data.clone();
        if let Some(text) = text {
            let tokens = perturbation.of_tokens(&read, &text.tokens, split)?;
            let damaged = Text { tokens, shape: text.shape };
            self.data = Arc::new(Dataset::clone(&whole).with_text(damaged));
        }
        let standardise = self.standardise().cloned();
        let found = self.scores(split, |batch| {
            let of = |modality| stats.get(&modality).map(Arc::as_ref);
            let layout = &batch.layout;
            perturbation.apply(&read, layout, standardise.as_ref(), of, &mut batch.words);
        });
        self.data = whole;
        found
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
