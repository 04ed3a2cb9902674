//! Token ids that a data set has, for an encoder whose vocabulary may be another.

use super::dataset::Dataset;
use super::tokenizer::Tokenizer;
use super::tokens::Tokenised;
use crate::error::{Error, Result};
use crate::nn::{BertShape, EncoderKind, Pretrained};

/// How much larger MPNet's ids are than those of the BERT whose pieces it has.
const SHIFT: u32 = 4;
/// BERT's special tokens and their ids.
const BERT: [(&str, u32); 5] =
    [("[PAD]", 0), ("[UNK]", 100), ("[CLS]", 101), ("[SEP]", 102), ("[MASK]", 103)];

/// The `text_bert` of a data set for an encoder, at most `max_tokens` tokens a row.
///
/// A BERT and a DistilBERT take it as it is. Others take it where it is of their own vocabulary: every row
/// begins with their first token and ends with their last. An MPNet whose vocabulary is a BERT's moved by
/// four ids, which its special tokens tell, also takes BERT's ids, translated.
///
/// # Errors
/// As [`Tokenised::from_text_bert`]; ids of another vocabulary.
pub fn text_bert_for(data: &Dataset, max_tokens: usize, encoder: &Pretrained) -> Result<Tokenised> {
    let BertShape { kind, vocab, segments, .. } = encoder.config;
    // Where there are no segments, all tokens are of the first.
    let read = |vocabulary: usize| {
        Tokenised::from_text_bert(data, max_tokens, vocabulary, segments.max(1))
    };
    if matches!(kind, EncoderKind::Bert | EncoderKind::DistilBert) {
        return read(vocab);
    }
    let tokenizer = Tokenizer::open(&encoder.path)?;
    let [first, last] = tokenizer.ends();
    if every_row(data, |ids| ids.first() == Some(&first) && ids.last() == Some(&last)) {
        return read(vocab);
    }
    let of_bert = |name: &str| BERT.iter().find(|(piece, _)| *piece == name).map(|(_, id)| *id);
    let bert = of_bert("[CLS]");
    let moved = BERT.iter().all(|(piece, id)| tokenizer.id(piece) == Some(id + SHIFT));
    let special = kind.special();
    let own = |name: &str| tokenizer.id(name);
    if kind == EncoderKind::Mpnet
        && moved
        && every_row(data, |ids| ids.first() == bert.as_ref())
        && let (Some(padding), Some(mask)) = (own(special.padding), own(special.mask))
    {
        // Four ids stand before BERT's pieces, and the mask behind them.
        let tokens = read(vocab.saturating_sub(SHIFT as usize + 1))?;
        return Ok(tokens.mapped(|id| match id {
            id if Some(id) == of_bert("[CLS]") => first,
            id if Some(id) == of_bert("[SEP]") => last,
            id if Some(id) == of_bert("[PAD]") => padding,
            id if Some(id) == of_bert("[MASK]") => mask,
            id => id + SHIFT,
        }));
    }
    let name = kind.name();
    Err(Error::data(
        data.path(),
        format!(
            "its text_bert has token ids of another vocabulary than the {name} in {}: put the sentences \
             (raw_text) into the JSON file beside it, which are then cut by its own tokenizer",
            encoder.path.display()
        ),
    ))
}

/// Whether the ids under the mask of every row are so.
fn every_row(data: &Dataset, right: impl Fn(&[u32]) -> bool) -> bool {
    data.splits().filter_map(|split| split.text_bert()).all(|tensor| {
        (0..tensor.rows).all(|row| {
            let length = tensor.mask(row).take_while(|m| *m == 1).count();
            let ids: Vec<u32> = tensor.ids(row).take(length).map(|id| id as u32).collect();
            right(&ids)
        })
    })
}
