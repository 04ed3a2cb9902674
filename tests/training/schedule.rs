//! What training must hold: it repeats bit for bit, switches do what they say, every subset of
//! modalities and every awkward size works.

use crate::common;
use common::{Made, bits, bits_of, config, gpu, largest_gap, of, open, run, session, train_epoch};
use modalign::Gpu;
use modalign::data::{Dataset, SplitName};
use modalign::gpu::Family;
use modalign::nn::Weights;
use modalign::recipe::Config;
use modalign::train::metrics::evaluate;
use modalign::train::{Session, StepRecord};
use std::sync::Arc;

/// All that a training leaves behind, to the bit.
#[derive(Debug, PartialEq)]
struct Trace {
    weights: Vec<(String, Vec<u32>)>,
    labels: Vec<Vec<u32>>,
    records: Vec<StepRecord>,
    state: Vec<Vec<u32>>,
    scores: Vec<Vec<u32>>,
}

fn trace(session: &mut Session, records: Vec<StepRecord>) -> Trace {
    Trace {
        weights: bits(&session.weights().unwrap()),
        labels: bits_of(&session.labels().unwrap()),
        records,
        state: bits_of(&["store", "centres"].map(|name| session.state(name).unwrap())),
        scores: bits_of(&session.predict(SplitName::Test).unwrap().scores),
    }
}

fn trained(gpu: &Gpu, config: &Config, data: &Arc<Dataset>, epochs: usize) -> Trace {
    let mut session = session(gpu, config, data);
    let records = run(&mut session, 1..=epochs);
    trace(&mut session, records)
}

fn losses(records: &[StepRecord]) -> Vec<u64> {
    records.iter().map(|r| r.loss.to_bits()).collect()
}

// ---- repeatability ----------------------------------------------------------------------------

/// Alignment terms of a line of the log.
fn terms(record: &StepRecord) -> usize {
    record.parts().filter(|(name, _)| name.starts_with("align_")).count()
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let data = Made::default().open();
    let dropping = ["model.dropout=0.3", "model.layers=2", "train.clip_norm=1"];
    let first = trained(gpu(), &config(&dropping), &data, 3);
    assert_eq!(first, trained(gpu(), &config(&dropping), &data, 3));
    // On a device of its own, too.
    assert_eq!(first, trained(&open(None), &config(&dropping), &data, 3));

    let other = trained(gpu(), &config(&[&dropping[..], &["train.seed=7"]].concat()), &data, 3);
    assert_ne!(first.weights, other.weights);
    let still = trained(gpu(), &config(&[&dropping[..], &["model.dropout=0"]].concat()), &data, 3);
    assert_ne!(losses(&first.records), losses(&still.records), "dropout does something");
}

#[test]
fn threads_that_share_a_device_do_not_disturb_each_other() {
    let data = Made::default().open();
    let sets = [["train.seed=1", "model.dropout=0.3"], ["train.seed=2", "model.dropout=0.1"]];
    let alone = sets.map(|set| trained(gpu(), &config(&set), &data, 12));
    for _ in 0..3 {
        let together = std::thread::scope(|scope| {
            let train = |set: [&'static str; 2]| {
                let data = &data;
                scope.spawn(move || trained(gpu(), &config(&set), data, 12))
            };
            let threads = sets.map(train);
            threads.map(|t| t.join().expect("no panic"))
        });
        for (one, other) in alone.iter().zip(&together) {
            assert_eq!(one.records.len(), other.records.len(), "every loss arrives");
            assert!(one == other, "two sessions on one device got in each other's way");
        }
    }
}

#[test]
fn dropout_masks_are_fresh_every_step() {
    // With no learning rate a repeated batch has a repeated loss, but for the masks.
    let data = Made::default().open();
    let batch = |dropout: &str| {
        let set = ["train.lr=0", "train.shuffle=false", dropout];
        let mut session = session(gpu(), &config(&set), &data);
        let mut records = Vec::new();
        let order: Vec<u32> = (0..8).collect::<Vec<u32>>().repeat(4);
        train_epoch(&mut session, 1, order, &mut records).unwrap();
        let mut seen = losses(&records);
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    };
    assert_eq!(batch("model.dropout=0"), 1);
    assert_eq!(batch("model.dropout=0.5"), 4);
}

