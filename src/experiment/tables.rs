//! Results as rows of text, and those as CSV, Markdown and LaTeX.

use super::effects::Effect;
use super::record::{PRIVATE, SHARED};
use super::results::{CellResult, Results, damage_order};
use super::stats::{Comparison, Summary};
use crate::error::{Error, Result};

/// A table of text.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// What it shows.
    pub title: String,
    /// The columns.
    pub header: Vec<String>,
    /// The cells of each row.
    pub rows: Vec<Vec<String>>,
    /// The row to mark, if any.
    pub marked: Option<usize>,
    /// How many columns are words; the others are numbers.
    pub words: usize,
}

/// A score as the field prints it: errors, correlations and R² by three digits, shares in percent.
pub fn shown(score: &str, value: f64) -> String {
    match share(score) {
        true => format!("{:.1}", value * 100.0),
        false => format!("{value:.3}"),
    }
}

fn share(score: &str) -> bool {
    score.starts_with("Acc") || score.starts_with("F1")
}

/// Mean and spread.
pub fn summary(score: &str, s: Option<&Summary>) -> String {
    s.map_or_else(|| "–".into(), |s| format!("{} ± {}", shown(score, s.mean), shown(score, s.std)))
}

/// A difference, with its sign.
pub fn difference(score: &str, value: f64) -> String {
    let text = shown(score, value);
    let zero = text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
    match (zero, value > 0.0) {
        (true, _) => text.trim_start_matches('-').into(),
        (_, true) => format!("+{text}"),
        _ => text,
    }
}

/// A probability: small ones as such.
pub fn probability(p: Option<f64>) -> String {
    match p {
        None => "–".into(),
        Some(p) if p < 0.001 => "<0.001".into(),
        Some(p) => format!("{p:.3}"),
    }
}

/// Scores that a table shows of those that there are: without the F1, which follow Acc-2; what
/// encoders carry has a table of its own.
fn columns(r: &Results) -> Vec<&str> {
    let all = r.scores();
    // CH-SIMS has no Acc-7; there Acc-5 is the finest.
    let finer = all.contains(&"Acc-7");
    let spare = |name: &str| {
        name.starts_with("F1") || name == "Acc-5" && finer || [SHARED, PRIVATE].contains(&name)
    };
    all.into_iter().filter(|name| *name == r.metric || !spare(name)).collect()
}

/// The scores that matter most: the plan's own, Corr, one Acc-2.
fn few(r: &Results) -> Vec<&str> {
    let wanted =
        ["MAE", "Corr", "Acc-2", "Acc-2 Non0", "accuracy", "balanced_accuracy", "f1_macro", "f1"];
    r.scores().into_iter().filter(|s| wanted.contains(s) || *s == r.metric).collect()
}

/// Every cell's scores on test rows, and its difference to the reference.
pub fn cells(r: &Results) -> Grid {
    compared(r, &columns(r))
}

/// The same by the scores that matter most, for a terminal.
pub fn narrow(r: &Results) -> Grid {
    compared(r, &few(r))
}

fn named(r: &Results, c: &CellResult) -> String {
    if c.cell == r.reference { format!("{} (reference)", c.cell) } else { c.cell.clone() }
}

/// Difference, adjusted p, effect; of the reference itself nothing.
fn comparison(score: &str, found: Option<&Comparison>) -> Vec<String> {
    let Some(found) = found else { return vec![String::new(); 3] };
    vec![
        difference(score, found.difference),
        probability(found.p_adjusted),
        found.effect.map_or_else(|| "–".into(), |g| format!("{g:+.2}")),
    ]
}

fn compared(r: &Results, scores: &[&str]) -> Grid {
    let header = ["cell", "runs"].into_iter().chain(scores.iter().copied()).map(String::from);
    let compared = [format!("Δ {}", r.metric), "p adj.".into(), "g".into()];
    let row = |c: &CellResult| {
        let values = scores.iter().map(|s| summary(s, c.test.get(*s)));
        let found = c.against(&r.metric);
        let name = [named(r, c), c.runs.len().to_string()];
        name.into_iter().chain(values).chain(comparison(&r.metric, found)).collect()
    };
    let test =
        r.folding.as_ref().map_or("", |_| "; p by Nadeau and Bengio's corrected resampled t");
    Grid {
        title: format!(
            "{}: test scores, mean ± population deviation over {}{test}",
            r.name,
            r.over()
        ),
        header: header.chain(compared).collect(),
        rows: r.cells.iter().map(row).collect(),
        marked: r.cells.iter().position(|c| r.is_clearly_best(c)),
        words: 1,
    }
}

