//! The search for leaks raises no alarm on honest data, real or made, and does where one is planted
//! in a file of the usual shape.

use std::path::{Path, PathBuf};

use modalign::data::survey::Survey;
use modalign::data::{Dataset, Modality, SplitName, SynthConfig, synth};

use crate::place::folder;

#[test]
fn the_real_sets_raise_no_alarm() {
    let folder = std::env::var_os("MODALIGN_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    for name in ["cmu_mosi", "ravdess", "ict_mmmo"] {
        let path = folder.join(name).with_extension("safetensors");
        if !path.exists() {
            println!("skipped: no {}", path.display());
            continue;
        }
        let survey = Survey::of(&Dataset::open(&path).unwrap()).unwrap();
        assert_eq!(survey.suspicions, [], "{name}");
    }
}

#[test]
fn synthetic_sets_raise_no_alarm() {
    let folder = folder();
    let path = folder.path().join("synth.safetensors");
    for seed in 1..=12 {
        let mut config = SynthConfig { seed, ..SynthConfig::default() };
        // Some are small, some have strong features, some weak ones.
        if seed % 3 == 0 {
            (config.train, config.valid, config.test) = (80, 20, 30);
        }
        config.audio.noise = 0.1 * seed as f64;
        synth::write(&config, &path).unwrap();
        let survey = Survey::of(&Dataset::open(&path).unwrap()).unwrap();
        assert_eq!(survey.suspicions, [], "seed {seed}");
    }
}

/// Adds `share` of the label to every value of a modality in some splits, in the file itself.
fn plant(path: &Path, modality: Modality, splits: &[SplitName], share: f32) {
    let data = Dataset::open(path).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for split in splits {
        let labels = data.split(*split).unwrap().labels().unwrap().to_vec();
        let offsets = &about[format!("{split}.{modality}")]["data_offsets"];
        let (start, end) = (offsets[0].as_u64().unwrap(), offsets[1].as_u64().unwrap());
        let tensor = &mut bytes[8 + header + start as usize..8 + header + end as usize];
        let row = tensor.len() / labels.len();
        for (row, label) in tensor.chunks_exact_mut(row).zip(&labels) {
            for value in row.chunks_exact_mut(4) {
                let old = f32::from_le_bytes(value.try_into().unwrap());
                value.copy_from_slice(&(old + share * label).to_le_bytes());
            }
        }
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_planted_leak_is_named_with_its_splits() {
    use SplitName::{Test, Train, Valid};
    let folder = folder();
    let path = folder.path().join("synth.safetensors");
    for (splits, others) in
        [(&[Train][..], &[Valid, Test][..]), (&[Train, Valid], &[Test]), (&[Test], &[Train, Valid])]
    {
        let config = SynthConfig { shared_weight: 0.3, ..SynthConfig::default() };
        synth::write(&config, &path).unwrap();
        assert_eq!(Survey::of(&Dataset::open(&path).unwrap()).unwrap().suspicions, []);
        plant(&path, Modality::Vision, splits, 1.0);
        let survey = Survey::of(&Dataset::open(&path).unwrap()).unwrap();
        let whole = survey.suspicions.iter().find(|s| s.feature.is_none());
        let whole = whole.unwrap_or_else(|| panic!("{splits:?}: {:?}", survey.suspicions));
        assert_eq!(whole.modality, Modality::Vision);
        let names = |list: &[(SplitName, f64)]| list.iter().map(|n| n.0).collect::<Vec<_>>();
        assert_eq!((names(&whole.knows), names(&whole.not)), (splits.to_vec(), others.to_vec()));
        assert!(survey.suspicions.iter().all(|s| s.modality == Modality::Vision));
    }
}
