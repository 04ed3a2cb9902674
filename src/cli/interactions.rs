//! `modalign interactions`: what pairs of modalities share and add.

use super::{Global, output};
use crate::data::import::symbols;
use crate::data::{Dataset, Options as Labels};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::interactions::{Options, Pair, Symbols, measure};
use crate::report::interactions_page;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `interactions`.
#[derive(Args)]
#[command(after_help = "\
Of each pair of streams: redundancy (what both know of the target), what each alone knows, and synergy
(what only both together tell), in bits, on the rows of train and valid. Streams become symbols first:
standardised, ten principal components, clusters of k-means. Sequences with lengths go by means and
deviations over their valid steps.

Few rows in many cells look like synergy. So the same is measured of samples of as many rows that have
none (the null), and of the rows with labels drawn anew so that nothing but their pairs tells them, less
what that truly holds (what counting adds). Synergy is called real only two deviations above both. The
gap is how far the solver can be off.

Bounds: what labelled single modalities and unlabelled pairs alone say of synergy, and of the accuracy
that fusion can reach. With --unpaired only these are computed, also where rows lack a modality or, in a
table, a label.

A table of symbols (.csv, .tsv, .npz) has whole numbers in columns x1, x2 and y, or in those that
--columns names, the last of them the target.

Examples:
  modalign interactions ravdess.safetensors
  modalign interactions mosi.safetensors --out interactions.html
  modalign interactions bits.csv --columns left,right,answer --json
  modalign interactions mosi.safetensors --unpaired")]
pub(super) struct InteractionsArgs {
    /// A data set, or a table of symbols
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Clusters of each stream; by default ten, fewer where rows are few
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(2..=200))]
    clusters: Option<u16>,
    /// Principal components that are clustered
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=200))]
    components: u16,
    /// Samples without synergy, whose mean and deviation are the null
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(8..=1000))]
    draws: u16,
    /// Of clusters and samples
    #[arg(long, default_value = "1111")]
    seed: u64,
    /// Where numbers are divided into two classes
    #[arg(long, value_name = "LABEL", default_value = "0", allow_negative_numbers = true)]
    cut: f32,
    /// Only what needs no labelled pairs: bounds of synergy
    #[arg(long)]
    unpaired: bool,
    /// Columns of a table of symbols, the target last
    #[arg(long, value_name = "A,B,...,Y", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// A page with charts
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Measures, and says what was found.
pub(super) fn run(args: &InteractionsArgs, global: &Global) -> Result<()> {
    let options = Options {
        clusters: args.clusters.map(usize::from),
        components: args.components.into(),
        draws: args.draws.into(),
        seed: args.seed,
        cut: args.cut,
        unpaired: args.unpaired,
        ..Options::default()
    };
    if !options.cut.is_finite() {
        return Err(Error::Config(format!("--cut {}: a number, please", options.cut)));
    }
    let symbols = read(args, &options)?;
    for note in &symbols.notes {
        global.note(note);
    }
    let pairs = measure(&symbols, &options)?;
    if let Some(out) = &args.out {
        let name = args.data.file_stem().unwrap_or_default().to_string_lossy();
        write_atomic(out, interactions_page(&name, &symbols, &pairs, &options).as_bytes())?;
    }
    if global.json {
        let columns = symbols.columns.iter();
        return output::json(&json!({
            "data": args.data.display().to_string(),
            "target": symbols.about,
            "classes": symbols.classes,
            "streams": columns.map(|c| json!({ "name": c.name, "symbols": c.symbols, "how": c.how })).collect::<Vec<_>>(),
            "notes": symbols.notes,
            "seed": options.seed,
            "draws": options.draws,
            "pairs": pairs,
        }));
    }
    show(&symbols, &pairs, &options)?;
    if let Some(out) = &args.out {
        global.note(&format!("{}: the same with charts", out.display()));
    }
    Ok(())
}

/// The file as symbols.
fn read(args: &InteractionsArgs, options: &Options) -> Result<Symbols> {
    if !is_table(&args.data) {
        if args.columns.is_some() {
            let detail = "--columns is for tables of symbols (.csv, .tsv, .npz); a data set's streams go by their names";
            return Err(Error::Config(detail.into()));
        }
        // Whatever the labels' range, only their order counts.
        let any = Labels { label_range: f32::MAX, ..Labels::default() };
        return Symbols::of_data(&Dataset::open_with(&args.data, &any)?, options);
    }
    let names =
        args.columns.clone().unwrap_or_else(|| ["x1", "x2", "y"].map(String::from).to_vec());
    let columns = symbols(&args.data, &names)?;
    Symbols::of_columns(names.into_iter().zip(columns).collect())
        .map_err(|e| Error::data(&args.data, e.to_string()))
}

fn is_table(path: &Path) -> bool {
    let ext = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    ["csv", "tsv", "txt", "npz"].contains(&ext.as_str())
}

fn show(symbols: &Symbols, pairs: &[Pair], options: &Options) -> Result<()> {
    let bits = |x: f64| format!("{x:.3}");
    let or_dash = |x: Option<f64>| x.map_or_else(|| "-".into(), bits);
    let pair = |p: &Pair| format!("{} + {}", p.a, p.b);
    let parts = pairs.iter().map(|p| {
        let spread = |mean: Option<f64>, sd: Option<f64>| {
            mean.zip(sd).map_or_else(|| "-".into(), |(mean, sd)| format!("{mean:.3}±{sd:.3}"))
        };
        let real = p.synergy_is_real.map_or("-", |real| if real { "real" } else { "luck" });
        vec![
            pair(p),
            p.rows.to_string(),
            bits(p.redundancy),
            bits(p.unique_a),
            bits(p.unique_b),
            or_dash(p.synergy),
            spread(p.null_mean, p.null_sd),
            spread(p.bias_mean, p.bias_sd),
            real.into(),
            format!("{:.0e}", p.gap),
            p.fusion.about(&p.a, &p.b),
        ]
    });
    let header = [
        "pair",
        "rows",
        "redundancy",
        "unique a",
        "unique b",
        "synergy",
        "its null",
        "by counting",
        "is",
        "gap",
        "what follows",
    ];
    let parts = output::table(header, 1, parts);
    let reach = pairs.iter().map(|p| {
        vec![
            pair(p),
            format!("{} to {}", bits(p.bounds.synergy_lower), bits(p.bounds.synergy_upper)),
            bits(p.accuracy_a),
            bits(p.accuracy_b),
            format!("{} to {}", bits(p.bounds.accuracy_lower), bits(p.bounds.accuracy_upper)),
            if p.collect_both { "yes" } else { "no" }.into(),
        ]
    });
    let header =
        ["pair", "synergy within", "accuracy of a", "of b", "of both within", "collect both"];
    let reach = output::table(header, 1, reach);
    let of: Vec<(&str, String)> =
        symbols.columns.iter().map(|c| (c.name.as_str(), c.how.clone())).collect();
    output::print(&output::facts(&of))?;
    let title =
        format!("Information about {} ({} classes), in bits:", symbols.about, symbols.classes);
    let told = match options.unpaired {
        true => {
            "What labelled single modalities and unlabelled pairs tell of synergy and accuracy:"
        }
        false => {
            "What they would tell without labelled pairs, of synergy and of the accuracy of both:"
        }
    };
    output::tables(&[(title.as_str(), parts), (told, reach)])
}
