//! `modalign synth`: a data set whose hidden factors are known.

use super::{Global, output};
use crate::data::{Modality, SynthConfig, SynthStream, SynthTarget, synth};
use crate::error::{Error, Result};
use crate::nn::{BertShape, invent};
use crate::recipe::nearest;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Options of `synth`.
#[derive(Args)]
#[command(after_help = "\
Every sample has a factor that all modalities see and, for each modality, one that it alone sees.
The label is a direction in each of them, by their weights. The factors are in the file
(train.factor_shared, train.factor_text, ...), so that what a model separates can be checked.

A modality's own options, with their defaults:
  --text   dim=32,steps=1,min_steps=1,noise=0.3,private_weight=0.6
  --audio  dim=8,steps=24,min_steps=8,noise=0.3,private_weight=0.5
  --vision dim=12,steps=16,min_steps=6,noise=0.3,private_weight=0.4
  --other  dim=16,steps=1,min_steps=1,noise=0.3,private_weight=0.5   (streams of other names)
steps=1 makes vectors; more make sequences of min_steps to steps valid steps.

--encoder also writes a BERT of random weights that knows the words of the texts: for trying --bert, and
for timings, where no pretrained one is at hand. It has learned nothing.

Examples:
  modalign synth --out play.safetensors
  modalign synth --out hard.safetensors --train 4000 --shared-weight 0.2 --audio noise=1,steps=60
  modalign synth --out two.safetensors --modalities text,audio --seed 7
  modalign synth --out four.safetensors --modalities text,audio,image,face --classes 5 --missing 0.2
  modalign synth --out uneven.safetensors --classes 4 --dominant audio --dominance 6
  modalign synth --out text.safetensors --encoder bert --encoder-size base")]
pub(super) struct SynthArgs {
    /// The file to write; FILE.json with ids and texts goes beside it
    #[arg(long, value_name = "FILE", default_value = "synth.safetensors")]
    out: PathBuf,
    /// Everything follows from this number and the options [default: 1111]
    #[arg(long)]
    seed: Option<u64>,
    /// Training rows [default: 768]
    #[arg(long, value_name = "ROWS")]
    train: Option<usize>,
    /// Validation rows; 0 leaves the split out [default: 192]
    #[arg(long, value_name = "ROWS")]
    valid: Option<usize>,
    /// Test rows; 0 leaves the split out [default: 256]
    #[arg(long, value_name = "ROWS")]
    test: Option<usize>,
    /// Which streams exist; any names will do [default: text,audio,vision]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modalities: Vec<String>,
    /// Dimensions of the factor that all modalities see [default: 4]
    #[arg(long, value_name = "K")]
    shared: Option<usize>,
    /// Dimensions of the factor that one modality alone sees [default: 4]
    #[arg(long, value_name = "K")]
    private: Option<usize>,
    /// How much of the label all modalities know [default: 1]
    #[arg(long, value_name = "W")]
    shared_weight: Option<f64>,
    /// Standard deviation of the label before it is clamped to [-3, 3] [default: 1.5]
    #[arg(long, value_name = "S")]
    label_scale: Option<f64>,
    /// Share of rows whose label is exactly 0 [default: 0.05]
    #[arg(long, value_name = "SHARE")]
    zero_share: Option<f64>,
    /// The target is one of K classes [default: a number]
    #[arg(long, value_name = "K", group = "target")]
    classes: Option<usize>,
    /// The target is K numbers a row
    #[arg(long, value_name = "K", group = "target")]
    numbers: Option<usize>,
    /// The target is K labels, which a row has or not
    #[arg(long, value_name = "K", group = "target")]
    labels: Option<usize>,
    /// Share of rows that lack a modality, of each by itself; every row keeps one [default: 0]
    #[arg(long, value_name = "SHARE")]
    missing: Option<f64>,
    /// The modality that tells most: the noise of all others is multiplied by --dominance
    #[arg(long, value_name = "MODALITY")]
    dominant: Option<String>,
    /// By how much [default: 4]
    #[arg(long, value_name = "TIMES", requires = "dominant")]
    dominance: Option<f64>,
    /// Write a BERT that was never trained to FOLDER, as Hugging Face stores one
    #[arg(long, value_name = "FOLDER")]
    encoder: Option<PathBuf>,
    /// Its size: that of bert-base, of all-MiniLM-L6 (mini), or two layers of 64 (tiny)
    #[arg(long, value_name = "SIZE", default_value = "tiny", requires = "encoder")]
    #[arg(value_parser = ["base", "mini", "tiny"])]
    encoder_size: String,
    /// The text's options (below)
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    text: Vec<String>,
    /// The audio's options (below)
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    audio: Vec<String>,
    /// The vision's options (below)
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    vision: Vec<String>,
    /// The options of streams of other names (below)
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',')]
    other: Vec<String>,
}

/// By how much the others are noisier, where nothing is said.
const DOMINANCE: f64 = 4.0;

