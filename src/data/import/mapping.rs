//! Which array is which field of which split: from a mapping file, or from the arrays' names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::Fault;
use super::budget::Budget;
use super::columns::listed;
use super::csv::Said;
use super::store::Store;
use super::table::{
    Column, Fields, NUMBERS, TEXTS, Table, all_empty, any_named, empty_rows, field_named,
    other_named,
};
use crate::data::SplitName;
use crate::error::{Error, Result, nearest};

/// A mapping file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Mapping {
    /// Where the rows say which split they belong to.
    #[serde(default)]
    split: Option<String>,
    /// Where each field is.
    fields: BTreeMap<String, String>,
}

impl Mapping {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Mapping> {
        let wrong = |what: String| Error::Config(format!("mapping {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let mapping: Mapping = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(0, |span| 1 + text[..span.start].matches('\n').count());
            wrong(format!("line {line}: {}; see modalign import --help", e.message()))
        })?;
        for field in mapping.fields.keys() {
            let close = nearest(field, TEXTS.into_iter().chain(NUMBERS));
            // A name that is nearly one of ours is more likely that than a stream of its own.
            let slip = strsim::damerau_levenshtein(field, &close) <= 2;
            if field_named(field).is_none() && (slip || other_named(field).is_none()) {
                return Err(wrong(format!("no field '{field}', did you mean '{close}'?")));
            }
        }
        let each = mapping.fields.values().filter(|source| !source.contains("{id}"));
        let by_split = each.clone().filter(|source| source.contains("{split}")).count();
        let wanted = if mapping.split.is_some() { 0 } else { each.count() };
        if by_split != wanted {
            return Err(wrong(match mapping.split.is_some() {
                true => "it has both `split` and names with {split}; leave one of them".into(),
                false => {
                    "a name without {split} holds all rows, so say where each row's split is: \
                          split = \"meta.csv:split\""
                        .into()
                }
            }));
        }
        Ok(mapping)
    }

