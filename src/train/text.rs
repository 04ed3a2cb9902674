//! The text of a data set for a pretrained encoder: tokens where the encoder is trained, features
//! where it is not. Features are computed once and kept in the user's cache, under a name made of
//! everything that they depend on.

use super::checkpoint::Saved;
use super::folder;
use super::limits::check_weights;
use super::run_files::Files;
use crate::data::{
    Dataset, Layout, Loader, Modality, Reads, SplitName, Text, TokenSpec, Tokenised, Tokenizer,
    text_bert_for,
};
use crate::error::{Error, Result};
use crate::files::{cache_folder, map, seal_of_tensors, sha256_hex, sha256_of, write_atomic};
use crate::gpu::Gpu;
use crate::nn::{
    Bert, BertShape, EncoderKind, Freeze, Params, Pretrained, TokenVars, Weights, save_tensors,
};
use crate::plan::{Memory, Pool, Program, Spaces, Step};
use crate::recipe::{
    BERT_PREFIX, Config, TextEncoder, TokenSource, bert_prefix, pretrained, reading,
};
use crate::tape::Tape;
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a batch while features are computed.
const BATCH: usize = 32;
/// Up to so many rows, a sentence that was typed say, features are not worth keeping.
const FEW: usize = 64;

/// What an encoder's folder may hold besides weights: sizes, vocabulary, and how to tokenise.
const FILES: [&str; 7] = [
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];
/// Tensors that came with an encoder and are no part of it: a pooler, for who exports it again.
const EXTRAS: &str = "extras.safetensors";

/// The folder with a run's encoder, or with that of a model file.
pub fn encoder_of(run: &Path) -> PathBuf {
    let folder = if run.is_dir() { run } else { run.parent().unwrap_or(Path::new("")) };
    folder.join("bert")
}

/// Whether a configuration has a pretrained encoder, and its text.
pub(super) fn wanted(config: &Config) -> bool {
    config.model.text_encoder == TextEncoder::Bert && config.model.wants(Modality::Text)
}

/// Words of the uncased English vocabulary, which `text_bert` is of where no encoder says otherwise.
const WORDS: usize = 30_522;

/// The token ids of the data for a model that learns their vectors from the start; nothing where none is wanted.
/// There is no encoder behind them: their width is the model's own.
///
/// # Errors
/// Data without token ids, or with ids of a larger vocabulary.
fn ids_alone(data: &Dataset, config: &Config) -> Result<Option<Text>> {
    if config.model.text_encoder != TextEncoder::Table || !config.model.wants(Modality::Text) {
        return Ok(None);
    }
    let most = config.bert.max_tokens;
    let shape = BertShape { positions: most, ..BertShape::original(WORDS, 0, 0, 1) };
    let tokens = Tokenised::from_text_bert(data, most, shape.vocab, shape.segments)?;
    if let Some(said) = cut(&tokens, data) {
        log::warn!("texts are cut to {most} tokens in {said}: bert.max_tokens sets that");
    }
    Ok(Some(Text { tokens, shape }))
}

/// The encoder in a folder, if the configuration fits it.
fn open(config: &Config, folder: &Path) -> Result<Pretrained> {
    let encoder = Pretrained::open(folder)?;
    let (wanted, layers) = (config.bert.freeze_layers, encoder.config.layers);
    if wanted > layers {
        return Err(Error::Config(format!(
            "bert.freeze_layers = {wanted}, and the encoder in {} has {layers} layers: freeze fewer",
            folder.display()
        )));
    }
    Ok(encoder)
}

/// Whether anything of an encoder of these sizes is trained.
fn trained(config: &Config, shape: &BertShape) -> bool {
    config.bert.finetune && config.bert.freeze_layers < shape.layers
}

/// The tokenizer in an encoder's folder, where the configuration has one and there is one to be read.
pub(super) fn encoder_tokenizer(config: &Config, folder: &Path) -> Option<Tokenizer> {
    Some(folder).filter(|_| wanted(config)).and_then(|folder| Tokenizer::open(folder).ok())
}