/// Every cell's scores over all rows at once; `None` where rows are not folded, or no seed has all of its
/// folds.
pub fn pooled(r: &Results) -> Option<Grid> {
    let scores = columns(r);
    let row = |c: &CellResult| {
        let pooled = c.pooled.as_ref()?;
        let seeds = pooled.values().map(|s| s.n).max().unwrap_or(0).to_string();
        let values = scores.iter().map(|s| summary(s, pooled.get(*s)));
        Some([named(r, c), seeds].into_iter().chain(values).collect())
    };
    let rows: Vec<Vec<String>> = r.cells.iter().filter_map(row).collect();
    (!rows.is_empty()).then(|| Grid {
        title: format!(
            "{}: scores of all rows at once, each as the run predicts it that tests on it, mean ± \
             population deviation over seeds",
            r.name
        ),
        header: ["cell", "seeds"]
            .into_iter()
            .chain(scores.iter().copied())
            .map(String::from)
            .collect(),
        rows,
        marked: None,
        words: 1,
    })
}

/// What the encoders carry of the known factors, and its difference to the reference; `None` where
/// no factor is known.
pub fn recovered(r: &Results) -> Option<Grid> {
    let scores: Vec<&str> =
        [SHARED, PRIVATE].into_iter().filter(|s| r.scores().contains(s)).collect();
    let header = scores.iter().flat_map(|s| [s, "Δ", "p adj.", "g"]).map(String::from);
    let row = |c: &CellResult| {
        let values = scores.iter().flat_map(|s| {
            let found = c.against(s);
            [vec![summary(s, c.test.get(*s))], comparison(s, found)].concat()
        });
        std::iter::once(named(r, c)).chain(values).collect()
    };
    (!scores.is_empty()).then(|| Grid {
        title: format!(
            "{}: what the encoders carry of the factor that all modalities know (shared) and of \
             their own (private), R² of a linear probe on test rows",
            r.name
        ),
        header: std::iter::once("cell".to_string()).chain(header).collect(),
        rows: r.cells.iter().map(row).collect(),
        marked: None,
        words: 1,
    })
}

/// What each part of the method does by itself; `None` where cells are not made of parts.
pub fn effects(r: &Results) -> Option<Grid> {
    let all = r.scores();
    let wanted = [r.metric.as_str(), "Corr", SHARED, PRIVATE];
    let scores: Vec<&str> = all.into_iter().filter(|s| wanted.contains(s)).collect();
    let header = scores.iter().flat_map(|s| [format!("Δ {s}"), "p adj.".into(), "g".into()]);
    let row = |e: &Effect| {
        let values = scores.iter().flat_map(|s| comparison(s, e.test.get(*s)));
        [e.part.clone(), e.couples.to_string()].into_iter().chain(values).collect()
    };
    (!r.effects.is_empty()).then(|| Grid {
        title: format!(
            "{}: what each part does, over all couples of cells that differ in it alone; {}, {} for \
             the number of parts",
            r.name,
            r.paired_test(),
            r.correction
        ),
        header: ["part", "couples"].map(String::from).into_iter().chain(header).collect(),
        rows: r.effects.iter().map(row).collect(),
        marked: None,
        words: 1,
    })
}