#[test]
fn evaluation_drops_nothing_and_changes_nothing() {
    let data = Made::default().open();
    let mut session = session(gpu(), &config(&["model.dropout=0.5"]), &data);
    run(&mut session, 1..=2);
    let before = bits(&session.weights().unwrap());
    let once = session.predict(SplitName::Test).unwrap();
    let again = session.predict(SplitName::Test).unwrap();
    assert_eq!(bits_of(&once.scores), bits_of(&again.scores));
    assert_eq!(before, bits(&session.weights().unwrap()));
    // What `represent` gives for the fused task is what its score is made of.
    let all = session.represent(SplitName::Test).unwrap();
    let names: Vec<&str> = all.iter().map(|(n, ..)| n.as_str()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    let (_, size, features) = all.iter().find(|(n, ..)| n == "feature M").expect("a feature");
    let weights = session.weights().unwrap();
    let get = |name: &str| weights.get(&format!("post_fusion_{name}")).unwrap().1;
    for (row, scores) in features.chunks(*size).zip(&once.scores) {
        let dot = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
        let inner: Vec<f32> = get("layer_2.weight")
            .chunks(*size)
            .zip(get("layer_2.bias"))
            .map(|(w, b)| (dot(w, row) + b).max(0.0))
            .collect();
        let score = dot(get("layer_3.weight"), &inner) + get("layer_3.bias")[0];
        assert!((score - scores[0]).abs() < 1e-5, "{score} from features, {}", scores[0]);
    }
}

// ---- alignment and labels ---------------------------------------------------------------------

#[test]
fn without_weights_alignment_is_not_there() {
    let data = Made::default().open();
    let plain = trained(gpu(), &config(&["align.weight=0"]), &data, 3);
    for other in [
        vec!["align.weight=0", "align.dim=9", "align.standardize=true", "align.margin=0.1"],
        // Sizes that the post layer could not align.
        vec!["align.weight=0", "align.layer=post"],
    ] {
        assert_eq!(plain, trained(gpu(), &config(&other), &data, 3), "{other:?}");
    }
    let aligned = trained(gpu(), &config(&["align.weight=0.5"]), &data, 3);
    for (name, value) in &plain.weights {
        assert!(!name.starts_with("align"), "{name}");
        let (_, other) = aligned.weights.iter().find(|(n, _)| n == name).unwrap();
        let trunk = name.contains("_model.");
        assert!(!trunk || value != other, "{name} felt nothing of the alignment");
    }
    assert_eq!(aligned.weights.len(), plain.weights.len() + 3);
    // Both begin with the same parameters, so the first micro-batch has the same task losses.
    let (a, p) = (&aligned.records[0], &plain.records[0]);
    assert_eq!(a.values[..4], p.values[..]);
    assert!(a.loss > p.loss && p.get("align_ta").is_none() && terms(a) == 3);

    let mut session = session(gpu(), &config(&["align.weight=0"]), &data);
    let text = session.step_plan().unwrap().to_string();
    for kernel in ["covariance", "align", "standardize", "project"] {
        assert!(!text.contains(kernel), "{kernel} in\n{text}");
    }
}

#[test]
fn alignment_takes_five_dispatches_of_a_step() {
    let data = Made::default().open();
    let count =
        |set: &[&str]| session(gpu(), &config(set), &data).step_plan().unwrap().dispatches().len();
    let plain = count(&["align.weight=0"]);
    // Projections, covariances, their gradient, those of the weights and of the encoders' outputs.
    assert_eq!(count(&["align.weight=0.5"]), plain + 5);
    assert_eq!(count(&["align.weight=0", "align.weight.tv=-1"]), plain + 5);
    assert_eq!(count(&["align.weight=0.5", "align.standardize=true"]), plain + 7);
}

#[test]
fn one_weight_moves_its_own_pair() {
    let data = Made::default().open();
    let set = |pair: &str| {
        let weight = format!("align.weight.{pair}=50");
        config(&["align.weight=0", &weight, "train.accumulate=1"])
    };
    let plain = trained(gpu(), &config(&["align.weight=0", "train.accumulate=1"]), &data, 1);
    let same = |name: &str, other: &Trace| {
        let find = |t: &Trace| t.weights.iter().find(|(n, _)| n == name).unwrap().1.clone();
        find(&plain) == find(other)
    };
    // One step only, so that nothing spreads through the fused head.
    let one = |pair: &str| {
        let mut session = session(gpu(), &set(pair), &data);
        train_epoch(&mut session, 1, (0..8).collect(), &mut Vec::new()).unwrap();
        trace(&mut session, Vec::new())
    };
    let mut base = session(gpu(), &config(&["align.weight=0", "train.accumulate=1"]), &data);
    train_epoch(&mut base, 1, (0..8).collect(), &mut Vec::new()).unwrap();
    let base = trace(&mut base, Vec::new());
    let find = |t: &Trace, name: &str| t.weights.iter().find(|(n, _)| n == name).unwrap().1.clone();
    let (audio, video) = ("audio_model.linear_1.weight", "video_model.linear_1.weight");
    for (pair, moves_audio, moves_video) in
        [("ta", true, false), ("tv", false, true), ("av", true, true)]
    {
        let with = one(pair);
        assert_eq!(find(&with, audio) != find(&base, audio), moves_audio, "{pair}");
        assert_eq!(find(&with, video) != find(&base, video), moves_video, "{pair}");
    }
    assert!(!same(audio, &trained(gpu(), &set("ta"), &data, 1)));
}

#[test]
fn without_labels_the_fused_head_trains_alone() {
    let data = Made::default().open();
    let config = config(&["labels.enabled=false", "align.weight=0"]);
    let mut session = session(gpu(), &config, &data);
    let start = bits(&session.weights().unwrap());
    let records = run(&mut session, 1..=2);
    for record in &records {
        assert_eq!(record.parts().map(|(name, _)| name).collect::<String>(), "M");
        assert_eq!(record.loss, f64::from(record.values[0]));
        let line = record.to_json();
        let keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["epoch", "batch", "loss", "M"]);
    }
    let end = bits(&session.weights().unwrap());
    for ((name, before), (_, after)) in start.iter().zip(&end) {
        assert!(!["post_text", "post_audio", "post_video"].iter().any(|p| name.starts_with(p)));
        assert_ne!(before, after, "{name} did not move");
    }
    let labels = data.split(SplitName::Train).unwrap().labels().unwrap().to_vec();
    assert_eq!(session.labels().unwrap(), vec![labels]);
    assert_eq!(session.predict(SplitName::Test).unwrap().tasks, ["M"]);
}

