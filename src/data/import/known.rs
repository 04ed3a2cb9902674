//! The published feature files, by their sums, and the families that they belong to.

use super::convert::Plan;
use crate::data::Modality;

/// SHA-256 sums that MMSA publishes, the file's name among its users, and the preset that fits.
const PUBLISHED: [(&str, &str, &str); 5] = [
    (
        "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
        "MMSA's MOSI, unaligned",
        "mosi",
    ),
    (
        "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
        "MMSA's MOSI, aligned",
        "mosi",
    ),
    (
        "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
        "MMSA's MOSEI, unaligned",
        "mosei",
    ),
    (
        "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
        "MMSA's MOSEI, aligned",
        "mosei",
    ),
    (
        "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
        "MMSA's SIMS, unaligned",
        "sims",
    ),
];

/// The published file with this sum, and its preset.
pub(super) fn published(sha256: &str) -> Option<(&'static str, &'static str)> {
    PUBLISHED.iter().find(|(sum, ..)| *sum == sha256).map(|(_, name, preset)| (*name, *preset))
}

/// Features of a step of audio and vision in the sets that MMSA serves.
const WIDTHS: [(&str, usize, usize); 4] =
    [("mosi", 5, 20), ("mosei", 74, 35), ("sims", 33, 709), ("simsv2", 25, 177)];

/// Training rows of SIMS v2, whose features may be as wide as those of SIMS.
const SIMSV2_ROWS: usize = 2722;

/// The family whose audio and vision are this wide.
pub(super) fn family(audio: Option<usize>, vision: Option<usize>) -> Option<&'static str> {
    let found = WIDTHS.iter().find(|(_, a, v)| audio == Some(*a) && vision == Some(*v));
    found.map(|(name, ..)| *name)
}

/// The preset to begin with: by the widths of the features, else by the labels.
pub(super) fn preset(plan: &Plan) -> &'static str {
    let width = |m| plan.width(m);
    match family(width(Modality::Audio), width(Modality::Vision)) {
        Some("sims") if plan.train_rows() == Some(SIMSV2_ROWS) => "simsv2",
        Some(name) => name,
        None if plan.has_own_labels() || plan.largest_label() <= 1.0 => "sims",
        None => "mosi",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Config;

    #[test]
    fn published_sums_lead_to_presets_that_there_are() {
        for (sum, name, preset) in PUBLISHED {
            assert!(sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
            assert_eq!(published(sum), Some((name, preset)));
            Config::preset("self_mm", preset).unwrap();
        }
        assert_eq!(published(&"0".repeat(64)), None);
        for (preset, audio, vision) in WIDTHS {
            assert_eq!(family(Some(audio), Some(vision)), Some(preset));
            Config::preset("self_mm", preset).unwrap();
        }
    }
}