/// The main score of every cell under every damage; `None` where nothing was damaged.
pub fn robustness(r: &Results) -> Option<Grid> {
    let tested: Vec<&CellResult> = r.cells.iter().filter(|c| c.robustness.is_some()).collect();
    let damages = || tested.iter().flat_map(|c| c.robustness.iter().flatten());
    let mut kinds: Vec<_> = Vec::new();
    for damage in damages() {
        if !kinds.iter().any(|(name, _)| *name == damage.name) {
            kinds.push((damage.name.clone(), damage.perturbation));
        }
    }
    kinds.sort_by_key(|(_, p)| damage_order(p));
    (!kinds.is_empty()).then(|| {
        let intact = |c: &&CellResult| summary(&r.metric, c.test.get(&r.metric));
        let row = |name: &String| {
            let value = |c: &&CellResult| {
                let found = c.robustness.iter().flatten().find(|d| d.name == *name);
                let mean = summary(&r.metric, found.and_then(|d| d.test.get(&r.metric)));
                let held = found.and_then(|d| d.against_reference.as_ref()?.get(&r.metric));
                match held.and_then(|held| held.p_adjusted) {
                    Some(p) => format!("{mean} (p {})", probability(Some(p))),
                    None => mean,
                }
            };
            std::iter::once(name.clone()).chain(tested.iter().map(value)).collect()
        };
        let whole =
            std::iter::once("intact".to_string()).chain(tested.iter().map(intact)).collect();
        Grid {
            title: format!(
                "{}: test {} with modalities damaged; p against {} with the same damage, corrected",
                r.name, r.metric, r.reference
            ),
            header: std::iter::once("test rows".to_string())
                .chain(tested.iter().map(|c| c.cell.clone()))
                .collect(),
            rows: std::iter::once(whole).chain(kinds.iter().map(|(name, _)| row(name))).collect(),
            marked: None,
            words: 1,
        }
    })
}

/// Published figures of the same benchmark; `None` where the data is none.
pub fn published(r: &Results) -> Option<Grid> {
    let first = r.published.first()?;
    let scores: Vec<&str> = columns(r)
        .into_iter()
        .filter(|s| r.published.iter().any(|p| p.scores.contains_key(*s)))
        .collect();
    let row = |p: &super::published::Published| {
        let value = |s: &&str| {
            let value = p.scores.get(*s).and_then(serde_json::Value::as_f64);
            value.map_or_else(|| "–".to_string(), |v| shown(s, v))
        };
        [p.model.clone(), p.source.clone()].into_iter().chain(scores.iter().map(value)).collect()
    };
    Some(Grid {
        title: format!("Published on {} ({})", first.data, first.convention),
        header: ["model", "source"]
            .into_iter()
            .chain(scores.iter().copied())
            .map(String::from)
            .collect(),
        rows: r.published.iter().map(row).collect(),
        marked: None,
        words: 2,
    })
}

/// All tables, the first of them given.
pub fn all(r: &Results, cells: Grid) -> Vec<Grid> {
    [Some(cells), pooled(r), effects(r), recovered(r), robustness(r), published(r)]
        .into_iter()
        .flatten()
        .collect()
}

/// How the numbers came about, in a line.
pub fn note(r: &Results) -> String {
    let folds = r.folding.as_ref().map_or_else(String::new, |f| {
        format!(
            " {} folds of {} rows by {} ({} groups), drawn anew for each seed: each tests once, while \
             the next validates and the rest trains. They train on much the same rows, so that a mean \
             difference is given the variance of the differences × (1/n + {:.3}).",
            f.folds, f.rows, f.group, f.groups, f.overlap
        )
    });
    format!(
        "{} of {} runs.{folds} Δ, p and g (Hedges) on test rows: cell minus {}, {}, {} for the number \
         of cells. The best cell is chosen on validation alone.",
        r.finished_runs,
        r.expected_runs,
        r.reference,
        r.paired_test(),
        r.correction
    )
}

// ---- formats -----------------------------------------------------------------------------------

