//! `modalign predict`: one row for each sample.

use super::eval::{parse_split, say_absent};
use super::{Global, output, predict_sound, run_folder};
use crate::data::{Dataset, Modality, Split, SplitName, Targets, Task, TaskKind};
use crate::error::{Error, Result};
use crate::recipe::TokenSource;
use crate::train::carried::head_name;
use crate::train::metrics::{self, Convention};
use crate::train::{Predictions, Saved, open_saved, sentences};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Options of `predict`.
#[derive(Args)]
#[command(after_help = "\
Columns: id (from FILE.json beside the data, else SPLIT-ROW), score (the fused head), class, the
scores of the modalities' own heads where the model has them, and the label where the data has one.

class is negative, neutral or positive by the sign of the score. Neutral is what the field's
metrics count as 0: from -0.5 to 0.5 by the MOSI convention (it rounds to 0), above -0.1 and up to
0.1 by the SIMS convention. MOSI models also get class7, the rounded score in words, from strongly
negative (-3) to strongly positive (3).

--text wants a model trained with --bert, and prints a line for each sentence. A model that also
reads audio or vision answers with the head of its text alone, since nothing is heard or seen.

--audio (or --wav) wants a model whose audio came from modalign features: the same features are
computed of each recording, wav, FLAC, Ogg or MP3, in as many steps as the model was trained with, and
standardised as in training. A model that reads sentences as well wants a --text for each, in order.

Examples:
  modalign predict --model runs/mosi-mosi-1111 --data new.safetensors
  modalign predict --model runs/mosi-mosi-1111 --text \"I really enjoyed this film\"
  modalign predict --model runs/mine-sims-1111 --audio new.wav --audio old.mp3
  modalign predict --model runs/mine-sims-1111 --audio new.wav --text \"I enjoyed it\"
  modalign predict --model runs/mosi-mosi-1111 --data new.safetensors --out scores.csv
  modalign predict --model best.safetensors --data new.safetensors --format jsonl | head")]
pub(super) struct PredictArgs {
    /// A run folder (its best epoch) or a model file
    #[arg(long, value_name = "RUN|FILE")]
    model: PathBuf,
    /// The data set; it needs no labels [default: the run's own]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Score this sentence instead of a data set; may be given several times
    #[arg(long, value_name = "SENTENCE", allow_hyphen_values = true,
        conflicts_with_all = ["data", "split"])]
    text: Vec<String>,
    /// Score this recording instead of a data set; may be given several times
    #[arg(long, value_name = "FILE", visible_alias = "wav", conflicts_with_all = ["data", "split"])]
    audio: Vec<PathBuf>,
    /// Which part of it: train, valid or test [default: test, or the only one there is]
    #[arg(long, value_parser = parse_split)]
    split: Option<SplitName>,
    /// How to write it [default: by the ending of --out, else table]
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Write to this file, whole or not at all, instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns
    Table,
    /// Comma-separated values with a header
    Csv,
    /// A JSON object a line
    Jsonl,
    #[value(skip)]
    Json,
}

/// Writes the rows.
pub(super) fn run(args: &PredictArgs, global: &Global) -> Result<()> {
    let mut saved = Saved::load(&args.model)?;
    // The folder of what was typed, or of recordings, goes when this function ends.
    let (gpu, (_folder, path)) = if !args.audio.is_empty() {
        let heard = predict_sound::wanted(&saved, &args.audio, &args.text)?;
        let gpu = global.gpu()?;
        let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
        let path = heard.write(&gpu, folder.path(), &args.audio, &args.text)?;
        saved.card.config.bert.input = TokenSource::RawText;
        (gpu, (Some(folder), path))
    } else if args.text.is_empty() {
        let path = run_folder::data_for(&args.model, args.data.as_deref())?;
        (global.gpu()?, (None, path))
    } else {
        let (folder, path) = sentences(&saved, &args.text)?;
        saved.card.config.bert.input = TokenSource::TextBert;
        (global.gpu()?, (Some(folder), path))
    };
    // Sentences that come with recordings are a part of their rows.
    let alone = if args.audio.is_empty() { args.text.as_slice() } else { &[] };
    let mut session = open_saved(&gpu, &saved, &path)?;
    let split = choose(session.data(), args.split)?;
    say_absent(&session, &path, global);
    let predictions = session.predict(split)?;
    gpu.save_pipeline_cache();
    let convention = saved.card.config.data.convention;
    let data = session.data().clone();
    let Some(rows) = data.split(split) else {
        return Err(Error::data(&path, format!("no '{split}' split")));
    };
    let (names, lines) = match alone {
        [] if data.task().one_number() => lines(rows, &predictions, convention),
        [] => told(("id", &|row| rows.id(row)), &predictions, (data.task(), rows.targets())),
        texts if !data.task().one_number() => {
            if saved.card.streams.iter().any(|s| s.modality != Modality::Text) {
                let why = "the model reads more than text, and no part of it scores text alone: train \
                           with model.modalities=T to score sentences";
                return Err(Error::Config(why.into()));
            }
            let said = |row: usize| texts[row].clone();
            told(("text", &said), &predictions, (data.task(), None))
        }
        texts => spoken(texts, &predictions, &saved)?,
    };
    let model = saved.path.display().to_string();
    let about = match args.audio.is_empty() && args.text.is_empty() {
        true => json!({ "model": model, "data": path.display().to_string(), "split": split }),
        false => json!({ "model": model }),
    };
    let text = args.shown(&names, &lines, about, global);
    output::write_to(args.out.as_deref(), &text)?;
    if let Some(out) = &args.out {
        global.note(&format!("{}: {} rows", out.display(), lines.len()));
    }
    Ok(())
}

