//! From text to the ids of word pieces, as the tokenizer of a pretrained BERT cuts it.

use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Map, Value};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, ModelWrapper, PostProcessor, TruncationDirection};

use crate::error::{Error, Result, contained};

const CLS: &str = "[CLS]";
const SEP: &str = "[SEP]";
const UNK: &str = "[UNK]";
/// What BERT's own tokenizer never cuts, wherever it stands in a text.
const SPECIAL: [&str; 5] = [UNK, SEP, "[PAD]", CLS, "[MASK]"];
/// Longer words become one `[UNK]`, as in the original.
const LONGEST_WORD: usize = 100;

/// Cuts texts into BERT's word pieces: `[CLS] pieces [SEP]`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    /// How many special tokens a text gets.
    added: usize,
    vocabulary: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` from a pretrained folder or, where there is none, `vocab.txt` (a
    /// piece a line; an id is a line's number from 0). In both cases the keys `do_lower_case`,
    /// `strip_accents` and `tokenize_chinese_chars` of `tokenizer_config.json` decide if they are
    /// given; without them a `vocab.txt` is taken for an uncased one.
    ///
    /// # Errors
    /// [`Error::Data`]: neither file, not JSON, no word pieces, or no `[CLS]`, `[SEP]`, `[UNK]`.
    pub fn open(folder: impl AsRef<Path>) -> Result<Tokenizer> {
        let folder = folder.as_ref();
        let settings = Settings::read(&folder.join("tokenizer_config.json"))?;
        let (json, vocab) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let (path, mut inner) = if json.is_file() {
            let inner = from_json(&json, &settings)?;
            (json, inner)
        } else if vocab.is_file() {
            let inner = from_vocab(&vocab, &settings)?;
            (vocab, inner)
        } else {
            return Err(Error::data(
                folder,
                "there is neither tokenizer.json nor vocab.txt; give the folder of a pretrained \
                 BERT with its tokenizer",
            ));
        };
        // What a file says of padding and truncation is about somebody else's batches.
        inner.with_padding(None);
        let cut = inner.with_truncation(None).map(|_| ());
        cut.map_err(|e| Error::data(&path, e.to_string()))?;

        let ids = [CLS, SEP, UNK].map(|token| (token, inner.token_to_id(token)));
        if let Some((token, _)) = ids.iter().find(|(_, id)| id.is_none()) {
            return Err(Error::data(
                &path,
                format!("the vocabulary has no {token}; use the tokenizer of a BERT"),
            ));
        }
        let added = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        // Ids may have gaps, so the size that an embedding needs is one past the largest.
        let vocabulary = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let tokenizer = Tokenizer { inner, path, added, vocabulary };
        tokenizer.check_ends(ids.map(|(_, id)| id.unwrap_or_default()))?;
        Ok(tokenizer)
    }

    /// An empty text has to come out as `[CLS] [SEP]`: the model reads position 0.
    fn check_ends(&self, [cls, sep, _]: [u32; 3]) -> Result<()> {
        let empty = contained(|| self.pieces("", usize::MAX)).unwrap_or_else(|| {
            let detail = "its parts do not go together; use the tokenizer of a BERT";
            Err(Error::data(&self.path, detail))
        })?;
        if empty == [cls, sep] {
            return Ok(());
        }
        Err(Error::data(
            &self.path,
            format!(
                "an empty text becomes {empty:?}, wanted [CLS] [SEP] = [{cls}, {sep}]; use the \
                 tokenizer of a BERT"
            ),
        ))
    }

    /// One past the largest id that can come out.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of `[CLS] text [SEP]`; of a longer text the first `max_tokens` - 2 pieces are kept.
    ///
    /// # Errors
    /// [`Error::Config`] when `max_tokens` leaves no room for the special tokens.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        self.check_room(max_tokens)?;
        self.pieces(text, max_tokens)
    }

    /// [`Tokenizer::encode`] of every text, in order, on all cores.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_all(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>> {
        self.check_room(max_tokens)?;
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let share = texts.len().div_ceil(cores).max(1);
        thread::scope(|scope| {
            let work = |part: &[String]| -> Result<Vec<Vec<u32>>> {
                part.iter().map(|text| self.pieces(text, max_tokens)).collect()
            };
            let parts: Vec<_> =
                texts.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
            let mut all = Vec::with_capacity(texts.len());
            for part in parts {
                let ended = part.join().unwrap_or_else(|_| {
                    Err(Error::data(&self.path, "its tokenizer failed; please report the text"))
                });
                all.extend(ended?);
            }
            Ok(all)
        })
    }

    fn check_room(&self, max_tokens: usize) -> Result<()> {
        if max_tokens > self.added {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{max_tokens} tokens a text leave no room beside [CLS] and [SEP]; give at least {}",
            self.added + 1
        )))
    }

    fn pieces(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        let run = || -> tokenizers::Result<Vec<u32>> {
            let mut pieces = self.inner.encode_fast(text, false)?;
            // Cut before the special tokens are added, so that [SEP] stays.
            pieces.truncate(max_tokens - self.added, 0, TruncationDirection::Right);
            Ok(self.inner.post_process(pieces, None, true)?.get_ids().to_vec())
        };
        run().map_err(|e| Error::data(&self.path, format!("a text cannot be cut: {e}")))
    }
}

/// The part of `tokenizer_config.json` that changes the pieces.
#[derive(Debug, Default)]
struct Settings {
    lower: Option<bool>,
    /// `Some(None)`: null, that is, as `lower` says.
    accents: Option<Option<bool>>,
    chinese: Option<bool>,
}

impl Settings {
    fn read(path: &Path) -> Result<Settings> {
        if !path.is_file() {
            return Ok(Settings::default());
        }
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let keys: Map<String, Value> = serde_json::from_str(&text).map_err(|e| {
            Error::data(path, format!("not a JSON object ({e}); mend it, or remove it"))
        })?;
        let flag = |key: &str| match keys.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(Value::Bool(b)) => Ok(Some(Some(*b))),
            Some(other) => {
                Err(Error::data(path, format!("{key} is {other}; it wants true, false or null")))
            }
        };
        Ok(Settings {
            lower: flag("do_lower_case")?.flatten(),
            accents: flag("strip_accents")?,
            chinese: flag("tokenize_chinese_chars")?.flatten(),
        })
    }

    fn apply(&self, to: &mut BertNormalizer) {
        to.lowercase = self.lower.unwrap_or(to.lowercase);
        to.strip_accents = self.accents.unwrap_or(to.strip_accents);
        to.handle_chinese_chars = self.chinese.unwrap_or(to.handle_chinese_chars);
    }
}

/// How many times longer a text may become by what a tokenizer replaces.
const MOST_GROWTH: usize = 64;

/// The same of a normalizer of a tokenizer.json, for each character in the worst case.
fn growth(normalizer: &Value) -> usize {
    let all = normalizer["normalizers"].as_array();
    let inner = all.into_iter().flatten().map(growth).fold(1, usize::saturating_mul);
    let written =
        ["content", "prepend"].map(|key| normalizer[key].as_str().map_or(1, str::len).max(1));
    written.into_iter().fold(inner, usize::saturating_mul)
}

/// A special token of a template, or of one of several, that is not among those it explains: the library counts
/// on it.
fn unknown_special(processor: &Value) -> Option<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let inner = list(&processor["processors"]);
    let own = [list(&processor["single"]), list(&processor["pair"])].concat();
    let named = own.iter().filter_map(|piece| piece["SpecialToken"]["id"].as_str());
    let known = &processor["special_tokens"];
    let found = named.into_iter().find(|id| known.get(id).is_none()).map(String::from);
    found.or_else(|| inner.iter().find_map(unknown_special))
}

fn from_json(path: &Path, settings: &Settings) -> Result<tokenizers::Tokenizer> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let all: Value = serde_json::from_slice(&bytes).map_err(|e| {
        Error::data(path, format!("not the description of a tokenizer ({e}); copy it again"))
    })?;
    if let Some(token) = unknown_special(&all["post_processor"]) {
        let detail =
            format!("its post_processor names '{token}', which it does not explain; copy it again");
        return Err(Error::data(path, detail));
    }
    if growth(&all["normalizer"]) > MOST_GROWTH {
        let detail = format!(
            "its replacements may make a text more than {MOST_GROWTH} times as long; use the tokenizer of a BERT"
        );
        return Err(Error::data(path, detail));
    }
    let mut inner = contained(|| tokenizers::Tokenizer::from_bytes(bytes))
        .unwrap_or_else(|| Err("it is not put together as one".into()))
        .map_err(|e| {
            let reason = e.to_string().replace('\n', " ");
            let advice = "copy it again, or remove it if there is a vocab.txt";
            Error::data(path, format!("not the description of a tokenizer ({reason}); {advice}"))
        })?;
    if !matches!(inner.get_model(), ModelWrapper::WordPiece(_)) {
        let detail = "its model is not WordPiece; use the tokenizer of a BERT";
        return Err(Error::data(path, detail));
    }
    // The two files of a folder may differ; the settings win, as in Hugging Face's own reader.
    if let Some(NormalizerWrapper::BertNormalizer(mut normalizer)) = inner.get_normalizer().cloned()
    {
        settings.apply(&mut normalizer);
        let done = inner.with_normalizer(Some(normalizer)).map(|_| ());
        done.map_err(|e| Error::data(path, e.to_string()))?;
    }
    Ok(inner)
}

fn from_vocab(path: &Path, settings: &Settings) -> Result<tokenizers::Tokenizer> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::data(path, "not UTF-8 text; copy it again, one word piece a line"))?;
    // The reader gives a map of the right kind. It also trims every kind of blank, and a piece may
    // be one, so it is not left to read the lines.
    let mut vocab = WordPiece::read_bytes(&[]).map_err(|e| Error::data(path, e.to_string()))?;
    vocab.extend(text.lines().map(str::to_string).zip(0..));
    let id = |token: &str| vocab.get(token).map(|&id| (token.to_string(), id));
    let (Some(cls), Some(sep)) = (id(CLS), id(SEP)) else {
        let missing = if id(CLS).is_none() { CLS } else { SEP };
        return Err(Error::data(
            path,
            format!("the vocabulary has no {missing}; use the tokenizer of a BERT"),
        ));
    };
    let special: Vec<AddedToken> = SPECIAL
        .iter()
        .filter(|token| vocab.contains_key(**token))
        .map(|&token| AddedToken::from(token, true))
        .collect();
    let build = || -> tokenizers::Result<tokenizers::Tokenizer> {
        let model = WordPiece::builder()
            .vocab(vocab)
            .unk_token(UNK.into())
            .continuing_subword_prefix("##".into())
            .max_input_chars_per_word(LONGEST_WORD)
            .build()?;
        let mut normalizer = BertNormalizer::new(true, true, None, true);
        settings.apply(&mut normalizer);
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(normalizer))?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        inner.with_post_processor(Some(BertProcessing::new(sep, cls)));
        inner.add_special_tokens(special)?;
        Ok(inner)
    };
    build().map_err(|e| Error::data(path, e.to_string()))
}
