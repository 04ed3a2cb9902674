//! Recordings as a data set for a trained model: its own features, with what is said where it reads that.

use crate::data::{Modality, SplitName};
use crate::error::{Error, Result};
use crate::features::{Choice, Clip, Collection, Extractor, Recording};
use crate::gpu::Gpu;
use crate::recipe::TextEncoder;
use crate::train::Saved;
use std::path::{Path, PathBuf};

/// What it takes to make a model's audio of recordings.
pub(super) struct Heard {
    choice: Choice,
    /// Steps of the model's audio.
    steps: usize,
}

/// Whether a model can be given just these recordings, and what is said in them.
///
/// # Errors
/// [`Error::Config`]: a model whose audio was not computed here, or that reads something else besides.
pub(super) fn wanted(saved: &Saved, audio: &[PathBuf], texts: &[String]) -> Result<Heard> {
    let (card, model) = (&saved.card, saved.path.display());
    let refused = |why: String| Err(Error::Config(format!("{model} {why}")));
    let streams = || card.streams.iter();
    let Some(stream) = streams().find(|s| s.modality == Modality::Audio) else {
        return refused("reads no audio: no recording can be scored with it".into());
    };
    let Some(made) = &card.acoustic else {
        return refused(
            "was trained on audio that modalign features did not make, as far as its data set says, so that nothing \
             is known of how to make it of a recording: give a data set with --data"
                .into(),
        );
    };
    let known = [Modality::Text, Modality::Audio];
    if let Some(other) = streams().find(|s| !known.contains(&s.modality)) {
        return refused(format!(
            "reads {}, too, which a recording of sound has not: give all of it as a data set with --data",
            other.modality
        ));
    }
    let config = &card.config.model;
    let sentences = config.text_encoder == TextEncoder::Bert && config.wants(Modality::Text);
    let text = sentences || streams().any(|s| s.modality == Modality::Text);
    match (text, texts.len()) {
        (false, 0) => {}
        (false, _) => return refused("reads no text: leave out --text".into()),
        (true, _) if !sentences => {
            return refused(
                "reads text as features that no sentence here gives: give all of it as a data set with --data"
                    .into(),
            );
        }
        (true, 0) => {
            return refused(
                "reads text, too: give what is said in each recording with --text".into(),
            );
        }
        (true, said) if said != audio.len() => {
            let heard = audio.len();
            return refused(format!("needs a --text for each --audio: {said} for {heard}"));
        }
        _ => {}
    }
    let choice = Choice::made(made).map_err(|e| Error::Config(format!("{model}: {e}")))?;
    Ok(Heard { choice, steps: stream.steps })
}

impl Heard {
    /// Writes the data set into a folder, and gives its path. Recordings have just the steps that the model
    /// was trained with: longer ones are cut there.
    ///
    /// # Errors
    /// Recordings that cannot be read; those of the device and of writing.
    pub(super) fn write(
        self,
        gpu: &Gpu,
        folder: &Path,
        audio: &[PathBuf],
        texts: &[String],
    ) -> Result<PathBuf> {
        let mut extractor = Extractor::new(gpu).choosing(self.choice.clone());
        let mut collection = Collection { choice: self.choice, clips: Vec::new() };
        for (i, path) in audio.iter().enumerate() {
            let features = extractor.extract(&mut Recording::open(path)?)?;
            if features.frames() > self.steps {
                let (path, frames) = (path.display(), features.frames());
                log::warn!(
                    "{path}: {frames} steps, of which the model reads the first {}",
                    self.steps
                );
            }
            collection.clips.push(Clip {
                id: path.display().to_string(),
                split: SplitName::Test,
                features,
                label: None,
                unimodal: [None; 3],
                text: texts.get(i).cloned(),
            });
        }
        let path = folder.join("recordings.safetensors");
        collection.write_steps(&path, self.steps)?;
        Ok(path)
    }
}
