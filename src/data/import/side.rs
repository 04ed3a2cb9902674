//! The side file of an import: where the data came from, and its strings.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::convert::Plan;
use crate::data::SplitName;
use crate::error::Result;
use crate::files::write_atomic_with;

#[derive(Serialize)]
struct Source<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Source(Source<'a>),
    Split(&'a BTreeMap<&'static str, Vec<String>>),
    Names(&'a [String]),
}

/// Writes `NAME.json` beside `out`, always: an older one would be of other rows.
pub(super) fn write(
    plan: &Plan,
    out: &Path,
    file: &str,
    sha256: Option<&str>,
    published: Option<&str>,
) -> Result<()> {
    let mut root = Vec::new();
    root.push(("source", Entry::Source(Source { file, sha256, published })));
    for name in SplitName::ALL {
        let texts = &plan.texts[name.index()];
        if !texts.is_empty() {
            root.push((name.name(), Entry::Split(texts)));
        }
    }
    root.extend(plan.names.iter().map(|(key, names)| (key.as_str(), Entry::Names(names))));
    write_atomic_with(out.with_extension("json"), |out| {
        use serde::Serializer;
        let mut json = serde_json::Serializer::new(&mut *out);
        json.collect_map(root.iter().map(|(key, entry)| (key, entry))).map_err(io::Error::other)?;
        out.write_all(b"\n")
    })
}
