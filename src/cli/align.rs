//! `modalign align`: a data set with a step for each word.

use super::{Global, output};
use crate::data::{Modality, Tokenizer};
use crate::error::Result;
use crate::features::{ByWord, ByWordReport, by_word, read_words};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Options of `align`.
#[derive(Args)]
#[command(after_help = "\
Models that want aligned data (mfn, ef_lstm, bert_mag) read a step of each modality with each word. From a
table of words and when they are said, as a forced aligner or a recogniser writes it,

  id,word,start,end
  talk-1,so,0.00,0.21
  talk-1,good,0.21,0.66

each word gets the mean of the audio and vision steps within it, those from its start up to its end; step
i is at i / rate seconds. A word that has none gets zeros, and is counted. Features that modalign made say
their rate themselves. Text whose steps are features must have one for each word.

With --bert, the folder of an encoder, the text becomes tokens of the table's words (text_bert), and there
is a step for each token, as in MMSA's aligned files: pieces of a word have the word's mean, [CLS] and [SEP]
zeros. raw_text of the new set has the table's words in any case. Everything else is taken over.

Examples:
  modalign align --data mine.safetensors --words words.csv --out aligned.safetensors
  modalign align --data mine.safetensors --words words.csv --vision-rate 25 --out aligned.safetensors
  modalign train --data aligned.safetensors --model mfn
  modalign align --data mine.safetensors --words words.csv --bert bert-base-uncased --steps 50 --out tokens.safetensors
  modalign train --data tokens.safetensors --model bert_mag --bert bert-base-uncased --set bert.max_tokens=50")]
pub(super) struct AlignArgs {
    /// The data set
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// A table of words: id,word,start,end, times in seconds
    #[arg(long, value_name = "WORDS.csv")]
    words: PathBuf,
    /// The data set to write
    #[arg(long, value_name = "NAME.safetensors")]
    out: PathBuf,
    /// Steps of audio in a second [default: as the data set says]
    #[arg(long, value_name = "RATE")]
    audio_rate: Option<f64>,
    /// Steps of vision in a second [default: as the data set says]
    #[arg(long, value_name = "RATE")]
    vision_rate: Option<f64>,
    /// Make tokens of the words by the tokenizer in this folder, and a step for each
    #[arg(long, value_name = "FOLDER")]
    bert: Option<PathBuf>,
    /// Steps that a row keeps at most [default: all of the longest]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u32).range(2..))]
    steps: Option<u32>,
}

/// Aligns, and says what became of what.
pub(super) fn run(args: &AlignArgs, global: &Global) -> Result<()> {
    let rates = [(Modality::Audio, args.audio_rate), (Modality::Vision, args.vision_rate)];
    let rates = rates.into_iter().filter_map(|(modality, rate)| Some((modality, rate?)));
    let how = ByWord {
        rates: rates.collect(),
        tokenizer: args.bert.as_ref().map(Tokenizer::open).transpose()?,
        steps: args.steps.map(|steps| steps as usize),
    };
    let words = read_words(&args.words)?;
    let report = by_word(&args.data, &words, &how, &args.out)?;
    if let Some(some) = few(&report.unknown) {
        log::warn!("the data has no row of {some}: their words are not used");
    }
    if report.without_tokens {
        log::warn!(
            "text_bert is left out: its tokens are not the words (--bert makes tokens of them)"
        );
    }
    if global.json {
        let mut value = json!(report);
        value["path"] = json!(args.out.display().to_string());
        return output::json(&value);
    }
    show(&report, args)
}

fn show(report: &ByWordReport, args: &AlignArgs) -> Result<()> {
    let splits = report.rows.iter().map(|(split, rows)| format!("{rows} {split}"));
    let what = if args.bert.is_some() { "a step for each token" } else { "a step for each word" };
    output::print(&format!(
        "{}: rows: {}; {} words, {what}, {} steps a row",
        args.out.display(),
        splits.collect::<Vec<_>>().join(", "),
        report.words,
        report.steps
    ))?;
    for (modality, count) in &report.silent {
        output::print(&format!(
            "{modality}: {count} words without a step of it, which have zeros"
        ))?;
    }
    if report.cut > 0 {
        output::print(&format!("{} rows are cut to {} steps", report.cut, report.steps))?;
    }
    for modality in &report.whole {
        output::print(&format!("{modality}: one vector a row, which stays as it is"))?;
    }
    Ok(())
}

/// The first of some ids, and how many more there are.
fn few(ids: &[String]) -> Option<String> {
    const MOST: usize = 3;
    let shown = ids.iter().take(MOST).map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
    match ids.len() {
        0 => None,
        n if n <= MOST => Some(shown),
        n => Some(format!("{shown} and {} more", n - MOST)),
    }
}