/// The data with what a pretrained encoder in `folder` makes of its text: tokens where it is
/// trained, features where it is not. As it is where the configuration has no encoder.
///
/// # Errors
/// A folder without an encoder or a tokenizer; a data set without sentences or token ids.
pub(super) fn with_text(
    gpu: &Gpu,
    data: Dataset,
    config: &Config,
    folder: &Path,
) -> Result<Dataset> {
    if let Some(text) = ids_alone(&data, config)? {
        return Ok(data.with_text(text));
    }
    if !wanted(config) {
        return Ok(data);
    }
    let encoder = open(config, folder)?;
    let tokens = tokenise(&data, config, &encoder)?;
    if trained(config, &encoder.config) {
        return Ok(data.with_text(Text { tokens, shape: encoder.config }));
    }
    let digest = tokens.digest.clone();
    // A few sentences that somebody typed are not worth keeping.
    let few = data.splits().map(|s| s.rows()).sum::<usize>() <= FEW;
    let path = if few { None } else { cached(&tokens, config, &encoder)? };
    if let Some(features) = path.as_deref().and_then(known) {
        log::info!(
            "text features of {} are in {}",
            data.path().display(),
            features.path().display()
        );
        return data.with_features(&features, digest);
    }
    let data = Arc::new(data.with_text(Text { tokens, shape: encoder.config }));
    let made = features(gpu, &data, config, &encoder)?;
    let data = Arc::into_inner(data)
        .ok_or_else(|| Error::Config("the data is still being read; please report this".into()))?;
    if let Some(features) = path.as_deref().and_then(|path| keep_features(&made, path)) {
        return data.with_features(&features, digest);
    }
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let path = folder.path().join("features.safetensors");
    made.save_sealed(&path, &[])?;
    data.with_features(&Dataset::open(&path)?, digest)
}

/// Features that were computed before; nothing where there are none, or other bytes than were written.
fn known(path: &Path) -> Option<Dataset> {
    if !path.exists() {
        return None;
    }
    let sealed = map(path).and_then(|map| seal_of_tensors(path, &map));
    if let Ok(Some(_)) = sealed
        && let Ok(features) = Dataset::open(path)
    {
        return Some(features);
    }
    log::warn!("{} is damaged: the text features are computed again", path.display());
    None
}

/// Keeps features for the next time, and opens what was kept. Nothing where they cannot be kept: that costs
/// the next time, and no result.
fn keep_features(made: &Weights, path: &Path) -> Option<Dataset> {
    let folder = path.parent().unwrap_or(path);
    let kept = std::fs::create_dir_all(folder)
        .map_err(Error::io("create", folder))
        .and_then(|()| made.save_sealed(path, &[]))
        .and_then(|_| Dataset::open(path));
    kept.inspect_err(|why| log::warn!("the text features are not kept: {why}")).ok()
}

/// What a plan needs to know of the text, without computing anything of it: the data with its
/// tokens where the encoder is trained, else the width of the features there will be.
pub(super) fn outlined(
    data: Dataset,
    config: &Config,
    folder: &Path,
) -> Result<(Dataset, Option<usize>)> {
    if let Some(text) = ids_alone(&data, config)? {
        return Ok((data.with_text(text), None));
    }
    if !wanted(config) {
        return Ok((data, None));
    }
    let encoder = open(config, folder)?;
    if !trained(config, &encoder.config) {
        return Ok((data, Some(encoder.config.hidden)));
    }
    let tokens = tokenise(&data, config, &encoder)?;
    Ok((data.with_text(Text { tokens, shape: encoder.config }), None))
}