impl PredictArgs {
    /// The rows in the format asked for.
    fn shown(
        &self,
        names: &[String],
        lines: &[Vec<Value>],
        about: Value,
        global: &Global,
    ) -> String {
        match self.format(global.json) {
            Format::Table => {
                let right = names.iter().position(|n| *n == "score").unwrap_or(1);
                let rows = lines.iter().map(|l| l.iter().map(shown).collect());
                let mut table = output::table(names.iter().map(String::as_str), right, rows);
                for (name, column) in names.iter().zip(table.column_iter_mut()) {
                    if name.starts_with("class") {
                        column.set_cell_alignment(comfy_table::CellAlignment::Left);
                    }
                }
                output::text(&table)
            }
            Format::Csv => csv(names, lines),
            Format::Jsonl => objects(names, lines).map(|o| format!("{o}\n")).collect(),
            Format::Json => {
                let mut object = about;
                object["rows"] = objects(names, lines).collect();
                object.to_string()
            }
        }
    }

    fn format(&self, json: bool) -> Format {
        let ending = self.out.as_ref().and_then(|p| p.extension()).and_then(|e| e.to_str());
        match (json, self.format, ending) {
            (true, ..) | (_, None, Some("json")) => Format::Json,
            (_, Some(format), _) => format,
            (_, None, Some("csv")) => Format::Csv,
            (_, None, Some("jsonl")) => Format::Jsonl,
            _ => Format::Table,
        }
    }
}

/// The split that is asked for, else test or the only one there is.
pub(super) fn choose(data: &Dataset, wanted: Option<SplitName>) -> Result<SplitName> {
    if let Some(split) = wanted {
        return Ok(split);
    }
    let there: Vec<SplitName> = data.splits().map(Split::name).collect();
    match there.as_slice() {
        [only] => Ok(*only),
        _ if there.contains(&SplitName::Test) => Ok(SplitName::Test),
        _ => Err(Error::Config("--split: the data has no test part; say train or valid".into())),
    }
}

/// Names of columns, and lines of as many values.
type Table = (Vec<String>, Vec<Vec<Value>>);

fn lines(split: &Split, predictions: &Predictions, convention: Convention) -> Table {
    let mosi = convention == Convention::Mosi;
    let labels = split.labels();
    let mut names = ["id", "score", "class"].map(String::from).to_vec();
    names.extend(mosi.then(|| "class7".into()));
    names.extend(predictions.tasks.iter().skip(1).map(|score| head_name(score)));
    names.extend(labels.map(|_| "label".into()));
    let lines = predictions.scores.iter().enumerate().map(|(row, scores)| {
        let score = scores[0];
        let mut line = vec![json!(split.id(row)), number(score), json!(class(score, convention))];
        line.extend(mosi.then(|| json!(class7(score))));
        line.extend(scores.iter().map(|s| number(*s)).skip(1));
        line.extend(labels.map(|l| number(l[row])));
        line
    });
    (names, lines.collect())
}

