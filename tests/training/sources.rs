//! Rows that are in no file: from memory, and from a program that makes them when they are asked for. They
//! train to the bytes that a file of the same rows does.

use crate::common;
use common::{Made, gpu};
use modalign::data::{
    Contents, Dataset, Memory, Modality, Options, Row, Source, SplitContents, SplitName,
    StreamContents, Target, TargetValues,
};
use modalign::error::Result;
use modalign::nn::Weights;
use modalign::recipe::Config;
use modalign::train::{RunOptions, Saved, evaluate_run, open_saved_on, resume_on, train, train_on};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn config(epochs: usize) -> Config {
    let settings = [
        "model.name=lf_dnn".into(),
        "model.hidden=6".into(),
        "model.text_out=5".into(),
        "train.batch_size=8".into(),
        "train.normalize=true".into(),
        "train.early_stop=0".into(),
        format!("train.max_epochs={epochs}"),
    ];
    Config::build("mosi", None, &settings).expect("settings")
}

fn options(data: &Path, out: PathBuf, epochs: usize) -> RunOptions {
    RunOptions { data: data.into(), out, config: config(epochs), init: None, fold: None }
}

/// The rows of a file as a program holds them.
fn in_memory(data: &Dataset) -> Dataset {
    let train = data.split(SplitName::Train).expect("rows");
    let stream = |m: Modality| (m, train.stream(m).expect("a stream").dim);
    let streams: Vec<_> = train.modalities().map(stream).collect();
    let mut rows = Memory::new("rows of a program", &streams);
    for split in data.splits() {
        for row in 0..split.rows() {
            let values = |(m, dim): &(Modality, usize)| {
                let stream = split.stream(*m).expect("a stream");
                stream.row(row)[..stream.len(row) * dim].to_vec()
            };
            let row = Row {
                streams: streams.iter().map(values).collect(),
                target: split.labels().map(|labels| Target::Number(labels[row])),
                id: Some(split.id(row)),
                text: None,
            };
            rows.push(split.name(), row).expect("a row");
        }
    }
    rows.dataset(&Options::default()).expect("a data set")
}

#[test]
fn rows_in_memory_train_as_those_of_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, at) = (folder.path().join("set.safetensors"), |name: &str| folder.path().join(name));
    // A length of each kind comes up, the longest too: rows in memory have no more steps than that.
    Made { vision: Some((4, 3)), ..Made::default() }.tensors().save(&file);
    let data = Dataset::open(&file).expect("the set");
    train(gpu(), &options(&file, at("file"), 3), &mut ()).expect("a run");
    // Two epochs of rows in memory, and the third after a stop.
    let held = in_memory(&data);
    let name = held.path().to_path_buf();
    train_on(gpu(), held.clone(), &options(&name, at("held"), 2), &mut ()).expect("a run");
    resume_on(gpu(), &at("held"), held.clone(), Some(3), &mut ()).expect("the rest");
    // The models' cards name the data by their digests; all else is the same.
    let last = |run: &str| {
        common::bits(&Weights::load(&at(run).join("last.safetensors")).expect("weights"))
    };
    assert!(last("file") == last("held"), "the weights differ");
    for log in ["steps.jsonl", "epochs.jsonl"] {
        let [file, held] = ["file", "held"].map(|run| fs::read(at(run).join(log)).expect(log));
        assert!(file == held, "{log} differs");
    }
    let saved = Saved::load(&at("held")).expect("a model");
    let (_, of_file, _) = evaluate_run(gpu(), &saved, &file, SplitName::Test).expect("scores");
    let mut session = open_saved_on(gpu(), &saved, held.clone()).expect("a session");
    assert_eq!(session.predict(SplitName::Test).expect("scores").scores, of_file.scores);
    // Other rows are not gone on with.
    assert_eq!(held.digest(), in_memory(&data).digest());
    let mut other = Memory::new("others", &[(Modality::Audio, 5)]);
    let row =
        Row { streams: vec![vec![1.0; 10]], target: Some(Target::Number(1.0)), ..Row::default() };
    other.push(SplitName::Train, row).expect("a row");
    let other = other.dataset(&Options::default()).expect("a data set");
    let why = resume_on(gpu(), &at("held"), other, None, &mut ()).expect_err("refused");
    assert!(why.to_string().contains("is not the file that the run began with"), "{why}");
}

/// Rows that are made when they are asked for.
#[derive(Debug)]
struct Drawn {
    asked: AtomicUsize,
    /// A row that cannot be made right, and the number that is in it.
    broken: Option<(usize, f32)>,
}

impl Source for Drawn {
    fn path(&self) -> &Path {
        Path::new("drawn rows")
    }

    fn digest(&self) -> String {
        "drawn 1".into()
    }