fn tokenise(data: &Dataset, config: &Config, encoder: &Pretrained) -> Result<Tokenised> {
    let sentences = data.splits().all(|s| s.raw_text().is_some());
    let ids = data.splits().all(|s| s.text_bert().is_some());
    let raw = match config.bert.input {
        TokenSource::Auto => sentences,
        TokenSource::RawText => true,
        TokenSource::TextBert => false,
    };
    let most = config.bert.max_tokens.min(encoder.config.tokens());
    let tokens = match raw {
        true if sentences => {
            let tokenizer = Tokenizer::open(&encoder.path)?;
            let tokens = Tokenised::from_text(data, &tokenizer, most, encoder.config.vocab)?;
            warn_of_padding(&tokens, &tokenizer, &encoder.config);
            tokens
        }
        false if ids => text_bert_for(data, most, encoder)?,
        _ => {
            return Err(Error::data(
                data.path(),
                "has no text for a pretrained encoder: put raw_text into the JSON file beside \
                 it, or text_bert into it (bert.input says which is read)",
            ));
        }
    };
    if let Some(said) = cut(&tokens, data) {
        let advice = match config.bert.max_tokens < encoder.config.tokens() {
            true => "bert.max_tokens sets that".to_string(),
            false => format!("{} has no more positions", encoder.path.display()),
        };
        log::warn!("texts are cut to {most} tokens in {said}: {advice}");
    }
    Ok(tokens)
}