    /// From names such as `train_audio`, `audio_train`, `train/audio.npy`, `features/train/audio`.
    fn guessed(store: &Store) -> Option<BTreeMap<(SplitName, &'static str), String>> {
        let mut found: BTreeMap<(SplitName, &'static str), (bool, String)> = BTreeMap::new();
        for name in store.names() {
            let bare = name.strip_suffix(".npy").unwrap_or(&name);
            // Names may be nested in others, of folders, groups or dicts.
            let inner = bare.match_indices(['/', '.']).map(|(at, _)| &bare[at + 1..]);
            let Some((split, field, own)) = std::iter::once(bare).chain(inner).find_map(both)
            else {
                continue;
            };
            // A field by its own name goes before one that only may be it, and of those the first.
            let other = found.get(&(split, field));
            if other.is_none_or(|(exact, _)| own == field && !exact) {
                found.insert((split, field), (own == field, name.clone()));
            }
        }
        let found = found.into_iter().map(|(both, (_, name))| (both, name));
        Some(found.collect()).filter(|found: &BTreeMap<_, _>| !found.is_empty())
    }
}

/// The split and the field of a name that has both, in either order, and what the field is called in it.
fn both(name: &str) -> Option<(SplitName, &'static str, &str)> {
    let marks = ['/', '.', '_', '-'];
    let parts = |at: usize| (&name[..at], &name[at + 1..]);
    let first = name.find(marks).map(parts);
    let last = name.rfind(marks).map(parts).map(|(field, split)| (split, field));
    [first, last]
        .into_iter()
        .flatten()
        .find_map(|(split, field)| Some((SplitName::known_as(split)?, any_named(field)?, field)))
}

/// Reads the columns that a mapping names.
pub(super) fn read(
    store: &Store,
    mapping: Option<&Mapping>,
    budget: &mut Budget,
) -> std::result::Result<Table, Fault> {
    let mut table = Table::default();
    match mapping {
        None => {
            let found = Mapping::guessed(store).ok_or_else(|| {
                let names = store.names();
                let shown = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
                Fault::new(format!(
                    "no array is named like train_audio or train/audio.npy (there are: {shown}); \
                     say which is which with --map MAP.toml (modalign import --help shows one)"
                ))
            })?;
            for name in store.names() {
                if !found.values().any(|used| *used == name) {
                    table.left.push(name);
                }
            }
            for ((split, field), name) in found {
                let notes = &mut table.notes;
                let column = store.load(&name, TEXTS.contains(&field), budget, notes)?;
                table.splits[split.index()].insert(field, column);
            }
        }
        Some(mapping) => match &mapping.split {
            Some(source) => all_rows(store, mapping, source, &mut table, budget)?,
            None => {
                for split in SplitName::ALL {
                    let notes = &mut table.notes;
                    table.splits[split.index()] = one_split(store, mapping, split, budget, notes)?;
                }
            }
        },
    }
    for split in SplitName::ALL {
        empty_rows(split.name(), &mut table.splits[split.index()], &mut table.notes);
    }
    match table.splits.iter().all(|fields| fields.is_empty()) {
        true => Err(Fault::new("none of the files that the mapping names is there")),
        false => Ok(table),
    }
}

/// The fields of a mapping, by our names; those with a file for each sample last, since they need
/// the ids.
fn sorted(mapping: &Mapping) -> Vec<(&'static str, &str)> {
    let mut fields: Vec<(&'static str, &str)> = mapping
        .fields
        .iter()
        .filter_map(|(field, source)| Some((any_named(field)?, source.as_str())))
        .collect();
    fields.sort_by_key(|(_, source)| source.contains("{id}"));
    fields
}

/// A split whose files have its name.
fn one_split(
    store: &Store,
    mapping: &Mapping,
    split: SplitName,
    budget: &mut Budget,
    notes: &mut Vec<String>,
) -> std::result::Result<Fields, Fault> {
    let spellings: &[&str] = match split {
        SplitName::Train => &["train", "training"],
        SplitName::Valid => &["valid", "val", "dev", "validation"],
        SplitName::Test => &["test", "testing"],
    };
    let mut fields = Fields::new();
    let named = |source: &str| {
        let mut names = spellings.iter().map(|name| source.replace("{split}", name));
        names.find(|name| store.has(name))
    };
    let sources = sorted(mapping);
    if !sources
        .iter()
        .any(|(_, s)| s.contains("{split}") && !s.contains("{id}") && named(s).is_some())
    {
        return Ok(fields);
    }
    for (field, source) in sources {
        let column = match source.contains("{id}") {
            true => {
                let spelled = spellings.iter().map(|name| source.replace("{split}", name));
                sequences(store, source, &spelled.collect::<Vec<_>>(), ids(&fields)?, notes)?
            }
            false => {
                // Where none is there, the message names the first spelling.
                let name = named(source).unwrap_or_else(|| source.replace("{split}", spellings[0]));
                store.load(&name, TEXTS.contains(&field), budget, notes)?
            }
        };
        fields.insert(field, column);
    }
    Ok(fields)
}

/// All splits in each file, told apart by a column.
fn all_rows(
    store: &Store,
    mapping: &Mapping,
    source: &str,
    table: &mut Table,
    budget: &mut Budget,
) -> std::result::Result<(), Fault> {
    let Column::Texts(names) = store.load(source, true, budget, &mut table.notes)? else {
        return Err(Fault::new("no column of split names").within(source));
    };
    let mut picked: [Vec<u32>; 3] = Default::default();
    let mut other = 0;
    for (row, name) in names.iter().enumerate() {
        match SplitName::known_as(name) {
            Some(split) => picked[split.index()].push(row as u32),
            None => other += 1,
        }
    }
    if other > 0 {
        table.notes.push(format!("{other} rows of {source} belong to none of train, valid, test"));
    }
    let picked = picked.map(Arc::new);
    for (field, source) in sorted(mapping) {
        if source.contains("{id}") {
            for split in SplitName::ALL {
                let fields = &mut table.splits[split.index()];
                if !picked[split.index()].is_empty() {
                    let (all, notes) = ([source.to_string()], &mut table.notes);
                    let column = sequences(store, source, &all, ids(fields)?, notes)?;
                    fields.insert(field, column);
                }
            }
            continue;
        }
        let column = store.load(source, TEXTS.contains(&field), budget, &mut table.notes)?;
        if column.rows() != names.len() {
            return Err(Fault::new(format!(
                "{} rows where the splits have {}; every file needs the same rows",
                column.rows(),
                names.len()
            ))
            .within(source));
        }
        for split in SplitName::ALL {
            let rows = &picked[split.index()];
            if rows.is_empty() {
                continue;
            }
            let own = match &column {
                Column::Texts(texts) => {
                    Column::Texts(rows.iter().map(|row| texts[*row as usize].clone()).collect())
                }
                Column::Array(array) => {
                    let mut array = array.clone();
                    array.picked = Some(rows.clone());
                    Column::Array(array)
                }
                Column::Ragged(arrays) => {
                    Column::Ragged(rows.iter().map(|row| arrays[*row as usize].clone()).collect())
                }
            };
            table.splits[split.index()].insert(field, own);
        }
    }
    Ok(())
}

fn ids(fields: &Fields) -> std::result::Result<&[String], Fault> {
    match fields.get("id") {
        Some(Column::Texts(ids)) => Ok(ids),
        _ => Err(Fault::new("a name with {id} needs the field `id`; map it, too")),
    }
}

/// A file for each sample, in one of the spellings of its split.
fn sequences(
    store: &Store,
    source: &str,
    sources: &[String],
    ids: &[String],
    notes: &mut Vec<String>,
) -> std::result::Result<Column, Fault> {
    let (mut arrays, mut lines, mut all) = (Vec::with_capacity(ids.len()), 0, Said::default());
    for id in ids {
        if id.split(['/', '\\']).any(|part| part == "..") || id.starts_with('/') {
            return Err(Fault::new(format!("id '{id}' leads out of the folder; rename it")));
        }
        let names: Vec<String> = sources.iter().map(|s| s.replace("{id}", id)).collect();
        let name = names.iter().find(|name| store.has(name)).or(names.first());
        let name = name.map_or("", String::as_str);
        let (array, said) = store.sequence(name)?;
        if arrays.is_empty() {
            all = Said { failed: 0, ..said.clone() };
        } else if said.names != all.names {
            return Err(Fault::new(format!(
                "its columns are called {} where those of the first sample, '{}', are {}; extract all \
                 with the same settings, or choose columns by name",
                called(&said),
                ids[0],
                called(&all)
            ))
            .within(name));
        }
        all.failed += said.failed;
        lines += if array.shape[0] == 0 { said.failed } else { array.shape[0] };
        arrays.push(array);
    }
    all_empty(&arrays).map_err(|fault| fault.within(source))?;
    notes.extend(all.notes(source, lines));
    Ok(Column::Ragged(arrays))
}

/// The columns of a table, as a message names them.
fn called(said: &Said) -> String {
    match &said.names {
        None => "nothing: the first line is of numbers".into(),
        Some(names) => listed(names.iter().map(String::as_str)),
    }
}
