//! The commands that are shown to readers, in the documents and in the help, held against the
//! program: each must start as it is printed, and each file that it names must be there.

use super::{Cli, EXAMPLES};
use crate::recipe::{Config, MODELS};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::path::Path;
use std::process::Command;

/// Documents with commands in them, and the fewest of ours that each shows.
const DOCUMENTS: [(&str, usize); 4] = [
    ("README.md", 20),
    ("CONTRIBUTING.md", 1),
    ("benches/PLAYGROUND.md", 1),
    ("benches/peers/README.md", 0),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a document's shell blocks, which are whole commands, and the pieces of code in its
/// text that are commands of ours with options, which may leave out what the text is not about.
fn commands_of(text: &str) -> Vec<(String, bool)> {
    let (mut found, mut prose) = (Vec::new(), String::new());
    let (mut shell, mut other) = (false, false);
    for line in text.lines() {
        match (line.strip_prefix("```"), shell, other) {
            (Some(_), true, _) => shell = false,
            (Some(_), _, true) => other = false,
            (Some(kind), ..) => (shell, other) = (kind.trim() == "sh", kind.trim() != "sh"),
            (None, true, _) => found.push((line.to_string(), true)),
            (None, _, true) => {}
            // A piece of code may go on in the next line.
            (None, ..) => prose = prose + line + if line.is_empty() { "\n" } else { " " },
        }
    }
    let pieces = prose.lines().flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    let ours = pieces.filter(|p| p.starts_with("modalign ") && p.contains(" --"));
    found.extend(ours.map(|piece| (piece.to_string(), false)));
    found
}

/// The commands of a line of shell, each as its words: quotes hold words together, a `#` ends the
/// line, and variables that are set for a command are no part of it.
fn words(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut word, mut quote): (Vec<Vec<String>>, Option<String>, _) =
        (vec![Vec::new()], None, None);
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | '|' | '&' | ';') => {
                if let (Some(word), Some(command)) = (word.take(), all.last_mut()) {
                    let set = word.split_once('=').is_some_and(|(name, _)| {
                        name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                    });
                    if !command.is_empty() || !set {
                        command.push(word);
                    }
                }
                if c != ' ' {
                    all.push(Vec::new());
                }
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    all.retain(|command| !command.is_empty());
    all
}

/// What is wrong with a command of ours: words that the parser does not take, or a setting that there
/// is not. A command that is not shown whole may lack words.
fn wrong(command: &[String], whole: bool) -> Option<String> {
    // One letter stands for a number of the reader's.
    let given = command.iter().map(|w| if w == "S" { "1" } else { w });
    match Cli::try_parse_from(given) {
        Err(problem) if !whole && problem.kind() == ErrorKind::MissingRequiredArgument => {}
        Err(problem) if problem.use_stderr() => return Some(problem.to_string()),
        _ => {}
    }
    // `--model` names a model as `--set` does, unless it is the place of a trained one.
    let models = MODELS.iter().map(|entry| entry.name);
    let model = |pair: &&[String]| pair[0] == "--model" && models.clone().any(|m| m == pair[1]);
    let named = command.windows(2).find(model).map(|pair| format!("model.name={}", pair[1]));
    let settings = command.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone());
    let settings: Vec<String> = named.into_iter().chain(settings).collect();
    Config::build("mosi", None, &settings).err().map(|e| e.to_string())
}

/// Files that a command names and that are not there, in a checkout of this crate.
fn missing(command: &[String]) -> Vec<String> {
    let top = ["benches/", "examples/", "shaders/", "src/", "tests/", ".ci/"];
    let mut named: Vec<String> = command
        .iter()
        .filter(|w| top.iter().any(|t| w.starts_with(t)) && !w.starts_with("benches/peers/target"))
        .cloned()
        .collect();
    if let [program, script, ..] = command
        && ["sh", "python", "python3"].contains(&program.as_str())
        && !script.starts_with('-')
    {
        named.push(script.clone());
    }
    for pair in command.windows(2) {
        let folder = match pair[0].as_str() {
            "--test" => "tests",
            "--bench" => "benches",
            "--example" => "examples",
            _ => continue,
        };
        let (file, module) = (format!("{folder}/{}.rs", pair[1]), format!("{folder}/{}", pair[1]));
        named.push(if root().join(&file).exists() { file } else { format!("{module}/main.rs") });
    }
    named.retain(|name| !root().join(name).exists());
    named
}