/// How many texts of which splits go on where they were cut; nothing where all are whole.
fn cut(tokens: &Tokenised, data: &Dataset) -> Option<String> {
    let of = data.splits().filter_map(|split| {
        let cut = tokens.split(split.name())?.cut();
        (cut > 0).then(|| format!("{cut} of {} rows of {}", split.rows(), split.name()))
    });
    let all: Vec<String> = of.collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The same of a data set that nothing reads yet: by the encoder that a configuration names, or by the token
/// ids that the data have.
///
/// # Errors
/// An encoder that cannot be opened, text that it cannot read.
pub fn cut_texts(data: &Dataset, config: &Config) -> Result<Option<String>> {
    let most = config.bert.max_tokens;
    let tokens = match config.bert.path.as_str() {
        "" if data.splits().all(|s| s.text_bert().is_some()) => {
            Tokenised::from_text_bert(data, most, usize::MAX, usize::MAX)?
        }
        "" => return Ok(None),
        path => tokenise(data, config, &Pretrained::open(path)?)?,
    };
    Ok(cut(&tokens, data)
        .map(|said| format!("{said} have more than {most} tokens (bert.max_tokens)")))
}

/// Says where a text has the padding's own token: transformers gives the words behind it, in an encoder whose
/// positions begin behind the padding's, places that do not count it.
fn warn_of_padding(tokens: &Tokenised, tokenizer: &Tokenizer, shape: &BertShape) {
    let padding = shape.kind.special().padding;
    let rows = tokenizer.id(padding).map_or(0, |id| tokens.rows_with(id));
    if shape.offset > 0 && rows > 0 {
        log::warn!(
            "{rows} texts have '{padding}' in them, the padding of a {}, which counts as a word here and \
             not in transformers: take it out of them",
            shape.kind.name()
        );
    }
}

/// Where the features of these tokens are kept, if there is such a place. The same weights under another config.json, with
/// other heads say, are another encoder.
fn cached(tokens: &Tokenised, config: &Config, encoder: &Pretrained) -> Result<Option<PathBuf>> {
    let half = if config.bert.half { " f16" } else { "" };
    let about = format!(
        "{} {:?} {} {:?} {}{half}",
        weights_sha256(encoder)?,
        encoder.config,
        tokens.digest,
        config.bert.pooling,
        env!("CARGO_PKG_VERSION")
    );
    let name = format!("{}.safetensors", &sha256_hex(about.as_bytes())[..32]);
    Ok(cache_folder().map(|folder| folder.join("text").join(name)))
}

/// SHA-256 of an encoder's weights; of several files that of all their sums.
pub(crate) fn weights_sha256(encoder: &Pretrained) -> Result<String> {
    let files = encoder.weights_files()?;
    let sums: Vec<String> = files.iter().map(|path| sha256_of(path)).collect::<Result<_>>()?;
    Ok(match sums.as_slice() {
        [one] => one.clone(),
        all => sha256_hex(all.concat().as_bytes()),
    })
}

/// What the encoder makes of every row: `{split}.text [rows, 1, hidden]`.
fn features(
    gpu: &Gpu,
    data: &Arc<Dataset>,
    config: &Config,
    encoder: &Pretrained,
) -> Result<Weights> {
    let Some(text) = data.text() else { return Ok(Weights::default()) };
    let bert = pretrained(config, &encoder.config);
    // Nothing of it is trained.
    let freeze = Freeze { embeddings: true, layers: bert.shape.layers };
    let bert = Bert { freeze, ..bert };
    let (hidden, tables) = (bert.shape.hidden, bert.shape.tables());
    let max = gpu.caps().max_binding;
    let most = text.tokens.worst_rows(BATCH);
    let mut spaces = Spaces::new();
    let params = Params::new(bert.specs(Params::largest(max)), &[], &mut spaces, max, false)?;
    let largest = Layout::new(BATCH, &[], Some(TokenSpec { rows: most, tables }));
    let block = spaces.declare("batch", largest.words);
    let table = spaces.declare("features", data.most_rows() * hidden);
    let memory = Memory::allocate(gpu, &spaces)?;
    let weights = encoder.weights()?.prefixed(BERT_PREFIX);
    check_weights(&params, &weights, &encoder.weights_path())?;
    params.upload(gpu, &memory, &weights)?;
    let mut pool = Pool::new();
    let mut program = |layout: &Layout| -> Result<Program> {
        let mut tape = Tape::new();
        let Some(at) = &layout.tokens else { return Err(Error::shape("text", "no tokens")) };
        let tokens = TokenVars::input(&mut tape, block, at, layout.batch);
        let out = bert.record(&mut tape, &params, &tokens, reading(config.bert.pooling), false)?;
        let rows = tape.input("rows", &[layout.batch], block, layout.rows_at);
        let all = tape.input("features", &[data.most_rows(), hidden], table, 0);
        tape.scatter_rows(out, rows, all, 0)?;
        tape.plan(gpu.caps())?.tune(gpu, false)?.prepare(gpu, &memory, &mut pool)
    };
    // The largest first: the others then fit into its buffers.
    program(&largest)?;
    let mut programs: HashMap<Arc<Layout>, Program> = HashMap::new();
    let mut all = Weights::default();
    let total: usize = data.splits().map(|s| s.rows()).sum();
    log::info!("computing the text features of {total} rows, once");
    for split in SplitName::ALL {
        let Some(rows) = data.split(split).map(|s| s.rows()) else { continue };
        let order = (0..rows as u32).collect();
        let reads = Reads { tokens: Some(tables), ..Reads::default() };
        let batches = Loader::new(data.clone(), split, order, BATCH, reads, None)?;
        for batch in batches {
            let batch = batch?;
            if !programs.contains_key(&batch.layout) {
                programs.insert(batch.layout.clone(), program(&batch.layout)?);
            }
            memory.write(gpu, block, 0, &batch.words)?;
            memory.write_step(gpu, &Step::default())?;
            if let Some(program) = programs.get(&batch.layout) {
                program.replay(gpu, &memory, false, &[], None)?;
            }
            gpu.wait()?;
        }
        let values = memory.read_f32(gpu, table, 0, rows * hidden)?;
        all.insert(&format!("{split}.text"), vec![rows, 1, hidden], values);
    }
    Ok(all)
}

/// Puts into `run` what is needed to read text without the encoder's own folder: its config.json
/// and tokenizer, what it has besides the encoder, and if it is not trained all of it.
///
/// # Errors
/// Files that cannot be read or written.
pub(super) fn keep(encoder: &Path, run: &Files<'_>, config: &Config) -> Result<()> {
    if !wanted(config) {
        return Ok(());
    }
    run.folder("bert")?;
    let source = Pretrained::open(encoder)?;
    for name in to_keep(config, &source)? {
        let (from, to) = (encoder.join(&name), run.own(&format!("bert/{name}"))?);
        let bytes = std::fs::read(&from).map_err(Error::io("read", &from))?;
        write_atomic(&to, &bytes)?;
    }
    if trained(config, &source.config) {
        source.pooler()?.save_sealed(&run.own(&format!("bert/{EXTRAS}"))?, &[])?;
    }
    Ok(())
}

/// The files of an encoder that a run keeps as they are.
fn to_keep(config: &Config, source: &Pretrained) -> Result<Vec<String>> {
    let files = FILES.into_iter().filter(|name| source.path.join(name).exists()).map(String::from);
    let mut all: Vec<String> = files.collect();
    if !trained(config, &source.config) {
        let weights = source.weights_files()?;
        let names = weights.iter().filter_map(|path| path.file_name());
        all.extend(names.map(|name| name.to_string_lossy().into_owned()));
    }
    Ok(all)
}

/// SHA-256 of the files that [`keep`] puts into a run, by name.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn kept_files(encoder: &Path, config: &Config) -> Result<BTreeMap<String, String>> {
    if !wanted(config) {
        return Ok(BTreeMap::new());
    }
    let source = Pretrained::open(encoder)?;
    let sum = |name: String| {
        let sum = sha256_of(&encoder.join(&name))?;
        Ok((name, sum))
    };
    to_keep(config, &source)?.into_iter().map(sum).collect()
}