    fn values(&self, _: SplitName, modality: Modality, row: usize) -> Result<Cow<'_, [f32]>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let n = if modality == Modality::Text { 3 } else { 4 * (1 + row % 5) };
        let mut values: Vec<f32> = (0..n).map(|i| ((31 * row + 7 * i) % 19) as f32 / 9.0).collect();
        if let Some((_, value)) = self.broken.filter(|(at, _)| *at == row) {
            values[1] = value;
        }
        Ok(Cow::Owned(values))
    }
}

fn drawn(broken: Option<(usize, f32)>) -> (Arc<Drawn>, Contents) {
    let rows = 20;
    let image = Modality::named("image").expect("a name");
    let text = StreamContents { steps: 1, dim: 3, ..StreamContents::default() };
    let lengths = (0..rows as u32).map(|row| 1 + row % 5).collect();
    let seen = StreamContents { steps: 5, dim: 4, lengths: Some(lengths), missing: None };
    let split = SplitContents {
        rows,
        streams: BTreeMap::from([(Modality::Text, text), (image, seen)]),
        targets: Some(TargetValues::Classes((0..rows as u32).map(|row| row % 3).collect())),
        ..SplitContents::default()
    };
    let splits = SplitName::ALL.map(|name| (name, split.clone())).into();
    let names = ["red", "green", "blue"].map(String::from).to_vec();
    (Arc::new(Drawn { asked: AtomicUsize::new(0), broken }), Contents { splits, names })
}

#[test]
fn rows_of_a_program_are_asked_for_as_they_are_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, contents) = drawn(None);
    let data = Dataset::over(source.clone(), contents, &Options::default()).expect("a data set");
    assert_eq!(source.asked.load(Ordering::Relaxed), 0, "nothing is read before it is needed");
    assert_eq!(data.task().names, ["red", "green", "blue"]);
    let out = folder.path().join("run");
    train_on(gpu(), data, &options(Path::new("drawn"), out.clone(), 2), &mut ()).expect("a run");
    // Standardising passes twice over one stream and once more over both kinds; then two epochs, twice
    // validation, and in the end validation and test.
    let asked = source.asked.load(Ordering::Relaxed);
    assert!(asked >= 2 * 20 * (2 + 2 + 1), "{asked}");
    assert!(Saved::load(&out).expect("a model").card.task.names.len() == 3);
}

#[test]
fn what_a_source_gives_is_checked_as_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, contents) = drawn(Some((13, f32::NAN)));
    let data = Dataset::over(source, contents, &Options::default()).expect("a data set");
    let out = folder.path().join("run");
    let why = train_on(gpu(), data, &options(Path::new("drawn"), out, 2), &mut ()).err();
    let why = why.expect("refused").to_string();
    assert!(why.contains("train.") && why.contains("row 13, step 0, feature 1 is NaN"), "{why}");

    type Change = fn(&mut SplitContents);
    let changes: [(Change, &str); 7] = [
        (|c| c.rows = 0, "0 rows"),
        (|c| c.ids = Some(vec!["a".into()]), "one for each of 20 rows"),
        (|c| (c.targets, c.texts) = (None, Some(Vec::new())), "one for each of 20 rows"),
        (|c| c.targets = Some(TargetValues::Number(vec![f32::INFINITY; 20])), "in their range"),
        (|c| c.streams.values_mut().for_each(|s| s.dim = 0), "of 0 features"),
        (|c| c.streams.values_mut().for_each(|s| s.lengths = Some(vec![9; 20])), "outside 1..="),
        (|c| c.streams.clear(), "another split has"),
    ];
    for (change, wanted) in changes {
        let (source, mut contents) = drawn(None);
        change(contents.splits.get_mut(&SplitName::Test).expect("a split"));
        if !wanted.contains("another") {
            // The same in all, where it is not about their difference.
            contents.splits.values_mut().for_each(change);
        }
        let why = Dataset::over(source, contents, &Options::default()).expect_err("refused");
        assert!(why.to_string().contains(wanted), "{why}");
    }
    let mut rows = Memory::new("rows", &[(Modality::Audio, 2)]);
    for (values, wanted) in [(vec![vec![1.0; 3]], "no multiple of 2"), (vec![], "0 streams where")]
    {
        let row = Row { streams: values, ..Row::default() };
        let why = rows.push(SplitName::Train, row).expect_err("refused").to_string();
        assert!(why.contains(wanted), "{why}");
    }
    for target in [Some(Target::Class(1)), None] {
        let row = Row { streams: vec![vec![1.0; 4]], target, ..Row::default() };
        rows.push(SplitName::Train, row).expect("a row");
    }
    let why = rows.dataset(&Options::default()).expect_err("refused").to_string();
    assert!(why.contains("train, row 1: its target is of another kind"), "{why}");
}
