//! The public interface, item by item, so that no change of it goes unseen: a change shows here and
//! in the diff of `tests/fixtures/api.txt`, and belongs in CHANGELOG.md.
//!
//! `UPDATE_API=1 cargo test --test engine api::` writes the list anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Rooms whose items are not for others: the command line's.
const PRIVATE: [&str; 2] = ["src/cli", "src/main.rs"];

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

/// The public items of a file: each from `pub` to its body or end, on one line, after the type whose
/// `impl` it stands in.
fn items(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut owner = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        // Unit tests stand at the end of a file.
        if line.starts_with("#[cfg(test)]") && lines.peek().is_some_and(|l| l.starts_with("mod ")) {
            break;
        }
        if let Some(rest) = line.strip_prefix("impl") {
            owner = rest.trim_end_matches(['{', ' ']).trim().to_string();
        } else if line.starts_with("pub enum ") || line.starts_with("pub trait ") {
            let name = line.trim_end_matches(['{', ' ']);
            found.push(name.to_string());
            owner = name["pub ".len()..].to_string();
            continue;
        } else if line == "}" {
            owner.clear();
        }
        // Variants and the methods of a trait are as public as it is.
        let open = owner.starts_with("enum ") || owner.starts_with("trait ");
        if let Some(inner) = line.strip_prefix("    ").filter(|_| open) {
            if inner.starts_with(|c: char| c.is_ascii_uppercase()) || inner.starts_with("fn ") {
                let end = inner.trim_end_matches([',', '{', ' ', ';']);
                found.push(format!("{owner} :: {end}"));
            }
            continue;
        }
        let trimmed = line.trim();
        let doc_hidden = found.last().is_some_and(|f| f == "#[doc(hidden)]");
        if trimmed == "#[doc(hidden)]" {
            found.push(trimmed.to_string());
            continue;
        }
        if !trimmed.starts_with("pub ") {
            continue;
        }
        let mut item = trimmed.to_string();
        let field =
            !["fn", "struct", "enum", "trait", "const", "static", "type", "use", "mod", "unsafe"]
                .iter()
                .any(|word| item["pub ".len()..].starts_with(&format!("{word} ")));
        // A signature that runs over several lines ends where its body begins.
        while !field && !item.contains(['{', ';']) {
            let Some(next) = lines.next() else { break };
            item += " ";
            item += next.trim();
        }
        let grouped = item.starts_with("pub use") || item.starts_with("pub const");
        while grouped && !item.ends_with(';') {
            let Some(next) = lines.next() else { break };
            item += next.trim();
        }
        if !grouped {
            item.truncate(item.find('{').unwrap_or(item.len()));
        } else if let Some(at) = item.find(" = ") {
            item.truncate(at);
        }
        let item = item.trim_end_matches([';', ',', ' ']).replace("( ", "(").replace(", )", ")");
        if doc_hidden {
            found.pop();
            continue;
        }
        let owner = if owner.is_empty() { String::new() } else { format!("{owner} :: ") };
        found.push(format!("{owner}{item}"));
    }
    found
}

#[test]
fn the_public_interface_is_the_one_that_is_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(&root.join("src"), &mut all);
    let mut text = String::new();
    for path in all {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        if PRIVATE.iter().any(|p| name.starts_with(p)) {
            continue;
        }
        for item in items(&std::fs::read_to_string(&path).unwrap()) {
            text += &format!("{name}: {item}\n");
        }
    }
    let fixture = root.join("tests/fixtures/api.txt");
    if std::env::var_os("UPDATE_API").is_some() {
        std::fs::write(&fixture, &text).unwrap();
    }
    let known = std::fs::read_to_string(&fixture).unwrap();
    let (now, then): (BTreeSet<&str>, BTreeSet<&str>) =
        (text.lines().collect(), known.lines().collect());
    let gone: Vec<_> = then.difference(&now).map(|l| format!("- {l}")).collect();
    let new: Vec<_> = now.difference(&then).map(|l| format!("+ {l}")).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "the public interface has changed; if that is meant, tell of it in CHANGELOG.md and run \
         UPDATE_API=1 cargo test --test engine api::\n{}",
        [gone, new].concat().join("\n")
    );
    assert!(now.len() > 500, "the list is of the whole crate");
}

#[test]
fn the_reader_of_sources_reads_what_there_is() {
    let text = "pub struct A {\n    pub x: u32,\n    y: u32,\n}\n\nimpl A {\n    pub fn long(\n        \
                &self,\n        a: u32,\n    ) -> u32 {\n        0\n    }\n    #[doc(hidden)]\n    pub \
                fn secret(&self) {}\n    pub(crate) fn own() {}\n}\npub const N: usize = 3;\npub use \
                a::{\n    b, c,\n};\npub enum E {\n    /// Doc.\n    One(u32),\n    Two,\n}\n\n#[cfg(test)]\nmod tests {\n    pub fn no() {}\n}\n";
    assert_eq!(
        items(text),
        [
            "pub struct A",
            "pub x: u32",
            "A :: pub fn long(&self, a: u32) -> u32",
            "pub const N: usize",
            "pub use a::{b, c,}",
            "pub enum E",
            "enum E :: One(u32)",
            "enum E :: Two"
        ]
    );
}