/// Writes the file.
pub(super) fn run(args: &SynthArgs, global: &Global) -> Result<()> {
    let config = args.config()?;
    synth::write(&config, &args.out)?;
    if let (Some(folder), Some(shape)) = (&args.encoder, BertShape::named(&args.encoder_size)) {
        invent(folder, &shape, &synth::words())?;
        global.note(&format!("{}: {} parameters", folder.display(), shape.parameters()));
    }
    let written = std::fs::metadata(&args.out).map_or(0, |m| m.len());
    if global.json {
        let out = args.out.display().to_string();
        return output::json(&json!({ "path": out, "bytes": written, "config": config }));
    }
    let names: Vec<&str> = config.modalities.iter().map(|m| m.name()).collect();
    output::print(&format!(
        "{}: {} training, {} validation, {} test rows of {}; {}",
        args.out.display(),
        config.train,
        config.valid,
        config.test,
        names.join(", "),
        output::bytes(written)
    ))
}

impl SynthArgs {
    fn config(&self) -> Result<SynthConfig> {
        let mut c = SynthConfig::default();
        let sizes = [
            (&mut c.train, self.train),
            (&mut c.valid, self.valid),
            (&mut c.test, self.test),
            (&mut c.shared, self.shared),
            (&mut c.private, self.private),
        ];
        sizes.into_iter().for_each(|(slot, given)| *slot = given.unwrap_or(*slot));
        let weights = [
            (&mut c.shared_weight, self.shared_weight),
            (&mut c.label_scale, self.label_scale),
            (&mut c.zero_share, self.zero_share),
        ];
        weights.into_iter().for_each(|(slot, given)| *slot = given.unwrap_or(*slot));
        c.seed = self.seed.unwrap_or(c.seed);
        c.missing = self.missing.unwrap_or(c.missing);
        if let Some(name) = &self.dominant {
            let fail = |e: Error| Error::Config(format!("--dominant: {e}"));
            c.dominant = Some(Modality::named(name.trim()).map_err(fail)?);
            c.dominance = self.dominance.unwrap_or(DOMINANCE);
        }
        let target = self.classes.map(SynthTarget::Classes);
        let target = target.or(self.numbers.map(SynthTarget::Numbers));
        c.target = target.or(self.labels.map(SynthTarget::Labels)).unwrap_or(c.target);
        if !self.modalities.is_empty() {
            c.modalities = self.modalities.iter().map(|m| modality(m)).collect::<Result<_>>()?;
        }
        for (option, settings, stream) in [
            ("--text", &self.text, &mut c.text),
            ("--audio", &self.audio, &mut c.audio),
            ("--vision", &self.vision, &mut c.vision),
            ("--other", &self.other, &mut c.other),
        ] {
            change(option, settings, stream)?;
        }
        Ok(c)
    }
}

fn modality(name: &str) -> Result<Modality> {
    Modality::named(name.trim()).map_err(|e| Error::Config(format!("--modalities: {e}")))
}

fn change(option: &str, settings: &[String], stream: &mut SynthStream) -> Result<()> {
    let fail = |detail: String| Err(Error::Config(format!("{option}: {detail}")));
    let mut shortest = None;
    for setting in settings {
        let Some((key, value)) = setting.split_once('=') else {
            return fail(format!("'{setting}', want KEY=VALUE"));
        };
        let wrong = |_| format!("{key} cannot be '{value}'");
        let size = || value.trim().parse::<usize>().map_err(|_| wrong(()));
        let number = || value.trim().parse::<f64>().map_err(|_| wrong(()));
        let done = match key.trim() {
            "dim" => size().map(|v| stream.dim = v),
            "steps" => size().map(|v| stream.steps = v),
            "min_steps" => size().map(|v| shortest = Some(v)),
            "noise" => number().map(|v| stream.noise = v),
            "private_weight" => number().map(|v| stream.private_weight = v),
            other => {
                let known = ["dim", "steps", "min_steps", "noise", "private_weight"];
                let close = nearest(other, known.into_iter());
                Err(format!("unknown key '{other}', did you mean '{close}'?"))
            }
        };
        if let Err(detail) = done {
            return fail(detail);
        }
    }
    // Fewer steps alone are meant to work: the default shortest sample gives way.
    stream.min_steps = shortest.unwrap_or_else(|| stream.min_steps.min(stream.steps));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: SynthArgs,
    }

    fn config(line: &str) -> Result<SynthConfig> {
        Only::try_parse_from(std::iter::once("synth").chain(line.split_whitespace()))
            .unwrap_or_else(|e| panic!("{e}"))
            .args
            .config()
    }

    #[test]
    fn options_reach_the_generator() {
        let c =
            config("--train 10 --shared-weight 0.5 --audio dim=3,steps=4 --text noise=1").unwrap();
        assert_eq!((c.train, c.valid, c.shared_weight, c.text.noise), (10, 192, 0.5, 1.0));
        assert_eq!((c.audio.dim, c.audio.steps, c.audio.min_steps), (3, 4, 4));
        assert_eq!(config("").unwrap(), SynthConfig::default());
        let c = config("--dominant audio").unwrap();
        assert_eq!((c.dominant, c.dominance), (Some(Modality::Audio), DOMINANCE));
    }

    #[test]
    fn wrong_options_are_named() {
        let message = |line: &str| config(line).unwrap_err().to_string();
        assert!(message("--modalities text,Image").contains("'Image'"));
        assert!(message("--audio nois=3").contains("'noise'"));
        assert!(message("--audio dim=many").contains("dim cannot be 'many'"));
        assert!(message("--audio dim").contains("KEY=VALUE"));
    }
}
