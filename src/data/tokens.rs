//! Sentences as rows of tokens: read once, packed into batches without padding between them.

use sha2::{Digest, Sha256};

use super::SplitName;
use super::dataset::{Dataset, Split};
use super::stream::TextBert;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::files::hex;
pub use crate::ops::embed::TokenLayout;
use crate::ops::embed::sort_runs;

/// Positions share a word with the segment, 16 bits each.
const MOST_TOKENS: usize = 1 << 16;

/// The tokens of a split's rows, one row after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRows {
    ids: Vec<u32>,
    segments: Vec<u32>,
    /// Where each row begins; one entry more than there are rows.
    offsets: Vec<usize>,
    /// Whether a row's text went on.
    cut: Vec<bool>,
}

impl Default for TokenRows {
    fn default() -> Self {
        TokenRows { ids: Vec::new(), segments: Vec::new(), offsets: vec![0], cut: Vec::new() }
    }
}

impl TokenRows {
    /// Appends a row.
    ///
    /// # Errors
    /// [`Error::Shape`]: no token, more than 65,536 tokens, other counts of ids and segments, or a
    /// segment past 65,535.
    pub fn push(&mut self, ids: &[u32], segments: &[u32]) -> Result<()> {
        let fits = (1..=MOST_TOKENS).contains(&ids.len())
            && ids.len() == segments.len()
            && segments.iter().all(|&s| s < MOST_TOKENS as u32);
        if !fits {
            let detail = format!(
                "a row of {} ids and {} segments, wanted 1..={MOST_TOKENS} of each",
                ids.len(),
                segments.len()
            );
            return Err(Error::shape("tokens", detail));
        }
        self.ids.extend(ids);
        self.segments.extend(segments);
        self.offsets.push(self.ids.len());
        self.cut.push(false);
        Ok(())
    }

    /// The same of a text that goes on, where it was cut.
    fn push_cut(&mut self, ids: &[u32], segments: &[u32], cut: bool) -> Result<()> {
        self.push(ids, segments)?;
        if let Some(last) = self.cut.last_mut() {
            *last = cut;
        }
        Ok(())
    }

    /// How many rows' texts went on where they were cut.
    pub fn cut(&self) -> usize {
        self.cut.iter().filter(|cut| **cut).count()
    }

