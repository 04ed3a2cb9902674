//! Shares of steps and word pieces as those of words.

use crate::data::Tokenizer;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What a word contributes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word, as the text has it.
    pub word: String,
    /// Its share: of a word that is cut into pieces the sum of theirs.
    pub share: f64,
}

/// Whether a token is what the row begins or ends with, wherever it stands: `[CLS]`, `[SEP]`.
pub(super) fn is_end(ids: &[u32], id: u32) -> bool {
    ids.first() == Some(&id) || ids.last() == Some(&id)
}

/// The words of a text that has as many as there are steps; none where it has not, since nothing says then
/// which step is of which word.
pub(super) fn of_steps(text: &str, steps: &[f64]) -> Vec<Word> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() != steps.len() {
        return Vec::new();
    }
    let pairs = words.into_iter().zip(steps);
    pairs.map(|(word, share)| Word { word: word.into(), share: *share }).collect()
}

/// The words of a row's tokens: by the sentence that they were cut from, else by the pieces' own names, else
/// by their numbers.
pub(super) fn of_tokens(
    tokenizer: Option<&Tokenizer>,
    sentence: Option<&str>,
    ids: &[u32],
    pieces: &[f64],
) -> Vec<Word> {
    let by_sentence = || {
        let words = tokenizer?.words(sentence?, ids.len()).ok()?;
        words.iter().all(|(_, range)| range.end <= ids.len()).then_some(words)
    };
    let numbered = || ids.iter().enumerate().map(|(i, id)| (format!("#{id}"), i..i + 1)).collect();
    let words: Vec<(String, Range<usize>)> = by_sentence()
        .or_else(|| tokenizer.map(|tokenizer| tokenizer.joined(ids)))
        .unwrap_or_else(numbered);
    let own = words.into_iter().filter(|(_, range)| !is_end(ids, ids[range.start]));
    let share = |range: Range<usize>| pieces.get(range).unwrap_or_default().iter().sum();
    own.map(|(word, range)| Word { word, share: share(range) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_words_where_there_are_as_many() {
        let words = of_steps("so  good", &[0.5, -1.0]);
        assert_eq!(words[1], Word { word: "good".into(), share: -1.0 });
        assert!(of_steps("so good", &[0.5; 4]).is_empty());
    }

    #[test]
    fn without_a_tokenizer_words_are_numbers() {
        let words = of_tokens(None, Some("so good"), &[2, 17, 9, 3], &[0.0, 0.25, 0.5, 0.0]);
        let names: Vec<&str> = words.iter().map(|w| w.word.as_str()).collect();
        assert_eq!((names, words[1].share), (vec!["#17", "#9"], 0.5));
    }
}