#[test]
fn labels_stay_until_the_second_epoch_and_within_the_clamp() {
    let data = Made::default().open();
    let mut session = session(gpu(), &config(&["labels.clamp=0.75"]), &data);
    let truth = data.split(SplitName::Train).unwrap().labels().unwrap().to_vec();
    run(&mut session, 1..=1);
    assert!(session.labels().unwrap().iter().all(|task| *task == truth));
    run(&mut session, 2..=2);
    let after = session.labels().unwrap();
    assert_eq!(after[0], truth, "the fused label is given");
    for task in &after[1..] {
        assert_ne!(*task, truth);
        for (new, old) in task.iter().zip(&truth) {
            // Epoch 2 keeps a third of the old label.
            let fresh = (new - old / 3.0) * 1.5;
            assert!(fresh.abs() <= 0.75 + 1e-5, "{fresh}");
        }
    }
}

// ---- modalities and sizes ---------------------------------------------------------------------

#[test]
fn every_subset_of_modalities_trains_and_evaluates() {
    for subset in ["T", "A", "V", "TA", "TV", "AV", "TAV"] {
        let letter = |l: char, shape| subset.contains(l).then_some(shape);
        let made = Made {
            text: letter('T', (1, 12)),
            audio: letter('A', (6, 5)),
            vision: letter('V', (5, 3)),
            ..Made::default()
        };
        let absent = made.open();
        let trace = trained(gpu(), &config(&["model.dropout=0.1"]), &absent, 2);
        // A modality that is there but not wanted is as good as absent.
        let unused = config(&["model.dropout=0.1", &format!("model.modalities={subset}")]);
        assert_eq!(trace, trained(gpu(), &unused, &Made::default().open(), 2), "{subset}");

        let record = &trace.records[0];
        let parts = record.parts().map(|(name, _)| name);
        let tasks: String = parts.filter(|name| name.len() == 1).collect();
        assert_eq!(tasks, format!("M{subset}"));
        let pairs = subset.len() * (subset.len() - 1) / 2;
        assert_eq!(terms(record), pairs, "{subset}");
        assert!(trace.records.iter().all(|r| r.loss.is_finite() && r.loss > 0.0));
        let scores: Vec<f32> = trace.scores.iter().map(|row| f32::from_bits(row[0])).collect();
        let truth = absent.split(SplitName::Test).unwrap().labels().unwrap();
        let metrics =
            evaluate(&scores, truth, config(&[]).data.convention).expect("metrics of the test");
        assert!(metrics.mae.is_finite(), "{subset}");
    }
}

