//! `modalign import`: other people's feature files as a data set.

use super::{Global, output};
use crate::data::import::{Options, Report, TensorReport, import};
use crate::error::Result;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

const HELP: &str = "\
A pickle is {'train': {...}, 'valid': {...}, 'test': {...}} with MMSA's fields: text, text_bert,
audio, vision, audio_lengths, vision_lengths, audio_missing (1 in rows without audio; likewise text and
vision), regression_labels (and _T, _A, _V), classification_labels, raw_text, id, annotations. Labels of
several columns are several numbers, or of 0 and 1 several labels, a row. Arrays of numbers with a fraction
under any other name (image, clip_text) are streams of that name. It is read without Python, and nothing in
it is run.

Read, too: MAG-BERT's lists of ((words, vision, audio), label, id), OrderedDict and defaultdict, and the one
clip that MMSA-FET's run_single writes (a row of test). A row without a step lacks that modality. Of labels
of several columns --label-column takes one. A .safetensors file may have numbers of any type (lengths of 64
bits, halves, labels of one column); ids and texts come from NAME.json beside it. HDF5 files are those of h5py,
and MATLAB's .mat files of -v7.3, whose cell arrays are strings, or steps x features of each row; of CMU's .csd
files it is said what they are, and nothing is taken.

What is mended, and said: -inf of audio becomes 0, as in MMSA's own loader (NaN and other infinities
stop the import, or become 0 with --nan-to-zero); lengths are held to 1..=steps; aligned files get
lengths from the attention mask; rows padded at the front are moved to the beginning; lines of
text_bert and audio/vision under each other's names are put in order; all types become f32 or i32.

Arrays of .npz, .safetensors and HDF5 files and files of folders that are named like train_audio,
train.audio or train/audio.npy need no mapping. Others do; {split} stands for train, valid and test:

  [fields]
  audio             = \"{split}/covarep.npy\"        # rows x steps x features
  regression_labels = \"{split}/meta.csv:sentiment\" # FILE.csv:column
  id                = \"{split}/meta.csv:segment\"

One table for all rows says which split each is in; {id} stands for a file for each sample, with a
line (or row) for each step, padded to the longest:

  split = \"meta.csv:split\"                         # train, valid or test
  [fields]
  id                = \"meta.csv:id\"
  regression_labels = \"meta.csv:label\"
  text              = \"sentences.npy\"
  vision            = \"openface/{id}.csv:AU*_r,gaze_*\"  # families of columns

Columns are a list of names, of families with * for anything, and of spans first..last. Without a list all
are taken but those that count or name the lines (openSMILE's name and frameTime; OpenFace's frame, face_id,
timestamp, confidence and success). Cells are parted by commas, semicolons or tabs, or by blanks in tables of
numbers alone. A first line of numbers is data: then columns go by number, as in {id}.csv:0..73. Lines with
success 0, in which OpenFace found no face, are all 0; a sample without any other lacks the modality.

In an .npz the names are those of its arrays: audio = \"X_{split}_audio\".

Examples:
  modalign import mosi_unaligned_50.pkl --out mosi.safetensors
  modalign import features.npz --out mine.safetensors
  modalign import recordings/ --map map.toml --out mine.safetensors";

/// Options of `import`.
#[derive(Args)]
#[command(after_help = HELP)]
pub(super) struct ImportArgs {
    /// A pickle of MMSA's kind, an .npz archive, a .safetensors or HDF5 file, or a folder of .npy and .csv files
    #[arg(value_name = "FILE|FOLDER")]
    source: PathBuf,
    /// The data set to write; ids and texts go into NAME.json beside it
    #[arg(long, value_name = "NAME.safetensors")]
    out: PathBuf,
    /// Which array is which field (for .npz, .safetensors and HDF5 files and for folders; below)
    #[arg(long, value_name = "MAP.toml")]
    map: Option<PathBuf>,
    /// Put 0 for features that are NaN or infinite, instead of stopping at the first
    #[arg(long)]
    nan_to_zero: bool,
    /// Of labels of several columns take this one: a number from 0, or of MOSEI's seven sentiment, happy,
    /// sad, anger, surprise, disgust or fear
    #[arg(long, value_name = "COLUMN")]
    label_column: Option<String>,
}

