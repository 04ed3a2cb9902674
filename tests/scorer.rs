//! Samples held in memory score as the rows of a data set do.

mod common;

use common::{Made, config, gpu, run, session};
use modalign::Error;
use modalign::data::{Modality, Sample, SplitName, Standardise, Task};
use modalign::recipe::Offered;
use modalign::train::{ModelCard, Saved, Scorer, Session};
use std::sync::Arc;

/// What a split holds of one row: its valid steps.
fn row(session: &Session, row: usize) -> Vec<(Modality, Vec<f32>)> {
    let split = session.data().split(SplitName::Test).unwrap();
    let streams = Modality::KNOWN.iter().filter_map(|m| split.stream(*m));
    let valid = |s: modalign::data::Stream| {
        let steps = (0..s.len(row)).flat_map(|t| s.frame(row, t)).collect();
        (s.modality, steps)
    };
    streams.map(valid).collect()
}

fn borrowed(rows: &[(Modality, Vec<f32>)]) -> Vec<(Modality, &[f32])> {
    rows.iter().map(|(m, values)| (*m, values.as_slice())).collect()
}

#[test]
fn a_sample_in_memory_scores_as_its_row_does() {
    let gpu = gpu();
    let data = Made::default().open();
    let config = config(&[]);
    let train = data.split(SplitName::Train).unwrap();
    let fitted = Standardise::fit(train, &[Modality::Audio, Modality::Vision]).unwrap();
    for standardise in [None, Some(fitted)] {
        let shared = standardise.clone().map(Arc::new);
        let mut session = match shared {
            None => session(gpu, &config, &data),
            Some(shared) => {
                let mut made =
                    Session::new(gpu, &config, data.clone(), Some(shared), true).unwrap();
                made.initialise().unwrap();
                made
            }
        };
        run(&mut session, 1..=1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let card = ModelCard {
            acoustic: None,
            task: Task::default(),
            format: modalign::files::FORMAT,
            version: "test".into(),
            config: config.clone(),
            streams: session.model().streams().iter().map(Into::into).collect(),
            guides: Vec::new(),
            standardise,
            data_sha256: String::new(),
            fold: None,
            epoch: 1,
        };
        Saved::save(&path, &card, &session.weights().unwrap()).unwrap();
        let saved = Saved::load(&path).unwrap();
        let mut scorer = Scorer::new(gpu, &saved, 4).unwrap();
        let want = session.predict(SplitName::Test).unwrap();
        assert_eq!(scorer.tasks(), want.tasks);
        let rows: Vec<_> = (0..want.scores.len()).map(|i| row(&session, i)).collect();
        let close = |got: &[f32], want: &[f32]| {
            assert!(common::largest_gap(got, want) < 1e-5, "{got:?}, want {want:?}");
        };
        for (own, want) in rows.iter().zip(&want.scores) {
            close(&scorer.score(&[&borrowed(own)]).unwrap()[0], want);
        }
        for (some, want) in rows.chunks(4).zip(want.scores.chunks(4)) {
            let some: Vec<_> = some.iter().map(|r| borrowed(r)).collect();
            let samples: Vec<&Sample> = some.iter().map(Vec::as_slice).collect();
            // Whoever does not wait for the ones before gets these all the same.
            let _ = scorer.begin(&samples[..1]).unwrap();
            let got = scorer.score(&samples).unwrap();
            assert_eq!(got.len(), want.len());
            got.iter().zip(want).for_each(|(got, want)| close(got, want));
        }
        // It goes to another thread, and outlives the handle it was made with.
        let first = rows[0].clone();
        let there = std::thread::spawn(move || scorer.score(&[&borrowed(&first)]).unwrap());
        close(&there.join().unwrap()[0], &want.scores[0]);
    }
}

#[test]
fn samples_that_do_not_fit_are_refused_by_number() {
    let gpu = gpu();
    let data = Made::default().open();
    let session = session(gpu, &config(&[]), &data);
    let (weights, streams) = (session.weights().unwrap(), session.model().streams());
    let new = |rows| {
        let from = (&weights, std::path::Path::new("here"));
        Scorer::with(gpu, &config(&[]), Offered::new(streams), None, from, rows)
    };
    assert!(matches!(new(0).err(), Some(Error::Config(_))));
    let mut scorer = new(2).unwrap();
    let whole = row(&session, 0);
    let good = borrowed(&whole);
    let mut refused = |samples: &[&Sample], part: &str| {
        let error = scorer.score(samples).expect_err(part);
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(&[], "0 samples");
    refused(&[&good, &good, &good], "3 samples for a scorer of 1 to 2");
    refused(&[&good, &good[..2]], "sample 1 has no 'vision'");
    let mut bad = good.clone();
    bad[1].1 = &[];
    refused(&[&bad], "'audio' of sample 0 has no step");
    bad[1].1 = &[1.0; 7];
    refused(&[&good, &bad], "'audio' of sample 1 has 7 values, no multiple of 5");
    assert_eq!(scorer.score(&[&good]).unwrap().len(), 1);
    // More steps than it was trained with: the first ones count.
    let audio: Vec<f32> = good[1].1.iter().cycle().take(5 * 40).copied().collect();
    let mut long = good.clone();
    long[1].1 = &audio;
    let mut cut = good.clone();
    cut[1].1 = &audio[..5 * 6];
    assert_eq!(scorer.score(&[&long]).unwrap(), scorer.score(&[&cut]).unwrap());
    gpu.check().unwrap();
}