#[test]
fn awkward_sizes_train_alike_on_every_family() {
    // 17 rows in batches of 8 leave a batch of one; audio rows have 1 to 3 steps, vision ones 1.
    let made = Made {
        rows: [17, 5, 3],
        text: Some((4, 7)),
        audio: Some((3, 6)),
        vision: Some((1, 1)),
        ..Made::default()
    };
    let data = made.open();
    let others = [Family::Tiled, Family::Plain].map(of);
    for set in [
        vec!["model.hidden=5", "model.out=3", "model.post=5"],
        vec!["model.hidden=5", "model.bidirectional=true", "model.layers=2"],
        vec!["model.hidden=33", "model.layers=2", "model.dropout=0.2"],
        vec!["model.hidden=1", "model.out=1", "model.post=1", "align.dim=1"],
    ] {
        let lstm = ["model.text_encoder=lstm", "train.accumulate=1", "train.lr=1e-3"];
        let config = config(&[&set[..], &lstm].concat());
        let own = trained(gpu(), &config, &data, 2);
        assert_eq!(own.records.len(), 6);
        for other in others {
            let found = trained(other, &config, &data, 2);
            for ((name, a), (_, b)) in own.weights.iter().zip(&found.weights) {
                let [a, b]: [Vec<f32>; 2] =
                    [a, b].map(|v| v.iter().map(|w| f32::from_bits(*w)).collect());
                let gap = largest_gap(&a, &b);
                assert!(gap < 1e-3, "{set:?}: {name} on {} is {gap:e} off", other.caps().family);
            }
        }
    }
}