/// Holds a run's encoder against what the run kept of it.
///
/// # Errors
/// [`Checkpoint`](Error::Checkpoint): a file that is gone, or another one.
pub(super) fn check_kept(encoder: &Path, sums: &BTreeMap<String, String>) -> Result<()> {
    for (name, sum) in sums {
        let path = encoder.join(name);
        if sha256_of(&path)? != *sum {
            let detail = "is not what the run kept (another SHA-256): it is damaged, or was edited; put back \
                          a copy";
            return Err(Error::checkpoint(&path, detail));
        }
    }
    Ok(())
}

/// A data set of sentences for a trained model: its file, in a folder that goes when it is
/// dropped. Streams that the model reads besides the text are silent: one
/// step of zeros, in as many as there are where the model has something for each.
///
/// # Errors
/// A model without a pretrained encoder.
pub fn sentences(saved: &Saved, texts: &[String]) -> Result<(tempfile::TempDir, PathBuf)> {
    let config = &saved.card.config;
    if !wanted(config) {
        return Err(Error::Config(format!(
            "{} does not read sentences: train with --bert FOLDER for a model that does",
            saved.path.display()
        )));
    }
    let tokenizer = Tokenizer::open(encoder_of(&saved.path))?;
    let encoded = tokenizer.encode_all_marked(texts, config.bert.max_tokens)?;
    let cut = encoded.iter().filter(|(_, cut)| *cut).count();
    if cut > 0 {
        let (most, of) = (config.bert.max_tokens, texts.len());
        log::warn!(
            "{cut} of {of} sentences are cut to {most} tokens, as in training (bert.max_tokens)"
        );
    }
    let ids: Vec<Vec<u32>> = encoded.into_iter().map(|(ids, _)| ids).collect();
    let (rows, longest) = (ids.len(), ids.iter().map(Vec::len).max().unwrap_or(1));
    let mut bytes = Vec::with_capacity(rows * 3 * longest * 4);
    for ids in &ids {
        let at = |i: usize| ids.get(i).copied();
        let lines = [
            (0..longest).map(|i| at(i).unwrap_or(0)).collect::<Vec<u32>>(),
            (0..longest).map(|i| u32::from(at(i).is_some())).collect(),
            vec![0; longest],
        ];
        bytes.extend(lines.iter().flatten().flat_map(|v| v.to_le_bytes()));
    }
    let ones = 1_i32.to_le_bytes().repeat(rows);
    let others = || saved.card.streams.iter().filter(|s| s.modality != Modality::Text);
    let silent: Vec<(String, Vec<usize>, Vec<u8>)> = others()
        .map(|s| {
            let shape = vec![rows, s.steps, s.dim];
            let bytes = vec![0; 4 * shape.iter().product::<usize>()];
            (format!("test.{}", s.modality), shape, bytes)
        })
        .collect();
    let lengths: Vec<String> = others().map(|s| format!("test.{}_lengths", s.modality)).collect();
    let folder = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
    let path = folder.path().join("sentences.safetensors");
    let text = ("test.text_bert", Dtype::I32, vec![rows, 3, longest], bytes.as_slice());
    let silent = silent.iter().map(|(n, s, b)| (n.as_str(), Dtype::F32, s.clone(), b.as_slice()));
    let lengths = lengths.iter().map(|n| (n.as_str(), Dtype::I32, vec![rows], ones.as_slice()));
    save_tensors(&path, std::iter::once(text).chain(silent).chain(lengths), &[])?;
    Ok((folder, path))
}

