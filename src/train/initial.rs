//! What a run begins with: PyTorch's initial values, those of a pretrained encoder, weights that were given.

use super::session::Session;
use super::text;
use crate::error::{Error, Result};
use crate::nn::{Pretrained, Weights};
use crate::recipe::bert_prefix;
use std::path::{Path, PathBuf};

/// Initial parameters: PyTorch's, under those of a pretrained encoder and of `init` where those
/// have them.
pub(super) fn begin(session: &mut Session, init: Option<&Path>) -> Result<()> {
    if !text::wanted(session.model().config()) && init.is_none() {
        return session.initialise();
    }
    let (weights, path) = initial_weights(session, init)?;
    session.load(&weights, &path)?;
    session.reset_states()
}

/// What a run of this session's model begins with, parameters that only training has included also where
/// the session does not train; `init` are the weights that the run was given. And the file to
/// blame where they do not fit.
///
/// # Errors
/// An encoder or weights that cannot be read.
pub fn initial_weights(session: &Session, init: Option<&Path>) -> Result<(Weights, PathBuf)> {
    let config = session.model().config().clone();
    // What begins as a table of its own has no file.
    let stored = session.model().bert().is_some() && text::wanted(&config);
    let encoder = stored.then(|| Pretrained::open(Path::new(&config.bert.path))).transpose()?;
    let prefix = bert_prefix(&config);
    let of_encoder =
        |name: &str| stored && session.model().bert().is_some_and(|bert| bert.owns(name));
    let mut weights = session.params().initial(config.train.seed);
    let all = session.model().params(true, usize::MAX).into_iter();
    for spec in all.filter(|spec| !session.params().has(&spec.name) && !of_encoder(&spec.name)) {
        let values = spec.init.values(config.train.seed, &spec.name, spec.len());
        weights.insert(&spec.name, spec.shape, values);
    }
    let mut path = Path::new(&config.bert.path);
    if let Some(encoder) = &encoder {
        weights.extend(encoder.weights()?.prefixed(prefix));
        // Of a pooler, too, where the model reads by one.
        let pooler = format!("{prefix}pooler.");
        if session.params().specs().any(|spec| spec.name.starts_with(&pooler)) {
            let found = encoder.pooler()?;
            if found.iter().next().is_none() {
                log::warn!(
                    "{} has no pooler: this model begins with a random one",
                    encoder.path.display()
                );
            }
            weights.extend(found.prefixed(prefix));
        }
    }
    if let Some(init) = init {
        let given = Weights::load(init)?;
        path = init;
        let tuned = given.iter().any(|(name, ..)| name.starts_with(prefix));
        if tuned && encoder.is_none() && text::wanted(&config) {
            return Err(Error::checkpoint(
                init,
                "holds a fine-tuned text encoder, and bert.finetune=false takes the one of \
                 --bert as it is: export that one first, or leave finetune on",
            ));
        }
        // What no MMSA checkpoint has keeps its initial values, and so does the encoder where
        // the checkpoint is of the rest alone; anything else that is missing is an error.
        let missing: Vec<String> = session
            .params()
            .specs()
            .map(|spec| &spec.name)
            .filter(|n| given.get(n).is_none() && !n.starts_with("align_"))
            .filter(|n| !of_encoder(n))
            .cloned()
            .collect();
        let unused = given.iter().filter(|(name, ..)| !session.params().has(name)).count();
        if unused > 0 {
            log::info!("{unused} tensors of the given weights are not part of this model");
        }
        weights.extend(given);
        missing.iter().for_each(|name| weights.remove(name));
    }
    Ok((weights, path.to_path_buf()))
}