#[test]
fn commands_in_the_documents_start_as_they_are_printed() {
    let mut problems = Vec::new();
    for (name, fewest) in DOCUMENTS {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        let mut ours = 0;
        for (line, whole) in commands_of(&text) {
            for command in words(&line) {
                let lost = missing(&command);
                problems.extend(lost.iter().map(|file| format!("{name}: {line}: no file {file}")));
                if command[0] == "modalign" {
                    ours += 1;
                    let why = wrong(&command, whole);
                    problems.extend(why.map(|why| format!("{name}: {line}: {why}")));
                }
            }
        }
        assert!(ours >= fewest, "{name}: only {ours} commands were found");
        // And what it links to.
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let folder = root().join(name).parent().map(Path::to_path_buf).unwrap_or_default();
            if !link.contains("://") && !folder.join(file).exists() {
                problems.push(format!("{name}: no file {link}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn examples_in_the_help_start_as_they_are_printed() {
    let cli = Cli::command();
    let texts = cli.get_subcommands().filter_map(|verb| verb.get_after_help());
    let texts: Vec<String> = texts.map(ToString::to_string).chain([EXAMPLES.into()]).collect();
    let mut seen = 0;
    for line in texts.iter().flat_map(|t| t.lines()).map(str::trim) {
        // What a command does is said behind it, after some room.
        let command = line.split("   ").next().unwrap_or_default();
        let command = command.split(" > ").next().unwrap_or_default();
        if command.starts_with("modalign ") && !command.contains('$') && !command.contains('{') {
            seen += 1;
            let problem =
                words(command).iter().find(|c| c[0] == "modalign").and_then(|c| wrong(c, true));
            assert_eq!(problem, None, "{line}");
        }
    }
    assert!(seen > 30, "only {seen} examples were found");
}

#[test]
fn what_does_not_start_is_found() {
    let first = |line: &str| words(line).remove(0);
    let verdict = |line: &str| wrong(&first(line), true);
    assert_eq!(verdict("modalign train --data 'a b.safetensors' --seed S # so"), None);
    assert!(verdict("modalign trian --data a").unwrap().contains("'trian'"));
    assert!(verdict("modalign train").unwrap().contains("--data"));
    assert_eq!(wrong(&first("modalign eval --robustness"), false), None);
    assert!(wrong(&first("modalign eval --robustnes"), false).is_some());
    assert!(verdict("modalign train --data a --set align.dmi=3").unwrap().contains("align.dim"));
    assert_eq!(words("A=1 sh x.sh && modalign devices | head -2").len(), 3);
    assert_eq!(first("B=2 cargo test --test command")[0], "cargo");
    assert_eq!(missing(&first("sh examples/nothing.sh")), ["examples/nothing.sh"; 2]);
    assert_eq!(missing(&first("cargo test --test nothing")), ["tests/nothing/main.rs"]);
    assert!(missing(&first("sh tests/run.sh")).is_empty());
    let text = "a `modalign x\n--y` b\n```sh\nsh z\n```\n```rust\nno\n```\n`modalign report` and";
    assert_eq!(commands_of(text), [("sh z".into(), true), ("modalign x --y".into(), false)]);
}

/// The peers are built only when somebody measures; that their lock is of this crate's dependencies
/// is seen without building anything.
#[test]
fn the_peers_would_build_as_they_are_locked() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = root().join("benches/peers/Cargo.toml");
    let mut command = Command::new(cargo);
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    let output = command.arg(manifest).current_dir(root()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let how = "after a change of dependencies: cargo update --workspace --manifest-path \
               benches/peers/Cargo.toml";
    assert!(output.status.success(), "{said}\n{how}");
}
