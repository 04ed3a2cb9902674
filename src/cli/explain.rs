//! `modalign explain`: which word, step or modality decided.

use super::eval::{parse_split, say_absent};
use super::predict::choose;
use super::{Global, output, run_folder};
use crate::data::{Dataset, Modality, SplitName, TaskKind};
use crate::error::{Error, Result};
use crate::train::explain::{Explained, Explainer, Explanation, Feature, Share};
use crate::train::metrics::wrongness;
use crate::train::{Predictions, Saved, encoder_of, open_saved};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Options of `explain`.
#[derive(Args)]
#[command(after_help = "\
Integrated gradients (Sundararajan, Taly and Yan 2017): an input's share of a score is its distance
from the usual input times the mean gradient of the score on the straight line between the two. The
shares of all inputs add up to the score minus that of the usual input; where they do not to within
1 %, with more and more points of the line, it is said.

The usual input is what training had in the mean, in each step of the row's own; of text that goes
through a BERT that is trained with the model it is the same sentence with [PAD] for each word piece,
and the line is drawn behind the embeddings. Padding has no share. Of text whose steps are features,
words are named where the side file's raw_text has as many as there are steps; of other features names
are those of the side file (features writes them; vision_features: a list), which --json has all of.

What is explained is the fused score, of classes and labels the logit of the one that is predicted.

Examples:
  modalign explain --model runs/mosi-mosi-1111 --id '03bSnISJMiM$_$11'
  modalign explain --model runs/mosi-mosi-1111 --id test-3 --id test-7 --json
  modalign explain --model runs/mosi-mosi-1111 --hardest 5
  modalign explain --model runs/mosi-mosi-1111 --hardest 12 --save    for the report
  modalign explain --model runs/ravdess-sims-1 --data new.safetensors --id a --class angry")]
pub(super) struct ExplainArgs {
    /// A run folder (its best epoch) or a model file
    #[arg(long, value_name = "RUN|FILE")]
    model: PathBuf,
    /// The data set [default: the run's own]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Explain the row with this id; may be given several times
    #[arg(
        long,
        value_name = "ID",
        required_unless_present = "hardest",
        conflicts_with = "hardest"
    )]
    id: Vec<String>,
    /// Explain the N rows that are predicted worst
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    hardest: Option<u32>,
    /// Which part of the data: train, valid or test [default: where the ids are; test]
    #[arg(long, value_parser = parse_split)]
    split: Option<SplitName>,
    /// Explain this class, label or number instead of the one that is predicted
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// How many words, steps and features of each modality are shown
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Keep it in the run folder (explain.json), where `modalign report` finds it
    #[arg(long, conflicts_with_all = ["data", "class"])]
    save: bool,
}

/// Prints where scores come from.
pub(super) fn run(args: &ExplainArgs, global: &Global) -> Result<()> {
    if args.save && !run_folder::is_run(&args.model) {
        let detail = format!("--save: {} is no run folder to keep it in", args.model.display());
        return Err(Error::Config(detail));
    }
    let saved = Saved::load(&args.model)?;
    let path = run_folder::data_for(&args.model, args.data.as_deref())?;
    let gpu = global.gpu()?;
    let mut session = open_saved(&gpu, &saved, &path)?;
    say_absent(&session, &path, global);
    let data = session.data().clone();
    let class = args.class.as_deref().map(|name| numbered(&data, name)).transpose()?;
    let rows = match args.hardest {
        None => {
            args.id.iter().map(|id| found(&data, args.split, id)).collect::<Result<Vec<_>>>()?
        }
        Some(count) => {
            let split = choose(&data, args.split)?;
            let said = session.predict(split)?;
            let convention = saved.card.config.data.convention;
            let order = hardest(&data, split, &said, |row, truth| {
                wrongness(data.task(), convention, row, truth)
            })?;
            order.into_iter().take(count as usize).map(|row| (split, row)).collect()
        }
    };
    let mut explainer = Explainer::new(session, &encoder_of(&saved.path))?;
    let mut all = Vec::with_capacity(rows.len());
    for (split, row) in rows {
        let said = match class {
            Some(class) => explainer.explain(split, row, class)?,
            None => explainer.explain_predicted(split, row)?,
        };
        if !said.complete {
            log::warn!("'{}': {}", said.id, incomplete(&said));
        }
        all.push(said);
    }
    gpu.save_pipeline_cache();
    if args.save {
        let (epoch, data_sha256) = (saved.card.epoch, data.digest().to_string());
        let place = Explained::new(epoch, data_sha256, all.clone()).write(&args.model)?;
        global.note(&format!("{}: {} rows, for modalign report", place.display(), all.len()));
    }
    if global.json {
        return output::json(&json!({
            "model": saved.path.display().to_string(),
            "epoch": saved.card.epoch,
            "data": path.display().to_string(),
            "rows": all,
        }));
    }
    let texts: Vec<String> = all.iter().map(|said| shown(said, &data, args.top)).collect();
    output::print(&texts.join("\n"))
}

