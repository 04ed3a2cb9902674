//! What is pointed at when a training begins, and is no error.

use super::metrics::left_out;
use crate::data::{Dataset, Modality, Split, SplitName, StreamSpec};
use crate::recipe::Model;

/// Says what a model will not hear of its text, and which scores its rows cannot give.
pub(super) fn say_what_is_lost(model: &Model, data: &Dataset) {
    let alone = |s: &StreamSpec| s.modality == Modality::Text && s.steps == 1;
    if model.streams().iter().any(alone)
        && let Some(said) = first_step_alone(data)
    {
        log::warn!("{said}");
    }
    let text = model.reads().modalities().contains(&Modality::Text);
    let sentences = |s: &Split| s.raw_text().is_some() || s.text_bert().is_some();
    if !text && model.config().model.wants(Modality::Text) && data.splits().all(sentences) {
        log::warn!(
            "the data has text, and nothing reads it: --bert FOLDER has a pretrained encoder do so \
             (model.modalities says what is read)"
        );
    }
    if data.task().one_number() {
        for split in data.splits().filter(|s| s.name() != SplitName::Train) {
            let own = split.labels().unwrap_or_default();
            let said = left_out(own, model.config().data.convention, split.name().name());
            said.into_iter().for_each(|said| log::warn!("{said}"));
        }
    }
}

/// Widths of BERTs are multiples of this, those of word vectors (50, 100, 200, 300) are not.
const HEAD: usize = 64;

/// What is wrong with reading the first step alone of the text, as `model.text_encoder = "features"` does;
/// nothing where it is the `[CLS]` of a BERT, by its width.
pub fn first_step_alone(data: &Dataset) -> Option<String> {
    // What an encoder of ours made of the text is its first token by design.
    if data.tokens_digest().is_some() {
        return None;
    }
    let train = data.split(SplitName::Train).or_else(|| data.splits().next())?;
    let text = train.stream(Modality::Text).filter(|s| s.steps > 1)?;
    let rows: Vec<usize> =
        (0..text.rows).filter(|row| !text.missing(*row)).take(FIRST_ROWS).collect();
    let empty = |row: &&usize| {
        text.values(**row).is_ok_and(|values| values.iter().take(text.dim).all(|x| *x == 0.0))
    };
    let (zero, of) = (rows.iter().filter(empty).count(), rows.len());
    let advice = "model.text_encoder=lstm reads them all";
    if 2 * zero > of {
        return Some(format!(
            "the first step of the text is all 0 in {zero} of {of} rows of {}, and \
             model.text_encoder=features reads that step alone: {advice}",
            train.name()
        ));
    }
    (text.dim % HEAD != 0).then(|| {
        format!(
            "the text has up to {} steps of {} features, which is no BERT's width, and \
             model.text_encoder=features reads the first step alone, one word of a sentence: {advice}",
            text.steps, text.dim
        )
    })
}

/// Rows that tell whether a step is always empty.
const FIRST_ROWS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Memory;
    use crate::data::{Options, Row, Target};

    /// Text of so many features, of three steps, the first of which is `first`.
    fn data(dim: usize, first: f32) -> Dataset {
        let mut rows = Memory::new("rows", &[(Modality::Text, dim)]);
        for i in 0..8 {
            let steps = [vec![first; dim], vec![1.0; 2 * dim]].concat();
            let target = Some(Target::Number(i as f32 / 4.0 - 1.0));
            rows.push(SplitName::Train, Row { streams: vec![steps], target, ..Row::default() })
                .unwrap();
        }
        rows.dataset(&Options::default()).unwrap()
    }

    #[test]
    fn a_first_step_that_says_little_is_pointed_at() {
        assert_eq!(first_step_alone(&data(768, 0.5)), None);
        let words = first_step_alone(&data(300, 0.5)).unwrap();
        assert!(words.contains("300 features") && words.contains("text_encoder=lstm"), "{words}");
        let empty = first_step_alone(&data(768, 0.0)).unwrap();
        assert!(empty.contains("all 0 in 8 of 8 rows of train"), "{empty}");
    }
}
