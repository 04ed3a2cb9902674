//! From MMSA's dictionaries to columns.

use std::ops::Range;
use std::sync::Arc;

use crate::data::{SplitName, clip_id};
use memmap2::Mmap;

use super::Fault;
use super::array::{Array, Kind, Payload};
use super::budget::Budget;
use super::pickle::{Object, Pickle, Value};
use super::table::{
    Column, EMPTY, Fields, TEXTS, Table, all_empty, empty_rows, field_named, is_stream,
    other_named, string, strings,
};

/// Reads a pickle of `{split: {field: values}}`.
pub(super) fn read(map: &Arc<Mmap>, budget: &mut Budget) -> Result<Table, Fault> {
    let pickle = Pickle::read(map, budget)?;
    let source = Source { pickle: &pickle, map, base: 0 };
    let mut table = Table::default();
    let Some(splits) = pickle.entries(pickle.root()) else {
        return Err(Fault::new(
            "the pickle is no dict; wanted {'train': {...}, 'valid': {...}, 'test': {...}}",
        ));
    };
    let one = source.one_clip(&splits);
    if one {
        table.notes.push("one clip without splits: it is the only row of test".into());
    }
    let whole = [("test", pickle.root())];
    for (key, value) in if one { &whole[..] } else { &splits } {
        let name = SplitName::known_as(key);
        if let (Some(name), Some(rows)) = (name, source.tuples(*value)) {
            table.splits[name.index()] =
                source.of_tuples(rows, budget).map_err(|f| f.within(key))?;
            continue;
        }
        let (Some(name), Some(fields)) = (name, pickle.entries(*value)) else {
            table.left.push(shown(key));
            continue;
        };
        let columns = &mut table.splits[name.index()];
        if !columns.is_empty() {
            return Err(Fault::new(format!("the {name} split is there twice; remove one")));
        }
        for &(key, value) in &fields {
            let known = field_named(key);
            // A field of another name is a stream where it is such numbers.
            let other = known.is_none().then(|| other_named(key)).flatten();
            let other =
                other.filter(|_| source.array(value).is_some_and(|array| is_stream(&array)));
            let Some(field) = known.or(other) else {
                table.left.push(format!("{name}.{}", shown(key)));
                continue;
            };
            // A field by its own name goes before one that only may be it, and of those the first.
            let named = key != field && fields.iter().any(|(other, _)| *other == field);
            if named || columns.contains_key(field) {
                table.left.push(format!("{name}.{}", shown(key)));
                continue;
            }
            if key != field && key != "classification_labels" {
                table.notes.push(format!("{} was taken for {field}", shown(key)));
            }
            let place = |fault: Fault| fault.within(&format!("{name}.{}", shown(key)));
            let column = match (TEXTS.contains(&field), one) {
                (true, false) => Column::Texts(source.texts(value, budget).map_err(place)?),
                (false, false) => source.numbers(value, budget).map_err(place)?,
                (_, true) => source.single(value).map_err(place)?,
            };
            columns.insert(field, column);
        }
        let (columns, notes) = (&mut table.splits[name.index()], &mut table.notes);
        empty_rows(name.name(), columns, notes);
    }
    if table.splits.iter().all(|split| split.is_empty()) {
        let keys: Vec<String> = splits.iter().take(12).map(|(key, _)| shown(key)).collect();
        return Err(Fault::new(format!(
            "none of train, valid and test is a dict in this pickle; its keys are: {}; save it as \
             {{'train': {{...}}, 'valid': {{...}}, 'test': {{...}}}}",
            keys.join(", ")
        )));
    }
    let rest = map.len() - pickle.read;
    if rest > 0 {
        table.notes.push(format!("{rest} bytes after the end of the pickle were not read"));
    }
    Ok(table)
}