/// The place of a class, label or number by its name.
fn numbered(data: &Dataset, name: &str) -> Result<usize> {
    let names = &data.task().names;
    names.iter().position(|known| known == name).ok_or_else(|| {
        Error::Config(match names.is_empty() {
            true => "--class: the model predicts a single number, which needs no name".into(),
            false => format!("--class {name}: there are {}", names.join(", ")),
        })
    })
}

/// The first row of an id.
fn found(data: &Dataset, split: Option<SplitName>, id: &str) -> Result<(SplitName, usize)> {
    // What is asked about is mostly what was not trained on.
    let order = [SplitName::Test, SplitName::Valid, SplitName::Train];
    let wanted: Vec<SplitName> =
        order.into_iter().filter(|name| split.is_none_or(|split| split == *name)).collect();
    let row = wanted.iter().find_map(|name| {
        let rows = data.split(*name)?;
        Some((*name, (0..rows.rows()).find(|row| rows.id(*row) == id)?))
    });
    row.ok_or_else(|| {
        let part = split.map_or_else(|| "any part".into(), |split| format!("'{split}'"));
        let detail = format!(
            "no row of {part} has the id '{id}' (ids are those of the JSON file beside the data, else \
             test-0, test-1, ...)"
        );
        Error::data(data.path(), detail)
    })
}

/// Rows of a split, the one that is predicted worst first.
fn hardest(
    data: &Dataset,
    split: SplitName,
    said: &Predictions,
    wrong: impl Fn(&[f32], f32) -> Option<f32>,
) -> Result<Vec<usize>> {
    let none = |why: &str| Error::data(data.path(), format!("--hardest: {why}; give --id"));
    let targets = data.split(split).and_then(|s| s.targets());
    let targets = targets.ok_or_else(|| none(&format!("'{split}' has no labels")))?;
    let truth: Vec<f32> = match data.task().kind {
        TaskKind::Classes => targets.classes().iter().map(|class| *class as f32).collect(),
        _ => targets.numbers(),
    };
    let own = said.sizes.first().copied().unwrap_or(1);
    let gaps: Option<Vec<f32>> =
        said.scores.iter().zip(&truth).map(|(row, truth)| wrong(&row[..own], *truth)).collect();
    let gaps = gaps.ok_or_else(|| {
        none("of several numbers or labels a row no row is further off than another")
    })?;
    let mut order: Vec<usize> = (0..gaps.len()).collect();
    order.sort_by(|a, b| gaps[*b].total_cmp(&gaps[*a]));
    Ok(order)
}

/// That the shares do not add up, and how far they are from it.
fn incomplete(said: &Explanation) -> String {
    format!(
        "the shares add up to {:.4} where the score differs by {:.4}, and {} points did not bring them \
         nearer: take them for estimates",
        said.sum(),
        said.score - said.usual,
        said.points
    )
}

/// One row: its score, its words, a table, and what the shares add up to.
fn shown(said: &Explanation, data: &Dataset, top: usize) -> String {
    let score = if said.output == "M" { "score".into() } else { format!("'{}'", said.output) };
    let mut text = format!(
        "{} ({} row {}): {score} {:.4}, of the usual input {:.4}\n",
        output::escaped(&said.id),
        said.split,
        said.row,
        said.score,
        said.usual
    );
    for share in said.modalities.iter().filter(|share| !share.words.is_empty()) {
        text += &format!("{}\n", sentence(share, output::colours()));
    }
    let of_all: f64 = said.modalities.iter().map(|share| share.share.abs()).sum();
    let mut lines = Vec::new();
    for share in &said.modalities {
        let mut line = |part: String, value: f64| {
            let percent = 100.0 * value.abs() / of_all.max(f64::MIN_POSITIVE);
            let name = share.modality.to_string();
            lines.push(vec![name, part, format!("{value:+.4}"), format!("{percent:.0} %")]);
        };
        match share.steps.len() {
            0 => line("not there".into(), share.share),
            1 => line("all of it".into(), share.share),
            n => line(format!("all of its {n} steps"), share.share),
        }
        parts(share, data, top).into_iter().for_each(|(part, value)| line(part, value));
    }
    let table = output::table(["modality", "part", "share", "of all"], 2, lines);
    let whole = said.score - said.usual;
    let end = match said.complete {
        true => format!(
            "The shares add up to {:.4} of {whole:.4} (residual {:.1e}, {} points).",
            said.sum(),
            said.residual,
            said.points
        ),
        false => format!("NOT complete: {}.", incomplete(said)),
    };
    format!("{text}{}\n{end}\n", output::text(&table))
}

