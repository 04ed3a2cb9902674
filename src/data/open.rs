//! Opening a data set: the header, then every row once, streaming over the map.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::bytes::FileBytes;
use super::dataset::{Dataset, Features, Field, Options, Rows, Split};
use super::side::{self, Side};
use super::source::{Mapped, Source};
use super::stream::{floats, ints};
use super::task::Table;
use super::{Modality, SplitName};
use crate::error::{Error, Result};

pub(super) fn open(path: &Path, options: &Options) -> Result<Dataset> {
    peek(path)?;
    let map = FileBytes::open(path)?;
    let (header, info) = SafeTensors::read_metadata(&map)
        .map_err(|e| unreadable(path, (&map, map.len() as u64), e))?;
    let metadata = info.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    let side = Side::read(path)?;
    let checker = Checker {
        path,
        side: &side,
        map: &map,
        data: 8 + header,
        tensors: info.tensors().into_iter().collect(),
    };
    let mut parts = Vec::new();
    for name in SplitName::ALL {
        parts.push(checker.split(name)?);
    }
    if parts.iter().all(Option::is_none) {
        return Err(Error::data(
            path,
            "no tensor is named train.*, valid.* or test.* with a field text, audio, vision or \
             text_bert; name the tensors like `train.audio`",
        ));
    }
    checker.same_shapes(&parts)?;

    let places = parts.iter().flatten().flat_map(Part::places).collect();
    let file = Arc::new(Mapped { map, places });
    let source: Arc<dyn Source> = file.clone();
    let mut splits = [None, None, None];
    for (slot, part) in splits.iter_mut().zip(parts) {
        *slot = part.map(|part| part.finish(&file));
    }
    side::attach(&side, &mut splits)?;
    let data = Dataset::of(source, splits, side.names());
    // A side file that speaks of other numbers than there are is another set's.
    let audio = data.splits().find_map(|split| split.stream(Modality::Audio)).map(|s| s.dim);
    let acoustic = side.acoustic().filter(|made| audio == Some(made.columns.len()));
    Dataset { metadata, acoustic, ..data }.of_task(options)
}

/// Looks at the first bytes of a file: another one than a data set need not be read whole to say so.
fn peek(path: &Path) -> Result<()> {
    let about = std::fs::metadata(path).ok().filter(|about| about.is_file());
    let Some(size) = about.map(|about| about.len()).filter(|size| *size > 1 << 20) else {
        return Ok(());
    };
    let mut first = [0; 9];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.map_err(Error::io("read", path))?;
    let header = u64::from_le_bytes(first[..8].try_into().unwrap_or_default());
    match begins_so(&first) && header + 8 <= size {
        true => Ok(()),
        false => Err(unreadable(path, (&first, size), SafeTensorError::InvalidHeaderLength)),
    }
}

/// Whether a file begins as a safetensors file does: with a length, and a header in JSON.
pub(super) fn begins_so(bytes: &[u8]) -> bool {
    let header = bytes.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    header.is_some_and(|n| n <= MOST_HEADER) && bytes.get(8) == Some(&b'{')
}

/// Bytes of a header, at most: as the format has it.
const MOST_HEADER: u64 = 100_000_000;

/// Says whether a file is cut short or another kind of file altogether.
pub(super) fn unreadable(path: &Path, (map, size): (&[u8], u64), error: SafeTensorError) -> Error {
    let looks_right = begins_so(map);
    let detail = match error {
        _ if size == 0 => "the file is empty; write or copy it again".into(),
        SafeTensorError::InvalidHeaderLength if looks_right => {
            format!("the file is cut short: it ends after {size} bytes; copy or write it again")
        }
        SafeTensorError::MetadataIncompleteBuffer => format!(
            "the file is cut short or has bytes too many: its {size} bytes are not what its \
             header describes; copy or write it again"
        ),
        error if looks_right => {
            format!("its safetensors header is damaged ({error}); write the file again")
        }
        _ => "not a safetensors file; make one of it first: modalign import FILE --out \
              NAME.safetensors (pickles, .npz)"
            .into(),
    };
    Error::data(path, detail)
}