/// The rows of a task of classes, labels or several numbers: what is said of each, of classes and labels
/// as probabilities.
fn told(
    (what, name): (&str, &dyn Fn(usize) -> String),
    predictions: &Predictions,
    (task, targets): (&Task, Option<Targets<'_>>),
) -> Table {
    let (n, classes) = (task.outputs(), task.kind == TaskKind::Classes);
    let label = |name: &String| format!("label {name}");
    let mut names = vec![what.to_string()];
    names.extend(classes.then(|| "class".into()));
    names.extend(task.names.iter().cloned());
    match targets {
        Some(_) if classes => names.push("label".into()),
        Some(_) => names.extend(task.names.iter().map(label)),
        None => {}
    }
    let lines = predictions.scores.iter().enumerate().map(|(row, scores)| {
        let said = match task.kind {
            TaskKind::Regression => scores[..n].to_vec(),
            kind => metrics::probabilities(kind, &scores[..n]),
        };
        let mut line = vec![json!(name(row))];
        line.extend(classes.then(|| json!(task.names[metrics::largest(&said)])));
        line.extend(said.into_iter().map(number));
        let own = targets.map(|t| &t.words[row * t.width..][..t.width]).unwrap_or_default();
        line.extend(own.iter().map(|word| match classes {
            true => json!(task.names[*word as usize]),
            false => number(f32::from_bits(*word)),
        }));
        line
    });
    (names, lines.collect())
}

/// A line for each sentence. Where the model reads more than text, its text head answers.
fn spoken(texts: &[String], predictions: &Predictions, saved: &Saved) -> Result<Table> {
    let convention = saved.card.config.data.convention;
    let mosi = convention == Convention::Mosi;
    let others = saved.card.streams.iter().any(|s| s.modality != Modality::Text);
    let head = if others { "T" } else { "M" };
    let task = predictions.tasks.iter().position(|t| *t == head).ok_or_else(|| {
        let model = &saved.card.config.model.name;
        // Of the models that read sentences one has heads of its modalities.
        let instead = match model.as_str() {
            "self_mm" => {
                "(labels.enabled=false): train with model.modalities=T to score sentences".into()
            }
            _ => format!(
                "({model} makes one score of all): give the sentences with the rest as --data"
            ),
        };
        let path = saved.path.display();
        Error::Config(format!("{path} has no head of the text alone {instead}"))
    })?;
    let mut names = ["text", "score", "class"].map(String::from).to_vec();
    names.extend(mosi.then(|| "class7".into()));
    let lines = texts.iter().zip(&predictions.scores).map(|(text, scores)| {
        let score = scores[task];
        let mut line = vec![json!(text), number(score), json!(class(score, convention))];
        line.extend(mosi.then(|| json!(class7(score))));
        line
    });
    Ok((names, lines.collect()))
}

/// The shortest digits that mean this `f32`, rather than all of its `f64`.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn class(score: f32, convention: Convention) -> &'static str {
    // The bands of Acc-7 (half to even: both 0.5 and -0.5 round to 0) and of Acc-3.
    let (negative, positive) = match convention {
        Convention::Mosi => (score < -0.5, score > 0.5),
        Convention::Sims => (score <= -0.1, score > 0.1),
    };
    match (negative, positive) {
        (true, _) => "negative",
        (_, true) => "positive",
        _ => "neutral",
    }
}

fn class7(score: f32) -> &'static str {
    const WORDS: [&str; 7] = [
        "strongly negative",
        "negative",
        "weakly negative",
        "neutral",
        "weakly positive",
        "positive",
        "strongly positive",
    ];
    WORDS[metrics::class(score, Convention::Mosi)]
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        number => format!("{:.3}", number.as_f64().unwrap_or(f64::NAN)),
    }
}

fn objects(names: &[String], lines: &[Vec<Value>]) -> impl Iterator<Item = Value> {
    lines.iter().map(|line| {
        let fields = names.iter().map(ToString::to_string).zip(line.iter().cloned());
        Value::Object(fields.collect::<Map<_, _>>())
    })
}

fn csv(names: &[String], lines: &[Vec<Value>]) -> String {
    let field = |value: &Value| match value {
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    let mut text = names.join(",");
    text.push('\n');
    for line in lines {
        text.push_str(&line.iter().map(field).collect::<Vec<_>>().join(","));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_metrics() {
        let mosi = |s| class(s, Convention::Mosi);
        assert_eq!([-0.51, -0.5, 0.0, 0.5, 0.51].map(mosi).concat(), {
            ["negative", "neutral", "neutral", "neutral", "positive"].concat()
        });
        let sims = |s| class(s, Convention::Sims);
        assert_eq!((sims(-0.1), sims(-0.09), sims(0.1), sims(0.11)), {
            ("negative", "neutral", "neutral", "positive")
        });
        assert_eq!((class7(-9.0), class7(-0.5), class7(1.5)), {
            ("strongly negative", "neutral", "positive")
        });
    }

    #[test]
    fn csv_fields_are_quoted_where_they_must_be() {
        let text = csv(&["id".into(), "score".into()], &[vec![json!("a,\"b\""), json!(0.5f32)]]);
        assert_eq!(text, "id,score\n\"a,\"\"b\"\"\",0.5\n");
    }
}