/// The parts of a modality that count most: words, else steps; and features.
fn parts(share: &Share, data: &Dataset, top: usize) -> Vec<(String, f64)> {
    let mut all = match share.words.is_empty() {
        false => most(share.words.iter().map(|w| (format!("\"{}\"", w.word), w.share)), top),
        true if share.steps.len() > 1 => {
            let rate = steps_a_second(data, share.modality);
            let name = |i: usize| match rate {
                Some(rate) => format!("step {i} ({:.2} s)", i as f64 / rate),
                None => format!("step {i}"),
            };
            most(share.steps.iter().enumerate().map(|(i, value)| (name(i), *value)), top)
        }
        true => Vec::new(),
    };
    if share.words.is_empty() && share.features.len() > 1 {
        all.extend(most(grouped(&share.features).into_iter(), top));
    }
    all
}

/// The largest of some parts, whichever way they push.
fn most(parts: impl Iterator<Item = (String, f64)>, top: usize) -> Vec<(String, f64)> {
    let mut all: Vec<_> = parts.collect();
    all.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    all.truncate(top);
    all
}

/// Features; those that are the numbers of one group (`mfcc_1`, `mfcc_2`) together.
fn grouped(features: &[Feature]) -> Vec<(String, f64)> {
    let numbers: &[char] = &['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];
    let stem = |name: &str| {
        let stem = name.trim_end_matches(numbers).trim_end_matches(['_', '-', ' ', '[', '.']);
        if stem.is_empty() || stem == "column" { name.to_string() } else { stem.to_string() }
    };
    let mut groups: Vec<(String, usize, f64)> = Vec::new();
    for feature in features {
        let stem = stem(&feature.name);
        match groups.iter_mut().find(|(known, ..)| *known == stem) {
            Some((_, count, sum)) => (*count, *sum) = (*count + 1, *sum + feature.share),
            None => groups.push((stem, 1, feature.share)),
        }
    }
    let name = |(stem, count, sum): (String, usize, f64)| match count {
        1 => (stem, sum),
        _ => (format!("{stem} ({count} features)"), sum),
    };
    groups.into_iter().map(name).collect()
}

/// Steps of a stream in a second, where the file says so: `audio_rate` samples, one step for `audio_hop`.
fn steps_a_second(data: &Dataset, modality: Modality) -> Option<f64> {
    let number = |key: &str| data.metadata(&format!("{modality}_{key}"))?.parse::<f64>().ok();
    let rate = number("rate")? / number("hop").unwrap_or(1.0);
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

/// The words in a line; in a terminal green ones push the score up and red ones down, bold ones the most.
fn sentence(share: &Share, colours: bool) -> String {
    let most = share.words.iter().fold(0.0, |most: f64, word| most.max(word.share.abs()));
    let one = |word: &crate::train::explain::Word| {
        let said = output::escaped(&word.word);
        let strength = word.share.abs() / most.max(f64::MIN_POSITIVE);
        let colour = if word.share > 0.0 { 32 } else { 31 };
        match strength {
            _ if !colours || strength < 0.15 => said.into_owned(),
            s if s > 0.6 => format!("\x1b[1;{colour}m{said}\x1b[0m"),
            _ => format!("\x1b[{colour}m{said}\x1b[0m"),
        }
    };
    share.words.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::explain::Word;

    #[test]
    fn numbered_features_are_one_group() {
        let names = ["zcr", "mfcc_1", "mfcc_2", "column 0", "column 1"];
        let features = names.map(|name| Feature { name: name.into(), share: 0.5 });
        let groups = grouped(&features);
        let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["zcr", "mfcc (2 features)", "column 0", "column 1"]);
        assert_eq!(groups[1].1, 1.0);
    }

    #[test]
    fn words_are_coloured_by_what_they_do() {
        let word = |word: &str, share| Word { word: word.into(), share };
        let words = vec![word("a", 0.1), word("fine", 1.0), word("mess", -0.5)];
        let share = Share { words, ..Share::none(Modality::Text) };
        assert_eq!(sentence(&share, false), "a fine mess");
        assert_eq!(sentence(&share, true), "a \x1b[1;32mfine\x1b[0m \x1b[31mmess\x1b[0m");
    }

    #[test]
    fn the_largest_come_first_whichever_way_they_push() {
        let parts = [("a", 0.1), ("b", -0.9), ("c", 0.5)].map(|(n, v)| (n.to_string(), v));
        assert_eq!(most(parts.into_iter(), 2)[0].0, "b");
    }
}