/// Converts, and says what became of what.
pub(super) fn run(args: &ImportArgs, global: &Global) -> Result<()> {
    let options = Options {
        map: args.map.clone(),
        nan_to_zero: args.nan_to_zero,
        label_column: args.label_column.clone(),
    };
    let bar = (!global.quiet && std::io::stderr().is_terminal()).then(bar);
    let mut progress = |done, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    let report = import(&args.source, &args.out, &options, &mut progress);
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    show(&report?, args, global)
}

fn bar() -> ProgressBar {
    let template = "{bar:24.cyan} {bytes}/{total_bytes} {binary_bytes_per_sec}";
    // A template that does not parse would only cost the bar its looks.
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(report: &Report, args: &ImportArgs, global: &Global) -> Result<()> {
    let out = args.out.display().to_string();
    let preset = (report.preset != "mosi").then(|| format!(" --preset {}", report.preset));
    let next = format!("modalign inspect {out}{}", preset.unwrap_or_default());
    if global.json {
        let mut value = json!(report);
        value["path"] = Value::String(out);
        value["next"] = Value::String(next);
        return output::json(&value);
    }
    let splits = report.rows.iter().map(|(split, rows)| format!("{rows} {split}"));
    output::print(&format!("rows: {}\n", splits.collect::<Vec<_>>().join(", ")))?;
    let fields = fields(report);
    let rows = fields.iter().map(|(row, _)| row.clone());
    output::tables(&[("", output::table(["field", "shape", "was"], 3, rows))])?;
    output::print("")?;
    for (row, changes) in &fields {
        for change in changes {
            output::print(&format!("{}: {change}", row[0]))?;
        }
    }
    let size = output::bytes(report.bytes);
    let what = report.published.map_or_else(String::new, |name| format!("; the source is {name}"));
    output::print(&format!("\n{out}: {size}{what}"))?;
    if !report.texts.is_empty() {
        let json = args.out.with_extension("json");
        output::print(&format!("{}: {}", json.display(), report.texts.join(", ")))?;
    }
    if !report.left.is_empty() {
        output::print(&format!("not taken over: {}", few(&report.left)))?;
    }
    for note in &report.notes {
        output::print(&format!("note: {note}"))?;
    }
    global.note(&format!("next: {next}"));
    Ok(())
}

/// A line for each field, and what was changed of it: what is the same in all splits is said once.
fn fields(report: &Report) -> Vec<(Vec<String>, Vec<String>)> {
    let mut names: Vec<&str> = Vec::new();
    for tensor in &report.tensors {
        if !names.contains(&tensor.field.as_str()) {
            names.push(&tensor.field);
        }
    }
    let line = |name: &str| {
        let own: Vec<&TensorReport> = report.tensors.iter().filter(|t| t.field == name).collect();
        let shape = own.first().map_or(&[][..], |t| t.shape.get(1..).unwrap_or_default());
        let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
        let mut types: Vec<&str> = own.iter().map(|t| t.from.as_str()).collect();
        types.dedup();
        let mut changes: Vec<(String, Vec<String>)> = Vec::new();
        for tensor in &own {
            for change in &tensor.changes {
                match changes.iter_mut().find(|(known, _)| known == change) {
                    Some((_, splits)) => splits.push(tensor.split.to_string()),
                    None => changes.push((change.clone(), vec![tensor.split.to_string()])),
                }
            }
        }
        let changes = changes.into_iter().map(|(change, splits)| {
            let all = splits.len() == own.len();
            if all { change } else { format!("{}: {change}", splits.join(", ")) }
        });
        let shape = if shape.is_empty() { "-".into() } else { shape.join("x") };
        let was = if types.concat().is_empty() { "made".into() } else { types.join(", ") };
        (vec![name.to_string(), shape, was], changes.collect())
    };
    names.into_iter().map(line).collect()
}

/// A list that may be long.
fn few(items: &[String]) -> String {
    const MOST: usize = 12;
    let shown = items.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    match items.len() {
        0..=MOST => shown,
        n => format!("{shown} and {} more", n - MOST),
    }
}
