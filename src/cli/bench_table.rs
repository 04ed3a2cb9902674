//! Times as tables.

use super::output;
use crate::bench::{Measured, Report};
use comfy_table::CellAlignment;

/// A number in three digits: `0.123`, `4.56`, `78.9`, `1234`.
fn three(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Milliseconds in the unit that suits them.
pub(super) fn time(ms: f64) -> String {
    match ms {
        v if v >= 1e3 => format!("{} s", three(v / 1e3)),
        v if v >= 1.0 => format!("{} ms", three(v)),
        v => format!("{} µs", three(v * 1e3)),
    }
}

/// A bar of eight cells, in eighths of a cell; full at 1.
fn bar(share: f64) -> String {
    let eighths = (share.clamp(0.0, 1.0) * 64.0).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8))
}

/// What it was measured on, and the roofline.
pub(super) fn head(report: &Report) -> String {
    let roofline = &report.roofline;
    let checks = if report.checked { ", with bounds checks" } else { "" };
    output::facts(&[
        ("adapter", format!("{}, {}", report.adapter, report.backend)),
        ("driver", report.driver.clone()),
        ("kernels", format!("{}{checks}", report.family)),
        (
            "roofline",
            format!(
                "{} GFLOP/s, {} GB/s",
                three(roofline.flops * 1e-9),
                three(roofline.bytes * 1e-9)
            ),
        ),
        ("device times", report.device_clock.into()),
    ])
}

/// What is in a kernel's row beside its times: which of its dispatches.
fn name(m: &Measured) -> String {
    format!("  {} {}", m.kernel, m.part).trim_end().to_string()
}

/// The table of all rows, under a line for each operation and shape. Kernels that are in no
/// recording, and so at the largest case of their tests, share a line at the end.
pub(super) fn rows(report: &Report) -> String {
    // Only whole steps are timed in a row.
    let streamed = report.results.iter().any(|m| m.streamed.is_some());
    let mut header = vec!["", "encode", "device", "best", "end to end"];
    header.extend(streamed.then_some("in a row"));
    header.extend(["speed", "roofline", ""]);
    let columns = header.len();
    let cells = report.results.iter().map(|m| {
        let speed = match m.bound {
            "arithmetic" => format!("{} GFLOP/s", three(m.gflops)),
            _ => format!("{} GB/s", three(m.gbytes)),
        };
        let mut row = vec![
            name(m),
            time(m.encode.median_ms),
            time(m.device.median_ms),
            time(m.device.min_ms),
            time(m.end_to_end.median_ms),
        ];
        let wall = m.streamed.map_or_else(String::new, |s| time(s.median_ms));
        row.extend(streamed.then_some(wall));
        row.extend([speed, format!("{:.0} %", m.share * 100.0), bar(m.share)]);
        row
    });
    let mut table = output::table(header, 1, cells);
    if let Some(bars) = table.column_mut(columns - 1) {
        bars.set_cell_alignment(CellAlignment::Left);
    }
    let text = output::text(&table);
    let mut lines = text.lines();
    let mut out: Vec<String> = lines.by_ref().take(2).map(str::to_string).collect();
    let mut before = (String::new(), String::new());
    for (m, line) in report.results.iter().zip(lines) {
        let alone = report.results.iter().filter(|other| other.op == m.op).count() == 1;
        let titles = match alone && m.op == m.kernel && m.part.is_empty() {
            true => ("others".into(), "at the largest case of their tests".into()),
            false => (m.op.to_string(), m.shape.clone()),
        };
        if titles != before {
            if !before.0.is_empty() && titles.0 != before.0 {
                out.push(String::new());
            }
            let title = format!(" {}  {}", titles.0, titles.1);
            let bold = output::colours();
            out.push(if bold { format!("\x1b[1m{title}\x1b[0m") } else { title });
            before = titles;
        }
        out.push(line.to_string());
    }
    out.join("\n")
}

/// The table of variants beside each other; `ours` is the variant that `own`, the last, is held
/// against.
pub(super) fn compared(report: &Report, variants: usize, ours: usize, own: &str) -> String {
    let groups = || report.results.chunks(variants);
    let mut header: Vec<String> = vec!["shape".into(), "".into()];
    let names = groups().next().unwrap_or_default().iter().map(|m| m.variant.clone());
    header.extend(names.take(variants - 1));
    header.extend([own.into(), "ours / yours".into(), "roofline".into(), "".into()]);
    let columns = header.len();
    let mut shape = "";
    let rows = groups().filter_map(|group| {
        let (first, last) = (group.first()?, group.last()?);
        let next = if first.shape == shape { "" } else { first.shape.as_str() };
        shape = &first.shape;
        let mut row = vec![next.to_string(), first.part.clone()];
        row.extend(group.iter().map(|m| time(m.device.min_ms)));
        row.push(format!("{:.2}", group[ours].device.min_ms / last.device.min_ms));
        row.extend([format!("{:.0} %", last.share * 100.0), bar(last.share)]);
        Some(row)
    });
    let mut table = output::table(header, 2, rows);
    if let Some(bars) = table.column_mut(columns - 1) {
        bars.set_cell_alignment(CellAlignment::Left);
    }
    output::text(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0.1234, 4.567, 78.91, 1234.5].map(three), ["0.123", "4.57", "78.9", "1234"]);
        assert_eq!([0.0123, 4.567, 7891.0].map(time), ["12.3 µs", "4.57 ms", "7.89 s"]);
        assert_eq!([0.0, 0.5, 1.3].map(bar), ["", "████", "████████"]);
        assert_eq!(bar(0.57), "████▌");
    }
}
