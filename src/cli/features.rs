//! `modalign features`: acoustic features of recordings, as a table or as a data set.

use super::eval::parse_split;
use super::{Global, output};
use crate::data::SplitName;
use crate::error::{Error, Result};
use crate::features::{
    Choice, Clip, Collection, ENDINGS, Extractor, Features, Group, Label, RATE, Recording, clip_id,
    read_labels,
};
use crate::files::write_atomic_with;
use crate::gpu::Gpu;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `features`.
#[derive(Args)]
#[command(after_help = "\
The features are those of the SIMS data sets, as librosa computes them: 33 numbers for every 512
samples at 22,050 Hz. Column 0 is the zero-crossing rate, 1 to 20 are MFCC (HTK mel scale), 21 to
32 the chroma of a constant-Q transform. Wav, FLAC, Ogg and MP3 files of any
rate and number of channels are resampled and averaged on the way. A folder stands for the recordings
in it.

--features chooses others, in the order given, of frames of 2048 samples as librosa has them:
  zcr        the zero-crossing rate           centroid   the spectrum's mean frequency, Hz
  mfcc       20 MFCC                          bandwidth  its deviation, Hz
  chroma     12 notes, the loudest 1          rolloff    where 85 % of it ends, Hz
  logmel     128 mel bands (HTK), decibels    flatness   1 of white noise, 0 of a tone
  rms        the root mean square             contrast   7 bands' peaks over valleys, decibels
  f0         pitch by YIN and its voicing     delta, delta2  first and second differences of all
                                              the others, over nine steps, behind them
f0 is in Hz, looked for from 60 to 600 Hz, and 0 in a step without a pitch. Its second column, voicing,
is the correlation of the frame with itself a period later, 0 to 1: a step has a pitch from 0.5 on,
where the period is no end of the range.

