//! Writing the tensors of a plan: features stream from the source through one small buffer.

use std::io::{self, Write};
use std::path::Path;

use super::array::block_rows;
use super::budget::Budget;
use super::convert::{Fill, Plan, Rule, Stream};
use super::{Fault, Progress};
use crate::error::{Error, Result};
use crate::files::{tensor_header, write_atomic_with};

/// Writes the safetensors file, whole or not at all, and adds what was changed to the plan.
pub(super) fn tensors(
    plan: &mut Plan,
    path: &Path,
    metadata: &[(&str, String)],
    budget: &mut Budget,
    progress: Progress,
    failed: impl FnOnce(Fault) -> Error,
) -> Result<u64> {
    let (header, total) = header(plan, metadata);
    let mut stop = None;
    let written = write_atomic_with(path, |out| {
        let mut sink = Sink { out, done: 0, total, progress };
        sink.out.write_all(&header)?;
        let mut lengths = Vec::new();
        for tensor in &mut plan.tensors {
            match &tensor.fill {
                Fill::Floats(values) => sink.words(values)?,
                Fill::Ints(values) => sink.words(values)?,
                Fill::Lengths => sink.words(&std::mem::take(&mut lengths))?,
                Fill::Stream(stream) => {
                    let mut writer = Rows::new(stream, &tensor.name);
                    match writer.run(&mut sink, budget) {
                        Ok(()) => {}
                        Err(Stop::Io(error)) => return Err(error),
                        Err(Stop::Fault(fault)) => {
                            stop = Some(fault);
                            return Err(io::Error::other("the source cannot be read"));
                        }
                    }
                    tensor.changes.extend(writer.changes());
                    lengths = writer.lengths;
                }
            }
        }
        Ok(())
    });
    match stop {
        Some(fault) => Err(failed(fault)),
        None => written.map(|()| header.len() as u64 + total),
    }
}

/// The header, and the bytes of all tensors.
fn header(plan: &Plan, metadata: &[(&str, String)]) -> (Vec<u8>, u64) {
    let bytes = |shape: &[usize]| 4 * shape.iter().map(|axis| *axis as u64).product::<u64>();
    let tensors = plan.tensors.iter().map(|t| {
        let dtype = match t.fill {
            Fill::Floats(_) | Fill::Stream(_) => "F32",
            Fill::Ints(_) | Fill::Lengths => "I32",
        };
        (t.name.as_str(), dtype, t.shape.clone(), bytes(&t.shape))
    });
    let total = plan.tensors.iter().map(|t| bytes(&t.shape)).sum();
    (tensor_header(metadata, tensors), total)
}

struct Sink<'a, 'b> {
    out: &'a mut dyn Write,
    done: u64,
    total: u64,
    progress: Progress<'b>,
}

impl Sink<'_, '_> {
    fn words<T: bytemuck::NoUninit>(&mut self, words: &[T]) -> io::Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        self.out.write_all(bytes)?;
        self.done += bytes.len() as u64;
        (self.progress)(self.done, self.total);
        Ok(())
    }
}

enum Stop {
    Io(io::Error),
    Fault(Fault),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// The rows of a stream on their way, and what was mended.
struct Rows<'a> {
    stream: &'a Stream,
    name: &'a str,
    lengths: Vec<i32>,
    log_of_zero: u64,
    missing: u64,
    long: u64,
    short: u64,
    moved: u64,
    beyond: u64,
    /// Rows without lengths that begin with zeros and do not end so.
    front: u64,
}

impl<'a> Rows<'a> {
    fn new(stream: &'a Stream, name: &'a str) -> Self {
        Rows {
            stream,
            name,
            lengths: Vec::new(),
            log_of_zero: 0,
            missing: 0,
            long: 0,
            short: 0,
            moved: 0,
            beyond: 0,
            front: 0,
        }
    }

    fn run(&mut self, sink: &mut Sink, budget: &mut Budget) -> Result<(), Stop> {
        let Stream { source, ragged, rows, dim, .. } = self.stream;
        let mut values = Vec::new();
        if *ragged {
            for (row, array) in source.iter().enumerate() {
                let mut reader = array.reader(budget)?;
                let steps = array.shape[0];
                values.clear();
                let items = reader.next(steps)?;
                array.dtype.floats(items, &mut values).map_err(|m| {
                    let (step, feature) = (m.at / dim, m.at % dim);
                    self.fault(row, step, feature, &m.to_string())
                })?;
                reader.forget();
                self.emit(row, steps, &mut values, sink)?;
            }
            return Ok(());
        }
        let Some(array) = source.first() else { return Ok(()) };
        let steps = array.inner().first().copied().unwrap_or(1);
        let width = steps * dim;
        // The buffer of f32 is as large as the block of items, or smaller.
        let block = block_rows(width * array.dtype.size.max(4));
        let mut reader = array.reader(budget)?;
        let mut row = 0;
        while row < *rows {
            let count = block.min(rows - row);
            values.clear();
            let items = reader.next(count)?;
            array.dtype.floats(items, &mut values).map_err(|m| {
                let (at, inside) = (m.at / width, m.at % width);
                self.fault(row + at, inside / dim, inside % dim, &m.to_string())
            })?;
            reader.forget();
            self.emit(row, steps, &mut values, sink)?;
            row += count;
        }
        Ok(())
    }