/// A split before it owns a share of the map.
struct Part {
    name: SplitName,
    rows: usize,
    streams: BTreeMap<Modality, Field>,
    text_bert: Option<Field>,
    missing: BTreeMap<Modality, Vec<bool>>,
    labels: Option<Vec<f32>>,
    numbers: Option<Table<f32>>,
    unimodal: BTreeMap<Modality, Vec<f32>>,
    class_labels: Option<Vec<u32>>,
    flags: Option<Table<u32>>,
    factors: BTreeMap<String, Field>,
}

impl Part {
    /// Where the rows of its streams are.
    fn places(&self) -> impl Iterator<Item = ((SplitName, Modality), (usize, usize))> {
        let place = |(m, field): (&Modality, &Field)| {
            ((self.name, *m), (field.start(0), field.row_bytes()))
        };
        self.streams.iter().map(place)
    }

    fn finish(self, file: &Arc<Mapped>) -> Split {
        let features = |(modality, field): (Modality, Field)| {
            let (steps, dim) = (field.shape[1], field.shape[2]);
            let largest = field.largest.map(|(value, row)| (value, (self.name, row)));
            (modality, Features { steps, dim, lengths: field.lengths, from: None, largest })
        };
        Split {
            file: Some(file.clone()),
            streams: self.streams.into_iter().map(features).collect(),
            text_bert: self.text_bert,
            missing: self.missing,
            labels: self.labels,
            numbers: self.numbers,
            unimodal: self.unimodal,
            class_labels: self.class_labels,
            flags: self.flags,
            factors: self.factors,
            ..Split::of(self.name, self.rows, file.clone())
        }
    }
}

pub(super) struct Checker<'a> {
    path: &'a Path,
    side: &'a Side,
    map: &'a [u8],
    /// Where the tensors begin in the map.
    data: usize,
    pub(super) tensors: BTreeMap<String, &'a TensorInfo>,
}

