//! The built command from outside: a folder to run it in, and what a run left.

// Every test file uses its own part.
#![allow(dead_code)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A failure is one line on stderr, nothing on stdout, and the exit status that is wanted.
pub fn fails(ran: Ran, code: i32, words: &[&str]) {
    let errors: Vec<&str> = ran.err.lines().filter(|l| !l.starts_with("warning:")).collect();
    assert_eq!(ran.code, Some(code), "{}{}", ran.out, ran.err);
    assert_eq!((ran.out.as_str(), errors.len()), ("", 1), "{} {}", ran.out, ran.err);
    assert!(errors[0].starts_with("error: "), "{}", ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no '{word}' in: {}", ran.err);
    }
}

/// Makes the small data set that most tests are content with.
pub const SMALL: &str = "synth --out small.safetensors --train 128 --valid 32 --test 40 \
                         --audio steps=6,min_steps=2 --vision steps=5,min_steps=2";

/// A folder for the tests of one file, empty when they begin, and the command in it.
pub struct Place {
    root: PathBuf,
}

impl Place {
    pub fn fresh(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).expect("a folder");
        Place { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The command with these words, not with the caller's cache and log settings.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modalign"));
        command.args(line.split_whitespace()).current_dir(&self.root);
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        command.env_remove("RUST_LOG");
        command
    }

    pub fn run(&self, line: &str) -> Ran {
        self.command(line).output().expect("runs").into()
    }

    /// Runs a command that must succeed, and gives its stdout.
    pub fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        ran.out
    }

    /// The same, where that is one JSON value.
    pub fn json(&self, line: &str) -> Value {
        let out = self.ok(line);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{line}: {e}: {out}"))
    }
}