/// The strings, or the numbers, of an array of objects, as `.npy` files keep them.
pub(super) fn object_array(
    map: &Arc<Mmap>,
    range: Range<usize>,
    budget: &mut Budget,
) -> Result<Column, Fault> {
    let bytes = map.get(range.clone()).unwrap_or_default();
    let pickle = Pickle::read(bytes, budget)?;
    let source = Source { pickle: &pickle, map, base: range.start };
    let first = source.items(pickle.root()).and_then(|items| items.first().copied());
    let numbers = first.is_some_and(|item| {
        source.number(item).is_some() || source.array(item).is_some_and(|a| a.dtype.is_number())
    });
    match numbers {
        true => source.numbers(pickle.root(), budget),
        false => source.texts(pickle.root(), budget).map(Column::Texts),
    }
}

/// A key as an error or a note may show it.
fn shown(key: &str) -> String {
    key.chars().take(60).collect::<String>().escape_debug().to_string()
}

/// Bytes of one string: a sentence is shorter.
const LONGEST: usize = 1 << 20;

struct Source<'a> {
    pickle: &'a Pickle<'a>,
    map: &'a Arc<Mmap>,
    /// Where the pickle begins in the map.
    base: usize,
}

impl Source<'_> {
    /// An array of the pickle, its items left where they are.
    fn array(&self, value: Value) -> Option<Array> {
        let Object::Array(found) = self.pickle.object(value)? else { return None };
        let (span, latin) = match found.payload {
            Value::Bytes(span) => (span, false),
            Value::Latin(span) => (span, true),
            _ => return None,
        };
        let start = self.base + span.start;
        Some(Array {
            dtype: found.dtype,
            shape: found.shape.clone(),
            strides: found.strides.clone(),
            payload: Payload::Mapped {
                map: self.map.clone(),
                range: start..start + span.len,
                latin,
            },
            picked: None,
        })
    }

    /// The items of a list, a tuple, or an array of objects.
    fn items(&self, value: Value) -> Option<&[Value]> {
        match self.pickle.object(value)? {
            Object::Array(array) => self.pickle.items(array.payload),
            _ => self.pickle.items(value),
        }
    }

    fn texts(&self, value: Value, budget: &mut Budget) -> Result<Vec<String>, Fault> {
        if let Some(array) = self.array(value) {
            return match array.dtype.kind {
                _ if array.shape.contains(&0) => Err(Fault::new(EMPTY)),
                Kind::Unicode | Kind::Bytes => strings(&array, budget),
                _ if array.dtype.is_number() && array.row_items() == 1 => {
                    let numbers = array
                        .all(budget, |dtype, items, out: &mut Vec<f32>| dtype.floats(items, out))?;
                    let numbers = numbers.map_err(|m| Fault::new(m.to_string()))?;
                    let mut texts = Vec::new();
                    for number in numbers {
                        budget.text(&mut texts, &number.to_string())?;
                    }
                    Ok(texts)
                }
                _ => Err(Fault::new(format!("an array of {} where strings belong", array.dtype))),
            };
        }
        let Some(items) = self.items(value) else {
            return Err(Fault::new("no list or array of strings"));
        };
        // A row of several: video, start and end.
        if let Some(Object::Array(array)) = self.pickle.object(value)
            && let [rows, each @ 2..=8] = array.shape[..]
            && rows * each == items.len()
        {
            let mut texts = Vec::new();
            for (row, parts) in items.chunks_exact(each).enumerate() {
                let joined = self.joined(parts).ok_or_else(|| {
                    Fault::new(format!("row {row} is neither strings nor numbers; make it such"))
                })?;
                budget.text(&mut texts, &joined)?;
            }
            return Ok(texts);
        }
        let mut texts = Vec::new();
        for (row, item) in items.iter().enumerate() {
            let text = self.text(*item).ok_or_else(|| {
                Fault::new(format!("row {row} is neither a string nor a number; make it one"))
            })?;
            budget.text(&mut texts, &text)?;
        }
        Ok(texts)
    }

    /// One string, or a number as one.
    fn text(&self, item: Value) -> Option<std::borrow::Cow<'_, str>> {
        Some(match item {
            // Python keeps halves of surrogate pairs in its pickles; they become U+FFFD.
            Value::Text(span) | Value::Bytes(span) if span.len <= LONGEST => {
                String::from_utf8_lossy(self.pickle.span(span))
            }
            Value::Int(n) => n.to_string().into(),
            Value::Float(x) => x.to_string().into(),
            Value::None => "".into(),
            Value::Object(_) => match self.pickle.object(item)? {
                Object::Scalar(dtype, payload)
                    if matches!(dtype.kind, Kind::Unicode | Kind::Bytes) =>
                {
                    string(dtype.kind, dtype.big, &self.scalar(*payload)?).into()
                }
                Object::Scalar(dtype, payload) if dtype.is_number() => {
                    dtype.number(&self.scalar(*payload)?)?.to_string().into()
                }
                // A row of several strings: video and clip.
                Object::List(parts) | Object::Tuple(parts) if parts.len() <= 8 => {
                    self.joined(parts)?.into()
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Several as one: video and clip, or video, start and end.
    fn joined(&self, parts: &[Value]) -> Option<String> {
        let plain = |part: &Value| match part {
            Value::Object(_) => matches!(self.pickle.object(*part), Some(Object::Scalar(..))),
            other => !matches!(other, Value::None),
        };
        let parts: Option<Vec<_>> =
            parts.iter().map(|part| plain(part).then(|| self.text(*part))?).collect();
        Some(clip_id(&parts?))
    }

    /// Whether a dict without splits is what MMSA-FET's run_single writes: fields of one clip.
    fn one_clip(&self, fields: &[(&str, Value)]) -> bool {
        let split = fields.iter().any(|(key, _)| SplitName::known_as(key).is_some());
        let clip = fields.iter().any(|(key, value)| {
            let stream = matches!(field_named(key), Some("text" | "audio" | "vision"));
            stream && self.array(*value).is_some_and(|a| matches!(a.shape.len(), 1 | 2))
        });
        clip && !split
    }

    /// A field of one clip as a column of one row.
    fn single(&self, value: Value) -> Result<Column, Fault> {
        if let Some(mut array) = self.array(value)
            && array.dtype.is_number()
        {
            if array.shape.contains(&0) {
                return Err(Fault::new(EMPTY));
            }
            array.shape.insert(0, 1);
            array.strides.insert(0, 0);
            return Ok(Column::Array(array));
        }
        if let Some(number) = self.number(value) {
            return Ok(Column::Array(Array::column(&[number])));
        }
        let text = self.text(value).map(std::borrow::Cow::into_owned);
        let text = text.ok_or_else(|| Fault::new("neither numbers nor a string"))?;
        Ok(Column::Texts(vec![text]))
    }

    /// The rows of a split as MAG-BERT keeps them: ((words, vision, audio), label, id) each.
    fn tuples(&self, value: Value) -> Option<Vec<[Value; 5]>> {
        let rows = self.pickle.items(value)?;
        let row = |row: &Value| {
            let [all, label, id] = *self.pickle.items(*row)? else { return None };
            let [words, vision, audio] = *self.pickle.items(all)? else { return None };
            Some([words, vision, audio, label, id])
        };
        let rows: Option<Vec<[Value; 5]>> = rows.iter().map(row).collect();
        rows.filter(|rows| !rows.is_empty())
    }

    fn of_tuples(&self, rows: Vec<[Value; 5]>, budget: &mut Budget) -> Result<Fields, Fault> {
        budget.charge(6 * size_of_val(rows.as_slice()))?;
        let at = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<Value>>();
        let mut fields = Fields::new();
        for (i, name) in [(1, "vision"), (2, "audio"), (3, "regression_labels")] {
            let column = self.numbers_of(&at(i), budget).map_err(|f| f.within(name))?;
            fields.insert(name, column);
        }
        let (mut sentences, mut ids) = (Vec::new(), Vec::new());
        for (row, [words, _, _, _, id]) in rows.iter().enumerate() {
            let bad = |what: &str| Fault::new(format!("row {row}: {what}"));
            let words = self.pickle.items(*words).ok_or_else(|| bad("its words are no list"))?;
            let words: Option<Vec<_>> = words.iter().map(|word| self.text(*word)).collect();
            let words = words.ok_or_else(|| bad("a word is no string"))?.join(" ");
            budget.text(&mut sentences, &words)?;
            let id = self.text(*id).ok_or_else(|| bad("its id is no string"))?;
            budget.text(&mut ids, &id)?;
        }
        fields.insert("raw_text", Column::Texts(sentences));
        fields.insert("id", Column::Texts(ids));
        Ok(fields)
    }

    /// The bytes of a numpy scalar.
    fn scalar(&self, payload: Value) -> Option<Vec<u8>> {
        match payload {
            Value::Bytes(span) if span.len <= LONGEST => Some(self.pickle.span(span).to_vec()),
            Value::Latin(span) if span.len <= LONGEST => {
                let text = std::str::from_utf8(self.pickle.span(span)).ok()?;
                text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
            }
            _ => None,
        }
    }

    fn number(&self, item: Value) -> Option<f64> {
        Some(match item {
            // Beyond this an f64 is rounded, and no field of ours could hold it either.
            Value::Int(n) => n as f64,
            Value::Float(x) => x,
            Value::Bool(b) => f64::from(u8::from(b)),
            _ => match self.pickle.object(item)? {
                Object::Scalar(dtype, payload) => dtype.number(&self.scalar(*payload)?)?,
                // A label kept as an array of one.
                Object::Array(array) if array.dtype.is_number() => {
                    let one = array.shape.iter().product::<usize>() == 1;
                    one.then(|| array.dtype.number(&self.scalar(array.payload)?))??
                }
                _ => return None,
            },
        })
    }

    fn numbers(&self, value: Value, budget: &mut Budget) -> Result<Column, Fault> {
        if let Some(array) = self.array(value) {
            return match array.dtype.is_number() {
                _ if array.shape.contains(&0) => Err(Fault::new(EMPTY)),
                true if !array.shape.is_empty() => Ok(Column::Array(array)),
                true => Err(Fault::new("a single number where there should be one for each row")),
                false => Err(Fault::new(format!(
                    "an array of {} where numbers belong; convert it with astype('float32')",
                    array.dtype
                ))),
            };
        }
        let Some(items) = self.items(value) else {
            return Err(Fault::new("no array of numbers; convert it with numpy.asarray"));
        };
        self.numbers_of(items, budget)
    }

    fn numbers_of(&self, items: &[Value], budget: &mut Budget) -> Result<Column, Fault> {
        budget.charge(items.len().saturating_mul(2 * size_of::<f64>()))?;
        let numbers: Option<Vec<f64>> = items.iter().map(|item| self.number(*item)).collect();
        if let Some(numbers) = numbers {
            return Ok(Column::Array(Array::column(&numbers)));
        }
        // Sequences of different lengths, an array each.
        budget.charge(items.len().saturating_mul(2 * size_of::<Array>()))?;
        let mut arrays: Vec<Array> = Vec::with_capacity(items.len());
        let mut bytes = 0usize;
        for (row, item) in items.iter().enumerate() {
            let found = self.array(*item).filter(|a| a.dtype.is_number());
            let array = found.ok_or_else(|| {
                Fault::new(format!(
                    "row {row} is neither a number nor an array of numbers; convert it with \
                     numpy.asarray"
                ))
            })?;
            // Without a step the row lacks the modality; without a feature it is nothing.
            let stepless = array.shape.len() == 2 && array.shape[0] == 0 && array.shape[1] > 0;
            if array.shape.contains(&0) && !stepless {
                return Err(Fault::new(format!("row {row} is {EMPTY}")));
            }
            budget.charge(2 * array.shape.len() * size_of::<usize>())?;
            // A pickle can name one array many times, and then be far larger than its file.
            bytes = bytes.saturating_add(array.payload.len());
            if bytes > self.map.len() {
                return Err(Fault::new("the same array for several rows; save a copy for each"));
            }
            arrays.push(array);
        }
        all_empty(&arrays)?;
        Ok(Column::Ragged(arrays))
    }
}