FILE.csv and FILE.npy hold one recording, a row for each step. NAME.safetensors is a data set as
train, eval and predict read it: test.audio (rows x steps x columns, zeros after a recording's end)
and test.audio_lengths; NAME.json beside it has the ids, which are the files' names without ending,
and which features these are: predict --audio computes the same of new recordings.

A table of labels has the columns id and label, and perhaps split and text; with it every recording
must have a line. MMSA-FET's layout is read as it is: recordings as FOLDER/VIDEO/CLIP.wav, whose ids
are VIDEO$_$CLIP, and its label.csv with video_id, clip_id, text, label and mode; label_T, label_A
and label_V become the labels of one modality alone. A model that reads audio alone is trained with --set model.modalities=A.

Examples:
  modalign features talk.wav --out talk.csv
  modalign features talk.wav --features mfcc,f0,rms,delta --out talk.csv
  modalign features new/ --out new.safetensors
  modalign predict --model runs/mine-sims-1111 --data new.safetensors
  modalign features clips/ --labels labels.csv --out mine.safetensors
  modalign features Raw/ --labels label.csv --out fet.safetensors
  modalign train --data mine.safetensors --preset sims --set model.modalities=A")]
pub(super) struct FeaturesArgs {
    /// Recordings (wav, flac, ogg, mp3), and folders of them
    #[arg(required = true, value_name = "AUDIO")]
    audio: Vec<PathBuf>,
    /// The file to write: NAME.safetensors, or FILE.csv or FILE.npy for one recording
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which features, in order [default: zcr,mfcc,chroma]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    features: Vec<String>,
    /// The part of the data set that recordings without one in the table go to [default: test]
    #[arg(long, value_parser = parse_split)]
    split: Option<SplitName>,
    /// A table of labels: id,label and perhaps split,text
    #[arg(long, value_name = "FILE.csv")]
    labels: Option<PathBuf>,
    /// Steps that a recording keeps at most; 0 keeps all [default: mean + 3 standard deviations]
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<usize>,
    /// Leave out files that cannot be read, and say which
    #[arg(long)]
    skip_bad: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Csv,
    Npy,
    DataSet,
}

/// One recording to read.
struct Wanted {
    path: PathBuf,
    id: String,
    label: Option<Label>,
}

/// Computes and writes.
pub(super) fn run(args: &FeaturesArgs, global: &Global) -> Result<()> {
    let (kind, choice) = (args.kind()?, args.choice()?);
    let wanted = args.wanted()?;
    if kind != Kind::DataSet && wanted.len() != 1 {
        return Err(Error::Config(format!(
            "--out {}: {} recordings go into a data set, NAME.safetensors",
            args.out.display(),
            wanted.len()
        )));
    }
    let gpu = global.gpu()?;
    let began = Instant::now();
    let (collection, bad) = args.extract(&gpu, choice, wanted, global)?;
    let took = began.elapsed().as_secs_f64();
    gpu.save_pipeline_cache();
    let most = match args.max_steps {
        Some(0) => usize::MAX,
        Some(most) => most,
        None => collection.usual_frames(),
    };
    match kind {
        Kind::DataSet => collection.write(&args.out, most)?,
        _ => {
            let features = &collection.clips[0].features;
            write_atomic_with(&args.out, |out| match kind {
                Kind::Npy => npy(features, out),
                _ => csv(&collection.choice, features, out),
            })?;
        }
    }
    let most = if kind == Kind::DataSet { most } else { usize::MAX };
    args.report(&collection, &bad, most, took, global)
}

impl FeaturesArgs {
    fn choice(&self) -> Result<Choice> {
        if self.features.is_empty() { Ok(Choice::default()) } else { Choice::of(&self.features) }
    }

    fn kind(&self) -> Result<Kind> {
        let data_set = match self.out.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => return Ok(Kind::DataSet),
            Some("csv") => Kind::Csv,
            Some("npy") => Kind::Npy,
            _ => {
                return Err(Error::Config(format!(
                    "--out {}: want NAME.safetensors, FILE.csv or FILE.npy",
                    self.out.display()
                )));
            }
        };
        match (&self.labels, self.split, self.max_steps) {
            (None, None, None) => Ok(data_set),
            _ => Err(Error::Config(
                "--labels, --split and --max-steps are for a data set: --out NAME.safetensors"
                    .into(),
            )),
        }
    }

    /// The files, each with its id and label, in the order they are to have.
    fn wanted(&self) -> Result<Vec<Wanted>> {
        let mut paths = Vec::new();
        for given in &self.audio {
            match given.is_dir() {
                true => paths.extend(recordings_in(given)?),
                false => paths.push((given.clone(), stem(given))),
            }
        }
        let table = self.labels.as_ref().map(read_labels).transpose()?;
        if let (Some(table), Some(path)) = (&table, &self.labels)
            && !table.unread.is_empty()
        {
            log::warn!("{}: {} not read", path.display(), table.unread.join(", "));
        }
        let mut labels = table.map(|table| table.rows);
        let mut seen = BTreeSet::new();
        let mut wanted = Vec::with_capacity(paths.len());
        for (path, id) in paths {
            if !seen.insert(id.clone()) {
                return Err(Error::Config(format!(
                    "{}: another recording is called '{id}', too; rename one",
                    path.display()
                )));
            }
            let label = match (&mut labels, &self.labels) {
                (Some(labels), Some(table)) => Some(labels.remove(&id).ok_or_else(|| {
                    Error::data(table, format!("no line for '{id}' ({})", path.display()))
                })?),
                _ => None,
            };
            wanted.push(Wanted { path, id, label });
        }
        if let Some((id, left)) = labels.as_ref().and_then(|l| Some((l.keys().next()?, l.len()))) {
            log::warn!("{left} labels have no recording among those given, '{id}' for one");
        }
        Ok(wanted)
    }

    /// Features of all that can be read, and what is wrong with the others.
    fn extract(
        &self,
        gpu: &Gpu,
        choice: Choice,
        wanted: Vec<Wanted>,
        global: &Global,
    ) -> Result<(Collection, BTreeMap<String, String>)> {
        let bar = match !global.quiet && std::io::stderr().is_terminal() {
            true => ProgressBar::new(wanted.len() as u64),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{bar:24.cyan} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let mut extractor = Extractor::new(gpu).choosing(choice.clone());
        let (mut collection, mut bad) = (Collection { choice, clips: vec![] }, BTreeMap::new());
        for Wanted { path, id, label } in wanted {
            bar.set_message(id.clone());
            let features = Recording::open(&path).and_then(|mut r| extractor.extract(&mut r));
            bar.inc(1);
            match features {
                Ok(features) => {
                    let own = label.as_ref().and_then(|l| l.split);
                    let split = own.or(self.split).unwrap_or(SplitName::Test);
                    let unimodal = label.as_ref().map_or([None; 3], |l| l.unimodal);
                    let (label, text) = label.map_or((None, None), |l| (Some(l.value), l.text));
                    collection.clips.push(Clip { id, split, features, label, unimodal, text });
                }
                Err(why @ (Error::Data { .. } | Error::Io { .. })) if self.skip_bad => {
                    bar.suspend(|| log::warn!("left out: {why}"));
                    bad.insert(path.display().to_string(), why.to_string());
                }
                Err(why) => {
                    bar.finish_and_clear();
                    return Err(why);
                }
            }
        }
        bar.finish_and_clear();
        if collection.clips.is_empty() {
            return Err(Error::Config("none of the recordings can be read".into()));
        }
        Ok((collection, bad))
    }

    /// What was written: a line for each part.
    fn report(
        &self,
        collection: &Collection,
        bad: &BTreeMap<String, String>,
        most: usize,
        took: f64,
        global: &Global,
    ) -> Result<()> {
        let seconds = |f: &Features| f.samples as f64 / f64::from(RATE);
        let total: f64 = collection.clips.iter().map(|c| seconds(&c.features)).sum();
        let steps = collection.most_frames().min(most);
        let columns = collection.choice.width();
        if global.json {
            let clips: Vec<_> = collection
                .clips
                .iter()
                .map(|c| {
                    let tuned = collection.choice.has(Group::Chroma);
                    json!({ "id": c.id, "split": c.split, "seconds": seconds(&c.features),
                        "steps": c.features.frames(),
                        "tuning": tuned.then_some(c.features.tuning), "label": c.label })
                })
                .collect();
            return output::json(&json!({
                "path": self.out.display().to_string(), "steps": steps,
                "columns": columns, "features": collection.choice.to_string(),
                "seconds": total, "took": took, "recordings": clips, "left_out": bad,
            }));
        }
        let rows = SplitName::ALL.into_iter().filter_map(|split| {
            let of: Vec<&Features> =
                collection.clips.iter().filter(|c| c.split == split).map(|c| &c.features).collect();
            let frames = || of.iter().map(|f| f.frames());
            let longest = frames().max()?;
            let mean = frames().sum::<usize>() as f64 / of.len() as f64;
            Some(vec![
                split.to_string(),
                of.len().to_string(),
                format!("{:.1} s", of.iter().map(|f| seconds(f)).sum::<f64>()),
                format!("{mean:.0}"),
                longest.to_string(),
                frames().filter(|n| *n > steps).count().to_string(),
            ])
        });
        let header = ["part", "recordings", "length", "mean steps", "longest", "cut"];
        output::print(&output::text(&output::table(header, 1, rows)))?;
        output::print(&format!(
            "{}: {} recordings of at most {steps} steps x {columns}; {total:.1} s of sound in \
             {took:.1} s",
            self.out.display(),
            collection.clips.len()
        ))?;
        match bad.len() {
            0 => Ok(()),
            left => output::print(&format!("{left} left out: they cannot be read")),
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The recordings of a folder with their ids, by name; where it has none itself, those of the folders in it,
/// each of which stands for a video.
fn recordings_in(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let (own, folders) = listed(folder)?;
    let mut found: Vec<_> = own.into_iter().map(|path| (path.clone(), stem(&path))).collect();
    if found.is_empty() {
        for video in folders {
            let name = video.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let clips = listed(&video)?.0;
            found
                .extend(clips.into_iter().map(|path| (path.clone(), clip_id(&name, &stem(&path)))));
        }
    }
    match found.is_empty() {
        true => Err(Error::data(folder, "there is no recording in it: wav, flac, ogg or mp3")),
        false => Ok(found),
    }
}

/// The recordings and the folders in a folder, each by name.
fn listed(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let entries = std::fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let (mut found, mut folders) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_dir() {
            folders.push(path);
        } else if ENDINGS.iter().any(|known| ending == *known) {
            found.push(path);
        }
    }
    found.sort();
    folders.sort();
    Ok((found, folders))
}

/// A header, and a line for each step.
fn csv(choice: &Choice, features: &Features, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", choice.columns().join(","))?;
    for row in features.values.chunks_exact(features.columns) {
        let fields: Vec<String> = row.iter().map(ToString::to_string).collect();
        writeln!(out, "{}", fields.join(","))?;
    }
    Ok(())
}

/// An array of steps × columns, as numpy loads it.
fn npy(features: &Features, out: &mut dyn Write) -> std::io::Result<()> {
    let shape = format!("({}, {})", features.frames(), features.columns);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and length are 10 bytes; the data begin at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.push_str(&" ".repeat(padded - header.len() - 1));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    features.values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))
}