/// Writes the encoder of a run or a model file as a folder that `transformers` loads; gives the
/// number of tensors.
///
/// # Errors
/// A model without a pretrained encoder, or a folder that is not empty.
pub fn export(model: &Path, to: &Path) -> Result<usize> {
    let saved = Saved::load(model)?;
    let config = &saved.card.config;
    if !wanted(config) {
        let path = saved.path.display();
        return Err(Error::Config(format!("{path} has no pretrained encoder to export")));
    }
    folder::free(to)?;
    let from = encoder_of(&saved.path);
    let encoder = Pretrained::open(&from)?;
    let mut weights = if trained(config, &encoder.config) {
        let mut weights = Weights::load(&from.join(EXTRAS))?;
        // What a model puts into an encoder is no part of it, and a pooler that was trained is.
        let bert = Bert { prefix: bert_prefix(config).into(), ..Bert::new(encoder.config) };
        for (name, shape, values) in saved.weights.iter().filter(|(name, ..)| bert.owns(name)) {
            let name = name.strip_prefix(&bert.prefix).unwrap_or(name);
            weights.insert(name, shape.to_vec(), values.to_vec());
        }
        weights
    } else {
        let mut weights = encoder.weights()?;
        weights.extend(encoder.pooler()?);
        weights
    };
    weights.remove("embeddings.position_ids");
    let kind = encoder.config.kind;
    if !kind.pools() {
        // A model that reads by a pooler has made one of its own, which has no place in that layout.
        let more = weights.iter().filter(|(name, ..)| name.starts_with("pooler."));
        let more: Vec<String> = more.map(|(name, ..)| name.to_string()).collect();
        if !more.is_empty() {
            log::warn!("a {} has no pooler: that of the model stays in the run", kind.name());
        }
        more.iter().for_each(|name| weights.remove(name));
    }
    let weights = weights.renamed(|name| kind.stored(name));
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    // Whole or not at all: made beside, then renamed.
    let made = folder_beside(parent).map_err(Error::io("create", to))?;
    for name in FILES {
        let path = from.join(name);
        if !path.exists() {
            continue;
        }
        let mut bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        if name == "config.json" {
            bytes =
                as_encoder(&bytes, kind).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        }
        write_atomic(made.path().join(name), &bytes)?;
    }
    // transformers wants to know whose layout the tensors have.
    weights.save(&made.path().join("model.safetensors"), &[("format", "pt".into())])?;
    let made = made.keep();
    // An empty folder gives way; where it cannot, the rename says so.
    let _ = std::fs::remove_dir(to);
    std::fs::rename(&made, to).map_err(|source| {
        let _ = std::fs::remove_dir_all(&made);
        Error::Io { action: "write", path: to.into(), source }
    })?;
    Ok(weights.iter().count())
}

/// A temporary folder in `parent` that others may read as far as the umask lets them: it is to be
/// renamed, and a temporary folder is private otherwise.
fn folder_beside(parent: &Path) -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent)
}

/// A config.json that says what the exported tensors are: an encoder alone, in f32.
fn as_encoder(text: &[u8], kind: EncoderKind) -> serde_json::Result<Vec<u8>> {
    let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)?;
    config.insert("architectures".into(), serde_json::json!([kind.class()]));
    for key in ["torch_dtype", "dtype"] {
        if let Some(kind) = config.get_mut(key) {
            *kind = "float32".into();
        }
    }
    serde_json::to_vec_pretty(&config)
}