#[test]
fn features_of_a_sequence_are_its_first_position() {
    let made = Made { text: Some((4, 7)), ..Made::default() };
    let mut file = made.tensors();
    for split in ["train", "valid", "test"] {
        let name = format!("{split}.text");
        let rows = file.shape(&name)[0];
        let first: Vec<f32> =
            file.f32(&name).chunks(4 * 7).flat_map(|row| row[..7].to_vec()).collect();
        file.put_f32(&name, &[rows, 1, 7], &first);
        file.tensors.remove(&format!("{name}_lengths"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("first.safetensors");
    file.save(&path);
    let first = Arc::new(Dataset::open(&path).unwrap());
    let config = config(&[]);
    assert_eq!(trained(gpu(), &config, &made.open(), 2), trained(gpu(), &config, &first, 2));
}

#[test]
fn steps_beyond_a_length_are_not_seen() {
    let made = Made::default();
    let mut file = made.tensors();
    let clean = made.open();
    // Garbage where padding was.
    for split in ["train", "valid", "test"] {
        let name = format!("{split}.audio");
        let [rows, steps, dim] = file.shape(&name)[..] else { panic!("a sequence") };
        let mut values = file.f32(&name);
        let lengths = file.i32(&format!("{name}_lengths"));
        for row in 0..rows {
            let from = (row * steps + lengths[row] as usize) * dim;
            values[from..(row + 1) * steps * dim].fill(1e3);
        }
        file.put_f32(&name, &[rows, steps, dim], &values);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dirty.safetensors");
    file.save(&path);
    let dirty = Arc::new(Dataset::open(&path).unwrap());
    let config = config(&[]);
    assert_eq!(trained(gpu(), &config, &clean, 2), trained(gpu(), &config, &dirty, 2));
}

// ---- accumulation -----------------------------------------------------------------------------

/// One group of `order` over 26 rows in batches of 8, groups of 3: a tail of 1 batch.
fn grouped(settings: &[&str], order: &[u32]) -> (Weights, Weights) {
    let base = ["train.accumulate=3", "train.decay=0.5", "labels.enabled=false", "align.weight=0"];
    let data = Made::default().open();
    let mut session = session(gpu(), &config(&[&base[..], settings].concat()), &data);
    train_epoch(&mut session, 1, order.to_vec(), &mut Vec::new()).unwrap();
    (session.weights().unwrap(), session.gradients().unwrap())
}

#[test]
fn the_tail_of_an_epoch_is_dropped_or_kept() {
    let all: Vec<u32> = (0..26).collect();
    let (dropped, left) = grouped(&[], &all);
    let (without, none) = grouped(&[], &all[..24]);
    assert_eq!(bits(&dropped), bits(&without), "the tail took no step");
    assert!(none.iter().all(|(_, _, v)| v.iter().all(|g| *g == 0.0)), "a step zeroes gradients");
    assert!(left.iter().any(|(_, _, v)| v.iter().any(|g| *g != 0.0)), "the tail left gradients");
    let (kept, none) = grouped(&["train.keep_tail=true"], &all);
    assert_ne!(bits(&kept), bits(&dropped));
    assert!(none.iter().all(|(_, _, v)| v.iter().all(|g| *g == 0.0)));
    // Where groups come out even there is no tail to keep.
    let (even, _) = grouped(&["train.keep_tail=true"], &all[..24]);
    assert_eq!(bits(&even), bits(&without));
}

#[test]
fn what_a_dropped_tail_left_is_gone_in_the_next_epoch() {
    let data = Made::default().open();
    let set = ["train.accumulate=3", "labels.enabled=false", "align.weight=0", "model.dropout=0"];
    let two = |first: usize| {
        let mut session = session(gpu(), &config(&set), &data);
        let order: Vec<u32> = (0..26).collect();
        train_epoch(&mut session, 1, order[..first].to_vec(), &mut Vec::new()).unwrap();
        train_epoch(&mut session, 2, order[..24].to_vec(), &mut Vec::new()).unwrap();
        bits(&session.weights().unwrap())
    };
    assert_eq!(two(26), two(24));
}

#[test]
fn a_step_is_adams_on_the_sum_or_the_mean() {
    let start = {
        let set = ["labels.enabled=false", "align.weight=0"];
        session(gpu(), &config(&set), &Made::default().open()).weights().unwrap()
    };
    // An incomplete group of two keeps its gradients, and so they can be read.
    let order: Vec<u32> = (0..16).collect();
    let (unmoved, grads) = grouped(&[], &order);
    assert_eq!(bits(&unmoved), bits(&start));
    for (average, factor) in [("train.average=false", 1.0), ("train.average=true", 0.5)] {
        let (stepped, _) = grouped(&["train.keep_tail=true", average], &order);
        let mut worst = 0.0_f64;
        for (name, _, values) in stepped.iter() {
            let lr = if name.contains("_model.") { 5e-3 } else { 1e-3 };
            let (_, from) = start.get(name).unwrap();
            let (_, grad) = grads.get(name).unwrap();
            for ((value, from), grad) in values.iter().zip(from).zip(grad) {
                // Adam's first step: both moments, bias corrected, are g and g squared.
                let g = factor * f64::from(*grad) + 0.5 * f64::from(*from);
                let want = f64::from(*from) - lr * g / (g.abs() + 1e-8);
                // Where g is all rounding the quotient is anything.
                if g.abs() > 1e-5 {
                    worst = worst.max((f64::from(*value) - want).abs());
                }
            }
        }
        assert!(worst < 1e-6, "{average}: {worst:e}");
    }
    let (sum, _) = grouped(&["train.keep_tail=true"], &order);
    let (mean, _) = grouped(&["train.keep_tail=true", "train.average=true"], &order);
    assert_ne!(bits(&sum), bits(&mean));
}

#[test]
fn averaging_a_group_of_one_changes_nothing() {
    let data = Made::default().open();
    let run = |average: &str| trained(gpu(), &config(&["train.accumulate=1", average]), &data, 2);
    assert_eq!(run("train.average=true"), run("train.average=false"));
}
