//! Inference inside another program: a model kept beside its device scores one sample after the
//! other, each held in memory, and says what that costs the host.
//!
//! `cargo run --release --example embed_inference [RUN]`; without a run the model is an untrained
//! one, which costs the same.

use modalign::data::{Modality, Sample, StreamSpec};
use modalign::nn::Params;
use modalign::ops::random;
use modalign::plan::Spaces;
use modalign::recipe::{Config, Model, Offered};
use modalign::train::{Saved, Scorer};
use modalign::{Gpu, Result};
use std::path::Path;
use std::time::{Duration, Instant};

const SAMPLES: usize = 200;

/// What a program that scores holds: no lifetime, no data file.
struct Service {
    gpu: Gpu,
    scorer: Scorer,
}

fn main() -> Result<()> {
    let gpu = Gpu::new()?;
    let scorer = match std::env::args().nth(1) {
        Some(run) => Scorer::new(&gpu, &Saved::load(Path::new(&run))?, 1)?,
        None => untrained(&gpu)?,
    };
    let mut service = Service { gpu, scorer };
    println!("{}: scores {:?}", service.gpu.caps().name, service.scorer.tasks());

    let (mut host, mut whole) = (Vec::new(), Vec::new());
    for i in 0..SAMPLES {
        // A sample arrives: features of each modality, as many steps as it happens to have.
        let rows: Vec<(Modality, Vec<f32>)> = service
            .scorer
            .streams()
            .iter()
            .map(|s| {
                let steps = if s.lengths { 1 + (i * 7) % s.steps } else { s.steps };
                (s.modality, random((i + s.dim) as u64, steps * s.dim))
            })
            .collect();
        let sample: Vec<(Modality, &[f32])> = rows.iter().map(|(m, v)| (*m, &v[..])).collect();
        let (cost, scores) = score(&mut service.scorer, &sample)?;
        if i < 3 {
            println!("sample {i}: {scores:+.3?}");
        }
        // The first of a length has a plan made for it.
        if i >= SAMPLES / 2 {
            host.push(cost[0]);
            whole.push(cost[1]);
        }
    }
    host.sort();
    whole.sort();
    let ms = |times: &[Duration], at: usize| times[at].as_secs_f64() * 1e3;
    let (middle, most) = (host.len() / 2, host.len() * 9 / 10);
    println!(
        "host: {:.3} ms a sample (nine of ten below {:.3} ms); with the device {:.3} ms",
        ms(&host, middle),
        ms(&host, most),
        ms(&whole, middle)
    );
    Ok(())
}

/// The scores of one sample; what the host did until the device had everything, and all of it.
fn score(scorer: &mut Scorer, sample: &Sample) -> Result<([Duration; 2], Vec<f32>)> {
    let start = Instant::now();
    let scoring = scorer.begin(&[sample])?;
    let host = start.elapsed();
    let scores = scoring.wait()?.remove(0);
    Ok(([host, start.elapsed()], scores))
}

/// A model of MOSI's sizes with PyTorch's initial weights.
fn untrained(gpu: &Gpu) -> Result<Scorer> {
    let stream = |modality, steps, dim| StreamSpec { modality, steps, dim, lengths: steps > 1 };
    let streams = [
        stream(Modality::Text, 1, 768),
        stream(Modality::Audio, 375, 5),
        stream(Modality::Vision, 500, 20),
    ];
    let config = Config::build("mosi", None, &[])?;
    let model = Model::new(&config, Offered::new(&streams))?;
    let max = gpu.caps().max_binding;
    let specs = model.params(false, usize::MAX);
    let weights = Params::new(specs, &[], &mut Spaces::new(), max, false)?.initial(1111);
    Scorer::with(gpu, &config, Offered::new(&streams), None, (&weights, Path::new("untrained")), 1)
}
