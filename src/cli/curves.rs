//! `curves.svg`: what a run did, epoch by epoch, drawn without fonts or a display.
//!
//! The picture brings its own pale ground, so that it reads the same on a dark page.

use crate::error::Result;
use crate::files::write_atomic;
use crate::report::charts::Lines;
use crate::report::curves::panels;
use crate::report::frame::file;
use crate::train::EpochRecord;
use std::path::Path;

/// A panel's width and height.
const PANEL: (f64, f64) = (860.0, 300.0);

/// Writes a run's `curves.svg`, whole or not at all.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn write_run(path: &Path, history: &[EpochRecord]) -> Result<()> {
    let all: Vec<(String, Lines)> =
        panels(history).into_iter().map(|p| (p.title.to_string(), p.chart)).collect();
    write(path, &all)
}

/// Writes charts under their titles, one below the other.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn write(path: &Path, charts: &[(String, Lines)]) -> Result<()> {
    let pictures: Vec<_> = charts.iter().map(|(title, chart)| chart.file(title, PANEL)).collect();
    write_atomic(path, file(&pictures).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(epochs: usize, align: bool) -> Vec<EpochRecord> {
        (1..=epochs)
            .map(|epoch| {
                let mut parts = serde_json::Map::new();
                parts.insert("M".into(), (1.0 / epoch as f64).into());
                if align {
                    parts.insert("align_ta".into(), 10f64.powi(-(epoch as i32)).into());
                }
                EpochRecord { epoch, loss: 1.0, parts, valid_loss: None, valid: None, best: true }
            })
            .collect()
    }

    #[test]
    fn every_length_of_history_draws() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.svg");
        for epochs in [0, 1, 2, 40] {
            write_run(&path, &history(epochs, epochs > 1)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
            assert_eq!(text.contains("log scale"), epochs > 2);
            // Stand-ins are for pages.
            assert!(!text.contains("#0100") && !text.contains("var("), "{text}");
        }
    }
}
