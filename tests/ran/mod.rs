//! What a run of the built command left: for tests from outside.

use std::process::Output;

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
