//! From text to the ids of pieces, as the tokenizer of a pretrained encoder cuts it: word pieces of BERT,
//! DistilBERT and MPNet, pairs of bytes of RoBERTa.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Map, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, ModelWrapper, PostProcessor, TruncationDirection};

use crate::error::{Error, Result, contained};
use crate::nn::{EncoderKind, SpecialTokens};

/// Longer words become one `[UNK]`, as in the original.
const LONGEST_WORD: usize = 100;

/// Cuts texts into an encoder's pieces: BERT's `[CLS] pieces [SEP]`, or `<s> pieces </s>`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    kind: EncoderKind,
    /// Ids of what stands before a text and behind it.
    ends: [u32; 2],
    /// How many special tokens a text gets.
    added: usize,
    vocabulary: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` from a pretrained folder or, where there is none, `vocab.txt` (a
    /// piece a line; an id is a line's number from 0), of a RoBERTa `vocab.json` and `merges.txt`. The keys
    /// `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of `tokenizer_config.json`, and a
    /// RoBERTa's `add_prefix_space`, decide if they are given; without them a `vocab.txt` is taken for an
    /// uncased one. Whose tokenizer it is says the folder's `config.json`; where there is none, a BERT's.
    ///
    /// # Errors
    /// [`Error::Data`]: no such file, not JSON, pieces of another kind, or none of the special tokens.
    pub fn open(folder: impl AsRef<Path>) -> Result<Tokenizer> {
        let folder = folder.as_ref();
        let kind = kind_of(folder);
        let settings = Settings::read(&folder.join("tokenizer_config.json"))?;
        let (json, vocab) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
        let (pairs, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        let roberta = kind == EncoderKind::Roberta;
        let (path, mut inner) = if json.is_file() {
            let inner = from_json(&json, kind, &settings)?;
            (json, inner)
        } else if roberta && pairs.is_file() && merges.is_file() {
            let inner = from_merges(&pairs, &merges, &settings)?;
            (pairs, inner)
        } else if !roberta && vocab.is_file() {
            let inner = from_vocab(&vocab, kind, &settings)?;
            (vocab, inner)
        } else {
            let other = if roberta { "vocab.json with merges.txt" } else { "vocab.txt" };
            return Err(Error::data(
                folder,
                format!(
                    "there is neither tokenizer.json nor {other}; give the folder of a pretrained {} with \
                     its tokenizer",
                    kind.name()
                ),
            ));
        };
        // What a file says of padding and truncation is about somebody else's batches.
        inner.with_padding(None);
        let cut = inner.with_truncation(None).map(|_| ());
        cut.map_err(|e| Error::data(&path, e.to_string()))?;

        let SpecialTokens { first, last, unknown, .. } = kind.special();
        let ids = [first, last, unknown].map(|token| (token, inner.token_to_id(token)));
        if let Some((token, _)) = ids.iter().find(|(_, id)| id.is_none()) {
            return Err(Error::data(
                &path,
                format!("the vocabulary has no {token}; use the tokenizer of a {}", kind.name()),
            ));
        }
        let added = inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        // Ids may have gaps, so the size that an embedding needs is one past the largest.
        let vocabulary = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let [first, last, _] = ids.map(|(_, id)| id.unwrap_or_default());
        let tokenizer = Tokenizer { inner, path, kind, ends: [first, last], added, vocabulary };
        tokenizer.check_ends()?;
        Ok(tokenizer)
    }

    /// An empty text has to come out as `[CLS] [SEP]`: the model reads position 0.
    fn check_ends(&self) -> Result<()> {
        let name = self.kind.name();
        let empty = contained(|| self.pieces("", usize::MAX)).unwrap_or_else(|| {
            let detail = format!("its parts do not go together; use the tokenizer of a {name}");
            Err(Error::data(&self.path, detail))
        })?;
        let (empty, _) = empty;
        if empty == self.ends {
            return Ok(());
        }
        let (SpecialTokens { first, last, .. }, ends) = (self.kind.special(), self.ends);
        Err(Error::data(
            &self.path,
            format!(
                "an empty text becomes {empty:?}, wanted {first} {last} = {ends:?}; use the tokenizer of a \
                 {name}"
            ),
        ))
    }

    /// The ids of what stands before each text and behind it.
    pub fn ends(&self) -> [u32; 2] {
        self.ends
    }

    /// The id of a piece, or of a special token.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// One past the largest id that can come out.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of `[CLS] text [SEP]` or `<s> text </s>`; of a longer text the first `max_tokens` - 2 pieces are kept.
    ///
    /// # Errors
    /// [`Error::Config`] when `max_tokens` leaves no room for the special tokens.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        self.check_room(max_tokens)?;
        Ok(self.pieces(text, max_tokens)?.0)
    }

    /// [`Tokenizer::encode`] of every text, in order, on all cores.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_all(&self, texts: &[String], max_tokens: usize) -> Result<Vec<Vec<u32>>> {
        let marked = self.encode_all_marked(texts, max_tokens)?;
        Ok(marked.into_iter().map(|(ids, _)| ids).collect())
    }

    /// The same, each with whether its end is missing.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_all_marked(
        &self,
        texts: &[String],
        max_tokens: usize,
    ) -> Result<Vec<(Vec<u32>, bool)>> {
        self.check_room(max_tokens)?;
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let share = texts.len().div_ceil(cores).max(1);
        thread::scope(|scope| {
            let work = |part: &[String]| -> Result<Vec<(Vec<u32>, bool)>> {
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

    /// The words of a text, as it has them, each with its tokens among those of
    /// [`encode`](Self::encode): what the tokenizer took for a word before it cut that into pieces, so
    /// that marks are words of their own.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn words(&self, text: &str, max_tokens: usize) -> Result<Vec<(String, Range<usize>)>> {
        self.check_room(max_tokens)?;
        let run = || -> tokenizers::Result<tokenizers::Encoding> {
            let mut pieces = self.inner.encode(text, false)?;
            pieces.truncate(max_tokens - self.added, 0, TruncationDirection::Right);
            self.inner.post_process(pieces, None, true)
        };
        let cut =
            run().map_err(|e| Error::data(&self.path, format!("a text cannot be cut: {e}")))?;
        let mut words: Vec<(Option<u32>, Range<usize>, Range<usize>)> = Vec::new();
        let all =
            cut.get_word_ids().iter().zip(cut.get_offsets()).zip(cut.get_special_tokens_mask());
        for (i, ((word, (from, to)), special)) in all.enumerate() {
            match words.last_mut() {
                _ if *special == 1 => {}
                Some((last, bytes, tokens)) if last == word && tokens.end == i => {
                    (bytes.end, tokens.end) = (*to, i + 1);
                }
                _ => words.push((*word, *from..*to, i..i + 1)),
            }
        }
        let said = |bytes: Range<usize>| text.get(bytes).unwrap_or_default().trim().to_string();
        Ok(words.into_iter().map(|(_, bytes, tokens)| (said(bytes), tokens)).collect())
    }

    /// Tokens as words by the pieces' own names, of which one that begins with `##` goes on with a word.
    pub fn joined(&self, ids: &[u32]) -> Vec<(String, Range<usize>)> {
        let mut words: Vec<(String, Range<usize>)> = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            let piece = self.inner.id_to_token(*id).unwrap_or_else(|| format!("#{id}"));
            match (words.last_mut(), piece.strip_prefix("##")) {
                (Some((word, tokens)), Some(rest)) if !rest.is_empty() => {
                    word.push_str(rest);
                    tokens.end = i + 1;
                }
                _ => words.push((piece, i..i + 1)),
            }
        }
        words
    }

    /// The id of the token that stands for nothing; 0, as BERT's own has it, where there is none.
    pub fn padding(&self) -> u32 {
        ["[PAD]", "<pad>"].iter().find_map(|pad| self.inner.token_to_id(pad)).unwrap_or(0)
    }

    fn check_room(&self, max_tokens: usize) -> Result<()> {
        if max_tokens > self.added {
            return Ok(());
        }
        let SpecialTokens { first, last, .. } = self.kind.special();
        Err(Error::Config(format!(
            "{max_tokens} tokens a text leave no room beside {first} and {last}; give at least {}",
            self.added + 1
        )))
    }

    fn pieces(&self, text: &str, max_tokens: usize) -> Result<(Vec<u32>, bool)> {
        let run = || -> tokenizers::Result<(Vec<u32>, bool)> {
            let mut pieces = self.inner.encode_fast(text, false)?;
            let cut = pieces.len() > max_tokens - self.added;
            // Cut before the special tokens are added, so that [SEP] stays.
            pieces.truncate(max_tokens - self.added, 0, TruncationDirection::Right);
            Ok((self.inner.post_process(pieces, None, true)?.get_ids().to_vec(), cut))
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
    /// Whether a text begins as if a blank stood before it.
    blank: Option<bool>,
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
            blank: flag("add_prefix_space")?.flatten(),
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

fn from_json(path: &Path, kind: EncoderKind, settings: &Settings) -> Result<tokenizers::Tokenizer> {
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
            "its replacements may make a text more than {MOST_GROWTH} times as long; use the tokenizer of a {}",
            kind.name()
        );
        return Err(Error::data(path, detail));
    }
    let mut inner = contained(|| tokenizers::Tokenizer::from_bytes(bytes))
        .unwrap_or_else(|| Err("it is not put together as one".into()))
        .map_err(|e| {
            let reason = e.to_string().replace('\n', " ");
            let advice = "copy it again, or remove it if the vocabulary is beside it";
            Error::data(path, format!("not the description of a tokenizer ({reason}); {advice}"))
        })?;
    let (fits, wanted) = match kind {
        EncoderKind::Roberta => (matches!(inner.get_model(), ModelWrapper::BPE(_)), "BPE"),
        _ => (matches!(inner.get_model(), ModelWrapper::WordPiece(_)), "WordPiece"),
    };
    if !fits {
        let detail = format!("its model is not {wanted}; use the tokenizer of a {}", kind.name());
        return Err(Error::data(path, detail));
    }
    // The two files of a folder may differ; the settings win, as in Hugging Face's own reader.
    if let Some(NormalizerWrapper::BertNormalizer(mut normalizer)) = inner.get_normalizer().cloned()
    {
        settings.apply(&mut normalizer);
        let done = inner.with_normalizer(Some(normalizer)).map(|_| ());
        done.map_err(|e| Error::data(path, e.to_string()))?;
    }
    if let (Some(PreTokenizerWrapper::ByteLevel(bytes)), Some(blank)) =
        (inner.get_pre_tokenizer().cloned(), settings.blank)
    {
        inner.with_pre_tokenizer(Some(bytes.add_prefix_space(blank)));
    }
    Ok(inner)
}

/// Whose tokenizer a folder has; what is wrong with its config.json is said where its sizes are read.
fn kind_of(folder: &Path) -> EncoderKind {
    let text = std::fs::read(folder.join("config.json")).unwrap_or_default();
    let keys: Value = serde_json::from_slice(&text).unwrap_or_default();
    keys["model_type"].as_str().and_then(EncoderKind::named).unwrap_or_default()
}

/// The special tokens that `known` has; of a mask the blank before it is a part, except BERT's.
fn special_tokens(kind: EncoderKind, known: impl Fn(&str) -> bool) -> Vec<AddedToken> {
    let SpecialTokens { first, last, unknown, padding, mask } = kind.special();
    let bert = matches!(kind, EncoderKind::Bert | EncoderKind::DistilBert);
    let all = [unknown, last, padding, first, mask].into_iter().filter(|token| known(token));
    all.map(|token| AddedToken::from(token, true).lstrip(token == mask && !bert)).collect()
}

/// RoBERTa's vocabulary of byte pairs, and the order in which they are put together.
fn from_merges(path: &Path, merges: &Path, settings: &Settings) -> Result<tokenizers::Tokenizer> {
    let (Some(vocab), Some(merges)) = (path.to_str(), merges.to_str()) else {
        return Err(Error::data(path, "its path is not UTF-8; move the folder"));
    };
    let build = || -> tokenizers::Result<tokenizers::Tokenizer> {
        let (vocab, merges) = BPE::read_file(vocab, merges)?;
        let kind = EncoderKind::Roberta;
        let special = special_tokens(kind, |token| vocab.contains_key(token));
        let SpecialTokens { first, last, .. } = kind.special();
        let end = |token: &str| {
            let id = vocab.get(token).copied();
            id.map(|id| (token.to_string(), id))
                .ok_or_else(|| format!("the vocabulary has no {token}"))
        };
        let (first, last) = (end(first)?, end(last)?);
        let blank = settings.blank.unwrap_or(false);
        let model = BPE::builder().vocab_and_merges(vocab, merges).build()?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(ByteLevel::new(blank, true, true)));
        let ends = RobertaProcessing::new(last, first).trim_offsets(true).add_prefix_space(blank);
        inner.with_post_processor(Some(ends));
        inner.add_special_tokens(special)?;
        Ok(inner)
    };
    let built = contained(build).unwrap_or_else(|| Err("it is not put together as one".into()));
    built.map_err(|e| {
        let reason = e.to_string().replace('\n', " ");
        let detail = format!(
            "with merges.txt it makes no vocabulary of byte pairs ({reason}); copy both again"
        );
        Error::data(path, detail)
    })
}

fn from_vocab(
    path: &Path,
    kind: EncoderKind,
    settings: &Settings,
) -> Result<tokenizers::Tokenizer> {
    let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::data(path, "not UTF-8 text; copy it again, one word piece a line"))?;
    // The reader gives a map of the right kind. It also trims every kind of blank, and a piece may
    // be one, so it is not left to read the lines.
    let mut vocab = WordPiece::read_bytes(&[]).map_err(|e| Error::data(path, e.to_string()))?;
    vocab.extend(text.lines().map(str::to_string).zip(0..));
    let id = |token: &str| vocab.get(token).map(|&id| (token.to_string(), id));
    let SpecialTokens { first, last, unknown, .. } = kind.special();
    let (Some(cls), Some(sep)) = (id(first), id(last)) else {
        let missing = if id(first).is_none() { first } else { last };
        return Err(Error::data(
            path,
            format!("the vocabulary has no {missing}; use the tokenizer of a {}", kind.name()),
        ));
    };
    let special = special_tokens(kind, |token| vocab.contains_key(token));
    let build = || -> tokenizers::Result<tokenizers::Tokenizer> {
        let model = WordPiece::builder()
            .vocab(vocab)
            .unk_token(unknown.into())
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