impl Checker<'_> {
    pub(super) fn error(&self, detail: String) -> Error {
        Error::data(self.path, detail)
    }

    fn split(&self, name: SplitName) -> Result<Option<Part>> {
        let full = |field: &str| format!("{name}.{field}");
        // The first tensor met sets the number of rows; every other one has to agree.
        let mut rows = None;
        let named = self.modalities(name);
        let mut streams = BTreeMap::new();
        for &modality in &named {
            if let Some(field) = self.stream(&full(modality.name()), &mut rows)? {
                streams.insert(modality, field);
            }
        }
        let text_bert = self.text_bert(&full("text_bert"), &mut rows)?;
        let mut missing = BTreeMap::new();
        for &modality in &named {
            if let Some(lacks) = self.missing(&full(&format!("{modality}_missing")), &mut rows)? {
                missing.insert(modality, lacks);
            }
        }
        if rows.is_none() {
            // Sentences alone are inputs, too, for whoever has a tokenizer.
            match self.side.texts(name).filter(|n| *n > 0) {
                Some(texts) => rows = Some((full("raw_text"), texts)),
                None => return self.no_inputs(name),
            }
        }
        let (labels, numbers) = self.labels(&full("regression_labels"), &mut rows)?;
        let mut unimodal = BTreeMap::new();
        for &modality in &named {
            let tensor = full(&format!("regression_labels_{}", modality.short()));
            if let Some(labels) = self.labels(&tensor, &mut rows)?.0 {
                unimodal.insert(modality, labels);
            }
        }
        let (class_labels, flags) = self.class_labels(&full("class_labels"), &mut rows)?;
        let mut factors = BTreeMap::new();
        let prefix = full("factor_");
        for tensor in self.tensors.keys() {
            if let Some(factor) = tensor.strip_prefix(&prefix)
                && let Some(field) = self.field(tensor, Dtype::F32, &["rows", "k"], &mut rows)?
            {
                self.all_finite(tensor, &field)?;
                factors.insert(factor.to_string(), field);
            }
        }
        let rows = rows.map_or(0, |(_, rows)| rows);
        Ok(Some(Part {
            name,
            rows,
            streams,
            text_bert,
            missing,
            labels,
            numbers,
            unimodal,
            class_labels,
            flags,
            factors,
        }))
    }

    /// What the streams of a split may be called: the well-known names, and those of its other tensors of
    /// rows x steps x features.
    fn modalities(&self, split: SplitName) -> Vec<Modality> {
        let prefix = format!("{split}.");
        let others = self.tensors.iter().filter_map(|(name, info)| {
            let field = name.strip_prefix(&prefix)?;
            let stream = info.dtype == Dtype::F32 && info.shape.len() == 3;
            Modality::named(field).ok().filter(|m| stream && matches!(m, Modality::Other(_)))
        });
        Modality::KNOWN.into_iter().chain(others).collect()
    }

    /// A split without inputs is absent, unless it has labels, which then have nothing to go with.
    fn no_inputs(&self, name: SplitName) -> Result<Option<Part>> {
        let labels = format!("{name}.regression_labels");
        if !self.tensors.contains_key(&labels) {
            return Ok(None);
        }
        Err(self.error(format!(
            "{labels} is there but none of {name}.text, {name}.audio, {name}.vision, \
             {name}.text_bert, and no raw_text in the JSON file beside it; add a modality"
        )))
    }

    /// What mends types and shapes.
    fn mended(&self) -> String {
        format!("mend it with modalign import {} --out NAME.safetensors", self.path.display())
    }

    /// Finds a tensor and checks its type and shape; `axes` names its axes for the message.
    pub(super) fn field(
        &self,
        tensor: &str,
        dtype: Dtype,
        axes: &[&str],
        rows: &mut Option<(String, usize)>,
    ) -> Result<Option<Field>> {
        let Some(info) = self.tensors.get(tensor) else { return Ok(None) };
        if info.dtype != dtype {
            return Err(self.error(format!(
                "{tensor} holds {} values, wanted {dtype}: {}",
                info.dtype,
                self.mended()
            )));
        }
        if info.shape.len() != axes.len() || info.shape.contains(&0) {
            let advice = match info.shape.contains(&0) {
                true => "reshape it and write the file again".into(),
                false => self.mended(),
            };
            return Err(self.error(format!(
                "{tensor} has shape {:?}, wanted {} with no axis of 0: {advice}",
                info.shape,
                axes.join(" x ")
            )));
        }
        let found = info.shape[0];
        if u32::try_from(found).is_err() {
            return Err(self.error(format!("{tensor} has {found} rows; split the file")));
        }
        match rows {
            None => *rows = Some((tensor.to_string(), found)),
            Some((_, wanted)) if *wanted == found => {}
            Some((first, wanted)) => {
                return Err(self.error(format!(
                    "{tensor} has {found} rows where {first} has {wanted}; give every tensor of \
                     a split one row per sample"
                )));
            }
        }
        let (start, end) = info.data_offsets;
        let run = Rows::Run { first: self.data + start, row_bytes: (end - start) / found };
        Ok(Some(Field { rows: run, shape: info.shape.clone(), lengths: None, largest: None }))
    }

    pub(super) fn bytes(&self, field: &Field) -> &[u8] {
        let start = field.start(0);
        let bytes = field.shape[0] * field.row_bytes();
        self.map.get(start..start + bytes).unwrap_or_default()
    }

    fn stream(&self, tensor: &str, rows: &mut Option<(String, usize)>) -> Result<Option<Field>> {
        let axes = ["rows", "steps", "features"];
        let Some(mut field) = self.field(tensor, Dtype::F32, &axes, rows)? else {
            return Ok(None);
        };
        field.largest = self.all_finite(tensor, &field)?;
        let steps = field.shape[1];
        let name = format!("{tensor}_lengths");
        if let Some(lengths) = self.field(&name, Dtype::I32, &["rows"], rows)? {
            let mut valid = Vec::with_capacity(lengths.shape[0]);
            for (row, length) in ints(self.bytes(&lengths)).enumerate() {
                match usize::try_from(length) {
                    // A sample without any frame still needs one step for the encoder to read.
                    Ok(n) if n <= steps => valid.push(n.max(1) as u32),
                    _ => {
                        return Err(self.error(format!(
                            "{name}, row {row} is {length}, outside 0..={steps}, the steps of \
                             {tensor}; mend the lengths and write the file again"
                        )));
                    }
                }
            }
            field.lengths = Some(valid);
        }
        Ok(Some(field))
    }

    fn text_bert(&self, tensor: &str, rows: &mut Option<(String, usize)>) -> Result<Option<Field>> {
        let axes = ["rows", "3", "tokens"];
        let Some(field) = self.field(tensor, Dtype::I32, &axes, rows)? else { return Ok(None) };
        if field.shape[1] != 3 {
            return Err(self.error(format!(
                "{tensor} has shape {:?}, wanted rows x 3 x tokens (ids, attention mask, segment \
                 ids); reshape it and write the file again",
                field.shape
            )));
        }
        let len = field.shape[2];
        for (row, bytes) in self.bytes(&field).chunks_exact(12 * len).enumerate() {
            let (ids, rest) = bytes.split_at(4 * len);
            let (mask, segments) = rest.split_at(4 * len);
            let problem = if ints(ids).any(|id| id < 0) {
                "a negative token id"
            } else if ints(mask).any(|m| m != 0 && m != 1) {
                "an attention mask value other than 0 and 1"
            } else if ints(mask).all(|m| m == 0) {
                "no token in its attention mask"
            } else if ints(segments).any(|s| s != 0 && s != 1) {
                "a segment id other than 0 and 1"
            } else {
                continue;
            };
            return Err(
                self.error(format!("{tensor}, row {row} has {problem}; tokenise that text again"))
            );
        }
        Ok(Some(field))
    }

    /// Checks every value of a tensor, in one pass over the map that copies nothing; gives the one that is
    /// the farthest from 0, and its row.
    fn all_finite(&self, tensor: &str, field: &Field) -> Result<Option<(f32, u32)>> {
        const EXPONENT: u32 = 0x7f80_0000;
        let mut largest = (0, 0);
        for (row, bytes) in self.bytes(field).chunks_exact(field.row_bytes()).enumerate() {
            // No early exit inside a row, so that the compiler can vectorise the test.
            // As integers the bits without the sign are in the order of the magnitudes.
            let most = floats(bytes).fold(0, |most, x| most.max(x.to_bits() & !(1 << 31)));
            if most < EXPONENT {
                if most > largest.0 {
                    largest = (most, row as u32);
                }
                continue;
            }
            let Some((at, value)) = floats(bytes).enumerate().find(|(_, x)| !x.is_finite()) else {
                continue;
            };
            let place = match field.shape.as_slice() {
                &[_, _, dim] => format!("step {}, feature {}", at / dim, at % dim),
                _ => format!("feature {at}"),
            };
            return Err(self.error(format!(
                "{tensor}, row {row}, {place} is {value}; replace it by a finite number (0 where \
                 nothing was measured) and write the file again"
            )));
        }
        Ok(Some((f32::from_bits(largest.0), largest.1)))
    }

    /// Training, choosing and testing need the same inputs.
    fn same_shapes(&self, parts: &[Option<Part>]) -> Result<()> {
        let mut parts = parts.iter().flatten();
        let Some(first) = parts.next() else { return Ok(()) };
        for part in parts {
            let all: BTreeSet<Modality> =
                [first, part].iter().flat_map(|p| p.streams.keys().copied()).collect();
            for modality in all {
                let fields = [first, part].map(|p| p.streams.get(&modality));
                self.same_shape(modality.name(), first.name, part.name, fields)?;
                let lengths = fields.map(|f| f.is_some_and(|f| f.lengths.is_some()));
                if lengths[0] != lengths[1] {
                    let (with, without) = if lengths[0] { (first, part) } else { (part, first) };
                    return Err(self.error(format!(
                        "{}.{modality}_lengths is there but {}.{modality}_lengths is not; write \
                         both or neither",
                        with.name, without.name
                    )));
                }
            }
            let fields = [first, part].map(|p| p.text_bert.as_ref());
            self.same_shape("text_bert", first.name, part.name, fields)?;
        }
        Ok(())
    }

    fn same_shape(
        &self,
        field: &str,
        one: SplitName,
        two: SplitName,
        fields: [Option<&Field>; 2],
    ) -> Result<()> {
        match fields {
            [None, None] => Ok(()),
            [Some(a), Some(b)] if a.shape[1..] == b.shape[1..] => Ok(()),
            [Some(a), Some(b)] => Err(self.error(format!(
                "{one}.{field} has rows of {:?} where {two}.{field} has {:?}; extract both splits \
                 with the same settings",
                &a.shape[1..],
                &b.shape[1..]
            ))),
            [a, _] => {
                let (with, without) = if a.is_some() { (one, two) } else { (two, one) };
                Err(self.error(format!(
                    "{with}.{field} is there but {without}.{field} is not; give every split the \
                     same modalities"
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::{Saved, TensorFile, save_bytes, small};
    use super::*;

    fn refused(file: &Saved, wanted: &[&str]) {
        let error = match Dataset::open(file.path()) {
            Ok(_) => panic!("opened, wanted {wanted:?}"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("set.safetensors: "), "no file in: {error}");
        assert!(!error.contains('\n') && !error.contains("  "), "not one line: {error:?}");
        for part in wanted {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
    }

    #[test]
    fn a_missing_file_and_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let error = Dataset::open(folder.path().join("no.safetensors")).unwrap_err().to_string();
        assert!(error.contains("no.safetensors: there is no such file"), "{error}");
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn other_kinds_of_files() {
        refused(&save_bytes(b""), &["is empty"]);
        refused(&save_bytes(b"\x80\x04\x95"), &["not a safetensors file"]);
        refused(&save_bytes(&[0x80; 500]), &["not a safetensors file"]);
        refused(&save_bytes(b"\x05\0\0\0\0\0\0\0{nope"), &["header is damaged"]);
        refused(&TensorFile::new().save(), &["no tensor is named"]);
        refused(&TensorFile::new().f32("audio", &[1], [0.0]).save(), &["no tensor is named"]);
    }

    #[test]
    fn every_cut_is_an_error_and_never_a_panic() {
        let bytes = small().bytes();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for cut in (1..bytes.len()).step_by(7) {
            assert!(Dataset::open(save_bytes(&bytes[..cut]).path()).is_err(), "cut at {cut}");
        }
        refused(&save_bytes(&bytes[..header]), &["cut short"]);
        refused(&save_bytes(&bytes[..bytes.len() - 4]), &["cut short"]);
        refused(&save_bytes(&[bytes.as_slice(), b"more"].concat()), &["bytes too many"]);
    }

    #[test]
    fn damaged_header_bytes_never_panic() {
        let bytes = small().bytes();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for at in (0..8 + header).step_by(3) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x15;
            let _ = Dataset::open(save_bytes(&changed).path());
        }
    }

    #[test]
    fn wrong_types_and_shapes() {
        let file = small().raw("train.audio", "F64", &[3, 1, 1], vec![0; 24]);
        refused(&file.save(), &["train.audio holds F64", "wanted F32"]);
        let file = small().raw("train.audio_lengths", "I64", &[3], vec![0; 24]);
        refused(&file.save(), &["train.audio_lengths holds I64", "wanted I32"]);
        let file = small().f32("train.vision", &[3, 2], [0.0; 6]);
        refused(&file.save(), &["train.vision", "[3, 2]", "rows x steps x features"]);
        let file = small().f32("train.vision", &[3, 0, 2], []);
        refused(&file.save(), &["[3, 0, 2]"]);
        let file = small().f32("train.vision", &[2, 1, 1], [0.0; 2]);
        refused(&file.save(), &["train.vision has 2 rows where train.text has 3"]);
        let file = small().f32("train.regression_labels", &[2], [0.0; 2]);
        refused(&file.save(), &["train.regression_labels has 2 rows"]);
        let file = small().i32("train.text_bert", &[3, 2, 1], &[1; 6]);
        refused(&file.save(), &["rows x 3 x tokens"]);
        let file = TensorFile::new().f32("valid.regression_labels", &[1], [0.0]);
        refused(&file.save(), &["add a modality"]);
    }

    #[test]
    fn bad_values_are_located() {
        let mut audio: Vec<f32> = vec![0.0; 60];
        audio[20 + 2 * 5 + 3] = f32::NAN;
        refused(
            &small().f32("train.audio", &[3, 4, 5], audio.clone()).save(),
            &["train.audio, row 1, step 2, feature 3 is NaN"],
        );
        audio[33] = f32::NEG_INFINITY;
        refused(&small().f32("train.audio", &[3, 4, 5], audio).save(), &["feature 3 is -inf"]);
        let file = small().f32("train.factor_shared", &[3, 1], [0.0, f32::INFINITY, 0.0]);
        refused(&file.save(), &["train.factor_shared, row 1, feature 0 is inf"]);
        let file = small().f32("train.regression_labels", &[3], [0.0, f32::NAN, 0.0]);
        refused(&file.save(), &["train.regression_labels, row 1 is NaN"]);
        let file = small().f32("train.regression_labels", &[3], [0.0, 3.0, -3.5]);
        refused(
            &file.save(),
            &["1 of ", "outside -3..=3, the farthest in train.regression_labels, row 2: -3.5"],
        );
        let file = small().i32("train.class_labels", &[3], &[0, 1, -1]);
        refused(&file.save(), &["train.class_labels, row 2 is -1"]);
    }

    #[test]
    fn bad_lengths_and_tokens_are_located() {
        let file = small().i32("train.audio_lengths", &[3], &[1, 5, 1]);
        refused(&file.save(), &["train.audio_lengths, row 1 is 5, outside 0..=4"]);
        let file = small().i32("train.audio_lengths", &[3], &[1, 1, -2]);
        refused(&file.save(), &["row 2 is -2"]);
        for (tokens, wanted) in [
            ([-1, 1, 0], "a negative token id"),
            ([1, 2, 0], "an attention mask value"),
            ([1, 0, 0], "no token in its attention mask"),
            ([1, 1, 4], "a segment id"),
        ] {
            let all = [[1, 1, 0], tokens, [1, 1, 0]].concat();
            let file = small().i32("train.text_bert", &[3, 3, 1], &all);
            refused(&file.save(), &["train.text_bert, row 1 has", wanted]);
        }
    }

    #[test]
    fn splits_have_to_agree() {
        let both = |file: TensorFile| {
            file.f32("test.text", &[1, 1, 3], [0.0; 3])
                .f32("test.audio", &[1, 4, 5], [0.0; 20])
                .i32("test.audio_lengths", &[1], &[4])
                .i32("test.text_bert", &[1, 3, 4], &[1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
        };
        assert!(Dataset::open(both(small()).save().path()).is_ok());
        let file = both(small()).without("test.audio").save();
        refused(&file, &["train.audio is there but test.audio is not"]);
        let file = both(small()).without("train.text").save();
        refused(&file, &["test.text is there but train.text is not"]);
        let file = both(small()).without("test.audio_lengths").save();
        refused(&file, &["train.audio_lengths is there but test.audio_lengths is not"]);
        let file = both(small()).f32("test.text", &[1, 1, 2], [0.0; 2]).save();
        refused(&file, &["train.text has rows of [1, 3] where test.text has [1, 2]"]);
    }

    #[test]
    fn the_label_range_can_be_set() {
        let file = small().save();
        let options = Options { label_range: 1.0, ..Options::default() };
        let error = Dataset::open_with(file.path(), &options).unwrap_err().to_string();
        assert!(error.contains("outside -1..=1") && error.contains("row 2: 2;"), "{error}");
    }
}
