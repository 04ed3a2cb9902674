//! Memory stays where it is, however many steps are taken.
//!
//! A thousand steps by default; `STEPS=10000 cargo test --release --test steady -- --nocapture`
//! takes more and prints what was measured on the way.

mod common;

use common::{config, open, session};
use modalign::data::{Dataset, SplitName, SynthConfig, synth};
use modalign::train::Session;
use std::sync::Arc;

/// Shuffles that are gone through again and again: batches differ in shape, but no shape is new
/// once all have been seen.
const EPOCHS: usize = 8;
/// Of memory that no step needs again: what an allocator keeps varies by about half of this.
const SLACK: u64 = 4 << 20;

/// Bytes of this process that are backed by no file; none where that is not to be read.
fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn thousands_of_steps_take_no_more_memory_than_the_first_few() {
    let steps: usize = std::env::var("STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(1_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    let mut small = SynthConfig { train: 64, valid: 8, test: 0, ..SynthConfig::default() };
    (small.text.dim, small.audio.dim, small.vision.dim) = (8, 5, 6);
    synth::write(&small, &path).unwrap();
    let data = Arc::new(Dataset::open(&path).unwrap());

    let gpu = open(None);
    let mut session = session(&gpu, &config(&[]), &data);
    let mut taken = 0;
    let mut round = |session: &mut Session| {
        for epoch in 1..=EPOCHS {
            let order = session.order(epoch);
            session
                .train_epoch(epoch, order, |record, _| {
                    assert!(record.loss.is_finite());
                    taken += 1;
                    Ok(())
                })
                .unwrap();
            session.predict(SplitName::Valid).unwrap();
        }
        // What was finished is freed when a device is asked.
        gpu.wait().unwrap();
        (taken, gpu.resources(), anonymous())
    };
    // Twice: the second fills what the first one's end left free.
    round(&mut session);
    let (_, resources, before) = round(&mut session);
    let mut shown = 0;
    loop {
        let (taken, now, bytes) = round(&mut session);
        assert_eq!(now, resources, "buffers, bind groups, pipelines after {taken} steps");
        if let (Some(before), Some(bytes)) = (before, bytes) {
            if taken / 1_000 > shown {
                shown = taken / 1_000;
                println!("{taken} steps: {} KiB, {now:?}", bytes >> 10);
            }
            let grown = bytes.saturating_sub(before);
            assert!(grown < SLACK, "{grown} bytes more after {taken} steps than {before} before");
        }
        if taken >= steps {
            return;
        }
    }
}