    fn fault(&self, row: usize, step: usize, feature: usize, what: &str) -> Fault {
        Fault::new(format!("{}, row {row}, step {step}, feature {feature}: {what}", self.name))
    }

    /// Mends and writes rows of `steps` steps each.
    fn emit(
        &mut self,
        first: usize,
        steps: usize,
        values: &mut [f32],
        sink: &mut Sink,
    ) -> Result<(), Stop> {
        let dim = self.stream.dim;
        self.finite(first, steps, values)?;
        let padding = vec![0f32; (self.stream.steps - steps) * dim];
        for (k, row) in values.chunks_exact_mut(steps * dim).enumerate() {
            let valid = match &self.stream.rule {
                Rule::Single => continue,
                Rule::LastFrame => row.iter().rposition(|x| *x != 0.0).map_or(1, |at| at / dim + 1),
                Rule::Given(lengths) => {
                    let given = lengths.get(first + k).copied().unwrap_or(0);
                    self.long += u64::from(given > steps as i64);
                    self.short += u64::from(given < 1);
                    given.clamp(1, steps as i64) as usize
                }
            };
            self.lengths.push(valid as i32);
            let ends = matches!(self.stream.rule, Rule::LastFrame) && valid == steps && steps > 1;
            self.front += u64::from(ends && row[..dim].iter().all(|x| *x == 0.0));
            if row[valid * dim..].iter().all(|x| *x == 0.0) {
                continue;
            }
            // Padded at the front: zeros as many as the steps that are missing, then the rest.
            let lead = (steps - valid) * dim;
            if row[..lead].iter().all(|x| *x == 0.0) {
                row.rotate_left(lead);
                self.moved += 1;
            } else {
                self.beyond += 1;
            }
        }
        if padding.is_empty() {
            return Ok(sink.words(values)?);
        }
        for row in values.chunks_exact(steps * dim) {
            sink.words(row)?;
            sink.words(&padding)?;
        }
        Ok(())
    }

    /// -inf of audio becomes 0, with `nan_to_zero` all that is no number; else that is the end.
    fn finite(&mut self, first: usize, steps: usize, values: &mut [f32]) -> Result<(), Fault> {
        const EXPONENT: u32 = 0x7f80_0000;
        // No early exit, so that the compiler can vectorise the test.
        let bad = values.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT));
        if !bad {
            return Ok(());
        }
        let (dim, stream) = (self.stream.dim, self.stream);
        for at in 0..values.len() {
            let value = values[at];
            if value.is_finite() {
                continue;
            }
            if value == f32::NEG_INFINITY && stream.log_of_zero {
                self.log_of_zero += 1;
            } else if stream.nan_to_zero {
                self.missing += 1;
            } else {
                let (row, inside) = (at / (steps * dim), at % (steps * dim));
                let what = format!(
                    "the value is {value}; mend the extraction, or import with --nan-to-zero to \
                     have 0 for every value that is no number"
                );
                return Err(self.fault(first + row, inside / dim, inside % dim, &what));
            }
            values[at] = 0.0;
        }
        Ok(())
    }

    /// What was mended, in words.
    fn changes(&self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut say = |count: u64, one: &str, many: &str| match count {
            0 => {}
            1 => changes.push(format!("1 {one}")),
            _ => changes.push(format!("{count} {many}")),
        };
        say(self.log_of_zero, "value of -inf set to 0", "values of -inf set to 0");
        say(
            self.missing,
            "value of NaN or infinity set to 0",
            "values of NaN or infinity set to 0",
        );
        say(self.long, "length cut to the steps there are", "lengths cut to the steps there are");
        say(self.short, "length below 1 set to 1", "lengths below 1 set to 1");
        say(
            self.moved,
            "row was padded at the front: moved to the beginning",
            "rows were padded at the front: moved to the beginning",
        );
        say(
            self.beyond,
            "row has values past its length (kept, never read)",
            "rows have values past their lengths (kept, never read)",
        );
        say(
            self.front,
            "row begins with zeros (kept; padded at the front? then give lengths)",
            "rows begin with zeros (kept; padded at the front? then give lengths)",
        );
        changes
    }
}