fn write(header: &[String], rows: &[Vec<String>]) -> Result<String> {
    let failed = |e: String| Error::io("write", "results.csv")(std::io::Error::other(e));
    let mut out = csv::Writer::from_writer(Vec::new());
    for row in std::iter::once(header).chain(rows.iter().map(Vec::as_slice)) {
        out.write_record(row).map_err(|e| failed(e.to_string()))?;
    }
    let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

/// A line for each cell and score, unrounded; with the scores over all rows at once where rows are folded.
///
/// # Errors
/// None in memory.
pub fn csv(r: &Results) -> Result<String> {
    let header = [
        "cell",
        "score",
        "n",
        "valid_mean",
        "valid_std",
        "test_mean",
        "test_std",
        "difference",
        "ci95_low",
        "ci95_high",
        "t",
        "p",
        "p_adjusted",
        "hedges_g",
    ];
    let folded = r.folding.is_some();
    let more = ["pooled_mean", "pooled_std"].into_iter().filter(|_| folded);
    let header: Vec<String> = header.into_iter().chain(more).map(String::from).collect();
    let text = |v: Option<f64>| v.map_or_else(String::new, |v| v.to_string());
    let rows = r.cells.iter().flat_map(|c| {
        c.test.iter().map(move |(score, test)| {
            let valid = c.valid.get(score);
            let found = c.against(score);
            let of = |value: fn(&Comparison) -> Option<f64>| text(found.and_then(value));
            let mut line = vec![
                c.cell.clone(),
                score.clone(),
                test.n.to_string(),
                text(valid.map(|s| s.mean)),
                text(valid.map(|s| s.std)),
                text(Some(test.mean)),
                text(Some(test.std)),
                of(|f| Some(f.difference)),
                of(|f| Some(f.ci95?[0])),
                of(|f| Some(f.ci95?[1])),
                of(|f| f.t),
                of(|f| f.p),
                of(|f| f.p_adjusted),
                of(|f| f.effect),
            ];
            if folded {
                let pooled = c.pooled.as_ref().and_then(|p| p.get(score));
                line.extend([pooled.map(|s| s.mean), pooled.map(|s| s.std)].map(text));
            }
            line
        })
    });
    write(&header, &rows.collect::<Vec<_>>())
}

/// A line for each run, split and score, unrounded: for statistics of one's own. Damaged test rows
/// are splits of their own; where rows are folded there is a column for the fold.
///
/// # Errors
/// None in memory.
pub fn runs_csv(r: &Results) -> Result<String> {
    let fold = r.folding.as_ref().map(|_| "fold");
    let header: Vec<String> = ["cell", "seed"]
        .into_iter()
        .chain(fold)
        .chain(["split", "score", "value"])
        .map(String::from)
        .collect();
    let mut rows = Vec::new();
    for run in r.cells.iter().flat_map(|c| &c.runs) {
        let record = &run.record;
        let mut add = |split: &str, score: &str, value: f64| {
            let fold = record.fold.map(|fold| fold.to_string());
            let run = [record.cell.clone(), record.seed.to_string()].into_iter().chain(fold);
            rows.push(run.chain([split.into(), score.into(), value.to_string()]).collect());
        };
        for (score, value) in record.valid.iter().flat_map(|m| m.entries()) {
            add("valid", score, value);
        }
        for (score, value) in record.scores() {
            add("test", &score, value);
        }
        for damage in record.robustness.iter().flatten() {
            for (score, value) in damage.test.entries() {
                add(&format!("test, {}", damage.name), score, value);
            }
        }
    }
    write(&header, &rows)
}

/// All tables in Markdown.
pub fn markdown(r: &Results) -> String {
    let escape = |s: &String| s.replace('|', "\\|");
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("# {}\n", r.name);
    for grid in all(r, cells(r)) {
        text += &format!("\n{}\n\n", grid.title);
        text += &line(grid.header.iter().map(escape).collect());
        let rule = |i| if i < grid.words { "---" } else { "---:" }.to_string();
        text += &line((0..grid.header.len()).map(rule).collect());
        for (i, row) in grid.rows.iter().enumerate() {
            let bold = |s: String| if s.is_empty() { s } else { format!("**{s}**") };
            let mark = |s| if grid.marked == Some(i) { bold(escape(s)) } else { escape(s) };
            text += &line(row.iter().map(mark).collect());
        }
    }
    text + &format!("\n{}\n{}\n", note(r), r.verdict())
}

/// All tables in LaTeX, for the booktabs package.
pub fn latex(r: &Results) -> String {
    let mut text = String::from("% needs \\usepackage{booktabs}\n");
    for grid in all(r, cells(r)) {
        let columns: String =
            (0..grid.header.len()).map(|i| if i < grid.words { 'l' } else { 'r' }).collect();
        let line = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
        text +=
            &format!("\\begin{{table}}\n  \\centering\n  \\caption{{{}}}\n", escaped(&grid.title));
        text += &format!("  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n");
        text += &line(grid.header.iter().map(|h| escaped(h)).collect());
        text += "    \\midrule\n";
        for (i, row) in grid.rows.iter().enumerate() {
            let bold = |s: String| if s.is_empty() { s } else { format!("\\textbf{{{s}}}") };
            let mark =
                |s: &String| if grid.marked == Some(i) { bold(escaped(s)) } else { escaped(s) };
            text += &line(row.iter().map(mark).collect());
        }
        text += "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n";
    }
    let comment = format!("{}\n{}", note(r), r.verdict());
    comment.lines().fold(text, |text, line| text + &format!("% {line}\n"))
}

/// Text as LaTeX takes it literally.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '±' => out.push_str("$\\pm$"),
            'Δ' => out.push_str("$\\Delta$"),
            '<' => out.push_str("$<$"),
            '>' => out.push_str("$>$"),
            '–' => out.push_str("--"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{made_up, made_up_folds};
    use super::*;

    #[test]
    fn numbers_are_written_as_the_field_does() {
        let s = Summary { mean: 0.8346, std: 0.0123, n: 3 };
        assert_eq!(summary("MAE", Some(&s)), "0.835 ± 0.012");
        assert_eq!(summary("Acc-2 Non0", Some(&s)), "83.5 ± 1.2");
        assert_eq!(summary("Corr", None), "–");
        assert_eq!(["MAE", "Acc-7"].map(|n| difference(n, 0.0126)), ["+0.013", "+1.3"]);
        assert_eq!(
            [0.0, -0.0001, -0.02].map(|v| difference("MAE", v)),
            ["0.000", "0.000", "-0.020"]
        );
        assert_eq!([None, Some(0.0001), Some(0.0421)].map(probability), ["–", "<0.001", "0.042"]);
    }

    #[test]
    fn every_format_has_every_cell_and_marks_the_best() {
        let r = made_up(&[
            ("labels", &[0.5, 0.52, 0.48, 0.51]),
            ("labels+ta_x", &[0.30, 0.33, 0.29, 0.30]),
        ]);
        let grid = cells(&r);
        assert_eq!(grid.rows.len(), 2);
        assert!(grid.rows.iter().all(|row| row.len() == grid.header.len()));
        assert_eq!(grid.marked, Some(1));
        assert_eq!(published(&r).unwrap().rows.len(), 12);
        let md = markdown(&r);
        assert!(
            md.contains("| labels (reference) | 4 |") && md.contains("**labels+ta_x**"),
            "{md}"
        );
        assert!(md.contains("Has0: negative / non-negative"));
        let tex = latex(&r);
        assert!(tex.contains("\\textbf{labels+ta\\_x}") && tex.contains("$\\pm$"), "{tex}");
        assert!(!tex.contains('±') && tex.matches("\\begin{table}").count() == 2);
        let lines: Vec<String> = csv(&r).unwrap().lines().map(String::from).collect();
        assert_eq!(lines.len(), 1 + 2 * 8);
        assert!(lines[1].starts_with("labels,MAE,4,") && lines[1].ends_with(",,,,,,,"));
        let runs = runs_csv(&r).unwrap();
        assert_eq!(runs.lines().count(), 1 + 8 * 2 * 8);
        assert!(runs.contains("labels+ta_x,1114,test,Acc-7,"));
    }

    #[test]
    fn folds_are_named_in_every_format() {
        let r = made_up_folds(
            &[("labels", &[0.5, 0.52, 0.48]), ("other", &[0.30, 0.33, 0.29])],
            Some(3),
        );
        let md = markdown(&r);
        for words in [
            "over folds and seeds; p by Nadeau and Bengio's corrected resampled t",
            "3 folds of 120 rows by id-prefix (7 groups)",
            "paired by seed and fold, Nadeau and Bengio's corrected resampled t",
            "the differences × (1/n + 1.000)",
            "scores of all rows at once",
        ] {
            assert!(md.contains(words), "no {words} in {md}");
        }
        assert_eq!(pooled(&r).unwrap().rows.len(), 2);
        let lines = csv(&r).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert!(lines[0].ends_with(",hedges_g,pooled_mean,pooled_std"), "{}", lines[0]);
        assert!(lines.iter().all(|l| l.split(',').count() == 16));
        let runs = runs_csv(&r).unwrap();
        assert!(
            runs.starts_with("cell,seed,fold,split,") && runs.contains("other,1111,3,test,Acc-7,")
        );
        // Where rows are not folded, nothing of it is there.
        let plain = made_up(&[("labels", &[0.5, 0.52, 0.48])]);
        assert!(!markdown(&plain).contains("fold") && pooled(&plain).is_none());
        assert!(runs_csv(&plain).unwrap().starts_with("cell,seed,split,"));
    }

    #[test]
    fn latex_takes_what_it_must() {
        assert_eq!(escaped("a_b & 5% ± <x"), "a\\_b \\& 5\\% $\\pm$ $<$x");
    }
}