    /// Appends a row of another's.
    fn take(&mut self, from: &TokenRows, row: usize) {
        let (ids, segments) = from.row(row);
        self.ids.extend(ids);
        self.segments.extend(segments);
        self.offsets.push(self.ids.len());
        self.cut.push(from.cut.get(row).copied().unwrap_or_default());
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Ids and segments of row `i`; empty past the last row.
    pub fn row(&self, i: usize) -> (&[u32], &[u32]) {
        match (self.offsets.get(i), self.offsets.get(i + 1)) {
            (Some(&from), Some(&to)) => (&self.ids[from..to], &self.segments[from..to]),
            _ => (&[], &[]),
        }
    }

    /// Tokens of row `i`, at least 1; 0 past the last row.
    pub fn len(&self, i: usize) -> usize {
        self.row(i).0.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Tokens of every row.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + use<'_> {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Tokens of all rows together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// Packs the rows `which` of `rows` into a block, sample after sample.
///
/// TOKENS `[T, 4]` holds (word id, position | segment << 16, length of its sequence, sample) for
/// each token and zeros for the padding rows behind the last one; SPANS `[batch, 2]` holds each
/// sample's (first row, length). Nothing else in `out` is touched.
///
/// # Errors
/// [`Error::Shape`] when a row is not there, `layout.rows` is too small for the tokens, or `out`
/// for the layout.
pub fn fill_tokens(
    rows: &TokenRows,
    which: &[u32],
    layout: &TokenLayout,
    out: &mut [u32],
) -> Result<()> {
    let fail = |detail: String| Err(Error::shape("tokens", detail));
    if let Some(row) = which.iter().find(|&&row| row as usize >= rows.rows()) {
        return fail(format!("there are {} rows, no row {row}", rows.rows()));
    }
    let used: usize = which.iter().map(|&row| rows.len(row as usize)).sum();
    if used > layout.rows {
        return fail(format!("{used} tokens for a block of {} token rows", layout.rows));
    }
    let size = out.len();
    let fits = |at: usize, words: usize| at.checked_add(words).is_some_and(|end| end <= size);
    if !fits(layout.tokens_at, 4 * layout.rows) || !fits(layout.spans_at, 2 * which.len()) {
        return fail(format!("{layout:?} for {} samples does not fit {size} words", which.len()));
    }

    let mut first = 0;
    for (sample, &row) in which.iter().enumerate() {
        let (ids, segments) = rows.row(row as usize);
        let length = ids.len();
        let at = layout.tokens_at + 4 * first;
        let tokens = out[at..at + 4 * length].chunks_exact_mut(4);
        for (position, (token, (&id, &segment))) in tokens.zip(ids.iter().zip(segments)).enumerate()
        {
            token[0] = id;
            token[1] = position as u32 | segment << 16;
            token[2] = length as u32;
            token[3] = sample as u32;
        }
        let span = layout.spans_at + 2 * sample;
        out[span..span + 2].copy_from_slice(&[first as u32, length as u32]);
        first += length;
    }
    out[layout.tokens_at + 4 * first..layout.tokens_at + 4 * layout.rows].fill(0);
    Ok(())
}

/// Sorts the tokens that [`fill_tokens`] put into a block by the table rows they take.
pub fn fill_runs(layout: &TokenLayout, out: &mut [u32]) {
    let &TokenLayout { rows, tokens_at, order_at, runs_at, rest_runs, tables, .. } = layout;
    // In the order of the layout: tokens, spans, order, runs.
    let (head, tail) = out.split_at_mut(order_at);
    let (order, runs) = tail.split_at_mut(runs_at - order_at);
    let tokens = &head[tokens_at..tokens_at + 4 * rows];
    sort_runs(tokens, tables, &mut order[..3 * rows], &mut runs[..4 * (rows + rest_runs)]);
}

/// Token rows of a block that holds sequences of these lengths: their sum, rounded up to a multiple
/// of 16 below 512, of 32 below 1,024 and so on. Few different sizes, and from 256 rows on at most
/// 1/16 of them is padding.
pub fn packed_rows(lengths: impl IntoIterator<Item = usize>) -> usize {
    let sum = lengths.into_iter().sum::<usize>().max(1);
    sum.next_multiple_of((1 << sum.ilog2() >> 4).max(16))
}

/// Every split's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenised {
    /// By [`SplitName::index`]; `None` where the data set has no such split.
    pub splits: [Option<TokenRows>; 3],
    /// Where they come from: `raw_text` or `text_bert`.
    pub source: &'static str,
    /// SHA-256 of all tokens, hexadecimal: the same exactly where the same tokens come out.
    pub digest: String,
}

impl Tokenised {
    /// Leaves of each row of a split the tokens that `kept` says, given the row and how many it has.
    ///
    /// # Errors
    /// None for tokens of these rows.
    pub(super) fn keep(
        &mut self,
        split: SplitName,
        mut kept: impl FnMut(usize, usize) -> Vec<usize>,
    ) -> Result<()> {
        let Some(rows) = self.splits[split.index()].as_mut() else { return Ok(()) };
        let mut left = TokenRows::default();
        for row in 0..rows.rows() {
            let (ids, segments) = rows.row(row);
            let kept = kept(row, ids.len());
            let of = |all: &[u32]| kept.iter().map(|i| all[*i]).collect::<Vec<u32>>();
            left.push(&of(ids), &of(segments))?;
        }
        *rows = left;
        Ok(())
    }

    /// Cuts the `raw_text` of every split into at most `max_tokens` tokens a row, `[CLS]` and `[SEP]`
    /// included; `vocabulary` is how many word vectors the model has.
    ///
    /// # Errors
    /// [`Error::Data`]: a split without raw text, or a tokenizer with more pieces than word vectors;
    /// [`Error::Config`]: `max_tokens` too small.
    pub fn from_text(
        data: &Dataset,
        tokenizer: &Tokenizer,
        max_tokens: usize,
        vocabulary: usize,
    ) -> Result<Tokenised> {
        if tokenizer.vocabulary() > vocabulary {
            return Err(Error::data(
                tokenizer.path(),
                format!(
                    "its ids go up to {} where the model has {vocabulary} word vectors; use the \
                     tokenizer that belongs to the model",
                    tokenizer.vocabulary() - 1
                ),
            ));
        }
        let max_tokens = max_tokens.min(MOST_TOKENS);
        Self::gather(data, "raw_text", |split| {
            let Some(texts) = split.raw_text() else {
                return Err(Error::data(
                    data.path().with_extension("json"),
                    format!(
                        "there is no {}.raw_text; add the texts there, or text_bert to the tensors",
                        split.name()
                    ),
                ));
            };
            let mut rows = TokenRows::default();
            for (ids, cut) in tokenizer.encode_all_marked(texts, max_tokens)? {
                rows.push_cut(&ids, &vec![0; ids.len()], cut)?;
            }
            Ok(rows)
        })
    }

    /// Takes the `text_bert` tensors (ids, attention mask, segments) of every split. Of a row with
    /// more than `max_tokens` tokens the first `max_tokens` - 1 and the last are kept, so that its
    /// `[SEP]` stays; `vocabulary` and `segments` are how many word and segment vectors the model has.
    ///
    /// # Errors
    /// [`Error::Data`] naming split and row: no `text_bert`, no token, a mask that is not ones and
    /// then zeros, an id or a segment that the model has no vector for; [`Error::Config`]:
    /// `max_tokens` below 2.
    pub fn from_text_bert(
        data: &Dataset,
        max_tokens: usize,
        vocabulary: usize,
        segments: usize,
    ) -> Result<Tokenised> {
        if max_tokens < 2 {
            let detail = format!("{max_tokens} tokens a text are too few; give at least 2");
            return Err(Error::Config(detail));
        }
        let max_tokens = max_tokens.min(MOST_TOKENS);
        Self::gather(data, "text_bert", |split| {
            let name = split.name();
            let Some(tensor) = split.text_bert() else {
                return Err(Error::data(
                    data.path(),
                    format!("there is no {name}.text_bert; add the tensor, or raw texts"),
                ));
            };
            let mut rows = TokenRows::default();
            for row in 0..tensor.rows {
                let (ids, of) = valid_tokens(&tensor, row, max_tokens, vocabulary, segments)
                    .map_err(|problem| {
                        let detail = format!("{name}.text_bert, row {row} has {problem}");
                        Error::data(data.path(), detail)
                    })?;
                let whole = tensor.mask(row).take_while(|&m| m == 1).count();
                rows.push_cut(&ids, &of, whole > ids.len())?;
            }
            Ok(rows)
        })
    }

    fn gather(
        data: &Dataset,
        source: &'static str,
        read: impl Fn(&Split) -> Result<TokenRows>,
    ) -> Result<Tokenised> {
        let mut splits = [None, None, None];
        for split in data.splits() {
            splits[split.name().index()] = Some(read(split)?);
        }
        let digest = digest(&splits);
        Ok(Tokenised { splits, source, digest })
    }

    /// The same tokens, and so the same digest, with other rows in the splits: of each the split and the
    /// row that it was.
    pub(super) fn with_splits(&self, rows: &[Vec<(SplitName, usize)>; 3]) -> Tokenised {
        let splits = rows.each_ref().map(|rows| {
            let mut all = TokenRows::default();
            for (name, row) in rows {
                all.take(self.split(*name)?, *row);
            }
            Some(all)
        });
        Tokenised { splits, source: self.source, digest: self.digest.clone() }
    }

    /// The same rows with other ids.
    pub(super) fn mapped(mut self, to: impl Fn(u32) -> u32) -> Tokenised {
        for id in self.splits.iter_mut().flatten().flat_map(|rows| &mut rows.ids) {
            *id = to(*id);
        }
        self.digest = digest(&self.splits);
        self
    }

    /// How many rows have this id.
    pub fn rows_with(&self, id: u32) -> usize {
        let rows =
            self.splits.iter().flatten().flat_map(|rows| (0..rows.rows()).map(|i| rows.row(i)));
        rows.filter(|(ids, _)| ids.contains(&id)).count()
    }

    /// A split's tokens.
    pub fn split(&self, name: SplitName) -> Option<&TokenRows> {
        self.splits[name.index()].as_ref()
    }

    /// Tokens of the longest row of all; 0 without rows.
    pub fn longest(&self) -> usize {
        self.splits.iter().flatten().flat_map(TokenRows::lengths).max().unwrap_or(0)
    }

    /// Token rows that no batch of at most `batch` samples of one split exceeds: the `batch` longest
    /// together, as [`packed_rows`].
    pub fn worst_rows(&self, batch: usize) -> usize {
        let longest = |rows: &TokenRows| {
            let mut lengths: Vec<usize> = rows.lengths().collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            packed_rows(lengths.into_iter().take(batch))
        };
        self.splits.iter().flatten().map(longest).max().unwrap_or(packed_rows([]))
    }
}

/// The ids and segments under a row's mask, or what is wrong with them and what to do.
fn valid_tokens(
    tensor: &TextBert<'_>,
    row: usize,
    max_tokens: usize,
    vocabulary: usize,
    segments: usize,
) -> Result<(Vec<u32>, Vec<u32>), String> {
    let again = "tokenise that text again";
    let length = tensor.mask(row).take_while(|&m| m == 1).count();
    if tensor.mask(row).skip(length).any(|m| m != 0) {
        return Err(format!(
            "a mask that is not ones and then zeros (the first other value is at token {length}); \
             move the tokens to the front"
        ));
    }
    if length == 0 {
        return Err(format!("no token; {again}, or drop the row"));
    }
    let limited = |values: &mut dyn Iterator<Item = i32>, limit: usize, what: &str, have: &str| {
        let mut taken = Vec::with_capacity(length.min(max_tokens));
        for (at, value) in values.take(length).enumerate() {
            match usize::try_from(value) {
                Ok(v) if v < limit && (at + 1 < max_tokens || at + 1 == length) => {
                    taken.push(value as u32);
                }
                Ok(v) if v < limit => {}
                _ => {
                    return Err(format!(
                        "{what} {value} at token {at} where the model has {limit} {have}; {again} \
                         with the model's own tokenizer"
                    ));
                }
            }
        }
        Ok(taken)
    };
    let ids = limited(&mut tensor.ids(row), vocabulary, "the id", "word vectors")?;
    let of = limited(&mut tensor.segments(row), segments, "the segment", "segment vectors")?;
    Ok((ids, of))
}

fn digest(splits: &[Option<TokenRows>; 3]) -> String {
    let mut hash = Sha256::new();
    let mut add = |words: &mut dyn Iterator<Item = u64>| {
        words.for_each(|word| hash.update(word.to_le_bytes()));
    };
    for split in splits {
        match split {
            None => add(&mut std::iter::once(0)),
            Some(rows) => {
                add(&mut [1, rows.rows() as u64].into_iter());
                add(&mut rows.lengths().map(|n| n as u64));
                add(&mut rows.ids.iter().chain(&rows.segments).map(|&v| u64::from(v)));
            }
        }
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{TensorFile, small};
    use super::*;

    /// Rows of 3, 1 and 2 tokens; the last one's second token is in segment 1.
    fn three() -> TokenRows {
        let mut rows = TokenRows::default();
        rows.push(&[7, 8, 9], &[0, 0, 0]).unwrap();
        rows.push(&[5], &[0]).unwrap();
        rows.push(&[3, 4], &[0, 1]).unwrap();
        rows
    }

    #[test]
    fn rows_come_back() {
        let rows = three();
        assert_eq!((rows.rows(), rows.tokens(), rows.is_empty()), (3, 6, false));
        assert_eq!(rows.row(2), ([3, 4].as_slice(), [0, 1].as_slice()));
        assert_eq!(rows.lengths().collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!((rows.len(0), rows.len(3)), (3, 0));
        let mut none = TokenRows::default();
        assert!(none.is_empty());
        assert!(none.push(&[], &[]).is_err(), "a row without a token");
        assert!(none.push(&[1], &[0, 0]).is_err());
        assert!(none.push(&[1], &[1 << 16]).is_err());
        assert!(none.push(&vec![1; MOST_TOKENS + 1], &vec![0; MOST_TOKENS + 1]).is_err());
        assert!(none.is_empty(), "a refused row leaves nothing");
    }

    #[test]
    fn a_block_is_packed() {
        let layout = TokenLayout { rows: 8, tokens_at: 2, spans_at: 36, ..TokenLayout::default() };
        let mut out = vec![u32::MAX; 43];
        fill_tokens(&three(), &[2, 0, 1], &layout, &mut out).unwrap();
        let segment = 1 << 16;
        assert_eq!(
            out[2..34].chunks(4).collect::<Vec<_>>(),
            [
                [3, 0, 2, 0],
                [4, 1 | segment, 2, 0],
                [7, 0, 3, 1],
                [8, 1, 3, 1],
                [9, 2, 3, 1],
                [5, 0, 1, 2],
                [0; 4],
                [0; 4],
            ]
        );
        assert_eq!(out[34..], [u32::MAX, u32::MAX, 0, 2, 2, 3, 5, 1, u32::MAX]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let rows = three();
        let fill = |which: &[u32], layout: TokenLayout, words: usize| {
            fill_tokens(&rows, which, &layout, &mut vec![0; words]).unwrap_err().to_string()
        };
        let layout = TokenLayout { rows: 5, tokens_at: 0, spans_at: 20, ..TokenLayout::default() };
        assert!(fill(&[3], layout, 40).contains("no row 3"));
        assert!(fill(&[0, 1, 2], layout, 40).contains("6 tokens for a block of 5"));
        assert!(fill(&[0, 1], layout, 23).contains("does not fit"));
        assert!(fill(&[0], TokenLayout { spans_at: usize::MAX, ..layout }, 40).contains("not fit"));
    }

    #[test]
    fn sizes_are_few_and_never_much_too_large() {
        let rows = |n| packed_rows([n]);
        let want = [(0, 16), (1, 16), (16, 16), (17, 32), (511, 512), (512, 512), (513, 544)];
        for (n, size) in want.into_iter().chain([(1023, 1024), (1025, 1088), (2049, 2176)]) {
            assert_eq!(rows(n), size, "{n}");
        }
        for n in 1..5000 {
            assert!(rows(n) >= n && rows(n) <= rows(n + 1) && rows(n) % 16 == 0, "{n}");
            assert!(n < 256 || (rows(n) - n) * 16 < n, "{n}");
        }
        assert_eq!(packed_rows([3, 14]), 32);
    }

    #[test]
    fn the_worst_batch_is_of_one_split() {
        let mut test = TokenRows::default();
        test.push(&[1; 20], &[0; 20]).unwrap();
        let all = Tokenised {
            splits: [Some(three()), None, Some(test)],
            source: "raw_text",
            digest: String::new(),
        };
        assert_eq!(all.longest(), 20);
        assert_eq!((all.worst_rows(1), all.worst_rows(9)), (32, 32));
        let long = Tokenised { splits: [Some(three()), None, None], ..all };
        assert_eq!(long.worst_rows(2), 16);
    }

    fn bert(values: &[i32]) -> TensorFile {
        small().i32("train.text_bert", &[3, 3, 4], values)
    }

    #[test]
    fn text_bert_is_read_up_to_its_mask() {
        let row = |id| [101, id, 102, 0, 1, 1, 1, 0, 0, 0, 1, 0];
        let file = bert(&[row(5), row(6), row(7)].concat()).save();
        let data = Dataset::open(file.path()).unwrap();
        let read = |most| Tokenised::from_text_bert(&data, most, 103, 2).unwrap();
        let whole = read(50);
        let train = whole.split(SplitName::Train).unwrap();
        assert_eq!(train.row(1), ([101, 6, 102].as_slice(), [0, 0, 1].as_slice()));
        assert_eq!((whole.source, train.rows()), ("text_bert", 3));
        assert!(whole.split(SplitName::Valid).is_none());
        // The last token stays when a row is cut.
        let cut = read(2);
        let train = cut.split(SplitName::Train).unwrap();
        assert_eq!(train.row(0), ([101, 102].as_slice(), [0, 1].as_slice()));
        assert_eq!(read(3), whole);
        assert_ne!(cut.digest, whole.digest);
        let other = bert(&[row(5), row(6), row(8)].concat()).save();
        let data = Dataset::open(other.path()).unwrap();
        assert_ne!(Tokenised::from_text_bert(&data, 50, 103, 2).unwrap().digest, whole.digest);
        let few = Tokenised::from_text_bert(&data, 1, 103, 2).unwrap_err().to_string();
        assert!(few.contains("at least 2"), "{few}");
    }

    #[test]
    fn bad_tokens_are_located() {
        let good = [101, 5, 102, 0, 1, 1, 1, 0, 0, 0, 0, 0];
        for (ids, mask, segments, wanted) in [
            ([1, 2, 3, 0], [1, 0, 1, 0], [0; 4], "not ones and then zeros (the first other value"),
            ([1, 2, 3, 0], [0, 1, 1, 0], [0; 4], "at token 0"),
            ([1, 2, 103, 0], [1, 1, 1, 0], [0; 4], "the id 103 at token 2 where the model has 103"),
            ([1, 2, 3, 0], [1, 1, 1, 0], [0, 1, 0, 0], "the segment 1 at token 1"),
        ] {
            let row = [ids, mask, segments].concat();
            let file = bert(&[&good[..], &row, &good].concat()).save();
            let data = Dataset::open(file.path()).unwrap();
            let error = Tokenised::from_text_bert(&data, 50, 103, 1).unwrap_err().to_string();
            assert!(error.contains("train.text_bert, row 1 has"), "{error}");
            assert!(error.contains(wanted) && error.contains("set.safetensors"), "{error}");
        }
        // What lies under a zero of the mask is padding, whatever it says.
        let file = bert(&[&good[..], &[1, 999, 999, 999, 1, 0, 0, 0, 0, 1, 1, 1], &good].concat());
        let file = file.save();
        let data = Dataset::open(file.path()).unwrap();
        let read = Tokenised::from_text_bert(&data, 50, 103, 1).unwrap();
        assert_eq!(read.split(SplitName::Train).unwrap().len(1), 1);
        let file = small().without("train.text_bert").save();
        let data = Dataset::open(file.path()).unwrap();
        let error = Tokenised::from_text_bert(&data, 50, 103, 1).unwrap_err().to_string();
        assert!(error.contains("there is no train.text_bert"), "{error}");
    }
}
